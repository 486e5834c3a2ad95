// SPDX-License-Identifier: BSD-3-Clause
// Products of one warp on tensor cores (mma.sync m16n8k16, since sm_80), elements of 16 bits, sums in float, and copies of 16 bytes that a warp does not wait for.
//
// Lane l of the warp, g = l / 4, t = l % 4:
//   a (16 x 16)   a[0] = (g, 2t), (g, 2t + 1)   a[1] = (g + 8, ..)   a[2] = (g, 2t + 8), ..   a[3] = (g + 8, 2t + 8), ..   a pair to a word
//   b (16 x 8)    b0 = (2t, g), (2t + 1, g)     b1 = (2t + 8, g), ..
//   d (16 x 8)    d[0], d[1] = (g, 2t), (g, 2t + 1)   d[2], d[3] = (g + 8, ..)
// So two neighbouring accumulators become an a without any exchange between lanes, and, turned 8 by 8, a b.
//
// Rows in shared memory are cut into parts of 16 bytes; part c of row r lies at part c ^ (r % 8) of its row, so that the eight rows that a quarter of a warp
// reads lie on different banks. Rows are multiples of 128 bytes.
#pragma once

#include <heed/kernel/half.hpp>

#include <cstdint>

namespace heed::device {

inline constexpr int part_elements = 8; // 16 bytes

// Where part c of row r lies, in parts from the first row on.
template <int PartsOfRow>
HEED_DEVICE int part_place(int r, int c) {
    return r * PartsOfRow + (c ^ (r % 8));
}

// Four matrices of 8 x 8; lane l gives the address of row l % 8 of matrix l / 8. `turned` hands out their transposes.
HEED_DEVICE void load_matrices(std::uint32_t (&to)[4], std::uint32_t address) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];" : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3]) : "r"(address) : "memory");
}
HEED_DEVICE void load_matrices_turned(std::uint32_t (&to)[4], std::uint32_t address) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];" : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3]) : "r"(address) : "memory");
}

// The transpose of a matrix of 8 x 8, two elements of row l / 4 in lane l.
HEED_DEVICE std::uint32_t turn_matrix(std::uint32_t x) {
    std::uint32_t y;
    asm("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(y) : "r"(x));
    return y;
}

// d += a b
template <class E>
HEED_DEVICE void warp_product(float (&d)[4], std::uint32_t const (&a)[4], std::uint32_t b0, std::uint32_t b1) {
    if constexpr (std::is_same_v<E, bf16>) {
        asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
            : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
            : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
    } else {
        asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
            : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
            : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
    }
}

// 16 bytes to shared memory: the first `bytes` of them read, the others zero. Copies are counted in groups, in the order of commit.
HEED_DEVICE void copy_part(std::uint32_t to, void const* from, int bytes) {
    asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(bytes) : "memory");
}
HEED_DEVICE void copies_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int N>
HEED_DEVICE void copies_wait() {
    asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
}

} // namespace heed::device
