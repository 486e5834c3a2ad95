// SPDX-License-Identifier: BSD-3-Clause
// Aaren: softmax attention of one learned query a head over every prefix, all of them at once. Feng et al., arXiv:2405.13956:
//
//   s_t = scale q.k_t      out_t = sum_(j <= t) e^(s_j) v_j / sum_(j <= t) e^(s_j)
//
// Time O(N (d + dv)), memory of the state (m, u, w) = (largest score, sum of e^(s - m), sum of e^(s - m) v): 2 + dv numbers a head. Laws: the last row is softmax attention over
// all keys; equal scores give the running mean; a sequence cut in pieces, the state passed on, is the whole (so a step is a call with one token).
// Numbers: the state is rescaled whenever its largest score rises, never by sums of exponentials of all scores at once; a score of -inf (a key of -inf) is the identity of the
// scan and its value is not read. Rows before any score above -inf are 0.
#pragma once

#include <heed/family/prefix.hpp>

namespace heed {

HEED_HD constexpr prefix_attention aaren_attention(double scale = 0) { return {scale}; }

} // namespace heed
