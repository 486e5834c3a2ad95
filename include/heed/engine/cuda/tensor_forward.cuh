// SPDX-License-Identifier: BSD-3-Clause
// Pairwise forward on the tensor cores of sm_90a, for q, k, v of 16 bits: contraction and mix are sums of products, weights are settled tile by tile.
//
// One block an SM walks over items, the tiles of queries of all heads, long ones first. A producer warp judges the key tiles of the item by its pattern, 32 at
// a time, and has the copy engine bring those that are not skipped; a warpgroup for every 64 queries consumes them:
//
//   s = q k^T        both from shared memory, 64 x keys of a tile in registers; issued for the next tile before the present one's values are mixed
//   bend, mask       the score chain and the pattern, on the accumulator; the pattern only where a tile is partial
//   raise, weigh     the normalizer, in its unit; the sum of a row is that of the weights before they are rounded
//   o = o f + p v    p rounded to the type of q, from registers
//
// The products of one warpgroup run beside the exponentials of the others; barriers hand the tensor cores round. Traffic: k and v once per tile of queries,
// mostly from the second cache, since heads are taken a few at a time.
// Views that the copy engine cannot read (strides that are no multiples of 16 bytes), ragged batches and heads of more than 256 features are not served.
// Numbers: products and sums in float, weights rounded to 16 bits before they meet the values, 2^x to 2 ulp.
#pragma once

#include <heed/engine/cuda/backend.cuh>
#include <heed/engine/cuda/simt_pair.cuh>
#include <heed/engine/cuda/tensor_sizes.cuh>
#include <heed/engine/problem.hpp>
#include <heed/engine/workspace.hpp>
#include <heed/kernel/cuda/copy_async.cuh>
#include <heed/kernel/cuda/mma.cuh>
#include <heed/kernel/cuda/warp.cuh>

namespace heed {

template <class M, class E>
struct tensor_forward_arguments {
    M m;
    pairwise_problem<E> x;
    CUtensorMap q_map{}, k_map{}, v_map{};
    int tiles = 0, together = 0, items = 0;  // tiles of queries of a head; heads (over the batch) that are taken together; all tiles
    int head_step[3] = {}, batch_step[3] = {}; // of q, k, v: 0 where the view broadcasts, else 1
    bool wide_out = false;                   // rows of out may be written 16 bytes at a time
    int* taken = nullptr;                    // items taken so far beyond the first of every block; null if there are none
};

template <class Engine>
__global__ void __launch_bounds__(Engine::threads, 1) tensor_forward_kernel(const __grid_constant__ typename Engine::arguments x) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
    Engine::block(x);
#endif
}

// M a TensorCoreForward, E bf16 or fp16; D and V: features of q, k and of v at most, multiples of 32.
template <class M, class E, class A, int D, int V, class Sizes = detail::tensor_sizes<D, V, detail::is_linear<decltype(M::score)>>>
struct tensor_forward {
    static constexpr std::string_view name = "cuda.tensor.pairwise.forward";
    using sizes = Sizes;
    static constexpr int groups = sizes::groups, keys = sizes::keys, stages = sizes::stages, q_stages = sizes::q_stages;
    static constexpr int queries = 64 * groups, threads = 128 * (groups + 1);
    static constexpr extent_t tile_queries = queries, tile_keys = keys;
    using arguments = tensor_forward_arguments<M, E>;
    using score_type = decltype(M::score);
    using normalizer_type = decltype(M::normalizer);
    using row_type = typename normalizer_type::template row<float>;
    static constexpr bool linear = detail::is_linear<score_type>;
    static_assert(sizes::producer_registers + groups * sizes::consumer_registers <= (groups == 3 ? 128 : 168) * (groups + 1));
    static constexpr int q_panels = (D + 63) / 64, v_panels = (V + 63) / 64;

    struct memory {
        std::uint16_t q[q_stages][queries * 64 * q_panels];
        std::uint16_t k[stages][keys * 64 * q_panels];
        std::uint16_t v[stages][keys * 64 * v_panels];
        device::block_barrier q_full[q_stages], q_free[q_stages], k_full[stages], k_free[stages], v_full[stages], v_free[stages];
        int item[q_stages]; // whose queries lie in q, or none
        int note[stages];   // of the key tile in k: 4 number + flags
    };
    static constexpr int partial = 1, last = 2; // flags of a note
    static constexpr int none = -1;
    static constexpr std::size_t shared_bytes = sizeof(memory) + 1024;

    static bool serves(pairwise_problem<E> const& x, cuda_device const& device) {
        bool const sized = x.q.extent(3) >= 1 && x.q.extent(3) <= D && x.v.extent(3) >= 1 && x.v.extent(3) <= V && x.k.extent(2) >= 1 && !x.q.is_ragged() && !x.k.is_ragged();
        if (!sized || !device.is(9, 0) || shared_bytes > device.shared_bytes || !readable(x.q) || !readable(x.k) || !readable(x.v)) { return false; }
        cudaFuncAttributes compiled{}; // the kernel is empty where it was compiled for another architecture
        return cudaFuncGetAttributes(&compiled, tensor_forward_kernel<tensor_forward>) == cudaSuccess && compiled.numRegs >= 64;
    }
    static std::size_t workspace_bytes(pairwise_problem<E> const&, cuda_device const&) { return line_bytes; }

    static void run(M const& m, pairwise_problem<E> const& x, cuda<A> const& backend, cuda_device const& device, std::byte* workspace) {
        arguments a{m, x};
        a.tiles = static_cast<int>((x.q.extent(2) + queries - 1) / queries);
        extent_t const heads = x.q.extent(0) * x.q.extent(1), items = a.tiles * heads;
        if (items == 0 || x.v.extent(3) == 0) { return; }
        // Heads are taken in equal parts, few enough that keys and values stay in the second cache, or that eight blocks at a time share each.
        extent_t const group = x.q.extent(1) / x.k.extent(1), bytes = x.k.extent(2) * (x.k.extent(3) + x.v.extent(3)) * 2;
        extent_t const fit = half_second_cache / bytes, shared = device.multiprocessors / 8, width = group * (fit > shared ? fit : shared > 1 ? shared : 1);
        extent_t const parts = (heads + width - 1) / width;
        a.together = static_cast<int>((heads + parts - 1) / parts);
        a.items = static_cast<int>(items);
        map(a, 0, a.q_map, x.q, queries);
        map(a, 1, a.k_map, x.k, keys);
        map(a, 2, a.v_map, x.v, keys);
        a.wide_out = reinterpret_cast<std::uintptr_t>(x.out.data_handle()) % 16 == 0 && x.out.stride(3) == 1 && x.out.stride(0) % 8 == 0 && x.out.stride(1) % 8 == 0 && x.out.stride(2) % 8 == 0;
        if (items > device.multiprocessors) {
            a.taken = reinterpret_cast<int*>(aligned(workspace));
            detail::check_cuda<A>(cudaMemsetAsync(a.taken, 0, sizeof(int), backend.stream), "cudaMemsetAsync of the counter of items");
        }
        auto const kernel = tensor_forward_kernel<tensor_forward>;
        detail::check_cuda<A>(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared_bytes)), "cudaFuncSetAttribute of the forward kernel");
        kernel<<<static_cast<unsigned>(items < device.multiprocessors ? items : device.multiprocessors), threads, shared_bytes, backend.stream>>>(a);
        detail::check_cuda<A>(cudaGetLastError(), "the launch of the forward kernel");
    }

    __device__ static void block(arguments const& x) {
        extern __shared__ std::uint8_t raw[];
        memory& mem = *reinterpret_cast<memory*>(raw + (1024 - device::shared_address(raw) % 1024) % 1024);
        if (threadIdx.x == 0) {
            for (int s = 0; s < q_stages; ++s) {
                mem.q_full[s].init(1);
                mem.q_free[s].init(4 * groups);
            }
            for (int s = 0; s < stages; ++s) {
                mem.k_full[s].init(1);
                mem.v_full[s].init(1);
                mem.k_free[s].init(4 * groups);
                mem.v_free[s].init(4 * groups);
            }
            device::fence_barriers();
        }
        __syncthreads();
        int const group = __shfl_sync(0xffffffffu, static_cast<int>(threadIdx.x / 128), 0) - 1;
        if (group < 0) {
            device::give_registers<sizes::producer_registers>();
            if (threadIdx.x < 32) { produce(x, mem); }
        } else {
            device::take_registers<sizes::consumer_registers>();
            consume(x, mem, group);
        }
    }

private:
    static constexpr extent_t half_second_cache = extent_t(25) << 20;

    // Item n: long ones first, part by part of the heads.
    struct item {
        int batch, head, first; // first: of the queries
        HEED_DEVICE item(arguments const& x, int n) {
            int const heads = static_cast<int>(x.x.q.extent(1)), all = heads * static_cast<int>(x.x.q.extent(0)), part = x.together * x.tiles;
            int const begin = n / part * x.together, width = min(x.together, all - begin), within = n % part, which = begin + within % width;
            batch = which / heads;
            head = which % heads;
            first = (x.tiles - 1 - within / width) * queries;
        }
    };
    // The ring of buffers at its t-th use: which, and the parity of its barriers.
    template <int N>
    HEED_DEVICE static int slot(std::uint32_t t) {
        return static_cast<int>(t % N);
    }
    template <int N>
    HEED_DEVICE static std::uint32_t parity(std::uint32_t t) {
        return t / N % 2;
    }

    // ---- producer: one warp

    template <int Rows, int Panels>
    HEED_DEVICE static void bring(arguments const& x, int which, CUtensorMap const& map, std::uint16_t* to, device::block_barrier& full, int batch, int head, int row) {
        if (threadIdx.x % 32 == 0) {
            full.expect(Rows * 128 * Panels);
#pragma unroll
            for (int p = 0; p < Panels; ++p) { device::copy_panel(to + p * Rows * 64, &map, full, p * 64, row, head * x.head_step[which], batch * x.batch_step[which]); }
        }
    }
    __device__ static void produce(arguments const& x, memory& mem) {
        int const lane = static_cast<int>(threadIdx.x % 32);
        if (lane == 0) {
            device::prefetch_map(&x.q_map);
            device::prefetch_map(&x.k_map);
            device::prefetch_map(&x.v_map);
        }
        std::uint32_t n = 0, turn = 0; // key tiles and items so far
        for (int at_item = static_cast<int>(blockIdx.x); at_item < x.items; ++turn) {
            item const it(x, at_item);
            place const at = x.x.at(it.batch, it.head);
            int const kv_head = static_cast<int>(at.kv_head), b = slot<q_stages>(turn);
            mem.q_free[b].wait(parity<q_stages>(turn) ^ 1);
            if (lane == 0) { mem.item[b] = at_item; }
            bring<queries, q_panels>(x, 0, x.q_map, mem.q[b], mem.q_full[b], it.batch, it.head, it.first);
            int const following = lane == 0 && x.taken != nullptr ? static_cast<int>(gridDim.x) + atomicAdd(x.taken, 1) : x.items;
            auto const send = [&](int note) {
                int const s = slot<stages>(n), row = note / 4 * keys;
                mem.k_free[s].wait(parity<stages>(n) ^ 1);
                if (lane == 0) { mem.note[s] = note; }
                bring<keys, q_panels>(x, 1, x.k_map, mem.k[s], mem.k_full[s], it.batch, kv_head, row);
                mem.v_free[s].wait(parity<stages>(n) ^ 1);
                bring<keys, v_panels>(x, 2, x.v_map, mem.v[s], mem.v_full[s], it.batch, kv_head, row);
                ++n;
            };
            range const rows = intersect({0, at.queries}, {it.first, it.first + queries}), hull = detail::hull_of(x.m.pattern, at, rows);
            int waiting = none; // the last tile is marked, so each is sent when the next is known
            for (extent_t t = hull.begin / keys; t * keys < hull.end; t += 32) {
                range const mine{(t + lane) * keys, (t + lane + 1) * keys}, cols = intersect(mine, {0, at.keys});
                tile const verdict = cols.size() > 0 && mine.begin < hull.end ? x.m.pattern.classify(at, rows, cols) : tile::skip;
                std::uint32_t kept = __ballot_sync(0xffffffffu, verdict != tile::skip), whole = __ballot_sync(0xffffffffu, verdict == tile::full && cols.size() == keys);
                for (; kept != 0; kept &= kept - 1) {
                    int const bit = __ffs(static_cast<int>(kept)) - 1;
                    if (waiting != none) { send(waiting); }
                    waiting = (static_cast<int>(t) + bit) * 4 + ((whole >> bit & 1) != 0 ? 0 : partial);
                }
            }
            // an item without keys gets the tile behind the last: zeros, all masked
            send((waiting == none ? static_cast<int>((at.keys + keys - 1) / keys) * 4 + partial : waiting) | last);
            at_item = __shfl_sync(0xffffffffu, following, 0);
        }
        int const b = slot<q_stages>(turn);
        mem.q_free[b].wait(parity<q_stages>(turn) ^ 1);
        if (lane == 0) {
            mem.item[b] = none;
            mem.q_full[b].arrive();
        }
    }

    // ---- consumers: a warpgroup for 64 queries

    // What does not change during an item.
    struct context {
        arguments const* x;
        place at;
        int row[2], last_row; // of the accumulator's two rows in this thread; the last query
        bool odd_lead;        // lead is not positive: scores are multiplied before their peak is sought
        float lead, unit;     // leading factors of the score; what a score is multiplied by then

        HEED_DEVICE context(arguments const& a, int n, int group) : x(&a) {
            item const it(a, n);
            at = a.x.at(it.batch, it.head);
            row[0] = it.first + group * 64 + static_cast<int>(threadIdx.x % 128) / 32 * 16 + static_cast<int>(threadIdx.x % 32) / 4;
            row[1] = row[0] + 8;
            last_row = static_cast<int>(at.queries) - 1;
            lead = static_cast<float>(detail::leading_factor(a.m.score, at) * (linear ? normalizer_type::unit : 1.0));
            odd_lead = !(lead > 0);
            unit = linear ? (odd_lead ? 1.0f : lead) : static_cast<float>(normalizer_type::unit);
        }
    };

    __device__ static void consume(arguments const& x, memory& mem, int group) {
        bool const speaks = threadIdx.x % 32 == 0;
        float s[keys / 2], o[V / 2];
        std::uint32_t p[keys / 4];
        row_type state[2];
        float factor[2], sum[2]; // of a tile; of the weights so far, of this thread's columns
        std::uint32_t n = 0, turn = 0; // key tile whose weights are in p, and its item
        std::uint32_t const k_address = device::shared_address(mem.k), v_address = device::shared_address(mem.v);
        auto const q_matrix = [&] {
            return device::panel_matrix(device::shared_address(mem.q) + static_cast<std::uint32_t>(slot<q_stages>(turn) * queries * 128 * q_panels + group * 64 * 128), 16);
        };
        auto const k_matrix = [&](std::uint32_t t) { return device::panel_matrix(k_address + static_cast<std::uint32_t>(slot<stages>(t)) * (keys * 128 * q_panels), 16); };
        auto const v_matrix = [&](std::uint32_t t) { return device::panel_matrix(v_address + static_cast<std::uint32_t>(slot<stages>(t)) * (keys * 128 * v_panels), keys * 128); };
        auto const release = [&](device::block_barrier& b) {
            if (speaks) { b.arrive(); }
        };
        if (sizes::takes_turns && group == groups - 1) { device::barrier_arrive(1, 256); }

        for (;; ++turn) {
            mem.q_full[slot<q_stages>(turn)].wait(parity<q_stages>(turn));
            int const number = mem.item[slot<q_stages>(turn)];
            if (number == none) { break; }
            context const c(x, number, group);
            state[0] = state[1] = x.m.normalizer.template start<float>(c.at);
            sum[0] = sum[1] = 0;
            device::panel_matrix const q = q_matrix();
            mem.k_full[slot<stages>(n)].wait(parity<stages>(n));
            int note = mem.note[slot<stages>(n)];
            device::products_begin();
            device::product_of_rows<E, keys, D>(s, q, queries, k_matrix(n));
            device::products_commit();
            device::products_wait<0>();
            device::hold(s);
            release(mem.k_free[slot<stages>(n)]);
            weigh(c, s, state, factor, sum, note);
            round(s, p);
            int add = 0;
            while ((note & last) == 0) {
                int const next = slot<stages>(n + 1), now = slot<stages>(n);
                mem.k_full[next].wait(parity<stages>(n + 1));
                note = mem.note[next];
                if constexpr (sizes::takes_turns) { device::barrier_sync(1 + group, 256); }
                device::products_begin();
                device::product_of_rows<E, keys, D>(s, q, queries, k_matrix(n + 1));
                device::products_commit();
                mem.v_full[now].wait(parity<stages>(n));
                device::products_begin();
                device::product_with_values<E, V, keys>(o, p, v_matrix(n), add);
                device::products_commit();
                add = 1;
                if constexpr (sizes::takes_turns) { device::barrier_arrive(1 + (group + 1) % groups, 256); }
                device::products_wait<1>();
                device::hold(s);
                release(mem.k_free[next]);
                weigh(c, s, state, factor, sum, note);
                device::products_wait<0>();
                device::hold(o);
                release(mem.v_free[now]);
                round(s, p);
#pragma unroll
                for (int r = 0; r < V / 2; ++r) { o[r] *= factor[r / 2 % 2]; }
                ++n;
            }
            release(mem.q_free[slot<q_stages>(turn)]);
            mem.v_full[slot<stages>(n)].wait(parity<stages>(n));
            device::products_begin();
            device::product_with_values<E, V, keys>(o, p, v_matrix(n), add);
            device::products_commit();
            device::products_wait<0>();
            device::hold(o);
            release(mem.v_free[slot<stages>(n)]);
            ++n;
#pragma unroll
            for (int h = 0; h < 2; ++h) { x.m.normalizer.settle(state[h], device::quad_sum(sum[h])); }
            finish(c, state, o);
        }
    }
    // Scores bent and masked, then weights. Their sums wait in each thread until the item ends: what is settled late is scaled by the same factors.
    HEED_DEVICE static void weigh(context const& c, float (&s)[keys / 2], row_type (&state)[2], float (&factor)[2], float (&sum)[2], int note) {
        int const first = note / 4 * keys + 2 * static_cast<int>(threadIdx.x % 4), end = static_cast<int>(c.at.keys);
        auto const i_of = [&](int r) { return min(c.row[r / 2 % 2], c.last_row); };
        auto const j_of = [&](int r) { return first + r / 4 * 8 + r % 2; };
        if constexpr (!linear) {
#pragma unroll
            for (int r = 0; r < keys / 2; ++r) { s[r] = detail::bent_score(c.x->m.score, c.at, i_of(r), min(j_of(r), end - 1), s[r] * c.lead, 1.0f); }
        }
        if (linear && c.odd_lead) {
#pragma unroll
            for (int r = 0; r < keys / 2; ++r) { s[r] *= c.lead; }
        }
        if ((note & partial) != 0) {
#pragma unroll
            for (int r = 0; r < keys / 2; ++r) {
                int const j = j_of(r);
                bool const kept = static_cast<bool>(c.x->m.pattern.keep(c.at, i_of(r), min(j, end - 1))) && j < end;
                s[r] = kept ? s[r] : -math::inf<float>();
            }
        }
        float peak[2][4]; // four chains a row
#pragma unroll
        for (int r = 0; r < keys / 2; ++r) {
            float& to = peak[r / 2 % 2][r / 4 % 4];
            to = r < 16 && r % 2 == 0 ? s[r] : fmaxf(to, s[r]);
        }
        normalizer_type const& normalizer = c.x->m.normalizer;
#pragma unroll
        for (int h = 0; h < 2; ++h) {
            float const of_row = device::quad_max(fmaxf(fmaxf(peak[h][0], peak[h][1]), fmaxf(peak[h][2], peak[h][3])));
            factor[h] = normalizer.raise(state[h], of_row * c.unit);
        }
        float part[2][2] = {};
#pragma unroll
        for (int r = 0; r < keys / 2; ++r) {
            s[r] = normalizer.weight(state[r / 2 % 2], s[r] * c.unit);
            part[r / 2 % 2][r / 4 % 2] += s[r];
        }
#pragma unroll
        for (int h = 0; h < 2; ++h) { sum[h] = sum[h] * factor[h] + (part[h][0] + part[h][1]); }
    }
    HEED_DEVICE static void round(float const (&s)[keys / 2], std::uint32_t (&p)[keys / 4]) {
#pragma unroll
        for (int r = 0; r < keys / 4; ++r) { p[r] = device::pack_two<E>(s[2 * r], s[2 * r + 1]); }
    }

    // Rows closed and written, four lanes 64 bytes of a row.
    HEED_DEVICE static void finish(context const& c, row_type const (&state)[2], float (&o)[V / 2]) {
        int const lane = static_cast<int>(threadIdx.x % 32), width = static_cast<int>(c.x->x.out.extent(3));
#pragma unroll
        for (int h = 0; h < 2; ++h) {
            float const last_factor = c.x->m.normalizer.close(state[h]);
            bool const inside = c.row[h] <= c.last_row;
            E* const row = inside ? c.x->x.out.row(c.at.batch, c.at.head, c.row[h]) : nullptr;
#pragma unroll
            for (int g = 0; g < V / 32; ++g) {
                std::uint32_t w[4];
#pragma unroll
                for (int b = 0; b < 4; ++b) { w[b] = device::pack_two<E>(o[16 * g + 4 * b + 2 * h] * last_factor, o[16 * g + 4 * b + 2 * h + 1] * last_factor); }
                device::quad_transpose(w, lane);
                int const column = 32 * g + 8 * (lane % 4);
                if (inside && c.x->wide_out && column + 8 <= width) {
                    *reinterpret_cast<uint4*>(row + column) = make_uint4(w[0], w[1], w[2], w[3]);
                } else if (inside) {
#pragma unroll
                    for (int e = 0; e < 8; ++e) {
                        if (column + e < width) { row[(column + e) * c.x->x.out.stride(3)].bits = static_cast<std::uint16_t>(w[e / 2] >> (e % 2 * 16)); }
                    }
                }
            }
            constexpr int kept = detail::kept_of<normalizer_type>();
            if constexpr (kept > 0) {
                if (inside && lane % 4 == 0 && c.x->x.lse.data_handle() != nullptr) {
                    float value[kept];
                    detail::saved_numbers(c.x->m.normalizer, state[h], value);
                    for (int e = 0; e < kept; ++e) { c.x->x.lse(c.at.batch, c.at.head, c.row[h], e) = value[e] * static_cast<float>(c.x->x.lse_unit); }
                }
            }
        }
    }

    // Whether the copy engine can read a view.
    static bool readable(tensor_view<E const> const& v) {
        if (reinterpret_cast<std::uintptr_t>(v.data_handle()) % 16 != 0 || (v.stride(3) != 1 && v.extent(3) != 1) || v.extent(2) > longest_sequence) { return false; }
        for (int r = 0; r < 3; ++r) {
            bool const broadcasts = r < 2 && v.stride(r) == 0;
            if (v.extent(r) > 1 && !broadcasts && (v.stride(r) <= 0 || v.stride(r) % 8 != 0 || v.stride(r) >= extent_t(1) << 39)) { return false; }
        }
        return true;
    }
    static void map(arguments& a, int which, CUtensorMap& to, tensor_view<E const> const& view, int rows) {
        a.head_step[which] = view.stride(1) == 0 ? 0 : 1;
        a.batch_step[which] = view.stride(0) == 0 ? 0 : 1;
        extent_t const extent[4] = {view.extent(3), view.extent(2), a.head_step[which] == 0 ? 1 : view.extent(1), a.batch_step[which] == 0 ? 1 : view.extent(0)};
        extent_t const stride[4] = {2, 2 * view.stride(2), 2 * view.stride(1), 2 * view.stride(0)};
        if (!device::make_tile_map(to, std::is_same_v<E, bf16>, view.data_handle(), extent, stride, rows)) {
            detail::throw_cuda<A>(cudaErrorInvalidValue, "cuTensorMapEncodeTiled");
        }
    }
};

} // namespace heed
