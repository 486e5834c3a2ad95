// SPDX-License-Identifier: BSD-3-Clause
// top_k_softmax: softmax over the k greatest scores of the row, p_j = e^{s_j} / sum over the kept of e^s. Scores equal to the k-th are kept with it, so a
// row may keep more than k and does not depend on the order of the keys. With k at least the number of keys seen it is softmax.
//
// The k-th score is found by halving an interval of scores; each fold over the row counts what lies above the middle and moves both ends to scores
// that occur, so a row ends as soon as the count is k or the interval is one score. Folds: about log2 of (range / gap at the k-th score), 64 at most,
// after which what is left of the interval, 2^-64 of the range, is kept together. Scores whose weight would be 0 are not told apart. The cut is put
// halfway between the last score kept and the first dropped, so that backward, which makes the scores anew, cuts at the same place.
// Saved: the log-sum-exp of the kept scores and the cut. Empty rows and infinities as softmax. Parts of a row do not merge.
#pragma once

#include <heed/policy/normalize/softmax.hpp>

namespace heed {

struct top_k_softmax {
    extent_t k;

    static constexpr double unit = math::log2e;
    static constexpr int kept = 2;
    static constexpr centre centred = centre::output;
    static constexpr int most_folds = 64;

    template <class V>
    struct row {
        V peak, base, mass, cut; // as softmax; scores below the cut are dropped
    };
    template <class V>
    HEED_HD row<V> empty() const {
        return {-math::inf<V>(), V(0), V(0), V(0)};
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
    HEED_HD V weight(row<V> const& r, V score) const {
        using math::fast_exp2;
        using math::select;
        return select(score < r.cut, V(0), fast_exp2(score - r.base));
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
        using math::log2;
        to[0] = r.peak + log2(r.mass);
        to[1] = r.cut;
    }
    template <class V>
    HEED_HD row<V> resume(place const&, V log_sum_exp, V cut) const {
        using math::select;
        return {log_sum_exp, select(log_sum_exp == -math::inf<V>(), V(0), log_sum_exp), V(1), cut};
    }
    template <class V>
    HEED_HD V derivative(row<V> const&, V, V weight) const {
        return weight;
    }

    template <class V>
    struct bounds {
        V least, greatest; // of the scores that are not -infinity
        HEED_HD void add(V s) {
            using math::max;
            using math::min;
            using math::select;
            greatest = max(greatest, s);
            least = min(least, select(s == -math::inf<V>(), math::inf<V>(), s));
        }
        HEED_HD void join(bounds const& o) {
            using math::max;
            using math::min;
            greatest = max(greatest, o.greatest);
            least = min(least, o.least);
        }
    };
    template <class V>
    struct split {
        V pivot, count, above, below; // scores of at least the pivot: how many, the least; the greatest of the others
        HEED_HD void add(V s) {
            using math::max;
            using math::min;
            using math::select;
            auto const high = s >= pivot;
            count = count + select(high, V(1), V(0));
            above = min(above, select(high, s, math::inf<V>()));
            below = max(below, select(high, -math::inf<V>(), s));
        }
        HEED_HD void join(split const& o) {
            using math::max;
            using math::min;
            count = count + o.count;
            above = min(above, o.above);
            below = max(below, o.below);
        }
    };
    template <class V, class Scores>
    HEED_HD void solve(row<V>& r, Scores const& scores) const {
        using math::any;
        using math::max;
        using math::select;
        constexpr double reach = sizeof(math::scalar_t<V>) == 4 ? 150 : 1080; // below it, weights are 0
        V const none = -math::inf<V>();
        bounds<V> const all = scores.fold(bounds<V>{math::inf<V>(), none});
        r.peak = all.greatest;
        r.base = select(r.peak == none, V(0), r.peak);
        // low <= the k-th score <= high
        V low = max(all.least, r.base - V(reach)), high = select(low < r.peak, r.peak, low);
        V const enough = V(k);
        for (int n = 0; n < most_folds && any(low < high); ++n) {
            V const middle = low + (high - low) * V(0.5);
            split<V> const at = scores.fold(split<V>{select(middle > low, middle, high), V(0), math::inf<V>(), none});
            auto const many = at.count >= enough, open = low < high;
            V const next_low = select(many, at.above, low), next_high = select(many, select(at.count == enough, at.above, high), at.below);
            low = select(open, next_low, low);
            high = select(open, next_high, high);
        }
        V const below = scores.fold(split<V>{low, V(0), math::inf<V>(), none}).below;
        V const halfway = below + (low - below) * V(0.5);
        r.cut = select(below == none, none, select(halfway > below, halfway, low));
    }
};

} // namespace heed
