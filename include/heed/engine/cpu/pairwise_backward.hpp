// SPDX-License-Identifier: BSD-3-Clause
// Pairwise backward on the CPU: one pass of five products over the tiles that the pattern does not skip, everything recomputed from q, k, v and
// one number per row. For a tile of queries i and keys j, scores transposed as in forward:
//
//   contract  s[j][i] = k_j . q_i               contract  dp[j][i] = v_j . dO_i
//   bend      p = weight(s), ds = derivative (dp - centre_i), pulled back through the score chain
//   gather    dv_j += p[j][i] dO_i              gather    dk_j += ds[j][i] q_i
//   mix       dq[c][i] += k_j[c] ds[j][i]
//
// A walk owns a few key tiles of one key head: their dk and dv stay in its cache while all queries of the group pass by. Keys are cut into a
// number of splits that depends on M alone; dq is summed within a split in the order of the keys, then over the splits in their order, so its bits
// depend neither on threads nor on who else is in the batch. Memory: O((N + M)(d + dv)) a head, nothing of size N M.
#pragma once

#include <heed/engine/cpu/backward_products.hpp>
#include <heed/engine/cpu/parallel.hpp>

#include <string_view>

namespace heed {

template <class M, class E, class A>
struct pairwise_backward : private backward_products<M, E, A> {
    static constexpr std::string_view name = "cpu.pairwise.backward";

private:
    using parts = backward_products<M, E, A>;
    using layout = typename parts::layout;
    using T = typename layout::T;
    using V = typename layout::V;
    using I = typename layout::I;
    using score_type = typename layout::score_type;
    using normalizer_type = typename layout::normalizer_type;
    using row_type = typename layout::row_type;
    using cut = typename layout::cut;
    using gradients = typename layout::gradients;
    using problem = typename layout::problem;
    using division = typename layout::division;
    using query_tile = typename layout::query_tile;
    using slot = typename layout::slot;
    using shared = typename layout::shared;
    using context = typename parts::context;
    using key_rows = typename parts::key_rows;
    using layout::divide, layout::group_of, layout::lanes, layout::linear, layout::masks, layout::centred, layout::kept, layout::pack_padded, layout::padded, layout::sink_of, layout::slots_of, layout::tile_bytes,
        layout::tiles_of, layout::walk_keys, parts::may_mask, parts::products, parts::rows_finite;

public:
    using layout::C, layout::pitch, layout::workspace_bytes;

    static_assert(std::is_same_v<decltype(M::mix), plus_times>, "heed: backward is written for weighted sums of values, and for values gathered by a maximum or a minimum");

    template <class Executor>
    static void run(problem const& x, Executor& executor, int concurrency, std::byte* workspace) {
        division const by = divide(x, concurrency);
        arena memory(aligned(workspace));
        shared all(memory, x, by);
        gradients sink = sink_of(x, by);
        if constexpr (gradients::any) {
            sink.place_partials(memory);
            sink.clear();
        }
        std::size_t const used = memory.bytes();
        arena count(nullptr);
        slot(count, x, by);
        std::byte* const base = aligned(workspace) + used;
        context const c{x, by, all, sink};
        auto const for_all = [&](extent_t items, auto const& body) {
            detail::for_each_item<A>(executor, slots_of(by, x, concurrency), items, [&](extent_t item, int s) noexcept {
                arena own(base + static_cast<std::size_t>(s) * count.bytes());
                slot mine(own, x, by);
                for (extent_t i = 0; i < pitch; ++i) { mine.ones[i] = T(1); }
                body(item, mine);
            });
        };
        if (by.wide) {
            extent_t const tiles = tiles_of(x, by);
            for_all(tiles, [&](extent_t t, slot& mine) { prepare(c, head_of(c, t / by.query_tiles), t % by.query_tiles, mine); });
            for_all(by.items, [&](extent_t item, slot& mine) { wide_item(c, item, mine); });
            for_all(tiles, [&](extent_t t, slot& mine) {
                head const h = head_of(c, t / by.query_tiles);
                extent_t const step = tiles * x.q.extent(3) * pitch;
                T* const dq = dq_of(c, h, t % by.query_tiles, all.dq);
                for (extent_t s = 1; s < by.splits; ++s) { add(dq + s * step, dq, x.q.extent(3) * pitch); }
                finish(c, h, t % by.query_tiles, dq, mine);
            });
        } else {
            for_all(by.items, [&](extent_t item, slot& mine) { narrow_item(c, item, mine); });
        }
        if constexpr (gradients::any) { sink.reduce(); }
        reduce_rows(c);
    }

private:
    struct head {
        place at;
        std::byte* tiles; // of this head
        extent_t number;  // b H + h
    };
    static query_tile tile_at(context const& c, head const& h, extent_t t) {
        arena a(h.tiles + static_cast<std::size_t>(t) * tile_bytes(c.x));
        return {a, c.x};
    }
    static head head_of(context const& c, extent_t number) {
        extent_t const heads = c.x.q.extent(1);
        return {c.x.at(number / heads, number % heads), c.all.tiles + static_cast<std::size_t>(number * c.by.query_tiles) * tile_bytes(c.x), number};
    }
    static T* dq_of(context const& c, head const& h, extent_t t, T* base) { return base + (h.number * c.by.query_tiles + t) * c.width() * pitch; }
    static void add(T const* from, T* to, extent_t n) {
        for (extent_t i = 0; i < n; i += lanes) { (V::load(to + i) + V::load(from + i)).store(to + i); }
    }
    static range rows_of(head const& h, extent_t t) { return intersect({0, h.at.queries}, {t * pitch, (t + 1) * pitch}); }
    static int vecs_of(range rows) { return static_cast<int>((rows.size() + lanes - 1) / lanes); }

    static void wide_item(context const& c, extent_t item, slot& mine) {
        extent_t const heads = c.x.k.extent(1), group = group_of(c.x);
        extent_t const first = c.by.joint ? 0 : item / c.by.splits, last = c.by.joint ? c.x.k.extent(0) * heads : first + 1, split = c.by.joint ? item : item % c.by.splits;
        T* const dq = c.all.dq + split * tiles_of(c.x, c.by) * c.width() * pitch;
        for (extent_t kv = first; kv < last; ++kv) {
            extent_t const number = kv / heads * c.x.q.extent(1) + kv % heads * group;
            std::memset(dq + number * c.by.query_tiles * c.width() * pitch, 0, static_cast<std::size_t>(group * c.by.query_tiles * c.width() * pitch) * sizeof(T));
            walk_split(c, kv / heads, kv % heads, split, mine, [&](extent_t g) { return head_of(c, number + g); }, [&](head const& h, extent_t t) { return dq_of(c, h, t, dq); });
        }
    }
    static void narrow_item(context const& c, extent_t item, slot& mine) {
        extent_t const heads = c.x.k.extent(1), group = group_of(c.x), b = item / heads, kv = item % heads;
        auto const head_at = [&](extent_t g) {
            extent_t const h = kv * group + g;
            return head{c.x.at(b, h), mine.tiles + static_cast<std::size_t>(g * c.by.query_tiles) * tile_bytes(c.x), b * c.x.q.extent(1) + h};
        };
        auto const dq_at = [&](T* base) { return [&, base](head const& h, extent_t t) { return base + ((h.at.head - kv * group) * c.by.query_tiles + t) * c.width() * pitch; }; };
        extent_t const all = group * c.by.query_tiles * c.width() * pitch;
        for (extent_t g = 0; g < group; ++g) {
            for (extent_t t = 0; t < c.by.query_tiles; ++t) { prepare(c, head_at(g), t, mine); }
        }
        for (extent_t split = 0; split < c.by.splits; ++split) {
            T* const to = split == 0 ? mine.dq : mine.part;
            std::memset(to, 0, static_cast<std::size_t>(all) * sizeof(T));
            walk_split(c, b, kv, split, mine, head_at, dq_at(to));
            if (split > 0) { add(mine.part, mine.dq, all); }
        }
        for (extent_t g = 0; g < group; ++g) {
            head const h = head_at(g);
            for (extent_t t = 0; t < c.by.query_tiles; ++t) { finish(c, h, t, dq_at(mine.dq)(h, t), mine); }
        }
    }

    // Packs a query tile, and what its rows bring along.
    static void prepare(context const& c, head const& h, extent_t t, slot& mine) {
        problem const& x = c.x;
        range const rows = rows_of(h, t);
        if (rows.size() == 0) { return; }
        query_tile const tile = tile_at(c, h, t);
        extent_t const d = c.width(), dv = c.out_width(), n = rows.size(), filled = extent_t(C.vecs) * lanes;
        operand const of = operand::of_query(h.at);
        tile_rows<T> const q = load_rows<A>(x.m.load.q, of, rows, x.q, mine.k), dout = load_rows<A>(plain{}, of, rows, x.dout, mine.v);
        pack_transposed<A>(q.data, q.stride, extent_t(1), n, d, tile.q, pitch, filled);
        double const lead = detail::leading_factor(x.m.score, h.at) * (linear ? normalizer_type::unit : 1.0);
        if (lead != 1.0) { scale_in_place<A>(tile.q, d * pitch, static_cast<T>(lead)); }
        pack_transposed<A>(dout.data, dout.stride, extent_t(1), n, dv, tile.dout, pitch, filled);
        if (tile.q_rows != nullptr) { pack_padded(q, n, d, tile.q_rows); }
        if (tile.dout_rows != nullptr) { pack_padded(dout, n, dv, tile.dout_rows); }
        *tile.finite = rows_finite(q, n, d) && rows_finite(dout, n, dv);
        for (int s = 0; s < (kept == 0 ? 1 : kept); ++s) {
            for (extent_t i = 0; i < filled; ++i) {
                tile.base[s * pitch + i] = kept > 0 && i < n ? static_cast<T>(static_cast<double>(x.saved(h.at.batch, h.at.head, rows.begin + i, s)) * x.saved_unit) : T(0);
            }
        }
        if constexpr (centred == centre::output) {
            tile_rows<T> const out = load_rows<A>(plain{}, of, rows, x.out, mine.k);
            centre_of_output(out, n, dv, tile, mine);
        } else {
            for (extent_t i = 0; i < n; ++i) { tile.centre[i] = T(0); }
            if constexpr (centred == centre::mean) { mean_of_derivatives(c, h, rows, tile, mine); }
        }
        if (x.dsaved.data_handle() != nullptr) { // the log-sum-exp itself has a gradient
            for (extent_t i = 0; i < n; ++i) { tile.centre[i] -= static_cast<T>(static_cast<double>(x.dsaved(h.at.batch, h.at.head, rows.begin + i, 0)) * x.dsaved_unit); }
        }
        for (extent_t i = n; i < filled; ++i) { tile.centre[i] = T(0); }
        if constexpr (requires(normalizer_type const m, row_type const r, V v) { m.row_parameter(h.at, r, v); }) {
            T sum(0);
            for (int w = 0; w < vecs_of(rows); ++w) {
                T lane[lanes];
                x.m.normalizer.row_parameter(h.at, resume(x.m.normalizer, h.at, tile, w), V::load(tile.centre + w * lanes)).store(lane);
                for (extent_t i = w * lanes; i < n && i < (w + 1) * lanes; ++i) { sum += tile.base[i] == -math::inf<T>() ? T(0) : lane[i - w * lanes]; }
            }
            c.all.rows[tiles_of(x, c.by) + h.number * c.by.query_tiles + t] = sum;
        }
    }
    // All walks of one split: walk w belongs to split w mod splits, so that the heavy keys of a triangle are spread.
    template <class HeadAt, class DqAt>
    static void walk_split(context const& c, extent_t b, extent_t kv, extent_t split, slot& mine, HeadAt const& head_at, DqAt const& dq_at) {
        problem const& x = c.x;
        extent_t const keys = x.k.length(b), group = group_of(x);
        place const at = x.at(b, kv * group);
        for (extent_t w = split; w * walk_keys < keys; w += c.by.splits) {
            key_rows const all = load_keys(c, at, intersect({0, keys}, {w * walk_keys, (w + 1) * walk_keys}), mine);
            std::memset(mine.dk, 0, static_cast<std::size_t>(walk_keys * padded(c.width())) * sizeof(T));
            std::memset(mine.dv, 0, static_cast<std::size_t>(walk_keys * padded(c.out_width())) * sizeof(T));
            for (extent_t g = 0; g < group; ++g) {
                head const h = head_at(g);
                for (extent_t t = 0; t * pitch < h.at.queries; ++t) {
                    for (extent_t j = 0; j < all.cols.size(); j += C.keys) { tile_of_pairs(c, h, t, part_of(all, j), j, split, mine, dq_at(h, t)); }
                }
            }
            operand const of = operand::of_key(at);
            write_rows(mine.dk, padded(c.width()), static_cast<T>(detail::leading_factor(x.m.score, at)), x.m.load.k, of, all.cols, x.dk);
            write_rows(mine.dv, padded(c.out_width()), T(1), x.m.load.v, of, all.cols, x.dv);
        }
    }
    static key_rows load_keys(context const& c, place const& at, range cols, slot& mine) {
        operand const of = operand::of_key(at);
        return {cols, load_rows<A>(c.x.m.load.k, of, cols, c.x.k, mine.k), load_rows<A>(c.x.m.load.v, of, cols, c.x.v, mine.v)};
    }
    static key_rows part_of(key_rows const& all, extent_t at) {
        return {intersect(all.cols, {all.cols.begin + at, all.cols.begin + at + C.keys}), {all.k.at(at), all.k.stride}, {all.v.at(at), all.v.stride}};
    }
    // Rows of gradients times a factor, through the adjoint of their loader, rounded once.
    template <class L>
    static void write_rows(T* from, extent_t stride, T factor, L const& loader, operand const& of, range rows, tensor_view<E> const& to) {
        if (to.data_handle() == nullptr || rows.size() == 0) { return; }
        if (factor != T(1)) { scale_in_place<A>(from, rows.size() * stride, factor); }
        if constexpr (!is_plain<L>) {
            static_assert(requires { loader.template pull_back<A>(of, rows, stride, from, stride); }, "heed: backward needs pull_back<A>(operand, rows, width, dst, stride) of this loader");
            loader.template pull_back<A>(of, rows, to.extent(3), from, stride);
        }
        unpack_rows<A>(from, stride, rows.size(), to.extent(3), to.row(of.at.batch, of.head, rows.begin), to.stride(2), to.stride(3));
    }

    // dO_i . out_i, summed over features in the order in which dp = dO_i . v_j will be: a row with a single key has out = v, and ds is exactly 0.
    static void centre_of_output(tile_rows<T> const& out, extent_t n, extent_t dv, query_tile const& tile, slot& mine) {
        V sum[C.vecs];
        for (V& x : sum) { x = V(0); }
        for (extent_t e0 = 0; e0 < dv; e0 += C.keys) {
            extent_t const count = dv - e0 < C.keys ? dv - e0 : extent_t(C.keys);
            pack_transposed<A>(out.data + e0, out.stride, extent_t(1), n, count, mine.dp, pitch, pitch);
            for (extent_t e = 0; e < count; ++e) {
                static_for<C.vecs>([&](auto w) HEED_INLINE_LAMBDA { sum[w] = fma(V::load(mine.dp + e * pitch + w * lanes), V::load(tile.dout + (e0 + e) * pitch + w * lanes), sum[w]); });
            }
        }
        for (int w = 0; w < C.vecs; ++w) { sum[w].store(tile.centre + w * lanes); }
    }
    static void tile_of_pairs(context const& c, head const& h, extent_t t, key_rows const& keys, extent_t at, extent_t split, slot& mine, T* dq) {
        problem const& x = c.x;
        range const rows = rows_of(h, t);
        int const vecs = vecs_of(rows), count = cut{x.m.pattern, h.at, rows, vecs, mine.words}(keys.cols, mine.segments);
        if (count == 0) { return; }
        query_tile const tile = tile_at(c, h, t);
        bool const wanted = gradients::any && c.sink.wants_any();
        if constexpr (gradients::tables > 0) { score_tables<T, A, C>{h.at, rows, keys.cols, vecs}.stage(x.m.score, mine.table); }
        parts::load_operand(c, h.at, mine);
        products(c, tile, keys, count, mine);
        bool const strange = may_mask(count, mine) && !(*tile.finite && rows_finite(keys.k, keys.cols.size(), c.width()) && rows_finite(keys.v, keys.cols.size(), c.out_width()));
        if (strange) {
            for (int j = 0; j < C.keys; ++j) { mine.kept[j] = 0; }
        }
        if (wanted) { begin_gradients(keys.cols, vecs, count, mine); }
        for (int g = 0; g < count; ++g) { bend(c, h, rows, tile, keys.cols, mine.segments[g], wanted, strange, mine); }
        if (wanted) { c.sink.add_tile(h.at, rows, keys.cols, vecs, split, mine.table, mine.sums); }

        extent_t const d = c.width(), dv = c.out_width();
        T* const dk = mine.dk + at * padded(d);
        T* const dvs = mine.dv + at * padded(dv);
        tile_rows<T> const q = rows_of_tile(x.m.load.q, tile.q_rows, x.q, h, rows), dout = rows_of_tile(plain{}, tile.dout_rows, x.dout, h, rows);
        bool const weights_wanted = parts::weighs_features && c.sink.wants_features();
        if (strange) [[unlikely]] {
            parts::strange_products(c, rows, q, dout, keys, count, {dq, dk, dvs}, mine);
        } else {
            parts::send_back(c, rows, tile, q, dout, keys, vecs, count, {dq, dk, dvs}, weights_wanted, mine);
        }
        if (weights_wanted) { c.sink.add_features(h.at, split, mine.dw); }
    }
    // The rows of a query tile: its own, or the caller's.
    template <class L>
    static tile_rows<T> rows_of_tile(L const& loader, T* own, tensor_view<E const> const& x, head const& h, range rows) {
        if (own != nullptr) { return {own, padded(x.extent(3))}; }
        return load_rows<A>(loader, operand::of_query(h.at), rows, x, own);
    }
    // Pairs that no segment covers send nothing to tables and parameters.
    static void begin_gradients(range cols, int vecs, int count, slot& mine) {
        for (extent_t i = 0; i < gradients::parameters * pitch; ++i) { mine.sums[i] = T(0); }
        segment const& first = mine.segments[0];
        if (count == 1 && first.begin == 0 && first.end == cols.size() && first.first == 0 && first.last == vecs) { return; }
        for (int table = 0; table < gradients::tables; ++table) {
            for (int g = 0, j = 0; g <= count; ++g) { // between the segments, then beside each
                int const until = g < count ? mine.segments[g].begin : static_cast<int>(cols.size());
                std::memset(mine.table[table] + j * pitch, 0, static_cast<std::size_t>((until - j) * pitch) * sizeof(T));
                if (g == count) { break; }
                segment const& part = mine.segments[g];
                for (j = part.begin; j < part.end; ++j) {
                    for (int w = 0; w < vecs; ++w) {
                        if (w < part.first || w >= part.last) { V(0).store(mine.table[table] + j * pitch + w * lanes); }
                    }
                }
            }
        }
    }

    // The closed row, from what was saved of it.
    HEED_INLINE static row_type resume(normalizer_type const& normalizer, place const& at, query_tile const& tile, int w) {
        if constexpr (kept == 2) {
            return normalizer.template resume<V>(at, V::load(tile.base + w * lanes), V::load(tile.base + pitch + w * lanes));
        } else {
            return normalizer.template resume<V>(at, V::load(tile.base + w * lanes));
        }
    }
    // The score in the normalizer's unit, -inf where a table masks the pair.
    HEED_INLINE static V final_score(score_type const& score, V x, detail::lane_pair<V> const& pair) {
        if constexpr (linear) {
            return x;
        } else {
            V s = detail::after_leading(score, x, pair) * V(normalizer_type::unit), none = -math::inf<V>();
            static_for<gradients::tables>([&](auto table) HEED_INLINE_LAMBDA { s = select(V::load(pair.tables[table] + pair.offset) == none, none, s); });
            return s;
        }
    }

    // p and ds of one segment, in place of s and dp.
    static void bend(context const& c, head const& h, range rows, query_tile const& tile, range cols, segment const& part, bool wanted, bool strange, slot& mine) {
        if constexpr (gradients::any) {
            if (wanted) {
                part.masked ? bend_as<true, true>(c, h, rows, tile, cols, part, strange, mine) : bend_as<false, true>(c, h, rows, tile, cols, part, strange, mine);
                return;
            }
        }
        part.masked ? bend_as<true, false>(c, h, rows, tile, cols, part, strange, mine) : bend_as<false, false>(c, h, rows, tile, cols, part, strange, mine);
    }
    template <bool Masked, bool Wanted>
    static void bend_as(context const& c, head const& h, range rows, query_tile const& tile, range cols, segment const& part, bool strange, slot& mine) {
        // Copies: the compiler must see that storing changes no parameter.
        auto const score = c.x.m.score;
        auto const pattern = c.x.m.pattern;
        auto const normalizer = c.x.m.normalizer;
        place const at = h.at;
        V const none = -math::inf<V>();
        for (int w = part.first; w < part.last; ++w) {
            I const i = iota(rows.begin + w * lanes, std::type_identity<I>{});
            row_type const row = resume(normalizer, at, tile, w);
            V const middle = V::load(tile.centre + w * lanes);
            V sums[gradients::parameters == 0 ? 1 : gradients::parameters];
            for (int n = 0; n < gradients::parameters; ++n) { sums[n] = V::load(mine.sums + n * pitch + w * lanes); }
            for (int j = part.begin; j < part.end; ++j) {
                extent_t const offset = j * pitch + w * lanes;
                V const x = V::load(mine.s + offset);
                I const col(cols.begin + j);
                detail::lane_pair<V> const pair{at, i, col, mine.table, offset};
                V s = final_score(score, x, pair);
                if constexpr (Masked) { s = select(cut::kept(pattern, at, mine.words, j, w, i, col), s, none); }
                V p = normalizer.weight(row, s);
                V ds = normalizer.derivative(row, s, p) * (V::load(mine.dp + offset) - middle);
                if constexpr (Masked || masks) {
                    p = select(s == none, V(0), p); // a row that is NaN elsewhere
                    ds = select(s == none, V(0), ds);
                    if (strange) [[unlikely]] { mine.kept[j] |= bits_of(s != none) << (w * lanes); }
                }
                if constexpr (!linear) {
                    typename gradients::template sink<Wanted> sink{mine.table, offset, sums};
                    ds = detail::pull(score, x, pair, ds, sink);
                    if constexpr (Masked || masks) { ds = select(s == none, V(0), ds); }
                }
                p.store(mine.s + offset);
                ds.store(mine.dp + offset);
            }
            if constexpr (Wanted) {
                for (int n = 0; n < gradients::parameters; ++n) { sums[n].store(mine.sums + n * pitch + w * lanes); }
            }
        }
    }

    // centre_i = sum of derivative dp over sum of derivative, for normalizers whose weights have no other centre.
    static void mean_of_derivatives(context const& c, head const& h, range rows, query_tile const& tile, slot& mine) {
        problem const& x = c.x;
        auto const normalizer = x.m.normalizer;
        int const vecs = vecs_of(rows);
        V above[C.vecs], below[C.vecs];
        for (int w = 0; w < C.vecs; ++w) { above[w] = below[w] = V(0); }
        range const hull = detail::hull_of(x.m.pattern, h.at, rows);
        for (extent_t t = hull.begin / C.keys * C.keys; t < hull.end; t += C.keys) {
            range const cols = intersect(hull, {t, t + C.keys});
            int const count = cut{x.m.pattern, h.at, rows, vecs, mine.words}(cols, mine.segments);
            if (count == 0) { continue; }
            key_rows const keys = load_keys(c, h.at, cols, mine);
            score_tables<T, A, C>{h.at, rows, cols, vecs}.stage(x.m.score, mine.table);
            parts::load_operand(c, h.at, mine);
            products(c, tile, keys, count, mine);
            for (int g = 0; g < count; ++g) {
                segment const& part = mine.segments[g];
                for (int w = part.first; w < part.last; ++w) {
                    I const i = iota(rows.begin + w * lanes, std::type_identity<I>{});
                    row_type const row = resume(normalizer, h.at, tile, w);
                    for (int j = part.begin; j < part.end; ++j) {
                        extent_t const offset = j * pitch + w * lanes;
                        I const col(cols.begin + j);
                        V const none = -math::inf<V>();
                        V s = final_score(x.m.score, V::load(mine.s + offset), detail::lane_pair<V>{h.at, i, col, mine.table, offset});
                        if (part.masked) { s = select(cut::kept(x.m.pattern, h.at, mine.words, j, w, i, col), s, none); }
                        V const slope = select(s == none, V(0), normalizer.derivative(row, s, normalizer.weight(row, s)));
                        above[w] = above[w] + select(slope == V(0), V(0), slope * V::load(mine.dp + offset));
                        below[w] = below[w] + slope;
                    }
                }
            }
        }
        for (int w = 0; w < vecs; ++w) { select(below[w] == V(0), V(0), above[w] / below[w]).store(tile.centre + w * lanes); }
    }

    // dq of a query tile to its rows. A leading scale's gradient is sum of q . dq before the scale.
    static void finish(context const& c, head const& h, extent_t t, T* dq, slot& mine) {
        range const rows = rows_of(h, t);
        if (rows.size() == 0) { return; }
        problem const& x = c.x;
        extent_t const d = c.width();
        operand const of = operand::of_query(h.at);
        unpack_transposed<A>(dq, pitch, rows.size(), d, mine.dk, d, extent_t(1));
        if (x.wants_leading_factor) {
            tile_rows<T> const q = load_rows<A>(x.m.load.q, of, rows, x.q, mine.k);
            T sum(0);
            for (extent_t i = 0; i < rows.size(); ++i) { sum += row_dot<A>(mine.dk + i * d, extent_t(1), q.at(i), extent_t(1), d); }
            c.all.rows[h.number * c.by.query_tiles + t] = sum;
        }
        write_rows(mine.dk, d, static_cast<T>(detail::leading_factor(x.m.score, h.at)), x.m.load.q, of, rows, x.dq);
    }
    // What rows contributed, in their order.
    static void reduce_rows(context const& c) {
        problem const& x = c.x;
        extent_t const heads = x.q.extent(1), tiles = tiles_of(x, c.by);
        if (x.wants_leading_factor) {
            T sum(0);
            for (extent_t n = 0; n < x.q.extent(0) * heads; ++n) {
                for (extent_t t = 0; t * pitch < x.q.length(n / heads); ++t) { sum += c.all.rows[n * c.by.query_tiles + t]; }
            }
            detail::for_each_gradient(x.m.score, x.score_gradients, [&](auto, auto, bool leading, auto const& stage, auto const& d) {
                if constexpr (Factor<std::remove_cvref_t<decltype(stage)>>) {
                    if (leading && d.data_handle() != nullptr) { d(0, 0, 0, 0) = sum * static_cast<T>(detail::leading_factor_without(x.m.score, x.at(0, 0), &stage)); }
                }
            });
        }
        if constexpr (requires { typename normalizer_type::gradient; }) {
            auto const& d = x.normalizer_gradient.own.d;
            if (d.data_handle() == nullptr) { return; }
            for (extent_t h = 0; h < d.extent(1); ++h) { d(0, h, 0, 0) = T(0); }
            for (extent_t n = 0; n < x.q.extent(0) * heads; ++n) {
                for (extent_t t = 0; t * pitch < x.q.length(n / heads); ++t) { d(0, d.extent(1) == 1 ? 0 : n % heads, 0, 0) += c.all.rows[tiles + n * c.by.query_tiles + t]; }
            }
        }
    }
};

} // namespace heed
