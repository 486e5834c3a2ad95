// SPDX-License-Identifier: BSD-3-Clause
// Discrete Fourier transforms of 2, 3, 4, 5, 7, 8, 11, 13 points on registers: each lane is a transform of its own, so nothing is ever shuffled.
//
//   y_q = sum_k x_k exp(-2 pi i k q / R)
//
// Inverse: exchange re and im before and after (swap(F(swap x)) is the sum with +i). Powers of two by halves; odd R by the even and odd parts
// x_k + x_{R-k}, x_k - x_{R-k}, (R - 1)^2 fused multiply-adds. Rounding: a few eps, no constant is off by more than half an ulp.
#pragma once

#include <heed/kernel/batch.hpp>

namespace heed {

// Two registers of real numbers: lanes complex numbers.
template <class V>
struct complex_lanes {
    V re, im;

    HEED_INLINE friend complex_lanes operator+(complex_lanes const& a, complex_lanes const& b) { return {a.re + b.re, a.im + b.im}; }
    HEED_INLINE friend complex_lanes operator-(complex_lanes const& a, complex_lanes const& b) { return {a.re - b.re, a.im - b.im}; }
};
// a - i b, a + i b
template <class V>
HEED_INLINE complex_lanes<V> minus_i(complex_lanes<V> const& a, complex_lanes<V> const& b) {
    return {a.re + b.im, a.im - b.re};
}
template <class V>
HEED_INLINE complex_lanes<V> plus_i(complex_lanes<V> const& a, complex_lanes<V> const& b) {
    return {a.re - b.im, a.im + b.re};
}
// x (wr + i wi), the factor equal in all lanes or not
template <class V>
HEED_INLINE complex_lanes<V> times(complex_lanes<V> const& x, V wr, V wi) {
    return {fma(x.re, wr, -(x.im * wi)), fma(x.re, wi, x.im * wr)};
}

namespace detail {

template <int R>
struct odd_roots; // cos and sin of 2 pi k / R, k = 1 ... (R - 1) / 2
template <>
struct odd_roots<3> {
    static constexpr double c[] = {-0.5}, s[] = {0.8660254037844386467637};
};
template <>
struct odd_roots<5> {
    static constexpr double c[] = {0.3090169943749474241023, -0.8090169943749474241023}, s[] = {0.9510565162951535721164, 0.5877852522924731291687};
};
template <>
struct odd_roots<7> {
    static constexpr double c[] = {0.623489801858733530525, -0.2225209339563144042889, -0.9009688679024191262361},
                            s[] = {0.7818314824680298087084, 0.9749279121818236070181, 0.4338837391175581204758};
};
template <>
struct odd_roots<11> {
    static constexpr double c[] = {0.8412535328311811688618, 0.4154150130018864255293, -0.1423148382732851404438, -0.6548607339452850640569, -0.9594929736144973898904},
                            s[] = {0.5406408174555975821076, 0.9096319953545183714117, 0.9898214418809327323761, 0.755749574354258283774, 0.2817325568414296977114};
};
template <>
struct odd_roots<13> {
    static constexpr double c[] = {0.8854560256532098959004, 0.5680647467311558025118, 0.1205366802553230533491, -0.3546048870425356259696, -0.7485107481711010986346, -0.970941817426052027157},
                            s[] = {0.464723172043768545656, 0.8229838658936563945796, 0.9927088740980539928008, 0.9350162426854148234398, 0.6631226582407952023768, 0.2393156642875577671488};
};
// index 1 ... (R - 1) / 2 of the root R reaches with k q, and the sign of its sine
template <int R>
constexpr int root_index(int kq) {
    return kq % R <= (R - 1) / 2 ? kq % R : R - kq % R;
}
template <int R>
constexpr double root_sign(int kq) {
    return kq % R <= (R - 1) / 2 ? 1.0 : -1.0;
}

} // namespace detail

template <int R, class V>
HEED_INLINE void butterfly(complex_lanes<V> (&x)[R]) {
    using C = complex_lanes<V>;
    if constexpr (R == 1) {
        return;
    } else if constexpr (R == 2) {
        C const t = x[0] - x[1];
        x[0] = x[0] + x[1];
        x[1] = t;
    } else if constexpr (R == 4) {
        C const a = x[0] + x[2], b = x[0] - x[2], c = x[1] + x[3], d = x[1] - x[3];
        x[0] = a + c;
        x[1] = minus_i(b, d);
        x[2] = a - c;
        x[3] = plus_i(b, d);
    } else if constexpr (R == 8) {
        V const half(0.70710678118654752440);
        C const a0 = x[0] + x[4], b0 = x[0] - x[4], a2 = x[2] + x[6], b2 = x[2] - x[6];
        C const e0 = a0 + a2, e2 = a0 - a2, o1 = minus_i(b0, b2), o3 = plus_i(b0, b2);
        C const a1 = x[1] + x[5], b1 = x[1] - x[5], a3 = x[3] + x[7], b3 = x[3] - x[7];
        C const f0 = a1 + a3, f2 = a1 - a3, p = minus_i(b1, b3), r = plus_i(b1, b3);
        x[0] = e0 + f0;
        x[4] = e0 - f0;
        x[2] = minus_i(e2, f2);
        x[6] = plus_i(e2, f2);
        // w_8 p = (1 - i) p / sqrt 2 and w_8^3 r = -(1 + i) r / sqrt 2, the division folded into the sums
        C const u{p.re + p.im, p.im - p.re}, v{r.im - r.re, r.re + r.im}; // v with its imaginary part's sign left out
        x[1] = {fma(u.re, half, o1.re), fma(u.im, half, o1.im)};
        x[5] = {fma(u.re, -half, o1.re), fma(u.im, -half, o1.im)};
        x[3] = {fma(v.re, half, o3.re), fma(v.im, -half, o3.im)};
        x[7] = {fma(v.re, -half, o3.re), fma(v.im, half, o3.im)};
    } else {
        static_assert(R % 2 == 1);
        constexpr int H = (R - 1) / 2;
        using roots = detail::odd_roots<R>;
        C sum[H], difference[H], y[R];
        y[0] = x[0];
        static_for<H>([&](auto k) HEED_INLINE_LAMBDA {
            constexpr int K = decltype(k)::value;
            sum[K] = x[K + 1] + x[R - 1 - K];
            difference[K] = x[K + 1] - x[R - 1 - K];
            y[0] = y[0] + sum[K];
        });
        if constexpr (R == 3) { // fused here, not by the compiler: it would in one copy of a pass and not in another
            V const c(roots::c[0]), s(roots::s[0]);
            C const even{fma(sum[0].re, c, x[0].re), fma(sum[0].im, c, x[0].im)}, d = difference[0];
            x[0] = y[0];
            x[1] = {fma(d.im, s, even.re), fma(d.re, -s, even.im)};
            x[2] = {fma(d.im, -s, even.re), fma(d.re, s, even.im)};
            return;
        }
        static_for<H>([&](auto q) HEED_INLINE_LAMBDA {
            constexpr int Q = decltype(q)::value + 1;
            C even = x[0];
            C odd;
            static_for<H>([&](auto k) HEED_INLINE_LAMBDA {
                constexpr int K = decltype(k)::value + 1, at = detail::root_index<R>(K * Q) - 1;
                V const c(roots::c[at]), s(detail::root_sign<R>(K * Q) * roots::s[at]);
                even = {fma(sum[K - 1].re, c, even.re), fma(sum[K - 1].im, c, even.im)};
                if constexpr (K == 1) {
                    odd = {difference[0].re * s, difference[0].im * s};
                } else {
                    odd = {fma(difference[K - 1].re, s, odd.re), fma(difference[K - 1].im, s, odd.im)};
                }
            });
            y[Q] = minus_i(even, odd);
            y[R - Q] = plus_i(even, odd);
        });
        static_for<R>([&](auto k) HEED_INLINE_LAMBDA { x[decltype(k)::value] = y[decltype(k)::value]; });
    }
}

} // namespace heed
