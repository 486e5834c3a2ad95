// SPDX-License-Identifier: BSD-3-Clause
// Memory that learns while it reads: a linear map M (d x dv) trained on |M^T k - v|^2 by gradient steps with momentum and forgetting, one a token. Titans, Behrouz et al.,
// arXiv:2501.00663:
//
//   S_t = eta_t S_{t-1} + 2 theta_t k_t (v_t - M^T k_t)^T      M_t = (1 - alpha_t) M_{t-1} + S_t      out_t = scale M_t^T q_t
//
// M in the gradient is M_{t-1} (chunk 0: the sequential rule, computed in chunks all the same), or that of the start of the token's chunk of `chunk` tokens, which is the paper's
// parallel rule and gives other numbers. theta, alpha, eta: views (B|1, H|1, N|1, 1); alpha and eta in [0, 1].
// Time O(N (C d + d dv)) for chunks of C, state 2 d dv. Laws: chunk 1 is the sequential rule; alpha = eta = 0, theta = beta / 2 is the delta rule; theta = 0 only forgets.
// Numbers: what a token still counts for later are sums of products of numbers in [0, 1], carried token by token: no ratio of cumulated products.
#pragma once

#include <heed/family/gradient_memory.hpp>

namespace heed {

template <class T, class U, class W>
HEED_HD constexpr gradient_memory<std::remove_const_t<T>> titans_memory(tensor_view<T> theta, tensor_view<U> alpha, tensor_view<W> eta, extent_t chunk = 0) {
    return {theta, alpha, eta, chunk, 1};
}

} // namespace heed
