// SPDX-License-Identifier: BSD-3-Clause
#include "forward_call.cuh"

HEED_FORWARD_ON_GPU(heed_test::on_gpu::max_plus, float);
HEED_FORWARD_ON_GPU(heed_test::on_gpu::tropical, float);
HEED_FORWARD_ON_GPU(heed_test::on_gpu::neural, heed::bf16);
