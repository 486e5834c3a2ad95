// SPDX-License-Identifier: BSD-3-Clause
// What decoding reads and keeps row by row: pointers to the cached rows of a tile, their scales, the tables of a score chain along keys, and row states
// whose lanes are rows.
#pragma once

#include <heed/engine/cpu/score_tables.hpp>
#include <heed/engine/cpu/skipped_nan.hpp>
#include <heed/kernel/bytes.hpp>
#include <heed/policy/concepts.hpp>
#include <heed/policy/load/load.hpp>
#include <heed/view/cache_view.hpp>

#include <cstring>

namespace heed {

// Pointers to rows `cols` of a sequence, the last repeated up to whole registers; how many.
template <int Lanes, class C, class E>
HEED_INLINE extent_t point_at_rows(C const& cache, tensor_view<E> const& rows_of, extent_t b, extent_t head, range cols, E const** out) {
    extent_t n = 0;
    for (extent_t j = cols.begin; j < cols.end;) {
        auto const where = cache.locate(b, j);
        extent_t const run = where.run < cols.end - j ? where.run : cols.end - j, stride = rows_of.stride(2);
        E const* const base = rows_of.row(where.entry, head, where.row);
        for (extent_t x = 0; x < run; ++x) { out[n + x] = base + x * stride; }
        n += run;
        j += run;
    }
    for (; n % Lanes != 0; ++n) { out[n] = out[n - 1]; }
    return n;
}
// Features of a row behind its last whole register move to the right end of one more, zeros before them.
template <int Lanes, class T>
HEED_INLINE void align_end(T* row, extent_t width) {
    extent_t const rest = width % Lanes;
    T* const end = row + (width - rest);
    for (extent_t e = rest; e > 0; --e) { end[Lanes - rest + e - 1] = end[e - 1]; }
    for (extent_t e = 0; rest != 0 && e < Lanes - rest; ++e) { end[e] = T(0); }
}
// The operand of a contraction's features, laid out so.
template <int Lanes, class Head, class T>
HEED_INLINE void load_operand(Head const& head, place const& at, extent_t width, T* row) {
    for (extent_t e = 0; e < width; ++e) { row[e] = static_cast<T>(head.operand(at, e)); }
    align_end<Lanes>(row, width);
}
// Scales of the same rows times `unit`, 0 behind the last.
template <int Lanes, class C, class T>
HEED_INLINE void gather_scales(C const& cache, tensor_view<float> const& s, extent_t b, extent_t head, range cols, T unit, T* out) {
    extent_t n = 0;
    for (extent_t j = cols.begin; j < cols.end;) {
        auto const where = cache.locate(b, j);
        extent_t const run = where.run < cols.end - j ? where.run : cols.end - j, stride = s.extent(2) == 1 ? 0 : s.stride(2);
        float const* const base = s.row(s.extent(0) == 1 ? 0 : where.entry, s.extent(1) == 1 ? 0 : head, s.extent(2) == 1 ? 0 : where.row);
        for (extent_t x = 0; x < run; ++x) { out[n + x] = base[x * stride] * unit; }
        n += run;
        j += run;
    }
    for (; n % Lanes != 0; ++n) { out[n] = T(0); }
}

template <class V, class E>
HEED_INLINE bool cached_row_finite(E const* row, extent_t n) {
    using T = typename V::value_type;
    V sum(0);
    extent_t e = 0;
    for (; e + V::lanes <= n; e += V::lanes) { sum = fma(widen<V>(row + e), V(0), sum); }
    T rest(0);
    for (; e < n; ++e) { rest += static_cast<T>(row[e]) * T(0); }
    return all(sum == V(0)) && rest == T(0);
}

// 0, or NaN if the row holds one.
template <class V, class E>
HEED_INLINE typename V::value_type nan_in_cached_row(E const* row, extent_t n) {
    using T = typename V::value_type;
    V sum(0);
    extent_t e = 0;
    for (; e + V::lanes <= n; e += V::lanes) { sum = sum + nan_of(widen<V>(row + e)); }
    T lane[V::lanes], total(0);
    sum.store(lane);
    for (; e < n; ++e) {
        T const x = static_cast<T>(row[e]);
        total += x == x ? T(0) : x;
    }
    for (T const x : lane) { total += x; }
    return total;
}

// Elements (i, cols) of a table of the score chain, up to whole registers.
template <class V, class Table>
void stage_row(Table const& table, place const& at, extent_t i, range cols, typename V::value_type* to) {
    using T = typename V::value_type;
    extent_t const n = cols.size();
    bool constexpr mapped = [] {
        if constexpr (detail::RowColumnTable<Table>) { return detail::MappedColumns<Table>; }
        return false;
    }();
    if constexpr (mapped) {
        for (extent_t j = 0; j < n; ++j) { to[j] = static_cast<T>(table.of_col(at, cols.begin + j)); }
        for (extent_t j = n; j % V::lanes != 0; ++j) { to[j] = T(1); }
        V const of_row(static_cast<T>(table.of_row(at, i)));
        for (extent_t j = 0; j < n; j += V::lanes) { (of_row + table.map_col(V::load(to + j))).store(to + j); }
    } else {
        for (extent_t j = 0; j < n; ++j) { to[j] = static_cast<T>(detail::table_element(table, at, i, cols.begin + j)); }
        for (extent_t j = n; j % V::lanes != 0; ++j) { to[j] = T(0); }
    }
}

// States of a normalizer with lanes along rows.
template <class N, class T, class A>
struct row_states {
    using V = vec<T, A>;
    using row_type = typename N::template row<V>;
    using lane_row = typename N::template row<T>;
    static constexpr int lanes = V::lanes;
    static constexpr int members = sizeof(row_type) < sizeof(V) ? 0 : static_cast<int>(sizeof(row_type) / sizeof(V));
    static_assert(members == 0 || (sizeof(row_type) % sizeof(V) == 0 && sizeof(lane_row) == members * sizeof(T)), "heed: a row state holds values only");

    static void put(row_type* states, int r, lane_row const& one) {
        T value[members == 0 ? 1 : members];
        if constexpr (members > 0) { std::memcpy(value, &one, sizeof one); }
        for (int k = 0; k < members; ++k) { (reinterpret_cast<T*>(states + r / lanes) + r % lanes)[k * lanes] = value[k]; }
    }
    static lane_row get(row_type const* states, int r) {
        T value[members == 0 ? 1 : members] = {};
        for (int k = 0; k < members; ++k) { value[k] = (reinterpret_cast<T const*>(states + r / lanes) + r % lanes)[k * lanes]; }
        lane_row one{};
        if constexpr (members > 0) { std::memcpy(static_cast<void*>(&one), value, sizeof one); }
        return one;
    }
    // Row r's state in every lane.
    HEED_INLINE static row_type spread(row_type const* states, int r) {
        row_type one{};
        if constexpr (members > 0) {
            V lane[members];
            for (int k = 0; k < members; ++k) { lane[k] = V((reinterpret_cast<T const*>(states + r / lanes) + r % lanes)[k * lanes]); }
            std::memcpy(static_cast<void*>(&one), lane, sizeof one);
        }
        return one;
    }
};

// Asks for a row of a cache, a line at a time.
template <class E>
HEED_INLINE void ask_for_row(E const* row, extent_t lines) {
    for (extent_t l = 0; l < lines; ++l) { HEED_PREFETCH(reinterpret_cast<std::byte const*>(row) + l * extent_t(line_bytes)); }
}

// New queries of a head as key_products takes them: times `lead`, the features behind the last whole vector right-aligned, zeros before them.
template <class A, class L, class Q, class T>
void load_rows_right(L const& loader, place const& at, extent_t tokens, tensor_view<Q const> const& q, extent_t batch, T lead, T* to, extent_t pitch) {
    constexpr int lanes = vec<T, A>::lanes;
    extent_t const d = q.extent(3);
    if constexpr (!is_plain<L>) { loader.template rows<A>(operand::of_query(at), range{0, tokens}, q, to, pitch); }
    for (extent_t i = 0; i < tokens; ++i, to += pitch) {
        if constexpr (is_plain<L>) {
            Q const* const from = q.row(batch, at.head, i);
            for (extent_t e = 0; e < d; ++e) { to[e] = static_cast<T>(from[e * q.stride(3)]); }
        }
        scale_in_place<A>(to, d, lead);
        align_end<lanes>(to, d);
    }
}

} // namespace heed
