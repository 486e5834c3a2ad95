// SPDX-License-Identifier: BSD-3-Clause
// The gradient of one pair's raw score by its rows: dq += up d raw / d q, dk += up d raw / d k, by what the contraction says of its terms.
#pragma once

#include <heed/kernel/math.hpp>
#include <heed/kernel/tile_config.hpp>
#include <heed/policy/concepts.hpp>

namespace heed::detail {

// First feature whose combined value is the best of the row, -1 if none beats `worst`. Lanes look for themselves, then the lanes are compared.
template <class A, class Ring, class T, class Better>
extent_t first_best(T const* k, T const* q, extent_t n, T worst, Better const& better) {
    using V = vec<T, A>;
    constexpr int lanes = V::lanes;
    T const none = static_cast<T>(n);
    V value(worst), at(none);
    extent_t c = 0;
    for (; c + lanes <= n; c += lanes) {
        V const x = Ring::combine(V::load(k + c), V::load(q + c));
        auto const wins = better(x, value);
        value = select(wins, x, value);
        at = select(wins, V(c), at);
    }
    T values[lanes], first[lanes];
    value.store(values);
    at.store(first);
    T top = worst, best = none;
    for (int l = 0; l < lanes; ++l) { top = better(values[l], top) ? values[l] : top; }
    for (int l = 0; l < lanes; ++l) {
        T const here = values[l] == top && first[l] < none ? first[l] + T(l) : none;
        best = here < best ? here : best;
    }
    extent_t found = best < none ? static_cast<extent_t>(best) : -1;
    for (; c < n; ++c) {
        T const x = Ring::combine(k[c], q[c]);
        if (better(x, top)) { found = c, top = x; }
    }
    return found;
}

// Rows of n contiguous features; operand: [n] where the contraction has one.
template <class A, class Ring, class T>
void pull_pair(Ring const& ring, T const* k, T const* q, T const* operand, extent_t n, T up, T* dq, T* dk) {
    if constexpr (sum_of_products<Ring>) {
        using V = vec<T, A>;
        extent_t c = 0;
        for (; c + V::lanes <= n; c += V::lanes) {
            fma(V(up), V::load(k + c), V::load(dq + c)).store(dq + c);
            fma(V(up), V::load(q + c), V::load(dk + c)).store(dk + c);
        }
        for (; c < n; ++c) { dq[c] += up * k[c], dk[c] += up * q[c]; }
    } else if constexpr (requires { ring.picks(n); }) {
        auto const s = ring.picks(n);
        auto const add = [&](extent_t c, double slope) {
            if (c < 0) { return; }
            dq[c] += up * static_cast<T>(slope);
            dk[c] += up * static_cast<T>(slope * Ring::key_sign);
        };
        if (s.greatest != 0) { add(first_best<A, Ring>(k, q, n, -math::inf<T>(), [](auto a, auto b) { return a > b; }), s.greatest); }
        if (s.least != 0) { add(first_best<A, Ring>(k, q, n, math::inf<T>(), [](auto a, auto b) { return a < b; }), s.least); }
        if (s.each != 0) {
            for (extent_t c = 0; c < n; ++c) { add(c, s.each); }
        }
    } else {
        using V = vec<T, A>;
        auto const term = [&](auto at, extent_t c) {
            using X = decltype(at);
            auto const get = [&](T const* p) {
                if constexpr (std::is_same_v<X, V>) { return V::load(p + c); } else { return p[c]; }
            };
            X slope;
            if constexpr (has_operand<Ring>) { slope = ring.slope(get(k), get(q), get(operand)); } else { slope = ring.slope(get(k), get(q)); }
            X const of_q = get(dq) + X(up) * slope, of_k = get(dk) + X(up * T(Ring::key_sign)) * slope;
            if constexpr (std::is_same_v<X, V>) { of_q.store(dq + c), of_k.store(dk + c); } else { dq[c] = of_q, dk[c] = of_k; }
        };
        extent_t c = 0;
        for (; c + V::lanes <= n; c += V::lanes) { term(V(0), c); }
        for (; c < n; ++c) { term(T(0), c); }
    }
}

} // namespace heed::detail
