// SPDX-License-Identifier: BSD-3-Clause
// Gradients of a score chain's own data on the CPU. While a tile is pulled back, the derivative that reaches a table overwrites the staged
// table, and the contributions of a parameter are summed by lane; afterwards both are brought to the shape of the data.
//
// Determinism: a table that has one number per key is written by the walk that owns the key; everything else is summed in one partial buffer per
// split of the keys (tables) or per head and split (parameters), and the partials are added in the order of the splits.
#pragma once

#include <heed/engine/cpu/score_tables.hpp>
#include <heed/engine/workspace.hpp>
#include <heed/policy/score/pull.hpp>

#include <cstring>

namespace heed {

template <class S, class T, class A, tile_config C>
struct score_gradients {
    using V = vec<T, A>;
    static constexpr int lanes = V::lanes;
    static constexpr extent_t pitch = extent_t(C.vecs) * lanes;
    static constexpr int tables = detail::tables_of<S>, parameters = detail::parameters_of<S>;
    template <class Stage>
    static constexpr bool of_features = requires(Stage const s, place const at) { typename Stage::gradient; s.operand(at, extent_t(0)); }; // one number a feature
    static constexpr bool features = of_features<std::remove_cvref_t<decltype(detail::head_of(std::declval<S const&>()))>>;
    static constexpr bool any = tables + parameters > 0 || features;
    static constexpr int most = 8; // stages with data of their own that one chain may differentiate

    S const& score;
    detail::mirror<S> const& wanted;
    extent_t batches, heads, keys; // of the call
    extent_t splits;
    T* partial[most] = {};

    static bool given(tensor_view<T> const& d) { return d.data_handle() != nullptr; }

    bool wants_any() const {
        bool found = false;
        each([&](int, auto, auto, bool leading, auto const&, auto const& d) { found = found || (given(d) && !leading); });
        return found;
    }
    // Some table is shared by batch entries or heads: one walk must own a key for all of them.
    bool shared() const {
        bool found = false;
        each([&](int, auto, auto, bool leading, auto const& stage, auto const& d) {
            if constexpr (detail::tables_of<std::remove_cvref_t<decltype(stage)>> != 0) { found = found || (given(d) && !leading && (d.extent(0) < batches || d.extent(1) < heads)); }
        });
        return found;
    }
    void place_partials(arena& a) {
        each([&](int n, auto, auto, bool leading, auto const& stage, auto const& d) {
            if (!given(d) || leading) { return; }
            if (!owned(stage, d)) { partial[n] = a.template take<T>(size_of_partial(stage, d)); }
        });
    }
    // Before the walks: what is added to starts at zero.
    void clear() const {
        each([&](int n, auto, auto, bool leading, auto const& stage, auto const& d) {
            if (!given(d) || leading) { return; }
            if (owned(stage, d)) { for_each_element(d, [](T& x, extent_t) { x = T(0); }); }
            else { std::memset(partial[n], 0, static_cast<std::size_t>(size_of_partial(stage, d)) * sizeof(T)); }
        });
    }
    // After the walks: partials into the gradients.
    void reduce() const {
        each([&](int n, auto, auto, bool leading, auto const& stage, auto const& d) {
            if (!given(d) || leading || owned(stage, d)) { return; }
            if constexpr (detail::tables_of<std::remove_cvref_t<decltype(stage)>> != 0) {
                extent_t const size = d.shape().size();
                for_each_element(d, [&](T& x, extent_t at) {
                    x = T(0);
                    for (extent_t s = 0; s < splits; ++s) { x += partial[n][s * size + at]; }
                });
            } else {
                for_each_element(d, [](T& x, extent_t) { x = T(0); });
                extent_t const width = d.extent(3);
                for (extent_t b = 0; b < batches; ++b) {
                    for (extent_t h = 0; h < heads; ++h) {
                        for (extent_t e = 0; e < width; ++e) {
                            T& x = d(d.extent(0) == 1 ? 0 : b, d.extent(1) == 1 ? 0 : h, 0, e);
                            for (extent_t s = 0; s < splits; ++s) { x += partial[n][((s * batches + b) * heads + h) * width + e]; }
                        }
                    }
                }
            }
        });
    }

    // What pull() hands over for one pair and vector: the derivative at a table replaces the table's element.
    template <bool Wanted>
    struct sink {
        static constexpr bool wanted = Wanted;
        T* const* staged;
        extent_t offset;
        V* sums; // [parameters], of this vector of queries

        template <int Slot>
        HEED_INLINE void table(V up) const {
            up.store(staged[Slot] + offset);
        }
        template <int Index>
        HEED_INLINE void parameter(V contribution) const {
            sums[Index] = sums[Index] + contribution;
        }
    };

    // One tile, after it was pulled back: staged[slot][j][i], zero for pairs that are not kept; sums[index][i] of the parameters.
    void add_tile(place const& at, range rows, range cols, int vecs, extent_t split, T* const* staged, T const* sums) const {
        each([&](int n, auto slot, auto parameter, bool leading, auto const& stage, auto const& d) {
            if (!given(d) || leading) { return; }
            using stage_type = std::remove_cvref_t<decltype(stage)>;
            if constexpr (detail::tables_of<stage_type> != 0) {
                T* const part = owned(stage, d) ? nullptr : partial[n] + split * d.shape().size();
                add_table(stage.table(), d, part, at, rows, cols, vecs, staged[slot]);
            } else if constexpr (detail::has_parameter<stage_type>) {
                T sum(0);
                for (extent_t i = 0; i < rows.size(); ++i) { sum += sums[parameter * pitch + i]; }
                partial[n][(split * batches + at.batch) * heads + at.head] += sum;
            }
        });
    }

    // One tile's share of the weights of features, [width][lanes].
    void add_features(place const& at, extent_t split, T const* dw) const {
        each([&](int n, auto, auto, bool, auto const& stage, auto const& d) {
            if constexpr (of_features<std::remove_cvref_t<decltype(stage)>>) {
                if (!given(d)) { return; }
                T* const to = partial[n] + ((split * batches + at.batch) * heads + at.head) * d.extent(3);
                for (extent_t e = 0; e < d.extent(3); ++e) {
                    for (int l = 0; l < lanes; ++l) { to[e] += dw[e * lanes + l]; }
                }
            }
        });
    }
    bool wants_features() const {
        bool found = false;
        each([&](int, auto, auto, bool, auto const& stage, auto const& d) { found = found || (of_features<std::remove_cvref_t<decltype(stage)>> && given(d)); });
        return found;
    }

private:
    template <class Stage>
    extent_t size_of_partial(Stage const&, tensor_view<T> const& d) const {
        return splits * (detail::tables_of<Stage> != 0 ? d.shape().size() : batches * heads * d.extent(3)); // a parameter has one feature
    }
    // f(number, slot, parameter, leading, stage, gradient view)
    template <class F>
    void each(F&& f) const {
        int n = 0;
        detail::for_each_gradient(score, wanted, [&](auto slot, auto parameter, bool leading, auto const& stage, auto const& d) { f(n++, slot, parameter, leading, stage, d); });
    }
    template <class Stage>
    bool owned(Stage const&, tensor_view<T> const& d) const {
        if constexpr (detail::tables_of<Stage> != 0) {
            using table = std::remove_cvref_t<decltype(std::declval<Stage const&>().table())>;
            return !detail::DiagonalTable<table> && !detail::RowColumnTable<table> && (d.extent(3) > 1 || keys == 1);
        } else {
            return false;
        }
    }
    template <class F>
    static void for_each_element(tensor_view<T> const& d, F&& f) {
        extent_t at = 0;
        for (extent_t b = 0; b < d.extent(0); ++b) {
            for (extent_t h = 0; h < d.extent(1); ++h) {
                for (extent_t i = 0; i < d.extent(2); ++i) {
                    for (extent_t j = 0; j < d.extent(3); ++j) { f(d(b, h, i, j), at++); }
                }
            }
        }
    }
    // Index of (b, h, 0, 0) in a partial.
    static extent_t base_of(tensor_view<T> const& d, place const& at) {
        return ((d.extent(1) == 1 ? 0 : at.head) + (d.extent(0) == 1 ? 0 : at.batch) * d.extent(1)) * d.extent(2) * d.extent(3);
    }
    static T lane_sum(V const* x, int vecs) {
        T lane[lanes];
        V sum = x[0];
        for (int w = 1; w < vecs; ++w) { sum = sum + x[w]; }
        sum.store(lane);
        T total(0);
        for (T const one : lane) { total += one; }
        return total;
    }
    // of_col[j] = sum over i, of_row[i] = sum over j
    static void sums_of(T const* tile, extent_t n, int vecs, T* of_col, T* of_row) {
        V row[C.vecs];
        for (int w = 0; w < vecs; ++w) { row[w] = V(0); }
        for (extent_t j = 0; j < n; ++j) {
            V x[C.vecs]{};
            for (int w = 0; w < vecs; ++w) {
                x[w] = V::load(tile + j * pitch + w * lanes);
                row[w] = row[w] + x[w];
            }
            of_col[j] = lane_sum(x, vecs);
        }
        for (int w = 0; w < vecs; ++w) { row[w].store(of_row + w * lanes); }
    }

    template <class U>
    void add_table(tensor_view<U> const&, tensor_view<T> const& d, T* part, place const& at, range rows, range cols, int vecs, T const* tile) const {
        extent_t const n = cols.size(), b = d.extent(0) == 1 ? 0 : at.batch, h = d.extent(1) == 1 ? 0 : at.head;
        T of_col[C.keys], of_row[pitch];
        if (part != nullptr) { // one number for all keys
            sums_of(tile, n, vecs, of_col, of_row);
            T* const to = part + base_of(d, at);
            for (extent_t i = 0; i < rows.size(); ++i) { to[d.extent(2) == 1 ? 0 : rows.begin + i] += of_row[i]; }
        } else if (d.extent(2) == 1) {
            sums_of(tile, n, vecs, of_col, of_row);
            for (extent_t j = 0; j < n; ++j) { d(b, h, 0, cols.begin + j) += of_col[j]; }
        } else {
            T lines[pitch * C.keys];
            unpack_transposed<A>(tile, pitch, rows.size(), n, lines, C.keys, extent_t(1));
            for (extent_t i = 0; i < rows.size(); ++i) {
                T* const to = &d(b, h, rows.begin + i, cols.begin);
                for (extent_t j = 0; j < n; ++j) { to[j * d.stride(3)] += lines[i * C.keys + j]; }
            }
        }
    }
    // The tile slides over the strip of its diagonals, as it did when it was staged.
    template <detail::DiagonalTable Table>
    void add_table(Table const& t, tensor_view<T> const& d, T* part, place const& at, range rows, range cols, int vecs, T const* tile) const {
        T strip[C.keys + pitch];
        extent_t const n = cols.size(), top = cols.end - 1 - rows.begin, filled = extent_t(vecs) * lanes;
        for (extent_t x = 0; x < n - 1 + filled; ++x) { strip[x] = T(0); }
        for (extent_t j = 0; j < n; ++j) {
            for (int w = 0; w < vecs; ++w) {
                T* const s = strip + (n - 1 - j) + w * lanes;
                (V::load(s) + V::load(tile + j * pitch + w * lanes)).store(s);
            }
        }
        T* const to = part + base_of(d, at);
        for (extent_t x = 0; x < n - 1 + rows.size(); ++x) { to[t.entry(at, top - x)] += strip[x]; }
    }
    template <detail::RowColumnTable Table>
    void add_table(Table const& t, tensor_view<T> const& d, T* part, place const& at, range rows, range cols, int vecs, T const* tile) const {
        T of_col[C.keys], of_row[pitch];
        sums_of(tile, cols.size(), vecs, of_col, of_row);
        if constexpr (detail::MappedColumns<Table>) { // data per key head
            place of = at;
            of.head = at.kv_head;
            T* const to = part + base_of(d, of);
            for (extent_t j = 0; j < cols.size(); ++j) { to[t.col_entry(at, cols.begin + j)] += static_cast<T>(t.col_slope(at, cols.begin + j)) * of_col[j]; }
        } else {
            T* const to = part + base_of(d, at);
            for (extent_t i = 0; i < rows.size(); ++i) { to[t.row_entry(at, rows.begin + i)] += T(Table::row_sign) * of_row[i]; }
            for (extent_t j = 0; j < cols.size(); ++j) { to[t.col_entry(at, cols.begin + j)] += T(Table::col_sign) * of_col[j]; }
        }
    }
};

} // namespace heed
