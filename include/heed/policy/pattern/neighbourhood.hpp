// SPDX-License-Identifier: BSD-3-Clause
// Generalised neighbourhood attention (Hassani et al., arXiv:2504.16922): query i keeps key j if on every axis j's coordinate is in the window of i's.
// Along an axis of n points (those of i's phase where there is a dilation), s = stride, w = window:
//   leader = min((i div s) s + s div 2, n - 1), keys [leader - w div 2, + w), moved inward at the borders: always w keys
//   causal: leader = min((i div s) s + s - 1, n - 1), keys [max(leader - w + 1, 0), i]
// Queries may be taken in another order than the grid's (neighbourhood_map, reordered): i is then a slot of that order, j a point.
// Cost: a tile is judged from the box around its queries, and packed to bits axis by axis: O(1) a key.
#pragma once

#include <heed/policy/pattern/bits.hpp>
#include <heed/view/neighbourhood.hpp>

namespace heed {

struct neighbourhood {
    neighbourhood_bands bands;

    HEED_HD bool keep(place const&, extent_t i, extent_t j) const {
        extent_t const y = bands.axis[1].length, x = bands.axis[2].length, key[3] = {j / (x * y), j / x % y, j % x};
        bool in = true;
        for (int a = 0; a < 3; ++a) {
            auto const seen = bands.axis[a].of(bands.at[a][i]);
            extent_t const from = key[a] - seen.begin, step = bands.axis[a].dilation;
            in = in && from >= 0 && from < seen.count * step && from % step == 0;
        }
        return in;
    }
    HEED_HD range hull(place const&, range rows) const {
        if (rows.size() == 0) { return {0, 0}; }
        box const b = around(rows);
        return {number(b.any[0].begin, b.any[1].begin, b.any[2].begin), number(b.any[0].end - 1, b.any[1].end - 1, b.any[2].end - 1) + 1};
    }
    HEED_HD tile classify(place const&, range rows, range cols) const {
        if (rows.size() == 0 || cols.size() == 0) { return tile::skip; }
        box const b = around(rows);
        extent_t const y = bands.axis[1].length, x = bands.axis[2].length;
        bool any = false, all = true;
        for (extent_t line = cols.begin / x; line * x < cols.end; ++line) { // runs along the last axis
            range const run = intersect({0, x}, {cols.begin - line * x, cols.end - line * x});
            extent_t const plane = line / y, in_plane = line % y;
            bool const near = inside(b.any[0], plane) && inside(b.any[1], in_plane), common = inside(b.all[0], plane) && inside(b.all[1], in_plane);
            any = any || (near && intersect(run, b.any[2]).size() > 0);
            all = all && common && run.begin >= b.all[2].begin && run.end <= b.all[2].end;
            if (any && !all) { return tile::partial; }
        }
        return !any ? tile::skip : tile::full;
    }
    HEED_HD void pack(place const&, range rows, range cols, std::uint64_t* words) const {
        constexpr extent_t strip = 128;
        std::uint64_t plane[strip], in_plane[strip], in_line[strip];
        extent_t const y = bands.axis[1].length, x = bands.axis[2].length;
        for (extent_t begin = cols.begin; begin < cols.end; begin += strip) {
            extent_t const end = begin + strip < cols.end ? begin + strip : cols.end, first = begin / x, last = (end - 1) / x;
            // coordinates that these keys have on the outer axes: less than a strip of them, or all that there are
            range const planes{first / y, last / y + 1}, lines = first / y == last / y ? range{first % y, last % y + 1} : y <= strip ? range{0, y} : range{0, 0};
            seen_by(0, rows, planes, plane);
            seen_by(1, rows, lines, in_plane);
            bool const whole = first < last && x <= strip; // one table for all the lines
            if (whole) { seen_by(2, rows, {0, x}, in_line); }
            for (extent_t line = first; line <= last; ++line) {
                range const run = intersect({0, x}, {begin - line * x, end - line * x});
                if (lines.size() == 0) { seen_by(1, rows, {line % y, line % y + 1}, in_plane); }
                std::uint64_t const outer = plane[line / y - planes.begin] & in_plane[lines.size() == 0 ? 0 : line % y - lines.begin];
                if (outer != 0 && !whole) { seen_by(2, rows, run, in_line); }
                std::uint64_t const* const seen = in_line + (whole ? run.begin : 0);
                std::uint64_t* const to = words + (line * x + run.begin - cols.begin);
                if (outer == 0) {
                    for (extent_t c = 0; c < run.size(); ++c) { to[c] = 0; }
                } else {
                    for (extent_t c = 0; c < run.size(); ++c) { to[c] = outer & seen[c]; }
                }
            }
        }
    }
    // No data of the call's size: the number of points is what is checked.
    template <class F>
    constexpr void views(call_sizes const& n, F&& f) const {
        f("points of the neighbourhood's grid (queries by keys)", tensor_view<std::int32_t const>(bands.order, {1, 1, bands.points(), bands.points()}, strides{}), shape{1, 1, n.queries, n.keys}, exactly);
    }

private:
    // Coordinates that some query of a tile keeps, and that all do.
    struct box {
        range any[3], all[3];
    };
    HEED_HD static constexpr bool inside(range r, extent_t c) { return r.begin <= c && c < r.end; }
    HEED_HD constexpr extent_t number(extent_t plane, extent_t line, extent_t c) const { return (plane * bands.axis[1].length + line) * bands.axis[2].length + c; }
    HEED_HD box around(range rows) const {
        box b;
        for (int a = 0; a < 3; ++a) {
            neighbourhood_axis const& axis = bands.axis[a];
            std::int32_t const* const at = bands.at[a];
            auto const ends = [&](extent_t point) {
                auto const seen = axis.of(point);
                return range{seen.begin, seen.begin + (seen.count - 1) * axis.dilation + 1};
            };
            if (axis.dilation == 1) { // the ends of windows rise with the point
                std::int32_t least = at[rows.begin], greatest = least;
                for (extent_t i = rows.begin + 1; i < rows.end; ++i) {
                    least = at[i] < least ? at[i] : least;
                    greatest = at[i] > greatest ? at[i] : greatest;
                }
                range const low = ends(least), high = ends(greatest);
                b.any[a] = {low.begin, high.end};
                b.all[a] = {high.begin, low.end};
            } else {
                b.any[a] = ends(at[rows.begin]);
                for (extent_t i = rows.begin + 1; i < rows.end; ++i) {
                    range const r = ends(at[i]);
                    b.any[a] = {r.begin < b.any[a].begin ? r.begin : b.any[a].begin, r.end > b.any[a].end ? r.end : b.any[a].end};
                }
                b.all[a] = {0, 0};
            }
        }
        return b;
    }
    // to[c - coordinates.begin]: the queries of a tile that keep coordinate c of an axis.
    HEED_HD void seen_by(int a, range rows, range coordinates, std::uint64_t* to) const {
        neighbourhood_axis const& axis = bands.axis[a];
        std::int32_t const* const at = bands.at[a];
        for (extent_t c = 0; c < coordinates.size(); ++c) { to[c] = 0; }
        bool const runs = axis.dilation == 1; // windows are runs: their ends are marked, and one walk along the axis fills them
        auto const mark = [&](extent_t point, std::uint64_t same) {
            auto const seen = axis.of(point);
            if (runs) {
                range const in = intersect({seen.begin, seen.begin + seen.count}, coordinates);
                if (in.size() == 0) { return; }
                to[in.begin - coordinates.begin] ^= same;
                if (in.end < coordinates.end) { to[in.end - coordinates.begin] ^= same; }
                return;
            }
            extent_t const step = axis.dilation, late = coordinates.begin > seen.begin ? detail::ceil_div(coordinates.begin - seen.begin, step) * step : 0;
            extent_t const end = seen.begin + seen.count * step < coordinates.end ? seen.begin + seen.count * step : coordinates.end;
            for (extent_t c = seen.begin + late; c < end; c += step) { to[c - coordinates.begin] |= same; }
        };
        std::int32_t least = at[rows.begin], greatest = least;
        for (extent_t i = rows.begin + 1; i < rows.end; ++i) {
            least = at[i] < least ? at[i] : least;
            greatest = at[i] > greatest ? at[i] : greatest;
        }
        constexpr extent_t near = 64;
        extent_t const points = extent_t(greatest) - least + 1;
        if (points > near) { // far apart: one by one
            for (extent_t i = rows.begin; i < rows.end; ++i) { mark(at[i], std::uint64_t(1) << (i - rows.begin)); }
        } else { // queries of one coordinate together
            std::uint64_t of[near];
            for (extent_t p = 0; p < points; ++p) { of[p] = 0; }
            for (extent_t i = rows.begin; i < rows.end; ++i) { of[at[i] - least] |= std::uint64_t(1) << (i - rows.begin); }
            for (extent_t p = 0; p < points; ++p) {
                if (of[p] != 0) { mark(least + p, of[p]); }
            }
        }
        for (extent_t c = 1; runs && c < coordinates.size(); ++c) { to[c] ^= to[c - 1]; }
    }
};

} // namespace heed
