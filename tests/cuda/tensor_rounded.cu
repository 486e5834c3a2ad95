// SPDX-License-Identifier: BSD-3-Clause
#include "forward_call.cuh"

HEED_FORWARD_ON_GPU(heed_test::on_gpu::capped, float, heed::rounded_products);
