// SPDX-License-Identifier: BSD-3-Clause
// contract_tile: scores of a tile, transposed: s[j][i] = reduce_c step(k[j][c], q[c][i]), vectors along queries.
//
// The keys are read as they lie, one scalar broadcast at a time; q comes packed, feature major. A block of R keys by W vectors lives in
// registers: R W steps for R + W loads. A contraction with two accumulators a pair has half the keys in a block; one with an operand of the feature
// (has_operand) reads it as one more broadcast. Depends on the ring, the element type, the tile and the architecture only, never on a mechanism.
#pragma once

#include <heed/kernel/math.hpp>
#include <heed/kernel/tile_config.hpp>

namespace heed {

template <class Ring, class T, class A, tile_config C>
struct contract_tile {
    using V = vec<T, A>;
    static constexpr int lanes = V::lanes;
    static constexpr extent_t pitch = extent_t(C.vecs) * lanes; // queries of a tile: row pitch of q, s
    static constexpr int most = detail::block_rows<Ring, A>(C);  // keys of a block

    // Rows of contiguous features.
    struct rows {
        T const* data;
        extent_t stride;
        HEED_INLINE T const* at(extent_t j) const { return data + j * stride; }
    };

    // k: `count` keys; ahead: rows to bring into the cache meanwhile (values, or k itself); q: [width][pitch]; s: [count][pitch];
    // peak: [pitch], raised to the greatest score of each query. Vectors [first, last) of the tile only. operand: [width] where the ring has one.
    static void run(rows k, extent_t count, rows ahead, T const* q, extent_t width, T* s, T* peak, int first, int last, Ring const& ring = {}, T const* operand = nullptr);

private:
    static constexpr extent_t per_line = extent_t(line_bytes / sizeof(T));

    template <int R, int W>
    HEED_INLINE static void block(T const* HEED_RESTRICT k, extent_t k_stride, T const* HEED_RESTRICT ahead, extent_t ahead_stride, T const* HEED_RESTRICT q,
                                  extent_t width, T* HEED_RESTRICT s, T* HEED_RESTRICT peak, Ring const& ring, T const* HEED_RESTRICT operand) {
        Ring const own = ring; // a copy: storing scores changes no parameter
        detail::accumulator_of<Ring, V> acc[R][W]; // scores of R keys x W vectors of queries
        static_for<R>([&](auto r) HEED_INLINE_LAMBDA { static_for<W>([&](auto w) HEED_INLINE_LAMBDA { acc[r][w] = Ring::template zero<V>(); }); });
        auto const feature = [&](extent_t c) HEED_INLINE_LAMBDA {
            V x[W];
            static_for<W>([&](auto w) HEED_INLINE_LAMBDA {
                x[w] = V::load(q + c * pitch + w * lanes);
                pin(x[w]);
            });
            static_for<R>([&](auto r) HEED_INLINE_LAMBDA {
                V y(k[r * k_stride + c]);
                pin(y);
                static_for<W>([&](auto w) HEED_INLINE_LAMBDA {
                    if constexpr (detail::has_operand<Ring>) {
                        acc[r][w] = own.step(acc[r][w], y, x[w], V(operand[c]));
                    } else {
                        acc[r][w] = own.step(acc[r][w], y, x[w]);
                    }
                });
            });
        };
        // A line of features at a time, and meanwhile that line of the next block's keys and, into the second cache, of the rows ahead: one line a feature, since sixteen at once fill
        // the line buffers (on a Xeon, d = 128, N = 4096: 0.86 of the peak so, 0.90 one by one).
        for (extent_t c0 = 0; c0 < width; c0 += per_line) {
            extent_t const end = c0 + per_line < width ? c0 + per_line : width;
            extent_t c = c0;
            T const *next = k + R * k_stride + c0, *other = ahead + c0;
            if constexpr (2 * R <= per_line) {
                for (extent_t const stop = c0 + R < end ? c0 + R : end; c < stop; ++c, next += k_stride) {
                    HEED_PREFETCH(next);
                    feature(c);
                }
                for (extent_t const stop = c0 + 2 * R < end ? c0 + 2 * R : end; c < stop; ++c, other += ahead_stride) {
                    HEED_PREFETCH_FAR(other, 0);
                    feature(c);
                }
                if constexpr (2 * R < per_line) {
                    for (; c < end; ++c) { feature(c); }
                }
            } else {
                for (; c < end; ++c, next += k_stride, other += ahead_stride) {
                    HEED_PREFETCH(next);
                    HEED_PREFETCH_FAR(other, 0);
                    feature(c);
                }
            }
        }
        static_for<W>([&](auto w) HEED_INLINE_LAMBDA {
            V top = V::load(peak + w * lanes);
            static_for<R>([&](auto r) HEED_INLINE_LAMBDA {
                V const sum = detail::finish_sum<Ring, V>(own, acc[r][w], width);
                sum.store(s + r * pitch + w * lanes);
                top = max(top, sum);
            });
            top.store(peak + w * lanes);
        });
    }
    template <int W>
    static void walk(rows k, extent_t count, rows ahead, T const* q, extent_t width, T* s, T* peak, Ring const& ring, T const* operand) {
        extent_t j = 0;
        auto const step = [&](auto size) HEED_INLINE_LAMBDA {
            block<size, W>(k.at(j), k.stride, ahead.at(j), ahead.stride, q, width, s + j * pitch, peak, ring, operand);
            j += size;
        };
        while (j + most <= count) { step(std::integral_constant<int, most>{}); }
        if constexpr (most > 4) {
            if (j + 4 <= count) { step(std::integral_constant<int, 4>{}); }
        }
        if constexpr (most > 2) {
            if (j + 2 <= count) { step(std::integral_constant<int, 2>{}); }
        }
        if (j < count) { step(std::integral_constant<int, 1>{}); }
    }
};

template <class Ring, class T, class A, tile_config C>
void contract_tile<Ring, T, A, C>::run(rows k, extent_t count, rows ahead, T const* q, extent_t width, T* s, T* peak, int first, int last, Ring const& ring, T const* operand) {
    static_assert(C.vecs == 3 && (C.rows == 8 || C.rows == 4), "heed: contract_tile is written for 3 vectors and 4 or 8 keys");
    extent_t const at = extent_t(first) * lanes;
    switch (last - first) {
    case 3: walk<3>(k, count, ahead, q + at, width, s + at, peak + at, ring, operand); break;
    case 2: walk<2>(k, count, ahead, q + at, width, s + at, peak + at, ring, operand); break;
    default: walk<1>(k, count, ahead, q + at, width, s + at, peak + at, ring, operand); break;
    }
}

} // namespace heed
