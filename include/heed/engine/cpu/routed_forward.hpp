// SPDX-License-Identifier: BSD-3-Clause
// Forward where every query chose its own blocks of keys (RoutedPattern). A tile of neighbouring queries would see the blocks that any of them chose; so
// queries are gathered instead. One item is a run of queries of one head, their sums and row states in the slot; for each block of keys, in order:
//
//   list      the queries of the item that chose the block
//   gather    tiles of them: q, sums, states, transposed
//   attend    the key tiles of the block, as the pairwise engine does, with the rest of the pattern
//   scatter   sums and states back to their rows
//
// A query's numbers depend on its own blocks only, not on who is gathered beside it. Cost of gathering: about d + 2 dv moves for each pair of query and block.
// Memory of a slot: that of the pairwise engine and (dv + a state) for each query of an item.
#pragma once

#include <heed/engine/cpu/pairwise_forward.hpp>
#include <heed/policy/pattern/routed.hpp>

namespace heed {

namespace detail {

// Rows as they lie, one at a time: bf16 queries are then computed in float.
struct single_rows {
    template <class A, class E, class T>
    void rows(operand const& of, range r, tensor_view<E const> const& x, T* dst, extent_t stride) const {
        pack_rows<A>(x.row(of.at.batch, of.head, r.begin), x.stride(2), x.stride(3), r.size(), x.extent(3), dst, stride);
    }
};
template <class L>
struct gathered_load {
    using type = L;
};
template <class K, class V>
struct gathered_load<load<plain, K, V>> {
    using type = load<single_rows, K, V>;
};
// The mechanism inside a block.
template <class M>
using inside_block = attention<decltype(M::score), std::remove_cvref_t<decltype(std::declval<M const&>().pattern.rest())>, decltype(M::normalizer), decltype(M::mix), typename gathered_load<decltype(M::load)>::type>;

// Queries can be gathered: the score asks for no table, the rest of the pattern is no data, rows need not be seen whole.
template <class M, class V>
inline constexpr bool gathers_queries = false;
template <Pairwise M, class V>
    requires RoutedPattern<decltype(M::pattern)>
inline constexpr bool gathers_queries<M, V> = tables_of<decltype(M::score)> == 0 && !has_operand<typename decltype(M::score)::contraction> && !RowWiseNormalizer<decltype(M::normalizer), V> &&
                                             requires(decltype(std::declval<M const&>().pattern.rest()) const p, place const at, index_of<V> i) { p.keep(at, i, i); };

} // namespace detail

template <class M, class E, class A>
struct routed_forward : private pairwise_forward<detail::inside_block<M>, E, A> {
private:
    using inner = detail::inside_block<M>;
    using base = pairwise_forward<inner, E, A>;
    using typename base::T;
    using typename base::V;
    using typename base::I;
    using typename base::cursor;
    using typename base::context;
    using typename base::key_tile;
    using typename base::row_type;
    using typename base::normalizer_type;
    using base::lanes;
    using number = typename I::value_type;
    using lane_row = typename normalizer_type::template row<T>;
    static constexpr int members = static_cast<int>(sizeof(lane_row) / sizeof(T));
    static constexpr extent_t most_rows = 1024; // of an item

public:
    static constexpr std::string_view name = "cpu.routed.forward";
    using base::C, base::pitch;

    struct division {
        extent_t runs, rows, items; // runs of queries of a head, queries of a run
        int group;
    };
    static division divide(M const&, shape q, int concurrency) {
        extent_t rows = most_rows;
        auto const items = [&] { return (q.seq + rows - 1) / rows * q.batch * q.head; };
        while (rows > 4 * pitch && items() < 3 * extent_t(concurrency) && concurrency > 1) { rows /= 2; }
        return {(q.seq + rows - 1) / rows, rows, items(), C.tiles};
    }
    static std::size_t slot_bytes(M const&, shape q, shape v, division const& by) {
        arena count(nullptr);
        slot(count, q.feature, v.feature, by);
        return count.bytes();
    }

    template <class Executor>
    static void run(M const& m, pairwise_problem<E> const& x, Executor& executor, division const& by, int slots, std::byte* workspace) {
        shape const q = x.q.shape();
        std::size_t const bytes = slot_bytes(m, q, x.v.shape(), by);
        std::byte* const start = aligned(workspace);
        inner in{m.score, m.pattern.rest(), m.normalizer, m.mix, {}};
        in.load.k = m.load.k, in.load.v = m.load.v;
        if constexpr (std::is_same_v<decltype(in.load), decltype(m.load)>) { in.load = m.load; }
        detail::for_each_item<A>(executor, slots, by.items, [&](extent_t item, int s) noexcept {
            arena memory(start + static_cast<std::size_t>(s) * bytes);
            slot mine(memory, q.feature, x.v.extent(3), by);
            extent_t const r = by.runs - 1 - item % by.runs;
            place const at = x.at(item / by.runs / q.head, item / by.runs % q.head);
            range const rows = intersect({0, at.queries}, {r * by.rows, (r + 1) * by.rows});
            if (rows.size() > 0) { run_of_queries({in, x, at, mine.tiles}, m.pattern.routes(), rows, mine); }
        });
    }

private:
    struct slot {
        typename base::slot tiles;
        T *o, *state, *q_rows, *o_rows; // [rows][dv], [rows][members]; of a tile: [pitch][d], [pitch][dv]
        number *chosen, *list;          // of a block: queries, with room to fill the last vectors; of the tiles that share a walk
        slot(arena& a, extent_t d, extent_t dv, division const& by)
            : tiles(a, d, dv, extent_t(C.keys), by.group), o(a.template take<T>(by.rows * dv)), state(a.template take<T>(by.rows * members)), q_rows(a.template take<T>(pitch * d)),
              o_rows(a.template take<T>(pitch * dv)), chosen(a.template take<number>(by.rows + 1)), list(a.template take<number>(C.tiles * pitch)) {}
    };

    static void run_of_queries(context const& c, block_map const& blocks, range rows, slot& mem) {
        extent_t const dv = c.out_width();
        lane_row const first = c.m.normalizer.template start<T>(c.at);
        for (extent_t i = 0; i < rows.size(); ++i) { std::memcpy(mem.state + i * members, &first, sizeof first); }
        T const none = decltype(inner::mix)::template zero<T>();
        for (extent_t i = 0; i < rows.size() * dv; ++i) { mem.o[i] = none; }
        range const hull = detail::hull_of(c.m.pattern, c.at, rows);
        for (extent_t b = hull.begin / blocks.keys; b * blocks.keys < hull.end && hull.size() > 0; ++b) {
            extent_t const count = choosers(c.at, blocks, rows, b, mem.chosen);
            for (extent_t i = 0; i < count; i += C.tiles * pitch) {
                extent_t const end = i + C.tiles * pitch < count ? i + C.tiles * pitch : count;
                attend(c, intersect(hull, {b * blocks.keys, (b + 1) * blocks.keys}), rows.begin, mem.chosen + i, end - i, mem);
            }
        }
        cursor h{c, {}, 0, c.mem.tile[0].q, c.mem.tile[0].o, c.mem.tile[0].state};
        for (extent_t i = 0; i < rows.size(); i += pitch) {
            h.rows = {rows.begin + i, i + pitch < rows.size() ? rows.begin + i + pitch : rows.end};
            h.vecs = static_cast<int>((h.rows.size() + lanes - 1) / lanes);
            pack_transposed<A>(mem.o + i * dv, dv, extent_t(1), h.rows.size(), dv, h.o, pitch, extent_t(h.vecs) * lanes);
            take_states(h, mem.state + i * members, h.rows.size(), [](extent_t n) { return n; });
            base::finish(h);
        }
    }
    // Queries of the item that chose block b, rising.
    static extent_t choosers(place const& at, block_map const& blocks, range rows, extent_t b, number* to) {
        extent_t const word = (b >> 6) * blocks.bits.stride(3), row_step = blocks.bits.stride(2);
        extent_t count = 0;
        std::uint64_t const* const first = blocks.words(at, rows.begin / blocks.rows) + word;
        if (blocks.rows == 1) {
            for (extent_t i = 0; i < rows.size(); ++i) {
                to[count] = static_cast<number>(rows.begin + i);
                count += static_cast<extent_t>((first[i * row_step] >> (b & 63)) & 1);
            }
        } else {
            for (extent_t i = rows.begin; i < rows.end; ++i) {
                to[count] = static_cast<number>(i);
                count += static_cast<extent_t>((blocks.words(at, i / blocks.rows)[word] >> (b & 63)) & 1);
            }
        }
        return count;
    }
    static void attend(context const& c, range keys, extent_t first, number const* chosen, extent_t count, slot& mem) {
        cursor tiles[C.tiles] = {{c, {}, 0, nullptr, nullptr, nullptr}, {c, {}, 0, nullptr, nullptr, nullptr}, {c, {}, 0, nullptr, nullptr, nullptr}, {c, {}, 0, nullptr, nullptr, nullptr}};
        int const used = static_cast<int>((count + pitch - 1) / pitch);
        for (int g = 0; g < used; ++g) {
            extent_t const n = count - g * pitch < pitch ? count - g * pitch : pitch;
            number* const list = mem.list + g * pitch;
            for (extent_t i = 0; i < pitch; ++i) { list[i] = chosen[g * pitch + (i < n ? i : n - 1)]; }
            cursor& h = tiles[g];
            h.rows = {list[0], list[n - 1] + 1};
            h.vecs = static_cast<int>((n + lanes - 1) / lanes);
            h.q = c.mem.tile[g].q, h.o = c.mem.tile[g].o, h.state = c.mem.tile[g].state, h.list = list;
            gather(h, n, first, mem);
        }
        for (extent_t t = keys.begin / C.keys * C.keys; t < keys.end; t += C.keys) {
            key_tile tile{intersect(keys, {t, t + C.keys}), {}, {}, {}, false, false};
            bool fresh = true;
            for (int g = 0; g < used; ++g) {
                cursor const& h = tiles[g];
                int const segments = typename base::cut{c.m.pattern, c.at, h.rows, h.vecs, c.mem.words, h.list}(tile.cols, c.mem.cut);
                if (segments == 0) { continue; }
                if (fresh) { base::load_keys(c, tile); }
                base::tile_of_pairs(h, tile, segments, fresh);
                fresh = false;
            }
        }
        for (int g = 0; g < used; ++g) { scatter(tiles[g], count - g * pitch < pitch ? count - g * pitch : pitch, first, mem); }
    }
    static void gather(cursor& h, extent_t n, extent_t first, slot& mem) {
        extent_t const d = h.width(), dv = h.out_width(), filled = extent_t(h.vecs) * lanes;
        for (extent_t i = 0; i < n; ++i) {
            h.m.load.q.template rows<A>(operand::of_query(h.at), range{h.list[i], h.list[i] + 1}, h.x.q, mem.q_rows + i * d, d);
            std::memcpy(mem.o_rows + i * dv, mem.o + (h.list[i] - first) * dv, static_cast<std::size_t>(dv) * sizeof(T));
        }
        pack_transposed<A>(mem.q_rows, d, extent_t(1), n, d, h.q, pitch, filled);
        if (base::lead(h) != T(1)) { scale_in_place<A>(h.q, d * pitch, base::lead(h)); }
        if constexpr (detail::skips_nan<typename base::ring>) { h.odd = any_nan_packed<V>(h.q, d, pitch, h.vecs); }
        pack_transposed<A>(mem.o_rows, dv, extent_t(1), n, dv, h.o, pitch, filled);
        take_states(h, mem.state, n, [&](extent_t i) { return h.list[i] - first; });
    }
    static void scatter(cursor const& h, extent_t n, extent_t first, slot& mem) {
        extent_t const dv = h.out_width();
        unpack_transposed<A>(h.o, pitch, n, dv, mem.o_rows, dv, extent_t(1));
        for (extent_t i = 0; i < n; ++i) {
            extent_t const row = h.list[i] - first;
            std::memcpy(mem.o + row * dv, mem.o_rows + i * dv, static_cast<std::size_t>(dv) * sizeof(T));
            T const* const from = reinterpret_cast<T const*>(h.state + i / lanes) + i % lanes;
            for (int c = 0; c < members; ++c) { mem.state[row * members + c] = from[c * lanes]; }
        }
    }
    // States of n rows into the lanes of a tile; lanes behind them are empty.
    template <class Row>
    static void take_states(cursor const& h, T const* from, extent_t n, Row const& row) {
        static_assert(sizeof(row_type) % sizeof(V) == 0 && sizeof(row_type) / sizeof(V) == sizeof(lane_row) / sizeof(T), "heed: a row state holds values only");
        for (int w = 0; w < h.vecs; ++w) { h.state[w] = h.m.normalizer.template empty<V>(); }
        for (extent_t i = 0; i < n; ++i) {
            T* const to = reinterpret_cast<T*>(h.state + i / lanes) + i % lanes;
            for (int c = 0; c < members; ++c) { to[c * lanes] = from[row(i) * members + c]; }
        }
    }
};

} // namespace heed
