// SPDX-License-Identifier: BSD-3-Clause
// Pairs of features of a row turned in place: (x, y) <- (x c - y s, y c + x s), for rows of any element type and stride.
#pragma once

#include <heed/kernel/half.hpp>
#include <heed/kernel/zip.hpp>

namespace heed::detail {

// Where the two features of pair m lie: neighbours 2m, 2m + 1, or m and m + half.
enum class pair_layout { neighbours, halves };

template <pair_layout Layout, class A, class T>
HEED_INLINE void rotate_pairs(T* row, extent_t stride, extent_t half, extent_t begin, extent_t end, compute_t<T> const* cosine, compute_t<T> const* sine) {
    using V = vec<compute_t<T>, A>;
    constexpr extent_t L = V::lanes;
    auto const turn = [](V& x, V& y, V c, V s) HEED_INLINE_LAMBDA {
        V const first = fma(x, c, -(y * s));
        y = fma(y, c, x * s);
        x = first;
    };
    extent_t m = begin;
    if (stride == 1) {
        for (; m + L <= end; m += L, cosine += L, sine += L) {
            if constexpr (Layout == pair_layout::halves) {
                V x = load_as<V>(row + m), y = load_as<V>(row + half + m);
                turn(x, y, V::load(cosine), V::load(sine));
                store_as(row + m, x);
                store_as(row + half + m, y);
            } else {
                two_of<V> p = unzip(load_as<V>(row + 2 * m), load_as<V>(row + 2 * m + L));
                turn(p.a, p.b, V::load(cosine), V::load(sine));
                p = zip(p.a, p.b);
                store_as(row + 2 * m, p.a);
                store_as(row + 2 * m + L, p.b);
            }
        }
    }
    // Ends of rows and scattered features: gathered, turned by the same instructions, put back.
    for (; m < end; m += L, cosine += L, sine += L) {
        extent_t const n = end - m < L ? end - m : L, step = Layout == pair_layout::halves ? stride : 2 * stride, other = Layout == pair_layout::halves ? half * stride : stride;
        T* const at = row + m * step;
        T first[L] = {}, second[L] = {};
        for (extent_t l = 0; l < n; ++l) { first[l] = at[l * step], second[l] = at[l * step + other]; }
        V x = load_as<V>(first), y = load_as<V>(second);
        turn(x, y, V::load(cosine), V::load(sine));
        store_as(first, x);
        store_as(second, y);
        for (extent_t l = 0; l < n; ++l) { at[l * step] = first[l], at[l * step + other] = second[l]; }
    }
}

} // namespace heed::detail
