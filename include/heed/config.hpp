// SPDX-License-Identifier: BSD-3-Clause
// The only file that looks at the compiler: function attributes, the error hook, the architecture tag.
#pragma once

#include <cstddef>
#include <cstdint>
#include <new>

#if defined(__FINITE_MATH_ONLY__) && __FINITE_MATH_ONLY__
#error "heed: -ffast-math and -ffinite-math-only are refused: masks are real infinities and NaN must stay visible"
#endif

// Small functions carry no symbol of their own (always inlined), so that objects built with different
// architecture flags share no code of heed's; everything larger is a template on the architecture tag.
#if defined(__CUDACC__)
#define HEED_HD __host__ __device__ __forceinline__
#define HEED_DEVICE __device__ __forceinline__
#if defined(__CUDA_ARCH__)
#define HEED_ON_DEVICE // what is compiled now runs on a GPU
#endif
#elif defined(__GNUC__)
#define HEED_HD [[gnu::always_inline]] inline
#else
#define HEED_HD inline
#endif
#if defined(__GNUC__)
#define HEED_INLINE [[gnu::always_inline]] inline
#define HEED_INLINE_LAMBDA __attribute__((always_inline))
#define HEED_NOINLINE [[gnu::noinline]]
#define HEED_COLD [[gnu::cold, gnu::noinline]]
#define HEED_RESTRICT __restrict__
#define HEED_PREFETCH(p) __builtin_prefetch(p, 0, 3)
#define HEED_PREFETCH_FAR(p, write) __builtin_prefetch(p, write, 2) // into the second cache
#else
#define HEED_INLINE inline
#define HEED_INLINE_LAMBDA
#define HEED_NOINLINE
#define HEED_COLD
#define HEED_RESTRICT
#define HEED_PREFETCH(p) ((void)(p))
#define HEED_PREFETCH_FAR(p, write) ((void)(p))
#endif

#if defined(__cpp_exceptions)
#define HEED_THROW(exception) throw exception
#else
#include <cstdio>
#include <cstdlib>
// Without exceptions the sentence is printed and the program ends: define HEED_THROW before the first include to do otherwise.
#ifndef HEED_THROW
#define HEED_THROW(exception)                                                                                                              \
    do {                                                                                                                                   \
        std::fprintf(stderr, "%s\n", (exception).what());                                                                                  \
        std::abort();                                                                                                                      \
    } while (false)
#endif
#endif

namespace heed {

using extent_t = std::int64_t; // every size, position and stride, in elements

// Cache line, and the alignment of every workspace part.
inline constexpr std::size_t line_bytes = 64;

// Instruction sets that heed's code reacts to. One bit each, taken from this translation unit's flags.
namespace isa {
inline constexpr unsigned sse2 = 1u << 0, sse4_2 = 1u << 1, avx = 1u << 2, fma = 1u << 3, avx2 = 1u << 4, f16c = 1u << 5, avx512f = 1u << 6,
                          avx512bw = 1u << 7, avx512dq = 1u << 8, avx512vl = 1u << 9, avx512bf16 = 1u << 10, neon64 = 1u << 11,
                          bf16_pays = 1u << 12; // the dot product of bf16 pairs runs at twice the rate of fused multiply-adds

// clang-format off
inline constexpr unsigned native = 0u
#if defined(__SSE2__)
    | sse2
#endif
#if defined(__SSE4_2__)
    | sse4_2
#endif
#if defined(__AVX__)
    | avx
#endif
#if defined(__FMA__)
    | fma
#endif
#if defined(__AVX2__)
    | avx2
#endif
#if defined(__F16C__)
    | f16c
#endif
#if defined(__AVX512F__)
    | avx512f
#endif
#if defined(__AVX512BW__)
    | avx512bw
#endif
#if defined(__AVX512DQ__)
    | avx512dq
#endif
#if defined(__AVX512VL__)
    | avx512vl
#endif
#if defined(__AVX512BF16__)
    | avx512bf16
#endif
#if defined(__aarch64__) && defined(__ARM_NEON)
    | neon64
#endif
// Zen 4 and 5 (g++ 12 takes them for Zen 3 with more instructions). On the Intel Xeon measured the pairs ran at half the rate of float: there bf16 is widened.
#if defined(__AVX512BF16__) && (defined(__znver3__) || defined(__znver4__) || defined(__znver5__))
    | bf16_pays
#endif
    ;
// clang-format on
} // namespace isa

// The architecture as a type: it stands in the name of every engine, kernel and vector, so that two objects built with
// different flags link into one program and each keeps its own code. Views and plans hold nothing that depends on it.
template <unsigned Features>
struct arch {
    static constexpr unsigned features = Features;
    static constexpr bool has(unsigned bits) { return (Features & bits) == bits; }
};
using native_arch = arch<isa::native>;

template <class A>
constexpr const char* arch_name() {
    return A::has(isa::avx512f)              ? (A::has(isa::avx512bf16) ? "avx512+bf16" : "avx512")
           : A::has(isa::avx2 | isa::fma)    ? "avx2+fma"
           : A::has(isa::avx)                ? "avx"
           : A::has(isa::sse4_2)             ? "sse4.2"
           : A::has(isa::sse2)               ? "sse2"
           : A::has(isa::neon64)             ? "neon"
                                             : "scalar";
}

} // namespace heed
