// SPDX-License-Identifier: BSD-3-Clause
// bf16, fp16: 16-bit storage types, and the registers of floats that are loaded from them and stored to them.
//
//   bf16   1 sign, 8 exponent, 7 fraction bits: the upper half of a float
//   fp16   1 sign, 5 exponent, 10 fraction bits: IEEE 754 binary16, largest number 65504
//
// Widening is exact. Rounding is to nearest, ties to even, gradual underflow kept, beyond the largest number infinity; NaN stays NaN, quiet, with
// its sign and the upper bits of its payload. Scalars and registers give the same bits, whatever the rounding mode and the denormal flags of floats
// (on Arm fp16 rounds in the mode that is set). The bf16 conversion of AVX512_BF16 flushes denormal numbers to 0, so integers are used there too.
#pragma once

#include <heed/kernel/batch.hpp>

#if defined(__aarch64__) && defined(__ARM_NEON)
#include <arm_neon.h>
#endif

#include <bit>

namespace heed {

namespace detail {

// A double as a float whose last bit says that something was cut off, so that rounding it once more rounds the double correctly.
HEED_HD float round_to_odd(double x) {
    float const f = static_cast<float>(x);
    if (static_cast<double>(f) == x || x != x) { return f; }
    bool const beyond = x < 0 ? static_cast<double>(f) < x : static_cast<double>(f) > x;
    return std::bit_cast<float>((std::bit_cast<std::uint32_t>(f) - (beyond ? 1u : 0u)) | 1u);
}
HEED_HD std::uint16_t to_bf16(float x) {
    std::uint32_t const u = std::bit_cast<std::uint32_t>(x);
    if ((u & 0x7fffffffu) > 0x7f800000u) { return static_cast<std::uint16_t>((u >> 16) | 0x40u); }
    return static_cast<std::uint16_t>((u + 0x7fffu + ((u >> 16) & 1u)) >> 16);
}
HEED_HD float from_bf16(std::uint16_t h) { return std::bit_cast<float>(static_cast<std::uint32_t>(h) << 16); }
HEED_HD std::uint16_t to_fp16(float x) {
    std::uint32_t const u = std::bit_cast<std::uint32_t>(x), sign = (u >> 16) & 0x8000u, a = u & 0x7fffffffu;
    std::uint32_t h = 0; // below half of the least number
    if (a > 0x7f800000u) {
        h = 0x7e00u | ((a >> 13) & 0x3ffu);
    } else if (a >= 0x477ff000u) { // 65520 and above
        h = 0x7c00u;
    } else if (a >= 0x38800000u) { // 2^-14: normal
        h = (a - (112u << 23) + 0xfffu + ((a >> 13) & 1u)) >> 13;
    } else if (a >= 0x33000000u) { // 2^-25: multiples of 2^-24
        std::uint32_t const cut = 126u - (a >> 23), m = (a & 0x7fffffu) | 0x800000u;
        h = (m + (1u << (cut - 1u)) - 1u + ((m >> cut) & 1u)) >> cut;
    }
    return static_cast<std::uint16_t>(sign | h);
}
HEED_HD float from_fp16(std::uint16_t h) {
    std::uint32_t const sign = static_cast<std::uint32_t>(h & 0x8000u) << 16, a = h & 0x7fffu;
    std::uint32_t u;
    if (a >= 0x7c00u) {
        u = (a << 13) + (224u << 23) + (a > 0x7c00u && a < 0x7e00u ? 0x400000u : 0u);
    } else if (a >= 0x400u) {
        u = (a << 13) + (112u << 23);
    } else {
        u = std::bit_cast<std::uint32_t>(static_cast<float>(a) * 0x1p-24f);
    }
    return std::bit_cast<float>(sign | u);
}

} // namespace detail

// Storage only: no arithmetic, conversions are explicit.
struct bf16 {
    std::uint16_t bits;
    static constexpr int digits = 8;      // of the significand, as in numeric_limits
    static constexpr int dlpack_code = 4; // kDLBfloat

    bf16() = default;
    HEED_HD explicit bf16(float x) : bits(detail::to_bf16(x)) {}
    HEED_HD explicit bf16(double x) : bits(detail::to_bf16(detail::round_to_odd(x))) {}
    HEED_HD explicit operator float() const { return detail::from_bf16(bits); }
    HEED_HD explicit operator double() const { return detail::from_bf16(bits); }
};
struct fp16 {
    std::uint16_t bits;
    static constexpr int digits = 11;
    static constexpr int dlpack_code = 2; // kDLFloat

    fp16() = default;
    HEED_HD explicit fp16(float x) : bits(detail::to_fp16(x)) {}
    HEED_HD explicit fp16(double x) : bits(detail::to_fp16(detail::round_to_odd(x))) {}
    HEED_HD explicit operator float() const { return detail::from_fp16(bits); }
    HEED_HD explicit operator double() const { return detail::from_fp16(bits); }
};

// The type in which elements of T are computed, saved as log-sum-exp, and held by policies.
template <class T>
struct compute_of {
    using type = T;
};
template <>
struct compute_of<bf16> {
    using type = float;
};
template <>
struct compute_of<fp16> {
    using type = float;
};
template <class T>
using compute_t = typename compute_of<std::remove_const_t<T>>::type;

template <class T>
inline constexpr bool is_half = std::is_same_v<T, bf16> || std::is_same_v<T, fp16>;

namespace detail {

// 16-bit numbers in the low halves of 32-bit lanes.
template <class A>
using half_lanes = xsimd::batch<std::int32_t, xsimd_arch_t<A>>;

template <class A>
HEED_INLINE half_lanes<A> spread(std::uint16_t const* p) {
    using ints = half_lanes<A>;
#if defined(__AVX512F__)
    if constexpr (A::has(isa::avx512f)) { return ints(_mm512_maskz_cvtepu16_epi32(0xffff, _mm256_loadu_si256(reinterpret_cast<__m256i const*>(p)))); } else
#endif
#if defined(__AVX2__)
    if constexpr (A::has(isa::avx2)) { return ints(_mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<__m128i const*>(p)))); } else
#endif
#if defined(__AVX__)
    if constexpr (ints::size == 8) {
        __m128i const all = _mm_loadu_si128(reinterpret_cast<__m128i const*>(p)), zero = _mm_setzero_si128();
        return ints(_mm256_insertf128_si256(_mm256_castsi128_si256(_mm_unpacklo_epi16(all, zero)), _mm_unpackhi_epi16(all, zero), 1));
    } else
#endif
#if defined(__SSE2__)
    if constexpr (ints::size == 4) { return ints(_mm_unpacklo_epi16(_mm_loadl_epi64(reinterpret_cast<__m128i const*>(p)), _mm_setzero_si128())); } else
#endif
#if defined(__aarch64__) && defined(__ARM_NEON)
    if constexpr (A::has(isa::neon64)) { return ints(vreinterpretq_s32_u32(vmovl_u16(vld1_u16(p)))); } else
#endif
    {
        std::int32_t wide[ints::size];
        for (std::size_t l = 0; l < ints::size; ++l) { wide[l] = p[l]; }
        return ints::load_unaligned(wide);
    }
}
#if defined(__SSE2__)
HEED_INLINE __m128i pack_halves(__m128i a, __m128i b) { // sign extended, so that the saturating pack keeps the bits
    return _mm_packs_epi32(_mm_srai_epi32(_mm_slli_epi32(a, 16), 16), _mm_srai_epi32(_mm_slli_epi32(b, 16), 16));
}
#endif
// The low 16 bits of each lane.
template <class A>
HEED_INLINE void gather_halves(half_lanes<A> x, std::uint16_t* p) {
    using ints = half_lanes<A>;
#if defined(__AVX__)
    if constexpr (ints::size == 8) {
        _mm_storeu_si128(reinterpret_cast<__m128i*>(p), pack_halves(_mm256_castsi256_si128(x), _mm256_extractf128_si256(x, 1)));
    } else
#endif
#if defined(__SSE2__)
    if constexpr (ints::size == 4) { _mm_storel_epi64(reinterpret_cast<__m128i*>(p), pack_halves(x, x)); } else
#endif
#if defined(__aarch64__) && defined(__ARM_NEON)
    if constexpr (A::has(isa::neon64)) { vst1_u16(p, vmovn_u32(vreinterpretq_u32_s32(x))); } else
#endif
    {
        std::int32_t wide[ints::size];
        x.store_unaligned(wide);
        for (std::size_t l = 0; l < ints::size; ++l) { p[l] = static_cast<std::uint16_t>(wide[l]); }
    }
}

// The scalar conversions above, lane by lane in integers. Not used with AVX-512, which has them.
template <class A>
HEED_INLINE half_lanes<A> to_bf16(vec<float, A> x) {
    using ints = half_lanes<A>;
    ints const u = register_cast<ints>(x.v), upper = (u >> 16) & ints(0xffff);
    ints const rounded = ((u + ints(0x7fff) + (upper & ints(1))) >> 16);
    return xsimd::select((u & ints(0x7fffffff)) > ints(0x7f800000), upper | ints(0x40), rounded);
}
template <class A>
HEED_INLINE half_lanes<A> to_fp16(vec<float, A> x) {
    using ints = half_lanes<A>;
    using floats = typename vec<float, A>::native;
    ints const u = register_cast<ints>(x.v), a = u & ints(0x7fffffff);
    ints const normal = (a - ints(112 << 23) + ints(0xfff) + ((a >> 13) & ints(1))) >> 13;
    // multiples of 2^-24: cut, then compare what was cut with a half
    floats const scaled = register_cast<floats>(xsimd::select(a < ints(0x38800000), a, ints(0))) * floats(0x1p24f);
    ints const whole = xsimd::to_int(scaled);
    ints const rest = register_cast<ints>(scaled - xsimd::to_float(whole)), half(0x3f000000);
    ints const up = xsimd::select(rest > half, ints(1), xsimd::select(rest == half, whole & ints(1), ints(0)));
    ints h = xsimd::select(a < ints(0x38800000), whole + up, normal);
    h = xsimd::select(a >= ints(0x477ff000), ints(0x7c00), h);
    h = xsimd::select(a > ints(0x7f800000), ints(0x7e00) | ((a >> 13) & ints(0x3ff)), h);
    return h | ((u >> 16) & ints(0x8000));
}
template <class A>
HEED_INLINE vec<float, A> from_fp16(half_lanes<A> h) {
    using ints = half_lanes<A>;
    using floats = typename vec<float, A>::native;
    ints const a = h & ints(0x7fff), sign = (h & ints(0x8000)) << 16;
    ints const tiny = register_cast<ints>(xsimd::to_float(a) * floats(0x1p-24f));
    ints u = (a << 13) + ints(112 << 23);
    u = xsimd::select(a < ints(0x400), tiny, u);
    u = xsimd::select(a >= ints(0x7c00), u + ints(112 << 23), u);
    u = xsimd::select(a > ints(0x7c00), u | ints(0x400000), u);
    return {register_cast<floats>(u | sign)};
}

} // namespace detail

// V::lanes elements as a register, widened; store_as rounds. V is a register of compute_t<T>.
template <class V, class T>
HEED_INLINE V load_as(T const* p) {
    using A = typename V::arch_type;
    static_assert(std::is_same_v<compute_t<T>, typename V::value_type>, "heed: a register holds elements of the type in which T is computed");
    if constexpr (!is_half<T>) {
        return V::load(p);
    } else {
        std::uint16_t const* const h = reinterpret_cast<std::uint16_t const*>(p);
        if constexpr (std::is_same_v<T, bf16>) {
#if defined(__AVX512F__)
            if constexpr (A::has(isa::avx512f)) {
                return {typename V::native(_mm512_castsi512_ps(_mm512_maskz_slli_epi32(0xffff, detail::spread<A>(h), 16)))};
            } else
#endif
            { return {detail::register_cast<typename V::native>(detail::spread<A>(h) << 16)}; }
        } else {
#if defined(__AVX512F__)
            if constexpr (A::has(isa::avx512f)) {
                return {typename V::native(_mm512_maskz_cvtph_ps(0xffff, _mm256_loadu_si256(reinterpret_cast<__m256i const*>(h))))};
            } else
#endif
#if defined(__F16C__)
            if constexpr (A::has(isa::f16c) && V::lanes == 8) {
                return {typename V::native(_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<__m128i const*>(h))))};
            } else
#endif
#if defined(__aarch64__) && defined(__ARM_NEON)
            if constexpr (A::has(isa::neon64)) { return {typename V::native(vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(h))))}; } else
#endif
            { return detail::from_fp16<A>(detail::spread<A>(h)); }
        }
    }
}
template <class V, class T>
HEED_INLINE void store_as(T* p, V x) {
    using A = typename V::arch_type;
    static_assert(std::is_same_v<compute_t<T>, typename V::value_type>, "heed: a register holds elements of the type in which T is computed");
    if constexpr (!is_half<T>) {
        x.store(p);
    } else {
        std::uint16_t* const h = reinterpret_cast<std::uint16_t*>(p);
        if constexpr (std::is_same_v<T, bf16>) {
#if defined(__AVX512F__)
            if constexpr (A::has(isa::avx512f)) {
                __m512i const u = _mm512_castps_si512(x.v), last = _mm512_maskz_and_epi32(0xffff, _mm512_maskz_srli_epi32(0xffff, u, 16), _mm512_set1_epi32(1));
                __m512i const r = _mm512_maskz_add_epi32(0xffff, u, _mm512_maskz_add_epi32(0xffff, last, _mm512_set1_epi32(0x7fff)));
                __m512i const kept = _mm512_mask_or_epi32(r, _mm512_cmp_ps_mask(x.v, x.v, _CMP_UNORD_Q), u, _mm512_set1_epi32(0x400000));
                _mm256_storeu_si256(reinterpret_cast<__m256i*>(h), _mm512_maskz_cvtepi32_epi16(0xffff, _mm512_maskz_srli_epi32(0xffff, kept, 16)));
            } else
#endif
            { detail::gather_halves<A>(detail::to_bf16(x), h); }
        } else {
#if defined(__AVX512F__)
            if constexpr (A::has(isa::avx512f)) {
                _mm256_storeu_si256(reinterpret_cast<__m256i*>(h), _mm512_maskz_cvtps_ph(0xffff, x.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
            } else
#endif
#if defined(__F16C__)
            if constexpr (A::has(isa::f16c) && V::lanes == 8) {
                _mm_storeu_si128(reinterpret_cast<__m128i*>(h), _mm256_cvtps_ph(x.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
            } else
#endif
#if defined(__aarch64__) && defined(__ARM_NEON)
            if constexpr (A::has(isa::neon64)) { vst1_u16(h, vreinterpret_u16_f16(vcvt_f16_f32(x.v))); } else
#endif
            { detail::gather_halves<A>(detail::to_fp16(x), h); }
        }
    }
}

// The first n < V::lanes elements: the other lanes are 0, and no byte beyond them is touched.
template <class V, class T>
HEED_INLINE V load_as(T const* p, extent_t n) {
    T part[V::lanes] = {};
    for (extent_t l = 0; l < n; ++l) { part[l] = p[l]; }
    return load_as<V>(part);
}
template <class V, class T>
HEED_INLINE void store_as(T* p, V x, extent_t n) {
    T part[V::lanes];
    store_as(part, x);
    for (extent_t l = 0; l < n; ++l) { p[l] = part[l]; }
}

} // namespace heed
