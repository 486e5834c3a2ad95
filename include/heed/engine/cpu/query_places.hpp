// SPDX-License-Identifier: BSD-3-Clause
// Where the rows of a tile of queries stand: one behind the other, or where their loader says (policy/load/in_order.hpp).
#pragma once

#include <heed/engine/cpu/tile_loads.hpp>
#include <heed/policy/load/in_order.hpp>

namespace heed {

template <class L>
HEED_INLINE extent_t place_of(L const& loader, extent_t i) {
    if constexpr (detail::places_queries<L>) {
        return loader.place_of(i);
    } else {
        return i;
    }
}
template <bool Write, class L, class T>
void expect_queries(L const& loader, tensor_view<T> const& x, extent_t batch, extent_t head, range rows) {
    if constexpr (detail::places_queries<L>) {
        for (extent_t i = rows.begin; i < rows.end; ++i) { expect_rows<Write>(x, batch, head, {loader.place_of(i), loader.place_of(i) + 1}); }
    } else {
        expect_rows<Write>(x, batch, head, rows);
    }
}
// As store_transposed; buffer: rows x width numbers.
template <class A, class L, class T>
void store_queries(L const& loader, compute_t<T> const* src, extent_t pitch, range rows, tensor_view<T> const& x, extent_t batch, extent_t head, compute_t<T>* buffer) {
    if constexpr (detail::places_queries<L>) {
        extent_t const width = x.extent(3);
        unpack_transposed<A>(src, pitch, rows.size(), width, buffer, width, extent_t(1));
        for (extent_t i = 0; i < rows.size(); ++i) { unpack_rows<A>(buffer + i * width, width, extent_t(1), width, x.row(batch, head, loader.place_of(rows.begin + i)), x.stride(2), x.stride(3)); }
    } else {
        store_transposed<A>(src, pitch, rows, x, batch, head, buffer);
    }
}

} // namespace heed
