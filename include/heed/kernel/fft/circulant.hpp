// SPDX-License-Identifier: BSD-3-Clause
// Mixing by distance without a transform: out_i = sum_j g_(i - j) v_j over the j of a row, g given by a table over distances low ... high.
// O(N M) products, and the fastest way for short sequences. Each row reads the values of its own j only, so what stands elsewhere (NaN) stays there.
#pragma once

#include <heed/kernel/batch.hpp>

namespace heed {

template <class T, class A>
struct circulant {
    using V = vec<T, A>;
    static constexpr int W = V::lanes, rows = 6; // 12 sums of two registers a row
    static constexpr extent_t row_size = 2 * W;

    // g: of distance 0. v: `count` rows, `v_row` apart. out: `last - first` <= 6 rows of row_size numbers, rows first ... last of the result.
    HEED_NOINLINE static void block(T const* g, extent_t low, extent_t high, T const* v, extent_t v_row, extent_t count, extent_t first, extent_t last, T* out) {
        // j of row i: i - high ... i - low; what all six rows share goes together
        extent_t const shared = clamp(last - 1 - high, count), until = clamp(first - low + 1, count);
        if (last - first == rows && shared < until) {
            V sum[rows][2];
            static_for<rows>([&](auto r) HEED_INLINE_LAMBDA { sum[decltype(r)::value][0] = sum[decltype(r)::value][1] = V(T(0)); });
            for (extent_t j = shared; j < until; ++j) {
                V const a = V::load(v + j * v_row), b = V::load(v + j * v_row + W);
                T const* const w = g + first - j;
                static_for<rows>([&](auto r) HEED_INLINE_LAMBDA {
                    constexpr int R = decltype(r)::value;
                    V const x(w[R]);
                    sum[R][0] = fma(x, a, sum[R][0]);
                    sum[R][1] = fma(x, b, sum[R][1]);
                });
            }
            static_for<rows>([&](auto r) HEED_INLINE_LAMBDA {
                constexpr int R = decltype(r)::value;
                sum[R][0].store(out + R * row_size);
                sum[R][1].store(out + R * row_size + W);
            });
            for (extent_t i = first; i < last; ++i) {
                add(g, i, v, v_row, clamp(i - high, count), shared, out + (i - first) * row_size);
                add(g, i, v, v_row, until, clamp(i - low + 1, count), out + (i - first) * row_size);
            }
            return;
        }
        for (extent_t i = first; i < last; ++i) {
            T* const to = out + (i - first) * row_size;
            V(T(0)).store(to);
            V(T(0)).store(to + W);
            add(g, i, v, v_row, clamp(i - high, count), clamp(i - low + 1, count), to);
        }
    }

private:
    HEED_INLINE static extent_t clamp(extent_t j, extent_t count) { return j < 0 ? 0 : j > count ? count : j; }
    HEED_INLINE static void add(T const* g, extent_t i, T const* v, extent_t v_row, extent_t from, extent_t to, T* out) {
        V a = V::load(out), b = V::load(out + W);
        for (extent_t j = from; j < to; ++j) {
            V const x(g[i - j]);
            a = fma(x, V::load(v + j * v_row), a);
            b = fma(x, V::load(v + j * v_row + W), b);
        }
        a.store(out);
        b.store(out + W);
    }
};

} // namespace heed
