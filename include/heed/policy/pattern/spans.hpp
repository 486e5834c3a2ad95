// SPDX-License-Identifier: BSD-3-Clause
// span_or_window: query i, at position t = i + (M - N), sees the keys of a span of its own, begin_i <= j < end_i, and the last `window` keys, t - window < j <= t.
// Spans int32 {B or 1, H or 1, N, 2}: begin and end, no later than t + 1. Cost: O(rows) a tile, O(1) a kept pair where it is packed.
#pragma once

#include <heed/policy/pattern/bits.hpp>
#include <heed/policy/pattern/mask.hpp>

namespace heed {

struct span_or_window {
    tensor_view<std::int32_t const> spans;
    extent_t window;

    HEED_HD range span(place const& at, extent_t i) const {
        std::int32_t const* const row = detail::broadcast_row(spans, at, i);
        return {row[0], row[spans.stride(3)]};
    }
    HEED_HD bool keep(place const& at, extent_t i, extent_t j) const {
        range const s = span(at, i);
        extent_t const t = i + at.shift();
        return (s.begin <= j && j < s.end) || (t - window < j && j <= t);
    }
    HEED_HD tile classify(place const& at, range rows, range cols) const {
        bool any = false, all = true;
        for (extent_t i = rows.begin; i < rows.end; ++i) {
            range const s = intersect(span(at, i), cols), near = intersect({i + at.shift() - window + 1, i + at.shift() + 1}, cols);
            any = any || s.size() + near.size() > 0;
            all = all && (s.size() == cols.size() || near.size() == cols.size());
            if (any && !all) { return tile::partial; }
        }
        return any && cols.size() > 0 ? tile::full : tile::skip;
    }
    HEED_HD range hull(place const& at, range rows) const {
        range all{0, 0};
        for (extent_t i = rows.begin; i < rows.end; ++i) {
            range const s = span(at, i), near{i + at.shift() - window + 1, i + at.shift() + 1};
            for (range const r : {s, near}) {
                if (r.size() == 0) { continue; }
                all = all.size() == 0 ? r : range{r.begin < all.begin ? r.begin : all.begin, r.end > all.end ? r.end : all.end};
            }
        }
        return all;
    }
    HEED_HD void pack(place const& at, range rows, range cols, std::uint64_t* words) const {
        for (extent_t j = 0; j < cols.size(); ++j) { words[j] = 0; }
        for (extent_t i = rows.begin; i < rows.end; ++i) {
            for (range const r : {span(at, i), range{i + at.shift() - window + 1, i + at.shift() + 1}}) {
                range const in = intersect(r, cols);
                for (extent_t j = in.begin; j < in.end; ++j) { words[j - cols.begin] |= std::uint64_t(1) << (i - rows.begin); }
            }
        }
    }
    template <class F>
    constexpr void views(call_sizes const& n, F&& f) const {
        f("spans", spans, shape{n.batch, n.head, n.queries, 2}, exactly);
    }
};

} // namespace heed
