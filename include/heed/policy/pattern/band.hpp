// SPDX-License-Identifier: BSD-3-Clause
// Patterns that are bands of diagonals, i' = i + (M - N) throughout (rows aligned bottom right) but for causal_top_left:
//   full                 every pair
//   causal_bottom_right  j <= i'
//   causal_top_left      j <= i
//   window{w}            i' - w < j <= i'          (w keys, the row's own included)
//   window{l, r}         i' - l <= j <= i' + r
// Cost: a tile is judged from its corners; only tiles that the edge of a band crosses are masked element by element.
#pragma once

#include <heed/policy/place.hpp>

namespace heed {

namespace detail {

// keeps low <= j - i <= high
struct diagonals {
    extent_t low, high;

    template <class I>
    HEED_HD auto keep(I i, I j) const {
        auto const above = limit<I>(low) <= j - i, below = j - i <= limit<I>(high);
        return above & below;
    }
    HEED_HD constexpr tile classify(range rows, range cols) const {
        extent_t const least = cols.begin - (rows.end - 1), greatest = cols.end - 1 - rows.begin;
        if (greatest < low || least > high) { return tile::skip; }
        return least >= low && greatest <= high ? tile::full : tile::partial;
    }
    HEED_HD constexpr range hull(range rows) const { return {rows.begin + low, rows.end + high}; }
};

inline constexpr extent_t unbounded = extent_t(1) << 40;

} // namespace detail

struct full {
    template <class I>
    HEED_HD auto keep(place const&, I i, I j) const {
        auto const row = i == i, col = j == j;
        return row & col;
    }
    HEED_HD constexpr tile classify(place const&, range, range) const { return tile::full; }
};

struct causal_bottom_right {
    HEED_HD static constexpr detail::diagonals band(place const& at) { return {-detail::unbounded, at.shift()}; }
    template <class I>
    HEED_HD auto keep(place const& at, I i, I j) const {
        return j <= i + limit<I>(at.shift());
    }
    HEED_HD constexpr tile classify(place const& at, range rows, range cols) const { return band(at).classify(rows, cols); }
    HEED_HD constexpr range hull(place const& at, range rows) const { return {0, rows.end + at.shift()}; }
};

struct causal_top_left {
    template <class I>
    HEED_HD auto keep(place const&, I i, I j) const {
        return j <= i;
    }
    HEED_HD constexpr tile classify(place const&, range rows, range cols) const { return detail::diagonals{-detail::unbounded, 0}.classify(rows, cols); }
    HEED_HD constexpr range hull(place const&, range rows) const { return {0, rows.end}; }
};

struct window {
    extent_t left, right;
    // the last w keys, the row's own included
    HEED_HD explicit constexpr window(extent_t w) : left(w - 1), right(0) {}
    HEED_HD constexpr window(extent_t l, extent_t r) : left(l), right(r) {}

    HEED_HD constexpr detail::diagonals band(place const& at) const { return {at.shift() - left, at.shift() + right}; }
    template <class I>
    HEED_HD auto keep(place const& at, I i, I j) const {
        return band(at).keep(i, j);
    }
    HEED_HD constexpr tile classify(place const& at, range rows, range cols) const { return band(at).classify(rows, cols); }
    HEED_HD constexpr range hull(place const& at, range rows) const { return band(at).hull(rows); }
};

} // namespace heed
