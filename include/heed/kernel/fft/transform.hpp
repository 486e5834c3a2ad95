// SPDX-License-Identifier: BSD-3-Clause
// Transforms of a slab: n rows of V::lanes complex numbers (two real channels each, or one complex). Any smooth n (primes up to 13).
//
// Depth first, so that what one pass leaves is still in the nearest cache when the next one takes it. The outermost passes of a slab beyond the second
// cache are done in one sweep over memory, columns of them gathered in a small tile: two, or as many as it takes until blocks are within that cache.
// Cost 5 n log2 n operations a lane and direction, 2 sweeps over a slab that is beyond the second cache (more from 2^22 rows on). Workspace: the tile.
// Relative l2 error: at most 0.6 eps log2 n.
#pragma once

#include <heed/kernel/fft/lengths.hpp>
#include <heed/kernel/fft/passes.hpp>
#include <heed/kernel/fft/roots.hpp>
#include <heed/kernel/stream_rows.hpp>

namespace heed {

// What a transform of n rows needs to know: sizes and a table. Read-only once made: threads share it.
template <class T>
struct fft_plan {
    extent_t n = 0;
    fft_factors factors;
    T const* roots[fft_most_levels] = {}; // of each pass but the leaf
    extent_t block[fft_most_levels] = {}; // rows of a block before each pass

    // numbers of T in the table
    HEED_INLINE static extent_t table_size(extent_t n) {
        fft_factors const f = fft_factorise(n);
        extent_t size = 0;
        for (int i = 0; i + 1 < f.count; ++i) {
            size += 2 * (n / f.radix[i]) * (f.radix[i] - 1);
            n /= f.radix[i];
        }
        return size;
    }
    // bytes that making the table takes meanwhile
    template <class A>
    static std::size_t making_bytes(extent_t n) {
        return static_cast<std::size_t>(root_table<A>::size_of(n)) * sizeof(detail::twofold);
    }
    // table: table_size(n) numbers; scratch: making_bytes(n), aligned for double
    template <class A>
    static fft_plan make(extent_t n, T* table, std::byte* scratch) {
        root_table<A> const exact(n, reinterpret_cast<detail::twofold*>(scratch));
        fft_plan p = at<A>(n, table);
        extent_t step = 1;
        for (int i = 0; i + 1 < p.factors.count; ++i) {
            int const r = p.factors.radix[i];
            extent_t const m = p.block[i] / r;
            T* w = const_cast<T*>(p.roots[i]);
            for (extent_t j = 0; j < m; ++j) {
                for (int q = 1; q < r; ++q, w += 2) { exact.get(j * q * step, w[0], w[1]); }
            }
            step *= r;
        }
        return p;
    }
    // the plan whose table was made there before
    template <class A>
    static fft_plan at(extent_t n, T const* table) {
        fft_plan p;
        p.n = n;
        p.factors = fft_factorise(n);
        extent_t rows = n;
        for (int i = 0; i < p.factors.count; ++i) {
            p.block[i] = rows;
            p.roots[i] = table;
            table += 2 * (rows / p.factors.radix[i]) * (p.factors.radix[i] - 1);
            rows /= p.factors.radix[i];
        }
        return p;
    }
    // Where frequency f lies after a forward transform.
    HEED_INLINE extent_t position(extent_t f) const {
        extent_t p = 0, rows = n;
        for (int i = 0; i < factors.count; ++i) {
            rows /= factors.radix[i];
            p += f % factors.radix[i] * rows;
            f /= factors.radix[i];
        }
        return p;
    }
    // Which frequency lies at row p after a forward transform.
    HEED_INLINE extent_t frequency(extent_t p) const {
        extent_t f = 0, rows = n, unit = 1;
        for (int i = 0; i < factors.count; ++i) {
            rows /= factors.radix[i];
            f += p / rows * unit;
            p %= rows;
            unit *= factors.radix[i];
        }
        return f;
    }
};

template <class T, class A>
struct fft_transform {
    using passes = fft_passes<T, A>;
    static constexpr extent_t row_size = passes::row_size;
    static constexpr int lanes = passes::W;
    // Bytes of a block whose passes go one by one: up to the second cache and somewhat beyond, one pass at a time is faster (measured with 512 KiB of it).
    static constexpr extent_t second_cache = A::has(isa::avx512f) ? 1280 * 1024 : 768 * 1024;
    static constexpr extent_t columns = A::has(isa::avx512f) ? 4 : 8; // 64 rows of them are 32 KiB
    // Sweeps over slabs from this size on write past the caches: faster by a sixth from 32 MiB on, slower at 8 MiB (measured where the last cache has 260).
    static constexpr extent_t streamed = 32 * 1024 * 1024;
    static constexpr int most_legs = 512;                             // of all passes of one sweep

    // A slab in memory of the caller's: n rows of row_size numbers each.
    fft_plan<T> const& plan;
    T* slab;
    T* tile; // tile_size(plan) numbers

    // numbers of the tile in which the passes of a sweep meet
    HEED_INLINE static extent_t tile_size(extent_t n) {
        if (in_cache(n)) { return 0; } // asked for every item
        fft_factors const f = fft_factorise(n);
        extent_t size = 0;
        for (int level = 0; level < f.count;) {
            sweep const s = sweep::of(f, level, n);
            extent_t const need = s.passes > 1 ? s.legs * s.columns() * row_size : 0;
            size = need > size ? need : size;
            level += s.passes;
            n /= s.legs;
        }
        return size;
    }

    // Forward transform of rows of the caller's (limit of them, the rest zero), apart by `row`, into the slab; digit-reversed.
    void forward(T const* from, extent_t row, extent_t limit) const { descend(what::forward, from, row, limit, nullptr, 0, 0, nullptr); }
    // Inverse of the slab (which is destroyed) into limit rows of the caller's; not divided by n.
    void inverse(T* to, extent_t row, extent_t limit) const { descend(what::inverse, nullptr, 0, 0, to, row, limit, nullptr); }
    // Both, with the product by one spectrum for all lanes between them: re and im of each position in turn.
    void multiply(T const* from, extent_t from_row, extent_t from_limit, T const* spectrum, T* to, extent_t to_row, extent_t to_limit) const {
        descend(what::multiply, from, from_row, from_limit, to, to_row, to_limit, spectrum);
    }

private:
    enum class what { forward, inverse, multiply };

    using lines = stream_rows<T, A>;

    HEED_INLINE static bool in_cache(extent_t rows) { return rows * row_size * static_cast<extent_t>(sizeof(T)) <= second_cache; }

    // The passes that go over a block of some rows in one: one, or, where it is beyond the second cache, two or more.
    struct sweep {
        int passes = 1;
        extent_t legs; // rows of a column: the product of their radices

        HEED_INLINE static sweep of(fft_factors const& f, int level, extent_t rows) {
            sweep s{1, f.radix[level]};
            if (in_cache(rows) || f.count - level < 3) { return s; }
            auto const further = [&] { return level + s.passes + 1 < f.count && s.legs * f.radix[level + s.passes] <= most_legs; }; // the leaf stays
            do { s.legs *= f.radix[level + s.passes++]; } while (!in_cache(rows / s.legs) && further());
            return s;
        }
        // columns at a time: more legs are worth longer runs on each (measured at 256)
        HEED_INLINE extent_t columns() const { return (legs > 64 ? 2 : 1) * fft_transform::columns; }
    };
    // bool: does the walk begin with forward passes, does it end with inverse ones
    HEED_INLINE static bool goes_down(what w) { return w != what::inverse; }
    HEED_INLINE static bool comes_up(what w) { return w != what::forward; }

    void descend(what w, T const* from, extent_t from_row, extent_t from_limit, T* to, extent_t to_row, extent_t to_limit, T const* spectrum) const {
        extent_t const n = plan.n;
        if (plan.factors.count == 1) { // the caller's rows through the slab
            if (goes_down(w)) { copy(from, from_row, from_limit, slab, row_size, n); }
            block(w, 0, slab, spectrum);
            if (comes_up(w)) { copy(slab, row_size, n, to, to_row, to_limit); }
            return;
        }
        sweep const s = sweep::of(plan.factors, 0, n);
        if (goes_down(w)) { s.passes > 1 ? down(0, s, {from, from_row, 0}, from_limit, slab) : down(0, {from, from_row, 0}, from_limit, slab); }
        below(w, s.passes, s.legs, slab, spectrum);
        if (comes_up(w)) { s.passes > 1 ? up(0, s, slab, {to, to_row, 0}, to_limit) : up(0, slab, {to, to_row, 0}, to_limit); }
    }

    // The blocks, `parts` of them, that a pass or a sweep of a larger one left behind.
    void below(what w, int next, extent_t parts, T* at, T const* spectrum) const {
        extent_t const rows = plan.block[next];
        if (next + 1 == plan.factors.count) {
            passes::leaf(plan.factors.radix[next], leaf_of(w), at, parts, spectrum);
            return;
        }
        for (extent_t q = 0; q < parts; ++q) { block(w, next, at + q * rows * row_size, spectrum ? spectrum + 2 * q * rows : nullptr); }
    }
    void block(what w, int level, T* at, T const* spectrum) const {
        if (level + 1 == plan.factors.count) {
            passes::leaf(plan.factors.radix[level], leaf_of(w), at, 1, spectrum);
            return;
        }
        sweep const s = sweep::of(plan.factors, level, plan.block[level]);
        if (goes_down(w)) { s.passes > 1 ? down(level, s, {at, row_size, 0}, fft_no_limit, at) : down(level, {at, row_size, 0}, fft_no_limit, at); }
        below(w, level + s.passes, s.legs, at, spectrum);
        if (comes_up(w)) { s.passes > 1 ? up(level, s, at, {at, row_size, 0}, fft_no_limit) : up(level, at, {at, row_size, 0}, fft_no_limit); }
    }
    HEED_INLINE static fft_leaf leaf_of(what w) { return w == what::forward ? fft_leaf::forward : w == what::inverse ? fft_leaf::inverse : fft_leaf::multiply; }

    void down(int level, fft_rows<T const> from, extent_t limit, T* at) const {
        int const r = plan.factors.radix[level];
        extent_t const m = plan.block[level] / r;
        from.leg = m * from.row;
        fft_rows<T> const to{at, row_size, m * row_size};
        limit < plan.block[level] ? passes::forward(r, from, to, m, plan.roots[level], 0, m, limit) : passes::forward(r, from, to, m, plan.roots[level]);
    }
    void up(int level, T const* at, fft_rows<T> to, extent_t limit) const {
        int const r = plan.factors.radix[level];
        extent_t const m = plan.block[level] / r;
        to.leg = m * to.row;
        fft_rows<T const> const from{at, row_size, m * row_size};
        limit < plan.block[level] ? passes::inverse(r, from, to, m, plan.roots[level], 0, m, limit) : passes::inverse(r, from, to, m, plan.roots[level]);
    }

    // Asks for `count` rows on each of `legs` legs: more streams than the hardware foresees. To be written: P is not const. Only the next butterfly's legs
    // are asked for, just before those at hand are taken: legs are powers of two apart, and more of them than a set of the cache has ways would drive each other out.
    template <class P>
    HEED_INLINE static void fetch(fft_rows<P> const& next, extent_t legs, extent_t count) {
        for (extent_t k = 0; k < legs; ++k) {
            for (extent_t i = 0; i < count; ++i) {
                auto const* const row = reinterpret_cast<std::byte const*>(next.at + k * next.leg + i * next.row);
                for (std::size_t line = 0; line < row_size * sizeof(T); line += line_bytes) {
                    if constexpr (std::is_const_v<P>) {
                        HEED_PREFETCH(row + line);
                    } else {
                        HEED_PREFETCH_FAR(row + line, 1);
                    }
                }
            }
        }
    }
    // How many of `radix` legs, m rows apart, have a row from `first` on below the limit.
    HEED_INLINE static extent_t legs_below(extent_t limit, extent_t first, extent_t m, int radix) {
        extent_t const legs = first < limit ? (limit - first + m - 1) / m : 0;
        return legs < radix ? legs : radix;
    }

    // All passes of a sweep. A column is the rows j, j + m, ... of the block, m the rows of the blocks that are left; in the tile, c columns of each of them
    // after one another. Of pass i, `outer` is the product of the radices before it, `inner` of those after it: its butterflies are (o, a), o < outer, a < inner.
    void down(int level, sweep s, fft_rows<T const> from, extent_t limit, T* at) const {
        extent_t const m = plan.block[level + s.passes];
        bool const limited = limit < plan.block[level], past = streams(level, at, row_size);
        for (extent_t j = 0; j < m; j += s.columns()) {
            extent_t const c = m - j < s.columns() ? m - j : s.columns(), ahead = m - j - c < c ? m - j - c : c;
            extent_t outer = 1;
            for (int i = 0; i < s.passes; ++i) {
                int const r = plan.factors.radix[level + i];
                extent_t const inner = s.legs / (outer * r);
                for (extent_t o = 0; o < outer; ++o) {
                    for (extent_t a = 0; a < inner; ++a) {
                        fft_rows<T> const in_tile{tile + (o * r * inner + a) * c * row_size, row_size, inner * c * row_size};
                        T const* const w = plan.roots[level + i] + 2 * (r - 1) * (j + a * m);
                        if (i == 0) {
                            fft_rows<T const> const rows = legs_of(from, j + a * m, inner * m);
                            extent_t const next = a + 1 < inner ? j + (a + 1) * m : j + c;
                            fetch(legs_of(from, next, inner * m), legs_below(limit, next, inner * m, r), a + 1 < inner ? c : ahead);
                            limited ? passes::forward(r, rows, in_tile, c, w, j + a * m, inner * m, limit) : passes::forward(r, rows, in_tile, c, w);
                        } else if (i + 1 < s.passes) {
                            passes::forward(r, reading(in_tile), in_tile, c, w);
                        } else if (past) {
                            passes::forward(r, reading(in_tile), in_tile, c, w);
                            stream(in_tile, legs_of(fft_rows<T>{at, row_size, 0}, o * r * m + j, m), r, c, fft_no_limit);
                        } else {
                            fft_rows<T> const block{at, row_size, 0};
                            fetch(legs_of(block, o + 1 < outer ? (o + 1) * r * m + j : j + c, m), r, o + 1 < outer ? c : ahead);
                            passes::forward(r, reading(in_tile), legs_of(block, o * r * m + j, m), c, w);
                        }
                    }
                }
                outer *= r;
            }
        }
        if (past) { lines::settle(); }
    }
    void up(int level, sweep s, T const* at, fft_rows<T> to, extent_t limit) const {
        extent_t const m = plan.block[level + s.passes];
        bool const limited = limit < plan.block[level], past = streams(level, to.at, to.row);
        for (extent_t j = 0; j < m; j += s.columns()) {
            extent_t const c = m - j < s.columns() ? m - j : s.columns(), ahead = m - j - c < c ? m - j - c : c;
            extent_t inner = 1;
            for (int i = s.passes - 1; i >= 0; --i) {
                int const r = plan.factors.radix[level + i];
                extent_t const outer = s.legs / (inner * r);
                for (extent_t o = 0; o < outer; ++o) {
                    for (extent_t a = 0; a < inner; ++a) {
                        fft_rows<T> const in_tile{tile + (o * r * inner + a) * c * row_size, row_size, inner * c * row_size};
                        T const* const w = plan.roots[level + i] + 2 * (r - 1) * (j + a * m);
                        if (i == 0 && past) {
                            passes::inverse(r, reading(in_tile), in_tile, c, w);
                            stream(in_tile, legs_of(to, j + a * m, inner * m), r, c, limit - (j + a * m));
                        } else if (i == 0) {
                            fft_rows<T> const rows = legs_of(to, j + a * m, inner * m);
                            extent_t const next = a + 1 < inner ? j + (a + 1) * m : j + c;
                            fetch(legs_of(to, next, inner * m), legs_below(limit, next, inner * m, r), a + 1 < inner ? c : ahead);
                            limited ? passes::inverse(r, reading(in_tile), rows, c, w, j + a * m, inner * m, limit) : passes::inverse(r, reading(in_tile), rows, c, w);
                        } else if (i + 1 < s.passes) {
                            passes::inverse(r, reading(in_tile), in_tile, c, w);
                        } else {
                            fft_rows<T const> const block{at, row_size, 0};
                            fetch(legs_of(block, o + 1 < outer ? (o + 1) * r * m + j : j + c, m), r, o + 1 < outer ? c : ahead);
                            passes::inverse(r, legs_of(block, o * r * m + j, m), in_tile, c, w);
                        }
                    }
                }
                inner *= r;
            }
        }
        if (past) { lines::settle(); }
    }
    HEED_INLINE bool streams(int level, T const* at, extent_t row) const {
        return plan.block[level] * row_size * extent_t(sizeof(T)) >= streamed && lines::takes(at, row) && row_size * sizeof(T) % line_bytes == 0;
    }
    // Columns of a butterfly in the tile to their rows, of which those from `limit` on (counted from the first) are not wanted.
    HEED_INLINE static void stream(fft_rows<T> const& in_tile, fft_rows<T> const& to, int legs, extent_t count, extent_t limit) {
        extent_t const apart = to.leg / to.row;
        for (extent_t k = 0; k < legs && k * apart < limit; ++k) {
            extent_t const wanted = limit - k * apart;
            lines::copy(in_tile.at + k * in_tile.leg, in_tile.row, to.at + k * to.leg, to.row, wanted < count ? wanted : count, row_size);
        }
    }
    template <class P>
    HEED_INLINE static fft_rows<P> legs_of(fft_rows<P> const& rows, extent_t first, extent_t apart) {
        return {rows.at + first * rows.row, rows.row, apart * rows.row};
    }
    HEED_INLINE static fft_rows<T const> reading(fft_rows<T> const& x) { return {x.at, x.row, x.leg}; }

    // rows of the caller's and rows of the slab; what is not there is zero
    HEED_INLINE static void copy(T const* from, extent_t from_row, extent_t have, T* to, extent_t to_row, extent_t want) {
        for (extent_t i = 0; i < want; ++i) {
            for (extent_t c = 0; c < row_size; ++c) { to[i * to_row + c] = i < have ? from[i * from_row + c] : T(0); }
        }
    }
};

} // namespace heed
