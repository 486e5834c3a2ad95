// SPDX-License-Identifier: BSD-3-Clause
// heed: attention kernels. Everything for the CPU: doors, mechanisms, policies.
#pragma once

#include <heed/core.hpp>
#include <heed/front/attention.hpp>
#include <heed/front/backward.hpp>
#include <heed/front/merge.hpp>
#include <heed/mechanism/softmax.hpp>
