// SPDX-License-Identifier: BSD-3-Clause
// mix_tile: values of a tile weighted and summed, transposed: o[e][i] = o[e][i] * factor[i] + reduce_j step(v[j][e], p[j][i]), vectors along queries.
//
// Rings whose sums are never rescaled join o and the tile's sum by their own rule (join). The values are read as they lie. The sum over the tile starts at zero and is added to o once, so the error grows with the tile, not
// with the sequence; weights of 0 change no bit, so that what a pattern leaves out does not depend on how it was left out.
#pragma once

#include <heed/kernel/math.hpp>
#include <heed/kernel/tile_config.hpp>

namespace heed {

// Consecutive keys of a tile [begin, end) and the vectors of queries [first, last) that attend some of them.
struct segment {
    int begin, end;
    int first, last;
    bool masked; // some pair inside is not kept
};

template <class Ring, class T, class A, tile_config C>
struct mix_tile {
    using V = vec<T, A>;
    static constexpr int lanes = V::lanes;
    static constexpr extent_t pitch = extent_t(C.vecs) * lanes;
    static constexpr int most = detail::block_rows<Ring, A>(C); // features of a block

    // v: rows of stride v_stride, `width` contiguous features; p: [keys][pitch]; o: [width][pitch]; factor: [pitch]. All C.vecs vectors of o are updated
    // when vecs == C.vecs, the first `vecs` else.
    static void run(T const* v, extent_t v_stride, T const* p, segment const* segments, int count, T* o, T const* factor, extent_t width, int vecs);

private:
    template <int R, int First, int Last, class Acc>
    HEED_INLINE static void sum(Acc& acc, T const* HEED_RESTRICT v, extent_t v_stride, T const* HEED_RESTRICT p, int keys) {
        for (int j = 0; j < keys; ++j) {
            V x[Last - First];
            static_for<Last - First>([&](auto w) HEED_INLINE_LAMBDA {
                x[w] = V::load(p + j * pitch + (First + w) * lanes);
                pin(x[w]);
            });
            static_for<R>([&](auto r) HEED_INLINE_LAMBDA {
                V y(v[j * v_stride + r]);
                pin(y);
                static_for<Last - First>([&](auto w) HEED_INLINE_LAMBDA { acc[r][First + w] = Ring::step(acc[r][First + w], y, x[w]); });
            });
        }
    }
    template <int R>
    HEED_INLINE static void block(T const* v, extent_t v_stride, T const* p, segment const* segments, int count, T* o, T const* factor, int vecs) {
        V acc[R][C.vecs]; // R features x vectors of queries
        static_for<R>([&](auto r) HEED_INLINE_LAMBDA { static_for<C.vecs>([&](auto w) HEED_INLINE_LAMBDA { acc[r][w] = Ring::template zero<V>(); }); });
        for (int g = 0; g < count; ++g) {
            segment const t = segments[g];
            T const* const vt = v + t.begin * v_stride;
            T const* const pt = p + t.begin * pitch;
            int const keys = t.end - t.begin;
            switch (t.first * 4 + t.last) {
            case 0 * 4 + 3: sum<R, 0, 3>(acc, vt, v_stride, pt, keys); break;
            case 0 * 4 + 2: sum<R, 0, 2>(acc, vt, v_stride, pt, keys); break;
            case 0 * 4 + 1: sum<R, 0, 1>(acc, vt, v_stride, pt, keys); break;
            case 1 * 4 + 3: sum<R, 1, 3>(acc, vt, v_stride, pt, keys); break;
            case 1 * 4 + 2: sum<R, 1, 2>(acc, vt, v_stride, pt, keys); break;
            default: sum<R, 2, 3>(acc, vt, v_stride, pt, keys); break;
            }
        }
        static_for<C.vecs>([&](auto w) HEED_INLINE_LAMBDA {
            if (w < vecs) {
                V const f = V::load(factor + w * lanes);
                static_for<R>([&](auto r) HEED_INLINE_LAMBDA {
                    T* const out = o + r * pitch + w * lanes;
                    detail::join_sums<Ring>(V::load(out), f, acc[r][w]).store(out);
                });
            }
        });
    }
};

template <class Ring, class T, class A, tile_config C>
void mix_tile<Ring, T, A, C>::run(T const* v, extent_t v_stride, T const* p, segment const* segments, int count, T* o, T const* factor, extent_t width, int vecs) {
    extent_t e = 0;
    for (; e + most <= width; e += most) { block<most>(v + e, v_stride, p, segments, count, o + e * pitch, factor, vecs); }
    if constexpr (most > 4) {
        if (e + 4 <= width) {
            block<4>(v + e, v_stride, p, segments, count, o + e * pitch, factor, vecs);
            e += 4;
        }
    }
    if (e + 2 <= width) {
        block<2>(v + e, v_stride, p, segments, count, o + e * pitch, factor, vecs);
        e += 2;
    }
    if (e < width) { block<1>(v + e, v_stride, p, segments, count, o + e * pitch, factor, vecs); }
}

} // namespace heed
