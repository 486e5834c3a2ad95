// SPDX-License-Identifier: BSD-3-Clause
// Flow attention (Flowformer): linear attention in which what flows out of keys and into queries is conserved, without any softmax over pairs. Wu et al., arXiv:2202.06258.
// With f = sigmoid, e = eps, sums over all keys j and queries i:
//
//   I_i = 1 / ((f(q_i) + e).(sum_j f(k_j) + e))          O_j = 1 / ((f(k_j) + e).(sum_i f(q_i) + e))
//   C_i = (f(q_i) + e).(sum_j f(k_j) O_j + e)            D_j = clamp((f(k_j) + e).(sum_i f(q_i) I_i + e), -1, 1)
//   out_i = sigmoid(C_i N / M) I_i f(q_i)^T sum_j f(k_j) (M softmax_j(D)_j v_j)^T
//
// Causal (N = M, t counted from 1): every sum ends at the token itself, that of queries too; I and O are multiplied by t, C and D divided by it, the softmax is over the prefix
// and its weight multiplied by t, out_t = sigmoid(C_t) I_t / t f(q_t)^T S_t.
//
// It is linear attention with weights of keys and factors of rows (recurrent{f, weighted_update, row_factor}) after O(N d) for the flows. Laws: all tokens equal gives
// sigmoid(1) times the mean of the values, up to eps; a sequence cut in pieces is the whole, where the state goes along. No maximum is needed: D is in [-1, 1].
#pragma once

#include <heed/family/flow.hpp>

namespace heed {

template <class P = full>
HEED_HD constexpr flow<P> flow_attention(P order = {}, double eps = 1e-6) {
    return {order, eps, {}};
}

} // namespace heed
