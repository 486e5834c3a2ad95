// SPDX-License-Identifier: BSD-3-Clause
// The gradient of a score chain, from the chain's own text: the derivative of the last score is pulled back stage by stage, each by its slope.
//
// A stage's slope is its member slope(raw, pair) if it has one, its factor, or the derivative that a dual number carries through its call operator.
// Data of a stage may ask for its own gradient: the derivative that reaches a table, or the sum over pairs of derivative times parameter slope.
#pragma once

#include <heed/kernel/dual.hpp>
#include <heed/policy/score/bias.hpp>
#include <heed/policy/score/dot.hpp>

namespace heed {

// Where the gradient of a policy's own data goes: an option of backward. Options are matched with the stages of a chain by type, the n-th option
// of a type with the n-th stage of it.
template <class G>
concept PolicyGradient = requires(G const g) {
    g.d.data_handle();
    { G::name } -> std::convertible_to<char const*>;
};

namespace detail {

// A stage with one number (for all heads, or per head) that every pair uses: parameter_slope(raw, pair), or seed<V>() for dual numbers.
template <class S>
inline constexpr bool has_parameter = requires(S const s, double raw, probe_pair const p) { s.parameter_slope(raw, p); } || requires(S const s) { s.template seed<double>(); };
template <class S>
inline constexpr int parameters_of = has_parameter<S> ? 1 : 0;
template <class A, class B>
inline constexpr int parameters_of<then<A, B>> = parameters_of<A> + parameters_of<B>;

// d stage / d raw
template <class S, class V, class Pair>
HEED_HD V slope_of(S const& s, V raw, Pair const& p) {
    if constexpr (Factor<S>) {
        return V(s.factor(p.at));
    } else if constexpr (requires { s.slope(raw, p); }) {
        return s.slope(raw, p);
    } else {
        return s(dual<V>(raw, V(1)), p).d;
    }
}
// d stage / d its parameter
template <class S, class V, class Pair>
HEED_HD V parameter_slope_of(S const& s, V raw, Pair const& p) {
    if constexpr (requires { s.parameter_slope(raw, p); }) {
        return s.parameter_slope(raw, p);
    } else {
        return s.template seed<V>()(dual<V>(raw, V(0)), p).d;
    }
}

// up: derivative of the loss by what the stage returns. sink.table<slot>(up) and sink.parameter<index>(contribution) receive what its data gets.
template <int Slot, int Parameter, class S, class V, class Pair, class Sink>
HEED_HD V pull_stage(S const& s, V raw, Pair const& p, V up, Sink& sink) {
    if constexpr (Sink::wanted) {
        if constexpr (tables_of<S> != 0) { sink.template table<Slot>(up); }
        if constexpr (has_parameter<S>) { sink.template parameter<Parameter>(up * parameter_slope_of(s, raw, p)); }
    }
    return up * slope_of(s, raw, p);
}

// Derivative by the score after the leading factors (which engines fold into the queries).
template <int Slot = 0, int Parameter = 0, class S, class V, class Pair, class Sink>
HEED_HD V pull(S const& s, V raw, Pair const& p, V up, Sink& sink) {
    if constexpr (is_linear<S>) {
        return up;
    } else {
        return pull_stage<Slot, Parameter>(s, raw, p, up, sink);
    }
}
template <int Slot = 0, int Parameter = 0, class A, class B, class V, class Pair, class Sink>
HEED_HD V pull(then<A, B> const& s, V raw, Pair const& p, V up, Sink& sink) {
    if constexpr (is_linear<then<A, B>>) {
        return up;
    } else {
        V const between = after_leading(s.first, raw, p);
        V const d = pull_stage<Slot + tables_of<A>, Parameter + parameters_of<A>>(s.second, between, p.template after<tables_of<A>>(), up, sink);
        return pull<Slot, Parameter>(s.first, raw, p, d, sink);
    }
}

// The gradients of a chain's data, stage by stage; null views where none is wanted.
template <class S>
struct mirror {};
template <class S>
    requires requires { typename S::gradient; }
struct mirror<S> {
    typename S::gradient own;
};
template <class A, class B>
struct mirror<then<A, B>> {
    mirror<A> first;
    mirror<B> second;
};

template <class G, class S>
inline constexpr int takers_of = 0; // stages of S that take a gradient of type G
template <class G, class S>
    requires std::is_same_v<typename S::gradient, G>
inline constexpr int takers_of<G, S> = 1;
template <class G, class A, class B>
inline constexpr int takers_of<G, then<A, B>> = takers_of<G, A> + takers_of<G, B>;

// Gives g to the nth stage that takes it.
template <class S, class G>
HEED_HD void give(mirror<S>& m, G const& g, int& nth) {
    if constexpr (requires { m.second; }) {
        give(m.first, g, nth);
        give(m.second, g, nth);
    } else if constexpr (takers_of<G, S> != 0) {
        if (nth-- == 0) { m.own = g; }
    }
}

// f(slot, parameter, leading, stage, gradient view) for every stage that may have a gradient of its own. leading: the stage is folded into the queries.
template <int Slot = 0, int Parameter = 0, class S, class F>
HEED_HD void for_each_gradient(S const& s, mirror<S> const& m, F&& f, bool leading = is_linear<S>) {
    if constexpr (requires { m.own; }) { f(std::integral_constant<int, Slot>{}, std::integral_constant<int, Parameter>{}, leading, s, m.own.d); }
}
template <int Slot = 0, int Parameter = 0, class A, class B, class F>
HEED_HD void for_each_gradient(then<A, B> const& s, mirror<then<A, B>> const& m, F&& f, bool = true) {
    for_each_gradient<Slot, Parameter>(s.first, m.first, f);
    for_each_gradient<Slot + tables_of<A>, Parameter + parameters_of<A>>(s.second, m.second, f, is_linear<then<A, B>>);
}

// Product of the leading factors but for the stage at `left_out`.
template <class S>
HEED_HD double leading_factor_without(S const& s, place const& at, void const* left_out) {
    return static_cast<void const*>(&s) == left_out ? 1.0 : leading_factor(s, at);
}
template <class A, class B>
HEED_HD double leading_factor_without(then<A, B> const& s, place const& at, void const* left_out) {
    double const first = leading_factor_without(s.first, at, left_out);
    return is_linear<then<A, B>> ? first * leading_factor_without(s.second, at, left_out) : first;
}

} // namespace detail
} // namespace heed
