// SPDX-License-Identifier: BSD-3-Clause
// Weights that are exactly 0 below a threshold of the row, and sum to 1.
//   sparsemax   p_j = max(s_j - t, 0)         the projection onto the simplex (arXiv:1602.02068)
//   entmax15    p_j = max(s_j / 2 - t, 0)^2   entmax with alpha = 1.5 (arXiv:1905.05702)
//
// The threshold is the root of a convex, falling function, found by Newton's steps from the left, max s - 1: they never pass it. Of the residual r_k
// and the slope g_k after k steps, r_{k+1} / r_k + g_{k+1} / g_k <= 1, so their product falls fourfold each time: log2 M + 12 folds over the row at most
// in float, log2 M + 27 in double, and a handful on ordinary rows; a row stops when it stands still. Then one division by the sum, which takes out the
// rounding of the threshold. Scores count relative to the row's maximum, so large ones cost no accuracy beyond their own.
// An empty row is 0, one key weighs 1; a score of +inf, like NaN, makes its row NaN. Parts of a row do not merge. Saved: the threshold, in units of the score
// (+inf for an empty row).
#pragma once

#include <heed/kernel/math.hpp>
#include <heed/policy/concepts.hpp>

namespace heed {

namespace detail {

template <int Power> // of the excess: 1 or 2
struct excess_weights {
    static constexpr double unit = 1;
    static constexpr int kept = 1;
    static constexpr centre centred = centre::mean;
    static constexpr double slope_of_score = 1.0 / Power; // the excess is s / Power - t
    static constexpr int most_folds = 64;

    template <class V>
    struct row {
        V base, tau, mass; // the threshold is base + Power tau
    };
    template <class V>
    HEED_HD row<V> empty() const {
        return {V(0), V(0), V(0)};
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
    HEED_HD static V excess(row<V> const& r, V score) {
        using math::max;
        return max(V(0), (score - r.base) * V(slope_of_score) - r.tau);
    }
    template <class V>
    HEED_HD V weight(row<V> const& r, V score) const {
        V const x = excess(r, score);
        return Power == 1 ? x : x * x;
    }
    template <class V>
    HEED_HD void settle(row<V>& r, V sum) const {
        r.mass = r.mass + sum;
    }
    template <class V>
    HEED_HD V close(row<V> const& r) const {
        using math::select;
        return select(r.mass == V(0), V(0), V(1) / r.mass);
    }
    template <class V>
    HEED_HD void saved(row<V> const& r, V* to) const {
        to[0] = r.base + r.tau * V(Power);
    }
    template <class V>
    HEED_HD row<V> resume(place const&, V threshold) const {
        return {threshold, V(0), V(1)};
    }
    // In natural units of the score: 1 on the support, or the excess itself.
    template <class V>
    HEED_HD V derivative(row<V> const& r, V score, V weight) const {
        using math::select;
        if constexpr (Power == 1) {
            return select(weight > V(0), V(1), V(0));
        } else {
            return excess(r, score);
        }
    }

    template <class V>
    struct greatest {
        V of;
        HEED_HD void add(V s) {
            using math::max;
            of = max(of, s);
        }
        HEED_HD void join(greatest const& o) { add(o.of); }
    };
    template <class V>
    struct residual {
        row<V> at;
        V sum, slope; // of the weights; minus their derivative by tau
        HEED_HD void add(V s) {
            using math::select;
            V const x = excess(at, s);
            sum = sum + (Power == 1 ? x : x * x);
            slope = slope + (Power == 1 ? select(x > V(0), V(1), V(0)) : x + x);
        }
        HEED_HD void join(residual const& o) {
            sum = sum + o.sum;
            slope = slope + o.slope;
        }
    };
    template <class V, class Scores>
    HEED_HD void solve(row<V>& r, Scores const& scores) const {
        using math::any;
        using math::select;
        V const top = scores.fold(greatest<V>{-math::inf<V>()}).of;
        r.base = select(top == -math::inf<V>(), math::inf<V>(), top); // nothing exceeds the threshold of an empty row
        r.tau = V(-1);
        for (int n = 0; n < most_folds; ++n) {
            residual<V> const now = scores.fold(residual<V>{r, V(0), V(0)});
            V const over = now.sum - V(1);
            V const next = r.tau + select(over > V(0), over / now.slope, V(0));
            auto const moved = next > r.tau;
            r.tau = select(moved, next, r.tau);
            if (!any(moved)) { break; }
        }
    }
};

} // namespace detail

struct sparsemax : detail::excess_weights<1> {};
struct entmax15 : detail::excess_weights<2> {};

} // namespace heed
