// SPDX-License-Identifier: BSD-3-Clause
// contract_tile: scores of a tile, transposed: s[j][i] = reduce_c step(k[j][c], q[c][i]), vectors along queries.
//
// The keys are read as they lie, one scalar broadcast at a time; q comes packed, feature major. A block of R keys by W vectors lives in
// registers: R W steps for R + W loads. Depends on the ring, the element type, the tile and the architecture only, never on a mechanism.
#pragma once

#include <heed/kernel/math.hpp>
#include <heed/kernel/tile_config.hpp>

namespace heed {

template <class Ring, class T, class A, tile_config C>
struct contract_tile {
    using V = vec<T, A>;
    static constexpr int lanes = V::lanes;
    static constexpr extent_t pitch = extent_t(C.vecs) * lanes; // queries of a tile: row pitch of q, s

    // Rows of contiguous features.
    struct rows {
        T const* data;
        extent_t stride;
        HEED_INLINE T const* at(extent_t j) const { return data + j * stride; }
    };

    // k: `count` keys; ahead: rows to bring into the cache meanwhile (values, or k itself); q: [width][pitch]; s: [count][pitch];
    // peak: [pitch], raised to the greatest score of each query. Vectors [first, last) of the tile only.
    static void run(rows k, extent_t count, rows ahead, T const* q, extent_t width, T* s, T* peak, int first, int last);

private:
    static constexpr extent_t per_line = extent_t(line_bytes / sizeof(T));

    template <int R, int W>
    HEED_INLINE static void block(T const* HEED_RESTRICT k, extent_t k_stride, T const* HEED_RESTRICT ahead, extent_t ahead_stride, T const* HEED_RESTRICT q,
                                  extent_t width, T* HEED_RESTRICT s, T* HEED_RESTRICT peak) {
        V acc[R][W]; // scores of R keys x W vectors of queries
        static_for<R>([&](auto r) HEED_INLINE_LAMBDA { static_for<W>([&](auto w) HEED_INLINE_LAMBDA { acc[r][w] = Ring::template zero<V>(); }); });
        for (extent_t c0 = 0; c0 < width; c0 += per_line) {
            static_for<R>([&](auto r) HEED_INLINE_LAMBDA {
                HEED_PREFETCH(k + (R + r) * k_stride + c0); // the next block's
                HEED_PREFETCH(ahead + r * ahead_stride + c0);
            });
            extent_t const end = c0 + per_line < width ? c0 + per_line : width;
            for (extent_t c = c0; c < end; ++c) {
                V x[W];
                static_for<W>([&](auto w) HEED_INLINE_LAMBDA {
                    x[w] = V::load(q + c * pitch + w * lanes);
                    pin(x[w]);
                });
                static_for<R>([&](auto r) HEED_INLINE_LAMBDA {
                    V y(k[r * k_stride + c]);
                    pin(y);
                    static_for<W>([&](auto w) HEED_INLINE_LAMBDA { acc[r][w] = Ring::step(acc[r][w], y, x[w]); });
                });
            }
        }
        static_for<W>([&](auto w) HEED_INLINE_LAMBDA {
            V top = V::load(peak + w * lanes);
            static_for<R>([&](auto r) HEED_INLINE_LAMBDA {
                acc[r][w].store(s + r * pitch + w * lanes);
                top = max(top, acc[r][w]);
            });
            top.store(peak + w * lanes);
        });
    }
    template <int W>
    static void walk(rows k, extent_t count, rows ahead, T const* q, extent_t width, T* s, T* peak) {
        extent_t j = 0;
        auto const step = [&](auto size) HEED_INLINE_LAMBDA {
            block<size, W>(k.at(j), k.stride, ahead.at(j), ahead.stride, q, width, s + j * pitch, peak);
            j += size;
        };
        while (j + C.rows <= count) { step(std::integral_constant<int, C.rows>{}); }
        if (C.rows > 4 && j + 4 <= count) { step(std::integral_constant<int, 4>{}); }
        if (j + 2 <= count) { step(std::integral_constant<int, 2>{}); }
        if (j < count) { step(std::integral_constant<int, 1>{}); }
    }
};

template <class Ring, class T, class A, tile_config C>
void contract_tile<Ring, T, A, C>::run(rows k, extent_t count, rows ahead, T const* q, extent_t width, T* s, T* peak, int first, int last) {
    static_assert(C.vecs == 3 && (C.rows == 8 || C.rows == 4), "heed: contract_tile is written for 3 vectors and 4 or 8 keys");
    extent_t const at = extent_t(first) * lanes;
    switch (last - first) {
    case 3: walk<3>(k, count, ahead, q + at, width, s + at, peak + at); break;
    case 2: walk<2>(k, count, ahead, q + at, width, s + at, peak + at); break;
    default: walk<1>(k, count, ahead, q + at, width, s + at, peak + at); break;
    }
}

} // namespace heed
