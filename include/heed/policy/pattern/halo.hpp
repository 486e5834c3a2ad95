// SPDX-License-Identifier: BSD-3-Clause
// halo_window: keys of one block of a map and the halo around it, (block + 2 reach)^2 of them, row by row, for the queries of that block; batch entry
// b blocks + c holds block c of image b. masked: keys outside of the map are left out; else every pair exists, and outside keys are zeros.
// Cost: O(1) a tile, and O(rows of the window) where a border crosses it.
#pragma once

#include <heed/policy/pattern/bits.hpp>

namespace heed {

// Keys outside of a map: zeros that take part with what score they get, or masked.
enum class border { zeros, masked };

struct halo_window {
    extent_t height, width, block, reach;
    border outside;

    HEED_HD constexpr extent_t side() const { return block + 2 * reach; }
    HEED_HD constexpr extent_t across() const { return (width + block - 1) / block; }
    HEED_HD constexpr extent_t down() const { return (height + block - 1) / block; }
    // The part of the window's rows, or columns, that lies in the map.
    HEED_HD constexpr range rows_inside(extent_t c) const { return inside(c / across(), height); }
    HEED_HD constexpr range columns_inside(extent_t c) const { return inside(c % across(), width); }

    HEED_HD constexpr bool keep(place const& at, extent_t, extent_t j) const {
        if (outside == border::zeros) { return true; }
        extent_t const c = at.batch % (across() * down()), y = j / side(), x = j % side();
        range const rows = rows_inside(c), columns = columns_inside(c);
        return rows.begin <= y && y < rows.end && columns.begin <= x && x < columns.end;
    }
    HEED_HD constexpr tile classify(place const& at, range rows, range cols) const {
        if (rows.size() == 0 || cols.size() == 0) { return tile::skip; }
        if (outside == border::zeros) { return tile::full; }
        extent_t const c = at.batch % (across() * down());
        range const y = rows_inside(c), x = columns_inside(c);
        if (x.size() == side() && y.begin * side() <= cols.begin && cols.end <= y.end * side()) { return tile::full; }
        return cols.end <= y.begin * side() || y.end * side() <= cols.begin ? tile::skip : tile::partial;
    }
    HEED_HD void pack(place const& at, range rows, range cols, std::uint64_t* words) const {
        for (extent_t j = cols.begin; j < cols.end; ++j) { words[j - cols.begin] = keep(at, rows.begin, j) ? detail::row_bits(rows, rows) : 0; }
    }

private:
    HEED_HD constexpr range inside(extent_t number, extent_t length) const {
        extent_t const first = number * block - reach;
        range const all = intersect({0, side()}, {-first, length - first});
        return all;
    }
};

} // namespace heed
