// SPDX-License-Identifier: BSD-3-Clause
// value_sums: weighted sums of value rows for few queries: o[r][e] = o[r][e] factor[r] + reduce_j step(v_j[e], p[r][j]), vectors along features.
//
// Values are rows of any element type, anywhere in memory, widened in registers; a block of R rows x F vectors of features goes through all keys of a
// tile. The sum over the tile starts at zero and is added to o once. While values are read, other rows (the next keys) are asked for.
#pragma once

#include <heed/kernel/key_products.hpp>

namespace heed {

template <class Ring, class E, class T, class A>
struct value_sums {
    using V = vec<T, A>;
    static constexpr int lanes = V::lanes;

    // v: pointers to `keys` rows; p: rows of `pitch`; o: rows of key_products' padded(width), the last features right-aligned; factor: one per row.
    static void run(E const* const* v, extent_t keys, rows_ahead ahead, extent_t keys_ahead, T const* p, extent_t pitch, int rows, T* o, T const* factor, extent_t width);

private:
    static constexpr bool many = registers<A> == 32;
    static constexpr int most_rows = many ? 8 : 4;
    // vectors of features of a block of R rows: enough sums to hide the latency of an addition, few enough for the registers
    template <int R>
    static constexpr int vectors = R == 8 ? 2 : R == 4 ? (many ? 4 : 2) : R == 2 ? (many ? 8 : 4) : 8;

    template <int R, int F, bool End>
    HEED_INLINE static void block(E const* const* HEED_RESTRICT v, extent_t keys, T const* HEED_RESTRICT p, extent_t pitch, T* HEED_RESTRICT o, extent_t o_pitch,
                                  T const* HEED_RESTRICT factor, extent_t e, extent_t width) {
        V acc[R][F];
        static_for<R>([&](auto r) HEED_INLINE_LAMBDA { static_for<F>([&](auto f) HEED_INLINE_LAMBDA { acc[r][f] = Ring::template zero<V>(); }); });
        for (extent_t j = 0; j < keys; ++j) {
            E const* const row = v[j];
            V x[F];
            static_for<F>([&](auto f) HEED_INLINE_LAMBDA {
                if constexpr (End) {
                    x[f] = widen_end<V>(row, width, width - e);
                } else {
                    x[f] = widen<V>(row + e + f * lanes);
                }
            });
            static_for<R>([&](auto r) HEED_INLINE_LAMBDA {
                V const y(p[r * pitch + j]);
                static_for<F>([&](auto f) HEED_INLINE_LAMBDA { acc[r][f] = Ring::step(acc[r][f], x[f], y); });
            });
        }
        static_for<R>([&](auto r) HEED_INLINE_LAMBDA {
            V const by(factor[r]);
            static_for<F>([&](auto f) HEED_INLINE_LAMBDA {
                T* const to = o + r * o_pitch + e + f * lanes;
                detail::join_sums<Ring>(V::load(to), by, acc[r][f]).store(to);
            });
        });
    }
    template <int R>
    static void strip(E const* const* v, extent_t keys, rows_ahead ahead, extent_t keys_ahead, T const* p, extent_t pitch, T* o, T const* factor, extent_t width) {
        constexpr int F = vectors<R>;
        extent_t const o_pitch = (width + lanes - 1) / lanes * lanes, blocks = (width + F * lanes - 1) / (F * lanes);
        extent_t e = 0, asked = 0;
        // an equal share of the next rows before each block, row after row: they will be needed in this order
        auto const ask = [&](extent_t done) HEED_INLINE_LAMBDA {
            if (ahead.rows == nullptr) { return; }
            extent_t const until = blocks == 0 ? keys_ahead : keys_ahead * done / blocks;
            for (; asked < until; ++asked) {
                for (extent_t l = 0; l < ahead.lines; ++l) { HEED_PREFETCH(ahead.rows[asked] + l * extent_t(line_bytes)); }
            }
        };
        extent_t count = 0;
        for (; e + F * lanes <= width; e += F * lanes) {
            ask(++count);
            block<R, F, false>(v, keys, p, pitch, o, o_pitch, factor, e, width);
        }
        ask(blocks);
        if constexpr (F >= 8) {
            if (e + 4 * lanes <= width) { block<R, 4, false>(v, keys, p, pitch, o, o_pitch, factor, e, width), e += 4 * lanes; }
        }
        if constexpr (F >= 4) {
            if (e + 2 * lanes <= width) { block<R, 2, false>(v, keys, p, pitch, o, o_pitch, factor, e, width), e += 2 * lanes; }
        }
        if (e + lanes <= width) { block<R, 1, false>(v, keys, p, pitch, o, o_pitch, factor, e, width), e += lanes; }
        if (e < width) { block<R, 1, true>(v, keys, p, pitch, o, o_pitch, factor, e, width); }
    }
};

template <class Ring, class E, class T, class A>
void value_sums<Ring, E, T, A>::run(E const* const* v, extent_t keys, rows_ahead ahead, extent_t keys_ahead, T const* p, extent_t pitch, int rows, T* o, T const* factor,
                                    extent_t width) {
    extent_t const o_pitch = (width + lanes - 1) / lanes * lanes;
    int r = 0;
    auto const take = [&](auto size) HEED_INLINE_LAMBDA {
        constexpr int R = decltype(size)::value;
        if constexpr (R <= most_rows) {
            while (rows - r >= R) {
                strip<R>(v, keys, ahead, keys_ahead, p + r * pitch, pitch, o + r * o_pitch, factor + r, width);
                ahead.rows = nullptr; // asked for once
                r += R;
            }
        }
    };
    take(std::integral_constant<int, 8>{});
    take(std::integral_constant<int, 4>{});
    take(std::integral_constant<int, 2>{});
    take(std::integral_constant<int, 1>{});
}

} // namespace heed
