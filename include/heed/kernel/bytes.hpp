// SPDX-License-Identifier: BSD-3-Clause
// One-byte storage of cached keys and values, value = code * scale, the scale of a row or of a head kept beside it.
//
//   std::int8_t   -127 ... 127; with the scale max|x| / 127 of a row, the error is at most max|x| / 254 an element: 0.4 % of the row's largest
//   fp8_e4m3      1 sign, 4 exponent (bias 7), 3 fraction bits, largest 448, no infinity, NaN is 0x7f (OCP 8-bit floating point, E4M3): at most
//                 6.25 % of each element (2^-4, half a step) down to 2^-6 of the scale, 2^-10 of it below
//
// Rows whose elements are alike lose least as int8, rows with a few large elements as fp8. Rounding is to nearest, ties to even, beyond the
// largest code to that code. int8 has no NaN: a row that is not finite gets the scale NaN. widen gives code / code_unit in registers.
#pragma once

#include <heed/kernel/half.hpp>
#include <heed/kernel/math.hpp>

#include <cmath>

namespace heed {

namespace detail {

HEED_HD std::uint8_t to_e4m3(float x) {
    std::uint32_t const u = std::bit_cast<std::uint32_t>(x), sign = (u >> 24) & 0x80u, a = u & 0x7fffffffu;
    std::uint32_t const normal = ((a + 0x7ffffu + ((a >> 20) & 1u)) >> 20) - (120u << 3);
    // below 2^-6: multiples of 2^-9, rounded by the addition of a number whose last bit is 2^-9
    std::uint32_t const tiny = std::bit_cast<std::uint32_t>(std::bit_cast<float>(a < 0x3c800000u ? a : 0u) + 16384.0f) & 0xfu;
    std::uint32_t code = a < 0x3c800000u ? tiny : normal;
    code = a >= 0x43e00000u ? 0x7eu : code;
    code = a > 0x7f800000u ? 0x7fu : code;
    return static_cast<std::uint8_t>(sign | code);
}
// The bits of code / 256 as fp16: the same fields, one place wider.
HEED_HD std::uint16_t e4m3_as_fp16(std::uint8_t code) {
    std::uint32_t const low = code & 0x7fu;
    return static_cast<std::uint16_t>((static_cast<std::uint32_t>(code & 0x80u) << 8) | (low << 7) | (low == 0x7fu ? 0x7c00u : 0u));
}

} // namespace detail

struct fp8_e4m3 {
    std::uint8_t bits;

    fp8_e4m3() = default;
    HEED_HD explicit fp8_e4m3(float x) : bits(detail::to_e4m3(x)) {}
    HEED_HD explicit operator float() const { return detail::from_fp16(detail::e4m3_as_fp16(bits)) * 256.0f; }
};

template <>
struct compute_of<std::int8_t> {
    using type = float;
};
template <>
struct compute_of<fp8_e4m3> {
    using type = float;
};

template <class E>
inline constexpr bool is_byte = std::is_same_v<E, std::int8_t> || std::is_same_v<E, fp8_e4m3>;
template <class E>
inline constexpr float code_unit = std::is_same_v<E, fp8_e4m3> ? 256.0f : 1.0f;
template <class E>
inline constexpr float largest_code = std::is_same_v<E, fp8_e4m3> ? 448.0f : 127.0f;

// V::lanes elements as a register, divided by code_unit.
template <class V, class E>
HEED_INLINE V widen(E const* p) {
    using A [[maybe_unused]] = typename V::arch_type;
    if constexpr (std::is_same_v<E, std::int8_t>) {
#if defined(__AVX512F__)
        if constexpr (A::has(isa::avx512f)) {
            return {typename V::native(_mm512_maskz_cvtepi32_ps(0xffff, _mm512_maskz_cvtepi8_epi32(0xffff, _mm_loadu_si128(reinterpret_cast<__m128i const*>(p)))))};
        } else
#endif
#if defined(__AVX2__)
        if constexpr (A::has(isa::avx2) && V::lanes == 8) {
            return {typename V::native(_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<__m128i const*>(p)))))};
        } else
#endif
        {
            float wide[V::lanes];
            for (int l = 0; l < V::lanes; ++l) { wide[l] = static_cast<float>(p[l]); }
            return V::load(wide);
        }
    } else if constexpr (std::is_same_v<E, fp8_e4m3>) {
#if defined(__AVX512F__)
        if constexpr (A::has(isa::avx512f | isa::avx2)) {
            __m256i h = _mm256_slli_epi16(_mm256_cvtepi8_epi16(_mm_loadu_si128(reinterpret_cast<__m128i const*>(p))), 7);
            h = _mm256_and_si256(h, _mm256_set1_epi16(static_cast<short>(0xbf80)));
            __m256i const top = _mm256_set1_epi16(0x3f80), nan = _mm256_cmpeq_epi16(_mm256_and_si256(h, top), top);
            h = _mm256_or_si256(h, _mm256_and_si256(nan, _mm256_set1_epi16(0x7c00)));
            return {typename V::native(_mm512_maskz_cvtph_ps(0xffff, h))};
        } else
#endif
#if defined(__F16C__) && defined(__AVX2__)
        if constexpr (A::has(isa::avx2 | isa::f16c) && V::lanes == 8) {
            __m128i h = _mm_slli_epi16(_mm_cvtepi8_epi16(_mm_loadl_epi64(reinterpret_cast<__m128i const*>(p))), 7);
            h = _mm_and_si128(h, _mm_set1_epi16(static_cast<short>(0xbf80)));
            __m128i const top = _mm_set1_epi16(0x3f80), nan = _mm_cmpeq_epi16(_mm_and_si128(h, top), top);
            h = _mm_or_si128(h, _mm_and_si128(nan, _mm_set1_epi16(0x7c00)));
            return {typename V::native(_mm256_cvtph_ps(h))};
        } else
#endif
        {
            float wide[V::lanes];
            for (int l = 0; l < V::lanes; ++l) { wide[l] = detail::from_fp16(detail::e4m3_as_fp16(p[l].bits)); }
            return V::load(wide);
        }
    } else {
        return load_as<V>(p);
    }
}

// The last `rest` < lanes elements of a row of n, in the last lanes; what the other lanes hold does not matter. No byte outside the row is read.
template <class V, class E>
HEED_INLINE V widen_end(E const* row, extent_t n, extent_t rest) {
    if (n >= V::lanes) { return widen<V>(row + n - V::lanes); }
    E part[V::lanes] = {};
    for (extent_t l = 0; l < rest; ++l) { part[V::lanes - rest + l] = row[n - rest + l]; }
    return widen<V>(part);
}

// A row stored as codes. scale: what a code is multiplied by; the return of fitted_scale for a row of its own, else anything positive.
template <class E, class S>
HEED_INLINE float fitted_scale(S const* x, extent_t step, extent_t n) {
    float top = 0, nan = 0;
    for (extent_t c = 0; c < n; ++c) {
        float const v = static_cast<float>(x[c * step]), a = std::fabs(v);
        top = a > top ? a : top;
        nan += v * 0.0f; // 0 while all are finite
    }
    return nan == 0.0f ? top / largest_code<E> : nan + std::bit_cast<float>(0x7fc00000u);
}
template <class E, class S>
HEED_INLINE void store_codes(S const* x, extent_t step, extent_t n, float scale, E* to, extent_t to_step) {
    bool const any = scale > 0; // not for rows of zeros, nor of NaN
    for (extent_t c = 0; c < n; ++c) {
        float const v = any ? static_cast<float>(x[c * step]) / scale : 0.0f;
        if constexpr (std::is_same_v<E, fp8_e4m3>) {
            to[c * to_step] = fp8_e4m3(v);
        } else {
            float const r = std::nearbyint(v < -127.0f ? -127.0f : v > 127.0f ? 127.0f : v);
            to[c * to_step] = static_cast<std::int8_t>(r == r ? r : 0.0f);
        }
    }
}

// The row that codes stand for.
template <class V, class E>
HEED_INLINE void load_codes(E const* x, extent_t n, float scale, typename V::value_type* to) {
    using T = typename V::value_type;
    T const by = T(scale) * T(code_unit<E>);
    extent_t e = 0;
    for (; e + V::lanes <= n; e += V::lanes) { (widen<V>(x + e) * V(by)).store(to + e); }
    for (; e < n; ++e) { to[e] = static_cast<T>(x[e]) / T(code_unit<E>) * by; }
}

} // namespace heed
