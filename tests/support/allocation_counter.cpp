// SPDX-License-Identifier: BSD-3-Clause
#include <support/allocation_counter.hpp>

#include <atomic>
#include <cstdlib>
#include <new>

namespace {
std::atomic<std::size_t> calls{0}, total{0}, frees{0};

void* counted_or_null(std::size_t bytes, std::size_t alignment) noexcept {
    calls.fetch_add(1, std::memory_order_relaxed);
    total.fetch_add(bytes, std::memory_order_relaxed);
    bytes = bytes == 0 ? 1 : bytes;
    return alignment <= alignof(std::max_align_t) ? std::malloc(bytes) : std::aligned_alloc(alignment, (bytes + alignment - 1) / alignment * alignment);
}
void* counted(std::size_t bytes, std::size_t alignment) {
    void* const p = counted_or_null(bytes, alignment);
    if (p == nullptr) { throw std::bad_alloc(); }
    return p;
}
void released(void* p) {
    if (p != nullptr) { frees.fetch_add(1, std::memory_order_relaxed); }
    std::free(p);
}
} // namespace

namespace heed_test {
allocation_scope::allocation_scope() : calls_before_(::calls), bytes_before_(::total), frees_before_(::frees) {}
std::size_t allocation_scope::calls() const { return ::calls - calls_before_; }
std::size_t allocation_scope::bytes() const { return ::total - bytes_before_; }
std::size_t allocation_scope::frees() const { return ::frees - frees_before_; }
} // namespace heed_test

void* operator new(std::size_t n) { return counted(n, 0); }
void* operator new[](std::size_t n) { return counted(n, 0); }
void* operator new(std::size_t n, std::align_val_t a) { return counted(n, static_cast<std::size_t>(a)); }
void* operator new[](std::size_t n, std::align_val_t a) { return counted(n, static_cast<std::size_t>(a)); }
// what the standard library's own would call, were it not for a sanitizer's
void* operator new(std::size_t n, std::nothrow_t const&) noexcept { return counted_or_null(n, 0); }
void* operator new[](std::size_t n, std::nothrow_t const&) noexcept { return counted_or_null(n, 0); }
void operator delete(void* p) noexcept { released(p); }
void operator delete[](void* p) noexcept { released(p); }
void operator delete(void* p, std::size_t) noexcept { released(p); }
void operator delete[](void* p, std::size_t) noexcept { released(p); }
void operator delete(void* p, std::align_val_t) noexcept { released(p); }
void operator delete[](void* p, std::align_val_t) noexcept { released(p); }
void operator delete(void* p, std::size_t, std::align_val_t) noexcept { released(p); }
void operator delete[](void* p, std::size_t, std::align_val_t) noexcept { released(p); }
