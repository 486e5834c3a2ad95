// SPDX-License-Identifier: BSD-3-Clause
// heed on NVIDIA GPUs: with this header heed::forward(mechanism, q, k, v, out, heed::cuda{stream}) compiles, in files for nvcc (13, C++20,
// --expt-relaxed-constexpr; CMake: heed::cuda). heed.hpp stays free of CUDA.
#pragma once

#include <heed/core.hpp>
#include <heed/front/cuda.cuh>
#include <heed/mechanism/off_by_one.hpp>
#include <heed/mechanism/proportional.hpp>
#include <heed/mechanism/rectified.hpp>
#include <heed/mechanism/sigmoid.hpp>
#include <heed/mechanism/softmax.hpp>
#include <heed/mechanism/sparse.hpp>
#include <heed/mechanism/spherical.hpp>
#include <heed/mechanism/tropical.hpp>
