// SPDX-License-Identifier: BSD-3-Clause
// Rings that compare skip what is not a number (skips_nan), so that nothing found before is lost. Engines look at the rows of an operand once per tile,
// and where one holds a NaN it is put where it belongs.
#pragma once

#include <heed/kernel/math.hpp>
#include <heed/kernel/pack.hpp>

namespace heed {

// x - x but for infinities: 0, or NaN.
template <class V>
HEED_INLINE V nan_of(V x) {
    return select(x == x, V(0), x);
}
template <class A, class T>
HEED_INLINE T nan_in_row(T const* row, extent_t n) {
    using V = vec<T, A>;
    V sum(0);
    extent_t c = 0;
    for (; c + V::lanes <= n; c += V::lanes) { sum = sum + nan_of(V::load(row + c)); }
    T lane[V::lanes], total(0);
    sum.store(lane);
    for (; c < n; ++c) { total += row[c] == row[c] ? T(0) : row[c]; }
    for (T const x : lane) { total += x; }
    return total;
}
// rows: at(r) of n contiguous features
template <class A, class Rows>
HEED_INLINE bool any_nan(Rows const& rows, extent_t count, extent_t n) {
    bool found = false;
    for (extent_t r = 0; r < count; ++r) { found = found || (!row_finite<A>(rows.at(r), extent_t(1), n) && nan_in_row<A>(rows.at(r), n) != 0); }
    return found;
}
// a packed tile: [width][pitch], `vecs` vectors of it
template <class V, class T>
HEED_INLINE bool any_nan_packed(T const* x, extent_t width, extent_t pitch, int vecs) {
    V sum(0);
    for (extent_t c = 0; c < width; ++c) {
        for (int w = 0; w < vecs; ++w) { sum = sum + nan_of(V::load(x + c * pitch + w * V::lanes)); }
    }
    return !all(sum == V(0));
}

// Scores s[j][i], j in [begin, end) and vectors [first, last) of i, whose row of k or of the packed q holds a NaN.
template <class A, class T, class Rows>
HEED_COLD void put_nan(Rows const& k, T const* q, extent_t width, extent_t pitch, int begin, int end, int first, int last, T* s) {
    using V = vec<T, A>;
    for (int w = first; w < last; ++w) {
        V of_q(0);
        for (extent_t c = 0; c < width; ++c) { of_q = of_q + nan_of(V::load(q + c * pitch + w * V::lanes)); }
        for (int j = begin; j < end; ++j) {
            T* const at = s + j * pitch + w * V::lanes;
            V const odd = of_q + V(nan_in_row<A>(k.at(j), width));
            select(odd == V(0), V::load(at), odd).store(at);
        }
    }
}

// One value more, NaN kept from either side.
template <class Ring, class V>
HEED_INLINE V gather_one(V before, V value, V weight) {
    if constexpr (requires { Ring::combine(value, weight); }) {
        return Ring::reduce(before, Ring::combine(value, weight));
    } else {
        return Ring::step(before, value, weight);
    }
}

} // namespace heed
