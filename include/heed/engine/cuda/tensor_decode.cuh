// SPDX-License-Identifier: BSD-3-Clause
// Pairwise decode on tensor cores at the speed of the memory, for queries and caches of 16 bits: contraction and mix are sums of products, weights are settled
// tile by tile. One launch.
//
// The query heads of a key head and the new tokens are the rows of one tile, 8 for every warp of a team of 1, 2 or 4: keys and values are read once for all of them, by
// copies that nobody waits for until they are needed (tensor_decode_pass.cuh). Blocks have equal shares of all keys (decode_cut.cuh).
// Caches may be contiguous, rings or pages of any size: every row is found by itself. Rows must be multiples of 16 bytes apart and features neighbours; up to
// 256 features. Traffic: keys and values once per 8 team rows; bytes on their way a multiprocessor: blocks x warps x slots x keys x 2 D.
#pragma once

#include <heed/engine/cuda/tensor_decode_pass.cuh>
#include <heed/engine/cuda/tensor_sizes.cuh>
#include <heed/engine/decode_problem.hpp>

#include <bit>

namespace heed {

// Of rows of D features: warps of a block, blocks of a multiprocessor, keys of a tile, slots for keys or values of a warp, pieces of a block at least.
template <int D>
struct tensor_decode_sizes {
    static constexpr int warps = 8, blocks = 1, keys = D <= 128 ? 32 : 16, slots = D <= 64 ? 5 : 3;
    static constexpr extent_t least = 1;
};

template <class Engine>
__global__ void __launch_bounds__(Engine::threads, Engine::blocks) tensor_decode_kernel(__grid_constant__ typename Engine::arguments const a) {
#if __CUDA_ARCH__ >= 800
    Engine::block(a);
#endif
}

// M a TensorCoreForward, E bf16 or fp16, rows of up to D features.
template <class M, class E, class A, int D, class Sizes = tensor_decode_sizes<D>>
struct tensor_decode {
    static constexpr std::string_view name = "cuda.tensor.pairwise.decode";
    using pass = tensor_decode_pass<M, E, D, Sizes>;
    using row_type = typename pass::row_type;
    using problem = decode_problem<E, E, E, float>;
    static constexpr int blocks = Sizes::blocks, threads = 32 * Sizes::warps, piece = pass::piece; // piece: keys that a block takes at once

    // How a call is cut, by its shape and the device.
    struct sizes {
        extent_t batch, heads, queries, width, kv_heads, dv, tile = piece;
        extent_t rows, blocks_of_rows, team, units, blocks, chunks; // rows of a tile; units of a sequence; blocks at most; that share a unit, at most
        std::size_t shared_bytes;

        sizes(shape q, cache_view<E, E> const& c, cuda_device const& device) : batch(q.batch), heads(q.head), queries(q.seq), width(q.feature), kv_heads(c.heads()), dv(c.v.extent(3)) {
            extent_t const of_head = kv_heads > 0 ? heads / kv_heads * queries : 0;
            team = of_head <= 8 ? 1 : of_head <= 16 ? 2 : 4;
            rows = pass::rows_of_warp * team;
            blocks_of_rows = (of_head + rows - 1) / rows;
            units = kv_heads * blocks_of_rows;
            extent_t const pieces = (c.reach() + piece - 1) / piece, most = batch * units * (pieces + 1);
            blocks = extent_t(device.multiprocessors) * Sizes::blocks;
            blocks = most < blocks ? most : blocks;
            extent_t const others = batch * units > 0 ? batch * units : 1;
            chunks = (blocks + others - 1) / others + 1;
            chunks = chunks > pieces ? (pieces > 0 ? pieces : 1) : chunks;
            arena ring(nullptr), join(nullptr);
            ring.take<std::byte>(pass::ring_bytes + Sizes::warps * pass::notes * 4);
            typename pass::room(join, static_cast<int>(rows), Sizes::warps / static_cast<int>(team), static_cast<int>(blocks), pass::pitch);
            shared_bytes = ring.bytes() > join.bytes() ? ring.bytes() : join.bytes();
        }
    };
    using arguments = tensor_decode_arguments<M, E>;

    static bool serves(sizes const& by, cache_view<E, E> const& c, cuda_device const& device) {
        bool const sized = by.width >= 1 && by.width <= D && by.dv >= 1 && by.dv <= D && by.kv_heads > 0 && by.queries > 0;
        if (!sized || device.major < 8 || by.shared_bytes > device.shared_bytes || !readable(c.k) || !readable(c.v)) { return false; }
        if (by.batch * by.units * ((c.reach() + piece - 1) / piece + 1) >= extent_t(1) << 31 || by.heads / by.kv_heads * by.queries >= (extent_t(1) << 31) / by.queries) { return false; }
        cudaFuncAttributes compiled{}; // the kernel is empty where it was compiled for another architecture
        return cudaFuncGetAttributes(&compiled, tensor_decode_kernel<tensor_decode>) == cudaSuccess && compiled.numRegs >= 64;
    }
    static extent_t counters(sizes const& by) { return by.blocks; } // of blocks that have ended their part of a unit
    static std::size_t bytes(sizes const& by) {
        arena count(nullptr);
        placed(count, by);
        return count.bytes();
    }
    static void run(M const& m, problem const& x, cuda<A> const& backend, sizes const& by, int* ended, std::byte* workspace) {
        arena memory(workspace);
        placed const own(memory, by);
        auto const narrow = [](extent_t n) { return static_cast<int>(n); };
        arguments a{m, own.starts.of_queries(x.q), own.starts.of_queries(x.out), own.starts.of_queries(x.lse), x.lse_unit, x.cache.kind, x.cache.k.data_handle(), x.cache.v.data_handle(),
                    x.cache.k.strides(), x.cache.v.strides(), narrow(x.cache.k.extent(2)), bits_of(x.cache.k.extent(2)), x.cache.table,
                    narrow(by.batch), narrow(by.heads / by.kv_heads), narrow(by.queries), narrow(by.width), narrow(by.dv),
                    narrow(by.heads / by.kv_heads * by.queries), narrow(by.blocks_of_rows), narrow(by.units), 0, 0, by.team == 4 ? 2 : by.team == 2 ? 1 : 0, in_pairs(x.q),
                    static_cast<unsigned>((extent_t(1) << 32) / by.queries + 1), own.states, own.sums, ended, {}};
        static_assert(sizeof(arguments) <= 4096, "heed: the policies of a mechanism must fit the arguments of a kernel, 4096 bytes");
        own.starts.put_queries(x.q.offsets(), backend.stream);
        // Of a ring only its rows are looked at.
        auto const pieces_of = [&](extent_t b) {
            extent_t const n = x.cache.lengths[static_cast<std::size_t>(b)] - x.cache.oldest(b);
            return n < 1 ? extent_t(1) : (n + piece - 1) / piece;
        };
        bool const far = by.batch > decode_lengths::most;
        extent_t all = 0;
        for (extent_t b = 0; b < by.batch; ++b) {
            if (!far) {
                a.lengths.first[b] = narrow(all);
                a.lengths.keys[b] = narrow(x.cache.lengths[static_cast<std::size_t>(b)]);
            }
            all += pieces_of(b);
        }
        if (far) {
            a.lengths.far_first = own.first;
            a.lengths.far_keys = own.keys;
            extent_t begin = 0;
            detail::put_numbers<A>(by.batch + 1, [&](extent_t b) { extent_t const n = begin; begin += b < by.batch ? pieces_of(b) : 0; return n; }, own.first, backend.stream);
            detail::put_numbers<A>(by.batch, [&](extent_t b) { return x.cache.lengths[static_cast<std::size_t>(b)]; }, own.keys, backend.stream);
        } else {
            a.lengths.first[by.batch] = narrow(all);
        }
        all *= by.units;
        extent_t const share = (all + by.blocks - 1) / by.blocks;
        a.share = narrow(share > Sizes::least ? share : Sizes::least);
        a.blocks = narrow((all + a.share - 1) / a.share);
        auto const kernel = tensor_decode_kernel<tensor_decode>;
        detail::check_cuda<A>(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(by.shared_bytes)), "cudaFuncSetAttribute of cuda.tensor.pairwise.decode");
        kernel<<<static_cast<unsigned>(a.blocks), threads, by.shared_bytes, backend.stream>>>(a);
        detail::check_cuda<A>(cudaGetLastError(), "the launch of cuda.tensor.pairwise.decode");
    }

    HEED_DEVICE static void block(arguments const& a) {
        int const all = static_cast<int>(a.lengths.first_of(a.batch)) * a.units, begin = static_cast<int>(blockIdx.x) * a.share, end = min(begin + a.share, all);
        for (int g = begin; g < end;) {
            int const b = static_cast<int>(a.lengths.sequence_of(g, a.units, a.batch));
            int const first = static_cast<int>(a.lengths.first_of(b)) * a.units, pieces = static_cast<int>(a.lengths.first_of(b + 1) - a.lengths.first_of(b));
            int const unit = (g - first) / pieces, from = g - first - unit * pieces, to = min(pieces, from + end - g);
            pass(a, b, unit, pieces).over(from, to, first + unit * pieces);
            g += to - from;
            if (g < end) { __syncthreads(); } // shared memory is free
        }
    }

private:
    struct placed {
        detail::device_starts<A> starts;
        std::int64_t *first, *keys;
        row_type* states;
        float* sums;
        placed(arena& memory, sizes const& by) : starts(memory, by.batch) {
            first = memory.take<std::int64_t>(by.batch + 1);
            keys = memory.take<std::int64_t>(by.batch);
            states = memory.take<row_type>(2 * by.blocks * by.rows);
            sums = memory.take<float>(2 * by.blocks * by.rows * ((by.dv + 3) / 4 * 4));
        }
    };
    static int bits_of(extent_t n) { return std::has_single_bit(static_cast<std::uint64_t>(n)) ? std::countr_zero(static_cast<std::uint64_t>(n)) : -1; }
    static bool in_pairs(tensor_view<E const> const& q) {
        return q.stride(3) == 1 && q.extent(3) % 2 == 0 && reinterpret_cast<std::uintptr_t>(q.data_handle()) % 4 == 0 && q.stride(0) % 2 == 0 && q.stride(1) % 2 == 0 && q.stride(2) % 2 == 0;
    }
    static bool readable(tensor_view<E> const& v) {
        return reinterpret_cast<std::uintptr_t>(v.data_handle()) % 16 == 0 && (v.stride(3) == 1 || v.extent(3) == 1) && v.stride(0) % 8 == 0 && v.stride(1) % 8 == 0 && v.stride(2) % 8 == 0;
    }
};

} // namespace heed
