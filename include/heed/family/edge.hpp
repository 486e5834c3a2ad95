// SPDX-License-Identifier: BSD-3-Clause
// Attention along the edges of a graph: out_i = close_i( sum over edges j -> i of weight( score(q_i, k_j, e_ij) ) (v_j + e'_ij) ).
// Slots: score (a chain that begins with edge_score{term}), edges, normalizer (any of the pairwise family whose row needs one sweep), value.
#pragma once

#include <heed/policy/edge/terms.hpp>
#include <heed/policy/normalize/softmax.hpp>
#include <heed/policy/score/dot.hpp>
#include <heed/policy/score/scale.hpp>
#include <heed/view/graph.hpp>

namespace heed {

// What an edge brings: the source's value, or that plus a vector of the edge {B|1, H|1, edges, dv}.
struct node_value {};
template <class T>
struct value_plus_edge {
    tensor_view<T const> edges;
};
template <class T>
value_plus_edge(tensor_view<T>) -> value_plus_edge<std::remove_const_t<T>>;

template <class S, class N = softmax, class X = node_value>
struct edge_attention {
    S score;
    edge_list edges;
    N normalizer = {};
    X value = {};

    static_assert(Policy<S> && Policy<N> && Policy<X>, "heed: every policy must be a trivially copyable class: numbers and views as members, no owning container");
    static_assert(detail::HeadOfChain<S>, "heed: a score on edges begins with heed::edge_score{term}");
    static_assert(detail::tables_of<S> == 0, "heed: scores on edges take their data from the term (edge_score) and not from tables of pairs");
    static_assert(Normalizer<N> && !RowWiseNormalizer<N> && !CountingNormalizer<N>, "heed: attention along edges needs a normalizer that weighs an edge in one sweep over the row");
};
template <class S>
edge_attention(S, edge_list) -> edge_attention<S>;
template <class S, class N>
edge_attention(S, edge_list, N) -> edge_attention<S, N>;
template <class S, class N, class X>
edge_attention(S, edge_list, N, X) -> edge_attention<S, N, X>;

// w_ij / sqrt(deg_i deg_j) in place of the weights w, deg_i the sum of w over the edges into i: the symmetric normalisation of graph convolutions.
template <class M>
struct degree_normalised {
    M mechanism;
};
template <class M>
degree_normalised(M) -> degree_normalised<M>;

namespace detail {
template <class M>
inline constexpr bool is_edge_attention = false;
template <class S, class N, class X>
inline constexpr bool is_edge_attention<edge_attention<S, N, X>> = true;
template <class M>
inline constexpr bool is_degree_normalised = false;
template <class M>
inline constexpr bool is_degree_normalised<degree_normalised<M>> = true;

// Stages that say the same for every head: one call may hold several. Others are called head by head.
template <class S>
inline constexpr bool heads_alike = false;
template <class Term, class T>
inline constexpr bool heads_alike<edge_score<Term, T>> = true;
template <class F>
inline constexpr bool heads_alike<activation<F>> = true;
template <class T>
inline constexpr bool heads_alike<clamp<T>> = true;
template <class T>
inline constexpr bool heads_alike<scale<T>> = true;
template <>
inline constexpr bool heads_alike<inv_sqrt_width> = true;
template <class A, class B>
inline constexpr bool heads_alike<then<A, B>> = heads_alike<A> && heads_alike<B>;

// The factors that a chain begins with, as one number, and the stages behind them.
template <class S>
inline constexpr bool all_factors = false;
template <class Term, class T>
inline constexpr bool all_factors<edge_score<Term, T>> = true;
template <class A, class B>
inline constexpr bool all_factors<then<A, B>> = all_factors<A> && Factor<B>;
template <class S>
HEED_HD double first_factors(S const&, place const&) {
    return 1.0;
}
template <class A, class B>
HEED_HD double first_factors(then<A, B> const& s, place const& at) {
    double const factors = first_factors(s.first, at);
    if constexpr (all_factors<then<A, B>>) { return factors * static_cast<double>(s.second.factor(at)); }
    return factors;
}
template <class S, class V, class Pair>
HEED_HD V behind_factors(S const&, V raw, Pair const&) {
    return raw;
}
template <class A, class B, class V, class Pair>
HEED_HD V behind_factors(then<A, B> const& s, V raw, Pair const& p) {
    if constexpr (all_factors<then<A, B>>) {
        return raw;
    } else {
        return s.second(behind_factors(s.first, raw, p), p);
    }
}

template <class X>
inline constexpr bool adds_edges = false;
template <class T>
inline constexpr bool adds_edges<value_plus_edge<T>> = true;
} // namespace detail

template <class M>
concept EdgeAttention = detail::is_edge_attention<M>;
template <class M>
concept DegreeNormalised = detail::is_degree_normalised<M>;

} // namespace heed
