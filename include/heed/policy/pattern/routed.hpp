// SPDX-License-Identifier: BSD-3-Clause
// routed{blocks, rest}: blocks & rest, where every query (or few of them) chose its blocks by itself, so that a tile of neighbouring queries sees many blocks
// that only some of them want. An engine that can gathers, for each block, the queries that chose it, and works on full tiles.
#pragma once

#include <heed/policy/pattern/band.hpp>
#include <heed/policy/pattern/blocks.hpp>
#include <heed/policy/pattern/both.hpp>

namespace heed {

template <class Rest = full>
struct routed : both<block_map, Rest> {
    HEED_HD constexpr explicit routed(block_map const& blocks, Rest const& rest = {}) : both<block_map, Rest>{blocks, rest} {}
    HEED_HD constexpr block_map const& routes() const { return this->a; }
    HEED_HD constexpr Rest const& rest() const { return this->b; }
};
template <class Rest>
routed(block_map, Rest) -> routed<Rest>;
routed(block_map) -> routed<full>;

template <class P>
concept RoutedPattern = Pattern<P> && requires(P const p) {
    { p.routes() } -> std::convertible_to<block_map>;
    p.rest();
};

} // namespace heed
