// SPDX-License-Identifier: BSD-3-Clause
// Work for an executor: anything with bulk(n, f), which calls f(0) ... f(n - 1) in any order, on any threads, and returns when all are done.
// An optional concurrency() says how many run at once. Items are handed out one by one, so a triangle's heavy rows do not leave threads idle;
// what an item computes never depends on who runs it.
#pragma once

#include <heed/config.hpp>

#include <atomic>
#include <concepts>
#include <thread>

namespace heed {

namespace detail {
struct probe_task {
    void operator()(int) const noexcept {}
};
} // namespace detail

template <class E>
concept Executor = requires(E& e, detail::probe_task const f) { e.bulk(1, f); };

// The calling thread.
struct serial {
    template <class F>
    HEED_INLINE void bulk(int n, F&& f) const {
        for (int i = 0; i < n; ++i) { f(i); }
    }
    static constexpr int concurrency() { return 1; }
};

namespace detail {

template <class E>
HEED_INLINE int concurrency_of(E const& e) {
    int n;
    if constexpr (requires { e.concurrency(); }) {
        n = static_cast<int>(e.concurrency());
    } else {
        n = static_cast<int>(std::thread::hardware_concurrency());
    }
    return n < 1 ? 1 : n;
}

// body(item, slot) for every item; at most `slots` bodies run at once, each with its own slot.
template <class A, class E, class Body>
void for_each_item(E& executor, int slots, extent_t items, Body const& body) {
    if (slots <= 1) {
        for (extent_t i = 0; i < items; ++i) { body(i, 0); }
        return;
    }
    std::atomic<extent_t> next{0};
    executor.bulk(slots, [&](int slot) {
        for (extent_t i = next.fetch_add(1, std::memory_order_relaxed); i < items; i = next.fetch_add(1, std::memory_order_relaxed)) { body(i, slot); }
    });
}

} // namespace detail
} // namespace heed
