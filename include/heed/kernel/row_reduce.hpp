// SPDX-License-Identifier: BSD-3-Clause
// Sums along a row.
#pragma once

#include <heed/kernel/math.hpp>

namespace heed {

// sum over e < n of a[e] b[e]; vectors where both rows are contiguous.
template <class A, class T>
T row_dot(T const* a, extent_t a_step, T const* b, extent_t b_step, extent_t n) {
    using V = vec<T, A>;
    V sum(0);
    extent_t e = 0;
    if (a_step == 1 && b_step == 1) {
        for (; e + V::lanes <= n; e += V::lanes) { sum = fma(V::load(a + e), V::load(b + e), sum); }
    }
    T lane[V::lanes], total(0);
    sum.store(lane);
    for (; e < n; ++e) { total += a[e * a_step] * b[e * b_step]; }
    for (T const one : lane) { total += one; }
    return total;
}

} // namespace heed
