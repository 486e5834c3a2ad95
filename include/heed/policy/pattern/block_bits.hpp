// SPDX-License-Identifier: BSD-3-Clause
// The bits of a block_map, made from a boolean mask, from lists of blocks, or block by block; and the blocks of BigBird.
#pragma once

#include <heed/policy/pattern/blocks.hpp>
#include <heed/view/error.hpp>

#include <cstdint>
#include <span>
#include <vector>

namespace heed {

// Owns bits {B, H, rows of blocks, ceil(blocks / 64)}.
class block_bits {
    std::vector<std::uint64_t> words_;
    shape s_;
    extent_t blocks_;

    HEED_INLINE std::size_t word(extent_t b, extent_t h, extent_t row, extent_t block) const { return static_cast<std::size_t>(((b * s_.head + h) * s_.seq + row) * s_.feature + (block >> 6)); }

public:
    // No block is kept.
    HEED_INLINE block_bits(extent_t batch, extent_t heads, extent_t rows, extent_t blocks) : s_{batch, heads, rows, (blocks + 63) / 64}, blocks_(blocks) {
        if (batch < 0 || heads < 0 || rows < 0 || blocks < 0) { HEED_THROW(shape_error("heed: sizes of block bits must not be negative")); }
        words_.resize(static_cast<std::size_t>(s_.size()));
    }
    // mask {B, H, rows, blocks}: nonzero keeps.
    template <class Byte>
    HEED_INLINE explicit block_bits(tensor_view<Byte> mask) : block_bits(mask.extent(0), mask.extent(1), mask.extent(2), mask.extent(3)) {
        each(mask, [&](extent_t b, extent_t h, extent_t row, extent_t block) {
            if (mask(b, h, row, block) != 0) { set(b, h, row, block); }
        });
    }
    // lists {B, H, rows, slots}: numbers of blocks in any order, -1 an empty slot. Throws shape_error, naming the position, for a number outside
    // [-1, blocks) and for a block that a row lists twice.
    HEED_INLINE block_bits(tensor_view<std::int32_t const> lists, extent_t blocks) : block_bits(lists.extent(0), lists.extent(1), lists.extent(2), blocks) {
        each(lists, [&](extent_t b, extent_t h, extent_t row, extent_t slot) {
            std::int32_t const block = lists(b, h, row, slot);
            if (block < -1 || block >= blocks) {
                HEED_THROW(shape_error(sentence("heed: block ", block, " at batch ", b, ", head ", h, ", row ", row, ", slot ", slot, "; there are ", blocks, " blocks, and -1 is an empty slot")));
            }
            if (block >= 0 && keeps(b, h, row, block)) {
                HEED_THROW(shape_error(sentence("heed: block ", block, " stands twice in the list of batch ", b, ", head ", h, ", row ", row, ", again at slot ", slot)));
            }
            if (block >= 0) { set(b, h, row, block); }
        });
    }
    // Compressed rows, the same for every batch entry and head: the blocks of row r are blocks[offsets[r]], ... blocks[offsets[r + 1] - 1], rising.
    HEED_INLINE block_bits(std::span<std::int32_t const> offsets, std::span<std::int32_t const> blocks, extent_t count)
        : block_bits(1, 1, offsets.empty() ? 0 : static_cast<extent_t>(offsets.size()) - 1, count) {
        for (std::size_t r = 0; r + 1 < offsets.size(); ++r) {
            if (offsets[r] < (r == 0 ? 0 : offsets[r - 1]) || offsets[r + 1] < offsets[r] || static_cast<std::size_t>(offsets[r + 1]) > blocks.size()) {
                HEED_THROW(shape_error(sentence("heed: offsets of blocks go from ", offsets[r], " to ", offsets[r + 1], " at row ", r, "; they must not fall, and end within the ", blocks.size(), " blocks listed")));
            }
            for (std::int32_t x = offsets[r]; x < offsets[r + 1]; ++x) {
                std::int32_t const block = blocks[static_cast<std::size_t>(x)];
                if (block < 0 || block >= count || (x > offsets[r] && block <= blocks[static_cast<std::size_t>(x) - 1])) {
                    HEED_THROW(shape_error(sentence("heed: block ", block, " at position ", x, " of row ", r, "; blocks of a row rise, within [0, ", count, ")")));
                }
                set(0, 0, static_cast<extent_t>(r), block);
            }
        }
    }

    HEED_INLINE void set(extent_t b, extent_t h, extent_t row, extent_t block) { words_[word(b, h, row, block)] |= std::uint64_t(1) << (block & 63); }
    HEED_INLINE bool keeps(extent_t b, extent_t h, extent_t row, extent_t block) const { return ((words_[word(b, h, row, block)] >> (block & 63)) & 1) != 0; }
    HEED_INLINE extent_t blocks() const { return blocks_; }
    HEED_INLINE tensor_view<std::uint64_t> bits() { return {words_.data(), s_}; }
    HEED_INLINE tensor_view<std::uint64_t const> bits() const { return {words_.data(), s_}; }
    // Blocks of `rows` queries by `keys` keys; `group` neighbouring query heads share a head of bits. Valid as long as this object is.
    HEED_INLINE block_map map(extent_t rows, extent_t keys, extent_t group = 1) const {
        if (rows < 1 || keys < 1 || group < 1) { HEED_THROW(shape_error(sentence("heed: blocks of ", rows, " queries by ", keys, " keys, shared by ", group, " heads; each is at least 1"))); }
        return {bits(), rows, keys, group};
    }

private:
    template <class View, class F>
    HEED_INLINE static void each(View const& v, F const& f) {
        for (extent_t b = 0; b < v.extent(0); ++b)
            for (extent_t h = 0; h < v.extent(1); ++h)
                for (extent_t r = 0; r < v.extent(2); ++r)
                    for (extent_t x = 0; x < v.extent(3); ++x) { f(b, h, r, x); }
    }
};

// The blocks of BigBird (Zaheer et al., arXiv:2007.14062): a window of `window` blocks on either side, the first `globals` blocks, which see and are seen
// by all, and `random` further blocks for every row, drawn with replacement from the seed (splitmix64), the same for all heads.
HEED_INLINE block_bits big_bird_blocks(extent_t blocks, extent_t window, extent_t globals, extent_t random, std::uint64_t seed) {
    block_bits to(1, 1, blocks, blocks);
    for (extent_t r = 0; r < blocks; ++r) {
        for (extent_t c = 0; c < blocks; ++c) {
            if (c < globals || r < globals || (c - r <= window && r - c <= window)) { to.set(0, 0, r, c); }
        }
        for (extent_t n = 0; n < random; ++n) {
            std::uint64_t z = (seed += 0x9e3779b97f4a7c15u);
            z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
            z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
            to.set(0, 0, r, static_cast<extent_t>((z ^ (z >> 31)) % static_cast<std::uint64_t>(blocks)));
        }
    }
    return to;
}

} // namespace heed
