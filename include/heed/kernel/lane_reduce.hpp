// SPDX-License-Identifier: BSD-3-Clause
// Many vectors into one: lane l of the result is the reduction of all lanes of x[l]. Reducing a register's worth of vectors at once takes about
// three instructions a vector; one by one it would take twice the logarithm of the lanes. `f(a, b)` combines two vectors lane by lane and must be
// associative and commutative up to rounding; the tree is fixed.
#pragma once

#include <heed/kernel/batch.hpp>

namespace heed {

namespace detail {

// Lane pairs of two vectors in both halves: f(first(a, b), second(a, b)) halves what is left to reduce. Level 0 works inside pairs of lanes.
#if defined(__AVX512F__)
template <class V, class F>
HEED_INLINE V reduce_lanes_512(V const (&x)[V::lanes], F const& f) {
    using native = typename V::native;
    if constexpr (sizeof(typename V::value_type) == 4) {
        V u[4];
        static_for<4>([&](auto q) HEED_INLINE_LAMBDA {
            constexpr int b = 4 * decltype(q)::value;
            V const t01 = f(V(native(_mm512_maskz_unpacklo_ps(0xffff, x[b].v, x[b + 1].v))), V(native(_mm512_maskz_unpackhi_ps(0xffff, x[b].v, x[b + 1].v))));
            V const t23 = f(V(native(_mm512_maskz_unpacklo_ps(0xffff, x[b + 2].v, x[b + 3].v))), V(native(_mm512_maskz_unpackhi_ps(0xffff, x[b + 2].v, x[b + 3].v))));
            u[q] = f(V(native(_mm512_maskz_shuffle_ps(0xffff, t01.v, t23.v, 0x44))), V(native(_mm512_maskz_shuffle_ps(0xffff, t01.v, t23.v, 0xee))));
        });
        auto const across = [&](V a, V b) HEED_INLINE_LAMBDA {
            return f(V(native(_mm512_maskz_shuffle_f32x4(0xffff, a.v, b.v, 0x88))), V(native(_mm512_maskz_shuffle_f32x4(0xffff, a.v, b.v, 0xdd))));
        };
        return across(across(u[0], u[1]), across(u[2], u[3]));
    } else {
        V u[4];
        static_for<4>([&](auto q) HEED_INLINE_LAMBDA {
            constexpr int b = 2 * decltype(q)::value;
            u[q] = f(V(native(_mm512_maskz_unpacklo_pd(0xff, x[b].v, x[b + 1].v))), V(native(_mm512_maskz_unpackhi_pd(0xff, x[b].v, x[b + 1].v))));
        });
        auto const across = [&](V a, V b) HEED_INLINE_LAMBDA {
            return f(V(native(_mm512_maskz_shuffle_f64x2(0xff, a.v, b.v, 0x88))), V(native(_mm512_maskz_shuffle_f64x2(0xff, a.v, b.v, 0xdd))));
        };
        return across(across(u[0], u[1]), across(u[2], u[3]));
    }
}
#endif
#if defined(__AVX__)
template <class V, class F>
HEED_INLINE V reduce_lanes_256(V const (&x)[V::lanes], F const& f) {
    using native = typename V::native;
    if constexpr (sizeof(typename V::value_type) == 4) {
        V u[2];
        static_for<2>([&](auto q) HEED_INLINE_LAMBDA {
            constexpr int b = 4 * decltype(q)::value;
            V const t01 = f(V(native(_mm256_unpacklo_ps(x[b].v, x[b + 1].v))), V(native(_mm256_unpackhi_ps(x[b].v, x[b + 1].v))));
            V const t23 = f(V(native(_mm256_unpacklo_ps(x[b + 2].v, x[b + 3].v))), V(native(_mm256_unpackhi_ps(x[b + 2].v, x[b + 3].v))));
            u[q] = f(V(native(_mm256_shuffle_ps(t01.v, t23.v, 0x44))), V(native(_mm256_shuffle_ps(t01.v, t23.v, 0xee))));
        });
        return f(V(native(_mm256_permute2f128_ps(u[0].v, u[1].v, 0x20))), V(native(_mm256_permute2f128_ps(u[0].v, u[1].v, 0x31))));
    } else {
        V const t01 = f(V(native(_mm256_unpacklo_pd(x[0].v, x[1].v))), V(native(_mm256_unpackhi_pd(x[0].v, x[1].v))));
        V const t23 = f(V(native(_mm256_unpacklo_pd(x[2].v, x[3].v))), V(native(_mm256_unpackhi_pd(x[2].v, x[3].v))));
        return f(V(native(_mm256_permute2f128_pd(t01.v, t23.v, 0x20))), V(native(_mm256_permute2f128_pd(t01.v, t23.v, 0x31))));
    }
}
#endif
template <class V, class F>
HEED_INLINE V reduce_lanes_in_memory(V const (&x)[V::lanes], F const& f) {
    using T = typename V::value_type;
    constexpr int n = V::lanes;
    T block[n * n], turned[n * n];
    for (int l = 0; l < n; ++l) { x[l].store(block + l * n); }
    for (int l = 0; l < n; ++l) {
        for (int k = 0; k < n; ++k) { turned[k * n + l] = block[l * n + k]; }
    }
    V row[n];
    for (int k = 0; k < n; ++k) { row[k] = V::load(turned + k * n); }
    for (int half = n / 2; half > 0; half /= 2) {
        for (int k = 0; k < half; ++k) { row[k] = f(row[k], row[k + half]); }
    }
    return row[0];
}

} // namespace detail

template <class T, class A, class F>
HEED_INLINE vec<T, A> reduce_lanes(vec<T, A> const (&x)[vec<T, A>::lanes], F const& f) {
#if defined(__AVX512F__)
    if constexpr (A::has(isa::avx512f)) { return detail::reduce_lanes_512(x, f); } else
#endif
#if defined(__AVX__)
    if constexpr (A::has(isa::avx)) { return detail::reduce_lanes_256(x, f); } else
#endif
    {
        return detail::reduce_lanes_in_memory(x, f);
    }
}

// Lane l of the result: lane l ^ step of x, step below the lanes. In registers: a vector stored and read shifted would wait until the store has left the core,
// behind every load before it.
template <class T, class A>
HEED_INLINE vec<T, A> exchange_lanes(vec<T, A> x, int step) {
    using V = vec<T, A>;
    using native [[maybe_unused]] = typename V::native;
#if defined(__AVX512F__)
    if constexpr (A::has(isa::avx512f) && sizeof(T) == 4) {
        return V(native(_mm512_maskz_permutexvar_ps(0xffff, _mm512_xor_si512(_mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0), _mm512_set1_epi32(step)), x.v)));
    } else if constexpr (A::has(isa::avx512f)) {
        return V(native(_mm512_maskz_permutexvar_pd(0xff, _mm512_xor_si512(_mm512_set_epi64(7, 6, 5, 4, 3, 2, 1, 0), _mm512_set1_epi64(step)), x.v)));
    } else
#endif
#if defined(__AVX2__)
    if constexpr (A::has(isa::avx2) && sizeof(T) == 4) {
        return V(native(_mm256_permutevar8x32_ps(x.v, _mm256_xor_si256(_mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7), _mm256_set1_epi32(step)))));
    } else if constexpr (A::has(isa::avx2)) {
        __m256i const halves = _mm256_xor_si256(_mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7), _mm256_set1_epi32(2 * step));
        return V(native(_mm256_castps_pd(_mm256_permutevar8x32_ps(_mm256_castpd_ps(x.v), halves))));
    } else
#endif
    {
        T lane[V::lanes], turned[V::lanes];
        x.store(lane);
        for (int l = 0; l < V::lanes; ++l) { turned[l] = lane[l ^ step]; }
        return V::load(turned);
    }
}

} // namespace heed
