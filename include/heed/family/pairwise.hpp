// SPDX-License-Identifier: BSD-3-Clause
// The pairwise family: out_i = close_i( sum over j in pattern(i) of weight( score(q_i, k_j) ) v_j ).
// Slots: score (a chain that begins with a contraction), pattern, normalizer, mix (the ring that gathers values), load (how rows of q, k, v are produced).
#pragma once

#include <heed/policy/concepts.hpp>
#include <heed/policy/load/load.hpp>
#include <heed/policy/normalize/softmax.hpp>
#include <heed/policy/pattern/band.hpp>
#include <heed/policy/pattern/both.hpp>
#include <heed/policy/ring/plus_times.hpp>
#include <heed/policy/score/dot.hpp>
#include <heed/policy/score/scale.hpp>

namespace heed {

template <class S, class P = full, class N = softmax, class M = plus_times, class L = load<>>
struct attention {
    S score;
    P pattern = {};
    N normalizer = {};
    M mix = {};
    L load = {};

    // Checked here, not in the template head, so that the compiler prints the sentence and then the expression that is missing.
    static_assert(Policy<S> && Policy<P> && Policy<N> && Policy<M>,
                  "heed: every policy must be a trivially copyable class: numbers and views as members, no lambda with captures by reference, no owning container");
    static_assert(detail::HeadOfChain<S>, "heed: a score begins with a contraction, for example heed::dot{} | my_score{}");
    static_assert(Score<S>, "heed: a score needs `template <class V, class Pair> V operator()(V raw, Pair const& p) const`, and must accept double as V");
    static_assert(Pattern<P>, "heed: a pattern needs `keep(place, i, j)` that says which pairs exist and `classify(place, rows, cols)` that returns heed::tile");
    static_assert(Normalizer<N>, "heed: a normalizer needs row<V>, start, empty, raise, weight, settle, close and unit; see heed/policy/concepts.hpp");
    static_assert(Ring<M>, "heed: a mix ring needs zero<V>(), step(acc, a, b) and reduce(a, b)");
    static_assert(detail::is_load<L>, "heed: the last slot is heed::load{q, k, v}; a loader is heed::plain or has rows<A>(operand, rows, view, dst, stride)");

    // f(name, view, wanted shape[, exactly]) for every view that a policy holds.
    template <class F>
    constexpr void views(call_sizes const& sizes, F&& f) const {
        if constexpr (requires { score.views(sizes, f); }) { score.views(sizes, f); }
        if constexpr (requires { pattern.views(sizes, f); }) { pattern.views(sizes, f); }
        if constexpr (requires { normalizer.views(sizes, f); }) { normalizer.views(sizes, f); }
        load.views(sizes, f);
    }
};
template <class S>
attention(S) -> attention<S>;
template <class S, class P>
attention(S, P) -> attention<S, P>;
template <class S, class P, class N>
attention(S, P, N) -> attention<S, P, N>;
template <class S, class P, class N, class M>
attention(S, P, N, M) -> attention<S, P, N, M>;
template <class S, class P, class N, class M, class L>
attention(S, P, N, M, L) -> attention<S, P, N, M, L>;

namespace detail {
template <class M>
inline constexpr bool is_pairwise = false;
template <class S, class P, class N, class M, class L>
inline constexpr bool is_pairwise<attention<S, P, N, M, L>> = true;
} // namespace detail

template <class M>
concept Pairwise = detail::is_pairwise<M>;

// The same mechanism with other loaders: with_load(softmax_attention(causal_bottom_right{}), load{rope, rope}).
template <class S, class P, class N, class M, class Old, class New>
HEED_HD constexpr attention<S, P, N, M, New> with_load(attention<S, P, N, M, Old> const& m, New const& load) {
    return {m.score, m.pattern, m.normalizer, m.mix, load};
}

} // namespace heed
