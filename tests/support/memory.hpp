// SPDX-License-Identifier: BSD-3-Clause
// Memory that notices a byte too many: blocks flush against protected pages, blocks inside margins of NaN, huge sparse ranges.
#pragma once

#include <sys/mman.h>
#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <new>
#include <utility>

namespace heed_test {

enum class place {
    margin,     // 1 KiB of canaries on both sides
    upper_page, // the last byte is the last byte before a protected page (and canaries below, down to another protected page)
    lower_page, // the first byte is the first byte after a protected page (and canaries above, up to another protected page)
};

inline std::size_t page_bytes() {
    static std::size_t const size = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
    return size;
}

// `bytes` bytes at a chosen place, everything (block and surroundings) filled with 0xff: NaN as float or double, -1 as an integer.
class guarded_block {
    std::byte* map_ = nullptr;
    std::size_t mapped_ = 0;
    std::byte* first_ = nullptr; // accessible part
    std::size_t inner_ = 0;
    std::byte* data_ = nullptr;
    std::size_t bytes_ = 0;

public:
    static constexpr int canary = 0xff;

    guarded_block() = default;
    // `shift` moves the block by that many bytes away from the page (or in the margin): misaligned data.
    guarded_block(std::size_t bytes, place where, std::size_t shift = 0) : bytes_(bytes) {
        std::size_t const page = page_bytes();
        std::size_t const margin = where == place::margin ? 1024 : 0;
        inner_ = (bytes + shift + 2 * margin + page - 1) / page * page;
        inner_ = inner_ == 0 ? page : inner_;
        mapped_ = inner_ + 2 * page;
        void* p = mmap(nullptr, mapped_, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (p == MAP_FAILED) { throw std::bad_alloc(); }
        map_ = static_cast<std::byte*>(p);
        first_ = map_ + page;
        if (mprotect(first_, inner_, PROT_READ | PROT_WRITE) != 0) { throw std::bad_alloc(); }
        std::memset(first_, canary, inner_);
        data_ = where == place::upper_page ? first_ + inner_ - bytes - shift : first_ + margin + shift;
    }
    guarded_block(guarded_block&& o) noexcept { *this = std::move(o); }
    guarded_block& operator=(guarded_block&& o) noexcept {
        std::swap(map_, o.map_);
        std::swap(mapped_, o.mapped_);
        std::swap(first_, o.first_);
        std::swap(inner_, o.inner_);
        std::swap(data_, o.data_);
        std::swap(bytes_, o.bytes_);
        return *this;
    }
    ~guarded_block() {
        if (map_ != nullptr) { munmap(map_, mapped_); }
    }

    std::byte* data() const { return data_; }
    std::size_t bytes() const { return bytes_; }
    // True while nothing around the block was written.
    bool surroundings_intact() const {
        for (std::byte const* p = first_; p != first_ + inner_; ++p) {
            if (p == data_) {
                p += bytes_;
                if (p == first_ + inner_) { break; }
            }
            if (*p != std::byte{canary}) { return false; }
        }
        return true;
    }
};

// Address space without memory behind it: pages appear when touched. For offsets beyond 2^31 and 2^32 elements.
class sparse_range {
    void* map_ = nullptr;
    std::size_t bytes_ = 0;

public:
    explicit sparse_range(std::size_t bytes) : bytes_(bytes) {
        map_ = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (map_ == MAP_FAILED) { map_ = nullptr; }
    }
    sparse_range(sparse_range const&) = delete;
    sparse_range& operator=(sparse_range const&) = delete;
    ~sparse_range() {
        if (map_ != nullptr) { munmap(map_, bytes_); }
    }
    explicit operator bool() const { return map_ != nullptr; }
    void* data() const { return map_; }
};

} // namespace heed_test
