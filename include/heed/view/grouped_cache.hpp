// SPDX-License-Identifier: BSD-3-Clause
// Caches whose rows serve many heads.
//
//   latent_cache_view   one row [c | k^R] per token (and latent head): its first value_width numbers are the value too, in the same memory
//   factor_cache_view   a key row [A (R_k x H) | B (R_k x d)], a value row [A (R_v x H) | B (R_v x dv)], of which head h's key is 1/R_k sum_r A[r][h] B[r] and
//                       its value 1/R_v sum_r A[r][h] B[r]: R_k (H + d) + R_v (H + dv) numbers per token instead of H (d + dv). B_k is cached as it will be
//                       used, that is, turned. A factor that is the same for all tokens lies beside the rows, once: rows of R d, or R H, numbers.
#pragma once

#include <heed/view/cache_view.hpp>

#include <type_traits>

namespace heed {

// Which factor of keys, or of values, all tokens share: that of heads (A) or that of features (B).
enum class shared_factor { none, heads, features };

// How rows are made of factors. No heads: rows are keys and values themselves.
struct row_factors {
    extent_t heads = 0; // of A
    extent_t rank_k = 1, rank_v = 1;
    double factor_k = 0, factor_v = 0; // instead of 1/R, where not 0
    shared_factor shared_k = shared_factor::none, shared_v = shared_factor::none;
    extent_t width = 0, value_width = 0; // of a head; needed where B is shared, since rows do not say it

    HEED_HD constexpr bool any() const { return heads > 0; }
    HEED_HD constexpr double weight_k() const { return factor_k != 0 ? factor_k : any() && rank_k > 0 ? 1.0 / static_cast<double>(rank_k) : 1.0; }
    HEED_HD constexpr double weight_v() const { return factor_v != 0 ? factor_v : any() && rank_v > 0 ? 1.0 / static_cast<double>(rank_v) : 1.0; }
    // Numbers of a row, from the width of a head, and back; of the shared factor.
    HEED_HD static constexpr extent_t row(extent_t heads, extent_t rank, extent_t width, shared_factor shared = shared_factor::none) {
        if (heads <= 0) { return width; }
        return rank * ((shared == shared_factor::heads ? 0 : heads) + (shared == shared_factor::features ? 0 : width));
    }
    HEED_HD static constexpr extent_t beside(extent_t heads, extent_t rank, extent_t width, shared_factor shared) {
        return shared == shared_factor::heads ? rank * heads : shared == shared_factor::features ? rank * width : 0;
    }
    HEED_HD constexpr extent_t width_k(extent_t row) const { return width_of(row, rank_k, shared_k, width); }
    HEED_HD constexpr extent_t width_v(extent_t row) const { return width_of(row, rank_v, shared_v, value_width); }

private:
    HEED_HD constexpr extent_t width_of(extent_t row, extent_t rank, shared_factor shared, extent_t stated) const {
        if (!any()) { return row; }
        if (shared == shared_factor::features) { return stated; }
        return rank > 0 ? row / rank - (shared == shared_factor::heads ? 0 : heads) : 0;
    }
};

namespace detail {
template <class E>
using number_of_cache = std::conditional_t<std::is_same_v<E, double>, double, float>; // what its elements are computed in
} // namespace detail

template <class K, class V = K>
struct factor_cache_view {
    cache_view<K, V> rows; // one head; widths row_factors::row(H, R, d)
    row_factors of;
    detail::number_of_cache<K>*beside_k = nullptr, *beside_v = nullptr; // the shared factors, [R][H] or [R][d]; written by the first append

    HEED_HD extent_t width() const { return of.width_k(rows.k.extent(3)); }
    HEED_HD extent_t value_width() const { return of.width_v(rows.v.extent(3)); }
    HEED_HD constexpr factor_cache_view const& grouped() const { return *this; }
};

template <class E>
struct latent_cache_view {
    cache_view<E> rows; // v is a view of the first features of k, v_scale (one-byte elements) that of k

    HEED_HD constexpr latent_cache_view const& grouped() const { return *this; }
    static constexpr row_factors of = {};
    static constexpr detail::number_of_cache<E> const *beside_k = nullptr, *beside_v = nullptr;
};

} // namespace heed
