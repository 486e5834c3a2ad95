// SPDX-License-Identifier: BSD-3-Clause
// Decode: the keys of a KV head are cut into chunks, an item is one chunk, and whoever finishes the last of a head joins them from the first to the last:
//
//   state = start + state_0 + state_1 + ...     w_k = factor of chunk k times the later factors of what came before, times close(state)
//
// Chunks depend on a sequence's own length alone: no bit depends on threads or on the other sequences. Memory: a counter of each head, a slot of each
// thread, the partial results of every head.
#pragma once

#include <heed/engine/cpu/parallel.hpp>
#include <heed/engine/workspace.hpp>
#include <heed/kernel/math.hpp>

#include <atomic>

namespace heed {

struct split_item {
    extent_t batch, kv_head, chunk;
    std::byte* parts; // of this KV head
    int* finished;

    // Counts a chunk that is done: true for the last of `count`, which then sees what the others wrote.
    bool last_of(extent_t count) const { return std::atomic_ref<int>(*finished).fetch_add(1, std::memory_order_acq_rel) == count - 1; }
};

// Slot: one thread's memory, placed by Slot(arena&, Sizes const&). Sizes: batch, kv_heads, chunks (of a KV head, at most), head_bytes (of its partial results).
template <class Slot, class Sizes, class A>
struct split_keys {
    static std::size_t bytes(Sizes const& n, int slots) {
        arena counters(nullptr);
        counters.take<int>(n.batch * n.kv_heads);
        return counters.bytes() + static_cast<std::size_t>(slots) * slot_bytes(n) + static_cast<std::size_t>(n.batch * n.kv_heads) * n.head_bytes;
    }
    // f(slot, item) for every chunk that there may be.
    template <class E, class F>
    static void run(Sizes const& n, E& executor, int slots, std::byte* workspace, F const& f) {
        arena memory(aligned(workspace));
        int* const finished = memory.take<int>(n.batch * n.kv_heads);
        for (extent_t i = 0; i < n.batch * n.kv_heads; ++i) { finished[i] = 0; }
        std::size_t const each = slot_bytes(n);
        std::byte* const base = aligned(workspace) + memory.bytes();
        std::byte* const parts = base + static_cast<std::size_t>(slots) * each;
        detail::for_each_item<A>(executor, slots, n.batch * n.kv_heads * n.chunks, [&](extent_t i, int s) noexcept {
            arena own(base + static_cast<std::size_t>(s) * each);
            Slot mem(own, n);
            extent_t const head = i / n.chunks;
            f(mem, split_item{head / n.kv_heads, head % n.kv_heads, i % n.chunks, parts + static_cast<std::size_t>(head) * n.head_bytes, finished + head});
        });
    }

private:
    static std::size_t slot_bytes(Sizes const& n) {
        arena one(nullptr);
        Slot(one, n);
        return one.bytes();
    }
};

// Weights of the chunks of rows whose states have lanes along rows: weight[chunk][row], rows a multiple of lanes. total holds the states to start with and
// becomes the whole's; states(k) are chunk k's. before: room like weight's. by: one more factor of all.
template <class V, class N, class Row, class States>
void weigh_chunks(N const& normalizer, extent_t count, extent_t vectors, States const& states, Row* total, typename V::value_type* before, typename V::value_type* weight, V by = V(1)) {
    extent_t const pitch = vectors * V::lanes;
    for (extent_t k = 0; k < count; ++k) {
        Row const* const own = states(k);
        for (extent_t w = 0; w < vectors; ++w) {
            V came, comes;
            total[w] = normalizer.merge(total[w], own[w], came, comes);
            came.store(before + k * pitch + w * V::lanes);
            comes.store(weight + k * pitch + w * V::lanes);
        }
    }
    for (extent_t w = 0; w < vectors; ++w) {
        V later = normalizer.close(total[w]) * by;
        for (extent_t k = count - 1; k >= 0; --k) {
            extent_t const at = k * pitch + w * V::lanes;
            (V::load(weight + at) * later).store(weight + at);
            later = later * V::load(before + at);
        }
    }
}

} // namespace heed
