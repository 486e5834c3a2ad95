// SPDX-License-Identifier: BSD-3-Clause
// Valuations of tropical attention (arXiv:2505.17190): features of either sign into logarithms, with a shift l per channel.
//   log1p_valuation    u = log(1 + max(0, x)) - l             the released code's: finite everywhere; its inverse is expm1 (exp_minus_one)
//   simplex_valuation  u = log(max(0, x)) - l, less the row's greatest u: a point of the tropical simplex, greatest coordinate 0 (section 3). -inf where
//                      x <= 0, and everywhere if no x is positive; its inverse is exp (exponential)
// The pairs do not mix: log with exp, log1p with expm1.
#pragma once

#include <heed/kernel/math.hpp>
#include <heed/view/tensor_view.hpp>

namespace heed {

template <class T = float>
struct log1p_valuation {
    tensor_view<T const> shift = {}; // {1, H or 1, 1, D or 1}; null: none
    static constexpr bool simplex = false;

    log1p_valuation() = default;
    HEED_HD explicit constexpr log1p_valuation(tensor_view<T const> l) : shift(l) {}
    template <class V>
    HEED_HD V operator()(V x) const {
        using math::log;
        using math::log1p_unit;
        using math::max;
        using math::min;
        using math::select;
        V const y = max(V(0), x);
        return select(y < V(1), log1p_unit(min(V(1), y)), log(V(1) + y));
    }
    template <class V>
    HEED_HD V slope(V x) const { // 0 where x <= 0, as for max(0, x)
        using math::select;
        return select(x > V(0), V(1) / (V(1) + x), V(0));
    }
};
template <class T>
log1p_valuation(tensor_view<T>) -> log1p_valuation<std::remove_const_t<T>>;
log1p_valuation() -> log1p_valuation<float>;

template <class T = float>
struct simplex_valuation {
    tensor_view<T const> shift = {};
    static constexpr bool simplex = true;

    simplex_valuation() = default;
    HEED_HD explicit constexpr simplex_valuation(tensor_view<T const> l) : shift(l) {}
    template <class V>
    HEED_HD V operator()(V x) const {
        using math::log;
        using math::max;
        return log(max(V(0), x));
    }
    template <class V>
    HEED_HD V slope(V x) const {
        using math::select;
        return select(x > V(0), V(1) / x, V(0));
    }
};
template <class T>
simplex_valuation(tensor_view<T>) -> simplex_valuation<std::remove_const_t<T>>;
simplex_valuation() -> simplex_valuation<float>;

} // namespace heed
