// SPDX-License-Identifier: BSD-3-Clause
// heed: attention kernels. Everything for the CPU: doors, mechanisms, policies.
#pragma once

#include <heed/core.hpp>
#include <heed/front/attention.hpp>
#include <heed/front/averaged_key.hpp>
#include <heed/front/backward.hpp>
#include <heed/front/decode.hpp>
#include <heed/front/edge.hpp>
#include <heed/front/merge.hpp>
#include <heed/front/mixture.hpp>
#include <heed/front/mixture_backward.hpp>
#include <heed/front/recurrent_backward.hpp>
#include <heed/front/rotate.hpp>
#include <heed/front/semiring_matmul.hpp>
#include <heed/front/spectral.hpp>
#include <heed/front/spectral_backward.hpp>
#include <heed/front/step.hpp>
#include <heed/front/valuate.hpp>
#include <heed/mechanism/averaged_key.hpp>
#include <heed/mechanism/circular.hpp>
#include <heed/mechanism/delta_rule.hpp>
#include <heed/mechanism/differential.hpp>
#include <heed/mechanism/gated.hpp>
#include <heed/mechanism/gated_linear.hpp>
#include <heed/mechanism/graph.hpp>
#include <heed/mechanism/linear.hpp>
#include <heed/mechanism/long_convolution.hpp>
#include <heed/mechanism/off_by_one.hpp>
#include <heed/mechanism/proportional.hpp>
#include <heed/mechanism/rectified.hpp>
#include <heed/mechanism/shaped.hpp>
#include <heed/mechanism/sigmoid.hpp>
#include <heed/mechanism/softmax.hpp>
#include <heed/mechanism/sparse.hpp>
#include <heed/mechanism/spherical.hpp>
#include <heed/mechanism/tropical.hpp>
