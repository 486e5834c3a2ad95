// SPDX-License-Identifier: BSD-3-Clause
// dual<V>: a value and its derivative, carried through a policy's own text: exact forward-mode differentiation, no second definition and no
// finite difference. V is float, double or a register. A policy whose parameter type is dual (softcap<dual<V>>) is differentiated in that parameter.
//
// Where a function has a kink (abs at 0, max and min at a tie) the derivative is the one of the operand that is chosen.
#pragma once

#include <heed/kernel/math.hpp>

namespace heed {

template <class V>
struct dual {
    V v{}; // value
    V d{}; // derivative

    dual() = default;
    HEED_HD constexpr dual(V value, V derivative) : v(value), d(derivative) {}
    HEED_HD constexpr dual(V value) : v(value), d(V(0)) {}
    template <class U>
        requires(std::is_arithmetic_v<U> && !std::is_same_v<U, V>)
    HEED_HD constexpr dual(U x) : v(static_cast<V>(x)), d(V(0)) {}

    HEED_HD friend dual operator+(dual a, dual b) { return {a.v + b.v, a.d + b.d}; }
    HEED_HD friend dual operator-(dual a, dual b) { return {a.v - b.v, a.d - b.d}; }
    HEED_HD friend dual operator-(dual a) { return {-a.v, -a.d}; }
    HEED_HD friend dual operator*(dual a, dual b) {
        using math::fma;
        return {a.v * b.v, fma(a.v, b.d, a.d * b.v)};
    }
    HEED_HD friend dual operator/(dual a, dual b) {
        V const q = a.v / b.v;
        return {q, (a.d - q * b.d) / b.v};
    }
    // Comparisons are of values.
    HEED_HD friend auto operator<(dual a, dual b) { return a.v < b.v; }
    HEED_HD friend auto operator<=(dual a, dual b) { return a.v <= b.v; }
    HEED_HD friend auto operator>(dual a, dual b) { return a.v > b.v; }
    HEED_HD friend auto operator>=(dual a, dual b) { return a.v >= b.v; }
    HEED_HD friend auto operator==(dual a, dual b) { return a.v == b.v; }
    HEED_HD friend auto operator!=(dual a, dual b) { return a.v != b.v; }

    template <class Mask>
    HEED_HD friend dual select(Mask m, dual a, dual b) {
        using math::select;
        return {select(m, a.v, b.v), select(m, a.d, b.d)};
    }
    HEED_HD friend dual fma(dual a, dual b, dual c) { return a * b + c; }
    HEED_HD friend dual max(dual a, dual b) { return select(a.v > b.v, a, b); }
    HEED_HD friend dual min(dual a, dual b) { return select(a.v < b.v, a, b); }
    HEED_HD friend dual abs(dual a) { return select(a.v < V(0), -a, a); }
    HEED_HD friend dual exp(dual a) {
        using math::exp;
        V const e = exp(a.v);
        return {e, e * a.d};
    }
    HEED_HD friend dual fast_exp2(dual a) {
        using math::fast_exp2;
        V const e = fast_exp2(a.v);
        return {e, e * V(math::ln2) * a.d};
    }
    HEED_HD friend dual tanh(dual a) {
        using math::tanh;
        V const t = tanh(a.v);
        return {t, (V(1) - t * t) * a.d};
    }
    HEED_HD friend dual sqrt(dual a) {
        using math::sqrt;
        V const s = sqrt(a.v);
        return {s, a.d / (s + s)};
    }
    HEED_HD friend dual log(dual a) {
        using math::log;
        return {log(a.v), a.d / a.v};
    }
    HEED_HD friend dual log2(dual a) {
        using math::log2;
        return {log2(a.v), a.d / (a.v * V(math::ln2))};
    }
};

namespace math {
template <class V>
struct scalar_of<dual<V>> {
    using type = scalar_t<V>;
};
} // namespace math

namespace detail {
template <class V>
inline constexpr bool is_dual = false;
template <class V>
inline constexpr bool is_dual<dual<V>> = true;
} // namespace detail

// Positions do not depend on what is differentiated.
template <class D, class I>
    requires detail::is_dual<D>
HEED_HD D to_value(I i) {
    return D(to_value<decltype(D::v)>(i));
}

} // namespace heed
