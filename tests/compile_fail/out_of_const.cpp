// SPDX-License-Identifier: BSD-3-Clause
// A view of const cannot be the output.
// expect: heed: out is written; it must not be a view of const
#include "call.hpp"

int main() {
#ifdef HEED_BAD
    heed::forward(heed::softmax_attention(), q, k, v, heed::tensor_view<float const>(out));
#else
    heed::forward(heed::softmax_attention(), q, k, v, out);
#endif
}
