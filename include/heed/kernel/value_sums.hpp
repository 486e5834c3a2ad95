// SPDX-License-Identifier: BSD-3-Clause
// value_sums: weighted sums of value rows for few queries: o[r][e] = o[r][e] factor[r] + reduce_j step(v_j[e], p[r][j]), vectors along features.
//
// Values are rows of any element type, anywhere in memory, widened in registers; a block of R rows x F vectors of features goes through all keys of a
// tile. The sum over the tile starts at zero and is added to o once. While values are read, other rows (the next keys) and values a few rows later are
// asked for, as key_products does.
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
    static constexpr extent_t keys_near = 4; // so many rows later a value is wanted in the first cache
    static constexpr int per_line = static_cast<int>(line_bytes / sizeof(E)) > lanes ? static_cast<int>(line_bytes / sizeof(E)) : lanes;
    // vectors of features of a block of R rows: enough sums to hide the latency of an addition, few enough for the registers
    template <int R>
    static constexpr int vectors = R == 8 ? 2 : R == 4 ? (many ? 4 : 2) : R == 2 ? (many ? 8 : 4) : 8;

    // Lines [first, last) of each row that will be needed next are asked for beside the key of the same number, not all of them before the block: caches of
    // bf16 are read a seventh faster so, measured on a Xeon. A core can have few misses under way; a burst of them is thought to wait for itself.
    struct share {
        std::byte const* const* rows;
        extent_t first, last;
    };

    template <int R, int F, bool End>
    HEED_INLINE static void sum(V (&acc)[R][F], E const* const* HEED_RESTRICT v, extent_t keys, share const& next, extent_t next_keys, T const* HEED_RESTRICT p, extent_t pitch,
                                extent_t e, extent_t width) {
        for (extent_t j = 0; j < keys; ++j) {
            if (j < next_keys) {
                for (extent_t l = next.first; l < next.last; ++l) { HEED_PREFETCH_FAR(next.rows[j] + l * extent_t(line_bytes), 0); }
            }
            E const* const row = v[j];
            E const* const near = v[j + keys_near < keys ? j + keys_near : j] + e;
            static_for<(F * lanes + per_line - 1) / per_line>([&](auto l) HEED_INLINE_LAMBDA { HEED_PREFETCH(near + l * per_line); });
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
    }
    template <int R, int F, bool End>
    HEED_INLINE static void block(E const* const* HEED_RESTRICT v, extent_t keys, share const& next, extent_t next_keys, T const* HEED_RESTRICT p, extent_t pitch, T* HEED_RESTRICT o,
                                  extent_t o_pitch, T const* HEED_RESTRICT factor, extent_t e, extent_t width) {
        V acc[R][F];
        static_for<R>([&](auto r) HEED_INLINE_LAMBDA { static_for<F>([&](auto f) HEED_INLINE_LAMBDA { acc[r][f] = Ring::template zero<V>(); }); });
        sum<R, F, End>(acc, v, keys, next, next_keys, p, pitch, e, width);
        static_for<R>([&](auto r) HEED_INLINE_LAMBDA {
            V const by(factor[r]);
            static_for<F>([&](auto f) HEED_INLINE_LAMBDA {
                T* const to = o + r * o_pitch + e + f * lanes;
                detail::join_sums<Ring>(V::load(to), by, acc[r][f]).store(to);
            });
        });
    }
    template <int R>
    static constexpr extent_t count_of_blocks(extent_t width) {
        constexpr int F = vectors<R>;
        extent_t const whole = width / (F * lanes), rest = width % (F * lanes) / lanes;
        extent_t narrow = 0;
        for (int f = F / 2; f > 0; f /= 2) { narrow += rest / f % 2; }
        return whole + narrow + (width % lanes != 0);
    }
    template <int R>
    static void strip(E const* const* v, extent_t keys, rows_ahead ahead, extent_t keys_ahead, T const* p, extent_t pitch, T* o, T const* factor, extent_t width) {
        constexpr int F = vectors<R>;
        extent_t const o_pitch = (width + lanes - 1) / lanes * lanes, blocks = count_of_blocks<R>(width);
        extent_t const with = ahead.rows == nullptr ? 0 : keys_ahead < keys ? keys_ahead : keys;
        extent_t e = 0, count = 0;
        auto const next = [&]() HEED_INLINE_LAMBDA { // an equal share of the lines for each block
            extent_t const first = ahead.lines * count / blocks, last = ahead.lines * (count + 1) / blocks;
            ++count;
            return share{ahead.rows, first, last};
        };
        auto const take = [&](auto vectors_of_block, auto end) HEED_INLINE_LAMBDA {
            constexpr int N = decltype(vectors_of_block)::value;
            block<R, N, decltype(end)::value>(v, keys, next(), with, p, pitch, o, o_pitch, factor, e, width);
            e += N * lanes;
        };
        while (e + F * lanes <= width) { take(std::integral_constant<int, F>{}, std::false_type{}); }
        if constexpr (F >= 8) {
            if (e + 4 * lanes <= width) { take(std::integral_constant<int, 4>{}, std::false_type{}); }
        }
        if constexpr (F >= 4) {
            if (e + 2 * lanes <= width) { take(std::integral_constant<int, 2>{}, std::false_type{}); }
        }
        if (e + lanes <= width) { take(std::integral_constant<int, 1>{}, std::false_type{}); }
        if (e < width) { take(std::integral_constant<int, 1>{}, std::true_type{}); }
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
