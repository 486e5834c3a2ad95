// SPDX-License-Identifier: BSD-3-Clause
// Tuning: a plain value, chosen by a stateless selector, never seen by the mathematics.
#pragma once

#include <heed/kernel/batch.hpp>

namespace heed {

// Tiles of the pairwise engine. Vectors run along queries: a block of `rows` keys (or value features) by `vecs` vectors of queries
// is held in registers.
struct tile_config {
    int rows = 8;    // broadcast operands of a register block
    int vecs = 3;    // vectors of queries of a register block
    int keys = 128;  // keys of a tile; tile boundaries are its multiples, so that results do not depend on where a walk begins
    int tiles = 4;   // query tiles that share a walk over the keys: each key tile comes from the outer caches once, values are packed once
    int group = 8;   // keys judged together when a pattern's edge crosses a tile
    friend constexpr bool operator==(tile_config const&, tile_config const&) = default;
};

// rows * vecs accumulators, vecs loads and one broadcast must fit the registers: 8 x 3 in 32, 4 x 3 in 16.
template <class T, class A>
constexpr tile_config default_tiles() {
    tile_config c;
    c.rows = registers<A> == 32 ? 8 : 4;
    return c;
}

} // namespace heed
