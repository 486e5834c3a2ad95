// SPDX-License-Identifier: BSD-3-Clause
// Few weighted rows into one: out[e] = keep out[e] + sum_k weight_k row_k[e], vectors along features where they are contiguous.
#pragma once

#include <heed/kernel/batch.hpp>

namespace heed {

template <class T>
struct weighted_row {
    T const* data;
    extent_t step; // between features
    T weight;
};

template <class T, class A>
struct row_sums {
    using V = vec<T, A>;
    static constexpr int lanes = V::lanes;

    // Without `keep` what stood in out is not read.
    static void combine(weighted_row<T> const* rows, int count, T* out, extent_t out_step, extent_t width, T const* keep = nullptr) {
        bool dense = out_step == 1;
        for (int k = 0; k < count; ++k) { dense = dense && rows[k].step == 1; }
        extent_t e = 0;
        if (dense) {
            for (; e + 4 * lanes <= width; e += 4 * lanes) { block<4>(rows, count, out, keep, e); }
            for (; e + lanes <= width; e += lanes) { block<1>(rows, count, out, keep, e); }
        }
        for (; e < width; ++e) {
            T sum = keep == nullptr ? T(0) : out[e * out_step] * *keep;
            for (int k = 0; k < count; ++k) { sum += rows[k].weight * rows[k].data[e * rows[k].step]; }
            out[e * out_step] = sum;
        }
    }

private:
    template <int W>
    HEED_INLINE static void block(weighted_row<T> const* rows, int count, T* out, T const* keep, extent_t e) {
        V acc[W];
        static_for<W>([&](auto w) HEED_INLINE_LAMBDA { acc[w] = keep == nullptr ? V(0) : V::load(out + e + w * lanes) * V(*keep); });
        for (int k = 0; k < count; ++k) {
            V const weight(rows[k].weight);
            static_for<W>([&](auto w) HEED_INLINE_LAMBDA { acc[w] = fma(weight, V::load(rows[k].data + e + w * lanes), acc[w]); });
        }
        static_for<W>([&](auto w) HEED_INLINE_LAMBDA { acc[w].store(out + e + w * lanes); });
    }
};

} // namespace heed
