// SPDX-License-Identifier: BSD-3-Clause
// All scores of a vector of rows, for normalizers that need them together. A fold runs in four chains, so that it waits for no addition, and
// joins them once per tile of keys: the order depends on the number of keys alone, and sums round as a tile's do.
#pragma once

#include <heed/kernel/math.hpp>
#include <heed/kernel/tile_config.hpp>

namespace heed {

template <class T, class A, tile_config C>
struct row_scores {
    using V = vec<T, A>;
    static constexpr extent_t pitch = extent_t(C.vecs) * V::lanes;

    T const* s; // [keys][pitch], one vector of each row of it
    extent_t keys;

    // X is a monoid over scores: add(score), join(other); `empty` its neutral element.
    template <class X>
    X fold(X const empty) const {
        X total = empty;
        for (extent_t begin = 0; begin < keys; begin += C.keys) {
            extent_t const end = begin + C.keys < keys ? begin + C.keys : keys;
            X part[4];
            static_for<4>([&](auto u) HEED_INLINE_LAMBDA { part[u] = empty; });
            extent_t j = begin;
            for (; j + 4 <= end; j += 4) {
                static_for<4>([&](auto u) HEED_INLINE_LAMBDA { part[u].add(V::load(s + (j + u) * pitch)); });
            }
            for (; j < end; ++j) { part[0].add(V::load(s + j * pitch)); }
            part[0].join(part[1]);
            part[2].join(part[3]);
            part[0].join(part[2]);
            total.join(part[0]);
        }
        return total;
    }
};

} // namespace heed
