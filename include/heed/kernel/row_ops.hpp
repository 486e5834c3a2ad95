// SPDX-License-Identifier: BSD-3-Clause
// Rows of features as whole vectors: buffers are padded with zeros to a multiple of the lanes, whatever the strides of the memory they come from.
#pragma once

#include <heed/kernel/batch.hpp>

namespace heed {

template <class T, class A>
struct row_ops {
    using V = vec<T, A>;
    static constexpr int lanes = V::lanes;
    static constexpr extent_t padded(extent_t n) { return (n + lanes - 1) / lanes * lanes; }

    template <class E>
    static void read(E const* from, extent_t stride, extent_t n, T* to) {
        for (extent_t e = 0; e < n; ++e) { to[e] = static_cast<T>(from[e * stride]); }
        for (extent_t e = n; e < padded(n); ++e) { to[e] = T(0); }
    }
    template <class E>
    static void write(T const* from, E* to, extent_t stride, extent_t n) {
        for (extent_t e = 0; e < n; ++e) { to[e * stride] = static_cast<E>(from[e]); }
    }
    static void clear(T* x, extent_t n) {
        for (extent_t e = 0; e < n; e += lanes) { V(0).store(x + e); }
    }
    // y += c x
    static void add(T const* x, T c, T* y, extent_t n) {
        for (extent_t e = 0; e < n; e += lanes) { fma(V::load(x + e), V(c), V::load(y + e)).store(y + e); }
    }
    // y *= c
    static void scale(T* y, T c, extent_t n) {
        for (extent_t e = 0; e < n; e += lanes) { (V::load(y + e) * V(c)).store(y + e); }
    }
    static bool finite(T const* x, extent_t n) {
        V sum(0);
        for (extent_t e = 0; e < n; e += lanes) { sum = sum + V::load(x + e) * V(0); }
        return all(sum == V(0));
    }
};

} // namespace heed
