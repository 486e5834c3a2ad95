// SPDX-License-Identifier: BSD-3-Clause
// Linear attention: softmax's exponential replaced by f(q).f(k), so that sums over keys become one state of d x dv numbers. Katharopoulos et al.,
// arXiv:2006.16236:   o_i = f(q_i)^T sum_{j <= i} f(k_j) v_j^T / (f(q_i).sum_{j <= i} f(k_j) + eps)
// Time O(N (64 d + d dv)), state d (dv + 1). linear_attention(order) is the paper's; linear_attention_raw leaves out the denominator (a norm of the output
// usually takes its place). With order full{} every query reads all keys. Equal keys give the running mean.
#pragma once

#include <heed/family/recurrent.hpp>

namespace heed {

template <class P = causal_bottom_right, class F = elu_plus_one>
HEED_HD constexpr recurrent<F, additive_update, running_sum, P> linear_attention(P order = {}, F feature = {}, double eps = 1e-6) {
    return {feature, {}, {eps}, order, 1};
}
template <class F = identity_map, class P = causal_bottom_right>
HEED_HD constexpr recurrent<F, additive_update, unnormalized, P> linear_attention_raw(double scale = 1, F feature = {}, P order = {}) {
    return {feature, {}, {}, order, scale};
}
// Based: weights 1 + x + x^2/2, x = q.k / sqrt(d), always positive. Arora et al., arXiv:2402.18668. Meant for d of 16 or so: the state has 1 + d + d (d + 1) / 2 rows.
HEED_HD constexpr recurrent<series_map, additive_update, running_sum> based_attention(double eps = 1e-6) { return {taylor_map(), {}, {eps}, {}, 1}; }
// Rebased: weights x^2. Aksenov et al., arXiv:2402.10644
HEED_HD constexpr recurrent<series_map, additive_update, running_sum> rebased_attention(double eps = 1e-6) { return {square_map(), {}, {eps}, {}, 1}; }

// FAST, and the expansion of softmax into recurrences cut after order 1 or 2: weights 1 + x or 1 + x + x^2/2, x = scale q.k (scale 0 stands for 1 / sqrt(d)), a state of 1 + d (+ d (d + 1) / 2)
// rows: the moments of the keys. Order 2 is at least 1/2 whatever x; order 1 needs |x| < 1, so that rows of q and k should be divided by their largest length, which is the caller's.
// Gerami et al., arXiv:2402.07901; Mongaras and Larson, arXiv:2507.23632 (order n to infinity is softmax attention).
template <class P = causal_bottom_right>
HEED_HD constexpr recurrent<series_map, additive_update, running_sum, P> moment_attention(int highest, P order = {}, double scale = 1, double eps = 0) {
    return {{1, 1, highest > 1 ? 0.5 : 0, scale}, {}, {eps}, order, 1};
}

// A denominator that is learned from the token in place of the sum: o_t = scale e^(-n_t) q_t^T S_t, n (B, H, N, 1), positive whatever q and k. arXiv:2405.15731 (normalised attention).
template <class T, class P = causal_bottom_right>
HEED_HD constexpr recurrent<identity_map, additive_update, learned_denominator<std::remove_const_t<T>>, P> normalised_linear_attention(tensor_view<T> n, double scale = 1, P order = {}) {
    return {{}, {}, {n}, order, scale};
}

// Efficient attention: softmax(q) over features times the means of values under softmax(k) over positions, one a channel; no scale. Shen et al., arXiv:1812.01243
template <class P = full>
HEED_HD constexpr recurrent<softmax_map, additive_update, position_softmax, P> efficient_attention(P order = {}) {
    return {{}, {}, {}, order, 1};
}

// Performer: softmax's exponential estimated by positive features of a projection P (1, 1, r, d), drawn by draw_projection(seed, P); the error falls as 1 / sqrt(r). Choromanski et al.,
// arXiv:2009.14794. Keys are held in range by the largest of all of them; steps need a known number instead: performer_attention(P, causal_bottom_right{}, fixed_peak{m}).
template <class T, class P = full, class S = peak_of_keys>
HEED_HD constexpr recurrent<positive_random_map<std::remove_const_t<T>, S>, additive_update, running_sum, P> performer_attention(tensor_view<T> projection, P order = {}, S shared = {}) {
    return {{projection, 1e-4, shared}, {}, {0}, order, 1};
}

} // namespace heed
