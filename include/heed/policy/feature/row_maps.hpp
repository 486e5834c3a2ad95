// SPDX-License-Identifier: BSD-3-Clause
// Feature maps of whole rows, which may change the width:
//   series_map{c0, c1, c2, s}   f(q).f(k) = c0 + c1 x + c2 x^2 with x = s q.k: features 1, the x_i, and the x_i x_j for i <= j (those off the diagonal times sqrt(2)), which is
//                               half of the full square. {1, 1, 1/2}: Taylor's series of exp, Based (Arora et al., arXiv:2402.18668); {0, 0, 1}: Rebased (arXiv:2402.10644)
//   softmax_map                 e^x / sum e^x over the features of a row
//   hedgehog_map                softmax of (x, -x) over both halves: width 2 d, positive, spiky (Zhang et al., arXiv:2402.04347; the learned map before it is the caller's)
//   hadamard_map                (a, b) -> a b: rows hold two halves, the two maps of the same token; width d / 2
//   dpfp_map{n}                 r_i r_(i - j), j = 1 ... n, r = max((x, -x), 0), indices around the ring of 2 d: width 2 d n (Schlag et al., arXiv:2102.11174)
// Features of random projections: random_maps.hpp.
//
// A row map has, over elements T and the architecture A:
//   width(d)                        features of a row of d numbers
//   map<A>(x, d, y)                 y = f(x), width(d) numbers
//   map_back<A>(x, d, dy, dx)       dx = J(x)^T dy, d numbers
#pragma once

#include <heed/kernel/math.hpp>
#include <heed/policy/concepts.hpp>

namespace heed {

namespace detail {

// f(i, lanes) for registers of a row of n numbers; the last one may be partly beyond it and is handled number by number.
template <class V, class Whole, class One>
HEED_INLINE void along_row(extent_t n, Whole const& whole, One const& one) {
    extent_t i = 0;
    for (; i + V::lanes <= n; i += V::lanes) { whole(i); }
    for (; i < n; ++i) { one(i); }
}
// y[i] = by x[i]; y += ...
template <class A, class T>
HEED_INLINE void scale_row(T const* x, T by, extent_t n, T* y) {
    using V = vec<T, A>;
    along_row<V>(n, [&](extent_t i) HEED_INLINE_LAMBDA { (V::load(x + i) * V(by)).store(y + i); }, [&](extent_t i) HEED_INLINE_LAMBDA { y[i] = x[i] * by; });
}
template <class A, class T>
HEED_INLINE void add_scaled(T const* x, T by, extent_t n, T* y) {
    using V = vec<T, A>;
    along_row<V>(
        n, [&](extent_t i) HEED_INLINE_LAMBDA { fma(V::load(x + i), V(by), V::load(y + i)).store(y + i); }, [&](extent_t i) HEED_INLINE_LAMBDA { y[i] = math::fma(x[i], by, y[i]); });
}
template <class A, class T>
HEED_INLINE T dot_rows(T const* x, T const* y, extent_t n) {
    using V = vec<T, A>;
    V sum(0);
    T rest(0);
    along_row<V>(n, [&](extent_t i) HEED_INLINE_LAMBDA { sum = fma(V::load(x + i), V::load(y + i), sum); }, [&](extent_t i) HEED_INLINE_LAMBDA { rest = math::fma(x[i], y[i], rest); });
    T part[V::lanes];
    sum.store(part);
    for (int l = 0; l < V::lanes; ++l) { rest += part[l]; }
    return rest;
}
// y = softmax of sign x, n numbers; returns nothing of the maximum
template <class A, class T>
HEED_INLINE T exp_row(T const* x, T sign, T most, extent_t n, T* y) {
    using V = vec<T, A>;
    V sum(0);
    T rest(0);
    along_row<V>(
        n,
        [&](extent_t i) HEED_INLINE_LAMBDA {
            V const e = exp(fma(V::load(x + i), V(sign), V(-most)));
            e.store(y + i);
            sum = sum + e;
        },
        [&](extent_t i) HEED_INLINE_LAMBDA { rest += y[i] = math::exp(sign * x[i] - most); });
    T part[V::lanes];
    sum.store(part);
    for (int l = 0; l < V::lanes; ++l) { rest += part[l]; }
    return rest;
}

} // namespace detail

struct series_map {
    double c0 = 1, c1 = 1, c2 = 0.5;
    double scale = 0; // s; 0 stands for 1 / sqrt(d)

    HEED_HD extent_t width(extent_t d) const { return (c0 != 0 ? 1 : 0) + (c1 != 0 ? d : 0) + (c2 != 0 ? d * (d + 1) / 2 : 0); }
    template <class A, class T>
    void map(T const* x, extent_t d, T* y) const {
        factors const f(*this, d);
        if (c0 != 0) { *y++ = static_cast<T>(f.constant); }
        if (c1 != 0) {
            detail::scale_row<A>(x, static_cast<T>(f.linear), d, y);
            y += d;
        }
        if (c2 == 0) { return; }
        for (extent_t i = 0; i < d; y += d - i, ++i) {
            detail::scale_row<A>(x + i, x[i] * static_cast<T>(f.off), d - i, y);
            y[0] = x[i] * x[i] * static_cast<T>(f.square);
        }
    }
    template <class A, class T>
    void map_back(T const* x, extent_t d, T const* dy, T* dx) const {
        factors const f(*this, d);
        if (c0 != 0) { ++dy; }
        if (c1 != 0) {
            detail::scale_row<A>(dy, static_cast<T>(f.linear), d, dx);
            dy += d;
        } else {
            for (extent_t i = 0; i < d; ++i) { dx[i] = T(0); }
        }
        if (c2 == 0) { return; }
        for (extent_t i = 0; i < d; dy += d - i, ++i) {
            T const off = static_cast<T>(f.off);
            dx[i] += T(2) * static_cast<T>(f.square) * x[i] * dy[0] + off * detail::dot_rows<A>(x + i + 1, dy + 1, d - i - 1);
            detail::add_scaled<A>(dy + 1, off * x[i], d - i - 1, dx + i + 1);
        }
    }

private:
    struct factors {
        double constant, linear, square, off;
        factors(series_map const& m, extent_t d) {
            double const s = m.scale != 0 ? m.scale : 1 / math::sqrt(static_cast<double>(d < 1 ? 1 : d));
            constant = math::sqrt(m.c0), linear = math::sqrt(m.c1 * s), square = math::sqrt(m.c2) * s, off = math::sqrt(2 * m.c2) * s;
        }
    };
};
HEED_HD constexpr series_map taylor_map(double scale = 0) { return {1, 1, 0.5, scale}; }
HEED_HD constexpr series_map square_map(double scale = 0) { return {0, 0, 1, scale}; }

struct softmax_map {
    static constexpr bool keeps_width = true;
    HEED_HD extent_t width(extent_t d) const { return d; }
    template <class A, class T>
    void map(T const* x, extent_t d, T* y) const {
        T most = -math::inf<T>();
        for (extent_t i = 0; i < d; ++i) { most = x[i] > most ? x[i] : most; }
        T const by = T(1) / detail::exp_row<A>(x, T(1), most, d, y);
        detail::scale_row<A>(y, by, d, y);
    }
    template <class A, class T>
    void map_back(T const* x, extent_t d, T const* dy, T* dx) const {
        map<A>(x, d, dx);
        T const along = detail::dot_rows<A>(dx, dy, d);
        for (extent_t i = 0; i < d; ++i) { dx[i] *= dy[i] - along; }
    }
};

struct hedgehog_map {
    HEED_HD extent_t width(extent_t d) const { return 2 * d; }
    template <class A, class T>
    void map(T const* x, extent_t d, T* y) const {
        T most = T(0);
        for (extent_t i = 0; i < d; ++i) { most = math::max(math::abs(x[i]), most); }
        T const sum = detail::exp_row<A>(x, T(1), most, d, y) + detail::exp_row<A>(x, T(-1), most, d, y + d);
        detail::scale_row<A>(y, T(1) / sum, 2 * d, y);
    }
    template <class A, class T>
    void map_back(T const* x, extent_t d, T const* dy, T* dx) const {
        // the weights of both halves again, one number at a time: no row of 2 d is at hand
        T most = T(0), sum(0), along(0);
        for (extent_t i = 0; i < d; ++i) { most = math::max(math::abs(x[i]), most); }
        for (extent_t i = 0; i < d; ++i) {
            T const up = math::exp(x[i] - most), down = math::exp(-x[i] - most);
            sum += up + down;
            along += up * dy[i] + down * dy[d + i];
        }
        along /= sum;
        for (extent_t i = 0; i < d; ++i) { dx[i] = (math::exp(x[i] - most) * (dy[i] - along) - math::exp(-x[i] - most) * (dy[d + i] - along)) / sum; }
    }
};

struct hadamard_map {
    HEED_HD extent_t width(extent_t d) const { return d / 2; }
    template <class A, class T>
    void map(T const* x, extent_t d, T* y) const {
        using V = vec<T, A>;
        extent_t const n = d / 2;
        detail::along_row<V>(n, [&](extent_t i) HEED_INLINE_LAMBDA { (V::load(x + i) * V::load(x + n + i)).store(y + i); }, [&](extent_t i) HEED_INLINE_LAMBDA { y[i] = x[i] * x[n + i]; });
    }
    template <class A, class T>
    void map_back(T const* x, extent_t d, T const* dy, T* dx) const {
        extent_t const n = d / 2;
        for (extent_t i = 0; i < n; ++i) { dx[i] = dy[i] * x[n + i], dx[n + i] = dy[i] * x[i]; }
        if (d % 2 != 0) { dx[d - 1] = T(0); }
    }
};

struct dpfp_map {
    extent_t shifts = 1;

    HEED_HD extent_t width(extent_t d) const { return 2 * d * shifts; }
    template <class A, class T>
    void map(T const* x, extent_t d, T* y) const {
        for (extent_t j = 1; j <= shifts; ++j) {
            for (extent_t i = 0; i < 2 * d; ++i) { *y++ = part(x, d, i) * part(x, d, other(i, j, d)); }
        }
    }
    template <class A, class T>
    void map_back(T const* x, extent_t d, T const* dy, T* dx) const {
        for (extent_t i = 0; i < d; ++i) { dx[i] = T(0); }
        for (extent_t j = 1; j <= shifts; ++j) {
            for (extent_t i = 0; i < 2 * d; ++i, ++dy) {
                extent_t const o = other(i, j, d);
                T const a = part(x, d, i), b = part(x, d, o);
                if (a > T(0)) { dx[i % d] += (i < d ? *dy : -*dy) * b; }
                if (b > T(0)) { dx[o % d] += (o < d ? *dy : -*dy) * a; }
            }
        }
    }

private:
    HEED_HD static extent_t other(extent_t i, extent_t j, extent_t d) { return ((i - j) % (2 * d) + 2 * d) % (2 * d); }
    template <class T>
    HEED_HD static T part(T const* x, extent_t d, extent_t i) {
        T const v = i < d ? x[i] : -x[i - d];
        return v < T(0) ? T(0) : v;
    }
};

template <class F>
concept RowMap = Policy<F> && requires(F const f, extent_t d) {
    { f.width(d) } -> std::convertible_to<extent_t>;
};
// A map that takes keys in another way than queries, with a number that all keys of a head share. Beside the above:
//   known_peak()                            the shared number, where
//   looks_at_keys                           is false; otherwise it is the largest of all keys' peaks
//   peak<A>(x, d, work)                     of one key; work of width(d) numbers
//   map_keys<A>(x, d, shared, y)            as map, of a key
//   map_keys_back<A>(x, d, shared, dy, dx)  as map_back; returns the derivative by the shared number
//   peak_back<A>(x, d, by, dx)              dx = by times the derivative of the key's own peak
template <class F>
inline constexpr bool maps_keys_apart = false;
template <class F>
    requires requires { F::keys_apart; }
inline constexpr bool maps_keys_apart<F> = F::keys_apart;
template <class F>
inline constexpr bool looks_at_keys = false;
template <class F>
    requires maps_keys_apart<F>
inline constexpr bool looks_at_keys<F> = F::looks_at_keys;

} // namespace heed
