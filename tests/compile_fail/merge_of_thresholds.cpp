// SPDX-License-Identifier: BSD-3-Clause
// A threshold of one part of the keys says nothing of the whole.
// expect: heed: merge needs a normalizer with merge and log_sum_exp; this one's rows do not combine from parts
#include "call.hpp"

int main() {
    heed::partial const a{heed::tensor_view<float const>(out), heed::save{view<float>(3)}}, b = a;
#ifdef HEED_BAD
    heed::merge(heed::sparsemax_attention(), a, b, heed::partial{out});
#else
    heed::merge(heed::softmax_attention(), a, b, heed::partial{out});
#endif
}
