// SPDX-License-Identifier: BSD-3-Clause
// The recurrent family: a state of d x dv numbers carried along the sequence instead of all keys.
//
//   recurrent{feature map, update, normalizer, order, scale}
//
//   S_t = update(S_{t-1}, f(k_t), v_t)      o_t = scale f(q_t)^T S_t / (1 or scale f(q_t).z_t + eps),   z_t the same update of ones
//
// feature map   policy/feature: what becomes of rows of q and k
// update        policy/update: additive, decays, delta rule
// normalizer    unnormalized{}, position_softmax{} (keys in place of their map: softmax over all positions, channel by channel), or running_sum{eps}: divided by the same sums of ones. Denominators may come near 0 or below it when features may be negative;
//               learned_denominator{n}: times e^(-n_t), positive whatever the features; row_factor{g}: times g_t > 0. Views (B|1, H|1, N|1, 1)
// order         causal_bottom_right (N = M), or full and key_lengths: every query reads the sum over all keys (additive updates only)
// scale         of the queries' features; 1 unless said
//
// One mechanism, four forms of equal results: a step (front/step.hpp), chunks (engine/cpu/recurrent_forward.hpp), the non-causal sum, and in tests the masked
// quadratic form. Time O(N (C d + d dv)) for chunks of C, memory that does not grow with N; backward keeps one state per chunk.
#pragma once

#include <heed/policy/feature/elementwise.hpp>
#include <heed/policy/feature/random_maps.hpp>
#include <heed/policy/pattern/band.hpp>
#include <heed/policy/pattern/lengths.hpp>
#include <heed/policy/update/update.hpp>

namespace heed {

struct unnormalized {
    static constexpr bool sums_ones = false;
};
struct running_sum {
    static constexpr bool sums_ones = true;
    double eps = 0; // added to the denominator
};

// Keys are not mapped row by row but channel by channel: softmax over all positions (order full or key_lengths).
struct position_softmax {
    static constexpr bool sums_ones = false;
    static constexpr bool over_positions = true;
};

// Normalised attention: a denominator that is learned from the token, o_t = e^(-n_t) q^T S (dsf-mqar, arXiv:2405.15731).
template <class T>
struct learned_denominator {
    static constexpr bool sums_ones = false, in_logarithm = true;
    tensor_view<T const> factor; // n
};
template <class T>
learned_denominator(tensor_view<T>) -> learned_denominator<std::remove_const_t<T>>;
template <class T>
struct row_factor {
    static constexpr bool sums_ones = false, in_logarithm = false;
    tensor_view<T const> factor;
};
template <class T>
row_factor(tensor_view<T>) -> row_factor<std::remove_const_t<T>>;

namespace detail {
// How an order walks: along the sequence, or all keys before any query.
template <class P>
inline constexpr bool is_order = false;
template <>
inline constexpr bool is_order<causal_bottom_right> = true;
template <>
inline constexpr bool is_order<causal_top_left> = true;
template <>
inline constexpr bool is_order<full> = true;
template <>
inline constexpr bool is_order<key_lengths> = true;
template <class P>
inline constexpr bool walks_along = false;
template <>
inline constexpr bool walks_along<causal_bottom_right> = true;
template <>
inline constexpr bool walks_along<causal_top_left> = true;

template <class F>
inline constexpr bool is_feature_map = ElementwiseMap<F> || RowMap<F>;
} // namespace detail

template <class F = identity_map, class U = additive_update, class N = unnormalized, class P = causal_bottom_right>
struct recurrent {
    F feature = {};
    U update = {};
    N normalizer = {};
    P order = {};
    double scale = 1;

    static constexpr bool causal = detail::walks_along<P>;
    static constexpr decay_kind decays = U::decays;
    static constexpr bool corrects = U::corrects;
    static constexpr bool normalized = N::sums_ones;
    static constexpr bool over_positions = requires { N::over_positions; };
    static constexpr bool weighs = requires { U::weighs; };
    static constexpr bool has_factor = requires { N::in_logarithm; };

    static_assert(detail::is_feature_map<F>, "heed: the first slot of recurrent{...} is a feature map: a call operator from V to V or a map of rows, see heed/policy/feature");
    static_assert(StateUpdate<U>, "heed: the second slot of recurrent{...} is a state update: additive_update, scalar_decay, channel_decay, delta_rule, see heed/policy/update");
    static_assert(detail::is_order<P>, "heed: the order of recurrent{...} is causal_bottom_right, full or key_lengths");
    static_assert(causal || (decays == decay_kind::none && !corrects), "heed: only additive updates have a form that is not causal; decays and the delta rule need an order of keys");
    static_assert(!(causal && over_positions), "heed: position_softmax sums over all positions before any query; its order is full or key_lengths");
    static_assert(!over_positions || ElementwiseMap<F> || requires { F::keeps_width; }, "heed: position_softmax needs a feature map that keeps the width of the queries");
    static_assert(!(weighs && (normalized || over_positions)), "heed: weighted_update weighs values, not the running sum of ones; weigh them before, or leave out the denominator");
    static_assert(!(decays == decay_kind::value && (normalized || has_factor)), "heed: value_decay decays columns, of which a running sum has none of its own; leave the normalizer out");
    static_assert(!(corrects && normalized), "heed: the delta rule has no running sum of ones to be divided by; normalise its output instead");
};
recurrent() -> recurrent<>;
template <class F>
recurrent(F) -> recurrent<F>;
template <class F, class U>
recurrent(F, U) -> recurrent<F, U>;
template <class F, class U, class N>
recurrent(F, U, N) -> recurrent<F, U, N>;
template <class F, class U, class N, class P>
recurrent(F, U, N, P) -> recurrent<F, U, N, P>;
template <class F, class U, class N, class P>
recurrent(F, U, N, P, double) -> recurrent<F, U, N, P>;

namespace detail {
template <class M>
inline constexpr bool is_recurrent = false;
template <class F, class U, class N, class P>
inline constexpr bool is_recurrent<recurrent<F, U, N, P>> = true;
} // namespace detail

// The same as an engine takes it: the feature map is a type, everything else are numbers and views, so that one engine serves all updates and normalizers.
template <class F, class T>
struct recurrent_form {
    F feature = {};
    decay_kind decays = decay_kind::none;
    bool corrects = false, normalized = false, causal = true, over_positions = false, weighs = false, factor_is_logarithm = false;
    T scale = T(1), eps = T(0);
    tensor_view<T const> log_decay = {}, beta = {}, factor = {};
    tensor_view<std::int32_t const> lengths = {};

    // Features of a mapped row of d numbers.
    HEED_HD extent_t width(extent_t d) const {
        if constexpr (RowMap<F>) {
            return feature.width(d);
        } else {
            return d;
        }
    }
    HEED_HD bool has_beta() const { return corrects || weighs; }
    HEED_HD bool has_factor() const { return factor.data_handle() != nullptr; }
    HEED_HD bool sums_ones() const { return normalized || over_positions; } // in a column of the state behind those of values
    // The keys that a batch entry has, where all queries read all keys.
    HEED_HD extent_t keys(place const& at) const {
        if (lengths.data_handle() == nullptr) { return at.keys; }
        extent_t const n = detail::batch_entry(lengths, at);
        return n < at.keys ? n : at.keys;
    }
};
template <class T, class F, class U, class N, class P>
HEED_INLINE recurrent_form<F, T> form_of(recurrent<F, U, N, P> const& m) {
    using M = recurrent<F, U, N, P>;
    recurrent_form<F, T> r;
    r.feature = m.feature, r.decays = U::decays, r.corrects = U::corrects, r.normalized = M::normalized, r.causal = M::causal, r.over_positions = M::over_positions, r.scale = static_cast<T>(m.scale);
    if constexpr (M::normalized) { r.eps = static_cast<T>(m.normalizer.eps); }
    if constexpr (U::decays != decay_kind::none) { r.log_decay = m.update.log_decay; }
    r.weighs = M::weighs;
    if constexpr (U::corrects || M::weighs) { r.beta = m.update.beta; }
    if constexpr (M::has_factor) { r.factor = m.normalizer.factor, r.factor_is_logarithm = N::in_logarithm; }
    if constexpr (requires { m.order.lengths; }) { r.lengths = m.order.lengths; }
    return r;
}

template <class M>
concept Recurrent = detail::is_recurrent<M>;

} // namespace heed
