// SPDX-License-Identifier: BSD-3-Clause
// The arena of an engine: one body runs twice, first to count bytes, then to place, so that size and layout cannot disagree.
#pragma once

#include <heed/config.hpp>

namespace heed {

class arena {
    std::byte* base_;
    std::size_t used_ = 0;

public:
    HEED_HD explicit arena(std::byte* base) : base_(base) {} // null: count only
    template <class T>
    HEED_HD T* take(extent_t count) {
        std::size_t const at = used_;
        used_ += (static_cast<std::size_t>(count) * sizeof(T) + line_bytes - 1) / line_bytes * line_bytes;
        return base_ == nullptr ? nullptr : reinterpret_cast<T*>(base_ + at);
    }
    HEED_HD std::size_t bytes() const { return used_; }
};

// Equal pieces of a workspace, one for each slot of a call. lay(arena, slot) is what counts and places one.
template <class Slot, class Lay>
class slot_pieces {
    Lay lay_;
    std::byte* base_;
    std::size_t each_;

public:
    slot_pieces(std::byte* base, Lay const& lay) : lay_(lay), base_(base) {
        arena count(nullptr);
        Slot probe;
        lay_(count, probe);
        each_ = count.bytes();
    }
    std::size_t bytes(int slots) const { return static_cast<std::size_t>(slots) * each_; }
    Slot operator[](int i) const {
        arena own(base_ + static_cast<std::size_t>(i) * each_);
        Slot s;
        lay_(own, s);
        return s;
    }
};
template <class Slot, class Lay>
slot_pieces<Slot, Lay> pieces_of(std::byte* base, Lay const& lay) {
    return {base, lay};
}

// Workspaces may start anywhere: engines align them.
HEED_HD std::byte* aligned(std::byte* p) {
    return reinterpret_cast<std::byte*>((reinterpret_cast<std::uintptr_t>(p) + line_bytes - 1) / line_bytes * line_bytes);
}

} // namespace heed
