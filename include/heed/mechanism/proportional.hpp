// SPDX-License-Identifier: BSD-3-Clause
// Proportional attention: out_i = sum_j f(s_ij) v_j / (sum_j f(s_ij) + eps) with s_ij = q_i . k_j / sqrt(d) and any positive weight f, for example
// softplus, elu + 1, sigmoid (Gu et al., arXiv:2410.10781: eps = 1e-8) or 1 + s + s^2/2 (Xue et al., arXiv:2510.11602). mean_attention: f = 1.
#pragma once

#include <heed/family/pairwise.hpp>
#include <heed/policy/normalize/pointwise.hpp>

namespace heed {

template <class F = elu_weight, class P = full>
HEED_HD constexpr auto proportional_attention(F f = {}, P pattern = {}, float eps = 1e-8f) {
    return attention{dot{} | inv_sqrt_width{}, pattern, pointwise<F, by_sum<float>>{f, {eps}}};
}
// The mean of the values that a row sees; q and k only by their sizes (and their NaN).
template <class P = full>
HEED_HD constexpr auto mean_attention(P pattern = {}) {
    return attention{dot{}, pattern, pointwise<uniform_weight, by_visible>{}};
}

} // namespace heed
