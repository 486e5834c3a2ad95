// SPDX-License-Identifier: BSD-3-Clause
// Mixtures: out = sum over terms of coefficient * source, element by element, written as an expression:
//
//   weigh(sigmoid_gate{g}, softmax_attention())                                             an output gate
//   weigh(as_is{}, a) + weigh(head_factor{lambda, -1}, also{a, q2, k2})                     differential attention
//   weigh(head_factor{alpha}, own_value{}) + weigh(head_factor{beta}, a) + ...              shaped attention
//
// Sources: a pairwise mechanism; also{mechanism, q, k}, one of other queries and keys over the same values; own_value, the value at the query's own
// place (rows aligned bottom right, 0 before the first key); visible_mean, the mean of the values that a row sees, by running sums, O((N + M) dv).
// Cost beyond that of its attentions: one pass over the rows of out, and one array of the size of out for each attention but the first.
#pragma once

#include <heed/family/pairwise.hpp>
#include <heed/policy/blend/coefficients.hpp>
#include <heed/policy/pattern/lengths.hpp>

namespace heed {

namespace detail {
// Every row keeps one run of keys, exactly the hull of the row, whose ends do not fall from row to row.
template <class P>
inline constexpr bool is_run = false;
template <>
inline constexpr bool is_run<full> = true;
template <>
inline constexpr bool is_run<causal_bottom_right> = true;
template <>
inline constexpr bool is_run<causal_top_left> = true;
template <>
inline constexpr bool is_run<window> = true;
template <>
inline constexpr bool is_run<key_lengths> = true;
template <>
inline constexpr bool is_run<prefix> = true;
template <class A, class B>
inline constexpr bool is_run<both<A, B>> = is_run<A> && is_run<B>;
} // namespace detail

struct own_value {};

template <class P = full>
struct visible_mean {
    P pattern = {};
    static_assert(detail::is_run<P>, "heed: visible_mean sums runs of keys; for this pattern use mean_attention(pattern) as the source");
};
template <class P>
visible_mean(P) -> visible_mean<P>;

template <Pairwise M, class T>
struct also {
    M mechanism;
    tensor_view<T const> q, k; // (B, H, N, d'), (B, Hkv, M, d')
};
template <class M, class T, class U>
also(M, tensor_view<T>, tensor_view<U>) -> also<M, std::remove_const_t<T>>;

template <class C, class S>
struct weighted {
    C coefficient;
    S source;
};
template <class C, class S>
HEED_HD constexpr weighted<C, S> weigh(C const& coefficient, S const& source) {
    return {coefficient, source};
}

template <class A, class B>
struct mixture {
    A first;
    B second;
};

namespace detail {

template <class M>
inline constexpr bool is_mixture = false;
template <class C, class S>
inline constexpr bool is_mixture<weighted<C, S>> = true;
template <class A, class B>
inline constexpr bool is_mixture<mixture<A, B>> = true;

// How many attentions a mixture has.
template <class S>
inline constexpr int attentions_of = 0;
template <Pairwise M>
inline constexpr int attentions_of<M> = 1;
template <class M, class T>
inline constexpr int attentions_of<also<M, T>> = 1;
template <class C, class S>
inline constexpr int attentions_of<weighted<C, S>> = attentions_of<S>;
template <class A, class B>
inline constexpr int attentions_of<mixture<A, B>> = attentions_of<A> + attentions_of<B>;

// f(term, number, attentions before it) for every term, the numbers as types
template <int N = 0, int Before = 0, class C, class S, class F>
HEED_HD void for_each_term(weighted<C, S> const& term, F&& f) {
    f(term, std::integral_constant<int, N>{}, std::integral_constant<int, Before>{});
}
template <class M>
inline constexpr int terms_of = 1;
template <class A, class B>
inline constexpr int terms_of<mixture<A, B>> = terms_of<A> + terms_of<B>;
template <int N = 0, int Before = 0, class A, class B, class F>
HEED_HD void for_each_term(mixture<A, B> const& m, F&& f) {
    for_each_term<N, Before>(m.first, f);
    for_each_term<N + terms_of<A>, Before + attentions_of<A>>(m.second, f);
}

template <class M>
HEED_HD M const& mechanism_of(M const& m) {
    return m;
}
template <class M, class T>
HEED_HD M const& mechanism_of(also<M, T> const& m) {
    return m.mechanism;
}

} // namespace detail

template <class M>
concept Mixture = detail::is_mixture<M>;

template <Mixture A, Mixture B>
HEED_HD constexpr mixture<A, B> operator+(A const& a, B const& b) {
    return {a, b};
}

} // namespace heed
