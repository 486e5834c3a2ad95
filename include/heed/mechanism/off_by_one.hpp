// SPDX-License-Identifier: BSD-3-Clause
// Softmax with one logit of 0 more in its denominator: out_i = sum_j e^{s_ij} v_j / (1 + sum_j e^{s_ij}), s_ij = q_i . k_j / sqrt(d): what zero keys and
// values in front of the sequence do (Gu et al., arXiv:2410.10781, K-bias with value 0). An empty row is 0.
#pragma once

#include <heed/family/pairwise.hpp>
#include <heed/policy/normalize/sink.hpp>

namespace heed {

template <class P = full>
HEED_HD constexpr auto off_by_one_attention(P pattern = {}) {
    return attention{dot{} | inv_sqrt_width{}, pattern, softmax_off_by_one{}};
}

} // namespace heed
