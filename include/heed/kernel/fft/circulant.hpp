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
    static void block(T const* g, extent_t low, extent_t high, T const* v, extent_t v_row, extent_t count, extent_t first, extent_t last, T* out) {
        switch (last - first) {
        case 1: return block_of<1>(g, low, high, v, v_row, count, first, out);
        case 2: return block_of<2>(g, low, high, v, v_row, count, first, out);
        case 3: return block_of<3>(g, low, high, v, v_row, count, first, out);
        case 4: return block_of<4>(g, low, high, v, v_row, count, first, out);
        case 5: return block_of<5>(g, low, high, v, v_row, count, first, out);
        default: return block_of<rows>(g, low, high, v, v_row, count, first, out);
        }
    }

private:
    template <int R>
    HEED_NOINLINE static void block_of(T const* g, extent_t low, extent_t high, T const* v, extent_t v_row, extent_t count, extent_t first, T* out) {
        // j of row i: i - high ... i - low; what all rows share goes together
        extent_t const last = first + R, from = clamp(last - 1 - high, count), to = clamp(first - low + 1, count), shared = from < to ? from : to;
        V sum[R][2];
        static_for<R>([&](auto r) HEED_INLINE_LAMBDA { sum[decltype(r)::value][0] = sum[decltype(r)::value][1] = V(T(0)); });
        for (extent_t j = shared; j < to; ++j) {
            V const a = V::load(v + j * v_row), b = V::load(v + j * v_row + W);
            T const* const w = g + first - j;
            static_for<R>([&](auto r) HEED_INLINE_LAMBDA {
                constexpr int I = decltype(r)::value;
                V const x(w[I]);
                sum[I][0] = fma(x, a, sum[I][0]);
                sum[I][1] = fma(x, b, sum[I][1]);
            });
        }
        static_for<R>([&](auto r) HEED_INLINE_LAMBDA {
            constexpr int I = decltype(r)::value;
            sum[I][0].store(out + I * row_size);
            sum[I][1].store(out + I * row_size + W);
        });
        for (extent_t i = first; i < last; ++i) {
            extent_t const low_j = clamp(i - high, count), high_j = clamp(i - low + 1, count);
            add(g, i, v, v_row, low_j, shared < high_j ? shared : high_j, out + (i - first) * row_size);
            add(g, i, v, v_row, low_j > to ? low_j : to, high_j, out + (i - first) * row_size);
        }
    }
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
