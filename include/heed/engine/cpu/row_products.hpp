// SPDX-License-Identifier: BSD-3-Clause
// Element by element over rows of any strides: products, products added, and the gate's own function, x Phi(x), with its slope. Items are pieces of 64 rows.
#pragma once

#include <heed/engine/cpu/parallel.hpp>
#include <heed/view/tensor_view.hpp>

#include <cmath>

namespace heed {

// A row of numbers, some steps apart.
template <class T>
struct strided_row {
    T* at;
    extent_t step;
    HEED_INLINE T& operator[](extent_t c) const { return at[c * step]; }
};

template <class A, class E>
struct row_walk {
    E& executor;
    int slots;

    // f(b, h, i)
    template <class F>
    void each(shape s, F const& f) const {
        extent_t const piece = 64, pieces = (s.seq + piece - 1) / piece;
        detail::for_each_item<A>(executor, slots, s.batch * s.head * pieces, [&](extent_t item, int) {
            extent_t const first = item % pieces * piece, last = s.seq - first < piece ? s.seq : first + piece, h = item / pieces % s.head, b = item / pieces / s.head;
            for (extent_t i = first; i < last; ++i) { f(b, h, i); }
        });
    }
    template <class T>
    HEED_INLINE static strided_row<T> row(tensor_view<T> const& v, extent_t b, extent_t h, extent_t i) {
        return {v.row(b, h, i), v.stride(3)};
    }
    // f(to, a, b) of each element
    template <class T, class F>
    void map(tensor_view<T> const& to, tensor_view<T const> const& a, tensor_view<T const> const& b, F const& f) const {
        each(to.shape(), [&](extent_t n, extent_t h, extent_t i) {
            auto const x = row(to, n, h, i);
            auto const y = row(a, n, h, i), z = row(b, n, h, i);
            for (extent_t c = 0; c < to.extent(3); ++c) { f(x[c], y[c], z[c]); }
        });
    }
    // to = a b
    template <class T>
    void multiply(tensor_view<T> const& to, tensor_view<T const> const& a, tensor_view<T const> const& b) const {
        map(to, a, b, [](T& x, T y, T z) HEED_INLINE_LAMBDA { x = y * z; });
    }
    // to += a b
    template <class T>
    void multiply_add(tensor_view<T> const& to, tensor_view<T const> const& a, tensor_view<T const> const& b) const {
        map(to, a, b, [](T& x, T y, T z) HEED_INLINE_LAMBDA { x += y * z; });
    }
    // to_c += sum over batch, heads and rows of a b; in one order whatever the threads
    template <class T>
    void add_products(double* to, tensor_view<T const> const& a, tensor_view<T const> const& b) const {
        extent_t const piece = 16, d = a.extent(3);
        detail::for_each_item<A>(executor, slots, (d + piece - 1) / piece, [&](extent_t item, int) {
            extent_t const first = item * piece, last = d - first < piece ? d : first + piece;
            for (extent_t n = 0; n < a.extent(0); ++n)
                for (extent_t h = 0; h < a.extent(1); ++h)
                    for (extent_t i = 0; i < a.extent(2); ++i) {
                        auto const x = row(a, n, h, i), y = row(b, n, h, i);
                        for (extent_t c = first; c < last; ++c) { to[c] += static_cast<double>(x[c]) * static_cast<double>(y[c]); }
                    }
        });
    }
};
template <class A, class E>
row_walk<A, E> walk_rows(E& executor, int slots) {
    return {executor, slots};
}

// x Phi(x), Phi the distribution of a standard normal variable, and its slope. Hendrycks and Gimpel, arXiv:1606.08415.
template <class T>
HEED_INLINE T gelu(T x) {
    return T(0.5) * x * std::erfc(-x * T(0.70710678118654752440));
}
template <class T>
HEED_INLINE T gelu_slope(T x) {
    T const density = T(0.39894228040143267794) * std::exp(T(-0.5) * x * x);
    return T(0.5) * std::erfc(-x * T(0.70710678118654752440)) + (density == T(0) ? T(0) : x * density); // far out: x may be infinite
}

} // namespace heed
