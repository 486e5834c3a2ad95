// SPDX-License-Identifier: BSD-3-Clause
// The tropical semirings. max_plus: (max, +) with zero -inf; min_plus: (min, +) with zero +inf. An addition and a comparison a pair.
// Laws: reduce is associative, commutative and idempotent, exactly; + distributes over it up to rounding. So any split of a sum gives the same bits.
//
// step skips a sum that is not a number, which keeps its zero absorbing (-inf + inf counts as -inf) and never loses what came before; reduce and join
// keep NaN of either side. Engines look at their operands' rows once and put NaN where a NaN operand belongs (skips_nan).
#pragma once

#include <heed/kernel/math.hpp>

namespace heed {

namespace detail {
// Slopes of a sum by the greatest of its combined values, by the least, and by each.
struct pick_slopes {
    double greatest, least, each;
};

// (best, +), where `best` chooses one of two values and `none` loses against every other.
template <class Order>
struct best_plus {
    static constexpr int spare = 2; // the sum, and the constant of side_sum
    static constexpr bool skips_nan = true;
    template <class V>
    HEED_HD static V zero() {
        return Order::template none<V>();
    }
    template <class V>
    HEED_HD static V combine(V a, V b) {
        using math::side_sum;
        return side_sum(a, b);
    }
    template <class V>
    HEED_HD static V step(V acc, V a, V b) {
        return Order::best_number(combine(a, b), acc);
    }
    template <class V>
    HEED_HD static V reduce(V a, V b) {
        using math::select;
        return select(a == a, Order::best(a, b), a);
    }
    // nothing is rescaled: a tile joins what came before
    template <class V>
    HEED_HD static V join(V before, V, V tile) {
        return reduce(before, tile);
    }
    // a beats b
    template <class V>
    HEED_HD static auto better(V a, V b) {
        return Order::better(a, b);
    }
    static constexpr int key_sign = 1;
    HEED_HD static constexpr pick_slopes picks(extent_t) { return Order::picked; }
};

struct greatest {
    static constexpr pick_slopes picked{1, 0, 0};
    template <class V>
    HEED_HD static V none() {
        return -math::inf<V>();
    }
    template <class V>
    HEED_HD static V best(V a, V b) {
        using math::max;
        return max(a, b);
    }
    template <class V>
    HEED_HD static V best_number(V x, V acc) {
        using math::greater_number;
        return greater_number(x, acc);
    }
    template <class V>
    HEED_HD static auto better(V a, V b) {
        return a > b;
    }
};
struct least {
    static constexpr pick_slopes picked{0, 1, 0};
    template <class V>
    HEED_HD static V none() {
        return math::inf<V>();
    }
    template <class V>
    HEED_HD static V best(V a, V b) {
        using math::min;
        return min(a, b);
    }
    template <class V>
    HEED_HD static V best_number(V x, V acc) {
        using math::lesser_number;
        return lesser_number(x, acc);
    }
    template <class V>
    HEED_HD static auto better(V a, V b) {
        return a < b;
    }
};
} // namespace detail

struct max_plus : detail::best_plus<detail::greatest> {};
struct min_plus : detail::best_plus<detail::least> {};

} // namespace heed
