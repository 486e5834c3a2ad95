// SPDX-License-Identifier: BSD-3-Clause
// Sigmoid attention: out_i = sum_j sigmoid(q_i . k_j / sqrt(d) - ln M) v_j, no denominator. Ramapuram et al., arXiv:2409.04431, eq. 3 and section 3.
// A bias of one's own: attention{dot{} | inv_sqrt_width{} | offset{b}, pattern, sigmoid{}}. A masked pair weighs 0, not 1/2. An empty row is 0.
#pragma once

#include <heed/family/pairwise.hpp>
#include <heed/policy/normalize/pointwise.hpp>
#include <heed/policy/score/weighted_keys.hpp>

namespace heed {

using sigmoid = pointwise<sigmoid_weight>;

template <class P = full>
HEED_HD constexpr auto sigmoid_attention(P pattern = {}) {
    return attention{dot{} | inv_sqrt_width{} | minus_log_keys{}, pattern, sigmoid{}};
}

} // namespace heed
