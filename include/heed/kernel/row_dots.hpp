// SPDX-License-Identifier: BSD-3-Clause
// y[r] = by (rows[r] . x): a register's worth of rows at a time, so that the sums across lanes are shared. Rows of d numbers, `pitch` apart; any d.
#pragma once

#include <heed/kernel/lane_reduce.hpp>
#include <heed/kernel/math.hpp>

namespace heed {

template <class A, class T>
HEED_INLINE void row_dots(T const* rows, extent_t pitch, extent_t count, T by, T const* x, extent_t d, T* y) {
    using V = vec<T, A>;
    constexpr int lanes = V::lanes;
    extent_t const whole = d / lanes * lanes;
    for (extent_t r = 0; r < count; r += lanes) { // those beyond the last row are the last again
        T const* row[lanes];
        V sum[lanes];
        for (int l = 0; l < lanes; ++l) { row[l] = rows + (r + l < count ? r + l : count - 1) * pitch, sum[l] = V(0); }
        for (extent_t c = 0; c < whole; c += lanes) {
            V const at = V::load(x + c);
            static_for<lanes>([&](auto l) HEED_INLINE_LAMBDA { sum[l] = fma(V::load(row[l] + c), at, sum[l]); });
        }
        T part[lanes];
        reduce_lanes<T, A>(sum, [](V a, V b) HEED_INLINE_LAMBDA { return a + b; }).store(part);
        for (int l = 0; l < lanes && r + l < count; ++l) {
            for (extent_t c = whole; c < d; ++c) { part[l] = math::fma(row[l][c], x[c], part[l]); }
            y[r + l] = part[l] * by;
        }
    }
}

} // namespace heed
