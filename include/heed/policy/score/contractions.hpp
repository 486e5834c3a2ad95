// SPDX-License-Identifier: BSD-3-Clause
// Heads of a chain whose raw score is no dot product. Stages follow as after dot; a scale is not folded into the queries, and may be negative.
//   hilbert           -(max_c (q_c - k_c) - min_c (q_c - k_c))          tropical attention (arXiv:2505.17190)
//   one_sided_hilbert -sum_c ((q - k)_c - min (q - k))                  its asymmetric form
//   max_plus_score    max_c (q_c + k_c)      min_plus_score  min_c (q_c + k_c)
//   squared_distance  sum_c (q_c - k_c)^2    l1_distance     sum_c |q_c - k_c|      as they are: squared_distance{} | scale{-0.5f} for a Gaussian
//   additive{f, w}    sum_c w_c f(q_c + k_c)                            Bahdanau (f = tanh_activation), GATv2 (f = leaky_relu)
#pragma once

#include <heed/policy/concepts.hpp>
#include <heed/policy/ring/additive.hpp>
#include <heed/policy/ring/distances.hpp>
#include <heed/policy/ring/extremes.hpp>
#include <heed/policy/ring/hilbert.hpp>
#include <heed/policy/score/dot.hpp>
#include <heed/view/tensor_view.hpp>

namespace heed {

namespace detail {
template <class Ring>
struct contraction_head {
    using contraction = Ring;
    static constexpr bool raw = true; // the contraction is the score
    template <class V, class Pair>
    HEED_HD V operator()(V x, Pair const&) const {
        return x;
    }
    template <class V, class Pair>
    HEED_HD V slope(V, Pair const&) const {
        return V(1);
    }
};
} // namespace detail

struct hilbert : detail::contraction_head<hilbert_range> {};
struct one_sided_hilbert : detail::contraction_head<one_sided_range> {};
struct max_plus_score : detail::contraction_head<max_plus> {};
struct min_plus_score : detail::contraction_head<min_plus> {};
struct squared_distance : detail::contraction_head<squared_difference> {};
struct l1_distance : detail::contraction_head<absolute_difference> {};

// Option of backward: the gradient of the weights of the features, {1, H or 1, 1, d}.
template <class T>
struct feature_weights_gradient {
    tensor_view<T> d;
    static constexpr char const* name = "feature weights gradient";
};
template <class T>
feature_weights_gradient(tensor_view<T>) -> feature_weights_gradient<T>;

template <class F, class T = float>
struct additive : detail::contraction_head<additive_features<F>> {
    using gradient = feature_weights_gradient<T>;
    F f = {};
    tensor_view<T const> weights; // {1, H or 1, 1, d}

    HEED_HD shape gradient_shape() const { return weights.shape(); }

    additive() = default;
    HEED_HD constexpr additive(F activation, tensor_view<T const> w) : f(activation), weights(w) {}

    HEED_HD additive_features<F> contraction_value() const { return {f}; }
    // the operand of feature c
    HEED_HD T operand(place const& at, extent_t c) const { return weights(0, weights.extent(1) == 1 ? 0 : at.head, 0, c); }
    template <class Call, class Visit>
    constexpr void views(Call const& n, Visit&& visit) const {
        visit("feature weights", weights, shape{1, n.head, 1, n.width}, exactly);
    }
};
template <class F, class T>
additive(F, tensor_view<T>) -> additive<F, std::remove_const_t<T>>;

} // namespace heed
