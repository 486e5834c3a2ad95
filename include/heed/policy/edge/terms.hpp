// SPDX-License-Identifier: BSD-3-Clause
// Scores along edges: raw_ij = sum over features of term(q, k, e, a), q of the target, k of the source, e of the edge, a the head's attention vector. A term is
// written over one feature; which of e and a it reads is said by its members. Slopes come from dual numbers.
//   product              q k                       graph transformer, SuperGAT's dot product
//   shifted_product      q (k + e)                 edge vectors added to keys
//   modulated_product    q k e                     edge-modulated dot product (arXiv:2012.09699)
//   sum                  q + k                     GAT: width 1, a_dst . z_i and a_src . z_j taken once per node (arXiv:1710.10903)
//   shifted_sum          q + k + e                 GAT with edge features
//   activated_sum<F>     a F(q + k)                GATv2 (arXiv:2105.14491), AERO-GNN (arXiv:2306.14376)
//   shifted_activated_sum<F>  a F(q + k + e)       GATv2 with edge features
//   given                e                         scores that come with the edges, width 1; q and k are not read
//   gated_product        (q' + k') sigmoid(sum q k)   SuperGAT MX (arXiv:2204.04879): the last feature is q', k'
// Stages for the chain behind: activation{leaky_relu{0.2f}}, clamp{-5.f, 5.f}.
#pragma once

#include <heed/kernel/dual.hpp>
#include <heed/policy/concepts.hpp>
#include <heed/policy/ring/additive.hpp>
#include <heed/policy/ring/plus_times.hpp>
#include <heed/view/tensor_view.hpp>

namespace heed {

struct elu {
    template <class V>
    HEED_HD V operator()(V x) const {
        using math::exp;
        using math::min;
        using math::select;
        return select(x < V(0), exp(min(x, V(0))) - V(1), x);
    }
};

// The stage s <- f(s), for a function of ring/additive.hpp or the one above.
template <class F>
struct activation {
    F f;
    template <class V, class Pair>
    HEED_HD V operator()(V raw, Pair const&) const {
        return f(raw);
    }
};
template <class F>
activation(F) -> activation<F>;

// low ... high; outside, no gradient passes
template <class T = float>
struct clamp {
    T low, high;
    template <class V, class Pair>
    HEED_HD V operator()(V raw, Pair const&) const {
        using math::select;
        return select(raw < V(low), V(low), select(raw > V(high), V(high), raw));
    }
};
template <class T>
clamp(T, T) -> clamp<T>;

namespace edge {

struct product {
    template <class V>
    HEED_HD V operator()(V q, V k) const {
        return q * k;
    }
};
struct shifted_product {
    static constexpr bool reads_edges = true;
    template <class V>
    HEED_HD V operator()(V q, V k, V e) const {
        return q * (k + e);
    }
};
struct modulated_product {
    static constexpr bool reads_edges = true;
    template <class V>
    HEED_HD V operator()(V q, V k, V e) const {
        return q * k * e;
    }
};
struct sum {
    template <class V>
    HEED_HD V operator()(V q, V k) const {
        return q + k;
    }
};
struct shifted_sum {
    static constexpr bool reads_edges = true;
    template <class V>
    HEED_HD V operator()(V q, V k, V e) const {
        return q + k + e;
    }
};
struct given {
    static constexpr bool reads_edges = true;
    template <class V>
    HEED_HD V operator()(V, V, V e) const {
        return e;
    }
};
template <class F>
struct activated_sum {
    static constexpr bool reads_vector = true;
    F f = {};
    template <class V>
    HEED_HD V operator()(V q, V k, V a) const {
        return a * f(q + k);
    }
};
template <class F>
struct shifted_activated_sum {
    static constexpr bool reads_edges = true, reads_vector = true;
    F f = {};
    template <class V>
    HEED_HD V operator()(V q, V k, V e, V a) const {
        return a * f(q + k + e);
    }
};
struct gated_product {
    static constexpr bool has_last = true;
    template <class V>
    HEED_HD V operator()(V q, V k) const {
        return q * k;
    }
    // of the sum over all features but the last, and the last of both
    template <class V>
    HEED_HD V finish(V raw, V q, V k) const {
        using math::abs;
        using math::exp;
        using math::select;
        V const small = exp(-abs(raw)), r = V(1) / (V(1) + small);
        return (q + k) * select(raw < V(0), small * r, r);
    }
};

} // namespace edge

namespace detail {
template <class X>
inline constexpr bool reads_edges = requires { requires X::reads_edges; };
template <class X>
inline constexpr bool reads_vector = requires { requires X::reads_vector; };
template <class X>
inline constexpr bool has_last = requires { requires X::has_last; };

// One feature's value, with the operands that the term reads.
template <class X, class V>
HEED_HD V edge_term(X const& x, V q, V k, V e, V a) {
    if constexpr (reads_edges<X> && reads_vector<X>) {
        return x(q, k, e, a);
    } else if constexpr (reads_edges<X>) {
        return x(q, k, e);
    } else if constexpr (reads_vector<X>) {
        return x(q, k, a);
    } else {
        return x(q, k);
    }
}
// The derivative of a term by operand `Which` (0 q, 1 k, 2 e, 3 a).
template <int Which, class X, class V>
HEED_HD V edge_slope(X const& x, V q, V k, V e, V a) {
    using D = dual<V>;
    return edge_term(x, D(q, V(Which == 0 ? 1 : 0)), D(k, V(Which == 1 ? 1 : 0)), D(e, V(Which == 2 ? 1 : 0)), D(a, V(Which == 3 ? 1 : 0))).d;
}
} // namespace detail

// The head of a chain on edges: edge_score{edge::product{}} | scale{c}. edges {B|1, H|1, edges, d}; vector {1, H, 1, d}.
template <class Term, class T = float>
struct edge_score {
    using contraction = plus_times;
    using term_type = Term;
    Term term;
    tensor_view<T const> edges = {}, vector = {};

    template <class V, class Pair>
    HEED_HD V operator()(V raw, Pair const&) const {
        return raw;
    }
    template <class V, class Pair>
    HEED_HD V slope(V, Pair const&) const {
        return V(1);
    }
};
template <class Term>
edge_score(Term) -> edge_score<Term, float>;

} // namespace heed
