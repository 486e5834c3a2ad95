// SPDX-License-Identifier: BSD-3-Clause
// softcap: s <- c tanh(s / c), c > 0. It bends what stands before it in the chain: `| softcap | bias` caps the logits alone,
// `| bias | softcap` caps their sum; the two are different types. Slope 1 - tanh^2(s / c). Cost: one tanh a pair.
#pragma once

#include <heed/kernel/dual.hpp>
#include <heed/view/tensor_view.hpp>

namespace heed {

template <class T>
struct softcap_gradient {
    tensor_view<T> d; // {1, 1, 1, 1}
    static constexpr char const* name = "softcap gradient";
};
template <class T>
softcap_gradient(tensor_view<T>) -> softcap_gradient<T>;

template <class T = float>
struct softcap {
    using gradient = softcap_gradient<T>;
    T cap;

    static constexpr shape gradient_shape() { return {1, 1, 1, 1}; }
    template <class V, class Pair>
    HEED_HD V slope(V raw, Pair const&) const {
        using math::tanh;
        V const t = tanh(raw * (V(1) / V(cap)));
        return V(1) - t * t;
    }
    template <class V>
    HEED_HD softcap<dual<V>> seed() const {
        return {dual<V>(V(cap), V(1))};
    }
    template <class V, class Pair>
    HEED_HD V operator()(V raw, Pair const&) const {
        using math::tanh;
        return V(cap) * tanh(raw * (V(1) / V(cap)));
    }
};
template <class T>
softcap(T) -> softcap<T>;

} // namespace heed
