// SPDX-License-Identifier: BSD-3-Clause
// Transforms of a slab: n rows of V::lanes complex numbers (two real channels each, or one complex). Any smooth n (primes up to 13).
//
// Depth first, so that what one pass leaves is still in the nearest cache when the next one takes it; the two outermost passes of a slab beyond the
// second cache are done in one sweep over memory (columns of both gathered in a small tile), again inside blocks that are still beyond it.
// Cost 5 n log2 n operations a lane and direction, at least 2 sweeps over a slab that is beyond the second cache. Workspace: the tile.
// Relative l2 error: at most 0.6 eps log2 n.
#pragma once

#include <heed/kernel/fft/lengths.hpp>
#include <heed/kernel/fft/passes.hpp>
#include <heed/kernel/fft/roots.hpp>

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

    // A slab in memory of the caller's: n rows of row_size numbers each.
    fft_plan<T> const& plan;
    T* slab;
    T* tile; // tile_size(plan) numbers

    // numbers of the tile in which two passes meet
    HEED_INLINE static extent_t tile_size(extent_t n) { return in_cache(n) ? 0 : 13 * 13 * columns * row_size; }

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

    HEED_INLINE static bool in_cache(extent_t rows) { return rows * row_size * static_cast<extent_t>(sizeof(T)) <= second_cache; }
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
        bool const two = !in_cache(n) && plan.factors.count > 2;
        if (goes_down(w)) { two ? down_two(0, {from, from_row, 0}, from_limit, slab) : down(0, {from, from_row, 0}, from_limit, slab); }
        below(w, 0, two, slab, spectrum);
        if (comes_up(w)) { two ? up_two(0, slab, {to, to_row, 0}, to_limit) : up(0, slab, {to, to_row, 0}, to_limit); }
    }

    // The blocks that one pass, or two, of a block left behind.
    void below(what w, int level, bool two, T* at, T const* spectrum) const {
        int const next = level + (two ? 2 : 1);
        extent_t const rows = plan.block[next], parts = plan.block[level] / rows;
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
        bool const two = !in_cache(plan.block[level]) && plan.factors.count - level > 2;
        if (goes_down(w)) { two ? down_two(level, {at, row_size, 0}, fft_no_limit, at) : down(level, {at, row_size, 0}, fft_no_limit, at); }
        below(w, level, two, at, spectrum);
        if (comes_up(w)) { two ? up_two(level, at, {at, row_size, 0}, fft_no_limit) : up(level, at, {at, row_size, 0}, fft_no_limit); }
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

    // Asks for the next columns of a sweep, `count` rows on each of `legs` legs: more streams than the hardware foresees. To be written: P is not const.
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

    // Two passes in one sweep. Row j of block (k, q) after both: j < m2 = L / (r1 r2); a column is the r1 r2 rows j, j + m2, ... of the block.
    void down_two(int level, fft_rows<T const> from, extent_t limit, T* at) const {
        int const r1 = plan.factors.radix[level], r2 = plan.factors.radix[level + 1];
        extent_t const m1 = plan.block[level] / r1, m2 = m1 / r2;
        for (extent_t j = 0; j < m2; j += columns) {
            extent_t const c = m2 - j < columns ? m2 - j : columns, ahead = m2 - j - c < c ? m2 - j - c : c;
            for (int a = 0; a < r2; ++a) {
                extent_t const first = j + a * m2;
                fft_rows<T const> const column{from.at + first * from.row, from.row, m1 * from.row};
                fft_rows<T> const to{tile + a * c * row_size, row_size, r2 * c * row_size};
                T const* const w = plan.roots[level] + 2 * (r1 - 1) * first;
                fetch(fft_rows<T const>{column.at + c * column.row, column.row, column.leg}, legs_below(limit, first + c, m1, r1), ahead);
                limit < plan.block[level] ? passes::forward(r1, column, to, c, w, first, m1, limit) : passes::forward(r1, column, to, c, w);
            }
            for (int k = 0; k < r1; ++k) {
                fetch(fft_rows<T>{at + (k * m1 + j + c) * row_size, row_size, m2 * row_size}, r2, ahead);
                passes::forward(r2, {tile + k * r2 * c * row_size, row_size, c * row_size}, {at + (k * m1 + j) * row_size, row_size, m2 * row_size}, c, plan.roots[level + 1] + 2 * (r2 - 1) * j);
            }
        }
    }
    void up_two(int level, T const* at, fft_rows<T> to, extent_t limit) const {
        int const r1 = plan.factors.radix[level], r2 = plan.factors.radix[level + 1];
        extent_t const m1 = plan.block[level] / r1, m2 = m1 / r2;
        for (extent_t j = 0; j < m2; j += columns) {
            extent_t const c = m2 - j < columns ? m2 - j : columns, ahead = m2 - j - c < c ? m2 - j - c : c;
            for (int k = 0; k < r1; ++k) {
                fetch(fft_rows<T const>{at + (k * m1 + j + c) * row_size, row_size, m2 * row_size}, r2, ahead);
                passes::inverse(r2, {at + (k * m1 + j) * row_size, row_size, m2 * row_size}, {tile + k * r2 * c * row_size, row_size, c * row_size}, c, plan.roots[level + 1] + 2 * (r2 - 1) * j);
            }
            for (int a = 0; a < r2; ++a) {
                extent_t const first = j + a * m2;
                fft_rows<T const> const column{tile + a * c * row_size, row_size, r2 * c * row_size};
                fft_rows<T> const rows{to.at + first * to.row, to.row, m1 * to.row};
                T const* const w = plan.roots[level] + 2 * (r1 - 1) * first;
                fetch(fft_rows<T>{rows.at + c * rows.row, rows.row, rows.leg}, legs_below(limit, first + c, m1, r1), ahead);
                limit < plan.block[level] ? passes::inverse(r1, column, rows, c, w, first, m1, limit) : passes::inverse(r1, column, rows, c, w);
            }
        }
    }

    // rows of the caller's and rows of the slab; what is not there is zero
    HEED_INLINE static void copy(T const* from, extent_t from_row, extent_t have, T* to, extent_t to_row, extent_t want) {
        for (extent_t i = 0; i < want; ++i) {
            for (extent_t c = 0; c < row_size; ++c) { to[i * to_row + c] = i < have ? from[i * from_row + c] : T(0); }
        }
    }
};

} // namespace heed
