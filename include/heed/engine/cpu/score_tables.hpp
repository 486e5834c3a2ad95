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
    // A table is read in short runs of many rows, which the hardware does not see coming. What a kernel that brings `width` elements of a row ahead for every key
    // is to bring beside the n-th: the next key tile's part for all rows of the walk; `otherwise` where no table is read so, or nothing is left. Lines asked for
    // one by one all along the products do not queue up (a Xeon, N = 4096, rate with a full bias over that without, against bursts between the products: d = 64
    // 0.82 and 0.73, d = 128 0.87 and 0.84).
    template <class S, class Rows>
    Rows to_come(S const& score, range walk, extent_t n, extent_t width, Rows otherwise) const {
        detail::for_each_table(score, [&](int, auto const& table) { otherwise = row_to_come(table, walk, n, width, otherwise); });
        return otherwise;
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

    template <class Rows, class U>
    Rows row_to_come(tensor_view<U> const& t, range walk, extent_t n, extent_t width, Rows otherwise) const {
        extent_t const column = n / walk.size() * width;
        if constexpr (std::is_same_v<std::remove_const_t<U>, T>) {
            if (t.extent(2) != 1 && t.stride(3) == 1 && column < C.keys && cols.begin + 2 * C.keys <= t.extent(3)) {
                extent_t const i = walk.begin + n % walk.size();
                return {t.row(t.extent(0) == 1 ? 0 : at.batch, t.extent(1) == 1 ? 0 : at.head, i) + cols.begin + C.keys + column, t.stride(2)};
            }
        }
        return otherwise;
    }
    template <class Rows, class Computed>
    Rows row_to_come(Computed const&, range, extent_t, extent_t, Rows otherwise) const {
        return otherwise;
    }
};

} // namespace heed
