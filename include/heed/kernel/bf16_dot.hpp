// SPDX-License-Identifier: BSD-3-Clause
// Products of pairs of bf16 with float sums: the instruction of AVX512_BF16, and the same layout in floats for every other architecture.
//
// A lane of 32 bits holds a pair, the first number in the low half. add_products(acc, a, b) = acc + a.second b.second + a.first b.first. The instruction
// takes denormal numbers as 0, makes none, and rounds to nearest even whatever the control register says; the floats round as usual.
#pragma once

#include <heed/kernel/half.hpp>

#include <cstring>

namespace heed {

// An architecture whose products of bf16 are taken in pairs: where that pays, not wherever the instruction is.
template <class A>
inline constexpr bool has_bf16_dot = A::has(isa::bf16_pays);

template <class A>
struct bf16_pairs {
    using V = vec<float, A>;
    using ints = detail::half_lanes<A>;
    static constexpr int lanes = V::lanes;
#if defined(__AVX512BF16__)
    static constexpr bool native = A::has(isa::avx512f | isa::avx512bw | isa::avx512bf16);
#else
    static constexpr bool native = false;
#endif

    V v; // the bits

    HEED_INLINE static bf16_pairs load(float const* p) { return {V::load(p)}; }
    HEED_INLINE void store(float* p) const { v.store(p); }
    // the same pair in every lane
    HEED_INLINE static bf16_pairs spread(bf16 const* p) {
        float pair;
        std::memcpy(&pair, p, sizeof pair);
        return {V(pair)};
    }
    HEED_INLINE static bf16_pairs spread_one(bf16 const* p) { return {V(std::bit_cast<float>(static_cast<std::uint32_t>(p->bits)))}; } // second is 0

    HEED_INLINE friend V add_products(V acc, bf16_pairs a, bf16_pairs b) {
#if defined(__AVX512BF16__)
        if constexpr (native) {
            return {typename V::native(_mm512_dpbf16_ps(acc.v, std::bit_cast<__m512bh>(static_cast<__m512>(a.v.v)), std::bit_cast<__m512bh>(static_cast<__m512>(b.v.v))))};
        } else
#endif
        { return fma(a.first(), b.first(), fma(a.second(), b.second(), acc)); }
    }
    // Two registers rounded, lane by lane.
    HEED_INLINE static bf16_pairs of(V first, V second) {
#if defined(__AVX512BF16__)
        if constexpr (native) {
            alignas(64) static constexpr std::uint16_t order[32] = {0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
            __m512i const both = std::bit_cast<__m512i>(_mm512_cvtne2ps_pbh(second.v, first.v)); // first in the low half
            return {V(typename V::native(_mm512_castsi512_ps(_mm512_maskz_permutexvar_epi16(0xffffffffu, _mm512_load_si512(order), both))))};
        } else
#endif
        {
            ints const low = detail::to_bf16(first) & ints(0xffff), high = detail::to_bf16(second) << 16;
            return {V(detail::register_cast<typename V::native>(low | high))};
        }
    }
    // The elements of two rows side by side, unchanged. The second row may be null: zeros.
    HEED_INLINE static bf16_pairs zip(bf16 const* first, bf16 const* second) {
        auto const halves = [](bf16 const* p) HEED_INLINE_LAMBDA { return detail::spread<A>(reinterpret_cast<std::uint16_t const*>(p)); };
#if defined(__AVX512F__)
        if constexpr (A::has(isa::avx512f)) {
            __m512i x = halves(first);
            if (second != nullptr) { x = _mm512_maskz_or_epi32(0xffff, x, _mm512_maskz_slli_epi32(0xffff, halves(second), 16)); }
            return {V(typename V::native(_mm512_castsi512_ps(x)))};
        } else
#endif
        {
            ints x = halves(first);
            if (second != nullptr) { x = x | (halves(second) << 16); }
            return {V(detail::register_cast<typename V::native>(x))};
        }
    }

private:
    HEED_INLINE V first() const { return {detail::register_cast<typename V::native>(detail::register_cast<ints>(v.v) << 16)}; }
    HEED_INLINE V second() const { return {detail::register_cast<typename V::native>(detail::register_cast<ints>(v.v) & ints(-65536))}; }
};

// One pair as a number of 32 bits, for scalar ends of rows.
HEED_INLINE float pair_bits(bf16 first, bf16 second) { return std::bit_cast<float>(static_cast<std::uint32_t>(first.bits) | static_cast<std::uint32_t>(second.bits) << 16); }

// True if every element is finite.
template <class A>
HEED_INLINE bool row_finite(bf16 const* row, extent_t n) {
    using V = vec<float, A>;
    V sum(0);
    extent_t c = 0;
    for (; c + V::lanes <= n; c += V::lanes) { sum = fma(load_as<V>(row + c), V(0), sum); }
    float rest = 0;
    for (; c < n; ++c) { rest += static_cast<float>(row[c]) * 0.0f; }
    return all(sum == V(0)) && rest == 0.0f;
}

} // namespace heed
