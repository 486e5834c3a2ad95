// SPDX-License-Identifier: BSD-3-Clause
// Sigmoid keeps no number of a row.
// expect: heed: this normalizer keeps no number of a row (its weights do not depend on the other keys); there is nothing to save
#include "call.hpp"

int main() {
#ifdef HEED_BAD
    heed::forward(heed::sigmoid_attention(), q, k, v, out, heed::save{view<float>(3)});
#else
    heed::forward(heed::sigmoid_attention(), q, k, v, out);
#endif
}
