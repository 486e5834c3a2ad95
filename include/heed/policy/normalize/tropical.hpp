// SPDX-License-Identifier: BSD-3-Clause
// What stands in the normalizer's slot when values are gathered by (max, +) or (min, +): the weight of a pair is its score, nothing is divided.
//   tropical<max_plus>   out = max_j (s_ij + v_j)     tropical<min_plus>   out = min_j (s_ij + v_j)
//   tropical_exit        out = e^{c} - 1 (or e^{c}) of c = max_j (s_ij + v_j): back from logarithms (arXiv:2505.17190)
//
// State of a row: whether a score was not a number. Partial results merge by the ring itself: the same bits for every split, in any order.
// A row that sees no key is the ring's zero, -inf or +inf; with an exit map it is 0. NaN of a score makes its whole row NaN.
#pragma once

#include <heed/policy/concepts.hpp>
#include <heed/policy/ring/extremes.hpp>

namespace heed {

template <class Ring = max_plus>
struct tropical {
    using ring = Ring;
    static constexpr double unit = 1.0;
    static constexpr int kept = 0;
    static constexpr bool idempotent = true;                               // no sums: engines for max-type rings serve it
    static constexpr bool weighs = !std::is_same_v<Ring, max_plus>;        // a masked score is -inf, which is max_plus's own zero

    template <class V>
    struct row {
        V odd; // 0, NaN once a score was
    };
    template <class V>
    HEED_HD row<V> empty() const {
        return {V(0)};
    }
    template <class V>
    HEED_HD row<V> start(place const&) const {
        return empty<V>();
    }
    template <class V>
    HEED_HD V raise(row<V>&, V) const {
        return V(1);
    }
    template <class V>
    HEED_HD V weight(row<V> const&, V score) const {
        using math::select;
        if constexpr (weighs) {
            return select(score == -math::inf<V>(), Ring::template zero<V>(), score);
        } else {
            return score;
        }
    }
    // instead of a sum of weights: NaN if one of them was
    template <class V>
    HEED_HD V tally(V sum, V weight) const {
        using math::select;
        return select(weight == weight, sum, weight);
    }
    template <class V>
    HEED_HD void settle(row<V>& r, V sum) const {
        r.odd = r.odd + sum;
    }
    template <class V>
    HEED_HD V close(row<V> const&) const {
        return V(1);
    }
    template <class V>
    HEED_HD V finish(row<V> const& r, V gathered) const {
        using math::select;
        return select(r.odd == V(0), gathered, r.odd);
    }
    template <class V>
    HEED_HD row<V> merge(row<V> const& a, row<V> const& b, V& factor_a, V& factor_b) const {
        factor_a = factor_b = V(1);
        return {a.odd + b.odd};
    }
};

// e^c - 1, the inverse of log1p; e^c, the inverse of log.
struct exp_minus_one {
    template <class V>
    HEED_HD V operator()(V c) const {
        using math::expm1;
        return expm1(c);
    }
    template <class V>
    HEED_HD V slope(V c) const {
        using math::exp;
        return exp(c);
    }
};
struct exponential {
    template <class V>
    HEED_HD V operator()(V c) const {
        using math::exp;
        return exp(c);
    }
    template <class V>
    HEED_HD V slope(V c) const {
        using math::exp;
        return exp(c);
    }
};

template <class F = exp_minus_one>
struct tropical_exit : tropical<max_plus> {
    F exit = {};
    template <class V>
    HEED_HD V finish(row<V> const& r, V gathered) const {
        using math::select;
        V const out = select(gathered == -math::inf<V>(), V(0), exit(gathered));
        return select(r.odd == V(0), out, r.odd);
    }
    template <class V>
    HEED_HD V finish_slope(V gathered) const {
        return exit.slope(gathered);
    }
};

} // namespace heed
