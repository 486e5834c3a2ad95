// SPDX-License-Identifier: BSD-3-Clause
// The only include of xsimd. vec<T, A> is one register of T on architecture A, vec_mask<T, A> its predicate: thin values whose
// names carry the architecture, so that policies find mathematics by argument-dependent lookup and never see xsimd.
#pragma once

#include <heed/config.hpp>

#include <xsimd/xsimd.hpp>

#if defined(__AVX512F__) || defined(__SSE2__)
#include <immintrin.h>
#endif

#include <cstdint>
#include <type_traits>
#include <utility>

static_assert(XSIMD_VERSION_MAJOR >= 8, "heed: xsimd 8.1 or newer is needed");

namespace heed {

namespace detail {

// heed's architecture tag in xsimd's words.
template <class A>
constexpr auto xsimd_arch() {
    if constexpr (A::has(isa::avx512f | isa::avx512bw | isa::avx512dq)) {
        return xsimd::avx512bw{};
    } else if constexpr (A::has(isa::avx512f)) {
        return xsimd::avx512f{};
    } else if constexpr (A::has(isa::avx2 | isa::fma)) {
        return xsimd::fma3<xsimd::avx2>{};
    } else if constexpr (A::has(isa::avx2)) {
        return xsimd::avx2{};
    } else if constexpr (A::has(isa::avx)) {
        return xsimd::avx{};
    } else if constexpr (A::has(isa::sse4_2)) {
        return xsimd::sse4_2{};
    } else if constexpr (A::has(isa::sse2)) {
        return xsimd::sse2{};
    } else {
        static_assert(A::has(isa::neon64), "heed: no SIMD backend for this processor; the baseline is SSE2 on x86 and NEON on 64-bit Arm");
        return xsimd::neon64{};
    }
}

template <class To, class From>
HEED_INLINE To register_cast(From const& from) {
    using xsimd::bitwise_cast;
#if XSIMD_VERSION_MAJOR >= 11
    return bitwise_cast<typename To::value_type>(from);
#else
    return bitwise_cast<To>(from);
#endif
}

} // namespace detail

template <class A>
using xsimd_arch_t = decltype(detail::xsimd_arch<A>());

// vector registers that a micro-kernel may count on
template <class A>
inline constexpr int registers = A::has(isa::avx512f) || A::has(isa::neon64) ? 32 : 16;

// Additions beside comparisons go to the multipliers (side_sum): on Zen 3 and Zen 5, whose comparisons share the adders, that is 1.7 to 1.9 times the
// rate; where all share the same ports it costs a register.
template <class A>
inline constexpr bool sums_by_fma = A::has(isa::avx512f) || A::has(isa::avx2 | isa::fma);

template <class T, class A>
struct vec_mask {
    using native = xsimd::batch_bool<T, xsimd_arch_t<A>>;
    native m;

    HEED_INLINE friend vec_mask operator&(vec_mask a, vec_mask b) { return {a.m & b.m}; }
    HEED_INLINE friend vec_mask operator|(vec_mask a, vec_mask b) { return {a.m | b.m}; }
    HEED_INLINE friend vec_mask operator~(vec_mask a) { return {~a.m}; }
    HEED_INLINE friend bool any(vec_mask a) { return xsimd::any(a.m); }
    HEED_INLINE friend bool all(vec_mask a) { return xsimd::all(a.m); }
};

template <class T, class A>
struct vec {
    using value_type = T;
    using arch_type = A;
    using native = xsimd::batch<T, xsimd_arch_t<A>>;
    using mask_type = vec_mask<T, A>;
    static constexpr int lanes = static_cast<int>(native::size);

    native v;

    vec() = default;
    HEED_INLINE vec(native x) : v(x) {}
    template <class U>
        requires std::is_arithmetic_v<U>
    HEED_INLINE vec(U x) : v(static_cast<T>(x)) {}

    HEED_INLINE static vec load(T const* p) { return native::load_unaligned(p); }
    HEED_INLINE void store(T* p) const { v.store_unaligned(p); }
    HEED_INLINE static vec gather(T const* p, vec<std::conditional_t<sizeof(T) == 8, std::int64_t, std::int32_t>, A> index) {
        return native::gather(p, index.v);
    }

    HEED_INLINE friend vec operator+(vec a, vec b) { return {a.v + b.v}; }
    HEED_INLINE friend vec operator-(vec a, vec b) { return {a.v - b.v}; }
    HEED_INLINE friend vec operator*(vec a, vec b) { return {a.v * b.v}; }
    HEED_INLINE friend vec operator/(vec a, vec b) { return {a.v / b.v}; }
    HEED_INLINE friend vec operator-(vec a) { return {-a.v}; }
    HEED_INLINE friend mask_type operator<(vec a, vec b) { return {a.v < b.v}; }
    HEED_INLINE friend mask_type operator<=(vec a, vec b) { return {a.v <= b.v}; }
    HEED_INLINE friend mask_type operator>(vec a, vec b) { return {a.v > b.v}; }
    HEED_INLINE friend mask_type operator>=(vec a, vec b) { return {a.v >= b.v}; }
    HEED_INLINE friend mask_type operator==(vec a, vec b) { return {a.v == b.v}; }
    HEED_INLINE friend mask_type operator!=(vec a, vec b) { return {~(a.v == b.v)}; } // true for NaN, which xsimd's own is not everywhere
    HEED_INLINE friend vec select(mask_type m, vec a, vec b) { return {xsimd::select(m.m, a.v, b.v)}; }
    // fma(a, b, c) = a b + c, rounded once where the hardware has it
    HEED_INLINE friend vec fma(vec a, vec b, vec c) {
#if defined(__AVX512F__) // xsimd 8.1 has none for it, and leaves the fusing to the compiler's mood
        if constexpr (A::has(isa::avx512f) && std::is_same_v<T, float>) { return {native(_mm512_fmadd_ps(a.v, b.v, c.v))}; }
        if constexpr (A::has(isa::avx512f) && std::is_same_v<T, double>) { return {native(_mm512_fmadd_pd(a.v, b.v, c.v))}; }
#endif
        return {xsimd::fma(a.v, b.v, c.v)};
    }
    // Zero-masked forms are the same instructions; g++ 12 warns of an uninitialised register in their plain ones.
    // On x86 both return the second operand when either is NaN: kernels that must keep NaN put the data second.
    HEED_INLINE friend vec max(vec a, vec b) {
#if defined(__AVX512F__)
        if constexpr (A::has(isa::avx512f) && std::is_same_v<T, float>) { return {native(_mm512_maskz_max_ps(0xffff, a.v, b.v))}; }
        if constexpr (A::has(isa::avx512f) && std::is_same_v<T, double>) { return {native(_mm512_maskz_max_pd(0xff, a.v, b.v))}; }
#endif
        return {xsimd::max(a.v, b.v)};
    }
    HEED_INLINE friend vec min(vec a, vec b) {
#if defined(__AVX512F__)
        if constexpr (A::has(isa::avx512f) && std::is_same_v<T, float>) { return {native(_mm512_maskz_min_ps(0xffff, a.v, b.v))}; }
        if constexpr (A::has(isa::avx512f) && std::is_same_v<T, double>) { return {native(_mm512_maskz_min_pd(0xff, a.v, b.v))}; }
#endif
        return {xsimd::min(a.v, b.v)};
    }
    HEED_INLINE friend vec abs(vec a) {
#if defined(__AVX512F__)
        if constexpr (A::has(isa::avx512f) && std::is_same_v<T, float>) {
            return {native(_mm512_castsi512_ps(_mm512_maskz_and_epi32(0xffff, _mm512_castps_si512(a.v), _mm512_set1_epi32(0x7fffffff))))};
        }
        if constexpr (A::has(isa::avx512f) && std::is_same_v<T, double>) {
            return {native(_mm512_castsi512_pd(_mm512_maskz_and_epi64(0xff, _mm512_castpd_si512(a.v), _mm512_set1_epi64(0x7fffffffffffffff))))};
        }
#endif
        return {xsimd::abs(a.v)};
    }
    // a + b and a - b on the pipes that max and min leave free, where there are such: fma(a, 1, b) rounds once, and infinities and NaN behave alike.
    // The constant is opaque, or compilers make an addition of it again.
    HEED_INLINE friend vec side_sum(vec a, vec b) {
        if constexpr (sums_by_fma<A>) {
            vec one(1);
            pin(one);
            return fma(a, one, b);
        } else {
            return a + b;
        }
    }
    HEED_INLINE friend vec side_difference(vec a, vec b) {
        if constexpr (sums_by_fma<A>) {
            vec minus_one(-1);
            pin(minus_one);
            return fma(b, minus_one, a);
        } else {
            return a - b;
        }
    }
    HEED_INLINE friend vec sqrt(vec a) { return {xsimd::sqrt(a.v)}; }
};

// Positions are integers as wide as the values, so that their comparisons are masks of the same shape.
template <class V>
struct lane_traits;
template <class T, class A>
struct lane_traits<vec<T, A>> {
    using index = vec<std::conditional_t<sizeof(T) == 8, std::int64_t, std::int32_t>, A>;
};
template <class V>
using index_of = typename lane_traits<V>::index;

template <class I, class A>
HEED_INLINE vec<I, A> iota(extent_t first, std::type_identity<vec<I, A>>) {
    alignas(64) static constexpr I ramp[16] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    return vec<I, A>::load(ramp) + vec<I, A>(first);
}

// Integer positions as values: exact up to 2^24 in float.
template <class V, class A>
HEED_INLINE V to_value(vec<std::int32_t, A> i) {
    return V(xsimd::to_float(i.v));
}
template <class V, class A>
HEED_INLINE V to_value(vec<std::int64_t, A> i) {
    return V(xsimd::to_float(i.v));
}

// A predicate on positions as a predicate on values.
template <class V, class I, class A>
HEED_INLINE typename V::mask_type mask_cast(vec_mask<I, A> m) {
    using to = typename V::mask_type::native;
    using ints = xsimd::batch<I, xsimd_arch_t<A>>;
    if constexpr (std::is_same_v<I, typename V::value_type>) {
        return m;
    } else if constexpr (A::has(isa::avx512f)) { // predicate registers
        return {to(static_cast<typename to::register_type>(static_cast<typename vec_mask<I, A>::native::register_type>(m.m)))};
    } else if constexpr (A::has(isa::sse2)) { // all-ones lanes
        auto const bits = detail::register_cast<typename V::native>(ints(static_cast<typename vec_mask<I, A>::native::register_type>(m.m)));
        return {to(static_cast<typename to::register_type>(bits))};
    } else {
        return V(detail::register_cast<typename V::native>(xsimd::select(m.m, ints(I(-1)), ints(I(0))))) != V(0); // -1 is a NaN, and differs from 0
    }
}
template <class V>
HEED_INLINE typename V::mask_type mask_cast(bool keep) {
    return {typename V::mask_type::native(keep)};
}

// Lane l of the result is bit l of `bits`.
template <class V>
HEED_INLINE typename V::mask_type mask_from_bits(std::uint64_t bits) {
    using A = typename V::arch_type;
    using I = typename index_of<V>::value_type;
    if constexpr (A::has(isa::avx512f)) {
        using native = typename V::mask_type::native;
        return {native(static_cast<typename native::register_type>(bits))};
    } else {
        alignas(64) static constexpr I powers[16] = {1 << 0, 1 << 1, 1 << 2,  1 << 3,  1 << 4,  1 << 5,  1 << 6,  1 << 7,
                                                     1 << 8, 1 << 9, 1 << 10, 1 << 11, 1 << 12, 1 << 13, 1 << 14, 1 << 15};
        using ints = typename index_of<V>::native;
        ints const lane = ints::load_unaligned(powers);
        return mask_cast<V>(vec_mask<I, A>{(ints(static_cast<I>(bits & 0xffffu)) & lane) == lane});
    }
}
// Bit l of the result is lane l of `m`. For rare paths: goes through memory.
template <class T, class A>
HEED_INLINE std::uint64_t bits_of(vec_mask<T, A> m) {
    using V = vec<T, A>;
    T lane[V::lanes];
    select(m, V(1), V(0)).store(lane);
    std::uint64_t bits = 0;
    for (int l = 0; l < V::lanes; ++l) { bits |= static_cast<std::uint64_t>(lane[l] != T(0)) << l; }
    return bits;
}

// round to nearest, ties to even
template <class T, class A>
HEED_INLINE vec<T, A> nearbyint(vec<T, A> a) {
    using native = typename vec<T, A>::native;
#if defined(__AVX512F__)
    if constexpr (A::has(isa::avx512f) && sizeof(T) == 4) { return {native(_mm512_maskz_roundscale_ps(0xffff, a.v, 0))}; }
    if constexpr (A::has(isa::avx512f) && sizeof(T) == 8) { return {native(_mm512_maskz_roundscale_pd(0xff, a.v, 0))}; }
#endif
    return {native(xsimd::nearbyint(a.v))};
}

// x - floor(x) in one instruction, where there is one; scale_exponent then takes x itself for n, since it rounds down.
template <class T, class A>
inline constexpr bool has_fraction = sizeof(T) == 4 && A::has(isa::avx512f | isa::avx512dq);
template <class T, class A>
HEED_INLINE vec<T, A> fraction(vec<T, A> x) {
#if defined(__AVX512DQ__)
    if constexpr (has_fraction<T, A>) { return {typename vec<T, A>::native(_mm512_maskz_reduce_ps(0xffff, x.v, 0x09))}; } // toward -infinity, quiet
#endif
    return x;
}

// x * 2^n for integral n from one below the least normal exponent (there 2^n counts as 0) up to the greatest. NaN in x is kept.
// With AVX-512 any n is right.
template <class T, class A>
HEED_INLINE vec<T, A> scale_exponent(vec<T, A> x, vec<T, A> n) {
#if defined(__AVX512F__)
    if constexpr (A::has(isa::avx512f)) {
        if constexpr (sizeof(T) == 4) {
            return {typename vec<T, A>::native(_mm512_maskz_scalef_ps(0xffff, x.v, n.v))};
        } else {
            return {typename vec<T, A>::native(_mm512_maskz_scalef_pd(0xff, x.v, n.v))};
        }
    } else
#endif
    {
        using V = vec<T, A>;
        using ints = typename index_of<V>::native;
        constexpr int mantissa = sizeof(T) == 4 ? 23 : 52;
        // 1.5 * 2^mantissa + bias leaves the biased exponent in the low bits; the shift drops the rest. Multiplying, rather than adding
        // to the bits of x, keeps NaN a NaN.
        constexpr T magic = sizeof(T) == 4 ? T(12582912.0 + 127) : T(6755399441055744.0 + 1023);
        ints const bits = detail::register_cast<ints>((n + V(magic)).v) << mantissa;
        return x * V{detail::register_cast<typename V::native>(bits)};
    }
}

// x = m 2^n, m in [1, 2), for normal positive x
template <class T, class A>
HEED_INLINE void split_exponent(vec<T, A> x, vec<T, A>& n, vec<T, A>& m) {
    using V = vec<T, A>;
    using I = typename index_of<V>::value_type;
    using ints = typename index_of<V>::native;
    constexpr int mantissa = sizeof(T) == 4 ? 23 : 52;
    constexpr I one = I(sizeof(T) == 4 ? 127 : 1023) << mantissa, fraction = (I(1) << mantissa) - 1;
    constexpr I magic = I(mantissa + (sizeof(T) == 4 ? 127 : 1023)) << mantissa; // 2^mantissa, whose low bits count ones
    ints const bits = detail::register_cast<ints>(x.v);
    n = V{detail::register_cast<typename V::native>((bits >> mantissa) | ints(magic))} - V(T(I(1) << mantissa) + T(sizeof(T) == 4 ? 127 : 1023));
    m = V{detail::register_cast<typename V::native>((bits & ints(fraction)) | ints(one))};
}

// p * 2^n where x >= least, exactly 0 below; NaN in x is kept. Denormal results are never made: some processors take 150 cycles for one.
template <class T, class A>
HEED_INLINE vec<T, A> scale_exponent_above(vec<T, A> p, vec<T, A> n, vec<T, A> x, T least) {
#if defined(__AVX512F__)
    if constexpr (A::has(isa::avx512f)) {
        if constexpr (sizeof(T) == 4) {
            return {typename vec<T, A>::native(_mm512_maskz_scalef_ps(_mm512_cmp_ps_mask(x.v, _mm512_set1_ps(least), _CMP_NLT_UQ), p.v, n.v))};
        } else {
            return {typename vec<T, A>::native(_mm512_maskz_scalef_pd(_mm512_cmp_pd_mask(x.v, _mm512_set1_pd(least), _CMP_NLT_UQ), p.v, n.v))};
        }
    } else
#endif
    {
        (void)x;
        (void)least;
        return scale_exponent(p, n);
    }
}

// a / b to 1 ulp for b from 2^-60 to 2^60: where division is slow, a reciprocal estimate and its correction.
template <class T, class A>
HEED_INLINE vec<T, A> fast_divide(vec<T, A> a, vec<T, A> b) {
#if defined(__AVX512F__)
    if constexpr (A::has(isa::avx512f) && sizeof(T) == 4) {
        using V = vec<T, A>;
        V const estimate = typename V::native(_mm512_maskz_rcp14_ps(0xffff, b.v)); // 14 bits
        V const r = fma(estimate, fma(-b, estimate, V(1)), estimate);              // 27 bits
        V const q = a * r;
        return fma(r, fma(-b, q, a), q);
    }
#endif
    return a / b;
}

// Keeps x in a register: g++ otherwise folds a load into each instruction that uses it, and a block of fused multiply-adds
// then waits for its loads (12 of them want 16 loads instead of 7).
template <class T, class A>
HEED_INLINE void pin(vec<T, A>& x) {
#if defined(__GNUC__) && defined(__x86_64__)
    if constexpr (A::has(isa::avx512f)) {
        asm("" : "+v"(x.v.data));
    } else {
        asm("" : "+x"(x.v.data));
    }
#else
    (void)x;
#endif
}

// Calls f(std::integral_constant<int, 0>) ... f(<N - 1>): the only loop that g++ 12 reliably keeps in registers.
template <int N, class F>
HEED_INLINE constexpr void static_for(F&& f) {
    [&]<int... K>(std::integer_sequence<int, K...>) HEED_INLINE_LAMBDA { (f(std::integral_constant<int, K>{}), ...); }(std::make_integer_sequence<int, N>{});
}

} // namespace heed
