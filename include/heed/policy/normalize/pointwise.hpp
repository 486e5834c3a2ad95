// SPDX-License-Identifier: BSD-3-Clause
// pointwise<F, D>: every pair is weighed by itself, p_ij = f(s_ij) / D_i. f is one of weights.hpp, D one of
//   undivided    1                        sigmoid attention (arXiv:2409.04431), ReLU of the sink studies
//   by_sum{e}    sum_j f(s_ij) + e        "proportional" weights; e = 1e-8 in arXiv:2410.10781
//   by_keys      M                        ReLU attention with length scaling (arXiv:2309.08586: the sequence length, seen or not)
//   by_visible   keys that the row sees   exponential numerators over a count (arXiv:2507.23632)
//
// State of a row: (factor, mass), nothing is rescaled on the way. Merge: masses add. A row that sees no key is 0. What is saved is ln D without e,
// -infinity for an empty row, so that parts merge by it as softmax's do; a sum of signed weights saves the sum itself, and does not merge.
// A score of +inf weighs f(+inf): 1 for sigmoid, else +inf, whose row is not finite (divided by the sum: NaN). NaN stays NaN.
#pragma once

#include <heed/policy/concepts.hpp>
#include <heed/policy/normalize/weights.hpp>

namespace heed {

struct undivided {};
template <class T = float>
struct by_sum {
    T eps = 0;
};
struct by_keys {};
struct by_visible {};

namespace detail {
template <class D>
inline constexpr bool is_sum = false;
template <class T>
inline constexpr bool is_sum<by_sum<T>> = true;
} // namespace detail

template <class F, class D = undivided>
struct pointwise {
    F f = {};
    D divisor = {};

    static constexpr bool divides = !std::is_same_v<D, undivided>, of_weights = detail::is_sum<D>, of_visible = std::is_same_v<D, by_visible>;
    static constexpr bool is_signed = of_weights && requires { F::is_signed; };
    static constexpr double unit = F::unit;
    static constexpr int kept = divides ? 1 : 0;
    static constexpr centre centred = of_weights ? centre::output : centre::none;

    template <class V>
    struct row {
        V factor, mass; // factor: 1 until the row is closed and resumed
    };

    template <class V>
    HEED_HD row<V> empty() const {
        return {V(1), V(0)};
    }
    template <class V>
    HEED_HD row<V> start(place const& at) const {
        if constexpr (std::is_same_v<D, by_keys>) {
            return {V(1), V(at.keys)};
        } else {
            return empty<V>();
        }
    }
    template <class V>
    HEED_HD V raise(row<V>&, V) const {
        return V(1);
    }
    template <class V>
    HEED_HD V weight(row<V> const& r, V score) const {
        if constexpr (divides) {
            return f(score) * r.factor;
        } else {
            return f(score);
        }
    }
    template <class V>
    HEED_HD void settle(row<V>& r, V sum) const {
        if constexpr (of_weights) { r.mass = r.mass + sum; }
    }
    template <class V>
        requires of_visible
    HEED_HD void settle(row<V>& r, V, V count) const {
        r.mass = r.mass + count;
    }
    template <class V>
    HEED_HD V close(row<V> const& r) const {
        using math::select;
        if constexpr (divides) {
            V d = r.mass;
            if constexpr (of_weights) { d = d + V(divisor.eps); }
            return select(d == V(0), V(0), V(1) / d);
        } else {
            return V(1);
        }
    }
    // A resumed part is divided already: its values are multiplied back.
    template <class V>
        requires(!is_signed)
    HEED_HD row<V> merge(row<V> const& a, row<V> const& b, V& factor_a, V& factor_b) const {
        using math::select;
        factor_a = select(a.factor == V(0), V(0), V(1) / a.factor);
        factor_b = select(b.factor == V(0), V(0), V(1) / b.factor);
        return {V(1), a.mass + b.mass};
    }
    // Logarithm of the divisor, in units of the score times unit.
    template <class V>
        requires(!is_signed)
    HEED_HD V log_sum_exp(row<V> const& r) const {
        using math::log2;
        if constexpr (divides) {
            return log2(r.mass) * V(unit * math::ln2);
        } else {
            return V(0);
        }
    }
    template <class V>
        requires is_signed
    HEED_HD void saved(row<V> const& r, V* to) const {
        to[0] = r.mass;
    }
    template <class V>
    HEED_HD row<V> resume(place const&, V x) const {
        using math::exp;
        if constexpr (!divides) {
            return empty<V>();
        } else {
            row<V> r{V(1), x};
            if constexpr (!is_signed) { r.mass = exp(x * V(1 / unit)); }
            r.factor = close(r);
            return r;
        }
    }
    template <class V>
    HEED_HD V derivative(row<V> const& r, V score, V weight) const {
        if constexpr (divides) {
            return f.slope(score, f(score)) * r.factor;
        } else {
            return f.slope(score, weight);
        }
    }
};
template <class F>
pointwise(F) -> pointwise<F>;
template <class F, class D>
pointwise(F, D) -> pointwise<F, D>;

} // namespace heed
