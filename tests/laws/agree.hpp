// SPDX-License-Identifier: BSD-3-Clause
// What a pattern says of a rectangle, held against what it says of the pairs in it.
#pragma once

#include "law.hpp"

namespace heed_test {

struct rectangle {
    heed::place at;
    heed::range rows, cols;
};
// Some rows and columns of that many queries and keys.
inline rectangle draw_rectangle(extent_t queries, extent_t keys) {
    rectangle r;
    r.at.batch = draw(0, 1);
    r.at.head = draw(0, 2);
    r.at.queries = queries;
    r.at.keys = keys;
    r.rows.begin = draw(0, r.at.queries - 1);
    r.rows.end = draw(r.rows.begin + 1, std::min(r.at.queries, r.rows.begin + 64));
    r.cols.begin = draw(0, r.at.keys - 1);
    r.cols.end = draw(r.cols.begin + 1, r.at.keys);
    RC_LOG() << "N=" << r.at.queries << " M=" << r.at.keys << " rows " << r.rows.begin << ".." << r.rows.end << " columns " << r.cols.begin << ".."
             << r.cols.end << '\n';
    return r;
}
inline rectangle draw_rectangle() {
    extent_t const queries = draw(1, 150), keys = draw(1, 150);
    return draw_rectangle(queries, keys);
}

template <class P>
void agree(P const& p, rectangle const& r) {
    heed::tile const verdict = p.classify(r.at, r.rows, r.cols);
    for (extent_t i = r.rows.begin; i < r.rows.end; ++i)
        for (extent_t j = r.cols.begin; j < r.cols.end; ++j) {
            bool const kept = static_cast<bool>(p.keep(r.at, i, j));
            RC_ASSERT(!(verdict == heed::tile::skip && kept));
            RC_ASSERT(!(verdict == heed::tile::full && !kept));
            if constexpr (requires { p.hull(r.at, r.rows); }) {
                heed::range const hull = p.hull(r.at, r.rows);
                RC_ASSERT(!kept || (hull.begin <= j && j < hull.end));
            }
            if constexpr (requires { p.next(r.at, r.rows, j); }) {
                extent_t const next = p.next(r.at, r.rows, r.cols.begin);
                RC_ASSERT((next >= r.cols.begin && (!kept || j >= next)));
            }
        }
    if constexpr (heed::PackedPattern<P>) {
        std::vector<std::uint64_t> words(static_cast<std::size_t>(r.cols.size()));
        p.pack(r.at, r.rows, r.cols, words.data());
        for (extent_t i = r.rows.begin; i < r.rows.end; ++i)
            for (extent_t j = r.cols.begin; j < r.cols.end; ++j) {
                bool const bit = ((words[static_cast<std::size_t>(j - r.cols.begin)] >> (i - r.rows.begin)) & 1) != 0;
                RC_ASSERT(bit == static_cast<bool>(p.keep(r.at, i, j)));
            }
    }
}

} // namespace heed_test
