// SPDX-License-Identifier: BSD-3-Clause
// Elementary functions for policies and engines, written once over a value type V: float, double, vec<T, A>, dual<V>.
// Policies call them unqualified after `using heed::math::exp;`: scalars come from here, registers by argument-dependent lookup.
//
// exp       1 ulp at most in float over all inputs, exact at 0 and -inf, NaN kept, gradual underflow kept
// fast_exp2 3 ulp at most on [-126, 0], exact at 0 and -inf, NaN kept; results below 2^-126 are flushed or coarse. For x <= 0 (engines).
// Seen on every float, with SSE2 and AVX2: exp 0.995, fast_exp2 2.3 ulp (bench/results).
// tanh      4 ulp at most: built on expm1, so small arguments keep their relative accuracy
// expm1     3 ulp at most, exact at 0 and -inf (-1)
// log       3 ulp at most, exact at 1, 0 (-inf) and inf, NaN below 0
// log1p_unit  ln(1 + x) for 0 <= x <= 1, 3 ulp at most: small arguments keep their relative accuracy
#pragma once

#include <heed/config.hpp>
#include <heed/kernel/batch.hpp>

#include <cmath>
#include <limits>

namespace heed {

namespace math {

HEED_HD float exp(float x) { return std::exp(x); }
HEED_HD double exp(double x) { return std::exp(x); }
HEED_HD float expm1(float x) { return std::expm1(x); }
HEED_HD double expm1(double x) { return std::expm1(x); }
HEED_HD float fast_exp2(float x) {
#if defined(HEED_ON_DEVICE)
    float y; // one instruction, 2 ulp, exact at 0 and -inf; results below 2^-126 are 0
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
#else
    return std::exp2(x);
#endif
}
HEED_HD double fast_exp2(double x) { return std::exp2(x); }
HEED_HD float log2(float x) { return std::log2(x); }
HEED_HD double log2(double x) { return std::log2(x); }
HEED_HD float log(float x) { return std::log(x); }
HEED_HD double log(double x) { return std::log(x); }
HEED_HD float tanh(float x) { return std::tanh(x); }
HEED_HD double tanh(double x) { return std::tanh(x); }
HEED_HD float log1p_unit(float x) { return std::log1p(x); }
HEED_HD double log1p_unit(double x) { return std::log1p(x); }
HEED_HD float sqrt(float x) { return std::sqrt(x); }
HEED_HD double sqrt(double x) { return std::sqrt(x); }
HEED_HD float abs(float x) { return std::fabs(x); }
HEED_HD double abs(double x) { return std::fabs(x); }
// as the registers do: the second operand when either is NaN
HEED_HD float max(float a, float b) { return a > b ? a : b; }
HEED_HD double max(double a, double b) { return a > b ? a : b; }
HEED_HD float min(float a, float b) { return a < b ? a : b; }
HEED_HD double min(double a, double b) { return a < b ? a : b; }
// the greater or lesser of x and acc, a number: acc where x is none. On GPUs one instruction, where max takes two.
#if defined(HEED_ON_DEVICE)
HEED_HD float greater_number(float x, float acc) { return ::fmaxf(x, acc); }
HEED_HD float lesser_number(float x, float acc) { return ::fminf(x, acc); }
#else
HEED_HD float greater_number(float x, float acc) { return max(x, acc); }
HEED_HD float lesser_number(float x, float acc) { return min(x, acc); }
#endif
HEED_HD double greater_number(double x, double acc) { return max(x, acc); }
HEED_HD double lesser_number(double x, double acc) { return min(x, acc); }
HEED_HD float select(bool m, float a, float b) { return m ? a : b; }
HEED_HD double select(bool m, double a, double b) { return m ? a : b; }
HEED_HD float side_sum(float a, float b) { return a + b; }
HEED_HD double side_sum(double a, double b) { return a + b; }
HEED_HD float side_difference(float a, float b) { return a - b; }
HEED_HD double side_difference(double a, double b) { return a - b; }
HEED_HD bool any(bool m) { return m; }
HEED_HD float fma(float a, float b, float c) { return std::fma(a, b, c); }
HEED_HD double fma(double a, double b, double c) { return std::fma(a, b, c); }

inline constexpr double log2e = 1.4426950408889634074;
inline constexpr double ln2 = 0.69314718055994530942;

// the type of the numbers inside V
template <class V>
struct scalar_of {
    using type = V;
};
template <class T, class A>
struct scalar_of<vec<T, A>> {
    using type = T;
};
template <class V>
using scalar_t = typename scalar_of<V>::type;

// infinity of V; a function, since device code may not touch numeric_limits
template <class V>
HEED_HD V inf() {
    return V(static_cast<scalar_t<V>>(__builtin_huge_val()));
}

} // namespace math

// Scalar positions, for the engines that walk element by element.
template <class V>
HEED_HD V to_value(extent_t i) {
    return V(i);
}

template <class T, class A>
HEED_INLINE vec<T, A> greater_number(vec<T, A> x, vec<T, A> acc) {
    return max(x, acc);
}
template <class T, class A>
HEED_INLINE vec<T, A> lesser_number(vec<T, A> x, vec<T, A> acc) {
    return min(x, acc);
}

namespace detail {

// Horner's rule, coefficients from the lowest degree up.
template <class V, class T, int N>
HEED_INLINE V polynomial(V x, T const (&c)[N]) {
    V sum(c[N - 1]);
    static_for<N - 1>([&](auto k) HEED_INLINE_LAMBDA { sum = fma(sum, x, V(c[N - 2 - decltype(k)::value])); });
    return sum;
}

// 2^r on [-1/2, 1/2], constant term exactly 1. Float: minimax for the relative error, 0.8 ulp before rounding.
// Double: (ln 2)^k / k!, the remainder is below 2^-57.
inline constexpr float exp2_float[] = {1.0f, 0.6931470036506653f, 0.24022242426872253f, 0.05550733953714371f, 0.009671511128544807f, 0.001326465280726552f};
// The same on [0, 1]: 0.7 ulp before rounding, 2.5 after it on three million samples.
inline constexpr float exp2_float_up[] = {1.0f, 0.6931512355804443f, 0.24016445875167847f, 0.0557999350130558f, 0.009017044678330421f, 0.0018671839497983456f};
inline constexpr double exp2_double[] = {1.0,
                                         0.69314718055994530942,
                                         0.24022650695910071233,
                                         0.055504108664821579953,
                                         0.0096181291076284771620,
                                         0.0013333558146428443423,
                                         0.00015403530393381609954,
                                         1.5252733804059840280e-5,
                                         1.3215486790144309488e-6,
                                         1.0178086009239699728e-7,
                                         7.0549116208011233299e-9,
                                         4.4455382718708114976e-10,
                                         2.5678435993488205142e-11,
                                         1.3691488853904128881e-12};
// (2^r - 1) / r on [-1/2, 1/2]
inline constexpr float exp2m1_float[] = {0.6931471824645996f, 0.24022647738456726f, 0.055503323674201965f, 0.009618429467082024f, 0.0013398935552686453f, 0.0001535515475552529f};
inline constexpr double exp2m1_double[] = {0.69314718055994530942,
                                           0.24022650695910071233,
                                           0.055504108664821579953,
                                           0.0096181291076284771620,
                                           0.0013333558146428443423,
                                           0.00015403530393381609954,
                                           1.5252733804059840280e-5,
                                           1.3215486790144309488e-6,
                                           1.0178086009239699728e-7,
                                           7.0549116208011233299e-9,
                                           4.4455382718708114976e-10,
                                           2.5678435993488205142e-11,
                                           1.3691488853904128881e-12};
// (e^r - 1 - r) / r^2 on [-ln(2)/2, ln(2)/2]
inline constexpr float expm1_float[] = {0.5f, 0.1666666716337204f, 0.04166663438081741f, 0.008332615718245506f, 0.0013921353965997696f, 0.0002046952286036685f};
inline constexpr double expm1_double[] = {1.0 / 2,         1.0 / 6,          1.0 / 24,          1.0 / 120,          1.0 / 720,           1.0 / 5040,          1.0 / 40320,
                                          1.0 / 362880,    1.0 / 3628800,    1.0 / 39916800,    1.0 / 479001600,    1.0 / 6227020800,    1.0 / 87178291200};

// atanh(z) / z in powers of z^2: for |z| <= 0.1716 (log) the leading part, for |z| <= 1/3 (log1p_unit) all
template <class T, int N>
struct odd_reciprocals {
    T c[N] = {};
    constexpr odd_reciprocals() {
        for (int k = 0; k < N; ++k) { c[k] = T(1) / T(2 * k + 1); }
    }
};

template <class T>
struct exp_constants;
template <>
struct exp_constants<float> {
    static constexpr float least = -127.0f;                                          // 2^least is flushed to exactly 0
    static constexpr float ln2_high = 0.693359375f, ln2_low = -2.12194440e-4f;       // high part has 10 bits: n * high is exact
    static constexpr float overflow = 128.0f, underflow = -151.0f;                   // in powers of 2
};
template <>
struct exp_constants<double> {
    static constexpr double least = -1023.0;
    static constexpr double ln2_high = 6.93145751953125e-1, ln2_low = 1.42860682030941723212e-6;
    static constexpr double overflow = 1024.0, underflow = -1076.0;
};

// n = round(x / ln 2) and r = x - n ln 2, |r| <= ln(2)/2, accurate for |n| below 2^13
template <class T, class A>
HEED_INLINE vec<T, A> reduce_ln2(vec<T, A> x, vec<T, A>& n) {
    using V = vec<T, A>;
    using C = exp_constants<T>;
    n = nearbyint(x * V(math::log2e));
    return fma(n, V(-C::ln2_low), fma(n, V(-C::ln2_high), x));
}
// e^r - 1
template <class T, class A>
HEED_INLINE vec<T, A> expm1_reduced(vec<T, A> r) {
    if constexpr (sizeof(T) == 4) {
        return fma(r * r, polynomial(r, expm1_float), r);
    } else {
        return fma(r * r, polynomial(r, expm1_double), r);
    }
}

} // namespace detail

template <class T, class A>
HEED_INLINE vec<T, A> fast_exp2(vec<T, A> x) {
    using V = vec<T, A>;
    constexpr T least = detail::exp_constants<T>::least;
    if constexpr (!A::has(isa::avx512f)) { x = max(V(least), x); } // there the exponent is made by integer arithmetic and must stay in range
    if constexpr (has_fraction<T, A>) { // one instruction less, 2 % of attention where additions share the ports of products
        return scale_exponent_above(detail::polynomial(fraction(x), detail::exp2_float_up), x, x, least + T(1));
    }
    V const n = nearbyint(x);
    V const r = x - n;
    if constexpr (sizeof(T) == 4) {
        return scale_exponent_above(detail::polynomial(r, detail::exp2_float), n, x, least + T(1));
    } else {
        return scale_exponent_above(detail::polynomial(r, detail::exp2_double), n, x, least + T(1));
    }
}

template <class T, class A>
HEED_INLINE vec<T, A> exp(vec<T, A> x) {
    using V = vec<T, A>;
    using C = detail::exp_constants<T>;
    // Beyond these bounds the answer is inf or 0 whatever the bits; NaN passes as the second operand.
    V const bounded = min(V(C::overflow * T(math::ln2) + T(1)), max(V(C::underflow * T(math::ln2) - T(1)), x));
    V n;
    V const r = detail::reduce_ln2(bounded, n);
    V const p = V(1) + detail::expm1_reduced(r);
    // 2^n in two steps: only the second may leave the normal range, so only it rounds.
    V const half = nearbyint(n * V(0.5));
    V const rest = n - half;
    return scale_exponent(p, half) * scale_exponent(V(1), rest);
}

// 2^n (e^r - 1) + (2^n - 1), x = n ln 2 + r: small arguments keep their relative accuracy, -inf gives exactly -1
template <class T, class A>
HEED_INLINE vec<T, A> expm1(vec<T, A> x) {
    using V = vec<T, A>;
    using C = detail::exp_constants<T>;
    // below, the result rounds to -1; above, to inf. NaN passes as the second operand.
    V const bounded = min(V(C::overflow * T(math::ln2) + T(1)), max(V(sizeof(T) == 4 ? -20 : -40), x));
    V n;
    V const p = detail::expm1_reduced(detail::reduce_ln2(bounded, n));
    V const half = nearbyint(n * V(0.5)), a = scale_exponent(V(1), half), b = scale_exponent(V(1), n - half);
    V const small = fma(a * b, p, a * b - V(1)), large = (V(1) + p) * a * b; // far up, 2^n alone may be too much
    return select(n < V(C::overflow - T(2)), small, large);
}

// x = m 2^n with m in [sqrt(1/2), sqrt(2)]; ln x = n ln 2 + 2 atanh((m - 1) / (m + 1))
template <class T, class A>
HEED_INLINE vec<T, A> log(vec<T, A> x) {
    using V = vec<T, A>;
    using C = detail::exp_constants<T>;
    static constexpr detail::odd_reciprocals<T, sizeof(T) == 4 ? 5 : 11> series;
    constexpr T tiny = sizeof(T) == 4 ? T(0x1p-126) : T(0x1p-1022), up = sizeof(T) == 4 ? T(0x1p24) : T(0x1p53);
    auto const small = x < V(tiny);
    V const normal = select(small, x * V(up), x);
    V n, m;
    split_exponent(normal, n, m);
    auto const high = m > V(1.41421356237309504880);
    m = select(high, m * V(0.5), m);
    n = n + select(high, V(1), V(0)) - select(small, V(sizeof(T) == 4 ? 24 : 53), V(0));
    V const z = (m - V(1)) / (m + V(1));
    V const ln_m = (z + z) * detail::polynomial(z * z, series.c);
    V const y = fma(n, V(C::ln2_high), fma(n, V(C::ln2_low), ln_m));
    V const positive = select(x == math::inf<V>(), x, y);
    return select(x > V(0), positive, select(x == V(0), -math::inf<V>(), (x - x) / (x - x)));
}

template <class T, class A>
HEED_INLINE vec<T, A> log1p_unit(vec<T, A> x) {
    using V = vec<T, A>;
    static constexpr detail::odd_reciprocals<T, sizeof(T) == 4 ? 8 : 17> series;
    V const z = x / (x + V(2));
    return (z + z) * detail::polynomial(z * z, series.c);
}

template <class T, class A>
HEED_INLINE vec<T, A> tanh(vec<T, A> x) {
    using V = vec<T, A>;
    // tanh x = (2^y - 1) / (2^y + 1), y = 2 x log2 e; from |x| = 10 (20 in double) on it rounds to 1
    V const bound(sizeof(T) == 4 ? 29 : 58);
    V const y = min(bound, max(-bound, x * V(2 * math::log2e)));
    V const n = nearbyint(y);
    V const r = y - n;
    V m; // 2^r - 1, relatively accurate around 0
    if constexpr (sizeof(T) == 4) {
        m = r * detail::polynomial(r, detail::exp2m1_float);
    } else {
        m = r * detail::polynomial(r, detail::exp2m1_double);
    }
    V const power = scale_exponent(V(1), n);
    m = fma(power, m, power - V(1)); // 2^y - 1
    return fast_divide(m, m + V(2));
}

} // namespace heed
