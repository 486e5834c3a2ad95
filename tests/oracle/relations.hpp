// SPDX-License-Identifier: BSD-3-Clause
// Who may attend whom, as dense boolean arrays built by plain loops. Every rule has its coordinates written out here, on its own.
#pragma once

#include "array.hpp"

namespace heed_test::oracle {

// s = {batch, head, queries, keys}; rule(b, h, i, j) is true where query i may attend key j.
template <class Rule>
relation relate(heed::shape s, Rule rule) {
    relation r(s);
    std::size_t next = 0;
    for (extent_t b = 0; b < s.batch; ++b)
        for (extent_t h = 0; h < s.head; ++h)
            for (extent_t i = 0; i < s.seq; ++i)
                for (extent_t j = 0; j < s.feature; ++j) { r.x[next++] = rule(b, h, i, j) ? 1 : 0; }
    return r;
}

inline relation everything(heed::shape s) {
    return relate(s, [](extent_t, extent_t, extent_t, extent_t) { return true; });
}

// First query beside first key.
inline relation causal_top_left(heed::shape s) {
    return relate(s, [](extent_t, extent_t, extent_t i, extent_t j) { return j <= i; });
}

// Last query beside last key.
inline relation causal_bottom_right(heed::shape s) {
    extent_t const shift = s.feature - s.seq;
    return relate(s, [=](extent_t, extent_t, extent_t i, extent_t j) { return j <= i + shift; });
}

// `left` keys before and `right` keys behind the query's own position, last query beside last key.
inline relation band(heed::shape s, extent_t left, extent_t right) {
    extent_t const shift = s.feature - s.seq;
    return relate(s, [=](extent_t, extent_t, extent_t i, extent_t j) {
        extent_t const distance = j - (i + shift);
        return -left <= distance && distance <= right;
    });
}

// Every query sees the first length[b] keys, and the keys up to its own.
inline relation prefix(heed::shape s, std::vector<std::int32_t> const& length) {
    extent_t const shift = s.feature - s.seq;
    return relate(s, [&](extent_t b, extent_t, extent_t i, extent_t j) { return j < length[static_cast<std::size_t>(b)] || j <= i + shift; });
}

inline relation key_lengths(heed::shape s, std::vector<std::int32_t> const& length) {
    return relate(s, [&](extent_t b, extent_t, extent_t, extent_t j) { return j < length[static_cast<std::size_t>(b)]; });
}

// Same document number; ids have shape {batch or 1, 1, sequence, 1}.
inline relation documents(heed::shape s, array const& query_ids, array const& key_ids) {
    return relate(s, [&](extent_t b, extent_t, extent_t i, extent_t j) {
        return query_ids(query_ids.s.batch == 1 ? 0 : b, 0, i, 0) == key_ids(key_ids.s.batch == 1 ? 0 : b, 0, j, 0);
    });
}

// A boolean tensor, extents of 1 broadcast.
inline relation listed(heed::shape s, array const& flags) {
    return relate(s, [&](extent_t b, extent_t h, extent_t i, extent_t j) { return flags.spread(b, h, i, j) != 0; });
}

inline relation both(relation const& a, relation const& b) {
    relation r = a;
    for (std::size_t i = 0; i < r.x.size(); ++i) { r.x[i] = a.x[i] != 0 && b.x[i] != 0; }
    return r;
}

} // namespace heed_test::oracle
