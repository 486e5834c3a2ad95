// SPDX-License-Identifier: BSD-3-Clause
// gather_tile: c[j][e] += reduce_i step(a[j][i], b[i][e]), vectors along features: what the queries of a tile send back to its keys.
//
// a is read one scalar at a time, b as rows that lie where the caller keeps them. The sum over the tile starts at zero and is added to c once.
// A block of R keys by W vectors of features lives in registers; features are cut into runs of 4, 3 and 2 vectors, never a lone one beside others.
#pragma once

#include <heed/kernel/math.hpp>

namespace heed {

template <class Ring, class T, class A>
struct gather_tile {
    using V = vec<T, A>;
    static constexpr int lanes = V::lanes;

    // a: [keys] rows of a_pitch; b: [queries] rows of b_stride; c: [keys] rows of c_pitch. b and c hold `vectors` whole vectors of features.
    static void run(T const* a, extent_t a_pitch, extent_t keys, extent_t queries, T const* b, extent_t b_stride, int vectors, T* c, extent_t c_pitch);

private:
    // rows of a block: R W accumulators, W vectors and a broadcast fit the registers
    template <int W>
    static constexpr int rows = (registers<A> == 32 ? 24 : 12) / W;

    template <int R, int W>
    HEED_INLINE static void block(T const* HEED_RESTRICT a, extent_t a_pitch, extent_t queries, T const* HEED_RESTRICT b, extent_t b_stride,
                                  T* HEED_RESTRICT c, extent_t c_pitch) {
        V acc[R][W]; // R keys x W vectors of features
        static_for<R>([&](auto r) HEED_INLINE_LAMBDA { static_for<W>([&](auto w) HEED_INLINE_LAMBDA { acc[r][w] = Ring::template zero<V>(); }); });
        for (extent_t i = 0; i < queries; ++i) {
            V x[W];
            static_for<W>([&](auto w) HEED_INLINE_LAMBDA {
                x[w] = V::load(b + i * b_stride + w * lanes);
                pin(x[w]);
            });
            static_for<R>([&](auto r) HEED_INLINE_LAMBDA {
                V y(a[r * a_pitch + i]);
                pin(y);
                static_for<W>([&](auto w) HEED_INLINE_LAMBDA { acc[r][w] = Ring::step(acc[r][w], y, x[w]); });
            });
        }
        static_for<R>([&](auto r) HEED_INLINE_LAMBDA {
            static_for<W>([&](auto w) HEED_INLINE_LAMBDA {
                T* const out = c + r * c_pitch + w * lanes;
                Ring::reduce(V::load(out), acc[r][w]).store(out);
            });
        });
    }
    template <int W>
    HEED_NOINLINE static void strip(T const* a, extent_t a_pitch, extent_t keys, extent_t queries, T const* b, extent_t b_stride, T* c, extent_t c_pitch) {
        constexpr int most = rows<W>;
        extent_t j = 0;
        auto const step = [&](auto size) HEED_INLINE_LAMBDA {
            block<size, W>(a + j * a_pitch, a_pitch, queries, b, b_stride, c + j * c_pitch, c_pitch);
            j += size;
        };
        // two blocks of 4 rather than 6 and 2
        while (j + most <= keys && !(most == 6 && keys - j == 8)) { step(std::integral_constant<int, most>{}); }
        if constexpr (most > 4) {
            while (j + 4 <= keys) { step(std::integral_constant<int, 4>{}); }
        }
        if constexpr (most > 2) {
            while (j + 2 <= keys) { step(std::integral_constant<int, 2>{}); }
        }
        while (j < keys) { step(std::integral_constant<int, 1>{}); }
    }
};

template <class Ring, class T, class A>
void gather_tile<Ring, T, A>::run(T const* a, extent_t a_pitch, extent_t keys, extent_t queries, T const* b, extent_t b_stride, int vectors, T* c, extent_t c_pitch) {
    for (int at = 0; at < vectors;) {
        int const left = vectors - at;
        T const* const from = b + at * lanes;
        T* const to = c + at * lanes;
        if (left == 4 || left >= 7) {
            strip<4>(a, a_pitch, keys, queries, from, b_stride, to, c_pitch);
            at += 4;
        } else if (left == 3 || left >= 5) {
            strip<3>(a, a_pitch, keys, queries, from, b_stride, to, c_pitch);
            at += 3;
        } else if (left == 2) {
            strip<2>(a, a_pitch, keys, queries, from, b_stride, to, c_pitch);
            at += 2;
        } else {
            strip<1>(a, a_pitch, keys, queries, from, b_stride, to, c_pitch);
            at += 1;
        }
    }
}

} // namespace heed
