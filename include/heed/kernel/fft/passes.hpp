// SPDX-License-Identifier: BSD-3-Clause
// The passes of a transform along rows. A row holds 2 V::lanes numbers: the real parts of V::lanes complex numbers, then their imaginary parts. A block
// of L = R m rows is cut by decimation in frequency into R blocks of m rows,
//
//   block q, row j = w_L^(j q) sum_k x_(j + k m) w_R^(k q)
//
// and put together again by its transpose with conjugate roots. Forward passes end in digit-reversed order and inverse passes begin there, so a
// convolution reorders nothing, and its last forward pass, the product of the spectra and its first inverse pass are one walk over registers.
// Tables: w_L^(j q) for q = 1 ... R - 1, then the next j; re and im in turn, each broadcast to the lanes.
#pragma once

#include <heed/kernel/fft/butterfly.hpp>

namespace heed {

// Rows of a pass: j apart by `row`, the R legs of a butterfly apart by `leg`, in numbers; rows from `limit` on are zero (read) or not wanted (written).
template <class P>
struct fft_rows {
    P* at;
    extent_t row, leg;
};

// what a leaf (a pass with m = 1, which has no roots) does
enum class fft_leaf { forward, inverse, multiply };

inline constexpr extent_t fft_no_limit = extent_t(1) << 62;

template <class T, class A>
struct fft_passes {
    using V = vec<T, A>;
    using C = complex_lanes<V>;
    static constexpr int W = V::lanes, row_size = 2 * W;

    // f(std::integral_constant<int, radix>)
    template <class F>
    HEED_INLINE static void dispatch(int radix, F const& f) {
        switch (radix) {
        case 1: f(std::integral_constant<int, 1>{}); break;
        case 2: f(std::integral_constant<int, 2>{}); break;
        case 3: f(std::integral_constant<int, 3>{}); break;
        case 4: f(std::integral_constant<int, 4>{}); break;
        case 5: f(std::integral_constant<int, 5>{}); break;
        case 7: f(std::integral_constant<int, 7>{}); break;
        case 8: f(std::integral_constant<int, 8>{}); break;
        case 11: f(std::integral_constant<int, 11>{}); break;
        case 13: f(std::integral_constant<int, 13>{}); break;
        default: break;
        }
    }

    // Defined outside the class, so that a program that compiles them once does not compile them everywhere.
    // Rows j = 0 ... count - 1 of a pass; row j of leg k is row first + j + k m of the block.
    static void forward(int radix, fft_rows<T const> from, fft_rows<T> to, extent_t count, T const* roots);
    static void forward(int radix, fft_rows<T const> from, fft_rows<T> to, extent_t count, T const* roots, extent_t first, extent_t m, extent_t limit);
    static void inverse(int radix, fft_rows<T const> from, fft_rows<T> to, extent_t count, T const* roots);
    static void inverse(int radix, fft_rows<T const> from, fft_rows<T> to, extent_t count, T const* roots, extent_t first, extent_t m, extent_t limit);
    // `count` blocks of `radix` rows each, one after another, in place. spectrum: re and im of each row in turn, for multiply.
    static void leaf(int radix, fft_leaf what, T* at, extent_t count, T const* spectrum);

private:
    // Exchanged: as the inverse wants it, re for im
    template <bool Exchanged>
    HEED_INLINE static C load(T const* p) {
        return {V::load(p + (Exchanged ? W : 0)), V::load(p + (Exchanged ? 0 : W))};
    }
    template <bool Exchanged>
    HEED_INLINE static void store(C const& x, T* p) {
        x.re.store(p + (Exchanged ? W : 0));
        x.im.store(p + (Exchanged ? 0 : W));
    }

    template <int R, bool Limited>
    HEED_NOINLINE static void forward_pass(fft_rows<T const> from, fft_rows<T> to, extent_t count, T const* HEED_RESTRICT roots, extent_t first, extent_t m, extent_t limit) {
        T const* in = from.at;
        T* out = to.at;
        for (extent_t j = 0; j < count; ++j, in += from.row, out += to.row, roots += 2 * (R - 1)) {
            C x[R];
            static_for<R>([&](auto k) HEED_INLINE_LAMBDA {
                constexpr int K = decltype(k)::value;
                if constexpr (Limited) {
                    if (first + j + K * m >= limit) {
                        x[K] = {V(T(0)), V(T(0))};
                        return;
                    }
                }
                x[K] = load<false>(in + K * from.leg);
            });
            butterfly<R>(x);
            store<false>(x[0], out);
            static_for<R - 1>([&](auto k) HEED_INLINE_LAMBDA {
                constexpr int K = decltype(k)::value + 1;
                store<false>(times(x[K], V(roots[2 * K - 2]), V(roots[2 * K - 1])), out + K * to.leg);
            });
        }
    }

    template <int R, bool Limited>
    HEED_NOINLINE static void inverse_pass(fft_rows<T const> from, fft_rows<T> to, extent_t count, T const* HEED_RESTRICT roots, extent_t first, extent_t m, extent_t limit) {
        T const* in = from.at;
        T* out = to.at;
        for (extent_t j = 0; j < count; ++j, in += from.row, out += to.row, roots += 2 * (R - 1)) {
            C x[R];
            x[0] = load<true>(in);
            static_for<R - 1>([&](auto k) HEED_INLINE_LAMBDA {
                constexpr int K = decltype(k)::value + 1;
                x[K] = times(load<true>(in + K * from.leg), V(roots[2 * K - 2]), V(roots[2 * K - 1])); // i conj(conj(w) x) = w (i conj x)
            });
            butterfly<R>(x);
            static_for<R>([&](auto k) HEED_INLINE_LAMBDA {
                constexpr int K = decltype(k)::value;
                if constexpr (Limited) {
                    if (first + j + K * m >= limit) { return; }
                }
                store<true>(x[K], out + K * to.leg);
            });
        }
    }

    template <int R, fft_leaf What>
    HEED_NOINLINE static void leaf_pass(T* at, extent_t count, T const* HEED_RESTRICT spectrum) {
        for (extent_t b = 0; b < count; ++b, at += R * row_size, spectrum += 2 * R) {
            C x[R];
            static_for<R>([&](auto k) HEED_INLINE_LAMBDA { x[decltype(k)::value] = load<What == fft_leaf::inverse>(at + decltype(k)::value * row_size); });
            butterfly<R>(x);
            if constexpr (What == fft_leaf::multiply) {
                static_for<R>([&](auto k) HEED_INLINE_LAMBDA {
                    constexpr int K = decltype(k)::value;
                    C const y = times(x[K], V(spectrum[2 * K]), V(spectrum[2 * K + 1]));
                    x[K] = {y.im, y.re};
                });
                butterfly<R>(x);
            }
            static_for<R>([&](auto k) HEED_INLINE_LAMBDA { store<What != fft_leaf::forward>(x[decltype(k)::value], at + decltype(k)::value * row_size); });
        }
    }
};

template <class T, class A>
void fft_passes<T, A>::forward(int radix, fft_rows<T const> from, fft_rows<T> to, extent_t count, T const* roots) {
    dispatch(radix, [&](auto r) HEED_INLINE_LAMBDA { forward_pass<decltype(r)::value, false>(from, to, count, roots, 0, 0, 0); });
}
template <class T, class A>
void fft_passes<T, A>::forward(int radix, fft_rows<T const> from, fft_rows<T> to, extent_t count, T const* roots, extent_t first, extent_t m, extent_t limit) {
    dispatch(radix, [&](auto r) HEED_INLINE_LAMBDA { forward_pass<decltype(r)::value, true>(from, to, count, roots, first, m, limit); });
}
template <class T, class A>
void fft_passes<T, A>::inverse(int radix, fft_rows<T const> from, fft_rows<T> to, extent_t count, T const* roots) {
    dispatch(radix, [&](auto r) HEED_INLINE_LAMBDA { inverse_pass<decltype(r)::value, false>(from, to, count, roots, 0, 0, 0); });
}
template <class T, class A>
void fft_passes<T, A>::inverse(int radix, fft_rows<T const> from, fft_rows<T> to, extent_t count, T const* roots, extent_t first, extent_t m, extent_t limit) {
    dispatch(radix, [&](auto r) HEED_INLINE_LAMBDA { inverse_pass<decltype(r)::value, true>(from, to, count, roots, first, m, limit); });
}
template <class T, class A>
void fft_passes<T, A>::leaf(int radix, fft_leaf what, T* at, extent_t count, T const* spectrum) {
    dispatch(radix, [&](auto r) HEED_INLINE_LAMBDA {
        if (what == fft_leaf::multiply) {
            leaf_pass<decltype(r)::value, fft_leaf::multiply>(at, count, spectrum);
        } else if (what == fft_leaf::forward) {
            leaf_pass<decltype(r)::value, fft_leaf::forward>(at, count, spectrum);
        } else {
            leaf_pass<decltype(r)::value, fft_leaf::inverse>(at, count, spectrum);
        }
    });
}

} // namespace heed
