// SPDX-License-Identifier: BSD-3-Clause
// Pairwise forward on the tensor cores of sm_90a, for q, k, v of 16 bits, and of fp32 where a caller chose how its products are formed (backend.cuh): contraction and
// mix are sums of products, weights are settled tile by tile.
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
//
// fp32 rows come as fp16 terms and powers of two from the workspace (tensor_planes.cuh), any strides. Powers of k meet the scores, those of v the weights, whose rows then
// get a power of their own, tile by tile, and are cut into terms too; the smallest products are summed first. The tensor cores cut sums off where floats round: the
// values of each tile are summed apart, and added to o in float.
#pragma once

#include <heed/engine/cuda/backend.cuh>
#include <heed/engine/cuda/tensor_rows.cuh>
#include <heed/engine/cuda/tensor_tiles.cuh>
#include <heed/engine/problem.hpp>
#include <heed/engine/workspace.hpp>
#include <heed/kernel/cuda/copy_async.cuh>
#include <heed/kernel/cuda/mma.cuh>
#include <heed/kernel/cuda/warp.cuh>

namespace heed {

namespace detail {
struct nothing {};
// Powers of rows: maps of those of k and v; those of q.
struct power_maps {
    CUtensorMap k{}, v{};
    float const* q = nullptr;
    extent_t q_pitch = 0;
};
} // namespace detail

template <class M, class E, class Powers>
struct tensor_forward_arguments {
    M m;
    pairwise_problem<E> x;
    CUtensorMap q_map{}, k_map{}, v_map{};
    int tiles = 0, together = 0, items = 0;  // tiles of queries of a head; heads (over the batch) that are taken together; all tiles
    detail::tile_steps q_step{}, k_step{}, v_step{};
    bool wide_out = false;                   // rows of out may be written 16 bytes at a time
    int* taken = nullptr;                    // items taken so far beyond the first of every block; null if there are none
    [[no_unique_address]] Powers powers{};
};

template <class Engine>
__global__ void __launch_bounds__(Engine::threads, 1) tensor_forward_kernel(const __grid_constant__ typename Engine::arguments x) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
    Engine::block(x);
#endif
}

// M a TensorCoreForward, E bf16 or fp16, or float with P split_products or rounded_products; D and V: features of q, k and of v at most, multiples of 32.
template <class M, class E, class A, int D, int V, class P = void, class Sizes = detail::tensor_sizes<D, V, detail::is_linear<decltype(M::score)>, detail::tensor_operand<E, P>>>
struct tensor_forward {
    using operand = detail::tensor_operand<E, P>;
    using factor_type = typename operand::type; // what is multiplied
    static constexpr std::string_view name = operand::forward_name;
    static constexpr int terms = operand::terms;
    static constexpr bool scaled = operand::scaled;
    using sizes = Sizes;
    static constexpr int groups = sizes::groups, keys = sizes::keys, stages = sizes::stages, q_stages = sizes::q_stages;
    static constexpr int queries = 64 * groups, threads = 128 * (groups + 1);
    static constexpr extent_t tile_queries = queries, tile_keys = keys;
    using arguments = tensor_forward_arguments<M, E, std::conditional_t<scaled, detail::power_maps, detail::nothing>>;
    using normalizer_type = decltype(M::normalizer);
    using rows_type = detail::tensor_rows<M, keys, operand>;
    static_assert(sizes::producer_registers + groups * sizes::consumer_registers <= (groups == 3 ? 128 : 168) * (groups + 1));
    static constexpr int q_panels = terms * ((D + 63) / 64), v_panels = terms * ((V + 63) / 64);

    struct powers_of_keys {
        alignas(128) float k[stages][(keys + 31) / 32 * 32];
        alignas(128) float v[stages][(keys + 31) / 32 * 32];
    };
    struct memory {
        std::uint16_t q[q_stages][queries * 64 * q_panels];
        std::uint16_t k[stages][keys * 64 * q_panels];
        std::uint16_t v[stages][keys * 64 * v_panels];
        [[no_unique_address]] std::conditional_t<scaled, powers_of_keys, detail::nothing> powers;
        device::block_barrier q_full[q_stages], q_free[q_stages], k_full[stages], k_free[stages], v_full[stages], v_free[stages];
        int item[q_stages]; // whose queries lie in q, or none
        int note[stages];   // of the key tile in k: 4 number + flags
    };
    static constexpr int partial = 1, last = 2; // flags of a note
    static constexpr int none = -1;
    static constexpr std::size_t shared_bytes = sizeof(memory) + 1024;

    static bool serves(pairwise_problem<E> const& x, cuda_device const& device) {
        bool const sized = x.q.extent(3) >= 1 && x.q.extent(3) <= D && x.v.extent(3) >= 1 && x.v.extent(3) <= V && x.k.extent(2) >= 1 && !x.q.is_ragged() && !x.k.is_ragged();
        // images of rows of any strides, no wider than need be; or the rows themselves
        bool const read = scaled ? D <= 64 || x.q.extent(3) > D / 2 || x.v.extent(3) > V / 2 : detail::copied_by_tiles(x.q) && detail::copied_by_tiles(x.k) && detail::copied_by_tiles(x.v);
        if (!sized || !read || !device.is(9, 0) || shared_bytes > device.shared_bytes) { return false; }
        cudaFuncAttributes compiled{}; // the kernel is empty where it was compiled for another architecture
        return cudaFuncGetAttributes(&compiled, tensor_forward_kernel<tensor_forward>) == cudaSuccess && compiled.numRegs >= 64;
    }
    static std::size_t workspace_bytes(pairwise_problem<E> const& x, cuda_device const& device) {
        arena count(nullptr);
        if (!scaled || serves(x, device)) { workspace_room(count, x); }
        return count.bytes();
    }

    static void run(M const& m, pairwise_problem<E> const& x, cuda<A> const& backend, cuda_device const& device, std::byte* workspace) {
        arguments a{m, x};
        arena memory(aligned(workspace));
        workspace_room const room(memory, x);
        a.tiles = static_cast<int>((x.q.extent(2) + queries - 1) / queries);
        extent_t const heads = x.q.extent(0) * x.q.extent(1), items = a.tiles * heads;
        if (items == 0 || x.v.extent(3) == 0) { return; }
        // Heads are taken in equal parts, few enough that keys and values stay in the second cache, or that eight blocks at a time share each.
        extent_t const group = x.q.extent(1) / x.k.extent(1), bytes = x.k.extent(2) * (x.k.extent(3) + x.v.extent(3)) * 2 * terms;
        extent_t const fit = detail::half_second_cache / bytes, shared = device.multiprocessors / 8, width = group * (fit > shared ? fit : shared > 1 ? shared : 1);
        extent_t const parts = (heads + width - 1) / width;
        a.together = static_cast<int>((heads + parts - 1) / parts);
        a.items = static_cast<int>(items);
        if constexpr (scaled) {
            bring_images(a, x, room, backend);
        } else {
            map(a, x.q, x.k, x.v);
        }
        a.wide_out = detail::rows_of_words(x.out);
        if (items > device.multiprocessors) {
            a.taken = room.taken;
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
    struct workspace_room {
        int* taken;
        detail::plane_image q, k, v; // where rows are scaled
        workspace_room(arena& memory, pairwise_problem<E> const& x) : taken(memory.take<int>(1)) {
            if constexpr (scaled) {
                q = {memory, x.q.shape(), q_panels / terms * 64, terms};
                k = {memory, x.k.shape(), q_panels / terms * 64, terms};
                v = {memory, x.v.shape(), v_panels / terms * 64, terms};
            }
        }
    };
    // Rows to their images, and the maps of those.
    static void bring_images(arguments& a, pairwise_problem<E> const& x, workspace_room const& room, cuda<A> const& backend)
        requires scaled
    {
        detail::plane_tasks const tasks{{{x.q, room.q, q_panels / terms * 64}, {x.k, room.k, q_panels / terms * 64}, {x.v, room.v, v_panels / terms * 64}}};
        extent_t most = 0;
        for (detail::plane_task const& t : tasks.of) { most = t.blocks() > most ? t.blocks() : most; }
        detail::write_planes<A, terms><<<dim3(static_cast<unsigned>(most), 3), 256, 0, backend.stream>>>(tasks);
        detail::check_cuda<A>(cudaGetLastError(), "the launch that writes fp32 rows in terms of 16 bits");
        map(a, room.q.view(), room.k.view(), room.v.view());
        require_map(map_powers(a.powers.k, room.k, keys) && map_powers(a.powers.v, room.v, keys));
        a.powers.q = room.q.powers;
        a.powers.q_pitch = room.q.pitch;
    }

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

    template <int Rows, int Panels, int More = 0> // bytes that come with them
    HEED_DEVICE static void bring(CUtensorMap const& map, detail::tile_steps const& step, std::uint16_t* to, device::block_barrier& full, int batch, int head, int row) {
        if (threadIdx.x % 32 == 0) {
            full.expect(Rows * 128 * Panels + More);
#pragma unroll
            for (int p = 0; p < Panels; ++p) { device::copy_panel(to + p * Rows * 64, &map, full, p * 64, row, head * step.head, batch * step.batch); }
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
            bring<queries, q_panels>(x.q_map, x.q_step, mem.q[b], mem.q_full[b], it.batch, it.head, it.first);
            int const following = lane == 0 && x.taken != nullptr ? static_cast<int>(gridDim.x) + atomicAdd(x.taken, 1) : x.items;
            auto const send = [&](int note) {
                int const s = slot<stages>(n), row = note / 4 * keys;
                mem.k_free[s].wait(parity<stages>(n) ^ 1);
                if (lane == 0) { mem.note[s] = note; }
                bring<keys, q_panels, scaled ? 8 * keys : 0>(x.k_map, x.k_step, mem.k[s], mem.k_full[s], it.batch, kv_head, row);
                if constexpr (scaled) {
                    if (lane == 0) {
                        device::copy_panel(mem.powers.k[s], &x.powers.k, mem.k_full[s], row, 0, kv_head, it.batch);
                        device::copy_panel(mem.powers.v[s], &x.powers.v, mem.k_full[s], row, 0, kv_head, it.batch);
                    }
                }
                mem.v_free[s].wait(parity<stages>(n) ^ 1);
                bring<keys, v_panels>(x.v_map, x.v_step, mem.v[s], mem.v_full[s], it.batch, kv_head, row);
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

    HEED_DEVICE static rows_type rows_of(arguments const& x, int n, int group) {
        item const it(x, n);
        float const* powers = nullptr;
        if constexpr (scaled) { powers = x.powers.q + (extent_t(it.batch) * x.x.q.extent(1) + it.head) * x.powers.q_pitch; }
        return {x.m, x.x.at(it.batch, it.head), it.first + group * 64, powers};
    }
    HEED_DEVICE static void weigh(rows_type& rows, memory const& mem, int stage, float (&s)[keys / 2], int note) {
        if constexpr (scaled) {
            rows.weigh(s, note / 4 * keys, (note & partial) != 0, mem.powers.k[stage], mem.powers.v[stage]);
        } else {
            rows.weigh(s, note / 4 * keys, (note & partial) != 0, nullptr, nullptr);
        }
    }
    __device__ static void consume(arguments const& x, memory& mem, int group) {
        constexpr int q_term = queries * 128 * q_panels / terms, k_term = keys * 128 * q_panels / terms, v_term = keys * 128 * v_panels / terms; // bytes
        bool const speaks = threadIdx.x % 32 == 0;
        float s[keys / 2], o[V / 2], part[scaled ? V / 2 : 1]; // part: of o, from one tile
        auto& sums = *[&] {
            if constexpr (scaled) { return &part; } else { return &o; }
        }();
        std::uint32_t p[terms][keys / 4];
        std::uint32_t n = 0, turn = 0; // key tile whose weights are in p, and its item
        std::uint32_t const k_address = device::shared_address(mem.k), v_address = device::shared_address(mem.v);
        auto const q_matrix = [&] {
            return device::panel_matrix(device::shared_address(mem.q) + static_cast<std::uint32_t>(slot<q_stages>(turn) * queries * 128 * q_panels + group * 64 * 128), 16);
        };
        auto const k_matrix = [&](std::uint32_t t) { return device::panel_matrix(k_address + static_cast<std::uint32_t>(slot<stages>(t)) * (keys * 128 * q_panels), 16); };
        auto const v_matrix = [&](std::uint32_t t) { return device::panel_matrix(v_address + static_cast<std::uint32_t>(slot<stages>(t)) * (keys * 128 * v_panels), keys * 128); };
        auto const begin_scores = [&](device::panel_matrix const& q, device::panel_matrix const& k) {
            device::products_begin();
            rows_type::each_product([&](int a, int b, bool first) { device::product_of_rows<factor_type, keys, D>(s, q.behind(a * q_term), queries, k.behind(b * k_term), first ? 0 : 1); });
            device::products_commit();
        };
        auto const begin_values = [&](device::panel_matrix const& v, int add) {
            device::products_begin();
            rows_type::each_product([&](int a, int b, bool first) { device::product_with_values<factor_type, V, keys>(sums, p[a], v.behind(b * v_term), first ? add : 1); });
            device::products_commit();
        };
        auto const release = [&](device::block_barrier& b) {
            if (speaks) { b.arrive(); }
        };
        auto const release_after_all = [&](device::block_barrier& b) { // lanes have read their powers themselves
            __syncwarp();
            release(b);
        };
        if (sizes::takes_turns && group == groups - 1) { device::barrier_arrive(1, 256); }

        for (;; ++turn) {
            mem.q_full[slot<q_stages>(turn)].wait(parity<q_stages>(turn));
            int const number = mem.item[slot<q_stages>(turn)];
            if (number == none) { break; }
            rows_type rows = rows_of(x, number, group);
            device::panel_matrix const q = q_matrix();
            mem.k_full[slot<stages>(n)].wait(parity<stages>(n));
            int note = mem.note[slot<stages>(n)];
            begin_scores(q, k_matrix(n));
            device::products_wait<0>();
            device::hold(s);
            if constexpr (!scaled) { release(mem.k_free[slot<stages>(n)]); }
            weigh(rows, mem, slot<stages>(n), s, note);
            if constexpr (scaled) { release_after_all(mem.k_free[slot<stages>(n)]); }
            rows_type::to_terms(s, p);
            int add = 0;
            if constexpr (scaled) {
#pragma unroll
                for (float& f : o) { f = 0; }
            }
            while ((note & last) == 0) {
                int const next = slot<stages>(n + 1), now = slot<stages>(n);
                mem.k_full[next].wait(parity<stages>(n + 1));
                note = mem.note[next];
                if constexpr (sizes::takes_turns) { device::barrier_sync(1 + group, 256); }
                begin_scores(q, k_matrix(n + 1));
                mem.v_full[now].wait(parity<stages>(n));
                begin_values(v_matrix(n), add);
                if constexpr (!scaled) { add = 1; }
                if constexpr (sizes::takes_turns) { device::barrier_arrive(1 + (group + 1) % groups, 256); }
                device::products_wait<1>();
                device::hold(s);
                if constexpr (!scaled) { release(mem.k_free[next]); }
                [[maybe_unused]] float const power[2] = {rows.power[0], rows.power[1]};
                weigh(rows, mem, next, s, note);
                if constexpr (scaled) { release_after_all(mem.k_free[next]); }
                device::products_wait<0>();
                device::hold(sums);
                if constexpr (scaled) { gather(o, part, power); }
                release(mem.v_free[now]);
                rows_type::to_terms(s, p);
#pragma unroll
                for (int r = 0; r < V / 2; ++r) { o[r] *= rows.factor[r / 2 % 2]; }
                ++n;
            }
            release(mem.q_free[slot<q_stages>(turn)]);
            mem.v_full[slot<stages>(n)].wait(parity<stages>(n));
            begin_values(v_matrix(n), add);
            device::products_wait<0>();
            device::hold(sums);
            if constexpr (scaled) { gather(o, part, rows.power); }
            release(mem.v_free[slot<stages>(n)]);
            ++n;
            rows.settle();
            finish(x, rows, o);
        }
    }
    HEED_DEVICE static void gather(float (&o)[V / 2], float const (&part)[V / 2], float const (&power)[2]) {
#pragma unroll
        for (int r = 0; r < V / 2; ++r) { o[r] = fmaf(part[r], power[r / 2 % 2], o[r]); }
    }
    HEED_DEVICE static void finish(arguments const& x, rows_type const& rows, float const (&o)[V / 2]) {
        float last_factor[2];
        E* row[2];
#pragma unroll
        for (int h = 0; h < 2; ++h) {
            bool const inside = rows.row[h] <= rows.last_row;
            last_factor[h] = x.m.normalizer.close(rows.state[h]);
            row[h] = inside ? x.x.out.row(rows.at.batch, rows.at.head, rows.row[h]) : nullptr;
            constexpr int kept = detail::kept_of<normalizer_type>();
            if constexpr (kept > 0) {
                if (inside && threadIdx.x % 4 == 0 && x.x.lse.data_handle() != nullptr) {
                    float value[kept];
                    detail::saved_numbers(x.m.normalizer, rows.state[h], value);
                    for (int e = 0; e < kept; ++e) { x.x.lse(rows.at.batch, rows.at.head, rows.row[h], e) = value[e] * static_cast<float>(x.x.lse_unit); }
                }
            }
        }
        device::store_rows<V>(o, last_factor, row, static_cast<int>(x.x.out.extent(3)), x.x.out.stride(3), x.wide_out);
    }

    static void map(arguments& a, tensor_view<factor_type const> const& q, tensor_view<factor_type const> const& k, tensor_view<factor_type const> const& v) {
        require_map(detail::map_tiles(a.q_map, a.q_step, q, queries) && detail::map_tiles(a.k_map, a.k_step, k, keys) && detail::map_tiles(a.v_map, a.v_step, v, keys));
    }
    static void require_map(bool made) {
        if (!made) { detail::throw_cuda<A>(cudaErrorInvalidValue, "cuTensorMapEncodeTiled"); }
    }
};

} // namespace heed
