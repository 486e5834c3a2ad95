// SPDX-License-Identifier: BSD-3-Clause
// Rectified attention: out_i = 1/M sum_j max(q_i . k_j / sqrt(d), 0)^n v_j, n = 1 or 2. Wortsman et al., arXiv:2309.08586, eq. 2 with their alpha = 1:
// M is the length of the sequence, whatever the row sees. Other divisors: attention{..., pointwise<relu_weight, undivided | by_sum<> | by_visible>}.
#pragma once

#include <heed/family/pairwise.hpp>
#include <heed/policy/normalize/pointwise.hpp>

namespace heed {

template <class P = full>
HEED_HD constexpr auto relu_attention(P pattern = {}) {
    return attention{dot{} | inv_sqrt_width{}, pattern, pointwise<relu_weight, by_keys>{}};
}
template <class P = full>
HEED_HD constexpr auto squared_relu_attention(P pattern = {}) {
    return attention{dot{} | inv_sqrt_width{}, pattern, pointwise<squared_relu_weight, by_keys>{}};
}

} // namespace heed
