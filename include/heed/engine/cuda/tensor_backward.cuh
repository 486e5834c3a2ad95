// SPDX-License-Identifier: BSD-3-Clause
// Pairwise backward on the tensor cores of sm_90a, for q, k, v of 16 bits: scores are sums of products, rows keep one number and are centred by their output.
//
// A block owns 128 keys of one key head and walks over the query tiles of every query head that shares it. A producer warp judges the tiles by the pattern and
// has the copy engine bring q, dO and two numbers a row; each of two warpgroups consumes them for its 64 keys:
//
//   s^T = k q^T, dp^T = v dO^T     from shared memory, keys are rows
//   weigh                          p from the saved row; ds = derivative (dp - centre), pulled back through the score chain
//   dv += p^T dO, dk += ds^T q     p and ds rounded to 16 bits, from registers
//   dq  = ds k                     ds through shared memory, for both warpgroups; each makes half of the tile and adds it to memory
//
// Two small kernels around it: centres of the rows, dO_i . out_i less the derivative by the log-sum-exp; and dq, summed in float, rounded. Cost: the five
// products, 10 N M d operations a head for d = dv. Memory: a float for every element of dq, and two a row. dk and dv are summed by one block in a fixed order;
// the parts of dq are added as they come, so that its last bit may differ between runs, or in a fixed order (tensor_order.cuh) where the backend asks for it.
// Numbers: products and sums in float; p and ds rounded to 16 bits before they meet dO, q and k.
#pragma once

#include <heed/engine/cuda/backend.cuh>
#include <heed/engine/cuda/tensor_gradient_rows.cuh>
#include <heed/engine/cuda/tensor_order.cuh>
#include <heed/engine/cuda/tensor_pairs.cuh>
#include <heed/engine/cuda/tensor_tiles.cuh>
#include <heed/engine/gradient_problem.hpp>
#include <heed/engine/workspace.hpp>
#include <heed/kernel/cuda/mma.cuh>
#include <heed/kernel/cuda/warp.cuh>

namespace heed {

namespace detail {

template <class Engine>
__global__ void __launch_bounds__(Engine::threads, 1) tensor_backward_kernel(const __grid_constant__ typename Engine::arguments x) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
    Engine::block(x);
#endif
}

} // namespace detail

// M a TensorCoreBackward, E bf16 or fp16; D: features of q, k, v at most, 64, 128, 192 or 256. Beyond 128 dk and dv do not fit the registers of one
// warpgroup: a block owns 64 keys, one warpgroup makes s, dp and dk, the other s again, dv and dq.
template <class M, class E, class A, int D>
struct tensor_backward {
    static constexpr std::string_view name = "cuda.tensor.pairwise.backward";
    static constexpr bool tensors_only = true, sums_as_they_come = true; // unless the backend asks for a fixed order
    static_assert(D % 64 == 0 && D <= 256);
    static constexpr bool apart = D > 128; // one warpgroup for dk, one for dv
    static constexpr int keys = apart ? 64 : 128, queries = D == 64 ? 128 : 64, groups = 2, stages = 2, threads = 384;
    static constexpr extent_t tile_queries = queries, tile_keys = keys;
    static constexpr int panels = D / 64, halves = queries / 64; // of features; of queries
    using rows_of = detail::tensor_gradient_rows<E, D, queries>;
    static constexpr int pieces = rows_of::pieces;
    using arguments = tensor_backward_arguments<M, E>;
    using problem = pairwise_gradient_problem<M, E>;
    using score_type = decltype(M::score);
    using normalizer_type = decltype(M::normalizer);
    using pairs = detail::tensor_pairs<M>;
    static constexpr bool linear = detail::is_linear<score_type>;

    struct memory {
        std::uint16_t k[keys * D], v[keys * D];
        std::uint16_t q[stages][queries * D], dout[stages][queries * D];
        std::uint16_t ds[2][keys * queries]; // panels of 64 queries, a row a key
        float2 rows[stages][queries];
        device::block_barrier kv_full, full[stages], free[stages];
        int note[stages]; // of the query tile: 4 number + flags
        int head[stages];
        int before[stages];    // who adds to dq of the tile before this block
        int item;              // which of the blocks this is
        float2 factor[stages]; // leading factors of the score, and these in the normalizer's unit where nothing else follows
    };
    static constexpr int partial = 1, nothing = -1; // a flag of a note; the note that ends the walk
    static constexpr std::size_t shared_bytes = sizeof(memory) + 1024;

    static bool serves(problem const& x, cuda_device const& device) {
        bool const sized = x.q.extent(3) >= 1 && x.q.extent(3) <= D && x.v.extent(3) >= 1 && x.v.extent(3) <= D && x.k.extent(2) >= 1 && x.q.extent(2) >= 1 && !x.q.is_ragged() && !x.k.is_ragged();
        if (!sized || !device.is(9, 0) || shared_bytes > device.shared_bytes) { return false; }
        for (auto const* view : {&x.q, &x.k, &x.v, &x.dout}) {
            if (!detail::copied_by_tiles(*view)) { return false; }
        }
        cudaFuncAttributes compiled{}; // the kernel is empty where it was compiled for another architecture
        return cudaFuncGetAttributes(&compiled, detail::tensor_backward_kernel<tensor_backward>) == cudaSuccess && compiled.numRegs >= 64;
    }
    static std::size_t workspace_bytes(problem const& x, cuda_device const&) {
        arena count(nullptr);
        arguments none{x.m};
        place_in(count, x, none);
        return count.bytes();
    }
    static void run(problem const& x, cuda<A> const& backend, cuda_device const& device, std::byte* workspace) {
        arguments a{x.m};
        arena memory(aligned(workspace));
        place_in(memory, x, a);
        a.q = x.q, a.k = x.k, a.v = x.v, a.out = x.out, a.dout = x.dout;
        a.saved = x.saved, a.dsaved = x.dsaved, a.saved_unit = x.saved_unit, a.dsaved_unit = x.dsaved_unit;
        a.dq = x.dq, a.dk = x.dk, a.dv = x.dv;
        a.wide_dq = detail::rows_of_words(x.dq), a.wide_dk = detail::rows_of_words(x.dk), a.wide_dv = detail::rows_of_words(x.dv);
        a.words = detail::rows_of_words(x.out) && detail::rows_of_words(x.dout);
        bool const mapped = detail::map_tiles(a.q_map, a.q_step, x.q, queries) && detail::map_tiles(a.k_map, a.k_step, x.k, keys) && detail::map_tiles(a.v_map, a.v_step, x.v, keys) &&
                            detail::map_tiles(a.dout_map, a.dout_step, x.dout, queries);
        if (!mapped) { detail::throw_cuda<A>(cudaErrorInvalidValue, "cuTensorMapEncodeTiled"); }
        extent_t const heads = x.q.extent(0) * x.q.extent(1), tiles = a.padded / queries, kv_heads = x.k.extent(0) * x.k.extent(1);
        // Key heads are taken in equal parts, few enough that q, dO and the sums of dq stay in the second cache.
        extent_t const fit = detail::half_second_cache / (heads / kv_heads * a.padded * D * 8), width = fit > 1 ? fit : 1, parts = (kv_heads + width - 1) / width;
        a.together = static_cast<int>((kv_heads + parts - 1) / parts);
        a.key_tiles = static_cast<int>((x.k.extent(2) + keys - 1) / keys);
        auto const grid = [](extent_t n) { return static_cast<unsigned>(n); };
        if (x.dq.data_handle() != nullptr) {
            detail::check_cuda<A>(cudaMemsetAsync(a.sums, 0, static_cast<std::size_t>(heads * a.padded * D) * sizeof(float), backend.stream), "cudaMemsetAsync of the sums of dq");
        }
        a.order.key_tiles = a.key_tiles;
        a.order.query_tiles = static_cast<int>(tiles);
        if (backend.sums == summed::in_order && x.dq.data_handle() != nullptr) {
            int const teams = (a.key_tiles + device.multiprocessors - 1) / device.multiprocessors;
            a.order.team = (a.key_tiles + teams - 1) / teams;
            a.together = 1;
            detail::check_cuda<A>(cudaMemsetAsync(a.order.last, 0, static_cast<std::size_t>(heads * tiles * 2 + 1) * sizeof(int), backend.stream), "cudaMemsetAsync of the turns of dq");
        } else {
            a.order.taken = nullptr;
        }
        detail::tensor_centres_kernel<rows_of><<<grid(heads * ((a.padded + rows_of::block_rows - 1) / rows_of::block_rows)), 256, 0, backend.stream>>>(a);
        detail::check_cuda<A>(cudaGetLastError(), "the launch of the centres of cuda.tensor.pairwise.backward");
        auto const kernel = detail::tensor_backward_kernel<tensor_backward>;
        detail::check_cuda<A>(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared_bytes)), "cudaFuncSetAttribute of cuda.tensor.pairwise.backward");
        kernel<<<grid(a.key_tiles * kv_heads), threads, shared_bytes, backend.stream>>>(a);
        detail::check_cuda<A>(cudaGetLastError(), "the launch of cuda.tensor.pairwise.backward");
        if (x.dq.data_handle() != nullptr) {
            detail::tensor_round_kernel<rows_of><<<grid(heads * tiles * pieces), 128, 0, backend.stream>>>(a);
            detail::check_cuda<A>(cudaGetLastError(), "the launch that rounds dq of cuda.tensor.pairwise.backward");
        }
    }

    __device__ static void block(arguments const& x) {
        extern __shared__ std::uint8_t raw[];
        memory& mem = *reinterpret_cast<memory*>(raw + (1024 - device::shared_address(raw) % 1024) % 1024);
        if (threadIdx.x == 0) {
            mem.kv_full.init(1);
            for (int s = 0; s < stages; ++s) {
                mem.full[s].init(1);
                mem.free[s].init(4 * groups);
            }
            mem.item = x.order.fixed() ? atomicAdd(x.order.taken, 1) : static_cast<int>(blockIdx.x);
            device::fence_barriers();
        }
        __syncthreads();
        int const group = __shfl_sync(0xffffffffu, static_cast<int>(threadIdx.x / 128), 0) - 1;
        int const kv_heads = static_cast<int>(x.k.extent(1)), all = kv_heads * static_cast<int>(x.k.extent(0)), part = x.together * x.key_tiles, n = mem.item;
        int const begin = n / part * x.together, width = min(x.together, all - begin), within = n % part, which = begin + within % width;
        int const first = x.order.begun(within / width) * keys; // a triangle's long walks, those of the first keys, come first
        if (group < 0) {
            device::give_registers<24>();
            if (threadIdx.x < 32) { produce(x, mem, which / kv_heads, which % kv_heads, first); }
        } else {
            device::take_registers<240>();
            if constexpr (apart) {
                if (group == 0) {
                    consume_for_keys(x, mem, which / kv_heads, which % kv_heads, first);
                } else {
                    consume_for_values(x, mem, which / kv_heads, which % kv_heads, first);
                }
            } else {
                consume(x, mem, which / kv_heads, which % kv_heads, first, group);
            }
        }
    }

private:
    static void place_in(arena& memory, problem const& x, arguments& a) {
        extent_t const heads = x.q.extent(0) * x.q.extent(1);
        a.padded = (x.q.extent(2) + queries - 1) / queries * queries;
        a.rows = memory.take<float2>(heads * a.padded);
        a.sums = memory.take<float>(heads * a.padded * D);
        a.order.last = memory.take<int>(heads * (a.padded / queries) * 2 + 1);
        a.order.taken = a.order.last + heads * (a.padded / queries) * 2;
    }

    // ---- producer: one warp

    template <int Rows>
    HEED_DEVICE static void bring(CUtensorMap const& map, detail::tile_steps step, std::uint16_t* to, device::block_barrier& full, extent_t batch, extent_t head, int row) {
#pragma unroll
        for (int p = 0; p < panels; ++p) { device::copy_panel(to + p * Rows * 64, &map, full, p * 64, row, static_cast<int>(head) * step.head, static_cast<int>(batch) * step.batch); }
    }
    __device__ static void produce(arguments const& x, memory& mem, extent_t batch, extent_t kv_head, int first) {
        int const lane = static_cast<int>(threadIdx.x % 32);
        if (lane == 0) {
            mem.kv_full.expect(2 * keys * D * 2);
            bring<keys>(x.k_map, x.k_step, mem.k, mem.kv_full, batch, kv_head, first);
            bring<keys>(x.v_map, x.v_step, mem.v, mem.kv_full, batch, kv_head, first);
        }
        std::uint32_t n = 0;
        int const start = x.order.start(first / keys), tiles = x.order.query_tiles;
        extent_t const shared = x.q.extent(1) / x.k.extent(1);
        for (extent_t g = 0; g < shared; ++g) {
            place const at = x.at(batch, kv_head * shared + g);
            double const lead = detail::leading_factor(x.m.score, at);
            range const cols = intersect({0, at.keys}, {first, first + keys});
            auto const number_of = [&](int u) { return start + u < tiles ? start + u : start + u - tiles; };
            for (int t = 0; t < tiles; t += 32) {
                extent_t const mine = extent_t(number_of(t + lane)) * queries;
                range const rows = intersect({mine, mine + queries}, {0, at.queries});
                tile const verdict = t + lane < tiles && rows.size() > 0 ? x.m.pattern.classify(at, rows, cols) : tile::skip;
                std::uint32_t const kept = __ballot_sync(0xffffffffu, verdict != tile::skip);
                std::uint32_t const whole = __ballot_sync(0xffffffffu, verdict == tile::full && rows.size() == queries && cols.size() == keys);
                for (std::uint32_t left = kept; left != 0; left &= left - 1) {
                    int const bit = __ffs(static_cast<int>(left)) - 1, number = number_of(t + bit), s = static_cast<int>(n % stages);
                    int before = 0;
                    if (x.order.fixed()) {
                        range const those = intersect({extent_t(number) * queries, extent_t(number + 1) * queries}, {0, at.queries});
                        before = x.order.before(first / keys, number, [&](int other) { return x.m.pattern.classify(at, those, intersect({0, at.keys}, {extent_t(other) * keys, extent_t(other + 1) * keys})) != tile::skip; });
                    }
                    mem.free[s].wait((n / stages % 2) ^ 1);
                    if (lane == 0) {
                        mem.note[s] = number * 4 + ((whole >> bit & 1) != 0 ? 0 : partial);
                        mem.head[s] = static_cast<int>(at.head);
                        mem.before[s] = before;
                        mem.factor[s] = make_float2(static_cast<float>(lead), static_cast<float>(lead * (linear ? normalizer_type::unit : 1.0)));
                        mem.full[s].expect(2 * queries * D * 2 + queries * 8);
                        bring<queries>(x.q_map, x.q_step, mem.q[s], mem.full[s], batch, at.head, number * queries);
                        bring<queries>(x.dout_map, x.dout_step, mem.dout[s], mem.full[s], batch, at.head, number * queries);
                        device::copy_bytes(mem.rows[s], x.rows + (batch * x.q.extent(1) + at.head) * x.padded + extent_t(number) * queries, queries * 8, mem.full[s]);
                    }
                    ++n;
                }
            }
        }
        int const s = static_cast<int>(n % stages);
        mem.free[s].wait((n / stages % 2) ^ 1);
        if (lane == 0) {
            mem.note[s] = nothing;
            mem.full[s].arrive();
        }
    }

    // ---- consumers: a warpgroup for 64 keys

    __device__ static void consume(arguments const& x, memory& mem, extent_t batch, extent_t kv_head, int first, int group) {
        int const lane = static_cast<int>(threadIdx.x % 32), row = group * 64 + static_cast<int>(threadIdx.x % 128) / 32 * 16 + lane / 4;
        float dk[D / 2] = {}, dv[D / 2] = {};
        device::panel_matrix const k = matrix(mem.k + group * 64 * 64, 16), v = matrix(mem.v + group * 64 * 64, 16);
        // of dq a warpgroup makes half the features of all queries, or all features of half the queries
        device::panel_matrix const k_columns = matrix(mem.k + (halves == 2 ? 0 : group * keys * 64), keys * 128);
        float of_q[32] = {}; // dq of the tile before
        float* sums = x.sums;
        bool const fixed = x.order.fixed(), speaks = fixed && threadIdx.x % 128 == 0;
        int* turn = x.order.last; // of the tile, later of the tile before
        mem.kv_full.wait(0);
        std::uint32_t n = 0;
        float p[halves][32];
        auto const make_scores = [&] { // of the tile n, or of what lies there if there is none
            device::products_begin();
#pragma unroll
            for (int h = 0; h < halves; ++h) { device::product_of_rows<E, 64, D>(p[h], k, keys, matrix(mem.q[n % stages] + h * 64 * 64, 16)); }
            device::products_commit();
        };
        auto const scores_made = [&] {
            device::products_wait<0>();
#pragma unroll
            for (int h = 0; h < halves; ++h) { device::hold(p[h]); }
        };
        mem.full[0].wait(0);
        int note = mem.note[0];
        make_scores();
        scores_made();
        while (note != nothing) {
            int const s = static_cast<int>(n % stages);
            place const at = x.at(batch, mem.head[s]);
            pairs const tile{x.m, at, mem.rows[s], mem.factor[s], note / 4 * queries, first + row, (note & partial) != 0};
            std::uint32_t weights[halves][16], slopes[halves][16];
#pragma unroll
            for (int h = 0; h < halves; ++h) {
                float ds[32];
                device::products_begin();
                device::product_of_rows<E, 64, D>(ds, v, keys, matrix(mem.dout[s] + h * 64 * 64, 16));
                device::products_commit();
                if (h == 0) { add_piece(sums, of_q, n != 0); }
                std::uint32_t kept = 0xffffffffu;
                float raw[linear ? 1 : 32];
                tile.weigh(h * 64, p[h], raw, kept);
                round(p[h], weights[h]);
                device::products_begin();
                device::product_with_values<E, D, 64>(dv, weights[h], matrix(mem.dout[s] + h * 64 * 64, queries * 128), 1);
                device::products_commit();
                device::products_wait<1>();
                device::hold(ds);
                tile.slope(h * 64, p[h], raw, kept, ds);
                round(ds, slopes[h]);
                write_slopes(device::shared_address(mem.ds[n % 2]) + static_cast<std::uint32_t>(group * 64 * 128), h, slopes[h]);
                device::products_begin();
                device::product_with_values<E, D, 64>(dk, slopes[h], matrix(mem.q[s] + h * 64 * 64, queries * 128), 1);
                device::products_commit();
            }
            device::fence_stores();
            device::fence_memory(fixed);
            device::barrier_sync(1, 256);
            device::give_turn(turn, first / keys + 1, speaks && n != 0); // all of the warpgroup have added
            float dq[32];
            device::products_begin();
            device::product_of_columns<E, 64, keys>(dq, matrix(mem.ds[n % 2] + (halves == 2 ? group * keys * 64 : 0), keys * 128), k_columns);
            device::products_commit();
            sums = sums_of(x, batch, at.head, note, group);
            turn = x.order.last_of(batch * x.q.extent(1) + at.head, note / 4, group);
            int const before = mem.before[s];
            int seen = device::read_turn(turn, before, fixed);
            ++n;
            mem.full[n % stages].wait(n / stages % 2);
            note = mem.note[n % stages];
            device::products_wait<1>(); // the registers of weights and slopes are needed
            device::hold(dk);
            device::hold(dv);
            make_scores(); // beside dq, so that the tensor cores have work until the next weights are made
            scores_made();
            device::hold(dk);
            device::hold(dv);
            device::hold(dq);
            while (seen != before) { seen = device::read_turn(turn, before, true); }
#pragma unroll
            for (int r = 0; r < 32; ++r) { of_q[r] = dq[r] * tile.factor.x; }
            if (lane == 0) { mem.free[s].arrive(); }
        }
        add_piece(sums, of_q, n != 0);
        if (fixed && n != 0) { pass_turn(turn, first, speaks); }
        store(x.dk, batch, kv_head, first + row, dk, leading(x, batch, kv_head), x.wide_dk);
        store(x.dv, batch, kv_head, first + row, dv, 1.0f, x.wide_dv);
    }

    // ---- beyond 128 features: both warpgroups see all 64 keys

    __device__ static void consume_for_keys(arguments const& x, memory& mem, extent_t batch, extent_t kv_head, int first) {
        int const lane = static_cast<int>(threadIdx.x % 32), row = static_cast<int>(threadIdx.x % 128) / 32 * 16 + lane / 4;
        float dk[D / 2] = {};
        mem.kv_full.wait(0);
        for (std::uint32_t n = 0;; ++n) {
            int const s = static_cast<int>(n % stages);
            mem.full[s].wait(n / stages % 2);
            int const note = mem.note[s];
            if (note == nothing) { break; }
            float p[32], ds[32];
            device::products_begin();
            device::product_of_rows<E, 64, D>(p, matrix(mem.k, 16), keys, matrix(mem.q[s], 16));
            device::products_commit();
            device::product_of_rows<E, 64, D>(ds, matrix(mem.v, 16), keys, matrix(mem.dout[s], 16));
            device::products_commit();
            place const at = x.at(batch, mem.head[s]);
            pairs const tile{x.m, at, mem.rows[s], mem.factor[s], note / 4 * queries, first + row, (note & partial) != 0};
            device::products_wait<1>();
            device::hold(p);
            std::uint32_t kept = 0xffffffffu, slopes[16];
            float raw[linear ? 1 : 32];
            tile.weigh(0, p, raw, kept);
            device::products_wait<0>();
            device::hold(ds);
            tile.slope(0, p, raw, kept, ds);
            round(ds, slopes);
            if (n >= 2) { device::barrier_sync(slopes_free + static_cast<int>(n % 2), 256); }
            write_slopes(device::shared_address(mem.ds[n % 2]), 0, slopes);
            device::fence_stores();
            device::barrier_arrive(slopes_there + static_cast<int>(n % 2), 256);
            device::products_begin();
            device::product_with_values<E, D, 64>(dk, slopes, matrix(mem.q[s], queries * 128), 1);
            device::products_commit();
            device::products_wait<0>();
            device::hold(dk);
            if (lane == 0) { mem.free[s].arrive(); }
        }
        store(x.dk, batch, kv_head, first + row, dk, leading(x, batch, kv_head), x.wide_dk);
    }
    __device__ static void consume_for_values(arguments const& x, memory& mem, extent_t batch, extent_t kv_head, int first) {
        int const lane = static_cast<int>(threadIdx.x % 32), row = static_cast<int>(threadIdx.x % 128) / 32 * 16 + lane / 4;
        float dv[D / 2] = {};
        bool const fixed = x.order.fixed(), speaks = fixed && threadIdx.x % 128 == 0;
        int* turn = x.order.last; // of the tile, at first of the tile before
        mem.kv_full.wait(0);
        std::uint32_t n = 0;
        for (;; ++n) {
            int const s = static_cast<int>(n % stages);
            mem.full[s].wait(n / stages % 2);
            int const note = mem.note[s];
            if (note == nothing) { break; }
            float p[32];
            device::products_begin();
            device::product_of_rows<E, 64, D>(p, matrix(mem.k, 16), keys, matrix(mem.q[s], 16));
            device::products_commit();
            place const at = x.at(batch, mem.head[s]);
            pairs const tile{x.m, at, mem.rows[s], mem.factor[s], note / 4 * queries, first + row, (note & partial) != 0};
            float* const sums = sums_of(x, batch, at.head, note, 0);
            device::products_wait<0>();
            device::hold(p);
            if (fixed && n != 0) { pass_turn(turn, first, speaks); }
            turn = x.order.last_of(batch * x.q.extent(1) + at.head, note / 4, 0);
            int const before = mem.before[s];
            int seen = before;
            std::uint32_t kept = 0xffffffffu, weights[16];
            float raw[linear ? 1 : 32];
            tile.weigh(0, p, raw, kept);
            round(p, weights);
            device::products_begin();
            device::product_with_values<E, D, 64>(dv, weights, matrix(mem.dout[s], queries * 128), 1);
            device::products_commit();
            device::barrier_sync(slopes_there + static_cast<int>(n % 2), 256);
            seen = device::read_turn(turn, before, fixed);
#pragma unroll
            for (int c = 0; c < panels; ++c) {
                float dq[32], of_q[32];
                device::products_begin();
                device::product_of_columns<E, 64, keys>(dq, matrix(mem.ds[n % 2], keys * 128), matrix(mem.k + c * keys * 64, keys * 128));
                device::products_commit();
                device::products_wait<0>();
                if (c == 0) {
                    device::hold(dv);
                    while (seen != before) { seen = device::read_turn(turn, before, true); }
                }
                device::hold(dq);
#pragma unroll
                for (int r = 0; r < 32; ++r) { of_q[r] = dq[r] * tile.factor.x; }
                add_piece(sums + c * 4096, of_q, true);
            }
            device::barrier_arrive(slopes_free + static_cast<int>(n % 2), 256);
            if (lane == 0) { mem.free[s].arrive(); }
        }
        if (fixed && n != 0) { pass_turn(turn, first, speaks); }
        store(x.dv, batch, kv_head, first + row, dv, 1.0f, x.wide_dv);
    }

    // ---- of both

    // A warpgroup has added to a tile: the next may.
    HEED_DEVICE static void pass_turn(int* turn, int first, bool speaks) {
        device::fence_memory(true);
        device::barrier_sync(5 + static_cast<int>(threadIdx.x / 128), 128);
        device::give_turn(turn, first / keys + 1, speaks);
    }

    static constexpr int slopes_there = 1, slopes_free = 3; // barriers, one for each buffer of ds

    HEED_DEVICE static device::panel_matrix matrix(std::uint16_t const* at, int panel_bytes) { return device::panel_matrix(device::shared_address(at), panel_bytes); }
    HEED_DEVICE static void round(float const (&y)[32], std::uint32_t (&to)[16]) {
#pragma unroll
        for (int r = 0; r < 16; ++r) { to[r] = device::pack_two<E>(y[2 * r], y[2 * r + 1]); }
    }
    // 64 keys x 64 queries of this warpgroup, a row a key; `address` is that of its first key.
    HEED_DEVICE static void write_slopes(std::uint32_t address, int panel, std::uint32_t const (&slopes)[16]) {
        int const lane = static_cast<int>(threadIdx.x % 32), key = static_cast<int>(threadIdx.x % 128) / 32 * 16 + lane / 8 % 2 * 8 + lane % 8;
#pragma unroll
        for (int g = 0; g < 4; ++g) {
            int const part = (2 * g + lane / 16) ^ lane % 8;
            device::store_matrices(address + static_cast<std::uint32_t>((panel * keys + key) * 128 + part * 16), slopes[4 * g], slopes[4 * g + 1], slopes[4 * g + 2], slopes[4 * g + 3]);
        }
    }
    HEED_DEVICE static float* sums_of(arguments const& x, extent_t batch, extent_t head, int note, int piece) {
        return x.sums + (((batch * x.q.extent(1) + head) * (x.padded / queries) + note / 4) * pieces + piece) * 4096 + threadIdx.x % 128 * 4;
    }
    HEED_DEVICE static void add_piece(float* sums, float const (&of_q)[32], bool now) {
#pragma unroll
        for (int g = 0; g < 8; ++g) { device::add_to_memory(sums + g * 512, of_q[4 * g], of_q[4 * g + 1], of_q[4 * g + 2], of_q[4 * g + 3], now); }
    }
    HEED_DEVICE static float leading(arguments const& x, extent_t batch, extent_t kv_head) {
        return static_cast<float>(detail::leading_factor(x.m.score, x.at(batch, kv_head * (x.q.extent(1) / x.k.extent(1)))));
    }
    HEED_DEVICE static void store(tensor_view<E> const& view, extent_t batch, extent_t kv_head, int row, float const (&sum)[D / 2], float by, bool wide) {
        if (view.data_handle() == nullptr) { return; }
        E* const to[2] = {row < view.extent(2) ? view.row(batch, kv_head, row) : nullptr, row + 8 < view.extent(2) ? view.row(batch, kv_head, row + 8) : nullptr};
        device::store_rows<D>(sum, {by, by}, to, static_cast<int>(view.extent(3)), view.stride(3), wide);
    }
};

} // namespace heed
