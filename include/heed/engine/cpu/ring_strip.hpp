// SPDX-License-Identifier: BSD-3-Clause
// Where a pattern sees arcs of rings, a pass over it is cut into strips: a few rings of queries, a few longitudes. The keys that a strip sees lie in a window
// of arcs, one a ring, which is packed once: whole vectors, longitudes unrolled, so that no arc wraps around. Queries are taken four at a time,
// neighbours on a ring (or, where keys are sparser, every so many of them): the runs of keys that they see shift by a whole number of rows.
//
// Memory of a window: (2 reach + rings) x (2 reach + longitudes) rows, whatever the grid.
#pragma once

#include <heed/engine/cpu/score_tables.hpp>
#include <heed/engine/workspace.hpp>
#include <heed/kernel/ring_products.hpp>

#include <cstring>

namespace heed {

namespace detail {

// Nothing of the chain asks for the positions of a pair but by tables of one number per row and one per column.
template <class S>
constexpr bool is_positionless() {
    if constexpr (Tabled<S>) {
        return RowColumnTable<std::remove_cvref_t<decltype(std::declval<S const&>().table())>>;
    } else {
        return is_linear<S>;
    }
}
template <class S>
inline constexpr bool positionless = is_positionless<S>();
template <class A, class B>
inline constexpr bool positionless<then<A, B>> = positionless<A> && positionless<B>;

HEED_INLINE extent_t down(extent_t x, extent_t by) { return by == 1 ? x : x >= 0 ? x / by : -((-x + by - 1) / by); }
HEED_INLINE extent_t up(extent_t x, extent_t by) { return -down(-x, by); }

} // namespace detail

template <class M, class E, class A>
struct ring_strip {
    using T = compute_t<E>;
    using V = vec<T, A>;
    using I = index_of<V>;
    using products = ring_products<T, A>;
    using index = typename products::index;
    using score_type = decltype(M::score);
    using bands_type = std::remove_cvref_t<decltype(std::declval<decltype(M::pattern) const&>().rings())>;

    static constexpr tile_config C = default_tiles<T, A>();
    static constexpr int lanes = V::lanes, rows = products::rows;
    static constexpr extent_t chunk = C.keys; // slots whose sums are taken together
    static constexpr extent_t rings_of_strip = 8, members_of_strip = 32;
    static constexpr int tables = detail::tables_of<score_type>;
    static constexpr bool positions = !detail::positionless<score_type>;
    static constexpr extent_t padded(extent_t n) { return (n + lanes - 1) / lanes * lanes; }

    // Queries m = u + y key_step, u < key_step, y in `members`, of rings `rings`.
    struct extent {
        range rings, members;
    };
    // Key rings that rings of queries see.
    static range key_rings(bands_type const& b, range rings) {
        range all{b.key_rings, 0};
        for (extent_t a = rings.begin; a < rings.end; ++a) {
            if (b.end_ring(a) == b.first_ring(a)) { continue; }
            all.begin = b.first_ring(a) < all.begin ? b.first_ring(a) : all.begin;
            all.end = b.end_ring(a) > all.end ? b.end_ring(a) : all.end;
        }
        return all.size() > 0 ? all : range{};
    }
    static extent_t members(bands_type const& b) { return b.query_longitudes / b.key_step; }
    // The longest arc of ring c that a strip may see.
    static extent_t longest_arc(bands_type const& b, range rings, extent_t c) {
        extent_t most = 0;
        for (extent_t a = rings.begin; a < rings.end; ++a) {
            extent_t const w = b.half_width(a, c), n = w < 0 ? 0 : b.whole(w) ? b.key_longitudes : 2 * w / b.key_step + 3 + members_of_strip * b.query_step;
            most = n > most ? n : most;
        }
        return most;
    }
    // What the widest strip needs: rows of its window, and rings.
    struct window_size {
        extent_t rows, rings;
    };
    template <class Each>
    static window_size largest(bands_type const& b, Each const& each_band) {
        window_size most{0, 0};
        each_band([&](range rings) {
            range const keys = key_rings(b, rings);
            extent_t n = 0;
            for (extent_t c = keys.begin; c < keys.end; ++c) { n += longest_arc(b, rings, c); }
            most.rows = n > most.rows ? n : most.rows;
            most.rings = keys.size() > most.rings ? keys.size() : most.rings;
        });
        return most;
    }

    // The packed keys of a strip. A row's ring and longitude are needed where policies ask for them and where gradients are sent back.
    struct window {
        T *k, *v;
        T* column[tables == 0 ? 1 : tables]; // what a table says of a key
        index* key;                          // of a row
        extent_t *start, *longitude, *size;  // of a ring: its first row, what longitude that is (unrolled, may be negative), rows
        range rings{};
        extent_t count = 0; // rows in use

        window(arena& a, window_size n, extent_t d, extent_t dv) {
            k = a.template take<T>(n.rows * padded(d));
            v = a.template take<T>(n.rows * padded(dv));
            for (T*& c : column) { c = tables == 0 ? nullptr : a.template take<T>(n.rows + lanes); }
            key = a.template take<index>(n.rows);
            start = a.template take<extent_t>(n.rings);
            longitude = a.template take<extent_t>(n.rings);
            size = a.template take<extent_t>(n.rings);
        }
        void place(bands_type const& b, extent const& of) {
            rings = key_rings(b, of.rings);
            count = 0;
            extent_t const west = of.members.begin * b.key_step * b.query_step, east = (of.members.end * b.key_step - 1) * b.query_step;
            for (extent_t c = rings.begin; c < rings.end; ++c) {
                extent_t widest = -1;
                bool whole = false;
                for (extent_t a = of.rings.begin; a < of.rings.end; ++a) {
                    extent_t const w = b.half_width(a, c);
                    if (w >= 0 && b.whole(w)) { whole = true; }
                    else { widest = w > widest ? w : widest; }
                }
                extent_t const n = c - rings.begin;
                start[n] = count;
                longitude[n] = widest < 0 ? 0 : detail::up(west - widest, b.key_step);
                size[n] = widest < 0 ? 0 : detail::down(east + widest, b.key_step) + 1 - longitude[n];
                if (whole && size[n] < b.key_longitudes) { size[n] = b.key_longitudes; }
                count += size[n];
            }
        }
        // f(row, key, how many): stretches of keys side by side.
        template <class F>
        void each_stretch(bands_type const& b, F const& f) const {
            for (extent_t n = 0; n < rings.size(); ++n) {
                extent_t at = longitude[n] % b.key_longitudes;
                at = at < 0 ? at + b.key_longitudes : at;
                for (extent_t done = 0; done < size[n]; at = 0) {
                    extent_t const left = size[n] - done, here = b.key_longitudes - at < left ? b.key_longitudes - at : left;
                    f(start[n] + done, (rings.begin + n) * b.key_longitudes + at, here);
                    done += here;
                }
            }
        }
        // keys: of this sequence; what lies behind its end is never read.
        void pack(M const& m, heed::place const& at, tensor_view<E const> const& ks, tensor_view<E const> const& vs) {
            each_stretch(m.pattern.rings(), [&](extent_t row, extent_t first, extent_t n) {
                extent_t const there = intersect({first, first + n}, {0, at.keys}).size();
                pack_stretch(ks, at, first, there, k + row * padded(ks.extent(3)));
                pack_stretch(vs, at, first, there, v + row * padded(vs.extent(3)));
                for (extent_t x = 0; x < n; ++x) { key[row + x] = static_cast<index>(first + x); }
                detail::for_each_table(m.score, [&](int slot, auto const& table) { pack_column(table, at, first, there, column[slot] + row); });
            });
        }
        static void pack_stretch(tensor_view<E const> const& x, heed::place const& at, extent_t first, extent_t n, T* to) {
            extent_t const width = x.extent(3), pitch = padded(width);
            pack_rows<A>(x.row(at.batch, at.kv_head, first), x.stride(2), x.stride(3), n, width, to, pitch);
            for (extent_t r = 0; r < n; ++r) {
                for (extent_t e = width; e < pitch; ++e) { to[r * pitch + e] = T(0); }
            }
        }
        template <detail::RowColumnTable Table>
        static void pack_column(Table const& table, heed::place const& at, extent_t first, extent_t n, T* to) {
            for (extent_t x = 0; x < n; ++x) { to[x] = static_cast<T>(table.of_col(at, first + x)); }
            if constexpr (detail::MappedColumns<Table>) {
                for (extent_t x = n; x < padded(n); ++x) { to[x] = T(1); } // the next stretch's, or behind the last
                for (extent_t x = 0; x < n; x += lanes) { table.map_col(V::load(to + x)).store(to + x); }
            }
        }
        template <class Table>
        static void pack_column(Table const&, heed::place const&, extent_t, extent_t, T*) {}
    };

    // Some queries of one ring, which see equally many keys of every ring; those behind `valid` repeat the last.
    struct block {
        extent_t ring;
        extent_t longitude[rows], query[rows];
        int valid;
    };
    // f(block) for the queries of a strip that exist: down the meridian first, so that the rows they share are near.
    template <class F>
    static void each_block(bands_type const& b, extent const& of, place const& at, F const& f) {
        bool const alone = at.keys < b.keys(); // a grid that is cut off: no neighbours
        for (extent_t y = of.members.begin; y < of.members.end; y += alone ? 1 : rows) {
            for (extent_t u = 0; u < b.key_step; ++u) {
                for (extent_t a = of.rings.begin; a < of.rings.end; ++a) {
                    block x{a, {}, {}, 0};
                    for (int r = 0; r < rows; ++r) {
                        extent_t const m = u + (y + r) * b.key_step, i = a * b.query_longitudes + m;
                        if (r > 0 && (alone || y + r >= of.members.end || i >= at.queries)) {
                            x.longitude[r] = x.longitude[r - 1], x.query[r] = x.query[r - 1];
                            continue;
                        }
                        x.longitude[r] = m, x.query[r] = i, x.valid = r + 1;
                    }
                    if (x.query[0] < at.queries) { f(x); }
                }
            }
        }
    }

    // A chunk of the keys that a block sees.
    struct slots {
        T* s;                              // [chunk][rows], scores, then weights
        T* table[tables == 0 ? 1 : tables]; // laid out as s
        index *at, *key;                   // laid out as s: rows of the window, keys
        slot_run* runs;
        int count = 0, run_count = 0;

        slots(arena& a) {
            extent_t const n = (chunk + products::slots) * rows;
            s = a.template take<T>(n);
            for (T*& t : table) { t = tables == 0 ? nullptr : a.template take<T>(n); }
            at = a.template take<index>(n + lanes);
            key = a.template take<index>(positions ? n : 0);
            runs = a.template take<slot_run>(chunk);
        }
        int vectors() const { return (count + products::slots - 1) / products::slots; }
        // Lanes of the last vector that hold a pair.
        auto last_lanes() const { return mask_from_bits<V>((std::uint64_t(1) << (rows * (count - (vectors() - 1) * products::slots))) - 1); }
    };
    struct cursor {
        extent_t ring, done = 0; // keys of this ring that are behind
    };
    // The next keys of a block; false if there are none.
    static bool next(M const& m, place const& here, block const& b, window const& w, cursor& c, slots& to) {
        bands_type const& bands = m.pattern.rings();
        to.count = to.run_count = 0;
        for (; c.ring < bands.end_ring(b.ring) && to.count < chunk; ++c.ring, c.done = 0) {
            extent_t const half = bands.half_width(b.ring, c.ring), n = c.ring - w.rings.begin;
            if (half < 0) { continue; }
            extent_t first[rows], size;
            if (bands.whole(half)) {
                for (extent_t& f : first) { f = w.start[n]; }
                size = bands.key_longitudes;
            } else {
                extent_t const west = b.longitude[0] * bands.query_step - half, from = detail::up(west, bands.key_step);
                size = detail::down(west + 2 * half, bands.key_step) + 1 - from;
                for (int r = 0; r < rows; ++r) {
                    first[r] = w.start[n] + from - w.longitude[n] + (bands.key_step == 1 ? b.longitude[r] - b.longitude[0] : (b.longitude[r] - b.longitude[0]) / bands.key_step) * bands.query_step;
                }
            }
            while (c.done < size && to.count < chunk) {
                extent_t const left = size - c.done, room = chunk - to.count, some = left < room ? left : room;
                if (here.keys >= (c.ring + 1) * bands.key_longitudes) {
                    add_run(to, first, c.done, some);
                    c.done += some;
                } else { // a ring that is cut off, a query alone
                    if (w.key[first[0] + c.done] < here.keys) { add_run(to, first, c.done, 1); }
                    ++c.done;
                }
            }
            if (c.done < size) { break; }
        }
        if (to.count == 0) { return false; }
        for (int x = to.count * rows; x < to.vectors() * lanes; ++x) { to.at[x] = to.at[x - rows]; } // rows that exist
        stage(m, here, b, w, to);
        return true;
    }

private:
    // Rows of a vector of pairs behind its first: queries that see the same keys, and keys that shift by one.
    struct lane_steps {
        index of[2][lanes];
        constexpr lane_steps() : of{} {
            for (int l = 0; l < lanes; ++l) { of[0][l] = static_cast<index>(l / rows), of[1][l] = static_cast<index>(l / rows + l % rows); }
        }
    };
    static constexpr lane_steps steps{};

    static void add_run(slots& to, extent_t const (&first)[rows], extent_t done, extent_t n) {
        slot_run& run = to.runs[to.run_count++];
        run = {to.count, static_cast<std::int32_t>(n), {}, -1};
        for (int r = 0; r < rows; ++r) { run.first[r] = static_cast<std::int32_t>(first[r] + done); }
        std::int32_t const shift = run.first[1] - run.first[0];
        bool even = shift == 0 || shift == 1;
        for (int r = 1; r < rows; ++r) { even = even && run.first[r] == run.first[0] + r * shift; }
        I at;
        if (even) {
            run.shift = shift;
            at = I(run.first[0]) + I::load(steps.of[shift]);
        } else {
            index lane[lanes];
            for (int l = 0; l < lanes; ++l) { lane[l] = run.first[l % rows] + l / rows; }
            at = I::load(lane);
        }
        index* const out = to.at + to.count * rows;
        for (extent_t x = 0; x < n * rows; x += lanes) {
            at.store(out + x);
            at = at + I(products::slots);
        }
        to.count += static_cast<int>(n);
    }
    static void stage(M const& m, place const& here, block const& b, window const& w, slots& to) {
        if constexpr (positions) {
            for (int x = 0; x < to.vectors() * lanes; ++x) { to.key[x] = w.key[to.at[x]]; }
        }
        detail::for_each_table(m.score, [&](int slot, auto const& table) { stage_table(table, here, b, w, slot, to); });
    }
    template <detail::RowColumnTable Table>
    static void stage_table(Table const& table, place const& here, block const& b, window const& w, int slot, slots& to) {
        T* const dst = to.table[slot];
        T const* const column = w.column[slot];
        for (int g = 0; g < to.run_count; ++g) {
            slot_run const& run = to.runs[g];
            T* out = dst + run.begin * rows;
            if (run.shift == 1) {
                for (int x = 0; x < run.count; ++x, out += rows) { std::memcpy(out, column + run.first[0] + x, rows * sizeof(T)); }
            } else {
                for (int x = 0; x < run.count; ++x, out += rows) {
                    for (int r = 0; r < rows; ++r) { out[r] = column[run.first[r] + x]; }
                }
            }
        }
        T of_row[lanes];
        for (int l = 0; l < lanes; ++l) { of_row[l] = static_cast<T>(table.of_row(here, b.query[l % rows])); }
        V const row = V::load(of_row);
        for (int x = 0; x < to.vectors() * lanes; x += lanes) { (V::load(dst + x) + row).store(dst + x); }
    }
    template <class Table>
    static void stage_table(Table const& table, place const& here, block const& b, window const& w, int slot, slots& to) {
        for (int x = 0; x < to.count * rows; ++x) { to.table[slot][x] = static_cast<T>(detail::table_element(table, here, b.query[x % rows], w.key[to.at[x]])); }
        for (int x = to.count * rows; x < to.vectors() * lanes; ++x) { to.table[slot][x] = T(0); }
    }
};

} // namespace heed
