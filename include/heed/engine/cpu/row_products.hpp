// SPDX-License-Identifier: BSD-3-Clause
// Element by element over rows of any strides: products, products added, and the gate's own function, x Phi(x), with its slope. Items are pieces of 64 rows.
#pragma once

#include <heed/engine/cpu/parallel.hpp>
#include <heed/kernel/normal_cdf.hpp>
#include <heed/view/tensor_view.hpp>

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
    // to = f(a, b), a register at a time; what stands apart, or is left of a row, is brought together first
    template <class T, class F>
    void map_lanes(tensor_view<T> const& to, tensor_view<T const> const& a, tensor_view<T const> const& b, F const& f) const {
        using V = vec<T, A>;
        extent_t const d = to.extent(3);
        bool const close = to.stride(3) == 1 && a.stride(3) == 1 && b.stride(3) == 1;
        each(to.shape(), [&](extent_t n, extent_t h, extent_t i) {
            auto const x = row(to, n, h, i);
            auto const y = row(a, n, h, i), z = row(b, n, h, i);
            for (extent_t c = 0; c < d; c += V::lanes) {
                if (close && d - c >= V::lanes) {
                    f(V::load(y.at + c), V::load(z.at + c)).store(x.at + c);
                    continue;
                }
                T part[2][V::lanes] = {};
                extent_t const count = d - c < V::lanes ? d - c : V::lanes;
                for (extent_t l = 0; l < count; ++l) { part[0][l] = y[c + l], part[1][l] = z[c + l]; }
                f(V::load(part[0]), V::load(part[1])).store(part[0]);
                for (extent_t l = 0; l < count; ++l) { x[c + l] = part[0][l]; }
            }
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
template <class V>
HEED_INLINE V gelu(V x) {
    return x * normal_cdf(x);
}
template <class V>
HEED_INLINE V gelu_slope(V x) {
    using math::exp;
    using math::select;
    V const density = V(0.39894228040143267794) * exp(V(-0.5) * x * x);
    return normal_cdf(x) + select(density == V(0), V(0), x * density); // far out: x may be infinite
}

} // namespace heed
