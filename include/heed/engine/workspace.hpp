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

// Workspaces may start anywhere: engines align them.
HEED_HD std::byte* aligned(std::byte* p) {
    return reinterpret_cast<std::byte*>((reinterpret_cast<std::uintptr_t>(p) + line_bytes - 1) / line_bytes * line_bytes);
}

} // namespace heed
