// SPDX-License-Identifier: BSD-3-Clause
// New rows into a cache: converted, or quantised with a scale of their own, to where each position lies.
#pragma once

#include <heed/kernel/bytes.hpp>
#include <heed/view/cache_view.hpp>

namespace heed {

template <class A>
struct cache_append {
    // Row `from` (n features, `step` apart) as row (entry, head, row) of `to`. A scale per token is fitted and written; another is read.
    template <class E, class S>
    static void write_row(S const* from, extent_t step, extent_t n, tensor_view<E> const& to, tensor_view<float> const& scale, extent_t entry, extent_t head, extent_t row) {
        E* const out = to.row(entry, head, row);
        extent_t const out_step = to.stride(3);
        if constexpr (is_byte<E>) {
            float& s = scale(scale.extent(0) == 1 ? 0 : entry, scale.extent(1) == 1 ? 0 : head, scale.extent(2) == 1 ? 0 : row, 0);
            if (scale.extent(2) != 1 || to.extent(2) == 1) { s = fitted_scale<E>(from, step, n); }
            store_codes(from, step, n, s, out, out_step);
        } else {
            for (extent_t e = 0; e < n; ++e) { out[e * out_step] = static_cast<E>(static_cast<compute_t<S>>(from[e * step])); }
        }
    }

    // Rows of k and v of sequence b behind its last token; the caller adds to its length. Of more rows than a ring has, the last are written.
    template <class K, class V, class S, class U>
    static void run(cache_view<K, V> const& c, tensor_view<S const> const& k, tensor_view<U const> const& v, extent_t b) {
        extent_t const n = k.length(b), rows = c.k.extent(2), begin = c.kind == cache_kind::ring && n > rows ? n - rows : 0;
        extent_t const before = c.lengths[static_cast<std::size_t>(b)];
        for (extent_t i = begin; i < n;) {
            auto const where = c.locate(b, before + i);
            extent_t const run = where.run < n - i ? where.run : n - i;
            for (extent_t h = 0; h < c.heads(); ++h) {
                for (extent_t x = 0; x < run; ++x) {
                    write_row(k.row(b, h, i + x), k.stride(3), k.extent(3), c.k, c.k_scale, where.entry, h, where.row + x);
                    write_row(v.row(b, h, i + x), v.stride(3), v.extent(3), c.v, c.v_scale, where.entry, h, where.row + x);
                }
            }
            i += run;
        }
    }
};

} // namespace heed
