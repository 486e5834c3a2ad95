// SPDX-License-Identifier: BSD-3-Clause
// Float and double do not mix in one call.
// expect: heed: q, k, v and out must have the same element type
#include "call.hpp"

int main() {
#ifdef HEED_BAD
    heed::forward(heed::softmax_attention(), q, view<double>(1), v, out);
#else
    heed::forward(heed::softmax_attention(), q, k, v, out);
#endif
}
