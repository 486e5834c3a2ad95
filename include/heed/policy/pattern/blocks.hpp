// SPDX-License-Identifier: BSD-3-Clause
// block_map: queries and keys in blocks, one bit a pair of blocks: query i attends to key j if the bit of (i / rows, j / keys) is set. Block-sparse maps have
// blocks of many rows; routed attention (every query picks its own blocks) has rows = 1. Neighbouring query heads may share bits (`group` of them).
//   bits  {B or 1, ceil(H / group) or 1, ceil(N / rows), ceil(blocks / 64)}, block b is bit b % 64 of word b / 64; N and M need not be multiples
// Cost: a tile looks at one bit per pair of blocks that it meets; only tiles that a border between a kept and a left-out block crosses are masked.
// Bits come from block_bits (heed/policy/pattern/block_bits.hpp), which checks lists and masks, or from a selector.
#pragma once

#include <heed/policy/pattern/bits.hpp>
#include <heed/view/tensor_view.hpp>

#include <bit>
#include <cstdint>

namespace heed {

struct block_map {
    tensor_view<std::uint64_t const> bits;
    extent_t rows, keys; // of a block
    extent_t group = 1;  // query heads that share a row of bits

    HEED_HD std::uint64_t const* words(place const& at, extent_t block_row) const {
        return bits.row(bits.extent(0) == 1 ? 0 : at.batch, bits.extent(1) == 1 ? 0 : at.head / group, block_row);
    }
    HEED_HD bool keep(place const& at, extent_t i, extent_t j) const {
        extent_t const b = j / keys;
        return ((words(at, i / rows)[(b >> 6) * bits.stride(3)] >> (b & 63)) & 1) != 0;
    }
    HEED_HD tile classify(place const& at, range r, range cols) const {
        if (r.size() == 0 || cols.size() == 0) { return tile::skip; }
        extent_t const first = cols.begin / keys, last = (cols.end - 1) / keys;
        bool any = false, all = true;
        for (extent_t a = r.begin / rows; a * rows < r.end; ++a) {
            std::uint64_t const* const row = words(at, a);
            for (extent_t w = first >> 6; w <= last >> 6; ++w) {
                std::uint64_t const of = detail::row_bits({w << 6, (w + 1) << 6}, {first, last + 1}), set = row[w * bits.stride(3)] & of;
                any = any || set != 0;
                all = all && set == of;
            }
            if (any && !all) { return tile::partial; }
        }
        return !any ? tile::skip : tile::full;
    }
    HEED_HD void pack(place const& at, range r, range cols, std::uint64_t* to) const {
        for (extent_t b = cols.begin / keys; b * keys < cols.end; ++b) {
            std::uint64_t kept = 0;
            for (extent_t a = r.begin / rows; a * rows < r.end; ++a) {
                if ((words(at, a)[(b >> 6) * bits.stride(3)] >> (b & 63)) & 1) { kept |= detail::row_bits(r, {a * rows, (a + 1) * rows}); }
            }
            range const of_block = intersect(cols, {b * keys, (b + 1) * keys});
            for (extent_t j = of_block.begin; j < of_block.end; ++j) { to[j - cols.begin] = kept; }
        }
    }
    // The first key from `from` on that some row of r keeps; beyond the last block where there is none.
    HEED_HD extent_t next(place const& at, range r, extent_t from) const {
        extent_t const count = bits.extent(3) << 6;
        extent_t found = count;
        for (extent_t a = r.begin / rows; a * rows < r.end; ++a) {
            std::uint64_t const* const row = words(at, a);
            for (extent_t b = from / keys; b < found; b = ((b >> 6) + 1) << 6) {
                std::uint64_t const set = row[(b >> 6) * bits.stride(3)] & ~detail::low_bits(b & 63);
                if (set != 0) {
                    extent_t const first = (b >> 6 << 6) + std::countr_zero(set);
                    found = first < found ? first : found;
                    break;
                }
            }
        }
        return found * keys > from ? found * keys : from;
    }
    template <class F>
    constexpr void views(call_sizes const& n, F&& f) const {
        auto const pieces = [](extent_t count, extent_t of) { return (count + of - 1) / of; };
        f("block bits", bits, shape{n.batch, pieces(n.head, group), pieces(n.queries, rows), pieces(pieces(n.keys, keys), 64)}, exactly);
    }
};

} // namespace heed
