// SPDX-License-Identifier: BSD-3-Clause
// Weighted sums of rows that hold all heads: o[h] = o[h] factor[h] + sum_x p[x][h] row_x[h], a row after the other, the sums of as many heads as there are
// registers kept while all rows pass. Vectors along features; the last features of a head right-aligned, as value_sums leaves them.
#pragma once

#include <heed/kernel/bytes.hpp>

namespace heed {

template <class T, class A>
struct head_sums {
    using V = vec<T, A>;
    static constexpr int lanes = V::lanes, most = registers<A> == 32 ? 16 : 8;

    // A vector of a head's features: where its weight, its factor and its sum stand.
    struct piece {
        extent_t head, feature, weight, factor, sum;
    };
    HEED_INLINE static extent_t count(extent_t heads, extent_t width) { return heads * ((width + lanes - 1) / lanes); }
    template <class Layout>
    static void cut(Layout const& l, extent_t width, piece* to) {
        for (extent_t h = 0; h < l.heads; ++h) {
            for (extent_t e = 0; e < width; e += lanes) { *to++ = {h, e, l.place_of(h), l.lane_of(h), h * (lanes + width) + e}; }
        }
    }
    // row: n pointers; head h reads at h / heads_a_row * step. p: weights, of the next row `beside` further. factor: null: 1. ask: n pointers to what will be read
    // next, asked for where this row is read, a line beside each product.
    static void run(T const* const* row, extent_t n, T const* p, extent_t beside, piece const* pieces, extent_t all, extent_t step, extent_t heads_a_row, T const* const* ask, T* o,
                    T const* factor, extent_t width) {
        extent_t at = 0;
        auto const take = [&](auto size) HEED_INLINE_LAMBDA {
            constexpr int F = decltype(size)::value;
            for (; all - at >= F; at += F) {
                auto const block = width % lanes == 0 ? part<F, true> : part<F, false>;
                block(pieces + at, row, n, p, beside, step, heads_a_row, ask, o, factor, width);
            }
        };
        take(std::integral_constant<int, most>{});
        take(std::integral_constant<int, most / 4>{});
        take(std::integral_constant<int, 1>{});
    }

private:
    // Whole: all pieces have as many features as there are lanes.
    template <int F, bool Whole>
    HEED_NOINLINE static void part(piece const* pieces, T const* const* row, extent_t n, T const* p, extent_t beside, extent_t step, extent_t heads_a_row, T const* const* ask,
                                   T* o, T const* factor, extent_t width) {
        extent_t from[F], weight[F];
        for (int f = 0; f < F; ++f) {
            from[f] = (heads_a_row == 1 ? pieces[f].head : pieces[f].head / heads_a_row) * step + (Whole ? pieces[f].feature : 0);
            weight[f] = pieces[f].weight;
        }
        V sum[F];
        static_for<F>([&](auto f) HEED_INLINE_LAMBDA { sum[decltype(f)::value] = V(T(0)); });
        for (extent_t x = 0; x < n; ++x, p += beside) {
            T const *const r = row[x], *const next = ask[x];
            static_for<F>([&](auto f) HEED_INLINE_LAMBDA {
                constexpr int I = decltype(f)::value;
                if constexpr (I * lanes * sizeof(T) % line_bytes == 0) { HEED_PREFETCH(next + from[I]); }
                V const y(p[weight[I]]);
                if constexpr (Whole) {
                    sum[I] = fma(y, V::load(r + from[I]), sum[I]);
                } else {
                    extent_t const e = pieces[I].feature;
                    sum[I] = fma(y, width - e >= lanes ? V::load(r + from[I] + e) : widen_end<V>(r + from[I], width, width - e), sum[I]);
                }
            });
        }
        static_for<F>([&](auto f) HEED_INLINE_LAMBDA {
            constexpr int I = decltype(f)::value;
            T* const to = o + pieces[I].sum;
            V const by(factor == nullptr ? T(1) : factor[pieces[I].factor]);
            fma(V::load(to), by, sum[I]).store(to);
        });
    }
};

} // namespace heed
