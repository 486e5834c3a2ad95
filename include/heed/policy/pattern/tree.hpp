// SPDX-License-Identifier: BSD-3-Clause
// tree: the last N of the M keys are the queries themselves, drafted as a tree; query i sees every key before them, and of them those that
// its own bits name (itself and its ancestors), as speculative decoding verifies many continuations at once (Miao et al., arXiv:2305.09781).
// Bits: ceil(N / 64) words a query, bit t % 64 of word t / 64 is new token t; {B or 1, 1, N, ceil(N / 64)}. Any boolean matrix among the new
// tokens is allowed; ancestors_of fills the bits of a tree from the parents of its nodes.
#pragma once

#include <heed/policy/pattern/mask.hpp>

#include <cstdint>
#include <span>

namespace heed {

struct tree {
    tensor_view<std::uint64_t const> sees;

    HEED_HD bool keep(place const& at, extent_t i, extent_t j) const {
        extent_t const t = j - at.shift();
        if (t < 0) { return true; }
        std::uint64_t const* const row = sees.row(sees.extent(0) == 1 ? 0 : at.batch, 0, sees.extent(2) == 1 ? 0 : i);
        return ((row[(t >> 6) * sees.stride(3)] >> (t & 63)) & 1) != 0;
    }
    HEED_HD constexpr tile classify(place const& at, range, range cols) const { return cols.end <= at.shift() ? tile::full : tile::partial; }
    template <class F>
    constexpr void views(call_sizes const& n, F&& f) const {
        f("tree bits", sees, shape{n.batch, 1, n.queries, (n.queries + 63) / 64}, exactly);
    }
};

// Bits of N = parents.size() nodes, N * ceil(N / 64) words: each node sees itself and its ancestors. A parent stands before its children; -1 is a
// node that follows the sequence itself. Throws shape_error, naming the node, for anything else.
template <class Arch = native_arch>
void ancestors_of(std::span<std::int32_t const> parents, std::span<std::uint64_t> bits) {
    std::size_t const n = parents.size(), words = (n + 63) / 64;
    if (bits.size() < n * words) {
        HEED_THROW(shape_error(sentence<Arch>("heed: the bits of a tree of ", n, " nodes take ", n * words, " words; there are ", bits.size())));
    }
    for (std::size_t i = 0; i < n; ++i) {
        std::int32_t const p = parents[i];
        if (p < -1 || p >= static_cast<std::int32_t>(i)) {
            HEED_THROW(shape_error(sentence<Arch>("heed: the parent of tree node ", i, " is ", p, "; it must be -1 or stand before the node")));
        }
        for (std::size_t w = 0; w < words; ++w) { bits[i * words + w] = p < 0 ? 0 : bits[static_cast<std::size_t>(p) * words + w]; }
        bits[i * words + i / 64] |= std::uint64_t(1) << (i % 64);
    }
}

} // namespace heed
