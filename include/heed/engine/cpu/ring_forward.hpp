// SPDX-License-Identifier: BSD-3-Clause
// Forward where a pattern sees arcs of rings (neighbourhoods on the sphere), on the CPU. Neighbour sets are small, a few keys of a few rings, and shift by one
// key from query to query: a tile of keys against a tile of queries would be mostly empty. One item is a strip of queries (ring_strip.hpp):
//
//   pack     the window of keys that the strip sees: whole vectors, side by side, and what tables say of a key
//   scores   s[x][r] = k(x, r) . q_r         four queries at a time, exactly the pairs that exist
//   bend     score chain, peak               lanes run along keys and queries
//   weigh    weights, sums of rows
//   sums     o_r = o_r factor_r + sum_x p[x][r] v(x, r)
//
// Rows with many keys are taken in chunks. No product is made with a pair that the pattern leaves out. Cost O(pairs (d + dv)); memory of a slot is one window.
#pragma once

#include <heed/engine/cpu/parallel.hpp>
#include <heed/engine/cpu/ring_strip.hpp>
#include <heed/engine/cpu/saved_rows.hpp>
#include <heed/engine/cpu/tile_loads.hpp>
#include <heed/engine/problem.hpp>
#include <heed/family/pairwise.hpp>


namespace heed {

namespace detail {

// A pattern that is arcs of rings, a chain over dot products, rows as they lie, and weights that come one by one.
template <class M>
concept OnRings = requires(M const m, extent_t n) { m.pattern.rings().half_width(n, n); } && sum_of_products<typename decltype(M::score)::contraction> && sum_of_products<decltype(M::mix)> &&
                  std::is_same_v<decltype(M::load), load<>> && !RowWiseNormalizer<decltype(M::normalizer)> && !is_idempotent<decltype(M::normalizer)>;

} // namespace detail

template <class M, class E, class A>
struct ring_forward {
    static constexpr std::string_view name = "cpu.rings.forward";

    using strip = ring_strip<M, E, A>;
    using T = typename strip::T;
    using V = typename strip::V;
    using I = typename strip::I;
    using products = typename strip::products;
    using bands_type = typename strip::bands_type;
    using score_type = decltype(M::score);
    using normalizer_type = decltype(M::normalizer);
    using row_type = typename normalizer_type::template row<V>;
    static constexpr tile_config C = strip::C;
    static constexpr int lanes = strip::lanes, rows = strip::rows;
    static constexpr extent_t pitch = rows;
    static constexpr bool linear = detail::is_linear<score_type>, masks = detail::masks_of<score_type>, counts = CountingNormalizer<normalizer_type, V>;
    static constexpr bool tallies = requires(normalizer_type const n, V x) { n.tally(x, x); };
    static constexpr int kept = detail::kept_of<normalizer_type>();

    struct division {
        extent_t bands, strips; // of rings, of longitudes
        extent_t items;
    };
    static division divide(M const& m, shape q, int) {
        bands_type const b = m.pattern.rings();
        division by{(b.query_rings + strip::rings_of_strip - 1) / strip::rings_of_strip, (strip::members(b) + strip::members_of_strip - 1) / strip::members_of_strip, 0};
        by.items = by.bands * by.strips * q.batch * q.head;
        return by;
    }
    struct slot {
        typename strip::window window;
        typename strip::slots slots;
        T *q, *o, *factor;
        T* kept_pairs; // laid out as scores: 0 where masked
        slot(arena& a, typename strip::window_size n, extent_t d, extent_t dv) : window(a, n, d, dv), slots(a) {
            q = a.template take<T>(rows * strip::padded(d));
            o = a.template take<T>(rows * strip::padded(dv));
            factor = a.template take<T>(lanes);
            kept_pairs = a.template take<T>((strip::chunk + products::slots) * rows);
        }
    };
    static range band(bands_type const& b, extent_t n) { return intersect({0, b.query_rings}, {n * strip::rings_of_strip, (n + 1) * strip::rings_of_strip}); }
    static typename strip::window_size window_size(M const& m, division const& by) {
        bands_type const b = m.pattern.rings();
        return strip::largest(b, [&](auto const& f) {
            for (extent_t n = 0; n < by.bands; ++n) { f(band(b, n)); }
        });
    }
    static std::size_t slot_bytes(M const& m, shape q, shape v, division const& by) {
        arena count(nullptr);
        slot(count, window_size(m, by), q.feature, v.feature);
        return count.bytes();
    }

    template <class Executor>
    static void run(M const& m, pairwise_problem<E> const& x, Executor& executor, division const& by, int slots, std::byte* workspace) {
        shape const q = x.q.shape();
        bands_type const b = m.pattern.rings();
        typename strip::window_size const size = window_size(m, by);
        std::size_t const bytes = slot_bytes(m, q, x.v.shape(), by);
        std::byte* const base = aligned(workspace);
        detail::for_each_item<A>(executor, slots, by.items, [&](extent_t item, int s) noexcept {
            arena memory(base + static_cast<std::size_t>(s) * bytes);
            slot mine(memory, size, q.feature, x.v.extent(3));
            extent_t const head = item % (q.batch * q.head), part = item / (q.batch * q.head), turn = part / by.strips;
            extent_t const n = turn % 2 == 0 ? turn / 2 : by.bands - 1 - turn / 2; // the poles first: their rings see most
            typename strip::extent const of{band(b, n), intersect({0, strip::members(b)}, {part % by.strips * strip::members_of_strip, (part % by.strips + 1) * strip::members_of_strip})};
            place const at = x.at(head / q.head, head % q.head);
            mine.window.place(b, of);
            mine.window.pack(m, at, x.k, x.v);
            strip::each_block(b, of, at, [&](typename strip::block const& queries) { attend({m, x, at, mine}, queries); });
        });
    }

private:
    struct context {
        M const& m;
        pairwise_problem<E> const& x;
        place const& at;
        slot& mem;
    };

public:
    // Rows of a view as whole vectors, times a factor.
    static void pack_queries(tensor_view<E const> const& x, place const& at, typename strip::block const& of, T factor, T* to) {
        extent_t const width = x.extent(3), pitch_of_row = strip::padded(width);
        for (int r = 0; r < rows; ++r) {
            T* const row = to + r * pitch_of_row;
            pack_rows<A>(x.row(at.batch, at.head, of.query[r]), x.stride(2), x.stride(3), extent_t(1), width, row, pitch_of_row);
            for (extent_t e = width; e < pitch_of_row; ++e) { row[e] = T(0); }
        }
        if (factor != T(1)) { scale_in_place<A>(to, rows * pitch_of_row, factor); }
    }
    // The queries of the next ring.
    static range next_rows(bands_type const& b, place const& at, typename strip::block const& of) {
        return intersect({0, at.queries}, {of.query[0] + b.query_longitudes, of.query[0] + b.query_longitudes + rows});
    }
    static T lead(M const& m, place const& at) { return static_cast<T>(detail::leading_factor(m.score, at) * (linear ? normalizer_type::unit : 1.0)); }
    static I positions_of(typename strip::block const& of) {
        typename strip::index i[lanes];
        for (int l = 0; l < lanes; ++l) { i[l] = static_cast<typename strip::index>(of.query[l % rows]); }
        return I::load(i);
    }
    // The score in the normalizer's unit, -inf where a table masks the pair.
    HEED_INLINE static V final_score(score_type const& score, V raw, detail::lane_pair<V> const& pair) {
        if constexpr (linear) {
            return raw;
        } else {
            V s = detail::after_leading(score, raw, pair) * V(normalizer_type::unit);
            V const none = -math::inf<V>();
            static_for<strip::tables>([&](auto table) HEED_INLINE_LAMBDA { s = select(V::load(pair.tables[table] + pair.offset) == none, none, s); });
            return s;
        }
    }
    HEED_INLINE static I keys_at(typename strip::slots const& x, int offset) {
        if constexpr (strip::positions) {
            return I::load(x.key + offset);
        } else {
            return I(0);
        }
    }

private:
    static void attend(context const& c, typename strip::block const& of) {
        slot& mem = c.mem;
        extent_t const dv = strip::padded(c.x.v.extent(3));
        pack_queries(c.x.q, c.at, of, lead(c.m, c.at), mem.q);
        range const south = next_rows(c.m.pattern.rings(), c.at, of); // the rows of the next block lie far from these
        expect_rows<false>(c.x.q, c.at.batch, c.at.head, south);
        expect_rows<true>(c.x.out, c.at.batch, c.at.head, south);
        for (extent_t e = 0; e < rows * dv; e += lanes) { V(0).store(mem.o + e); }
        row_type row = c.m.normalizer.template start<V>(c.at);
        typename strip::cursor next{c.m.pattern.rings().first_ring(of.ring)};
        while (strip::next(c.m, c.at, of, mem.window, next, mem.slots)) {
            typename strip::slots& x = mem.slots;
            products::scores(mem.q, mem.window.k, strip::padded(c.at.width), x.runs, x.run_count, x.at, x.vectors() * products::slots, x.s);
            V peak;
            bool const masked = bend(c, of, peak);
            c.m.normalizer.raise(row, products::fold(peak, [](V a, V b) HEED_INLINE_LAMBDA { return max(a, b); })).store(mem.factor);
            if (masked) [[unlikely]] { note_kept(x, mem.kept_pairs); }
            weigh(c, row);
            if (masked) [[unlikely]] {
                sums_of_kept(x, x.s, mem.window.v, dv, mem.kept_pairs, mem.factor, mem.o);
            } else {
                products::sums(mem.window.v, dv, x.runs, x.run_count, x.s, mem.factor, mem.o);
            }
        }
        finish(c, of, row);
    }
    // Score chain, unit and peak. True if some pair may be masked.
    static bool bend(context const& c, typename strip::block const& of, V& peak) {
        typename strip::slots& x = c.mem.slots;
        auto const score = c.m.score; // a copy: storing scores changes no parameter
        place const at = c.at;
        V const none = -math::inf<V>();
        I const i = positions_of(of);
        V top = none, least(0);
        int const last = x.vectors() - 1;
        for (int y = 0; y <= last; ++y) {
            int const offset = y * lanes;
            V s = final_score(score, V::load(x.s + offset), detail::lane_pair<V>{at, i, keys_at(x, offset), x.table, offset});
            if constexpr (masks) { least = min(least, y == last ? select(x.last_lanes(), s, V(0)) : s); }
            if (y == last) { s = select(x.last_lanes(), s, none); }
            s.store(x.s + offset);
            top = max(top, s);
        }
        peak = top;
        return masks && !all(least > none);
    }
    static void weigh(context const& c, row_type& row) {
        typename strip::slots& x = c.mem.slots;
        auto const normalizer = c.m.normalizer;
        row_type const r = row;
        V sum(0), keys(0);
        for (int offset = 0; offset < x.vectors() * lanes; offset += lanes) {
            V const s = V::load(x.s + offset), p = normalizer.weight(r, s);
            p.store(x.s + offset);
            if constexpr (tallies) { sum = normalizer.tally(sum, p); } else { sum = sum + p; }
            if constexpr (counts) { keys = keys + select(s == -math::inf<V>(), V(0), V(1)); }
        }
        auto const add = [](V a, V b) HEED_INLINE_LAMBDA { return a + b; };
        if constexpr (tallies) {
            sum = products::fold(sum, [&](V a, V b) HEED_INLINE_LAMBDA { return normalizer.tally(a, b); });
        } else {
            sum = products::fold(sum, add);
        }
        if constexpr (counts) {
            normalizer.settle(row, sum, products::fold(keys, add));
        } else {
            normalizer.settle(row, sum);
        }
    }

public:
    static void note_kept(typename strip::slots const& x, T* kept_pairs) {
        for (int n = 0; n < x.count * rows; ++n) { kept_pairs[n] = x.s[n] == -math::inf<T>() ? T(0) : T(1); }
    }
    // Pair by pair, so that a weight of 0 meets no value that is not finite; the bits are those of products::sums.
    HEED_COLD static void sums_of_kept(typename strip::slots const& x, T const* p, T const* v, extent_t width, T const* kept_pairs, T const* factor, T* o) {
        for (int r = 0; r < rows; ++r) {
            for (extent_t e = 0; e < width; e += lanes) {
                V sum(0);
                for (int n = r; n < x.count * rows; n += rows) {
                    if (kept_pairs[n] != T(0)) { sum = fma(V::load(v + static_cast<extent_t>(x.at[n]) * width + e), V(p[n]), sum); }
                }
                fma(V::load(o + r * width + e), V(factor[r]), sum).store(o + r * width + e);
            }
        }
    }

private:
    static void finish(context const& c, typename strip::block const& of, row_type const& row) {
        slot& mem = c.mem;
        extent_t const dv = c.x.v.extent(3), pitch_of_row = strip::padded(dv);
        T factor[lanes];
        c.m.normalizer.close(row).store(factor);
        for (int r = 0; r < of.valid; ++r) {
            T* const o = mem.o + r * pitch_of_row;
            scale_in_place<A>(o, pitch_of_row, factor[r]);
            unpack_rows<A>(o, pitch_of_row, extent_t(1), dv, c.x.out.row(c.at.batch, c.at.head, of.query[r]), c.x.out.stride(2), c.x.out.stride(3));
        }
        if constexpr (kept > 0) {
            if (c.x.lse.data_handle() == nullptr) { return; }
            for (int r = 0; r < of.valid; ++r) { detail::save_row<V>(c.m.normalizer, row, r, c.x.lse_unit, c.x.lse, c.at.batch, c.at.head, of.query[r]); }
        }
    }
};

} // namespace heed
