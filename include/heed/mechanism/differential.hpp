// SPDX-License-Identifier: BSD-3-Clause
// Differential attention: out = (softmax(q k / sqrt(d)) - lambda_h softmax(q' k' / sqrt(d))) v. Ye et al., arXiv:2410.05258, eq. 1; q, k are those of the call,
// q', k' views that the mechanism holds. Their heads usually interleave: pass strided views of the even and the odd ones. lambda = e^{a.b} - e^{c.d} + l0, the
// norm of the heads and the factor 1 - l0 belong to the layer around it.
#pragma once

#include <heed/family/mixture.hpp>

namespace heed {

template <class T, class U, class P = full>
HEED_HD constexpr auto differential_attention(tensor_view<T> lambda, tensor_view<U> q, tensor_view<U> k, P pattern = {}) {
    attention const base{dot{} | inv_sqrt_width{}, pattern, softmax{}};
    return weigh(as_is{}, base) + weigh(head_factor{lambda, -1}, also{base, q, k});
}

} // namespace heed
