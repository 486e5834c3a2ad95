// SPDX-License-Identifier: BSD-3-Clause
// Patterns of integer rules, i' = i + (M - N) (rows aligned bottom right):
//   strided{s}            j <= i' and (i' - j < s or s divides i' - j)            Child et al., arXiv:1904.10509, the strided form, both heads in one
//   fixed{s, c}           j <= i' and (j / s = i' / s or j mod s >= s - c)        the fixed form: own block, and the last c keys of every block
//   dilated_window{w, s}  |i' - j| <= w s and s divides i' - j                    Beltagy et al., arXiv:2004.05150
//   global_tokens{g}      j < g or i' < g                                         Longformer is dilated_window{w, s} | global_tokens{g}
// Cost: a tile is judged from its corners; a tile on an edge is packed to bits, O(1) and one step per kept pair of the sparse part for each key.
#pragma once

#include <heed/policy/pattern/bits.hpp>

namespace heed {

namespace detail {

// Distances i' - j of a tile, both ends included.
struct distances {
    extent_t least, greatest;
    HEED_HD constexpr distances(place const& at, range rows, range cols) : least(rows.begin + at.shift() - (cols.end - 1)), greatest(rows.end - 1 + at.shift() - cols.begin) {}
    // A multiple of step lies in [from, to] and among these.
    HEED_HD constexpr bool meet_multiple(extent_t step, extent_t from, extent_t to) const {
        extent_t const low = least > from ? least : from, high = greatest < to ? greatest : to;
        return low <= high && floor_div(high, step) * step >= low;
    }
};
// Queries i of the tile with i' - j a multiple of step in [from, to].
HEED_HD constexpr std::uint64_t multiple_bits(range rows, extent_t zero, extent_t step, extent_t from, extent_t to) {
    // zero: the query with i' = j
    range const in = intersect(rows, {zero + from, zero + to + 1});
    std::uint64_t bits = 0;
    for (extent_t i = zero + ceil_div(in.begin - zero, step) * step; i < in.end; i += step) { bits |= std::uint64_t(1) << (i - rows.begin); }
    return bits;
}
inline constexpr extent_t far = extent_t(1) << 40;

} // namespace detail

struct strided {
    extent_t stride;

    HEED_HD constexpr bool keep(place const& at, extent_t i, extent_t j) const {
        extent_t const d = i + at.shift() - j;
        return d >= 0 && (d < stride || d % stride == 0);
    }
    HEED_HD constexpr tile classify(place const& at, range rows, range cols) const {
        detail::distances const d(at, rows, cols);
        if (d.greatest < 0) { return tile::skip; }
        if (d.least >= 0 && (d.greatest < stride || stride == 1)) { return tile::full; }
        return d.least >= stride && !d.meet_multiple(stride, stride, detail::far) ? tile::skip : tile::partial;
    }
    HEED_HD constexpr range hull(place const& at, range rows) const { return {0, rows.end + at.shift()}; }
    HEED_HD void pack(place const& at, range rows, range cols, std::uint64_t* words) const {
        for (extent_t j = cols.begin; j < cols.end; ++j) {
            extent_t const own = j - at.shift();
            words[j - cols.begin] = detail::row_bits(rows, {own, own + stride}) | detail::multiple_bits(rows, own, stride, stride, detail::far);
        }
    }
};

struct fixed {
    extent_t stride, summary;

    HEED_HD constexpr bool keep(place const& at, extent_t i, extent_t j) const {
        extent_t const row = i + at.shift();
        return j <= row && (j / stride == detail::floor_div(row, stride) || j % stride >= stride - summary);
    }
    HEED_HD constexpr tile classify(place const& at, range rows, range cols) const {
        detail::distances const d(at, rows, cols);
        if (d.greatest < 0) { return tile::skip; }
        extent_t const first = cols.begin / stride, last = (cols.end - 1) / stride, row = detail::floor_div(rows.begin + at.shift(), stride);
        bool const one_block = first == last, summaries = one_block && cols.begin % stride >= stride - summary;
        if (d.least >= 0 && (summaries || summary >= stride || (one_block && row == first && detail::floor_div(rows.end - 1 + at.shift(), stride) == first))) { return tile::full; }
        return last < row && one_block && (cols.end - 1) % stride < stride - summary ? tile::skip : tile::partial;
    }
    HEED_HD constexpr range hull(place const& at, range rows) const { return {0, rows.end + at.shift()}; }
    HEED_HD void pack(place const& at, range rows, range cols, std::uint64_t* words) const {
        extent_t in_block = cols.begin % stride;
        for (extent_t j = cols.begin; j < cols.end; ++j) {
            extent_t const own = j - at.shift();
            words[j - cols.begin] = detail::row_bits(rows, {own, in_block >= stride - summary ? rows.end : own - in_block + stride});
            in_block = in_block + 1 == stride ? 0 : in_block + 1;
        }
    }
};

struct dilated_window {
    extent_t half, dilation = 1;

    HEED_HD constexpr bool keep(place const& at, extent_t i, extent_t j) const {
        extent_t const d = i + at.shift() - j;
        return d <= half * dilation && -d <= half * dilation && d % dilation == 0;
    }
    HEED_HD constexpr tile classify(place const& at, range rows, range cols) const {
        detail::distances const d(at, rows, cols);
        extent_t const reach = half * dilation;
        if (!d.meet_multiple(dilation, -reach, reach)) { return tile::skip; }
        return dilation == 1 && d.least >= -reach && d.greatest <= reach ? tile::full : tile::partial;
    }
    HEED_HD constexpr range hull(place const& at, range rows) const { return {rows.begin + at.shift() - half * dilation, rows.end + at.shift() + half * dilation}; }
    HEED_HD void pack(place const& at, range rows, range cols, std::uint64_t* words) const {
        extent_t const reach = half * dilation;
        for (extent_t j = cols.begin; j < cols.end; ++j) {
            extent_t const own = j - at.shift();
            words[j - cols.begin] = dilation == 1 ? detail::row_bits(rows, {own - reach, own + reach + 1}) : detail::multiple_bits(rows, own, dilation, -reach, reach);
        }
    }
};

struct global_tokens {
    extent_t count;

    template <class I>
    HEED_HD auto keep(place const& at, I i, I j) const {
        auto const key = j < limit<I>(count), query = i < limit<I>(count - at.shift());
        return key | query;
    }
    HEED_HD constexpr tile classify(place const& at, range rows, range cols) const {
        if (rows.end + at.shift() <= count || cols.end <= count) { return tile::full; }
        return rows.begin + at.shift() >= count && cols.begin >= count ? tile::skip : tile::partial;
    }
    HEED_HD constexpr range hull(place const& at, range rows) const { return {0, rows.begin + at.shift() < count ? at.keys : count}; }
};

} // namespace heed
