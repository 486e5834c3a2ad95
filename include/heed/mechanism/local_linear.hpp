// SPDX-License-Identifier: BSD-3-Clause
// Attention as a local regression: for every query the values are fitted by a plane around it, and the plane's height at the query is the answer. Zuo et al., arXiv:2510.01450:
//
//   w_j = e^(s q.k_j)    z_j = k_j - q    S = sum w z z^T + lambda I    mu = sum w z    rho = S^-1 mu
//   out = sum_j w_j (1 - z_j.rho) v_j / sum_j w_j (1 - z_j.rho)                               local_linear_attention(order, ridge{lambda})
//
// and with a learned r in place of rho (Parallax): p = softmax(s q.k), t_j = r.k_j, out = sum_j p_j (1 + sum_l p_l t_l - t_j) v_j    parallax_attention(r, order)
//
// Every query solves its own system, by conjugate gradients whose products are sweeps over the keys, so that S is never written down: O(N M (d + dv)) a sweep, at most 2 d + 8 of them,
// memory of a tile. Gradients by a second system with the same S (implicit differentiation), not through the iterations.
// lambda: ridge{lambda} stands beside the weights as they are; relative_ridge{lambda} beside weights whose largest is 1, which does not depend on the size of scores.
// Laws: lambda to infinity is softmax attention; one key gives its value; values that are a plane of the keys are continued beyond them as lambda goes to 0. Weights sum to 1 and may be negative.
// Numbers: with lambda near 0 and fewer keys than d + 1 both sums go to 0 together; 16 bits are for storage only.
#pragma once

#include <heed/family/local_linear.hpp>

namespace heed {

template <class P = full, class R = ridge>
HEED_HD constexpr local_linear<P, R> local_linear_attention(P order = {}, R penalty = {}, double scale = 0) {
    return {order, penalty, scale};
}

template <class E, class P = causal_bottom_right>
HEED_HD constexpr parallax<std::remove_const_t<E>, P> parallax_attention(tensor_view<E> r, P order = {}, double scale = 0) {
    return {r, order, scale};
}

} // namespace heed
