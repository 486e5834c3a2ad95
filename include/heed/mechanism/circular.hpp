// SPDX-License-Identifier: BSD-3-Clause
// CAT, circular-convolutional attention: one score z a token and head, w = softmax of z over the N tokens, and w mixes the values around a circle,
//
//   correlation   out_i = sum_t w_t v_((i + t) mod N)    row i of the weight matrix is w moved right by i: out_0 pools with each token's own weight
//   convolution   out_i = sum_t w_t v_((i - t) mod N)
//
// arXiv:2504.06704; statements of it are found in both orientations, so it is a type here. The rows of the matrix are exact softmaxes: the softmax of a
// circulant is the circulant of the softmax. O(N log N d). forward(circular_attention(), z, v, out), z (B, H, N, 1). Scores or values that are a table of
// positions (q-only, v-only) have batch 1. The averaged-key form: heed/mechanism/averaged_key.hpp.
#pragma once

#include <heed/family/spectral.hpp>

namespace heed {

template <class O = correlation>
HEED_HD constexpr auto circular_attention(O orientation = {}) {
    return spectral{wrapped{}, orientation, token_softmax{}};
}

// Strictly causal: each row's softmax is over its own prefix, out_i = sum_(t <= i) exp(z_t) v_(i - t) / sum_(t <= i) exp(z_t). A convolution: masking the
// correlation would weigh by scores of later tokens. O(N log N d) for scores of a bounded range, O(N log^2 N d) at worst. Token by token: make_stream and
// step (heed/front/prefix_stream.hpp), O(log^2 N d) each.
HEED_HD constexpr auto causal_circular_attention() { return spectral{unwrapped{}, convolution{}, prefix_softmax{}}; }

} // namespace heed
