// SPDX-License-Identifier: BSD-3-Clause
// There are no kernels for integers.
// expect: heed: elements are float, double, heed::bf16 or heed::fp16
#include "call.hpp"

int main() {
#ifdef HEED_BAD
    heed::forward(heed::softmax_attention(), view<int>(0), view<int>(1), view<int>(2), view<int>(3));
#else
    heed::forward(heed::softmax_attention(), view<double>(0), view<double>(1), view<double>(2), view<double>(3));
#endif
}
