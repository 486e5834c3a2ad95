// SPDX-License-Identifier: BSD-3-Clause
// Pairwise backward on the GPU, for dot-product scores and weighted sums of values under any chain, pattern and normalizer. Everything is recomputed from q, k, v
// and what forward saved of the rows; one kernel walks tiles of 64 x 64 pairs in four ways:
//
//   means   rows are queries   centre_i = sum_j derivative dp / sum_j derivative, where a normalizer has no other centre
//   of_q    rows are queries   dq_i = sum_j ds_ij k_j
//   of_k    rows are keys      dk_j = sum_i ds_ij q_i      over all query heads that share the key head
//   of_v    rows are keys      dv_j = sum_i p_ij dO_i
//
// with ds = derivative (dp - centre_i), dp = dO_i . v_j, pulled back through the score chain. Eight products where seven would do (scores are made three times, dp
// twice), and every sum is owned by one thread: no atomics, the same bits in every run. A block holds 128 features of a gradient; wider rows are cut into parts.
// Memory: one number a row of queries. Gradients of the policies' own data are left to the CPU.
#pragma once

#include <heed/engine/cuda/device_views.cuh>
#include <heed/engine/cuda/simt_pair.cuh>
#include <heed/engine/gradient_problem.hpp>
#include <heed/family/pairwise.hpp>

#include <new>

namespace heed {

namespace detail {

enum class gradient_walk { means, of_q, of_k, of_v };

template <class Engine>
__global__ void __launch_bounds__(simt_tile::threads, 2) simt_gradient_kernel(__grid_constant__ typename Engine::arguments const a, gradient_walk const way) {
    Engine::block(a, way);
}
// A thread a row: dO_i . out_i, summed in the order in which dp is, so that a row with a single key gets exactly 0.
template <class Engine>
__global__ void __launch_bounds__(simt_tile::threads) simt_centre_kernel(__grid_constant__ typename Engine::arguments const a) {
    Engine::centre_of_row(a, extent_t(blockIdx.x) * simt_tile::threads + threadIdx.x);
}

} // namespace detail

template <class M, class E, class A>
struct simt_backward {
    static_assert(std::is_same_v<E, float> || is_half<E>, "heed: on the GPU elements are float, heed::bf16 or heed::fp16");
    static_assert(std::is_same_v<decltype(M::load), load<>>, "heed: on the GPU rows are read as they lie; turn q and k beforehand instead of a loader");
    static_assert(std::is_same_v<typename decltype(M::score)::contraction, plus_times> && std::is_same_v<decltype(M::mix), plus_times>,
                  "heed: backward on the GPU is written for dot-product scores and weighted sums of values");
    static_assert(DifferentiableNormalizer<decltype(M::normalizer), float>, "heed: backward needs a normalizer with kept, resume, derivative and centred; see heed/policy/concepts.hpp");
    static constexpr std::string_view name = "cuda.simt.pairwise.backward";
    static constexpr bool tensors_only = true; // no gradients of policies' data

    using walk = detail::gradient_walk;
    using tile_type = simt_tile;
    using score_type = decltype(M::score);
    using normalizer_type = decltype(M::normalizer);
    using row_type = typename normalizer_type::template row<float>;
    using problem = pairwise_gradient_problem<M, E>;

    static constexpr int slices = 2;
    static constexpr extent_t slice_width = extent_t(slices) * tile_type::chunk;
    static constexpr extent_t tile_queries = tile_type::queries, tile_keys = tile_type::keys, side = tile_type::queries;
    static constexpr bool linear = detail::is_linear<score_type>;
    static constexpr bool may_mask = detail::masks_of<score_type>;
    static constexpr centre centred = normalizer_type::centred;
    static constexpr int kept = detail::kept_of<normalizer_type>();

    // One side of a product, seen by fours or not.
    struct side_rows {
        device_rows<E const> rows;
        extent_t width;
        bool fours;
    };
    struct arguments {
        M m;
        side_rows q, k, v, dout;
        device_rows<E const> out;
        device_rows<float const> saved, dsaved;
        double saved_unit, dsaved_unit;
        device_rows<E> dq, dk, dv;
        float* centres; // [B][H][N]
        extent_t batch, heads, kv_heads, queries, keys;
        HEED_HD float* centres_of(extent_t b, extent_t h) const { return centres + (b * heads + h) * queries; }
        HEED_HD extent_t group() const { return kv_heads > 0 ? heads / kv_heads : 0; }
        HEED_HD place at(extent_t b, extent_t h) const { return {b, h, kv_heads > 0 ? h / group() : 0, q.rows.length(b), k.rows.length(b), q.width}; }
    };

    static bool serves(problem const&, cuda_device const&) { return true; }
    static std::size_t workspace_bytes(problem const& x, cuda_device const&) {
        arena count(nullptr);
        place_in(count, x);
        return count.bytes();
    }
    static void run(problem const& x, cuda<A> const& backend, cuda_device const&, std::byte* workspace) {
        arena memory(aligned(workspace));
        auto const [starts, centres] = place_in(memory, x);
        shape const q = x.q.shape(), k = x.k.shape();
        arguments const a{x.m,
                          {starts.of_queries(x.q), x.q.extent(3), detail::by_fours(x.q)},
                          {starts.of_keys(x.k), x.k.extent(3), detail::by_fours(x.k)},
                          {starts.of_keys(x.v), x.v.extent(3), detail::by_fours(x.v)},
                          {starts.of_queries(x.dout), x.dout.extent(3), detail::by_fours(x.dout)},
                          starts.of_queries(x.out),
                          starts.of_queries(x.saved),
                          starts.of_queries(x.dsaved),
                          x.saved_unit,
                          x.dsaved_unit,
                          starts.of_queries(x.dq),
                          starts.of_keys(x.dk),
                          starts.of_keys(x.dv),
                          centres,
                          q.batch,
                          q.head,
                          k.head,
                          q.seq,
                          k.seq};
        static_assert(sizeof(arguments) <= 4000, "heed: the policies of a mechanism must fit the arguments of a kernel, 4096 bytes");
        starts.put(x, backend.stream);
        extent_t const rows = q.batch * q.head * q.seq;
        bool const scores = x.dq.data_handle() != nullptr || x.dk.data_handle() != nullptr; // dv needs no centre
        if (rows > 0 && scores) {
            if constexpr (centred == centre::mean) { launch(a, walk::means, q.batch * q.head, q.seq, 1, backend); }
            detail::simt_centre_kernel<simt_backward><<<static_cast<unsigned>((rows + tile_type::threads - 1) / tile_type::threads), tile_type::threads, 0, backend.stream>>>(a);
            detail::check_cuda<A>(cudaGetLastError(), "the launch of the centres of cuda.simt.pairwise.backward");
        }
        if (x.dq.data_handle() != nullptr) { launch(a, walk::of_q, q.batch * q.head, q.seq, q.feature, backend); }
        if (x.dk.data_handle() != nullptr) { launch(a, walk::of_k, k.batch * k.head, k.seq, k.feature, backend); }
        if (x.dv.data_handle() != nullptr) { launch(a, walk::of_v, k.batch * k.head, k.seq, x.v.extent(3), backend); }
    }

    HEED_DEVICE static void centre_of_row(arguments const& a, extent_t row) {
        if (row >= a.batch * a.heads * a.queries) { return; }
        extent_t const i = row % a.queries, h = row / a.queries % a.heads, b = row / a.queries / a.heads;
        if (i >= a.q.rows.length(b)) { return; }
        float x = 0;
        if constexpr (centred == centre::output) {
            E const *const o = a.out.row(b, h, i), *const d = a.dout.rows.row(b, h, i);
            for (extent_t e = 0; e < a.v.width; ++e) { x = math::fma(static_cast<float>(o[e * a.out.step.feature]), static_cast<float>(d[e * a.dout.rows.step.feature]), x); }
        } else if constexpr (centred == centre::mean) {
            x = a.centres[row];
        }
        if (a.dsaved.data != nullptr) { x -= static_cast<float>(static_cast<double>(*a.dsaved.row(b, h, i)) * a.dsaved_unit); } // the log-sum-exp itself has a gradient
        a.centres[row] = x;
    }

    HEED_DEVICE static void block(arguments const& a, walk way) {
        extern __shared__ __align__(64) std::byte shared[];
        arena memory(shared);
        room const mem(memory);
        bool const by_keys = way == walk::of_k || way == walk::of_v;
        extent_t const tiles = ((by_keys ? a.keys : a.queries) + side - 1) / side;
        extent_t const width = way == walk::of_v ? a.v.width : way == walk::means ? 1 : a.q.width, parts = (width + slice_width - 1) / slice_width;
        extent_t const item = blockIdx.x, rest = item / tiles, heads = by_keys ? a.kv_heads : a.heads;
        extent_t const part = rest % parts, head = rest / parts % heads, batch = rest / parts / heads;
        extent_t const t = item % tiles, tile = by_keys ? t : tiles - 1 - t; // the heavy side of a triangle first
        place const first = a.at(batch, by_keys ? head * a.group() : head);
        range const own = intersect({0, by_keys ? first.keys : first.queries}, {tile * side, (tile + 1) * side});
        if (own.size() > 0) { gather(a, way, mem, part).rows_of(batch, head, own); }
    }

private:
    static auto place_in(arena& memory, problem const& x) {
        struct placed {
            detail::device_starts<A> starts;
            float* centres;
        };
        detail::device_starts<A> const starts(memory, x.q.extent(0));
        return placed{starts, memory.take<float>(x.q.extent(0) * x.q.extent(1) * x.q.extent(2))};
    }
    static void launch(arguments const& a, walk way, extent_t heads, extent_t seq, extent_t width, cuda<A> const& backend) {
        extent_t const items = heads * ((seq + side - 1) / side) * ((width + slice_width - 1) / slice_width);
        if (items == 0) { return; }
        arena count(nullptr);
        room{count};
        auto const kernel = detail::simt_gradient_kernel<simt_backward>;
        detail::check_cuda<A>(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(count.bytes())), "cudaFuncSetAttribute of cuda.simt.pairwise.backward");
        kernel<<<static_cast<unsigned>(items), tile_type::threads, count.bytes(), backend.stream>>>(a, way);
        detail::check_cuda<A>(cudaGetLastError(), "the launch of cuda.simt.pairwise.backward");
    }

    // One block's shared memory.
    struct room {
        float *rows, *cols, *p; // [64][pitch] each: 64 features of the block's rows, of the other side, and weights
        row_type* state;        // [64] of queries
        float *centre, *above, *below;
        HEED_HD explicit room(arena& a) {
            rows = a.take<float>(side * tile_type::pitch);
            cols = a.take<float>(side * tile_type::pitch);
            p = a.take<float>(side * tile_type::pitch);
            state = a.take<row_type>(side);
            centre = a.take<float>(side);
            above = a.take<float>(side);
            below = a.take<float>(side);
        }
    };

    struct gather {
        using block_of = float[tile_type::rows][tile_type::cols];
        arguments const& a;
        walk way;
        room const& mem;
        extent_t part;
        bool by_keys;
        block_of o[slices];

        HEED_DEVICE gather(arguments const& args, walk w, room const& memory, extent_t p) : a(args), way(w), mem(memory), part(p), by_keys(w == walk::of_k || w == walk::of_v) {}

        HEED_DEVICE void rows_of(extent_t batch, extent_t head, range own) {
#pragma unroll
            for (int u = 0; u < slices; ++u) { clear(o[u]); }
            extent_t const group = by_keys ? a.group() : 1;
            for (extent_t g = 0; g < group; ++g) {
                place const at = a.at(batch, by_keys ? head * group + g : head);
                if (!by_keys) { load_queries(at, own); }
                range const all = by_keys ? range{0, at.queries} : detail::hull_of(a.m.pattern, at, own);
                for (extent_t t = all.begin / side * side; t < all.end; t += 32 * side) {
                    auto const other = [&](extent_t begin) { return intersect(all, {begin, begin + side}); };
                    detail::verdicts const v = detail::verdicts::of(t, [&](extent_t begin) {
                        range const cut = other(begin);
                        return cut.size() == 0 ? tile::skip : by_keys ? a.m.pattern.classify(at, cut, own) : a.m.pattern.classify(at, own, cut);
                    });
                    for (unsigned left = v.some; left != 0; left &= left - 1) {
                        unsigned const n = static_cast<unsigned>(__ffs(static_cast<int>(left))) - 1;
                        extent_t const begin = t + extent_t(n) * side;
                        pairs(at, own, other(begin), begin, (v.partial >> n & 1u) != 0);
                    }
                }
            }
            finish(a.at(batch, by_keys ? head * group : head), own);
        }

    private:
        HEED_DEVICE static void clear(block_of& x) {
#pragma unroll
            for (int r = 0; r < tile_type::rows; ++r) {
#pragma unroll
                for (int c = 0; c < tile_type::cols; ++c) { x[r][c] = 0; }
            }
        }
        // The closed rows and the centres of the queries [rows.begin, rows.end).
        HEED_DEVICE void load_queries(place const& at, range rows) const {
            if (threadIdx.x < side) {
                extent_t const i = rows.begin + threadIdx.x;
                float saved[kept == 0 ? 1 : kept] = {};
                float middle = 0;
                if (i < rows.end) {
#pragma unroll
                    for (int c = 0; c < kept; ++c) { saved[c] = static_cast<float>(static_cast<double>(a.saved.row(at.batch, at.head, i)[c * a.saved.step.feature]) * a.saved_unit); }
                    if (way == walk::of_q || way == walk::of_k) { middle = a.centres_of(at.batch, at.head)[i]; }
                }
                if constexpr (kept == 2) {
                    new (mem.state + threadIdx.x) row_type(a.m.normalizer.template resume<float>(at, saved[0], saved[1]));
                } else {
                    new (mem.state + threadIdx.x) row_type(a.m.normalizer.template resume<float>(at, saved[0]));
                }
                mem.centre[threadIdx.x] = middle;
                if (!by_keys) { mem.above[threadIdx.x] = mem.below[threadIdx.x] = 0; }
            }
        }
        HEED_DEVICE static int chunk_of(extent_t width, extent_t c) { return static_cast<int>(width - c < tile_type::chunk ? width - c : tile_type::chunk); }
        // Features [c, c + 64) of a side's rows [begin, begin + count).
        template <class See>
        HEED_DEVICE static void stage(side_rows const& x, extent_t b, extent_t h, extent_t begin, extent_t count, extent_t c, float factor, float* to, See const& see) {
            tile_type::stage(x.rows.row(b, h, begin) + c * x.rows.step.feature, x.rows.step.seq, x.rows.step.feature, static_cast<int>(count), chunk_of(x.width, c), x.fours, factor, to,
                             tile_type::pitch, see);
        }
        // s = q . k, scaled; dp = dO . v where it is needed: one text, so that it is compiled once.
        HEED_DEVICE void products(place const& at, range rows, range cols, block_of& s, block_of& dp) const {
            float const lead = static_cast<float>(detail::leading_factor(a.m.score, at) * (linear ? normalizer_type::unit : 1.0));
            clear(dp);
#pragma unroll 1
            for (int n = 0; n < (way == walk::of_v ? 1 : 2); ++n) {
                side_rows const &x = n == 0 ? a.q : a.dout, &y = n == 0 ? a.k : a.v;
                if (n == 1) {
#pragma unroll
                    for (int r = 0; r < tile_type::rows; ++r) {
#pragma unroll
                        for (int c = 0; c < tile_type::cols; ++c) { s[r][c] = dp[r][c]; }
                    }
                    clear(dp);
                }
#pragma unroll 1
                for (extent_t c = 0; c < x.width; c += tile_type::chunk) {
                    auto const unseen = [](int, float) {};
                    __syncthreads();
                    stage(x, at.batch, at.head, rows.begin, rows.size(), c, n == 0 ? lead : 1.0f, by_keys ? mem.cols : mem.rows, unseen);
                    stage(y, at.batch, at.kv_head, cols.begin, cols.size(), c, 1.0f, by_keys ? mem.rows : mem.cols, unseen);
                    __syncthreads();
                    tile_type::contract<plus_times>(dp, mem.rows, tile_type::pitch, mem.cols, chunk_of(x.width, c), plus_times{}, nullptr);
                }
            }
            if (way == walk::of_v) {
#pragma unroll
                for (int r = 0; r < tile_type::rows; ++r) {
#pragma unroll
                    for (int c = 0; c < tile_type::cols; ++c) { s[r][c] = dp[r][c]; }
                }
            }
        }

        // One tile: own rows against `other`, which begins at or after `begin`, a multiple of 64.
        HEED_DEVICE void pairs(place const& at, range own, range other, extent_t begin, bool partial) {
            range const rows{by_keys ? begin : own.begin, by_keys ? other.end : own.end}, cols{by_keys ? own.begin : begin, by_keys ? own.end : other.end};
            detail::tile_place const where{rows.begin, cols.begin, by_keys};
            unsigned const some = detail::kept_pairs(a.m.pattern, at, rows, by_keys ? cols : other, where, partial);
            if (partial && __syncthreads_or(some != 0) == 0) { return; }
            if (by_keys) {
                __syncthreads(); // the states of the tile before have been read
                load_queries(at, rows);
            }
            block_of s, dp;
            products(at, rows, cols, s, dp);
            __syncthreads(); // states are there, even if no feature is
            unsigned attended = 0;
#pragma unroll
            for (int r = 0; r < tile_type::rows; ++r) {
                float above = 0, below = 0;
#pragma unroll
                for (int c = 0; c < tile_type::cols; ++c) {
                    float w = 0;
                    if ((some >> (tile_type::cols * r + c) & 1u) != 0) {
                        extent_t const i = where.i(r, c), j = where.j(r, c);
                        int const row = by_keys ? tile_type::col(c) : tile_type::row(r);
                        detail::pair_tables<score_type> const tables(a.m.score, at, i, j);
                        detail::device_pair<> const pair{at, i, j, tables.of};
                        float const score = linear ? s[r][c] : detail::after_leading(a.m.score, s[r][c], pair) * static_cast<float>(normalizer_type::unit);
                        if (score != -math::inf<float>() && !tables.masked()) {
                            attended |= 1u << (tile_type::cols * r + c);
                            row_type const state = mem.state[row];
                            float const p = a.m.normalizer.weight(state, score);
                            if (way == walk::of_v) {
                                w = p;
                            } else {
                                float const slope = a.m.normalizer.derivative(state, score, p);
                                if (way == walk::means) {
                                    above += slope == 0.0f ? 0.0f : slope * dp[r][c];
                                    below += slope;
                                } else {
                                    no_sink sink;
                                    w = detail::pull(a.m.score, s[r][c], pair, slope * (dp[r][c] - mem.centre[row]), sink);
                                }
                            }
                        }
                    }
                    mem.p[tile_type::row(r) * tile_type::pitch + tile_type::col(c)] = w;
                }
                if constexpr (centred == centre::mean) {
                    if (way == walk::means) {
                        auto const plus = [](float x, float y) { return x + y; };
                        above = tile_type::over_row(above, plus);
                        below = tile_type::over_row(below, plus);
                        if (tile_type::tx() == 0) {
                            mem.above[tile_type::row(r)] += above;
                            mem.below[tile_type::row(r)] += below;
                        }
                    }
                }
            }
            if (way != walk::means) { add(at, rows, cols, partial || may_mask || other.size() < side || own.size() < side, attended); }
        }
        struct no_sink {
            static constexpr bool wanted = false;
        };

        // o[row][e] += sum over the columns of p[row][column] value[column][e]
        HEED_DEVICE void add(place const& at, range rows, range cols, bool cut, unsigned attended) {
            side_rows const& x = way == walk::of_q ? a.k : way == walk::of_k ? a.q : a.dout;
            extent_t const count = by_keys ? rows.size() : cols.size();
#pragma unroll 1
            for (int u = 0; u < slices; ++u) {
                extent_t const e = part * slice_width + u * tile_type::chunk;
                if (e >= x.width) { break; }
                __syncthreads();
                bool odd = false;
                stage(x, at.batch, by_keys ? at.head : at.kv_head, by_keys ? rows.begin : cols.begin, count, e, 1.0f, mem.cols, [&](int, float y) { odd = odd || y - y != 0.0f; });
                bool const strange = __syncthreads_or(odd && cut) != 0;
                block_of acc;
                if (strange) [[unlikely]] {
                    tile_type::gather_kept<plus_times>(acc, mem.p, mem.cols, static_cast<int>(count), attended);
                } else {
                    tile_type::gather<plus_times>(acc, mem.p, mem.cols, static_cast<int>(count));
                }
#pragma unroll
                for (int w = 0; w < slices; ++w) { // registers have no index
                    if (w != u) { continue; }
#pragma unroll
                    for (int r = 0; r < tile_type::rows; ++r) {
#pragma unroll
                        for (int f = 0; f < tile_type::cols; ++f) { o[w][r][f] += acc[r][f]; }
                    }
                }
            }
        }

        HEED_DEVICE void finish(place const& at, range own) const {
            if (way == walk::means) {
                __syncthreads();
                if (threadIdx.x < own.size()) {
                    float const below = mem.below[threadIdx.x];
                    a.centres_of(at.batch, at.head)[own.begin + threadIdx.x] = below == 0.0f ? 0.0f : mem.above[threadIdx.x] / below;
                }
                return;
            }
            device_rows<E> const& to = way == walk::of_q ? a.dq : way == walk::of_k ? a.dk : a.dv;
            extent_t const width = way == walk::of_v ? a.v.width : a.q.width;
            float const factor = way == walk::of_v ? 1.0f : static_cast<float>(detail::leading_factor(a.m.score, at));
#pragma unroll
            for (int r = 0; r < tile_type::rows; ++r) {
                extent_t const i = own.begin + tile_type::row(r);
                if (i >= own.end) { continue; }
                E* const x = to.row(at.batch, by_keys ? at.kv_head : at.head, i);
#pragma unroll
                for (int u = 0; u < slices; ++u) {
#pragma unroll
                    for (int f = 0; f < tile_type::cols; ++f) {
                        extent_t const e = part * slice_width + u * tile_type::chunk + 4 * tile_type::tx() + f;
                        if (e < width) { x[e * to.step.feature] = static_cast<E>(o[u][r][f] * factor); }
                    }
                }
            }
        }
    };
};

} // namespace heed
