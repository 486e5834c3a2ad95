// SPDX-License-Identifier: BSD-3-Clause
// Pairwise forward on the GPU, for any mechanism: the engine that everything falls to. A block of 128 threads owns 64 queries of one head and up to 128 features of
// the values; it walks the key tiles that its pattern does not skip:
//
//   contract  s[i][j] = q_i . k_j         8 x 4 pairs a thread, in registers; features come through shared memory 64 at a time
//   bend      score chain, mask, peak     a row's sixteen threads agree by shuffles
//   weigh     weights to shared memory    the state of a row lies there too
//   gather    o[i][e] = o[i][e] factor[i] + sum_j weight v_j[e]       8 x 4 features a thread and slice; a tile's sum is added once
//
// Queries stay in shared memory where they fit. All arithmetic is in float, whatever is stored. What a pattern leaves out has weight 0 and reaches no product: where
// values of a cut tile are not finite, they are gathered pair by pair. A normalizer that must see its whole row first (RowWiseNormalizer) walks twice: scores of 64
// queries to the workspace, M x 64 floats for each block that runs, and back. Results do not depend on the device, nor on how many blocks run at once.
#pragma once

#include <heed/engine/cuda/device_views.cuh>
#include <heed/engine/cuda/simt_pair.cuh>
#include <heed/family/pairwise.hpp>

#include <new>

namespace heed {

namespace detail {
template <class Engine>
__global__ void __launch_bounds__(simt_tile::threads, Engine::blocks) simt_kernel(__grid_constant__ typename Engine::arguments const a) {
    Engine::block(a);
}
} // namespace detail

template <class M, class E, class A>
struct simt_forward {
    static_assert(std::is_same_v<E, float> || is_half<E>, "heed: on the GPU elements are float, heed::bf16 or heed::fp16");
    static_assert(std::is_same_v<decltype(M::load), load<>>, "heed: on the GPU rows are read as they lie; turn q and k beforehand (heed::rotate on the host, or a kernel of your own) instead of a loader");
    static constexpr std::string_view name = "cuda.simt.pairwise.forward";

    using tile_type = simt_tile;
    using score_type = decltype(M::score);
    using ring = typename score_type::contraction;
    using mix_ring = decltype(M::mix);
    using normalizer_type = decltype(M::normalizer);
    using row_type = typename normalizer_type::template row<float>;
    using accumulator = detail::accumulator_of<ring, float>;

    static constexpr int blocks = detail::accumulators_of<ring> == 1 ? 3 : 2; // of a multiprocessor at once, at least
    static constexpr int slices = 2;                                           // of 64 features of the values, held in registers
    static constexpr extent_t slice_width = extent_t(slices) * tile_type::chunk;
    static constexpr extent_t tile_queries = tile_type::queries, tile_keys = tile_type::keys;
    static constexpr bool linear = detail::is_linear<score_type> || (detail::is_raw<score_type> && normalizer_type::unit == 1.0); // nothing to bend
    static constexpr bool row_wise = RowWiseNormalizer<normalizer_type, float>, counts = CountingNormalizer<normalizer_type, float>;
    static constexpr bool tallies = requires(normalizer_type const n, float x) { n.tally(x, x); };
    static constexpr bool may_mask = detail::masks_of<score_type>;
    static constexpr int kept = detail::kept_of<normalizer_type>();

    struct arguments {
        M m;
        device_rows<E const> q, k, v;
        device_rows<E> out;
        device_rows<float> lse;
        double lse_unit;
        extent_t heads, kv_heads, width, value_width;
        extent_t tiles, parts, items; // query tiles of a head, parts of the value features, all together
        extent_t q_pitch;             // of the queries in shared memory: all features, or one chunk
        bool resident, q_fours, k_fours, v_fours, out_fours;
        float* scores; // [grid][64][score_pitch] where row_wise
        extent_t score_pitch;
    };

    // One block's shared memory.
    struct room {
        float *q, *kv, *p, *operand;
        row_type* state;
        int* odd; // [2][64]: rows of q and of k that hold a NaN, where the contraction skips it

        HEED_HD room(arena& a, extent_t q_pitch) {
            q = a.take<float>(tile_type::queries * q_pitch);
            kv = a.take<float>(tile_type::keys * tile_type::pitch);
            p = a.take<float>(tile_type::queries * tile_type::pitch);
            operand = a.take<float>(detail::has_operand<ring> ? tile_type::chunk : 0);
            state = a.take<row_type>(tile_type::queries);
            odd = a.take<int>(detail::skips_nan<ring> ? 2 * tile_type::queries : 0);
        }
    };

    // What a call needs, and how it is cut.
    struct layout {
        extent_t tiles, parts, items, q_pitch, score_pitch, grid;
        bool resident;
        std::size_t shared_bytes;

        layout(pairwise_problem<E> const& x, cuda_device const& device) {
            shape const q = x.q.shape(), v = x.v.shape();
            tiles = (q.seq + tile_queries - 1) / tile_queries;
            parts = v.feature > slice_width ? (v.feature + slice_width - 1) / slice_width : 1;
            items = tiles * parts * q.batch * q.head;
            score_pitch = row_wise ? (v.seq + tile_keys - 1) / tile_keys * tile_keys : 0;
            extent_t const at_once = extent_t(device.multiprocessors) * 2, most = row_wise ? at_once : extent_t(1) << 30;
            grid = items < most ? items : most;
            q_pitch = tile_type::row_pitch(q.feature);
            shared_bytes = bytes(q_pitch);
            resident = q.feature <= 4 * tile_type::chunk && shared_bytes <= device.shared_bytes;
            if (!resident) {
                q_pitch = tile_type::pitch;
                shared_bytes = bytes(q_pitch);
            }
        }
        static std::size_t bytes(extent_t q_pitch) {
            arena count(nullptr);
            room(count, q_pitch);
            return count.bytes();
        }
        float* scores(arena& memory) const { return memory.take<float>(row_wise ? grid * tile_queries * score_pitch : 0); }
    };

    static bool serves(pairwise_problem<E> const&, cuda_device const&) { return true; }
    static std::size_t workspace_bytes(pairwise_problem<E> const& x, cuda_device const& device) {
        arena count(nullptr);
        detail::device_starts<A>(count, x.q.extent(0));
        layout(x, device).scores(count);
        return count.bytes();
    }

    static void run(M const& m, pairwise_problem<E> const& x, cuda<A> const& backend, cuda_device const& device, std::byte* workspace) {
        arena memory(aligned(workspace));
        detail::device_starts<A> const starts(memory, x.q.extent(0));
        layout const by(x, device);
        arguments const a{m,
                          starts.of_queries(x.q),
                          starts.of_keys(x.k),
                          starts.of_keys(x.v),
                          starts.of_queries(x.out),
                          starts.of_queries(x.lse),
                          x.lse_unit,
                          x.q.extent(1),
                          x.k.extent(1),
                          x.q.extent(3),
                          x.v.extent(3),
                          by.tiles,
                          by.parts,
                          by.items,
                          by.q_pitch,
                          by.resident,
                          detail::by_fours(x.q),
                          detail::by_fours(x.k),
                          detail::by_fours(x.v),
                          detail::by_fours(x.out),
                          by.scores(memory),
                          by.score_pitch};
        static_assert(sizeof(arguments) <= 4096, "heed: the policies of a mechanism must fit the arguments of a kernel, 4096 bytes");
        if (by.items == 0) { return; }
        starts.put(x, backend.stream);
        auto const kernel = detail::simt_kernel<simt_forward>;
        detail::check_cuda<A>(cudaFuncSetAttribute(reinterpret_cast<void const*>(kernel), cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(by.shared_bytes)),
                              "cudaFuncSetAttribute of cuda.simt.pairwise.forward");
        kernel<<<static_cast<unsigned>(by.grid), tile_type::threads, by.shared_bytes, backend.stream>>>(a);
        detail::check_cuda<A>(cudaGetLastError(), "the launch of cuda.simt.pairwise.forward");
    }

    HEED_DEVICE static void block(arguments const& a) {
        extern __shared__ __align__(64) std::byte shared[];
        arena memory(shared);
        room const mine(memory, a.q_pitch);
        for (extent_t item = blockIdx.x; item < a.items; item += gridDim.x) {
            extent_t const tile = a.tiles - 1 - item % a.tiles; // the heavy rows of a triangle first
            extent_t const rest = item / a.tiles, part = rest % a.parts, head = rest / a.parts % a.heads, batch = rest / a.parts / a.heads;
            place const at{batch, head, a.kv_heads > 0 ? head / (a.heads / a.kv_heads) : 0, a.q.length(batch), a.k.length(batch), a.width};
            range const rows = intersect({0, at.queries}, {tile * tile_queries, (tile + 1) * tile_queries});
            if (rows.size() > 0) { walk(a).rows_of(at, rows, part, mine); }
            __syncthreads(); // the next item has the same memory
        }
    }

private:
    struct walk {
        arguments const& a;
        float o[slices][tile_type::rows][tile_type::cols];
        bool fresh = true; // no query is in shared memory yet

        HEED_DEVICE explicit walk(arguments const& args) : a(args) {}

        HEED_DEVICE void rows_of(place const& at, range rows, extent_t part, room const& mem) {
            float const lead = static_cast<float>(detail::leading_factor(a.m.score, at) * (linear ? normalizer_type::unit : 1.0));
            for (int i = static_cast<int>(threadIdx.x); i < tile_type::queries; i += tile_type::threads) {
                new (mem.state + i) row_type(a.m.normalizer.template start<float>(at));
                if constexpr (detail::skips_nan<ring>) { mem.odd[i] = 0; }
            }
            __syncthreads();
#pragma unroll
            for (int u = 0; u < slices; ++u) {
#pragma unroll
                for (int r = 0; r < tile_type::rows; ++r) {
#pragma unroll
                    for (int f = 0; f < tile_type::cols; ++f) { o[u][r][f] = mix_ring::template zero<float>(); }
                }
            }
            range const hull = detail::hull_of(a.m.pattern, at, rows);
            extent_t const first = hull.begin / tile_keys * tile_keys;
            float* const row_scores = a.scores + (extent_t(blockIdx.x) * tile_queries) * a.score_pitch;
            auto const each_tile = [&](auto&& body) {
                for (extent_t t = first; t < hull.end; t += 32 * tile_keys) {
                    detail::verdicts const v = detail::verdicts::of(t, [&](extent_t begin) {
                        range const cols = intersect(hull, {begin, begin + tile_keys});
                        return cols.size() > 0 ? a.m.pattern.classify(at, rows, cols) : tile::skip;
                    });
                    for (unsigned n = 0; n < 32 && t + n * tile_keys < hull.end; ++n) {
                        if ((v.some >> n & 1u) != 0 || row_wise) {
                            extent_t const begin = t + extent_t(n) * tile_keys;
                            body(begin, intersect(hull, {begin, begin + tile_keys}), (v.some >> n & 1u) != 0, (v.partial >> n & 1u) != 0);
                        }
                    }
                }
            };
            if constexpr (row_wise) {
                each_tile([&](extent_t begin, range cols, bool some, bool partial) {
                    float s[tile_type::rows][tile_type::cols];
                    unsigned const pairs = some ? detail::kept_pairs(a.m.pattern, at, rows, cols, {rows.begin, begin}, partial) : 0u;
                    bool const any = __syncthreads_or(pairs != 0) != 0;
                    score_pairs(at, rows, cols, begin, lead, pairs, any, mem, s);
#pragma unroll
                    for (int r = 0; r < tile_type::rows; ++r) {
#pragma unroll
                        for (int c = 0; c < tile_type::cols; ++c) { row_scores[tile_type::row(r) * a.score_pitch + begin - first + tile_type::col(c)] = s[r][c]; }
                    }
                });
                __syncwarp();
                for (int r = 0; r < tile_type::rows; ++r) {
                    row_type state = mem.state[tile_type::row(r)];
                    a.m.normalizer.solve(state, detail::device_scores{row_scores + tile_type::row(r) * a.score_pitch, hull.end > first ? (hull.end - first + tile_keys - 1) / tile_keys * tile_keys : 0});
                    __syncwarp();
                    if (tile_type::tx() == 0) { mem.state[tile_type::row(r)] = state; }
                }
                __syncwarp();
            }
            each_tile([&](extent_t begin, range cols, bool some, bool partial) {
                float s[tile_type::rows][tile_type::cols];
                if constexpr (row_wise) {
                    if (!some) { return; }
#pragma unroll
                    for (int r = 0; r < tile_type::rows; ++r) {
#pragma unroll
                        for (int c = 0; c < tile_type::cols; ++c) { s[r][c] = row_scores[tile_type::row(r) * a.score_pitch + begin - first + tile_type::col(c)]; }
                    }
                } else {
                    unsigned const pairs = detail::kept_pairs(a.m.pattern, at, rows, cols, {rows.begin, begin}, partial);
                    if (partial && __syncthreads_or(pairs != 0) == 0) { return; }
                    score_pairs(at, rows, cols, begin, lead, pairs, true, mem, s);
                }
                gather(at, cols, begin, part, partial, mem, s);
            });
            finish(at, rows, part, mem);
        }

        HEED_DEVICE void stage_queries(place const& at, range rows, extent_t c, float lead, room const& mem, float* to) const {
            int const n = static_cast<int>(a.width - c < tile_type::chunk ? a.width - c : tile_type::chunk);
            tile_type::stage(a.q.row(at.batch, at.head, rows.begin) + c * a.q.step.feature, a.q.step.seq, a.q.step.feature, static_cast<int>(rows.size()), n, a.q_fours, lead, to,
                             static_cast<int>(a.q_pitch), [&](int i, float x) {
                                 if constexpr (detail::skips_nan<ring>) {
                                     if (x != x) { mem.odd[i] = 1; }
                                 }
                             });
        }

        // Scores times unit of this thread's pairs; -inf where there is none. compute: some pair of the block exists.
        HEED_DEVICE void score_pairs(place const& at, range rows, range cols, extent_t begin, float lead, unsigned pairs, bool compute, room const& mem,
                                     float (&s)[tile_type::rows][tile_type::cols]) {
            ring const of = detail::contraction_of(a.m.score);
            accumulator acc[tile_type::rows][tile_type::cols];
#pragma unroll
            for (int r = 0; r < tile_type::rows; ++r) {
#pragma unroll
                for (int c = 0; c < tile_type::cols; ++c) { acc[r][c] = ring::template zero<float>(); }
            }
            int* const odd_k = mem.odd + tile_type::queries;
#pragma unroll 1
            for (extent_t c = 0; c < a.width && compute; c += tile_type::chunk) {
                int const n = static_cast<int>(a.width - c < tile_type::chunk ? a.width - c : tile_type::chunk);
                __syncthreads(); // what was staged before has been read
                if constexpr (detail::skips_nan<ring>) {
                    if (c == 0) {
                        if (threadIdx.x < tile_type::keys) { odd_k[threadIdx.x] = 0; }
                        __syncthreads();
                    }
                }
                // rows of the tile before the hull are read too: keys [begin, cols.end) exist
                tile_type::stage(a.k.row(at.batch, at.kv_head, begin) + c * a.k.step.feature, a.k.step.seq, a.k.step.feature, static_cast<int>(cols.end - begin), n, a.k_fours, 1.0f, mem.kv,
                                 tile_type::pitch, [&](int j, float x) {
                                     if constexpr (detail::skips_nan<ring>) {
                                         if (x != x) { odd_k[j] = 1; }
                                     }
                                 });
                if (!a.resident || fresh) { stage_queries(at, rows, c, lead, mem, mem.q + (a.resident ? c : 0)); }
                if constexpr (detail::has_operand<ring>) {
                    if (static_cast<int>(threadIdx.x) < n) { mem.operand[threadIdx.x] = static_cast<float>(detail::head_of(a.m.score).operand(at, c + threadIdx.x)); }
                }
                __syncthreads();
                tile_type::contract<ring>(acc, mem.q + (a.resident ? c : 0), static_cast<int>(a.q_pitch), mem.kv, n, of, mem.operand);
            }
            fresh = fresh && !compute;
#pragma unroll
            for (int r = 0; r < tile_type::rows; ++r) {
#pragma unroll
                for (int c = 0; c < tile_type::cols; ++c) {
                    float x = -math::inf<float>();
                    if ((pairs >> (tile_type::cols * r + c) & 1u) != 0) {
                        x = detail::finish_sum<ring, float>(of, acc[r][c], a.width);
                        if constexpr (detail::skips_nan<ring>) {
                            if ((a.width > 0) && (mem.odd[tile_type::row(r)] | odd_k[tile_type::col(c)]) != 0) { x = __int_as_float(0x7fffffff); }
                        }
                        if constexpr (!linear) { x = detail::bent_score(a.m.score, at, rows.begin + tile_type::row(r), begin + tile_type::col(c), x, static_cast<float>(normalizer_type::unit)); }
                    }
                    s[r][c] = x;
                }
            }
        }

        // Weights of the scores, states of the rows, values.
        HEED_DEVICE void gather(place const& at, range cols, extent_t begin, extent_t part, bool partial, room const& mem, float (&s)[tile_type::rows][tile_type::cols]) {
            auto const greater = [](float x, float y) { return math::max(x, y); };
            auto const plus = [](float x, float y) { return x + y; };
            float factor[tile_type::rows];
            unsigned attended = 0; // bit 4 r + c: the pair exists
            __syncwarp(); // weights of the tile before have been read
#pragma unroll
            for (int r = 0; r < tile_type::rows; ++r) {
                int const i = tile_type::row(r);
                float top = s[r][0];
#pragma unroll
                for (int c = 1; c < tile_type::cols; ++c) { top = math::max(top, s[r][c]); }
                top = tile_type::over_row(top, greater);
                row_type state = mem.state[i];
                factor[r] = a.m.normalizer.raise(state, top);
                float sum = 0, keys = 0;
#pragma unroll
                for (int c = 0; c < tile_type::cols; ++c) {
                    bool const none = s[r][c] == -math::inf<float>();
                    float const w = a.m.normalizer.weight(state, s[r][c]);
                    if constexpr (tallies) { sum = a.m.normalizer.tally(sum, w); } else { sum = sum + w; }
                    if constexpr (counts) { keys += none ? 0.0f : 1.0f; }
                    attended |= none ? 0u : 1u << (tile_type::cols * r + c);
                    mem.p[i * tile_type::pitch + tile_type::col(c)] = w;
                }
                sum = tile_type::over_row(sum, plus);
                if constexpr (counts) {
                    a.m.normalizer.settle(state, sum, tile_type::over_row(keys, plus));
                } else {
                    a.m.normalizer.settle(state, sum);
                }
                __syncwarp();
                if (tile_type::tx() == 0) { mem.state[i] = state; }
            }
            bool const cut = partial || may_mask || cols.size() < tile_keys || cols.begin > begin;
#pragma unroll 1
            for (int u = 0; u < slices; ++u) {
                extent_t const e = part * slice_width + u * tile_type::chunk;
                if (e >= a.value_width) { break; }
                int const n = static_cast<int>(a.value_width - e < tile_type::chunk ? a.value_width - e : tile_type::chunk);
                __syncthreads(); // keys, or the slice before, have been read
                bool odd = false;
                tile_type::stage(a.v.row(at.batch, at.kv_head, begin) + e * a.v.step.feature, a.v.step.seq, a.v.step.feature, static_cast<int>(cols.end - begin), n, a.v_fours, 1.0f, mem.kv,
                                 tile_type::pitch, [&](int, float x) {
                                     if constexpr (detail::skips_nan<mix_ring>) {
                                         odd = odd || x != x;
                                     } else {
                                         odd = odd || x - x != 0.0f;
                                     }
                                 });
                bool const strange = __syncthreads_or(odd && (cut || detail::skips_nan<mix_ring>)) != 0;
                float acc[tile_type::rows][tile_type::cols];
                if (strange) [[unlikely]] {
                    tile_type::gather_kept<mix_ring>(acc, mem.p, mem.kv, static_cast<int>(cols.end - begin), attended);
                } else {
                    tile_type::gather<mix_ring>(acc, mem.p, mem.kv, static_cast<int>(cols.end - begin));
                }
#pragma unroll
                for (int w = 0; w < slices; ++w) { // registers have no index
                    if (w != u) { continue; }
#pragma unroll
                    for (int r = 0; r < tile_type::rows; ++r) {
#pragma unroll
                        for (int f = 0; f < tile_type::cols; ++f) { o[w][r][f] = detail::join_sums<mix_ring>(o[w][r][f], factor[r], acc[r][f]); }
                    }
                }
            }
        }

        // Final factor, rows out, what is saved of the rows.
        HEED_DEVICE void finish(place const& at, range rows, extent_t part, room const& mem) const {
            __syncwarp();
#pragma unroll
            for (int r = 0; r < tile_type::rows; ++r) {
                extent_t const i = rows.begin + tile_type::row(r);
                if (i >= rows.end) { continue; }
                row_type const state = mem.state[tile_type::row(r)];
                float const last = a.m.normalizer.close(state);
                E* const to = a.out.row(at.batch, at.head, i);
#pragma unroll
                for (int u = 0; u < slices; ++u) {
                    extent_t const e = part * slice_width + u * tile_type::chunk + 4 * tile_type::tx();
                    float x[tile_type::cols];
#pragma unroll
                    for (int f = 0; f < tile_type::cols; ++f) {
                        if constexpr (requires { a.m.normalizer.finish(state, last); }) {
                            x[f] = a.m.normalizer.finish(state, o[u][r][f]);
                        } else {
                            x[f] = o[u][r][f] * last;
                        }
                    }
                    if (a.out_fours && e + 4 <= a.value_width) {
                        *reinterpret_cast<typename detail::four<E>::raw*>(to + e) = detail::four<E>::narrow({x[0], x[1], x[2], x[3]});
                    } else {
#pragma unroll
                        for (int f = 0; f < tile_type::cols; ++f) {
                            if (e + f < a.value_width) { to[(e + f) * a.out.step.feature] = static_cast<E>(x[f]); }
                        }
                    }
                }
                if constexpr (kept > 0) {
                    if (a.lse.data != nullptr && part == 0 && tile_type::tx() == 0) {
                        float value[kept];
                        detail::saved_numbers(a.m.normalizer, state, value);
#pragma unroll
                        for (int c = 0; c < kept; ++c) { a.lse.row(at.batch, at.head, i)[c * a.lse.step.feature] = static_cast<float>(static_cast<double>(value[c]) * a.lse_unit); }
                    }
                }
            }
        }
    };
};

} // namespace heed
