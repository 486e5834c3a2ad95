// SPDX-License-Identifier: BSD-3-Clause
// Patterns with one number per batch entry (int32 views {B or 1, 1, 1, 1}):
//   key_lengths  j < n_b: keys beyond are padding or unused cache slots, and never reach a product of a full tile
//   prefix       j < p_b, or j <= i + (M - N): a prefix that every row sees, causal after it
//   causal_lengths   j <= i + (n_b - N): the queries are the last of n_b keys; those beyond are padding
#pragma once

#include <heed/policy/pattern/band.hpp>
#include <heed/view/tensor_view.hpp>

namespace heed {

namespace detail {
HEED_HD extent_t batch_entry(tensor_view<std::int32_t const> const& v, place const& at) { return v(v.extent(0) == 1 ? 0 : at.batch, 0, 0, 0); }
} // namespace detail

struct key_lengths {
    tensor_view<std::int32_t const> lengths;

    template <class I>
    HEED_HD auto keep(place const& at, I, I j) const {
        return j < limit<I>(detail::batch_entry(lengths, at));
    }
    HEED_HD tile classify(place const& at, range, range cols) const {
        extent_t const n = detail::batch_entry(lengths, at);
        return cols.begin >= n ? tile::skip : cols.end <= n ? tile::full : tile::partial;
    }
    HEED_HD range hull(place const& at, range) const { return {0, detail::batch_entry(lengths, at)}; }
    template <class F>
    constexpr void views(call_sizes const& n, F&& f) const {
        f("key lengths", lengths, shape{n.batch, 1, 1, 1});
    }
};

struct prefix {
    tensor_view<std::int32_t const> lengths;

    template <class I>
    HEED_HD auto keep(place const& at, I i, I j) const {
        auto const inside = j < limit<I>(detail::batch_entry(lengths, at)), causal = j <= i + limit<I>(at.shift());
        return inside | causal;
    }
    HEED_HD tile classify(place const& at, range rows, range cols) const {
        extent_t const n = detail::batch_entry(lengths, at);
        tile const causal = causal_bottom_right::band(at).classify(rows, cols);
        if (cols.end <= n || causal == tile::full) { return tile::full; }
        return cols.begin >= n ? causal : tile::partial;
    }
    HEED_HD range hull(place const& at, range rows) const {
        extent_t const n = detail::batch_entry(lengths, at), c = rows.end + at.shift();
        return {0, n > c ? n : c};
    }
    template <class F>
    constexpr void views(call_sizes const& n, F&& f) const {
        f("prefix lengths", lengths, shape{n.batch, 1, 1, 1});
    }
};

struct causal_lengths {
    tensor_view<std::int32_t const> lengths;

    HEED_HD extent_t shift(place const& at) const { return detail::batch_entry(lengths, at) - at.queries; }
    template <class I>
    HEED_HD auto keep(place const& at, I i, I j) const {
        return j <= i + limit<I>(shift(at));
    }
    HEED_HD tile classify(place const& at, range rows, range cols) const {
        extent_t const s = shift(at);
        return cols.begin > rows.end - 1 + s ? tile::skip : cols.end - 1 <= rows.begin + s ? tile::full : tile::partial;
    }
    HEED_HD range hull(place const& at, range rows) const { return {0, rows.end + shift(at)}; }
    template <class F>
    constexpr void views(call_sizes const& n, F&& f) const {
        f("key lengths", lengths, shape{n.batch, 1, 1, 1});
    }
};

} // namespace heed
