// SPDX-License-Identifier: BSD-3-Clause
// Warps and warpgroups of sm_90a: registers per role, named barriers, exchanges within four lanes, two numbers to a word.
#pragma once

#include <heed/kernel/half.hpp>

#include <cstdint>

namespace heed::device {

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

} // namespace heed::device
