// SPDX-License-Identifier: BSD-3-Clause
// plus-times: sum of products. One fma a pair. Laws: + and * associative and commutative up to rounding, * distributes.
#pragma once

#include <heed/kernel/math.hpp>

namespace heed {

struct plus_times {
    static constexpr bool sum_of_products = true; // machines may have instructions for it
    template <class V>
    HEED_HD static V zero() {
        return V(0);
    }
    template <class V>
    HEED_HD static V step(V acc, V a, V b) {
        using math::fma;
        return fma(a, b, acc);
    }
    template <class V>
    HEED_HD static V reduce(V a, V b) {
        return a + b;
    }
};

} // namespace heed
