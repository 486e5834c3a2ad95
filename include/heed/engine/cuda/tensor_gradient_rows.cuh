// SPDX-License-Identifier: BSD-3-Clause
// What a call of the tensor-core gradients is on the device, and its two small kernels: centres of the rows before, dq rounded after.
#pragma once

#include <heed/engine/cuda/tensor_order.cuh>
#include <heed/engine/cuda/tensor_tiles.cuh>
#include <heed/engine/gradient_problem.hpp>
#include <heed/kernel/cuda/warp.cuh>

namespace heed {

template <class M, class E>
struct tensor_backward_arguments {
    M m;
    CUtensorMap q_map{}, k_map{}, v_map{}, dout_map{};
    detail::tile_steps q_step{}, k_step{}, v_step{}, dout_step{};
    tensor_view<E const> q{}, k{}, v{}, out{}, dout{};
    tensor_view<float const> saved{}, dsaved{};
    double saved_unit = 1, dsaved_unit = 1;
    tensor_view<E> dq{}, dk{}, dv{};
    float2* rows = nullptr; // [B][H][padded N]: what is saved of a row, in the normalizer's unit; its centre
    float* sums = nullptr;  // [B][H][tiles][2][8][128][4]: dq of a tile as the accumulators of two warpgroups hold it
    extent_t padded = 0;    // N up to whole tiles
    detail::tile_order order{};
    int together = 1, key_tiles = 1; // key heads (over the batch) that are taken together; tiles of keys
    bool wide_dq = false, wide_dk = false, wide_dv = false;
    bool words = false; // rows of out and dO may be read 16 bytes at a time

    HEED_HD place at(extent_t b, extent_t h) const { return {b, h, h / (q.extent(1) / k.extent(1)), q.extent(2), k.extent(2), q.extent(3)}; }
};

namespace detail {

// D features, tiles of so many queries; dq lies in pieces of 64 x 64 elements, as the accumulators of a warpgroup hold them.
template <class E, int D, int queries>
struct tensor_gradient_rows {
    static constexpr int panels = D / 64, halves = queries / 64, pieces = panels * halves;

    // Some lanes a row, each for eight of its elements.
    static constexpr int row_lanes = D == 64 ? 8 : D == 128 ? 16 : 32, block_rows = 256 / row_lanes;
    template <class Arguments>
    __device__ static void centres(Arguments const& x) {
        int const heads = static_cast<int>(x.q.extent(1)), blocks = static_cast<int>((x.padded + block_rows - 1) / block_rows), which = static_cast<int>(blockIdx.x) / blocks;
        int const b = which / heads, h = which % heads, i = static_cast<int>(blockIdx.x) % blocks * block_rows + static_cast<int>(threadIdx.x) / row_lanes;
        int const first = static_cast<int>(threadIdx.x) % row_lanes * 8, width = static_cast<int>(x.v.extent(3));
        bool const exists = i < x.q.extent(2);
        float centre = 0;
        if (exists) {
            E const *const o = x.out.row(b, h, i), *const d = x.dout.row(b, h, i);
            if (x.words && first + 8 <= width) {
                uint4 const u = *reinterpret_cast<uint4 const*>(o + first), w = *reinterpret_cast<uint4 const*>(d + first);
                centre = device::dot_two<E>(u.x, w.x) + device::dot_two<E>(u.y, w.y) + device::dot_two<E>(u.z, w.z) + device::dot_two<E>(u.w, w.w);
            } else {
                for (int e = first; e < min(first + 8, width); ++e) { centre += static_cast<float>(o[e * x.out.stride(3)]) * static_cast<float>(d[e * x.dout.stride(3)]); }
            }
        }
#pragma unroll
        for (int by = row_lanes / 2; by > 0; by /= 2) { centre += __shfl_xor_sync(0xffffffffu, centre, by); }
        if (first == 0 && i < x.padded) {
            float saved = 0;
            if (exists) {
                if (x.dsaved.data_handle() != nullptr) { centre -= static_cast<float>(static_cast<double>(x.dsaved(b, h, i, 0)) * x.dsaved_unit); }
                saved = static_cast<float>(static_cast<double>(x.saved(b, h, i, 0)) * x.saved_unit);
            }
            x.rows[extent_t(which) * x.padded + i] = make_float2(saved, centre);
        }
    }
    // A block a piece of dq.
    template <class Arguments>
    __device__ static void round_dq(Arguments const& x) {
        int const heads = static_cast<int>(x.q.extent(1)), tiles = static_cast<int>(x.padded) / queries, piece = static_cast<int>(blockIdx.x) % pieces, t = static_cast<int>(blockIdx.x) / pieces % tiles;
        int const h = static_cast<int>(blockIdx.x) / pieces / tiles % heads, b = static_cast<int>(blockIdx.x) / pieces / tiles / heads, thread = static_cast<int>(threadIdx.x);
        float4 const* const from = reinterpret_cast<float4 const*>(x.sums + extent_t(blockIdx.x) * 4096) + thread;
        float sum[32];
#pragma unroll
        for (int g = 0; g < 8; ++g) {
            float4 const part = from[g * 128];
            sum[4 * g] = part.x, sum[4 * g + 1] = part.y, sum[4 * g + 2] = part.z, sum[4 * g + 3] = part.w;
        }
        int const first = t * queries + (halves == 2 ? 64 * piece : 0) + thread / 32 * 16 + thread % 32 / 4, column = halves == 2 ? 0 : 64 * piece;
        E* const to[2] = {first < x.q.extent(2) ? x.dq.row(b, h, first) + column * x.dq.stride(3) : nullptr, first + 8 < x.q.extent(2) ? x.dq.row(b, h, first + 8) + column * x.dq.stride(3) : nullptr};
        device::store_rows<64>(sum, {1.0f, 1.0f}, to, static_cast<int>(x.q.extent(3)) - column, x.dq.stride(3), x.wide_dq);
    }
};

template <class Rows, class Arguments>
__global__ void __launch_bounds__(256) tensor_centres_kernel(const __grid_constant__ Arguments x) {
    Rows::centres(x);
}
template <class Rows, class Arguments>
__global__ void __launch_bounds__(128) tensor_round_kernel(const __grid_constant__ Arguments x) {
    Rows::round_dq(x);
}

} // namespace detail
} // namespace heed
