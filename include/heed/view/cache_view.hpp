// SPDX-License-Identifier: BSD-3-Clause
// A cache of keys and values: views of memory that somebody owns, and how many tokens each sequence has. Position j of sequence b is found
//   contiguous   in row j of entry b
//   ring         in row j mod (rows of an entry): the last tokens of a sequence only, for windows; memory as long as the window
//   paged        in row j mod (rows of a page) of page table[b][j / (rows of a page)]
// Elements of one byte have scales beside them, views of the same rows whose extents of 1 broadcast: {.., .., rows, 1} one per token and head,
// {1, heads, 1, 1} one per head. Features lie side by side.
#pragma once

#include <heed/view/tensor_view.hpp>

#include <cstdint>
#include <span>
#include <vector>

namespace heed {

// Page numbers of every sequence, {sequences, pages of a sequence}; -1 from the first page on that a sequence does not have yet. Checked once,
// here: a page out of range, behind a missing one, or in two places is refused and the position named. Pages are only for one sequence.
class block_table {
    std::int32_t const* data_ = nullptr;
    extent_t sequences_ = 0, width_ = 0, pages_ = 0;

public:
    constexpr block_table() = default;
    // Of an owner that keeps its table right; checks nothing.
    struct trusted {};
    HEED_HD constexpr block_table(trusted, std::int32_t const* table, extent_t sequences, extent_t pages_of_sequence, extent_t pages)
        : data_(table), sequences_(sequences), width_(pages_of_sequence), pages_(pages) {}
    // pages: how many there are. Allocates one bit a page while it checks.
    HEED_INLINE block_table(std::span<std::int32_t const> table, extent_t sequences, extent_t pages_of_sequence, extent_t pages)
        : data_(table.data()), sequences_(sequences), width_(pages_of_sequence), pages_(pages) {
        if (sequences < 0 || pages_of_sequence < 0 || static_cast<extent_t>(table.size()) < sequences * pages_of_sequence) {
            HEED_THROW(shape_error(sentence("heed: a block table of ", sequences, " sequences with ", pages_of_sequence, " pages needs ", sequences * pages_of_sequence,
                                            " entries; it has ", static_cast<extent_t>(table.size()))));
        }
        std::vector<bool> used(static_cast<std::size_t>(pages < 0 ? 0 : pages));
        for (extent_t b = 0; b < sequences; ++b) {
            bool ended = false;
            for (extent_t x = 0; x < pages_of_sequence; ++x) {
                extent_t const page = data_[b * width_ + x];
                if (page == -1) {
                    ended = true;
                    continue;
                }
                char const* wrong = page < 0 || page >= pages ? "is out of range" : ended ? "stands behind a missing page" : used[static_cast<std::size_t>(page)] ? "is used twice" : nullptr;
                if (wrong != nullptr) {
                    HEED_THROW(shape_error(sentence("heed: the block table names page ", page, " at sequence ", b, ", position ", x, "; it ", wrong, " (there are ", pages, " pages)")));
                }
                used[static_cast<std::size_t>(page)] = true;
            }
        }
    }
    HEED_HD constexpr explicit operator bool() const { return data_ != nullptr; }
    HEED_HD constexpr extent_t sequences() const { return sequences_; }
    HEED_HD constexpr extent_t width() const { return width_; }
    HEED_HD extent_t operator()(extent_t b, extent_t x) const { return data_[b * width_ + x]; }
    HEED_HD constexpr extent_t pages() const { return pages_; } // that exist
};

enum class cache_kind { contiguous, ring, paged };

template <class K, class V = K>
struct cache_view {
    using key_type = K;
    using value_type = V;

    cache_kind kind = cache_kind::contiguous;
    tensor_view<K> k;                     // {B or pages, Hkv, rows, d}
    tensor_view<V> v;                     // {B or pages, Hkv, rows, dv}
    std::span<extent_t> lengths;          // tokens of each sequence so far
    block_table table = {};               // paged only
    tensor_view<float> k_scale = {}, v_scale = {};

    // Where rows from position j of sequence b on lie: `run` of them one behind another.
    struct location {
        extent_t entry, row, run;
    };
    HEED_HD location locate(extent_t b, extent_t j) const {
        extent_t const rows = k.extent(2);
        if (kind == cache_kind::contiguous) { return {b, j, rows - j}; }
        extent_t const block = j / rows, row = j - block * rows;
        return {kind == cache_kind::ring ? b : table(b, block), row, rows - row};
    }
    HEED_HD extent_t sequences() const { return static_cast<extent_t>(lengths.size()); }
    HEED_HD extent_t heads() const { return k.extent(1); }
    // Is there memory for `tokens` tokens of sequence b? A ring forgets the oldest and has always room.
    HEED_HD bool has_room(extent_t b, extent_t tokens) const {
        extent_t const rows = k.extent(2);
        if (tokens <= 0 || kind == cache_kind::ring) { return tokens <= 0 || rows > 0; }
        if (kind == cache_kind::contiguous) { return tokens <= rows; }
        return rows > 0 && (tokens - 1) / rows < table.width() && table(b, (tokens - 1) / rows) >= 0;
    }
    // Most tokens that can be looked at in any sequence.
    HEED_HD extent_t reach() const { return kind == cache_kind::paged ? table.width() * k.extent(2) : k.extent(2); }
    // First position still there.
    HEED_HD extent_t oldest(extent_t b) const {
        extent_t const n = lengths[static_cast<std::size_t>(b)];
        return kind == cache_kind::ring && n > k.extent(2) ? n - k.extent(2) : 0;
    }
    HEED_HD extent_t longest() const {
        extent_t n = 0;
        for (extent_t const one : lengths) { n = one > n ? one : n; }
        return n;
    }
    HEED_HD constexpr cache_view const& view() const { return *this; }
};

} // namespace heed
