// SPDX-License-Identifier: BSD-3-Clause
// How decode is cut over the blocks of a device, and how parts of a row are joined.
//
// A unit is a tile of rows (the query heads of one key head, times the new tokens) against the keys of its sequence. All units stand one behind another, each as
// many pieces of keys long as its sequence; every block takes an equal share of the pieces, wherever units begin. A unit that blocks share is joined, in the order of its
// keys, by the block that ends last: the same bits in every run on a device. Bounds of a cut follow from sizes, lengths and the number of multiprocessors.
#pragma once

#include <heed/engine/cuda/device_views.cuh>
#include <heed/engine/cuda/simt_pair.cuh>

namespace heed {

// Lengths of the sequences and where their pieces begin: beside the arguments of the kernel, or, of a long batch, in the workspace.
struct decode_lengths {
    static constexpr int most = 128;
    int first[most + 1], keys[most];
    std::int64_t const *far_first = nullptr, *far_keys = nullptr;

    HEED_HD extent_t first_of(extent_t b) const { return far_first != nullptr ? far_first[b] : first[b]; }
    HEED_HD extent_t keys_of(extent_t b) const { return far_keys != nullptr ? far_keys[b] : keys[b]; }
    // The sequence whose pieces, `times` over, hold piece g.
    HEED_HD extent_t sequence_of(extent_t g, extent_t times, extent_t batch) const {
        extent_t low = 0, high = batch;
        while (high - low > 1) {
            extent_t const middle = (low + high) / 2;
            (first_of(middle) * times <= g ? low : high) = middle;
        }
        return low;
    }
};

namespace detail {

// A trivially copyable value of another lane: shuffle(word) moves it.
template <class X, class F>
HEED_DEVICE X moved_value(X const& x, F const& shuffle) {
    static_assert(sizeof(X) % 4 == 0 && std::is_trivially_copyable_v<X>, "heed: the state of a row is a trivially copyable struct of values");
    unsigned words[sizeof(X) / 4];
    std::memcpy(words, &x, sizeof x);
#pragma unroll
    for (unsigned& w : words) { w = shuffle(w); }
    X y = x;
    std::memcpy(&y, words, sizeof y);
    return y;
}
template <class X>
HEED_DEVICE X first_lane(X const& x) {
    return moved_value(x, [](unsigned w) { return __shfl_sync(0xffffffffu, w, 0); });
}
// From shared or global memory, past the first cache, which does not see what other multiprocessors write.
template <class X>
HEED_DEVICE X fresh(X const* p) {
    static_assert(sizeof(X) % 4 == 0 && alignof(X) >= 4);
    unsigned words[sizeof(X) / 4];
    if constexpr (sizeof(X) == 16 && alignof(X) == 16) {
        asm volatile("ld.volatile.v4.u32 {%0, %1, %2, %3}, [%4];" : "=r"(words[0]), "=r"(words[1]), "=r"(words[2]), "=r"(words[3]) : "l"(p) : "memory");
    } else {
#pragma unroll
        for (unsigned w = 0; w < sizeof(X) / 4; ++w) { asm volatile("ld.volatile.u32 %0, [%1];" : "=r"(words[w]) : "l"(reinterpret_cast<unsigned const*>(p) + w) : "memory"); }
    }
    X x;
    std::memcpy(&x, words, sizeof x);
    return x;
}

// The state of a row from the states of its n parts, by one warp: a lane takes neighbouring parts, lanes join in a tree. part(n) is a state; factor[n] becomes
// what the sums of part n are multiplied by. The first lane returns the whole.
template <class Normalizer, class Part>
HEED_DEVICE typename Normalizer::template row<float> join_states(Normalizer const& normalizer, int n, Part const& part, float* factor) {
    int const lane = static_cast<int>(threadIdx.x % 32), each = (n + 31) / 32, first = lane * each, last = min(first + each, n);
    auto state = normalizer.template empty<float>();
    float mine = 1; // of all parts of this lane
    if (first < last) {
        state = part(first);
        factor[first] = 1;
        for (int x = first + 1; x < last; ++x) {
            float before = 1, later = 1;
            state = normalizer.merge(state, part(x), before, later);
            for (int y = first; y < x; ++y) { factor[y] *= before; }
            factor[x] = later;
        }
    }
    for (int by = 1; by * each < n; by *= 2) {
        auto const other = moved_value(state, [by](unsigned w) { return __shfl_xor_sync(0xffffffffu, w, by); });
        bool const low = (lane & by) == 0;
        float before = 1, later = 1;
        state = normalizer.merge(low ? state : other, low ? other : state, before, later);
        mine *= low ? before : later;
    }
    for (int x = first; x < last; ++x) { factor[x] *= mine; }
    return state;
}

} // namespace detail
} // namespace heed
