// SPDX-License-Identifier: BSD-3-Clause
// simt_tile: 64 x 64 pairs by 128 threads, for any ring. Sixteen threads share eight rows, so what belongs to a row stays inside half a warp.
//
//   contract   acc[r][s] = reduce_c step(k[j_s][c], q[i_r][c])      i_r = ty + 8 r, j_s = tx + 16 s
//   gather     acc[r][f] = reduce_j step(v[j][4 tx + f], p[i_r][j])
//
// Operands lie in shared memory, rows of `pitch` numbers with pitch = 4 mod 32: the rows that a quarter of a warp reads four features of fall on different
// banks. Of four features a thread loads 12 vectors for 128 steps. Depends on the ring alone, never on a mechanism.
#pragma once

#include <heed/kernel/half.hpp>
#include <heed/kernel/tile_config.hpp>

namespace heed {

namespace detail {

// Four neighbouring elements, as floats.
template <class E>
struct four;
template <>
struct four<float> {
    using raw = float4;
    HEED_DEVICE static float4 widen(raw x) { return x; }
    HEED_DEVICE static raw narrow(float4 x) { return x; }
};
template <class E>
    requires is_half<E>
struct four<E> {
    using raw = ushort4;
    HEED_DEVICE static float widen(unsigned short h) {
        if constexpr (std::is_same_v<E, fp16>) {
            float x;
            asm("cvt.f32.f16 %0, %1;" : "=f"(x) : "h"(h));
            return x;
        } else {
            return __uint_as_float(static_cast<unsigned>(h) << 16);
        }
    }
    HEED_DEVICE static float4 widen(raw x) { return {widen(x.x), widen(x.y), widen(x.z), widen(x.w)}; }
    HEED_DEVICE static raw narrow(float4 x) { return {E(x.x).bits, E(x.y).bits, E(x.z).bits, E(x.w).bits}; }
};

// One value more, NaN kept from either side.
template <class Ring>
HEED_DEVICE float gather_one_of(float before, float value, float weight) {
    if constexpr (requires { Ring::combine(value, weight); }) {
        return Ring::reduce(before, Ring::combine(value, weight));
    } else {
        return Ring::step(before, value, weight);
    }
}

HEED_DEVICE float part(float4 const& x, int c) { return c == 0 ? x.x : c == 1 ? x.y : c == 2 ? x.z : x.w; }

} // namespace detail

struct simt_tile {
    static constexpr int threads = 128, queries = 64, keys = 64, chunk = 64; // chunk: features staged at once
    static constexpr int pitch = chunk + 4;
    static constexpr int rows = 8, cols = 4, lanes = 16; // of a thread: rows and columns; threads that share a row

    HEED_DEVICE static int tx() { return static_cast<int>(threadIdx.x) % lanes; }
    HEED_DEVICE static int row(int r) { return static_cast<int>(threadIdx.x) / lanes + r * rows; }
    HEED_DEVICE static int col(int s) { return tx() + s * lanes; }
    static constexpr int row_pitch(extent_t features) { return static_cast<int>((features + 31) / 32 * 32 + 4); }

    // Rows [0, count) of 64 and features [0, width) of 64 of a matrix into shared memory, times factor; other rows are 0. vectors: four neighbouring features
    // are neighbours in memory and aligned. see(row, x) is called with every number that is in the matrix.
    template <class E, class See>
    HEED_DEVICE static void stage(E const* src, extent_t row_step, extent_t feature_step, int count, int width, bool vectors, float factor, float* dst, int dst_pitch, See const& see) {
        stage_rows([&](int r) { return src + r * row_step; }, feature_step, count, width, vectors, factor, dst, dst_pitch, see);
    }
    // The same of rows that lie anywhere: row_of(r) is called for rows that are there.
    template <class Rows, class See>
    HEED_DEVICE static void stage_rows(Rows const& row_of, extent_t feature_step, int count, int width, bool vectors, float factor, float* dst, int dst_pitch, See const& see) {
        using E = std::remove_cvref_t<decltype(*row_of(0))>;
        using four = detail::four<E>;
        int const c = 4 * tx();
        if (vectors) {
            float4 x[rows];
#pragma unroll
            for (int r = 0; r < rows; ++r) {
                x[r] = {0, 0, 0, 0};
                if (row(r) < count) {
                    E const* const p = row_of(row(r)) + c;
                    if (c + 4 <= width) {
                        x[r] = four::widen(*reinterpret_cast<typename four::raw const*>(p));
                    } else {
                        if (c < width) { x[r].x = static_cast<float>(p[0]); }
                        if (c + 1 < width) { x[r].y = static_cast<float>(p[1]); }
                        if (c + 2 < width) { x[r].z = static_cast<float>(p[2]); }
                    }
                }
            }
#pragma unroll
            for (int r = 0; r < rows; ++r) {
                see(row(r), x[r].x);
                see(row(r), x[r].y);
                see(row(r), x[r].z);
                see(row(r), x[r].w);
                if (c < width) { *reinterpret_cast<float4*>(dst + row(r) * dst_pitch + c) = {x[r].x * factor, x[r].y * factor, x[r].z * factor, x[r].w * factor}; }
            }
        } else {
#pragma unroll 2
            for (int r = 0; r < rows; ++r) {
#pragma unroll
                for (int s = 0; s < cols; ++s) {
                    float const x = row(r) < count && col(s) < width ? static_cast<float>(row_of(row(r))[col(s) * feature_step]) : 0.0f;
                    see(row(r), x);
                    if (col(s) < width) { dst[row(r) * dst_pitch + col(s)] = x * factor; }
                }
            }
        }
    }

    // `width` features of the staged operands; operand: [width] where the ring has one.
    template <class Ring, class Acc>
    HEED_DEVICE static void contract(Acc (&acc)[rows][cols], float const* q, int q_pitch, float const* k, int width, Ring const& ring, float const* operand) {
        float const *const qr = q + row(0) * q_pitch, *const kr = k + tx() * pitch;
        auto const step = [&](Acc& a, float y, float x, float w) {
            if constexpr (detail::has_operand<Ring>) {
                a = ring.step(a, y, x, w);
            } else {
                a = ring.step(a, y, x);
            }
        };
        int c = 0;
#pragma unroll 2
        for (; c + 4 <= width; c += 4) {
            float4 x[rows], w{};
#pragma unroll
            for (int r = 0; r < rows; ++r) { x[r] = *reinterpret_cast<float4 const*>(qr + r * rows * q_pitch + c); }
            if constexpr (detail::has_operand<Ring>) { w = *reinterpret_cast<float4 const*>(operand + c); }
#pragma unroll
            for (int s = 0; s < cols; ++s) {
                float4 const y = *reinterpret_cast<float4 const*>(kr + s * lanes * pitch + c);
#pragma unroll
                for (int r = 0; r < rows; ++r) {
                    step(acc[r][s], y.x, x[r].x, w.x);
                    step(acc[r][s], y.y, x[r].y, w.y);
                    step(acc[r][s], y.z, x[r].z, w.z);
                    step(acc[r][s], y.w, x[r].w, w.w);
                }
            }
        }
        for (; c < width; ++c) {
            float const w = detail::has_operand<Ring> ? operand[c] : 0.0f;
#pragma unroll
            for (int s = 0; s < cols; ++s) {
#pragma unroll
                for (int r = 0; r < rows; ++r) { step(acc[r][s], kr[s * lanes * pitch + c], qr[r * rows * q_pitch + c], w); }
            }
        }
    }

    // Sums over the first `count` keys, rounded up to a multiple of 4, of 64 features. v: [64][pitch]; p: [64][pitch].
    template <class Ring>
    HEED_DEVICE static void gather(float (&acc)[rows][cols], float const* p, float const* v, int count) {
        float const *const pr = p + row(0) * pitch, *const vc = v + 4 * tx();
#pragma unroll
        for (int r = 0; r < rows; ++r) {
#pragma unroll
            for (int f = 0; f < cols; ++f) { acc[r][f] = Ring::template zero<float>(); }
        }
#pragma unroll 2
        for (int j = 0; j < count; j += 4) {
            float4 w[rows];
#pragma unroll
            for (int r = 0; r < rows; ++r) { w[r] = *reinterpret_cast<float4 const*>(pr + r * rows * pitch + j); }
#pragma unroll
            for (int n = 0; n < 4; ++n) {
                float4 const y = *reinterpret_cast<float4 const*>(vc + (j + n) * pitch);
#pragma unroll
                for (int r = 0; r < rows; ++r) {
                    float const x = detail::part(w[r], n);
                    acc[r][0] = Ring::step(acc[r][0], y.x, x);
                    acc[r][1] = Ring::step(acc[r][1], y.y, x);
                    acc[r][2] = Ring::step(acc[r][2], y.z, x);
                    acc[r][3] = Ring::step(acc[r][3], y.w, x);
                }
            }
        }
    }
    // The same where a value may be no number to be multiplied: only pairs of `kept` (bit 4 r + s of the thread that owns the pair) are gathered, and NaN of
    // either side is kept.
    template <class Ring>
    HEED_DEVICE static void gather_kept(float (&acc)[rows][cols], float const* p, float const* v, int count, unsigned kept) {
#pragma unroll
        for (int r = 0; r < rows; ++r) {
#pragma unroll
            for (int f = 0; f < cols; ++f) { acc[r][f] = Ring::template zero<float>(); }
        }
        for (int j = 0; j < count; ++j) {
            unsigned const bits = __shfl_sync(0xffffffffu, kept, j % lanes, lanes) >> (j / lanes);
            float4 const y = *reinterpret_cast<float4 const*>(v + j * pitch + 4 * tx());
#pragma unroll
            for (int r = 0; r < rows; ++r) {
                float const x = p[row(r) * pitch + j];
#pragma unroll
                for (int f = 0; f < cols; ++f) {
                    float const value = detail::part(y, f);
                    float const sum = detail::gather_one_of<Ring>(acc[r][f], value, x);
                    acc[r][f] = (bits >> (cols * r) & 1u) != 0 ? sum : acc[r][f];
                }
            }
        }
    }

    // Over the threads of a row; all of them get the same.
    template <class F>
    HEED_DEVICE static float over_row(float x, F const& join) {
#pragma unroll
        for (int by = lanes / 2; by > 0; by /= 2) { x = join(x, __shfl_xor_sync(0xffffffffu, x, by, lanes)); }
        return __shfl_sync(0xffffffffu, x, 0, lanes);
    }
};

} // namespace heed
