// SPDX-License-Identifier: BSD-3-Clause
// Softmax attention: out_i = sum_j softmax_j(q_i . k_j / sqrt(d)) v_j over the pairs of a pattern. Vaswani et al., arXiv:1706.03762, eq. 1.
// Cost: 2 (d + dv) operations a pair. Memory: O(N dv) out, nothing of size N M. An empty row is 0.
#pragma once

#include <heed/family/pairwise.hpp>

namespace heed {

template <class P = full>
HEED_HD constexpr auto softmax_attention(P pattern = {}) {
    return attention{dot{} | inv_sqrt_width{}, pattern, softmax{}};
}

} // namespace heed
