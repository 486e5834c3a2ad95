// SPDX-License-Identifier: BSD-3-Clause
// The products of one tile of pairwise_backward: scores and dp from the rows, and what p and ds send back to dv, dk and dq. Dot products go through the kernels
// of forward; a contraction whose terms have slopes through slope_tile; one that picks its terms (a range) pair by pair, ties to the lowest feature.
#pragma once

#include <heed/engine/cpu/backward_layout.hpp>
#include <heed/engine/cpu/contraction_pull.hpp>
#include <heed/kernel/slope_tile.hpp>

namespace heed {

template <class M, class E, class A>
struct backward_products : backward_layout<M, E, A> {
    using layout = backward_layout<M, E, A>;
    using T = typename layout::T;
    using V = typename layout::V;
    using ring = typename layout::ring;
    using contract = typename layout::contract;
    using problem = typename layout::problem;
    using query_tile = typename layout::query_tile;
    using slot = typename layout::slot;
    using layout::C, layout::lanes, layout::masks, layout::padded, layout::picks, layout::pitch, layout::vectors, layout::weighs_features;
    static constexpr bool products_only = detail::sum_of_products<ring>;
    using slopes = slope_tile<ring, T, A, C>;

    static_assert(products_only || picks || requires(ring const r, V x) { r.slope(x, x); } || requires(ring const r, V x) { r.slope(x, x, x); },
                  "heed: backward needs the slope(k, q) of a contraction that is no dot product, or its picks(width); see heed/policy/concepts.hpp");

    struct context {
        problem const& x;
        typename layout::division const& by;
        typename layout::shared const& all;
        typename layout::gradients const& sink;
        extent_t width() const { return x.q.extent(3); }     // d
        extent_t out_width() const { return x.v.extent(3); } // dv
    };
    // Key tiles of a walk as rows.
    struct key_rows {
        range cols;
        tile_rows<T> k, v;
    };
    // Where a tile's products go.
    struct targets {
        T *dq;      // [d][pitch]
        T *dk, *dv; // rows of padded(d), padded(dv)
    };

    static bool rows_finite(tile_rows<T> const& rows, extent_t n, extent_t width) {
        bool finite = true;
        for (extent_t j = 0; j < n; ++j) { finite = finite && row_finite<A>(rows.at(j), extent_t(1), width); }
        return finite;
    }
    static bool may_mask(int count, slot const& mine) {
        bool found = masks;
        for (int g = 0; g < count; ++g) { found = found || mine.segments[g].masked; }
        return found;
    }
    // The contraction's operand of each feature, for this head.
    static void load_operand(context const& c, place const& at, slot& mine) {
        if constexpr (detail::has_operand<ring>) {
            for (extent_t e = 0; e < c.width(); ++e) { mine.operand[e] = static_cast<T>(detail::head_of(c.x.m.score).operand(at, e)); }
        }
    }

    // Scores and dp of the tile's segments.
    static void products(context const& c, query_tile const& tile, key_rows const& keys, int count, slot& mine) {
        using values = contract_tile<plus_times, T, A, C>;
        for (int g = 0; g < count; ++g) {
            segment const part = mine.segments[g];
            extent_t const n = part.end - part.begin;
            typename contract::rows const k{keys.k.at(part.begin), keys.k.stride}, ahead{keys.v.at(part.begin), keys.v.stride};
            typename values::rows const v{ahead.data, ahead.stride};
            contract::run(k, n, ahead, tile.q, c.width(), mine.s + part.begin * pitch, mine.scratch, part.first, part.last, detail::contraction_of(c.x.m.score), mine.operand);
            values::run(v, n, v, tile.dout, c.out_width(), mine.dp + part.begin * pitch, mine.scratch, part.first, part.last);
        }
    }
    // p (in s) and ds (in dp) to dv, dk and dq. q, dout: rows of the queries.
    static void send_back(context const& c, range rows, query_tile const& tile, tile_rows<T> const& q, tile_rows<T> const& dout, key_rows const& keys, int vecs, int count, targets const& to,
                          bool weights_wanted, slot& mine) {
        extent_t const d = c.width(), dv = c.out_width();
        if constexpr (weighs_features) { std::memset(mine.dw, 0, static_cast<std::size_t>(d * lanes) * sizeof(T)); }
        for (int g = 0; g < count; ++g) {
            segment const part = mine.segments[g];
            extent_t const first = extent_t(part.first) * lanes, end = extent_t(part.last) * lanes, n = (end < rows.size() ? end : rows.size()) - first;
            layout::gather::run(mine.s + part.begin * pitch + first, pitch, part.end - part.begin, n, dout.at(first), dout.stride, vectors(dv), to.dv + part.begin * padded(dv), padded(dv));
            if constexpr (products_only) {
                layout::gather::run(mine.dp + part.begin * pitch + first, pitch, part.end - part.begin, n, q.at(first), q.stride, vectors(d), to.dk + part.begin * padded(d), padded(d));
            } else if constexpr (picks) {
                for (int j = part.begin; j < part.end; ++j) {
                    for (extent_t i = first; i < first + n; ++i) { pull_one(c, q, keys, j, i, to, mine); }
                }
            } else {
                typename slopes::operands const of{tile.q, mine.operand, d, to.dq, weights_wanted ? mine.dw : nullptr};
                slopes::run(detail::contraction_of(c.x.m.score), keys.k.at(part.begin), keys.k.stride, part.end - part.begin, of, mine.dp + part.begin * pitch, part.first, part.last,
                            to.dk + part.begin * padded(d), padded(d));
            }
        }
        if constexpr (products_only) { layout::mix::run(keys.k.data, keys.k.stride, mine.dp, mine.segments, count, to.dq, mine.ones, d, vecs); }
    }
    // Where something is not finite and something is masked: pair by pair, so that a weight of 0 meets nothing.
    HEED_COLD static void strange_products(context const& c, range rows, tile_rows<T> const& q, tile_rows<T> const& dout, key_rows const& keys, int count, targets const& to, slot& mine) {
        if constexpr (weighs_features) { std::memset(mine.dw, 0, static_cast<std::size_t>(c.width() * lanes) * sizeof(T)); }
        for (int g = 0; g < count; ++g) {
            segment const& part = mine.segments[g];
            extent_t const end = extent_t(part.last) * lanes < rows.size() ? extent_t(part.last) * lanes : rows.size();
            for (int j = part.begin; j < part.end; ++j) {
                for (extent_t i = extent_t(part.first) * lanes; i < end; ++i) {
                    if ((masks || part.masked) && ((mine.kept[j] >> i) & 1) == 0) { continue; }
                    T const p = mine.s[j * pitch + i];
                    for (extent_t e = 0; e < c.out_width(); ++e) { to.dv[j * padded(c.out_width()) + e] += p * dout.at(i)[e]; }
                    pull_one(c, q, keys, j, i, to, mine);
                }
            }
        }
    }

private:
    // One pair's ds through the contraction.
    static void pull_one(context const& c, tile_rows<T> const& q, key_rows const& keys, int j, extent_t i, targets const& to, slot& mine) {
        extent_t const d = c.width();
        T const ds = mine.dp[j * pitch + i];
        T* const dk = to.dk + j * padded(d);
        T const *const k = keys.k.at(j), *const of_q = q.at(i);
        if constexpr (products_only) {
            for (extent_t e = 0; e < d; ++e) {
                dk[e] += ds * of_q[e];
                to.dq[e * pitch + i] += ds * k[e];
            }
        } else {
            if (picks && ds == T(0)) { return; }
            auto const contraction = detail::contraction_of(c.x.m.score);
            for (extent_t e = 0; e < d; ++e) { mine.row[e] = T(0); }
            detail::pull_pair<A>(contraction, k, of_q, mine.operand, d, ds, mine.row, dk);
            for (extent_t e = 0; e < d; ++e) { to.dq[e * pitch + i] += mine.row[e]; }
            if constexpr (weighs_features) {
                for (extent_t e = 0; e < d; ++e) { mine.dw[e * lanes] += ds * contraction.operand_slope(k[e], of_q[e]); }
            }
        }
    }
};

} // namespace heed
