// SPDX-License-Identifier: BSD-3-Clause
// Where a policy is evaluated: the numbers of one (batch, head) problem, ranges of its rows and columns, and the verdict on a tile.
#pragma once

#include <heed/config.hpp>

#include <limits>

namespace heed {

// One (batch, head) problem. For a ragged batch, queries and keys are the lengths of this sequence.
struct place {
    extent_t batch = 0, head = 0, kv_head = 0;
    extent_t queries = 0, keys = 0, width = 0; // N, M, d_qk
    // Rows are aligned bottom right: the last query sits at the last key.
    HEED_HD constexpr extent_t shift() const { return keys - queries; }
};

// Sizes of the whole call, for the rules on policies' views.
struct call_sizes {
    extent_t batch = 0, head = 0, queries = 0, keys = 0, width = 0, kv_head = 0;
};

// Marks a view whose last extent does not broadcast (packed bits).
struct exactly_t {};
inline constexpr exactly_t exactly{};

// Half-open range of positions.
struct range {
    extent_t begin = 0, end = 0;
    HEED_HD constexpr extent_t size() const { return end > begin ? end - begin : 0; }
};
HEED_HD constexpr range intersect(range a, range b) {
    return {a.begin > b.begin ? a.begin : b.begin, a.end < b.end ? a.end : b.end};
}

// What a pattern says of a rectangle of pairs. `skip` promises that none is kept, `full` that all are; `partial` promises nothing.
enum class tile { skip, partial, full };
HEED_HD constexpr tile both_tiles(tile a, tile b) {
    if (a == tile::skip || b == tile::skip) { return tile::skip; }
    return a == tile::full && b == tile::full ? tile::full : tile::partial;
}

// Sequences up to this length, so that differences of positions fit the 32-bit lanes that stand beside floats.
inline constexpr extent_t longest_sequence = extent_t(1) << 30;

// A position or distance as an index type I, scalar or lanes; saturates where lanes are narrow.
template <class I>
HEED_HD constexpr I limit(extent_t x) {
    constexpr extent_t top = std::numeric_limits<std::int32_t>::max();
    return I(x > top ? top : x < -top ? -top : x);
}

} // namespace heed
