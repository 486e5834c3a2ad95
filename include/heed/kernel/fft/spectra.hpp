// SPDX-License-Identifier: BSD-3-Clause
// Products of spectra that lie in digit-reversed slabs. A lane of a slab holds two real channels as re and im: with x = x1 + i x2,
//
//   X1(f) = (X(f) + conj X(-f)) / 2,   X2(f) = (X(f) - conj X(-f)) / 2i.
//
// One spectrum for all channels multiplies X as it is; a spectrum for each channel, and sums over channels, are formed here.
#pragma once

#include <heed/kernel/fft/transform.hpp>

namespace heed {

template <class T, class A>
struct fft_spectra {
    using V = vec<T, A>;
    using C = complex_lanes<V>;
    static constexpr int W = V::lanes;
    static constexpr extent_t row_size = 2 * W;

    HEED_INLINE static C load(T const* p) { return {V::load(p), V::load(p + W)}; }
    HEED_INLINE static void store(C const& x, T* p) {
        x.re.store(p);
        x.im.store(p + W);
    }

    // x <- spectrum of (x1 * h1) + i (x2 * h2), times factor; Conjugate: of the correlations, with conj H1 and conj H2.
    // position: of each frequency.
    template <bool Conjugate>
    static void multiply_channels(extent_t n, std::int32_t const* position, T* x, T const* h, T factor) {
        V const half(factor * T(0.5)); // X1 and X2 without their halves, H1 and H2 with them, and the factor
        for (extent_t f = 0; 2 * f <= n; ++f) {
            extent_t const p = position[f] * row_size, q = position[f == 0 ? 0 : n - f] * row_size;
            C const a = load(x + p), b = load(x + q), u = load(h + p), v = load(h + q);
            C const x1{(a.re + b.re) * half, (a.im - b.im) * half}, x2{(a.im + b.im) * half, (b.re - a.re) * half};
            C h1{u.re + v.re, u.im - v.im}, h2{u.im + v.im, v.re - u.re};
            h1 = {h1.re * V(T(0.5)), (Conjugate ? -h1.im : h1.im) * V(T(0.5))};
            h2 = {h2.re * V(T(0.5)), (Conjugate ? -h2.im : h2.im) * V(T(0.5))};
            C const y1 = times(x1, h1.re, h1.im), y2 = times(x2, h2.re, h2.im);
            store({y1.re - y2.im, y1.im + y2.re}, x + p);               // Y1 + i Y2
            if (q != p) { store({y1.re + y2.im, y2.re - y1.im}, x + q); } // conj Y1 + i conj Y2
        }
    }
    // to <- x h f + y g e, one spectrum h and one g for all lanes: re and im of each position in turn. to may be x or y.
    static void multiply_two(extent_t n, T const* x, T const* h, T f, T const* y, T const* g, T e, T* to) {
        for (extent_t p = 0; p < n; ++p, x += row_size, y += row_size, to += row_size, h += 2, g += 2) {
            C const a = times(load(x), V(h[0] * f), V(h[1] * f)), b = times(load(y), V(g[0] * e), V(g[1] * e));
            store(a + b, to);
        }
    }
    // sum over the lanes of Y conj X: its inverse's real part is the sum of the correlations of all channels (the imaginary part is of no use)
    HEED_INLINE static void product(C const& y, C const& x, T& re, T& im) {
        T r[W], i[W];
        fma(y.re, x.re, y.im * x.im).store(r);
        fma(y.im, x.re, -(y.re * x.im)).store(i);
        re = im = 0;
        for (int l = 0; l < W; ++l) { re += r[l], im += i[l]; }
    }
    // spectrum(p) <- that product; y <- y times conj of what the spectrum was (re and im of each position in turn)
    static void multiply_products(extent_t n, T* y, T const* x, T* spectrum) {
        for (extent_t p = 0; p < n; ++p, y += row_size, x += row_size, spectrum += 2) {
            C const a = load(y);
            V const re(spectrum[0]), im(-spectrum[1]);
            product(a, load(x), spectrum[0], spectrum[1]);
            store(times(a, re, im), y);
        }
    }
    // The same with the product beside the spectrum.
    static void multiply_products(extent_t n, T* y, T const* x, T const* spectrum, T* products) {
        for (extent_t p = 0; p < n; ++p, y += row_size, x += row_size, spectrum += 2, products += 2) {
            products[0] = spectrum[0];
            products[1] = spectrum[1];
            multiply_products(1, y, x, products);
        }
    }
};

} // namespace heed
