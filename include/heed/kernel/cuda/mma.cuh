// SPDX-License-Identifier: BSD-3-Clause
// Products of a warpgroup on the tensor cores of sm_90a (wgmma): d (64 x N, float, in registers) += a (64 x 16) b (16 x N), elements of 16 bits.
//
// Accumulator: thread t of the warpgroup, lane l of warp w, holds d[r] = element (16 w + l / 4 + 8 (r / 2 % 2), 8 (r / 4) + 2 (l % 4) + r % 2).
// a from registers is the same arrangement packed in pairs, so that an accumulator becomes an operand without any exchange between lanes.
// a and b from shared memory lie in panels of 64 columns (copy_async.cuh). `rows` matrices have the summed index along columns; a `columns` matrix has it
// along rows, as values have: keys are rows.
#pragma once

#include <heed/kernel/half.hpp>

#include <cstdint>

namespace heed::device {

// Order of a warpgroup's products: registers before them are ready; a group of them is closed; all but the last N groups are done.
HEED_DEVICE void products_begin() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
HEED_DEVICE void products_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
template <int N>
HEED_DEVICE void products_wait() {
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(N) : "memory");
}
// What stands after it may read x only now: products run beside the program.
template <int N>
HEED_DEVICE void hold(float (&x)[N]) {
#pragma unroll
    for (int r = 0; r < N; ++r) { asm volatile("" : "+f"(x[r])::"memory"); }
}

// Descriptor of a matrix in panels with 128-byte rows. Groups of eight rows follow each other at 1024 bytes; `panel_bytes` is the way to the next 64 columns.
// `step`, in bytes, moves along it: the lower word alone, no carry leaves it.
struct panel_matrix {
    std::uint32_t low;
    HEED_DEVICE panel_matrix(std::uint32_t address, int panel_bytes) : low(static_cast<std::uint32_t>(panel_bytes >> 4 << 16) | (address >> 4)) {}
    HEED_DEVICE std::uint64_t operator+(int step) const {
        constexpr std::uint64_t high = std::uint64_t((1u << 30) | (1024 >> 4)) << 32; // 128-byte swizzle, the groups
        return high | (low + static_cast<std::uint32_t>(step >> 4));
    }
    HEED_DEVICE panel_matrix behind(int step) const { return panel_matrix(low + static_cast<std::uint32_t>(step >> 4)); }

private:
    HEED_DEVICE explicit panel_matrix(std::uint32_t word) : low(word) {}
};

// The instruction for N columns of d.
template <int N>
struct product;

// clang-format off
#define HEED_R0 "%0,%1,%2,%3,%4,%5,%6,%7"
#define HEED_R1 HEED_R0 ",%8,%9,%10,%11,%12,%13,%14,%15"
#define HEED_R2 HEED_R1 ",%16,%17,%18,%19,%20,%21,%22,%23"
#define HEED_R3 HEED_R2 ",%24,%25,%26,%27,%28,%29,%30,%31"
#define HEED_R4 HEED_R3 ",%32,%33,%34,%35,%36,%37,%38,%39"
#define HEED_R5 HEED_R4 ",%40,%41,%42,%43,%44,%45,%46,%47"
#define HEED_R6 HEED_R5 ",%48,%49,%50,%51,%52,%53,%54,%55"
#define HEED_R7 HEED_R6 ",%56,%57,%58,%59,%60,%61,%62,%63"
#define HEED_R8 HEED_R7 ",%64,%65,%66,%67,%68,%69,%70,%71"
#define HEED_R9 HEED_R8 ",%72,%73,%74,%75,%76,%77,%78,%79"
#define HEED_R10 HEED_R9 ",%80,%81,%82,%83,%84,%85,%86,%87"
#define HEED_R11 HEED_R10 ",%88,%89,%90,%91,%92,%93,%94,%95"
#define HEED_R12 HEED_R11 ",%96,%97,%98,%99,%100,%101,%102,%103"
#define HEED_R13 HEED_R12 ",%104,%105,%106,%107,%108,%109,%110,%111"
#define HEED_R14 HEED_R13 ",%112,%113,%114,%115,%116,%117,%118,%119"
#define HEED_R15 HEED_R14 ",%120,%121,%122,%123,%124,%125,%126,%127"
#define HEED_D(o) "+f"(d[o]), "+f"(d[o + 1]), "+f"(d[o + 2]), "+f"(d[o + 3]), "+f"(d[o + 4]), "+f"(d[o + 5]), "+f"(d[o + 6]), "+f"(d[o + 7])
#define HEED_D0 HEED_D(0)
#define HEED_D1 HEED_D0, HEED_D(8)
#define HEED_D2 HEED_D1, HEED_D(16)
#define HEED_D3 HEED_D2, HEED_D(24)
#define HEED_D4 HEED_D3, HEED_D(32)
#define HEED_D5 HEED_D4, HEED_D(40)
#define HEED_D6 HEED_D5, HEED_D(48)
#define HEED_D7 HEED_D6, HEED_D(56)
#define HEED_D8 HEED_D7, HEED_D(64)
#define HEED_D9 HEED_D8, HEED_D(72)
#define HEED_D10 HEED_D9, HEED_D(80)
#define HEED_D11 HEED_D10, HEED_D(88)
#define HEED_D12 HEED_D11, HEED_D(96)
#define HEED_D13 HEED_D12, HEED_D(104)
#define HEED_D14 HEED_D13, HEED_D(112)
#define HEED_D15 HEED_D14, HEED_D(120)

// One instruction: a and b from shared memory, both `rows` or both `columns`; or a from registers and b a `columns` matrix from shared memory.
#define HEED_SHARED(TYPE, N, B, I0, I1, I2, COLUMNS) \
    asm volatile("{.reg .pred p; setp.ne.b32 p, %" #I2 ", 0;\nwgmma.mma_async.sync.aligned.m64n" #N "k16.f32." TYPE "." TYPE " {" HEED_R##B "}, %" #I0 ", %" #I1 ", p, 1, 1, " #COLUMNS ", " #COLUMNS ";}" \
                 : HEED_D##B : "l"(a), "l"(b), "r"(add))
#define HEED_MIXED(TYPE, N, B, I0, I1, I2, I3, I4, I5) \
    asm volatile("{.reg .pred p; setp.ne.b32 p, %" #I5 ", 0;\nwgmma.mma_async.sync.aligned.m64n" #N "k16.f32." TYPE "." TYPE " {" HEED_R##B "}, {%" #I0 ", %" #I1 ", %" #I2 ", %" #I3 "}, %" #I4 ", p, 1, 1, 1;}" \
                 : HEED_D##B : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(add))
// N columns: B + 1 groups of eight registers, then the numbers of the operands that follow them.
#define HEED_PRODUCT(N, B, I0, I1, I2, I3, I4, I5) \
    template <> struct product<N> { \
        template <class T> HEED_DEVICE static void rows_rows(float (&d)[N / 2], std::uint64_t a, std::uint64_t b, int add) { \
            if constexpr (std::is_same_v<T, bf16>) { HEED_SHARED("bf16", N, B, I0, I1, I2, 0); } else { HEED_SHARED("f16", N, B, I0, I1, I2, 0); } \
        } \
        template <class T> HEED_DEVICE static void columns_columns(float (&d)[N / 2], std::uint64_t a, std::uint64_t b, int add) { \
            if constexpr (std::is_same_v<T, bf16>) { HEED_SHARED("bf16", N, B, I0, I1, I2, 1); } else { HEED_SHARED("f16", N, B, I0, I1, I2, 1); } \
        } \
        template <class T> HEED_DEVICE static void registers_columns(float (&d)[N / 2], std::uint32_t const* a, std::uint64_t b, int add) { \
            if constexpr (std::is_same_v<T, bf16>) { HEED_MIXED("bf16", N, B, I0, I1, I2, I3, I4, I5); } else { HEED_MIXED("f16", N, B, I0, I1, I2, I3, I4, I5); } \
        } \
    }
HEED_PRODUCT(64, 3, 32, 33, 34, 35, 36, 37);
HEED_PRODUCT(80, 4, 40, 41, 42, 43, 44, 45);
HEED_PRODUCT(96, 5, 48, 49, 50, 51, 52, 53);
HEED_PRODUCT(112, 6, 56, 57, 58, 59, 60, 61);
HEED_PRODUCT(128, 7, 64, 65, 66, 67, 68, 69);
HEED_PRODUCT(144, 8, 72, 73, 74, 75, 76, 77);
HEED_PRODUCT(160, 9, 80, 81, 82, 83, 84, 85);
HEED_PRODUCT(176, 10, 88, 89, 90, 91, 92, 93);
HEED_PRODUCT(192, 11, 96, 97, 98, 99, 100, 101);
HEED_PRODUCT(256, 15, 128, 129, 130, 131, 132, 133);
#undef HEED_PRODUCT
#undef HEED_MIXED
#undef HEED_SHARED
#undef HEED_R0
#undef HEED_D0
#undef HEED_R1
#undef HEED_D1
#undef HEED_R2
#undef HEED_D2
#undef HEED_R3
#undef HEED_D3
#undef HEED_R4
#undef HEED_D4
#undef HEED_R5
#undef HEED_D5
#undef HEED_R6
#undef HEED_D6
#undef HEED_R7
#undef HEED_D7
#undef HEED_R8
#undef HEED_D8
#undef HEED_R9
#undef HEED_D9
#undef HEED_R10
#undef HEED_D10
#undef HEED_R11
#undef HEED_D11
#undef HEED_R12
#undef HEED_D12
#undef HEED_R13
#undef HEED_D13
#undef HEED_R14
#undef HEED_D14
#undef HEED_R15
#undef HEED_D15
#undef HEED_D
// clang-format on

// d (+)= a b^T over K columns: both in panels, of a_rows and N rows.
template <class T, int N, int K>
HEED_DEVICE void product_of_rows(float (&d)[N / 2], panel_matrix const& a, int a_rows, panel_matrix const& b, int add = 0) {
#pragma unroll
    for (int c = 0; c < K / 16; ++c) { product<N>::template rows_rows<T>(d, a + (c / 4 * a_rows * 128 + c % 4 * 32), b + (c / 4 * N * 128 + c % 4 * 32), c != 0 ? 1 : add); }
}
// d = a^T b over K rows: both in panels, a of 64 columns.
template <class T, int N, int K>
HEED_DEVICE void product_of_columns(float (&d)[N / 2], panel_matrix const& a, panel_matrix const& b) {
#pragma unroll
    for (int c = 0; c < K / 16; ++c) { product<N>::template columns_columns<T>(d, a + c * 2048, b + c * 2048, c != 0); }
}
// d (+)= p v: p 64 x K in registers, v in panels of K rows.
template <class T, int N, int K>
HEED_DEVICE void product_with_values(float (&d)[N / 2], std::uint32_t const (&p)[K / 4], panel_matrix const& v, int add) {
#pragma unroll
    for (int c = 0; c < K / 16; ++c) { product<N>::template registers_columns<T>(d, p + 4 * c, v + c * 2048, c != 0 ? 1 : add); }
}

} // namespace heed::device
