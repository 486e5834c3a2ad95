// SPDX-License-Identifier: BSD-3-Clause
// What a decode engine is given: checked views of the new queries, the cache and the results.
#pragma once

#include <heed/policy/place.hpp>
#include <heed/view/cache_view.hpp>
#include <heed/view/tensor_view.hpp>

namespace heed {

// Q: element type of q and out; T: of the log-sum-exp, the type computed in.
template <class Q, class K, class V, class T>
struct decode_problem {
    tensor_view<Q const> q; // (B, H, N, d), possibly ragged
    cache_view<K, V> cache;
    tensor_view<Q> out; // (B, H, N, dv)
    tensor_view<T> lse; // (B, H, N, 1), or null
    double lse_unit = 0;

    HEED_HD extent_t group() const { return cache.heads() > 0 ? q.extent(1) / cache.heads() : 0; }
    HEED_HD place at(extent_t b, extent_t h) const { return {b, h, h / group(), q.length(b), cache.lengths[static_cast<std::size_t>(b)], q.extent(3)}; }
};

} // namespace heed
