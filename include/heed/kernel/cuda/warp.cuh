// SPDX-License-Identifier: BSD-3-Clause
// Warps and warpgroups of sm_90a: registers per role, named barriers, exchanges within four lanes, two numbers to a word.
#pragma once

#include <heed/kernel/half.hpp>

#include <cstdint>

namespace heed::device {

HEED_DEVICE std::uint32_t shared_address(void const* p) { return static_cast<std::uint32_t>(__cvta_generic_to_shared(p)); }

// Registers move between the roles of a block: every warp of a warpgroup calls it, once, in the branch that is its role.
template <int N>
HEED_DEVICE void give_registers() {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(N));
}
template <int N>
HEED_DEVICE void take_registers() {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(N));
}

// Barrier `id` of the block opens when `threads` have come; arriving does not wait.
HEED_DEVICE void barrier_sync(int id, int threads) { asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory"); }
HEED_DEVICE void barrier_arrive(int id, int threads) { asm volatile("bar.arrive %0, %1;" ::"r"(id), "r"(threads) : "memory"); }

// Adds to a number of global memory and returns what it was. What the block did before a barrier before it is seen by whoever reads the number so afterwards.
HEED_DEVICE int add_acquire_release(int* p, int x) {
    int before;
    asm volatile("atom.acq_rel.gpu.global.add.s32 %0, [%1], %2;" : "=r"(before) : "l"(p), "r"(x) : "memory");
    return before;
}

// Over the four lanes that share a row of an accumulator.
HEED_DEVICE float quad_max(float x) {
    x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, 1));
    return fmaxf(x, __shfl_xor_sync(0xffffffffu, x, 2));
}
HEED_DEVICE float quad_sum(float x) {
    x += __shfl_xor_sync(0xffffffffu, x, 1);
    return x + __shfl_xor_sync(0xffffffffu, x, 2);
}
// Word w of lane l becomes word l of lane w, among the four lanes of a quad.
HEED_DEVICE void quad_transpose(std::uint32_t (&w)[4], int lane) {
    bool const odd = (lane & 1) != 0, high = (lane & 2) != 0;
    std::uint32_t const a = __shfl_xor_sync(0xffffffffu, odd ? w[0] : w[1], 1), b = __shfl_xor_sync(0xffffffffu, odd ? w[2] : w[3], 1);
    w[0] = odd ? a : w[0];
    w[1] = odd ? w[1] : a;
    w[2] = odd ? b : w[2];
    w[3] = odd ? w[3] : b;
    std::uint32_t const c = __shfl_xor_sync(0xffffffffu, high ? w[0] : w[2], 2), d = __shfl_xor_sync(0xffffffffu, high ? w[1] : w[3], 2);
    w[0] = high ? c : w[0];
    w[2] = high ? w[2] : c;
    w[1] = high ? d : w[1];
    w[3] = high ? w[3] : d;
}

// Two numbers rounded to nearest into one word, the first in the low half.
template <class T>
HEED_DEVICE std::uint32_t pack_two(float first, float second) {
    std::uint32_t w;
    if constexpr (std::is_same_v<T, bf16>) {
        asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(w) : "f"(second), "f"(first));
    } else {
        asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(w) : "f"(second), "f"(first));
    }
    return w;
}
template <class T>
HEED_DEVICE float2 unpack_two(std::uint32_t w) {
    float2 x;
    if constexpr (std::is_same_v<T, bf16>) {
        x = make_float2(__uint_as_float(w << 16), __uint_as_float(w & 0xffff0000u));
    } else {
        asm("{.reg .b16 a, b;\nmov.b32 {a, b}, %2;\ncvt.f32.f16 %0, a;\ncvt.f32.f16 %1, b;}" : "=f"(x.x), "=f"(x.y) : "r"(w));
    }
    return x;
}
// Two numbers as sums of Terms numbers each: term t of both in word t, rounded from what the terms before it left.
template <class T, int Terms>
HEED_DEVICE void split_two(float first, float second, std::uint32_t (&w)[Terms]) {
#pragma unroll
    for (int t = 0; t < Terms; ++t) {
        w[t] = pack_two<T>(first, second);
        float2 const term = unpack_two<T>(w[t]);
        first -= term.x;
        second -= term.y;
    }
}

// The power of two that brings a row whose largest number is `largest` to [2^Top, 2^(Top + 1)), and its inverse; rows below 2^-100 stay below.
struct row_power {
    float there, back;
    template <int Top>
    HEED_DEVICE static row_power of(float largest) {
        unsigned const e = min(max(__float_as_uint(largest) >> 23, 27u), 254u);
        return {__uint_as_float((254 + Top - e) << 23), __uint_as_float((e - Top) << 23)};
    }
};

// The product of two words of two numbers each, summed.
template <class T>
HEED_DEVICE float dot_two(std::uint32_t x, std::uint32_t y) {
    auto const number = [](std::uint32_t w) {
        T t;
        t.bits = static_cast<std::uint16_t>(w);
        return static_cast<float>(t);
    };
    return number(x) * number(y) + number(x >> 16) * number(y >> 16);
}

// Four 8 x 8 matrices of 16-bit numbers, as accumulators hold them packed, to rows of 16 bytes in shared memory; lane l names row l % 8 of matrix l / 8.
HEED_DEVICE void store_matrices(std::uint32_t address, std::uint32_t a, std::uint32_t b, std::uint32_t c, std::uint32_t d) {
    asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(address), "r"(a), "r"(b), "r"(c), "r"(d) : "memory");
}
// to[0..3] += the four, each on its own, in no order, if `now`: a predicate, so that products may run across it.
HEED_DEVICE void add_to_memory(float* to, float x, float y, float z, float w, bool now) {
    asm volatile("{.reg .pred p; setp.ne.b32 p, %5, 0;\n@p red.global.add.v4.f32 [%0], {%1, %2, %3, %4};}" ::"l"(to), "f"(x), "f"(y), "f"(z), "f"(w), "r"(static_cast<int>(now)) : "memory");
}

// Two rows of an accumulator of W columns (this thread's part), times `factor`, to rows of E of which `width` elements exist; null rows are not written. Four
// lanes write 64 bytes of a row where `wide` says that rows are contiguous and aligned.
template <int W, class E>
HEED_DEVICE void store_rows(float const (&x)[W / 2], float const (&factor)[2], E* const (&row)[2], int width, std::ptrdiff_t step, bool wide) {
    int const lane = static_cast<int>(threadIdx.x % 32);
#pragma unroll
    for (int h = 0; h < 2; ++h) {
#pragma unroll
        for (int g = 0; g < W / 32; ++g) {
            std::uint32_t w[4];
#pragma unroll
            for (int b = 0; b < 4; ++b) { w[b] = pack_two<E>(x[16 * g + 4 * b + 2 * h] * factor[h], x[16 * g + 4 * b + 2 * h + 1] * factor[h]); }
            quad_transpose(w, lane);
            int const column = 32 * g + 8 * (lane % 4);
            if (row[h] != nullptr && wide && column + 8 <= width) {
                *reinterpret_cast<uint4*>(row[h] + column) = make_uint4(w[0], w[1], w[2], w[3]);
            } else if (row[h] != nullptr) {
#pragma unroll
                for (int e = 0; e < 8; ++e) {
                    if (column + e < width) { row[h][(column + e) * step].bits = static_cast<std::uint16_t>(w[e / 2] >> (e % 2 * 16)); }
                }
            }
        }
    }
}

// The same to rows of floats, four lanes 32 bytes of a row.
template <int W>
HEED_DEVICE void store_rows(float const (&x)[W / 2], float const (&factor)[2], float* const (&row)[2], int width, std::ptrdiff_t step, bool wide) {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
#pragma unroll
        for (int g = 0; g < W / 8; ++g) {
            float const first = x[4 * g + 2 * h] * factor[h], second = x[4 * g + 2 * h + 1] * factor[h];
            int const column = 8 * g + 2 * static_cast<int>(threadIdx.x % 4);
            if (row[h] != nullptr && wide && column + 2 <= width) {
                *reinterpret_cast<float2*>(row[h] + column) = make_float2(first, second);
            } else if (row[h] != nullptr) {
                if (column < width) { row[h][column * step] = first; }
                if (column + 1 < width) { row[h][(column + 1) * step] = second; }
            }
        }
    }
}

} // namespace heed::device
