// SPDX-License-Identifier: BSD-3-Clause
// A vector has no shape.
// expect: heed: this type is not a tensor; pass a heed::tensor_view, an mdspan of rank 4, an Eigen matrix
#include "call.hpp"

#include <vector>

int main() {
#ifdef HEED_BAD
    heed::forward(heed::softmax_attention(), std::vector<float>(1), k, v, out);
#else
    heed::forward(heed::softmax_attention(), q, k, v, out);
#endif
}
