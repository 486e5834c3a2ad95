// SPDX-License-Identifier: BSD-3-Clause
// Order by positions that are data, for tokens that were picked from a sequence: query i, at position q_i, sees key j, at position k_j, if k_j <= q_i, or k_j < q_i
// where `strict` (a token that may not see itself). Positions int32 {B or 1, H or 1, N or M, 1}, of keys by query head too; -1 marks a key that all see.
#pragma once

#include <heed/policy/pattern/mask.hpp>

namespace heed {

struct positions {
    tensor_view<std::int32_t const> query, key;
    bool strict = false;

    HEED_HD bool keep(place const& at, extent_t i, extent_t j) const { return *detail::broadcast_row(key, at, j) <= *detail::broadcast_row(query, at, i) - (strict ? 1 : 0); }
    HEED_HD tile classify(place const& at, range rows, range cols) const {
        if (rows.size() == 0 || cols.size() == 0) { return tile::skip; }
        range const q = ends(query, at, rows), k = ends(key, at, cols);
        extent_t const late = strict ? 1 : 0;
        if (k.begin > q.end - late) { return tile::skip; }
        return k.end <= q.begin - late ? tile::full : tile::partial;
    }
    HEED_HD void pack(place const& at, range rows, range cols, std::uint64_t* words) const {
        for (extent_t j = cols.begin; j < cols.end; ++j) {
            std::int32_t const k = *detail::broadcast_row(key, at, j) + (strict ? 1 : 0);
            std::uint64_t word = 0;
            for (extent_t i = rows.begin; i < rows.end; ++i) { word |= static_cast<std::uint64_t>(k <= *detail::broadcast_row(query, at, i)) << (i - rows.begin); }
            words[j - cols.begin] = word;
        }
    }
    template <class F>
    constexpr void views(call_sizes const& n, F&& f) const {
        f("positions of queries", query, shape{n.batch, n.head, n.queries, 1});
        f("positions of keys", key, shape{n.batch, n.head, n.keys, 1});
    }

private:
    // Least and greatest position.
    HEED_HD static range ends(tensor_view<std::int32_t const> const& of, place const& at, range some) {
        range found{*detail::broadcast_row(of, at, some.begin), *detail::broadcast_row(of, at, some.begin)};
        for (extent_t x = some.begin + 1; x < some.end; ++x) {
            std::int32_t const p = *detail::broadcast_row(of, at, x);
            found = {p < found.begin ? p : found.begin, p > found.end ? p : found.end};
        }
        return found;
    }
};

} // namespace heed
