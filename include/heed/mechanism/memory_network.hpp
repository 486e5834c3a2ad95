// SPDX-License-Identifier: BSD-3-Clause
// Memories that are networks, trained on (key, value) by gradient steps while they read; gradients of a chunk's tokens are taken at the weights W0 of the chunk's start.
//
//   titans_network  f(W1^T x) W2, |f(k) - v|^2, with momentum and forgetting: S_t = eta_t S_{t-1} - theta_t grad_t(W0), W_t = (1 - alpha_t) W_{t-1} + S_t, out_t by W_t.
//                   Titans, Behrouz et al., arXiv:2501.00663; chunks of 1 are its sequential rule
//   ttt_linear      W^T x + b trained on normalised_residual, out_t = LN of W0 - eta_t sum_{s <= t} grad_s, read residually; the last token's step counts between chunks.
//                   Sun et al., arXiv:2407.04620. Keys and queries meet in the middle: scale belongs to the queries, not to the bias; 0 stands for 1 / sqrt(d)
//   titans_normalised  W^T x with momentum and forgetting, trained and read as ttt_linear, in the form of flash-linear-attention (policy/update/memory_goal.hpp, unbracketed)
//
// theta, alpha, eta: views (B|1, H|1, N|1, 1); alpha and eta in [0, 1]. Time O(N (C (d + h) + d h)) for chunks of C, h the hidden width; state W and S.
// Laws: chunks of 1 are steps; theta = 0 reads a fixed network; f = identity_map is a product of two maps.
#pragma once

#include <heed/family/memory_network.hpp>

#include <cmath>

namespace heed {

template <class T, class U, class W, class F = gelu_map>
constexpr memory_network<std::remove_const_t<T>, two_layers<F>, squared_error> titans_network(tensor_view<T> theta, tensor_view<U> alpha, tensor_view<W> eta, extent_t hidden, extent_t chunk = 16, F f = {}) {
    return {theta, alpha, eta, chunk, {hidden, f}, {}, 1};
}
template <class T, class U, class W>
constexpr memory_network<std::remove_const_t<T>, linear_network, normalised_residual<std::remove_const_t<T>>> ttt_linear(tensor_view<T> eta, tensor_view<U> weight, tensor_view<W> bias, extent_t chunk = 16, double eps = 1e-6,
                                                                                                                        double scale = 0) {
    return {eta, {}, {}, chunk, {true}, {weight, bias, eps, false}, scale};
}
template <class T, class U, class W, class X, class Y>
constexpr memory_network<std::remove_const_t<T>, linear_network, normalised_residual<std::remove_const_t<T>>> titans_normalised(tensor_view<T> theta, tensor_view<U> alpha, tensor_view<W> eta, tensor_view<X> weight, tensor_view<Y> bias,
                                                                                                                               extent_t chunk = 16, double eps = 1e-6) {
    return {theta, alpha, eta, chunk, {false}, {weight, bias, eps, true}, 1};
}

} // namespace heed
