// SPDX-License-Identifier: BSD-3-Clause
// softmax: p_ij = e^{s_ij} / sum_j e^{s_ij}.  softmax_sink: the denominator counts one more logit per head, which has no value row.
//
// State of a row: (peak, mass) = (max s, sum e^{s - peak}), in base 2: scores arrive multiplied by log2 e, so a weight costs one exp2.
// Merge (Aaren's operator, arXiv:2405.13956): peak = max, mass = a.mass 2^{a.peak - peak} + b.mass 2^{b.peak - peak}. Associative, commutative up to rounding.
// Rows that see no key close to 0 with log-sum-exp -inf (with a sink: its logit). A score of +inf, like NaN, makes its row NaN.
#pragma once

#include <heed/kernel/math.hpp>
#include <heed/policy/concepts.hpp>
#include <heed/view/tensor_view.hpp>

namespace heed {

struct softmax {
    static constexpr double unit = math::log2e;
    static constexpr int kept = 1; // the log-sum-exp
    static constexpr centre centred = centre::output;

    template <class V>
    struct row {
        V peak, base, mass; // base is the peak, or 0 while no key was seen, so that -inf - base is no NaN
    };

    template <class V>
    HEED_HD row<V> empty() const {
        return {-math::inf<V>(), V(0), V(0)};
    }
    template <class V>
    HEED_HD row<V> start(place const&) const {
        return empty<V>();
    }
    template <class V>
    HEED_HD V raise(row<V>& r, V tile_peak) const {
        using math::fast_exp2;
        using math::max;
        using math::select;
        V const before = r.peak;
        r.peak = max(before, tile_peak);
        r.base = select(r.peak == -math::inf<V>(), V(0), r.peak);
        V const factor = fast_exp2(before - r.base);
        r.mass = r.mass * factor;
        return factor;
    }
    template <class V>
    HEED_HD V weight(row<V> const& r, V score) const {
        using math::fast_exp2;
        return fast_exp2(score - r.base);
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
    HEED_HD row<V> merge(row<V> const& a, row<V> const& b, V& factor_a, V& factor_b) const {
        row<V> r = a;
        factor_a = raise(r, b.peak);
        using math::fast_exp2;
        factor_b = fast_exp2(b.peak - r.base);
        settle(r, b.mass * factor_b);
        return r;
    }
    // Base 2; -inf for a row without keys.
    template <class V>
    HEED_HD V log_sum_exp(row<V> const& r) const {
        using math::log2;
        return r.peak + log2(r.mass);
    }
    // With the log-sum-exp as base, and mass 1, weights come out divided.
    template <class V>
    HEED_HD row<V> resume(place const&, V log_sum_exp) const {
        using math::select;
        return {log_sum_exp, select(log_sum_exp == -math::inf<V>(), V(0), log_sum_exp), V(1)};
    }
    template <class V>
    HEED_HD V derivative(row<V> const&, V, V weight) const {
        return weight;
    }
};

// Option of backward: the gradient of the sinks, in their shape.
template <class T>
struct sink_gradient {
    tensor_view<T> d;
    static constexpr char const* name = "sink gradient";
};
template <class T>
sink_gradient(tensor_view<T>) -> sink_gradient<T>;

template <class T>
struct softmax_sink : softmax {
    using gradient = sink_gradient<T>;
    tensor_view<T const> sinks; // per head

    softmax_sink() = default;
    HEED_HD explicit constexpr softmax_sink(tensor_view<T const> s) : sinks(s) {}

    template <class V>
    HEED_HD row<V> start(place const& at) const {
        using math::select;
        V const sink = V(sinks(0, sinks.extent(1) == 1 ? 0 : at.head, 0, 0)) * V(unit);
        V const none = -math::inf<V>();
        return {sink, select(sink == none, V(0), sink), select(sink == none, V(0), V(1))};
    }
    HEED_HD shape gradient_shape() const { return sinks.shape(); }
    // What a row adds to the gradient of its sink: -p_0 centre_i, p_0 the weight of the sink.
    template <class V>
    HEED_HD V row_parameter(place const& at, row<V> const& closed, V centre_of_row) const {
        using math::select;
        V const p = weight(closed, start<V>(at).peak);
        return select(p == V(0), V(0), -p * centre_of_row);
    }
    template <class F>
    constexpr void views(call_sizes const& n, F&& f) const {
        f("sinks", sinks, shape{1, n.head, 1, 1});
    }
};
template <class T>
softmax_sink(tensor_view<T>) -> softmax_sink<std::remove_const_t<T>>;

} // namespace heed
