// SPDX-License-Identifier: BSD-3-Clause
// Contractions of the projective metrics of tropical attention (arXiv:2505.17190, definition 3.1), with differences x_c = q_c - k_c:
//   hilbert_range     -(max_c x_c - min_c x_c)           minus Hilbert's metric
//   one_sided_range   -sum_c (x_c - min_c x_c)           the asymmetric form
// Two accumulators a pair. Laws: 0 for d = 0 and for k = q + constant; neither changes when a constant is added to q or to k, up to rounding.
// A difference that is not a number (both coordinates the same infinity) is skipped: points of a face are compared on the face.
#pragma once

#include <heed/kernel/math.hpp>
#include <heed/policy/ring/extremes.hpp>

namespace heed {

namespace detail {
template <class V>
struct two_accumulators {
    V first, second;
};
} // namespace detail

struct hilbert_range {
    static constexpr int key_sign = -1;
    HEED_HD static constexpr detail::pick_slopes picks(extent_t) { return {-1, 1, 0}; }
    template <class V>
    HEED_HD static V combine(V k, V q) {
        return q - k;
    }
    static constexpr int accumulators = 2; // greatest and least difference
    static constexpr int spare = 2; // the difference, and the constant of side_difference
    static constexpr bool skips_nan = true;
    template <class V>
    HEED_HD static detail::two_accumulators<V> zero() {
        return {-math::inf<V>(), math::inf<V>()};
    }
    template <class V>
    HEED_HD static detail::two_accumulators<V> step(detail::two_accumulators<V> const& acc, V k, V q) {
        using math::greater_number;
        using math::lesser_number;
        using math::side_difference;
        V const x = side_difference(q, k);
        return {greater_number(x, acc.first), lesser_number(x, acc.second)};
    }
    template <class V>
    HEED_HD static detail::two_accumulators<V> reduce(detail::two_accumulators<V> const& a, detail::two_accumulators<V> const& b) {
        using math::max;
        using math::min;
        return {max(a.first, b.first), min(a.second, b.second)};
    }
    template <class V>
    HEED_HD static V finish(detail::two_accumulators<V> const& acc, extent_t) {
        using math::select;
        return select(acc.first < acc.second, V(0), acc.second - acc.first); // no difference at all: 0
    }
};

struct one_sided_range {
    static constexpr int key_sign = -1;
    HEED_HD static constexpr detail::pick_slopes picks(extent_t width) { return {0, static_cast<double>(width), -1}; }
    template <class V>
    HEED_HD static V combine(V k, V q) {
        return q - k;
    }
    static constexpr int accumulators = 2; // sum of differences and the least
    static constexpr int spare = 1;
    static constexpr bool skips_nan = true;
    template <class V>
    HEED_HD static detail::two_accumulators<V> zero() {
        return {V(0), math::inf<V>()};
    }
    template <class V>
    HEED_HD static detail::two_accumulators<V> step(detail::two_accumulators<V> const& acc, V k, V q) {
        using math::lesser_number;
        V const x = q - k;
        return {acc.first + x, lesser_number(x, acc.second)};
    }
    template <class V>
    HEED_HD static detail::two_accumulators<V> reduce(detail::two_accumulators<V> const& a, detail::two_accumulators<V> const& b) {
        using math::min;
        return {a.first + b.first, min(a.second, b.second)};
    }
    template <class V>
    HEED_HD static V finish(detail::two_accumulators<V> const& acc, extent_t width) {
        using math::fma;
        using math::select;
        return width == 0 ? V(0) : fma(V(width), acc.second, -acc.first);
    }
};

} // namespace heed
