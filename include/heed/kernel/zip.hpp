// SPDX-License-Identifier: BSD-3-Clause
// Registers of interleaved pairs: zip makes them, unzip takes them apart; narrow joins two registers of doubles in one of floats.
#pragma once

#include <heed/kernel/batch.hpp>

#if defined(__aarch64__) && defined(__ARM_NEON)
#include <arm_neon.h>
#endif

namespace heed {

template <class V>
struct two_of {
    V a, b;
};

// a0 b0 a1 b1 ..., over two registers.
template <class T, class A>
HEED_INLINE two_of<vec<T, A>> zip(vec<T, A> a, vec<T, A> b) {
    using V = vec<T, A>;
    using N = typename V::native;
#if defined(__AVX512F__)
    if constexpr (A::has(isa::avx512f) && sizeof(T) == 4) {
        __m512i const low = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
        __m512i const high = _mm512_setr_epi32(8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
        return {V(N(_mm512_permutex2var_ps(a.v, low, b.v))), V(N(_mm512_permutex2var_ps(a.v, high, b.v)))};
    } else
#endif
#if defined(__AVX__)
    if constexpr (V::lanes == 8 && sizeof(T) == 4) {
        __m256 const low = _mm256_unpacklo_ps(a.v, b.v), high = _mm256_unpackhi_ps(a.v, b.v);
        return {V(N(_mm256_permute2f128_ps(low, high, 0x20))), V(N(_mm256_permute2f128_ps(low, high, 0x31)))};
    } else
#endif
#if defined(__SSE2__)
    if constexpr (V::lanes == 4 && sizeof(T) == 4) {
        return {V(N(_mm_unpacklo_ps(a.v, b.v))), V(N(_mm_unpackhi_ps(a.v, b.v)))};
    } else
#endif
#if defined(__aarch64__) && defined(__ARM_NEON)
    if constexpr (A::has(isa::neon64) && sizeof(T) == 4) { return {V(N(vzip1q_f32(a.v, b.v))), V(N(vzip2q_f32(a.v, b.v)))}; } else
#endif
    {
        T x[2 * V::lanes], from_a[V::lanes], from_b[V::lanes];
        a.store(from_a);
        b.store(from_b);
        for (int l = 0; l < V::lanes; ++l) { x[2 * l] = from_a[l], x[2 * l + 1] = from_b[l]; }
        return {V::load(x), V::load(x + V::lanes)};
    }
}
// The even and the odd elements of two registers.
template <class T, class A>
HEED_INLINE two_of<vec<T, A>> unzip(vec<T, A> low, vec<T, A> high) {
    using V = vec<T, A>;
    using N = typename V::native;
#if defined(__AVX512F__)
    if constexpr (A::has(isa::avx512f) && sizeof(T) == 4) {
        __m512i const even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
        __m512i const odd = _mm512_setr_epi32(1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31);
        return {V(N(_mm512_permutex2var_ps(low.v, even, high.v))), V(N(_mm512_permutex2var_ps(low.v, odd, high.v)))};
    } else
#endif
#if defined(__AVX__)
    if constexpr (V::lanes == 8 && sizeof(T) == 4) {
        __m256 const x = _mm256_permute2f128_ps(low.v, high.v, 0x20), y = _mm256_permute2f128_ps(low.v, high.v, 0x31);
        return {V(N(_mm256_shuffle_ps(x, y, 0x88))), V(N(_mm256_shuffle_ps(x, y, 0xdd)))};
    } else
#endif
#if defined(__SSE2__)
    if constexpr (V::lanes == 4 && sizeof(T) == 4) {
        return {V(N(_mm_shuffle_ps(low.v, high.v, 0x88))), V(N(_mm_shuffle_ps(low.v, high.v, 0xdd)))};
    } else
#endif
#if defined(__aarch64__) && defined(__ARM_NEON)
    if constexpr (A::has(isa::neon64) && sizeof(T) == 4) { return {V(N(vuzp1q_f32(low.v, high.v))), V(N(vuzp2q_f32(low.v, high.v)))}; } else
#endif
    {
        T x[2 * V::lanes], even[V::lanes], odd[V::lanes];
        low.store(x);
        high.store(x + V::lanes);
        for (int l = 0; l < V::lanes; ++l) { even[l] = x[2 * l], odd[l] = x[2 * l + 1]; }
        return {V::load(even), V::load(odd)};
    }
}
// Doubles rounded to floats, the first register in the low half.
template <class A>
HEED_INLINE vec<float, A> narrow(vec<double, A> a, vec<double, A> b) {
    using V = vec<float, A>;
    using N = typename V::native;
#if defined(__AVX512F__)
    if constexpr (A::has(isa::avx512f)) {
        auto const half = [](__m512d x) HEED_INLINE_LAMBDA { return _mm256_castps_pd(_mm512_maskz_cvtpd_ps(0xff, x)); };
        __m512d const low = _mm512_maskz_insertf64x4(0xff, _mm512_setzero_pd(), half(a.v), 0);
        return {N(_mm512_castpd_ps(_mm512_maskz_insertf64x4(0xff, low, half(b.v), 1)))};
    } else
#endif
#if defined(__AVX__)
    if constexpr (V::lanes == 8) { return {N(_mm256_insertf128_ps(_mm256_castps128_ps256(_mm256_cvtpd_ps(a.v)), _mm256_cvtpd_ps(b.v), 1))}; } else
#endif
#if defined(__SSE2__)
    if constexpr (V::lanes == 4) { return {N(_mm_movelh_ps(_mm_cvtpd_ps(a.v), _mm_cvtpd_ps(b.v)))}; } else
#endif
    {
        double wide[V::lanes];
        float x[V::lanes];
        a.store(wide);
        b.store(wide + V::lanes / 2);
        for (int l = 0; l < V::lanes; ++l) { x[l] = static_cast<float>(wide[l]); }
        return V::load(x);
    }
}

} // namespace heed
