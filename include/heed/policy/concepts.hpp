// SPDX-License-Identifier: BSD-3-Clause
// What a policy must say, one expression per obligation. A policy is a small trivially copyable value: its type selects code, its
// members are run-time numbers and views. The shells check these concepts in their bodies, so that the compiler's message is a sentence.
#pragma once

#include <heed/policy/place.hpp>

#include <concepts>
#include <cstdint>
#include <type_traits>

namespace heed {

template <class P>
concept Policy = std::is_class_v<P> && std::is_trivially_copyable_v<P>;

// Score: bends raw = q.k (or another contraction) into a score, written once over a value type V.
//   V operator()(V raw, Pair const& p) const      p.i, p.j positions; p.at the place; p.distance() = i + (M-N) - j; p.load(view) an operand of the pair
// optional: factor(place)   the stage is multiplication by this number; leading factors are folded into the queries
//           table()         a view [B|1, H|1, N|1, M|1] that p.load() reads; an element of -inf masks its pair
//           views(sizes, f) calls f(name, view, wanted shape) for every view held, for the checks at the door; extents of 1 broadcast
//           masks           static bool: true if the stage itself may return -inf, which means masked
namespace detail {
struct probe_pair {
    place at;
    extent_t i = 0, j = 0;
    extent_t distance() const { return i + at.shift() - j; }
    template <class View>
    auto load(View const& view) const {
        return static_cast<double>(*view.data_handle());
    }
};
} // namespace detail
template <class S>
concept ScoreStage = Policy<S> && requires(S const s, double raw, detail::probe_pair const p) {
    { s(raw, p) } -> std::convertible_to<double>;
};
namespace detail {
template <class S>
inline constexpr bool is_score = ScoreStage<S>; // of a chain: every stage
} // namespace detail
template <class S>
concept Score = detail::is_score<S>;
template <class S>
concept Factor = requires(S const s, place const at) {
    { s.factor(at) } -> std::convertible_to<double>;
};
template <class S>
concept Tabled = requires(S const s) { s.table(); };

// Pattern: which pairs exist. keep is the definition, classify the speed; both must agree.
//   keep(place, i, j)           extent_t to bool; as a template over I also lanes to a mask, which saves the packing of bits
//   classify(place, rows, cols) -> tile
// optional: hull(place, rows) -> range    keys outside are kept by no row of `rows`
//           next(place, rows, from) -> extent_t   no row of `rows` keeps a key in [from, next): decode jumps there
//           pack(place, rows, cols, words) bit i - rows.begin of words[j - cols.begin] = keep(i, j); for rules that are data
template <class P>
concept Pattern = Policy<P> && requires(P const p, place const at, extent_t i, range r) {
    { p.keep(at, i, i) } -> std::convertible_to<bool>;
    { p.classify(at, r, r) } -> std::same_as<tile>;
};
template <class P>
concept PackedPattern = Pattern<P> && requires(P const p, place const at, range r, std::uint64_t* words) { p.pack(at, r, r, words); };

// Normalizer: the state of a row is a monoid. V is lanes of rows.
//   start<V>(place)           the state before the first key (a sink is counted here)
//   empty<V>()                the neutral element
//   raise(row, peak)          the greatest score of a tile arrives: returns the factor for what was accumulated
//   weight(row, score)        score -> weight
//   settle(row, sum)          adds the tile's sum of weights
//   close(row)                final factor of the accumulated values
//   unit                      scores reach raise and weight multiplied by this number
// optional: finish(row, gathered)   what is written of a row, instead of gathered times close(row)
//           tally(sum, weight)      what settle gets is built by this, instead of sum + weight
//           weighs                  static bool: false if weight returns the score and nothing is tallied of scores that are numbers
template <class N, class V = double>
concept Normalizer = Policy<N> && requires(N const n, typename N::template row<V> r, typename N::template row<V> const c, place const at, V x) {
    { n.template start<V>(at) } -> std::same_as<typename N::template row<V>>;
    { n.template empty<V>() } -> std::same_as<typename N::template row<V>>;
    { n.raise(r, x) } -> std::same_as<V>;
    { n.weight(c, x) } -> std::same_as<V>;
    { n.settle(r, x) };
    { n.close(c) } -> std::same_as<V>;
    { N::unit } -> std::convertible_to<double>;
};
// merge(a, b, factor_a, factor_b): the state of both parts, and the factors of their accumulated values
template <class N, class V = double>
concept MergeableNormalizer = Normalizer<N, V> && requires(N const n, typename N::template row<V> const a, V& f) {
    { n.merge(a, a, f, f) } -> std::same_as<typename N::template row<V>>;
    { n.log_sum_exp(a) } -> std::same_as<V>;
};

// A normalizer whose divisor is the number of keys that a row sees: settle(row, sum, count) gets it with the tile's sum of weights.
template <class N, class V = double>
concept CountingNormalizer = Normalizer<N, V> && requires(N const n, typename N::template row<V> r, V x) { n.settle(r, x, x); };

// A normalizer that must know all scores of a row before it can weigh one (thresholds). Engines keep the scores of a tile of queries against all keys.
//   solve(row, scores)   scores.fold(x) passes every score of the row (-inf where masked) through a small monoid: x.add(score), x.join(other);
//                        the number of folds must have a bound. raise returns 1.
// Parts of a row do not merge.
namespace detail {
template <class V>
struct probe_scores {
    template <class X>
    X fold(X x) const {
        return x;
    }
};
} // namespace detail
template <class N, class V = double>
concept RowWiseNormalizer =
    Normalizer<N, V> && requires(N const n, typename N::template row<V> r, detail::probe_scores<V> const scores) { n.solve(r, scores); };

// How the gradient of a score uses the rest of its row: ds_ij = derivative_ij (dp_ij - centre_i), where dp_ij = dO_i . v_j.
//   none    weights of a row do not depend on each other: centre 0
//   output  centre_i = dO_i . O_i: softmax and its kin, whose derivative is the weight itself
//   mean    centre_i = sum_j derivative_ij dp_ij / sum_j derivative_ij: one more walk over the keys
enum class centre { none, output, mean };

// What backward needs of a normalizer besides.
//   kept                       numbers of a row that forward saves for backward: 0, 1 (log-sum-exp, the logarithm of a divisor, a threshold), 2 (both)
//   saved(row, V* to)          those numbers, in units of the score times unit; without this member: log_sum_exp(row)
//   resume<V>(place, saved)    the closed row from what was saved: weight(row, score) of it is the final weight (V{} if kept is 0);
//                              resume<V>(place, first, second) if kept is 2
//   derivative(row, s, p)      d weight / d score of natural units at score s (times unit) and weight p
//   centred                    see centre
template <class N, class V = double>
concept DifferentiableNormalizer = Normalizer<N, V> && requires(N const n, typename N::template row<V> const r, place const at, V x) {
    requires requires {
        { n.template resume<V>(at, x) } -> std::same_as<typename N::template row<V>>;
    } || requires {
        { n.template resume<V>(at, x, x) } -> std::same_as<typename N::template row<V>>;
    };
    { n.derivative(r, x, x) } -> std::same_as<V>;
    { N::centred } -> std::convertible_to<centre>;
    { N::kept } -> std::convertible_to<int>;
};

namespace detail {
// Numbers of a row that forward can save.
template <class N>
constexpr int kept_of() {
    if constexpr (requires { N::kept; }) {
        return N::kept;
    } else {
        return MergeableNormalizer<N> ? 1 : 0;
    }
}
template <class N, class V>
HEED_HD void saved_numbers(N const& n, typename N::template row<V> const& r, V* to) {
    if constexpr (requires { n.saved(r, to); }) {
        n.saved(r, to);
    } else if constexpr (requires { n.log_sum_exp(r); }) {
        to[0] = n.log_sum_exp(r);
    }
}
} // namespace detail

namespace detail {
// Nothing is weighed: values are gathered by a ring whose sums are one of their terms (a maximum, a minimum).
template <class N>
inline constexpr bool is_idempotent = requires { requires N::idempotent; };
} // namespace detail

// Mix: how values are gathered. step(acc, a, b) = reduce(acc, combine(a, b)), zero() its neutral element; a is the value, b the weight.
// optional: join(before, factor, tile)   a tile's sum joins what came before; without it before * factor + tile
//           skips_nan                    step skips a product that is not a number: engines look at rows of values, and put NaN where it belongs
// A contraction is the same over k (a) and q (b), and may besides say
//           accumulators, spare          registers that a pair's sum takes (zero, step and reduce are then of a struct of V), that a step needs beside
//           has_operand                  step(acc, k, q, w) with one more operand per feature; the score's head gives operand(place, c)
//           finish(acc, width)           the raw score from the sum
// For gradients: slope(k, q[, w]), the derivative of a feature's term by q, and operand_slope(k, q) by w; or picks(width), the slopes by the greatest
// and the least of combine(k, q) and by each (ties: the first feature). key_sign is 1 if terms are of q + k, -1 if of q - k. It may have
// members, which the head's contraction_value() sets. A head says raw if the raw score is the score.
template <class R, class V = double>
concept Ring = Policy<R> && requires(V a) {
    { R::template zero<V>() } -> std::same_as<V>;
    { R::step(a, a, a) } -> std::same_as<V>;
    { R::reduce(a, a) } -> std::same_as<V>;
};
namespace detail {
// step is a b + acc, which machines have instructions for.
template <class R>
inline constexpr bool sum_of_products = requires { requires R::sum_of_products; };
} // namespace detail

} // namespace heed
