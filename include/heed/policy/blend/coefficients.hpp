// SPDX-License-Identifier: BSD-3-Clause
// What multiplies a term of a mixture, element by element of its output.
//   as_is           1
//   head_factor     a number per head, or its opposite: head_factor{view, -1}
//   sigmoid_gate    1 / (1 + e^-g), g of the shape of the output or one per row (Qiu et al., arXiv:2505.06708). g = 0 halves exactly.
// A coefficient says: data(), the view it reads; value<V>(entry) and, for its gradient, slope<V>(entry) = d value / d data.
#pragma once

#include <heed/policy/normalize/weights.hpp>
#include <heed/policy/place.hpp>
#include <heed/view/tensor_view.hpp>

namespace heed {

struct as_is {
    template <class V, class Entry>
    HEED_HD V value(Entry const&) const {
        return V(1);
    }
};

// Options of backward: gradients of coefficients' data, in its shape; the n-th of a type goes to the n-th such coefficient of the mixture.
template <class T>
struct head_factor_gradient {
    tensor_view<T> of;
    static constexpr char const* name = "head factor gradient";
};
template <class T>
head_factor_gradient(tensor_view<T>) -> head_factor_gradient<T>;
template <class T>
struct gate_gradient {
    tensor_view<T> of;
    static constexpr char const* name = "gate gradient";
};
template <class T>
gate_gradient(tensor_view<T>) -> gate_gradient<T>;

template <class T>
struct head_factor {
    using gradient = head_factor_gradient<T>;
    static constexpr char const* name = "head factor";
    tensor_view<T const> c; // per head
    T sign = 1;

    HEED_HD tensor_view<T const> const& data() const { return c; }
    HEED_HD static constexpr shape wanted(shape out) { return {1, out.head, 1, 1}; }
    template <class V, class Entry>
    HEED_HD V value(Entry const& e) const {
        return V(sign) * e.template load<V>(c);
    }
    template <class V, class Entry>
    HEED_HD V slope(Entry const&) const {
        return V(sign);
    }
};
template <class T>
head_factor(tensor_view<T>) -> head_factor<std::remove_const_t<T>>;
template <class T, class S>
head_factor(tensor_view<T>, S) -> head_factor<std::remove_const_t<T>>;

template <class T>
struct sigmoid_gate {
    using gradient = gate_gradient<T>;
    static constexpr char const* name = "gate";
    tensor_view<T const> g; // [B, H, N, dv | 1]

    HEED_HD tensor_view<T const> const& data() const { return g; }
    HEED_HD static constexpr shape wanted(shape out) { return out; }
    template <class V, class Entry>
    HEED_HD V value(Entry const& e) const {
        return sigmoid_weight{}(e.template load<V>(g) * V(math::log2e));
    }
    template <class V, class Entry>
    HEED_HD V slope(Entry const& e) const {
        V const s = value<V>(e);
        return s * (V(1) - s);
    }
};
template <class T>
sigmoid_gate(tensor_view<T>) -> sigmoid_gate<std::remove_const_t<T>>;

} // namespace heed
