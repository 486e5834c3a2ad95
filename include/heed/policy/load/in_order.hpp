// SPDX-License-Identifier: BSD-3-Clause
// in_order{order, of}: queries in another order: row t of a tile is query order[t], made by the loader `of`. What an engine writes of a query goes where it
// stands (place_of), so that no tensor is copied; engines that do so say places_rows.
// Cost: a row at a time in and out of a tile, (d + dv) moves a query.
#pragma once

#include <heed/kernel/pack.hpp>
#include <heed/policy/load/load.hpp>

#include <cstdint>

namespace heed {

template <class L = plain>
struct in_order {
    tensor_view<std::int32_t const> order; // {1, 1, N, 1}, every query once
    L of = {};

    HEED_HD extent_t place_of(extent_t slot) const { return order(0, 0, slot, 0); }

    template <class A, class T>
    void rows(operand const& q, range which, tensor_view<T const> const& x, compute_t<T>* dst, extent_t stride) const {
        for (extent_t t = which.begin; t < which.end; ++t, dst += stride) {
            extent_t const i = place_of(t);
            if constexpr (is_plain<L>) {
                pack_rows<A>(x.row(q.at.batch, q.head, i), x.stride(2), x.stride(3), extent_t(1), x.extent(3), dst, stride);
            } else {
                of.template rows<A>(q, range{i, i + 1}, x, dst, stride);
            }
        }
    }
    template <class F>
    constexpr void views(call_sizes const& n, extent_t rows_of, F&& f) const {
        f("the order of the queries", order, shape{1, 1, rows_of, 1});
        if constexpr (requires { of.views(n, rows_of, f); }) { of.views(n, rows_of, f); }
    }
};
template <class I>
in_order(tensor_view<I>) -> in_order<>;
template <class I, class L>
in_order(tensor_view<I>, L) -> in_order<L>;

namespace detail {
template <class L>
inline constexpr bool places_queries = requires(L const l) { l.place_of(extent_t()); };
} // namespace detail

} // namespace heed
