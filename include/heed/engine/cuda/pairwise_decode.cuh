// SPDX-License-Identifier: BSD-3-Clause
// Pairwise decode on the GPU: a few new queries of every sequence against a cache. The keys of a sequence are split over blocks, by a rule that looks at sizes alone;
// the query heads that share a key head (and the new tokens) are eight rows of one pass over its keys. A block of 128 threads walks tiles of 64 keys:
//
//   score    a thread has one key and four rows; keys come through shared memory, 64 features at a time
//   weigh    a warp has two rows: peak, weights, sum
//   gather   a thread has one feature and four rows
//
// Its row states and sums of values go to the workspace, and a second launch merges them in the order of the keys: the same bits in every run. Caches may be
// contiguous, rings or pages; lengths are read when the call is put on the stream, a block table by the device too (memory that both read).
#pragma once

#include <heed/engine/cuda/device_views.cuh>
#include <heed/engine/cuda/simt_pair.cuh>
#include <heed/engine/decode_problem.hpp>
#include <heed/family/pairwise.hpp>

#include <new>

namespace heed {

namespace detail {

template <class Engine>
__global__ void __launch_bounds__(simt_tile::threads, 5) simt_decode_kernel(__grid_constant__ typename Engine::arguments const a) {
    Engine::block(a);
}
template <class Engine>
__global__ void __launch_bounds__(simt_tile::threads) simt_merge_kernel(__grid_constant__ typename Engine::arguments const a) {
    Engine::merge_row(a);
}

} // namespace detail

template <class M, class E, class A>
struct simt_decode {
    static_assert(std::is_same_v<E, float> || is_half<E>, "heed: on the GPU elements are float, heed::bf16 or heed::fp16, of queries and cache alike");
    static_assert(std::is_same_v<decltype(M::load), load<>>, "heed: on the GPU rows are read as they lie; turn q and k beforehand instead of a loader");
    static constexpr std::string_view name = "cuda.simt.pairwise.decode";

    using tile_type = simt_tile;
    using score_type = decltype(M::score);
    using ring = typename score_type::contraction;
    using mix_ring = decltype(M::mix);
    using normalizer_type = decltype(M::normalizer);
    using row_type = typename normalizer_type::template row<float>;
    using accumulator = detail::accumulator_of<ring, float>;
    using problem = decode_problem<E, E, E, float>;

    static constexpr int rows = 8, own_rows = 4;     // of a block, of a thread
    static constexpr int slices = 4;                 // of 64 features of the values
    static constexpr extent_t slice_width = extent_t(slices) * tile_type::chunk;
    static constexpr extent_t keys = tile_type::keys;
    static constexpr bool linear = detail::is_linear<score_type> || (detail::is_raw<score_type> && normalizer_type::unit == 1.0), may_mask = detail::masks_of<score_type>;
    static constexpr bool counts = CountingNormalizer<normalizer_type, float>;
    static constexpr bool tallies = requires(normalizer_type const n, float x) { n.tally(x, x); };
    static constexpr bool idempotent = detail::is_idempotent<normalizer_type>;
    static constexpr int kept = detail::kept_of<normalizer_type>();

    // How a call is cut, by its shape alone.
    struct sizes {
        extent_t batch, heads, queries, width, kv_heads, dv, tile = simt_decode::keys;
        extent_t rows, blocks_of_rows, parts, chunks, keys_of_chunk;

        sizes(shape q, cache_view<E, E> const& c, cuda_device const&) : batch(q.batch), heads(q.head), queries(q.seq), width(q.feature), kv_heads(c.heads()), dv(c.v.extent(3)), rows(simt_decode::rows) {
            extent_t const of_head = kv_heads > 0 ? heads / kv_heads * queries : 0;
            blocks_of_rows = (of_head + simt_decode::rows - 1) / simt_decode::rows;
            parts = dv > slice_width ? (dv + slice_width - 1) / slice_width : 1;
            extent_t const others = batch * kv_heads * blocks_of_rows * parts, tiles = (c.reach() + tile - 1) / tile;
            extent_t const wanted = others > 0 ? (1024 + others - 1) / others : 1, most = (tiles + 3) / 4; // 256 keys a chunk, at least
            chunks = most < 1 ? 1 : wanted < most ? wanted : most;
            keys_of_chunk = (tiles + chunks - 1) / chunks * tile;
        }
        extent_t items() const { return batch * kv_heads * blocks_of_rows * parts * chunks; }
    };
    struct arguments {
        M m;
        device_rows<E const> q;
        device_rows<E> out;
        device_rows<float> lse;
        double lse_unit;
        cache_kind kind;
        E const *k, *v;
        strides k_step, v_step;
        extent_t k_rows; // of an entry
        block_table table;
        std::int64_t const* lengths;
        sizes by;
        bool k_fours, v_fours;
        row_type* states; // [row of all][chunk]
        float* sums;      // [row of all][chunk][dv]

        HEED_HD place at(extent_t b, extent_t h) const { return {b, h, h / (by.heads / by.kv_heads), q.length(b), lengths[b], by.width}; }
        HEED_HD extent_t row_number(extent_t b, extent_t h, extent_t i) const { return (b * by.heads + h) * by.queries + i; }
        // Row j of sequence b in x, whose rows have these steps.
        HEED_HD E const* row(E const* x, strides const& step, extent_t b, extent_t kv, extent_t j) const {
            if (kind == cache_kind::contiguous) { return x + b * step.batch + kv * step.head + j * step.seq; }
            unsigned const block = static_cast<unsigned>(j) / static_cast<unsigned>(k_rows); // sequences are below 2^30
            return x + (kind == cache_kind::ring ? b : table(b, block)) * step.batch + kv * step.head + (j - extent_t(block) * k_rows) * step.seq;
        }
    };

    static bool serves(sizes const&, cache_view<E, E> const&, cuda_device const&) { return true; }
    static std::size_t bytes(sizes const& by) {
        arena count(nullptr);
        placed(count, by);
        return count.bytes();
    }
    static void run(M const& m, problem const& x, cuda<A> const& backend, sizes const& by, std::byte* workspace) {
        arena memory(aligned(workspace));
        placed const own(memory, by);
        arguments const a{m,
                          own.starts.of_queries(x.q),
                          own.starts.of_queries(x.out),
                          own.starts.of_queries(x.lse),
                          x.lse_unit,
                          x.cache.kind,
                          x.cache.k.data_handle(),
                          x.cache.v.data_handle(),
                          x.cache.k.strides(),
                          x.cache.v.strides(),
                          x.cache.k.extent(2),
                          x.cache.table,
                          own.lengths,
                          by,
                          detail::by_fours(x.cache.k),
                          detail::by_fours(x.cache.v),
                          own.states,
                          own.sums};
        static_assert(sizeof(arguments) <= 4096, "heed: the policies of a mechanism must fit the arguments of a kernel, 4096 bytes");
        if (by.items() == 0) { return; }
        own.starts.put_queries(x.q.offsets(), backend.stream);
        detail::put_numbers<A>(by.batch, [&](extent_t b) { return x.cache.lengths[static_cast<std::size_t>(b)]; }, own.lengths, backend.stream);
        arena count(nullptr);
        room(count, by.width);
        auto const kernel = detail::simt_decode_kernel<simt_decode>;
        detail::check_cuda<A>(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(count.bytes())), "cudaFuncSetAttribute of cuda.simt.pairwise.decode");
        kernel<<<static_cast<unsigned>(by.items()), tile_type::threads, count.bytes(), backend.stream>>>(a);
        detail::check_cuda<A>(cudaGetLastError(), "the launch of cuda.simt.pairwise.decode");
        detail::simt_merge_kernel<simt_decode><<<static_cast<unsigned>(by.batch * by.heads * by.queries), tile_type::threads, 0, backend.stream>>>(a);
        detail::check_cuda<A>(cudaGetLastError(), "the launch of the merge of cuda.simt.pairwise.decode");
    }

    HEED_DEVICE static void block(arguments const& a) {
        extern __shared__ __align__(64) std::byte shared[];
        arena memory(shared);
        room const mem(memory, a.by.width);
        extent_t const item = blockIdx.x, chunk = item % a.by.chunks, rest = item / a.by.chunks;
        extent_t const part = rest % a.by.parts, of_rows = rest / a.by.parts % a.by.blocks_of_rows, kv = rest / a.by.parts / a.by.blocks_of_rows % a.by.kv_heads;
        extent_t const b = rest / a.by.parts / a.by.blocks_of_rows / a.by.kv_heads;
        pass(a, mem, b, kv, of_rows * rows, part).over(chunk);
    }

    // Parts of a row joined in the order of their keys.
    HEED_DEVICE static void merge_row(arguments const& a) {
        extent_t const row = blockIdx.x, i = row % a.by.queries, h = row / a.by.queries % a.by.heads, b = row / a.by.queries / a.by.heads;
        place const at = a.at(b, h);
        if (i >= at.queries) { return; }
        normalizer_type const& normalizer = a.m.normalizer;
        row_type const* const states = a.states + row * a.by.chunks;
        float const* const sums = a.sums + row * a.by.chunks * a.by.dv;
        for (extent_t e0 = 0; e0 < a.by.dv || e0 == 0; e0 += tile_type::threads) {
            extent_t const e = e0 + threadIdx.x;
            row_type state = states[0];
            float x = e < a.by.dv ? sums[e] : 0.0f;
            for (extent_t c = 1; c < a.by.chunks; ++c) {
                float before = 1, later = 1;
                state = normalizer.merge(state, states[c], before, later);
                float const y = e < a.by.dv ? sums[c * a.by.dv + e] : 0.0f;
                if constexpr (idempotent) { x = mix_ring::reduce(x, y); } else { x = math::fma(x, before, y * later); }
            }
            if (e < a.by.dv) {
                if constexpr (requires { normalizer.finish(state, x); }) {
                    x = normalizer.finish(state, x);
                } else {
                    x = x * normalizer.close(state);
                }
                a.out.row(b, h, i)[e * a.out.step.feature] = static_cast<E>(x);
            }
            if constexpr (kept > 0) {
                if (a.lse.data != nullptr && e == 0) {
                    float value[kept];
                    detail::saved_numbers(normalizer, state, value);
                    *a.lse.row(b, h, i) = static_cast<float>(static_cast<double>(value[0]) * a.lse_unit);
                }
            }
        }
    }

private:
    struct placed {
        detail::device_starts<A> starts;
        std::int64_t* lengths;
        row_type* states;
        float* sums;
        placed(arena& memory, sizes const& by) : starts(memory, by.batch) {
            extent_t const all = by.batch * by.heads * by.queries * by.chunks;
            lengths = memory.take<std::int64_t>(by.batch);
            states = memory.take<row_type>(all);
            sums = memory.take<float>(all * by.dv);
        }
    };
    // One block's shared memory.
    struct room {
        float *q, *kv, *p, *factor; // [8][pitch of d], [64][pitch], [8][pitch], [8]
        float* operand;             // [64]
        row_type* state;            // [8]
        std::uint64_t* attended;    // [8], bit j: the pair exists
        extent_t *head, *query;     // [8] of a row; query -1: there is no such row
        int* odd;                   // [8] rows of q and [64] keys that hold a NaN, where the contraction skips it
        HEED_HD room(arena& a, extent_t width) {
            q = a.take<float>(rows * tile_type::row_pitch(width));
            kv = a.take<float>(keys * tile_type::pitch);
            p = a.take<float>(rows * tile_type::pitch);
            factor = a.take<float>(rows);
            operand = a.take<float>(detail::has_operand<ring> ? rows * tile_type::chunk : 0);
            state = a.take<row_type>(rows);
            attended = a.take<std::uint64_t>(rows);
            head = a.take<extent_t>(rows);
            query = a.take<extent_t>(rows);
            odd = a.take<int>(rows + keys);
        }
    };

    struct pass {
        arguments const& a;
        room const& mem;
        extent_t b, kv, first, part; // first: number of the block's first row among those of the key head
        extent_t queries, length;    // of the sequence
        float o[slices][own_rows];

        HEED_DEVICE pass(arguments const& args, room const& memory, extent_t batch, extent_t head, extent_t row, extent_t p) : a(args), mem(memory), b(batch), kv(head), first(row), part(p), queries(args.q.length(batch)), length(args.lengths[batch]) {}

        HEED_DEVICE static int key() { return static_cast<int>(threadIdx.x % tile_type::keys); } // or feature
        HEED_DEVICE static int row(int r) { return static_cast<int>(threadIdx.x / tile_type::keys) * own_rows + r; }
        HEED_DEVICE bool exists(int r) const { return mem.query[r] >= 0; }
        HEED_DEVICE extent_t query(int r) const { return mem.query[r]; }
        HEED_DEVICE place at(int r) const { return {b, mem.head[r], kv, queries, length, a.by.width}; }

        HEED_DEVICE void over(extent_t chunk) {
            begin(chunk);
            extent_t const oldest = a.kind == cache_kind::ring && length > a.k_rows ? length - a.k_rows : 0; // a ring remembers no more
            extent_t const from = oldest + chunk * a.by.keys_of_chunk, to = from + a.by.keys_of_chunk < length ? from + a.by.keys_of_chunk : length;
            for (extent_t t = from; t < to; t += 32 * keys) {
                detail::verdicts const v = detail::verdicts::of(t, [&](extent_t start) { return judge({start, start + keys < to ? start + keys : to}); });
                for (unsigned left = v.some; left != 0; left &= left - 1) {
                    unsigned const n = static_cast<unsigned>(__ffs(static_cast<int>(left))) - 1;
                    extent_t const start = t + extent_t(n) * keys;
                    tile_of_keys(start, static_cast<int>(to - start < keys ? to - start : keys), (v.partial >> n & 1u) != 0);
                }
            }
            end(chunk);
        }

    private:
        HEED_DEVICE tile judge(range cols) const {
            if (cols.size() == 0) { return tile::skip; }
            bool any = false, all = true;
#pragma unroll 1
            for (int r = 0; r < rows; ++r) {
                if (!exists(r)) { continue; }
                tile const v = a.m.pattern.classify(at(r), range{query(r), query(r) + 1}, cols);
                any = any || v != tile::skip;
                all = all && v == tile::full;
            }
            return !any ? tile::skip : all ? tile::full : tile::partial;
        }
        // Queries, states and sums of the block's rows.
        HEED_DEVICE void begin(extent_t chunk) {
            int const pitch = tile_type::row_pitch(a.by.width);
            if (threadIdx.x < rows) {
                int const r = static_cast<int>(threadIdx.x);
                extent_t const group = a.by.heads / a.by.kv_heads, number = first + r, i = number % a.by.queries;
                mem.head[r] = kv * group + number / a.by.queries;
                mem.query[r] = number < group * a.by.queries && i < queries ? i : -1;
                place const here = exists(r) ? at(r) : place{};
                new (mem.state + r) row_type(chunk == 0 && exists(r) ? a.m.normalizer.template start<float>(here) : a.m.normalizer.template empty<float>());
                mem.odd[r] = 0;
            }
            __syncthreads();
#pragma unroll 1
            for (int r = 0; r < rows; ++r) {
                bool const there = exists(r);
                place const here = there ? at(r) : place{};
                float const lead = there ? static_cast<float>(detail::leading_factor(a.m.score, here) * (linear ? normalizer_type::unit : 1.0)) : 0.0f;
                E const* const from = there ? a.q.row(b, here.head, query(r)) : nullptr;
                for (extent_t c = threadIdx.x; c < a.by.width; c += tile_type::threads) {
                    float const x = there ? static_cast<float>(from[c * a.q.step.feature]) : 0.0f;
                    if constexpr (detail::skips_nan<ring>) {
                        if (x != x) { mem.odd[r] = 1; }
                    }
                    mem.q[r * pitch + c] = x * lead;
                }
            }
#pragma unroll
            for (int u = 0; u < slices; ++u) {
#pragma unroll
                for (int r = 0; r < own_rows; ++r) { o[u][r] = mix_ring::template zero<float>(); }
            }
        }

        // Features [c, c + 64) of keys [start, start + count) into shared memory. see(row, x) as in simt_tile.
        template <class See>
        HEED_DEVICE void stage(E const* x, strides const& step, extent_t start, int count, extent_t c, extent_t width, bool fours, See const& see) const {
            int const n = static_cast<int>(width - c < tile_type::chunk ? width - c : tile_type::chunk);
            tile_type::stage_rows([&](int j) { return a.row(x, step, b, kv, start + j) + c; }, extent_t(1), count, n, fours, 1.0f, mem.kv, tile_type::pitch, see);
        }

        HEED_DEVICE void tile_of_keys(extent_t start, int count, bool partial) {
            score(start, count, partial);
            __syncthreads();
            weigh();
            bool const cut = partial || may_mask || count < keys;
#pragma unroll 1
            for (int u = 0; u < slices; ++u) {
                extent_t const e = part * slice_width + u * tile_type::chunk;
                if (e >= a.by.dv) { break; }
                __syncthreads();
                bool odd = false;
                stage(a.v, a.v_step, start, count, e, a.by.dv, a.v_fours, [&](int, float x) {
                    if constexpr (detail::skips_nan<mix_ring>) {
                        odd = odd || x != x;
                    } else {
                        odd = odd || x - x != 0.0f;
                    }
                });
                bool const strange = __syncthreads_or(odd && (cut || detail::skips_nan<mix_ring>)) != 0;
                float acc[own_rows];
                gather(acc, strange);
#pragma unroll
                for (int w = 0; w < slices; ++w) { // registers have no index
                    if (w != u) { continue; }
#pragma unroll
                    for (int r = 0; r < own_rows; ++r) { o[w][r] = detail::join_sums<mix_ring>(o[w][r], mem.factor[row(r)], acc[r]); }
                }
            }
        }

        // Scores of this thread's key with its rows, -inf where there is no pair.
        HEED_DEVICE void score(extent_t start, int count, bool partial) const {
            ring const of = detail::contraction_of(a.m.score);
            int const pitch = tile_type::row_pitch(a.by.width);
            accumulator acc[own_rows];
#pragma unroll
            for (int r = 0; r < own_rows; ++r) { acc[r] = ring::template zero<float>(); }
            int* const odd_k = mem.odd + rows;
#pragma unroll 1
            for (extent_t c = 0; c < a.by.width; c += tile_type::chunk) {
                int const n = static_cast<int>(a.by.width - c < tile_type::chunk ? a.by.width - c : tile_type::chunk);
                __syncthreads();
                if constexpr (detail::skips_nan<ring>) {
                    if (c == 0) {
                        if (threadIdx.x < keys) { odd_k[threadIdx.x] = 0; }
                        __syncthreads();
                    }
                }
                if constexpr (detail::has_operand<ring>) {
                    for (int x = static_cast<int>(threadIdx.x); x < rows * n; x += tile_type::threads) {
                        if (exists(x / n)) { mem.operand[x / n * tile_type::chunk + x % n] = static_cast<float>(detail::head_of(a.m.score).operand(at(x / n), c + x % n)); }
                    }
                }
                stage(a.k, a.k_step, start, count, c, a.by.width, a.k_fours, [&](int j, float x) {
                    if constexpr (detail::skips_nan<ring>) {
                        if (x != x) { odd_k[j] = 1; }
                    }
                });
                __syncthreads();
                float const *const k = mem.kv + key() * tile_type::pitch, *const q = mem.q + row(0) * pitch + c, *const w = mem.operand + row(0) * tile_type::chunk;
                auto const step = [&](int r, float y, float x, int at_feature) {
                    if constexpr (detail::has_operand<ring>) {
                        acc[r] = of.step(acc[r], y, x, w[r * tile_type::chunk + at_feature]);
                    } else {
                        acc[r] = of.step(acc[r], y, x);
                    }
                };
                int f = 0;
#pragma unroll 2
                for (; f + 4 <= n; f += 4) {
                    float4 const y = *reinterpret_cast<float4 const*>(k + f);
#pragma unroll
                    for (int r = 0; r < own_rows; ++r) {
                        float4 const x = *reinterpret_cast<float4 const*>(q + r * pitch + f);
                        step(r, y.x, x.x, f);
                        step(r, y.y, x.y, f + 1);
                        step(r, y.z, x.z, f + 2);
                        step(r, y.w, x.w, f + 3);
                    }
                }
                for (; f < n; ++f) {
#pragma unroll
                    for (int r = 0; r < own_rows; ++r) { step(r, k[f], q[r * pitch + f], f); }
                }
            }
            __syncthreads(); // weights of the tile before have been read, even if there is no feature
            extent_t const j = start + key();
#pragma unroll
            for (int r = 0; r < own_rows; ++r) {
                float x = -math::inf<float>();
                int const i = row(r);
                if (key() < count && exists(i)) {
                    place const here = at(i);
                    if (!partial || a.m.pattern.keep(here, query(i), j)) {
                        x = detail::finish_sum<ring, float>(of, acc[r], a.by.width);
                        if constexpr (detail::skips_nan<ring>) {
                            if (a.by.width > 0 && (mem.odd[i] | odd_k[key()]) != 0) { x = __int_as_float(0x7fffffff); }
                        }
                        if constexpr (!linear) { x = detail::bent_score(a.m.score, here, query(i), j, x, static_cast<float>(normalizer_type::unit)); }
                    }
                }
                mem.p[i * tile_type::pitch + key()] = x;
            }
        }

        // Two rows a warp, two keys a lane.
        HEED_DEVICE void weigh() const {
            constexpr int each = rows / (tile_type::threads / 32);
            int const lane = static_cast<int>(threadIdx.x) % 32;
            auto const over = [](float x, auto const& join) {
#pragma unroll
                for (int by = 16; by > 0; by /= 2) { x = join(x, __shfl_xor_sync(0xffffffffu, x, by)); }
                return __shfl_sync(0xffffffffu, x, 0);
            };
            auto const plus = [](float x, float y) { return x + y; };
#pragma unroll
            for (int n = 0; n < each; ++n) {
                int const r = static_cast<int>(threadIdx.x) / 32 * each + n;
                float* const p = mem.p + r * tile_type::pitch + lane;
                float const s0 = p[0], s1 = p[32];
                row_type state = mem.state[r];
                float const factor = a.m.normalizer.raise(state, over(math::max(s0, s1), [](float x, float y) { return math::max(x, y); }));
                float const w0 = a.m.normalizer.weight(state, s0), w1 = a.m.normalizer.weight(state, s1), none = -math::inf<float>();
                float sum = 0;
                if constexpr (tallies) { sum = a.m.normalizer.tally(a.m.normalizer.tally(sum, w0), w1); } else { sum = w0 + w1; }
                sum = over(sum, plus);
                if constexpr (counts) {
                    a.m.normalizer.settle(state, sum, over((s0 == none ? 0.0f : 1.0f) + (s1 == none ? 0.0f : 1.0f), plus));
                } else {
                    a.m.normalizer.settle(state, sum);
                }
                std::uint64_t const low = __ballot_sync(0xffffffffu, s0 != none), high = __ballot_sync(0xffffffffu, s1 != none);
                p[0] = w0;
                p[32] = w1;
                __syncwarp();
                if (lane == 0) {
                    mem.state[r] = state;
                    mem.factor[r] = factor;
                    mem.attended[r] = low | high << 32;
                }
            }
        }

        // One feature and four rows a thread.
        HEED_DEVICE void gather(float (&acc)[own_rows], bool strange) const {
            float const *const v = mem.kv + key(), *const p = mem.p + row(0) * tile_type::pitch;
#pragma unroll
            for (int r = 0; r < own_rows; ++r) { acc[r] = mix_ring::template zero<float>(); }
            if (strange) [[unlikely]] {
#pragma unroll 1
                for (int j = 0; j < keys; ++j) {
#pragma unroll
                    for (int r = 0; r < own_rows; ++r) {
                        float const y = v[j * tile_type::pitch], w = p[r * tile_type::pitch + j];
                        if ((mem.attended[row(r)] >> j & 1u) != 0) { acc[r] = detail::gather_one_of<mix_ring>(acc[r], y, w); }
                    }
                }
            } else {
#pragma unroll 2
                for (int j = 0; j < keys; j += 4) {
                    float y[4];
#pragma unroll
                    for (int n = 0; n < 4; ++n) { y[n] = v[(j + n) * tile_type::pitch]; }
#pragma unroll
                    for (int r = 0; r < own_rows; ++r) {
                        float4 const w = *reinterpret_cast<float4 const*>(p + r * tile_type::pitch + j);
                        acc[r] = mix_ring::step(mix_ring::step(mix_ring::step(mix_ring::step(acc[r], y[0], w.x), y[1], w.y), y[2], w.z), y[3], w.w);
                    }
                }
            }
        }

        HEED_DEVICE void end(extent_t chunk) const {
            __syncthreads();
#pragma unroll
            for (int r = 0; r < own_rows; ++r) {
                if (!exists(row(r))) { continue; }
                extent_t const number = a.row_number(b, at(row(r)).head, query(row(r))) * a.by.chunks + chunk;
                if (part == 0 && key() == 0) { new (a.states + number) row_type(mem.state[row(r)]); }
#pragma unroll
                for (int u = 0; u < slices; ++u) {
                    extent_t const e = part * slice_width + u * tile_type::chunk + key();
                    if (e < a.by.dv) { a.sums[number * a.by.dv + e] = o[u][r]; }
                }
            }
        }
    };
};

} // namespace heed
