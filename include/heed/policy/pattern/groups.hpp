// SPDX-License-Identifier: BSD-3-Clause
// Groups of neighbouring positions that see only each other, i' = i + (M - N):
//   head_groups    (i' + shift_h) div size_h = (j + shift_h) div size_h; size 0: everything. A window for each head (multi-window attention, Yadav et al.,
//                  arXiv:2306.00561), and shifted groups: size G with shift G / 2 in half of the heads is S2-Attn without wrap-around (Chen et al.,
//                  arXiv:2309.12307): groups [0, G/2), [G/2, 3G/2), ...; causal_bottom_right{} & head_groups{...} for its causal form
//   rolled_groups  the form that rolls the sequence by -shift_h: t(x) = (x - shift_h) mod M, same t div size and t(j) <= t(i'): the last group holds the
//                  sequence's end and then its start, so the first shift_h positions see the last ones; i' < 0 sees nothing
// sizes, shifts: one int32 per head, {1, H or 1, 1, 1}; 0 <= shift. Cost: O(1) a tile, and O(1) a key where a border crosses it.
#pragma once

#include <heed/policy/pattern/bits.hpp>
#include <heed/view/tensor_view.hpp>

namespace heed {

namespace detail {
HEED_HD extent_t head_entry(tensor_view<std::int32_t const> const& v, place const& at) { return v(0, v.extent(1) == 1 ? 0 : at.head, 0, 0); }
} // namespace detail

struct head_groups {
    tensor_view<std::int32_t const> sizes, shifts;

    HEED_HD bool keep(place const& at, extent_t i, extent_t j) const {
        extent_t const size = detail::head_entry(sizes, at), shift = detail::head_entry(shifts, at);
        return size <= 0 || detail::floor_div(i + at.shift() + shift, size) == (j + shift) / size;
    }
    HEED_HD tile classify(place const& at, range rows, range cols) const {
        extent_t const size = detail::head_entry(sizes, at);
        if (size <= 0) { return tile::full; }
        range const q = groups_of(at, size, {rows.begin + at.shift(), rows.end + at.shift()}), k = groups_of(at, size, cols);
        if (q.end < k.begin || k.end < q.begin) { return tile::skip; }
        return q.begin == q.end && k.begin == k.end ? tile::full : tile::partial;
    }
    HEED_HD range hull(place const& at, range rows) const {
        extent_t const size = detail::head_entry(sizes, at), shift = detail::head_entry(shifts, at);
        if (size <= 0) { return {0, at.keys}; }
        range const q = groups_of(at, size, {rows.begin + at.shift(), rows.end + at.shift()});
        return {q.begin * size - shift, (q.end + 1) * size - shift};
    }
    HEED_HD void pack(place const& at, range rows, range cols, std::uint64_t* words) const {
        extent_t const size = detail::head_entry(sizes, at), shift = detail::head_entry(shifts, at);
        for (extent_t j = cols.begin; j < cols.end; ++j) {
            extent_t const begin = size <= 0 ? rows.begin : (j + shift) / size * size - shift - at.shift();
            words[j - cols.begin] = detail::row_bits(rows, {begin, size <= 0 ? rows.end : begin + size});
        }
    }
    template <class F>
    constexpr void views(call_sizes const& n, F&& f) const {
        f("group sizes", sizes, shape{1, n.head, 1, 1});
        f("group shifts", shifts, shape{1, n.head, 1, 1});
    }

private:
    // Groups of the first and the last position.
    HEED_HD range groups_of(place const& at, extent_t size, range positions) const {
        extent_t const shift = detail::head_entry(shifts, at);
        return {detail::floor_div(positions.begin + shift, size), detail::floor_div(positions.end - 1 + shift, size)};
    }
};

struct rolled_groups {
    extent_t size;
    tensor_view<std::int32_t const> shifts;

    HEED_HD bool keep(place const& at, extent_t i, extent_t j) const {
        extent_t const q = turned(at, i + at.shift()), k = turned(at, j);
        return i + at.shift() >= 0 && q / size == k / size && k <= q;
    }
    // Judged where neither side crosses the turn.
    HEED_HD tile classify(place const& at, range rows, range cols) const {
        range const q{turned(at, rows.begin + at.shift()), turned(at, rows.end - 1 + at.shift())}, k{turned(at, cols.begin), turned(at, cols.end - 1)};
        if (q.end < q.begin || k.end < k.begin || rows.begin + at.shift() < 0) { return tile::partial; }
        if (q.end < k.begin || q.end / size < k.begin / size || k.end / size < q.begin / size) { return tile::skip; }
        return q.begin >= k.end && q.begin / size == q.end / size && k.begin / size == k.end / size && q.begin / size == k.begin / size ? tile::full : tile::partial;
    }
    HEED_HD void pack(place const& at, range rows, range cols, std::uint64_t* words) const {
        for (extent_t j = cols.begin; j < cols.end; ++j) { // queries t in [k, end of its group), which the turn may cut in two
            extent_t const k = turned(at, j), end = (k / size + 1) * size < at.keys ? (k / size + 1) * size : at.keys, shift = detail::head_entry(shifts, at) % at.keys;
            range const seen{k + shift, end + shift};
            std::uint64_t bits = 0;
            for (extent_t by : {extent_t(0), at.keys}) {
                range const positions = intersect({seen.begin - by, seen.end - by}, {0, at.keys});
                if (positions.size() > 0) { bits |= detail::row_bits(rows, {positions.begin - at.shift(), positions.end - at.shift()}); }
            }
            words[j - cols.begin] = bits;
        }
    }
    template <class F>
    constexpr void views(call_sizes const& n, F&& f) const {
        f("group shifts", shifts, shape{1, n.head, 1, 1});
    }

private:
    HEED_HD extent_t turned(place const& at, extent_t x) const {
        extent_t const t = (x - detail::head_entry(shifts, at)) % at.keys;
        return t < 0 ? t + at.keys : t;
    }
};

} // namespace heed
