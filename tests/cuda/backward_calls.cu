// SPDX-License-Identifier: BSD-3-Clause
#include "backward_call.cuh"

HEED_BACKWARD_ON_GPU(heed_test::on_gpu::causal, float);
HEED_BACKWARD_ON_GPU(heed_test::on_gpu::bent, heed::fp16);
HEED_BACKWARD_ON_GPU(heed_test::on_gpu::sparse, float);
