// SPDX-License-Identifier: BSD-3-Clause
// Caches whose rows serve many heads.
//
//   latent_cache_view   one row [c | k^R] per token (and latent head): its first value_width numbers are the value too, in the same memory
//   factor_cache_view   a key row [A (R_k x H) | B (R_k x d)], a value row [A (R_v x H) | B (R_v x dv)], of which head h's key is 1/R_k sum_r A[r][h] B[r] and
//                       its value 1/R_v sum_r A[r][h] B[r]: R_k (H + d) + R_v (H + dv) numbers per token instead of H (d + dv). B_k is cached as it will be
//                       used, that is, turned.
#pragma once

#include <heed/view/cache_view.hpp>

namespace heed {

// How rows are made of factors. No heads: rows are keys and values themselves.
struct row_factors {
    extent_t heads = 0; // of A
    extent_t rank_k = 1, rank_v = 1;
    double factor_k = 0, factor_v = 0; // instead of 1/R, where not 0

    HEED_HD constexpr bool any() const { return heads > 0; }
    HEED_HD constexpr double weight_k() const { return factor_k != 0 ? factor_k : any() && rank_k > 0 ? 1.0 / static_cast<double>(rank_k) : 1.0; }
    HEED_HD constexpr double weight_v() const { return factor_v != 0 ? factor_v : any() && rank_v > 0 ? 1.0 / static_cast<double>(rank_v) : 1.0; }
    // Numbers of a row, from the width of a head, and back.
    HEED_HD static constexpr extent_t row(extent_t heads, extent_t rank, extent_t width) { return heads > 0 ? rank * (heads + width) : width; }
    HEED_HD constexpr extent_t width_k(extent_t row) const { return any() ? (rank_k > 0 ? row / rank_k - heads : 0) : row; }
    HEED_HD constexpr extent_t width_v(extent_t row) const { return any() ? (rank_v > 0 ? row / rank_v - heads : 0) : row; }
};

template <class K, class V = K>
struct factor_cache_view {
    cache_view<K, V> rows; // one head; widths row_factors::row(H, R, d)
    row_factors of;

    HEED_HD extent_t width() const { return of.width_k(rows.k.extent(3)); }
    HEED_HD extent_t value_width() const { return of.width_v(rows.v.extent(3)); }
    HEED_HD constexpr factor_cache_view const& grouped() const { return *this; }
};

template <class E>
struct latent_cache_view {
    cache_view<E> rows; // v is a view of the first features of k

    HEED_HD constexpr latent_cache_view const& grouped() const { return *this; }
    static constexpr row_factors of = {};
};

} // namespace heed
