// SPDX-License-Identifier: BSD-3-Clause
// The transform of one real vector of length n, with all lanes busy: n = g m, g the largest divisor that the lanes hold. The vector is cut into g
// pieces of m; lane q takes sum_l x_(j + l m) w_g^(l q) (products with g registers, every x broadcast) times w_n^(j q), and the lanes are then g
// transforms of m rows. Frequency q + g f of the vector is frequency f of lane q. The inverse is the transpose, of which only real parts are wanted.
// Cost: 2 n products a direction beside the m rows; memory for tables 2 n + 2 g^2 numbers and n positions, scratch m rows.
#pragma once

#include <heed/kernel/fft/transform.hpp>

namespace heed {

template <class T, class A>
struct fft_line {
    using V = vec<T, A>;
    using C = complex_lanes<V>;
    using transform = fft_transform<T, A>;
    static constexpr extent_t row_size = transform::row_size;
    static constexpr int W = transform::lanes;

    extent_t n = 0, g = 1, m = 0;
    fft_plan<T> inner;
    T const* across = nullptr;            // g rows: w_g^(l q) in lane q
    T const* turns = nullptr;             // m rows: w_n^(j q) in lane q
    std::int32_t const* place = nullptr;  // of frequency q + g f: place[p * g + q], p the row of f

    HEED_INLINE static extent_t pieces(extent_t n) {
        extent_t g = 1;
        for (extent_t i = 2; i <= W; ++i) { g = n % i == 0 ? i : g; }
        return g;
    }
    HEED_INLINE static extent_t table_size(extent_t n) {
        extent_t const g = pieces(n);
        return (g + n / g) * row_size + fft_plan<T>::table_size(n / g);
    }
    HEED_INLINE static extent_t scratch_size(extent_t n) { return n / pieces(n) * row_size + transform::tile_size(n / pieces(n)); } // numbers

    static fft_line at(extent_t n, T const* table, std::int32_t const* places) {
        fft_line l;
        l.n = n, l.g = pieces(n), l.m = n / l.g;
        l.across = table, l.turns = table + l.g * row_size, l.place = places;
        l.inner = fft_plan<T>::template at<A>(l.m, l.turns + l.m * row_size);
        return l;
    }
    // whole: the plan of n, in whose order spectra are. scratch: its making_bytes.
    static fft_line make(fft_plan<T> const& whole, T* table, std::int32_t* places, std::byte* scratch) {
        fft_line l = at(whole.n, table, places);
        fft_plan<T>::template make<A>(l.m, table + (l.g + l.m) * row_size, scratch);
        root_table<A> const exact(l.n, reinterpret_cast<detail::twofold*>(scratch));
        for (extent_t row = 0; row < l.g + l.m; ++row) {
            T* const to = table + row * row_size;
            for (extent_t q = 0; q < W; ++q) {
                to[q] = to[W + q] = 0;
                if (q < l.g) { exact.get(row < l.g ? row * q % l.g * l.m : (row - l.g) * q, to[q], to[W + q]); }
            }
        }
        for (extent_t p = 0; p < l.m; ++p) {
            extent_t const f = l.inner.frequency(p);
            for (extent_t q = 0; q < l.g; ++q) { places[p * l.g + q] = static_cast<std::int32_t>(whole.position(q + l.g * f)); }
        }
        return l;
    }

    // spectrum: re and im of each position in turn, times `factor`
    void forward(T const* x, T* spectrum, T factor, T* scratch) const {
        for (extent_t j = 0; j < m; ++j) {
            C sum{V(T(0)), V(T(0))};
            for (extent_t l = 0; l < g; ++l) {
                V const value(x[j + l * m]);
                T const* const e = across + l * row_size;
                sum = {fma(value, V::load(e), sum.re), fma(value, V::load(e + W), sum.im)};
            }
            C const y = times(sum, V::load(turns + j * row_size), V::load(turns + j * row_size + W));
            y.re.store(scratch + j * row_size);
            y.im.store(scratch + j * row_size + W);
        }
        transform{inner, scratch, scratch + m * row_size}.forward(scratch, row_size, m);
        for (extent_t p = 0; p < m; ++p) {
            for (extent_t q = 0; q < g; ++q) {
                T* const to = spectrum + 2 * static_cast<extent_t>(place[p * g + q]);
                to[0] = scratch[p * row_size + q] * factor;
                to[1] = scratch[p * row_size + W + q] * factor;
            }
        }
    }
    // Real parts of the inverse, not divided by n.
    void inverse(T const* spectrum, T* x, T* scratch) const {
        for (extent_t p = 0; p < m; ++p) {
            T* const row = scratch + p * row_size;
            for (extent_t q = 0; q < W; ++q) {
                T const* const from = q < g ? spectrum + 2 * static_cast<extent_t>(place[p * g + q]) : nullptr;
                row[q] = from ? from[0] : T(0);
                row[W + q] = from ? from[1] : T(0);
            }
        }
        transform{inner, scratch, scratch + m * row_size}.inverse(scratch, row_size, m);
        for (extent_t j = 0; j < m; ++j) {
            T* const row = scratch + j * row_size;
            V const wr = V::load(turns + j * row_size), wi = V::load(turns + j * row_size + W), re = V::load(row), im = V::load(row + W);
            fma(re, wr, im * wi).store(row); // times the conjugate
            fma(im, wr, -(re * wi)).store(row + W);
            V sum(T(0));
            for (extent_t q = 0; q < g; ++q) {
                T const* const e = across + q * row_size; // symmetric in l and q; its imaginary part is the negative sine
                sum = fma(V(row[q]), V::load(e), fma(V(row[W + q]), V::load(e + W), sum));
            }
            T part[W];
            sum.store(part);
            for (extent_t l = 0; l < g; ++l) { x[j + l * m] = part[l]; }
        }
    }
};

} // namespace heed
