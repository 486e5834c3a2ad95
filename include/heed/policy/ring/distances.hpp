// SPDX-License-Identifier: BSD-3-Clause
// Contractions by distance: squared_difference sum_c (q_c - k_c)^2, absolute_difference sum_c |q_c - k_c|. Exactly 0 for equal rows, never negative:
// no cancellation of |q|^2 + |k|^2 - 2 q.k. A subtraction beside the fused multiply-add, or two more operations.
#pragma once

#include <heed/kernel/math.hpp>

namespace heed {

struct squared_difference {
    static constexpr int spare = 1;
    template <class V>
    HEED_HD static V zero() {
        return V(0);
    }
    template <class V>
    HEED_HD static V step(V acc, V k, V q) {
        using math::fma;
        V const x = q - k;
        return fma(x, x, acc);
    }
    static constexpr int key_sign = -1;
    template <class V>
    HEED_HD static V slope(V k, V q) {
        return V(2) * (q - k);
    }
    template <class V>
    HEED_HD static V reduce(V a, V b) {
        return a + b;
    }
};

struct absolute_difference {
    static constexpr int spare = 2;
    template <class V>
    HEED_HD static V zero() {
        return V(0);
    }
    template <class V>
    HEED_HD static V step(V acc, V k, V q) {
        using math::abs;
        return acc + abs(q - k);
    }
    static constexpr int key_sign = -1;
    template <class V>
    HEED_HD static V slope(V k, V q) { // 0 where they are equal
        using math::select;
        return select(q > k, V(1), select(q < k, V(-1), V(0)));
    }
    template <class V>
    HEED_HD static V reduce(V a, V b) {
        return a + b;
    }
};

} // namespace heed
