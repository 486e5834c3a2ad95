// SPDX-License-Identifier: BSD-3-Clause
// dot: s_ij = q_i . k_j, the head of every chain; a | b applies b to the score of a.
#pragma once

#include <heed/policy/concepts.hpp>
#include <heed/policy/ring/plus_times.hpp>

namespace heed {

struct dot {
    using contraction = plus_times;
    template <class V, class Pair>
    HEED_HD V operator()(V raw, Pair const&) const {
        return raw;
    }
};

namespace detail {

// Number of per-pair tables that a stage reads.
template <class S>
inline constexpr int tables_of = Tabled<S> ? 1 : 0;
template <class S>
inline constexpr bool masks_of = Tabled<S> || requires { requires S::masks; };
// A stage that is a pure factor (or dot itself), so that a chain of them is linear in q.
template <class S>
inline constexpr bool is_linear = Factor<S> || std::is_same_v<S, dot>;

} // namespace detail

// Two stages, applied from left to right.
template <class First, class Second>
struct then {
    First first;
    Second second;
    using contraction = typename First::contraction;

    template <class V, class Pair>
    HEED_HD V operator()(V raw, Pair const& p) const {
        if constexpr (detail::tables_of<First> != 0) {
            return second(first(raw, p), p.template after<detail::tables_of<First>>());
        } else {
            return second(first(raw, p), p);
        }
    }
    template <class Sizes, class F>
    constexpr void views(Sizes const& sizes, F&& f) const {
        if constexpr (requires { first.views(sizes, f); }) { first.views(sizes, f); }
        if constexpr (requires { second.views(sizes, f); }) { second.views(sizes, f); }
    }
};
template <class First, class Second>
then(First, Second) -> then<First, Second>;

namespace detail {
template <class A, class B>
inline constexpr bool is_score<then<A, B>> = is_score<A> && is_score<B>;
template <class A, class B>
inline constexpr int tables_of<then<A, B>> = tables_of<A> + tables_of<B>;
template <class A, class B>
inline constexpr bool masks_of<then<A, B>> = masks_of<A> || masks_of<B>;
template <class A, class B>
inline constexpr bool is_linear<then<A, B>> = is_linear<A> && is_linear<B>;

// Product of the leading factors of a chain; engines fold it into the queries.
template <class S>
HEED_HD double leading_factor(S const& s, place const& at) {
    if constexpr (Factor<S>) {
        return static_cast<double>(s.factor(at));
    } else {
        return 1.0;
    }
}
template <class A, class B>
HEED_HD double leading_factor(then<A, B> const& s, place const& at) {
    if constexpr (is_linear<then<A, B>>) {
        return leading_factor(s.first, at) * leading_factor(s.second, at);
    } else {
        return leading_factor(s.first, at);
    }
}
// What is left of the chain after its leading factors.
template <class S, class V, class Pair>
HEED_HD V after_leading(S const& s, V raw, Pair const& p) {
    if constexpr (is_linear<S>) {
        return raw;
    } else {
        return s(raw, p);
    }
}
template <class A, class B, class V, class Pair>
HEED_HD V after_leading(then<A, B> const& s, V raw, Pair const& p) {
    if constexpr (is_linear<then<A, B>>) {
        return raw;
    } else if constexpr (tables_of<A> != 0) {
        return s.second(after_leading(s.first, raw, p), p.template after<tables_of<A>>());
    } else {
        return s.second(after_leading(s.first, raw, p), p);
    }
}

// f(slot, table) for every table of a chain, in the order in which the stages read them.
template <int Slot = 0, class S, class F>
HEED_HD void for_each_table(S const& s, F&& f) {
    if constexpr (Tabled<S>) { f(Slot, s.table()); }
}
template <int Slot = 0, class A, class B, class F>
HEED_HD void for_each_table(then<A, B> const& s, F&& f) {
    for_each_table<Slot>(s.first, f);
    for_each_table<Slot + tables_of<A>>(s.second, f);
}

// The head of a chain, its contraction as a value, and whether that alone is the score (as dot is, and what is folded into its queries).
template <class S>
HEED_HD constexpr S const& head_of(S const& s) {
    return s;
}
template <class A, class B>
HEED_HD constexpr auto const& head_of(then<A, B> const& s) {
    return head_of(s.first);
}
template <class S>
HEED_HD typename S::contraction contraction_of(S const& s) {
    if constexpr (requires { head_of(s).contraction_value(); }) {
        return head_of(s).contraction_value();
    } else {
        return {};
    }
}
template <class S>
inline constexpr bool is_raw = requires { requires S::raw; };

template <class S>
concept HeadOfChain = requires { typename S::contraction; };

} // namespace detail

template <detail::HeadOfChain First, Policy Second>
HEED_HD constexpr then<First, Second> operator|(First const& first, Second const& second) {
    return {first, second};
}

} // namespace heed
