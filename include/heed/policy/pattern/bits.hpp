// SPDX-License-Identifier: BSD-3-Clause
// Arithmetic of the bit words into which patterns that are data or rules of integers pack a tile: bit i - rows.begin of a key's word says that query i keeps it.
#pragma once

#include <heed/policy/place.hpp>

#include <cstdint>

namespace heed::detail {

HEED_HD constexpr extent_t floor_div(extent_t a, extent_t b) { return a >= 0 ? a / b : -((-a + b - 1) / b); }
HEED_HD constexpr extent_t ceil_div(extent_t a, extent_t b) { return floor_div(a + b - 1, b); }

// The low n bits.
HEED_HD constexpr std::uint64_t low_bits(extent_t n) { return n >= 64 ? ~std::uint64_t(0) : n <= 0 ? 0 : (std::uint64_t(1) << n) - 1; }
// Bits of the queries `some` in a tile of the queries `rows`; what lies outside the tile is left out.
HEED_HD constexpr std::uint64_t row_bits(range rows, range some) {
    range const in = intersect(rows, some);
    return in.size() == 0 ? 0 : low_bits(in.size()) << (in.begin - rows.begin);
}

} // namespace heed::detail
