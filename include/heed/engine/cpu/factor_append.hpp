// SPDX-License-Identifier: BSD-3-Clause
// New factors into the rows of a cache: [A (rank x heads) | B (rank x width)], converted to the cache's elements.
#pragma once

#include <heed/policy/load/factored.hpp>
#include <heed/view/grouped_cache.hpp>

namespace heed {

template <class A>
struct factor_append {
    template <class E, class T>
    static void write_row(factored<T> const& f, extent_t b, extent_t i, E* to) {
        auto const as = [](T x) { return static_cast<E>(static_cast<compute_t<T>>(x)); };
        extent_t const heads = f.a.extent(1), rank = f.rank(), width = f.b.extent(3);
        for (extent_t h = 0; h < heads; ++h) {
            T const* const from = detail::shared_row(f.a, b, h, i);
            for (extent_t r = 0; r < rank; ++r) { to[r * heads + h] = as(from[r * f.a.stride(3)]); }
        }
        T const* const from = detail::shared_row(f.b, b, 0, i);
        for (extent_t r = 0; r < rank; ++r) {
            for (extent_t e = 0; e < width; ++e) { to[rank * heads + r * width + e] = as(from[r * detail::rank_stride(f.b) + e * f.b.stride(3)]); }
        }
    }
    // Behind the last token of sequence b; the caller adds to its length. Of more rows than a ring has, the last are written.
    template <class K, class V, class S, class U>
    static void run(factor_cache_view<K, V> const& c, factored<S> const& k, factored<U> const& v, extent_t b, extent_t count) {
        extent_t const rows = c.rows.k.extent(2), begin = c.rows.kind == cache_kind::ring && count > rows ? count - rows : 0, before = c.rows.lengths[static_cast<std::size_t>(b)];
        for (extent_t i = begin; i < count; ++i) {
            auto const where = c.rows.locate(b, before + i);
            write_row(k, b, i, c.rows.k.row(where.entry, 0, where.row));
            write_row(v, b, i, c.rows.v.row(where.entry, 0, where.row));
        }
    }
};

} // namespace heed
