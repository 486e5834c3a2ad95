// SPDX-License-Identifier: BSD-3-Clause
// Convolutions as long as the sequence, by transforms: O(N log N d) whatever the number of taps. Taps z are (1, 1, K, d), one filter a channel, or (1, H, K, 1).
//
//   causal_long_convolution()      out_i = sum_(t <= i) z_t v_(i - t)                      the Hyena operator's filter; K of any length
//   centred_long_convolution(n)    out_i = sum_t z_t v_(i + n / 2 - t)                     its non-causal form (ConfHyena): tap n / 2 is the token itself, tap 0
//                                  looks n / 2 tokens ahead; n is each sequence's own length, so sequences of different lengths are calls of their own
//   oversized_convolution(n)       out_i = sum_t z_t v_(i + t - (n - 1)), K = 2 n - 1      ParCNetV2: zeros outside, tap n - 1 is the token itself
//
// Token by token: make_stream and step (heed/front/convolution_stream.hpp), the causal form only. With the gates around them: heed/mechanism/hyena.hpp and
// heed/mechanism/parc.hpp. Sources: Hyena, arXiv:2302.10866; ConfHyena, arXiv:2402.13208; ParCNetV2, arXiv:2211.07157.
#pragma once

#include <heed/family/spectral.hpp>

namespace heed {

HEED_HD constexpr auto causal_long_convolution() { return spectral{unwrapped{}, convolution{}}; }
HEED_HD constexpr auto centred_long_convolution(extent_t length) { return spectral{unwrapped{length / 2}, convolution{}}; }
HEED_HD constexpr auto oversized_convolution(extent_t length) { return spectral{unwrapped{length - 1}, correlation{}}; }

} // namespace heed
