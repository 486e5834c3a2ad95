// SPDX-License-Identifier: BSD-3-Clause
// What a backward engine is given: the mechanism, checked views, and where gradients go. Null views: not wanted.
#pragma once

#include <heed/engine/problem.hpp>
#include <heed/policy/score/pull.hpp>

namespace heed {

template <class M, class E>
struct pairwise_gradient_problem {
    using T = compute_t<E>;
    M const& m;
    tensor_view<E const> q, k, v, out, dout;  // (B, H, N, d), (B, Hkv, M, d), (B, Hkv, M, dv), (B, H, N, dv), (B, H, N, dv)
    tensor_view<T const> saved, dsaved;       // (B, H, N, kept): what forward saved of a row, and the loss's derivative by it
    double saved_unit = 1, dsaved_unit = 1;   // saved times this is in units of the normalizer; dsaved times this is by the natural log-sum-exp
    tensor_view<E> dq, dk, dv;
    detail::mirror<decltype(M::score)> score_gradients;
    detail::mirror<decltype(M::normalizer)> normalizer_gradient;
    bool wants_leading_factor = false; // some stage folded into the queries wants its gradient

    HEED_HD place at(extent_t b, extent_t h) const {
        return {b, h, k.extent(1) > 0 ? h / (q.extent(1) / k.extent(1)) : 0, q.length(b), k.length(b), q.extent(3)};
    }
};

} // namespace heed
