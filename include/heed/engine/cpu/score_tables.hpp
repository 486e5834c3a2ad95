// SPDX-License-Identifier: BSD-3-Clause
// What a score chain reads of a pair on the CPU: its positions, and the elements of its tables, which are brought once per tile into the
// layout of the scores, [key][query].
#pragma once

#include <heed/kernel/pack.hpp>
#include <heed/kernel/tile_config.hpp>
#include <heed/policy/score/bias.hpp>
#include <heed/policy/score/dot.hpp>

namespace heed {

namespace detail {

// A pair of one key and a vector of queries, as score policies see it.
template <class V, int Slot = 0>
struct lane_pair {
    using T = typename V::value_type;
    place const& at;
    index_of<V> i, j;
    T const* const* tables; // one transposed tile [key][query] per table
    extent_t offset;        // of this pair inside a tile

    HEED_INLINE index_of<V> distance() const { return i + limit<index_of<V>>(at.shift()) - j; }
    template <class View>
    HEED_INLINE V load(View const&) const {
        return V::load(tables[Slot] + offset);
    }
    template <int N>
    HEED_INLINE lane_pair<V, Slot + N> after() const {
        return {at, i, j, tables, offset};
    }
};

} // namespace detail

template <class T, class A, tile_config C>
struct score_tables {
    using V = vec<T, A>;
    static constexpr int lanes = V::lanes;
    static constexpr extent_t pitch = extent_t(C.vecs) * lanes;

    place const& at;
    range rows, cols;
    int vecs; // vectors of queries in use

    // dst[slot][j][i] for every table of the chain.
    template <class S>
    void stage(S const& score, T* const* dst) const {
        detail::for_each_table(score, [&](int slot, auto const& table) { stage_table(table, dst[slot]); });
    }
    // A table is read in short runs of many rows, which the hardware does not see coming: a quarter of the next tile's is asked for in each of
    // four phases of this one, so that the requests do not queue up.
    template <class S>
    void expect_next(S const& score, int phase) const {
        detail::for_each_table(score, [&](int, auto const& table) { expect(table, phase); });
    }

private:
    template <class U>
    void stage_table(tensor_view<U> const& t, T* dst) const {
        if constexpr (std::is_same_v<std::remove_const_t<U>, T>) {
            extent_t const si = t.extent(2) == 1 ? 0 : t.stride(2), sj = t.extent(3) == 1 ? 0 : t.stride(3);
            T const* const src = t.row(t.extent(0) == 1 ? 0 : at.batch, t.extent(1) == 1 ? 0 : at.head, t.extent(2) == 1 ? 0 : rows.begin) + cols.begin * sj;
            if (si == 0) { // one row for all queries
                for (extent_t j = 0; j < cols.size(); ++j) {
                    for (int w = 0; w < vecs; ++w) { V(src[j * sj]).store(dst + j * pitch + w * lanes); }
                }
            } else {
                pack_transposed<A>(src, si, sj, rows.size(), cols.size(), dst, pitch, extent_t(vecs) * lanes);
            }
        } else { // another element type
            for (extent_t j = 0; j < cols.size(); ++j) {
                for (extent_t i = 0; i < rows.size(); ++i) { dst[j * pitch + i] = static_cast<T>(detail::table_element(t, at, rows.begin + i, cols.begin + j)); }
                for (extent_t i = rows.size(); i < extent_t(vecs) * lanes; ++i) { dst[j * pitch + i] = T(0); }
            }
        }
    }
    // The tile is a sliding window over the values of its diagonals.
    template <detail::DiagonalTable Table>
    void stage_table(Table const& t, T* dst) const {
        T strip[C.keys + pitch]; // from the greatest distance j - i down
        extent_t const n = cols.size(), top = cols.end - 1 - rows.begin, filled = extent_t(vecs) * lanes;
        for (extent_t x = 0; x < n - 1 + filled; ++x) { strip[x] = static_cast<T>(t.diagonal(at, top - x)); }
        for (extent_t j = 0; j < n; ++j) {
            for (int w = 0; w < vecs; ++w) { V::load(strip + (n - 1 - j) + w * lanes).store(dst + j * pitch + w * lanes); }
        }
    }
    template <detail::RowColumnTable Table>
    void stage_table(Table const& t, T* dst) const {
        T of_row[pitch] = {};
        for (extent_t i = 0; i < rows.size(); ++i) { of_row[i] = static_cast<T>(t.of_row(at, rows.begin + i)); }
        T mapped[C.keys + lanes];
        if constexpr (detail::MappedColumns<Table>) {
            for (extent_t j = 0; j < cols.size(); ++j) { mapped[j] = static_cast<T>(t.of_col(at, cols.begin + j)); }
            for (extent_t j = cols.size(); j < C.keys + lanes; ++j) { mapped[j] = T(1); }
            for (extent_t j = 0; j < cols.size(); j += lanes) { t.map_col(V::load(mapped + j)).store(mapped + j); }
        }
        auto const col = [&](extent_t j) {
            if constexpr (detail::MappedColumns<Table>) {
                return mapped[j];
            } else {
                return t.of_col(at, cols.begin + j);
            }
        };
        for (extent_t j = 0; j < cols.size(); ++j) {
            V const of_col(col(j));
            for (int w = 0; w < vecs; ++w) { (V::load(of_row + w * lanes) + of_col).store(dst + j * pitch + w * lanes); }
        }
    }

    template <class U>
    void expect(tensor_view<U> const& t, int phase) const {
        if (t.extent(2) == 1 || t.stride(3) != 1 || cols.end + C.keys > t.extent(3)) { return; }
        U const* const next = t.row(t.extent(0) == 1 ? 0 : at.batch, t.extent(1) == 1 ? 0 : at.head, rows.begin) + cols.end;
        for (extent_t i = phase; i < rows.size(); i += 4) {
            for (extent_t j = 0; j < C.keys; j += extent_t(line_bytes / sizeof(U))) { HEED_PREFETCH(next + i * t.stride(2) + j); }
        }
    }
    template <class Computed>
    void expect(Computed const&, int) const {}
};

} // namespace heed
