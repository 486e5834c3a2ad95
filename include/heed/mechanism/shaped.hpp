// SPDX-License-Identifier: BSD-3-Clause
// Shaped attention: A = alpha I + beta softmax(q k / sqrt(d)) - gamma C, per head, C the uniform weights over what a row sees. Noci et al., arXiv:2306.17759,
// with the three numbers of He and Hofmann, arXiv:2311.01906. I stands at the query's own place, rows aligned bottom right, also for N != M.
// Rows sum to alpha + beta - gamma. With equal scores, all three 1: out = v. C V is a running mean: nothing of size N M.
#pragma once

#include <heed/family/mixture.hpp>

namespace heed {

template <class T, class P = full>
HEED_HD constexpr auto shaped_attention(tensor_view<T> alpha, tensor_view<T> beta, tensor_view<T> gamma, P pattern = {}) {
    return weigh(head_factor{alpha}, own_value{}) + weigh(head_factor{beta}, attention{dot{} | inv_sqrt_width{}, pattern, softmax{}}) +
           weigh(head_factor{gamma, -1}, visible_mean{pattern});
}

} // namespace heed
