// SPDX-License-Identifier: BSD-3-Clause
// Tuning: a plain value, chosen by a stateless selector, never seen by the mathematics.
#pragma once

#include <heed/kernel/math.hpp>

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

namespace detail {
// What a contraction says of itself, and what that means where it says nothing.
template <class Ring>
inline constexpr int accumulators_of = 1; // registers that a pair's sum takes
template <class Ring>
    requires requires { Ring::accumulators; }
inline constexpr int accumulators_of<Ring> = Ring::accumulators;
template <class Ring>
inline constexpr int spare_of = 0; // registers that a step needs beside its operands
template <class Ring>
    requires requires { Ring::spare; }
inline constexpr int spare_of<Ring> = Ring::spare;
template <class Ring>
inline constexpr bool has_operand = requires { requires Ring::has_operand; }; // one more operand a feature
template <class Ring>
inline constexpr bool skips_nan = requires { requires Ring::skips_nan; };
template <class Ring, class V>
using accumulator_of = decltype(Ring::template zero<V>());

template <class Ring, class V>
HEED_HD V finish_sum(Ring const& ring, accumulator_of<Ring, V> const& acc, extent_t width) {
    if constexpr (requires { ring.finish(acc, width); }) {
        return ring.finish(acc, width);
    } else {
        return acc;
    }
}
// A tile's sum into what came before, which is multiplied by factor where the ring's sums are rescaled at all.
template <class Ring, class V>
HEED_HD V join_sums(V before, V factor, V tile) {
    using math::fma;
    if constexpr (requires { Ring::join(before, factor, tile); }) {
        return Ring::join(before, factor, tile);
    } else {
        return fma(before, factor, tile);
    }
}

// Broadcast operands of a register block: as many as the accumulators leave room for.
template <class Ring, class A>
constexpr int block_rows(tile_config c) {
    int rows = c.rows;
    while (rows > 1 && rows * c.vecs * accumulators_of<Ring> + c.vecs + 1 + spare_of<Ring> > registers<A>) { --rows; }
    return rows;
}
} // namespace detail

} // namespace heed
