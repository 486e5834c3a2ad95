// SPDX-License-Identifier: BSD-3-Clause
// Patterns whose keys are the tokens of a sequence followed by summaries of its blocks, so that tokens and summaries share one row of weights (Combiner, Ren et
// al., arXiv:2107.05768). Query i is token i.
//   segment_summaries{n, size}   tokens j <= i of the own segment of `size`, and the summaries of the segments before it, one each behind the n tokens
//   sibling_summaries{n}         token i, and for every l with bit l of i set, the block of 2^l tokens just before the own one of that level: i = 13 sees itself,
//                                [12, 13), [8, 12), [0, 8). Level 0 are the tokens; behind them come the summaries of level 1, 2, ..., floor(n / 2^l) each
//   own_segment{size}            query i is a segment, and sees the tokens in it: what a summary is made from
// Every earlier token is covered once. Cost: O(1) a tile and level, O(1) a key.
#pragma once

#include <heed/policy/pattern/bits.hpp>

#include <bit>

namespace heed {

struct segment_summaries {
    extent_t tokens, size;

    HEED_HD constexpr extent_t keys() const { return tokens + (tokens + size - 1) / size; }
    HEED_HD constexpr bool keep(place const&, extent_t i, extent_t j) const { return j < tokens ? j <= i && j / size == i / size : j - tokens < i / size; }
    HEED_HD constexpr tile classify(place const&, range rows, range cols) const {
        if (rows.size() == 0 || cols.size() == 0) { return tile::skip; }
        extent_t const first = rows.begin / size, last = (rows.end - 1) / size;
        if (cols.begin >= tokens) {
            if (cols.begin - tokens >= last) { return tile::skip; }
            return cols.end - 1 - tokens < first ? tile::full : tile::partial;
        }
        if (cols.end > tokens) { return tile::partial; }
        extent_t const begin = cols.begin / size, end = (cols.end - 1) / size;
        if (cols.begin >= rows.end || end < first) { return tile::skip; }
        return begin == end && first == last && begin == first && cols.end - 1 <= rows.begin ? tile::full : tile::partial;
    }
    HEED_HD void pack(place const&, range rows, range cols, std::uint64_t* words) const {
        for (extent_t j = cols.begin; j < cols.end; ++j) {
            words[j - cols.begin] = j < tokens ? detail::row_bits(rows, {j, (j / size + 1) * size}) : detail::row_bits(rows, {(j - tokens + 1) * size, rows.end});
        }
    }
};

struct own_segment {
    extent_t size;

    HEED_HD constexpr bool keep(place const&, extent_t i, extent_t j) const { return j / size == i; }
    HEED_HD constexpr tile classify(place const&, range rows, range cols) const {
        if (rows.size() == 0 || cols.size() == 0) { return tile::skip; }
        extent_t const first = cols.begin / size, last = (cols.end - 1) / size;
        if (last < rows.begin || first >= rows.end) { return tile::skip; }
        return first == last && rows.size() == 1 ? tile::full : tile::partial;
    }
    HEED_HD constexpr range hull(place const&, range rows) const { return {rows.begin * size, rows.end * size}; }
    HEED_HD void pack(place const&, range rows, range cols, std::uint64_t* words) const {
        for (extent_t j = cols.begin; j < cols.end; ++j) { words[j - cols.begin] = detail::row_bits(rows, {j / size, j / size + 1}); }
    }
};

struct sibling_summaries {
    extent_t tokens;

    HEED_HD constexpr extent_t keys() const {
        extent_t all = 0;
        for (int l = 0; tokens >> l > 0; ++l) { all += tokens >> l; }
        return all;
    }
    // Blocks of a level, and where its keys begin.
    struct level {
        int number;
        extent_t first, blocks;
    };
    HEED_HD constexpr level level_of(extent_t key) const {
        level at{0, 0, tokens};
        while (key >= at.first + at.blocks && at.blocks > 0) { at = {at.number + 1, at.first + at.blocks, tokens >> (at.number + 1)}; }
        return at;
    }
    HEED_HD constexpr bool keep(place const&, extent_t i, extent_t j) const {
        if (i == j) { return true; }
        level const at = level_of(j);
        range const seen = seen_by(at.number, j - at.first);
        return seen.begin <= i && i < seen.end;
    }
    HEED_HD constexpr tile classify(place const&, range rows, range cols) const {
        if (rows.size() == 0 || cols.size() == 0) { return tile::skip; }
        bool any = intersect(rows, cols).size() > 0;
        for (extent_t from = cols.begin; from < cols.end;) {
            level const l = level_of(from);
            if (l.blocks == 0) { return tile::partial; }
            extent_t const end = l.first + l.blocks < cols.end ? l.first + l.blocks : cols.end;
            // blocks seen by some row: from that before the first row's to that before the last row's
            range const near{(rows.begin >> l.number) - 1, (rows.end - 1) >> l.number};
            any = any || intersect(near, {from - l.first, end - l.first}).size() > 0;
            from = end;
        }
        return any ? tile::partial : tile::skip;
    }
    HEED_HD void pack(place const&, range rows, range cols, std::uint64_t* words) const {
        for (extent_t j = cols.begin; j < cols.end; ++j) {
            level const at = level_of(j);
            words[j - cols.begin] = detail::row_bits(rows, seen_by(at.number, j - at.first)) | (j < tokens ? detail::row_bits(rows, {j, j + 1}) : 0);
        }
    }

private:
    // Tokens that see block c of a level besides a token itself: those of the block after it, where c is even.
    HEED_HD static constexpr range seen_by(int l, extent_t c) { return c % 2 != 0 ? range{0, 0} : range{(c + 1) << l, (c + 2) << l}; }
};

} // namespace heed
