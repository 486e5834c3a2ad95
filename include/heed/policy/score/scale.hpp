// SPDX-License-Identifier: BSD-3-Clause
// scale: s <- c s.  inv_sqrt_width: c = 1/sqrt(d_qk), the usual scale of dot-product attention. Free: folded into the queries.
#pragma once

#include <heed/policy/place.hpp>
#include <heed/view/tensor_view.hpp>

#include <cmath>

namespace heed {

template <class T>
struct scale_gradient {
    tensor_view<T> d; // {1, 1, 1, 1}
    static constexpr char const* name = "scale gradient";
};
template <class T>
scale_gradient(tensor_view<T>) -> scale_gradient<T>;

template <class T = float>
struct scale {
    using gradient = scale_gradient<T>;
    T c;

    static constexpr shape gradient_shape() { return {1, 1, 1, 1}; }
    template <class V, class Pair>
    HEED_HD V parameter_slope(V raw, Pair const&) const {
        return raw;
    }
    HEED_HD constexpr T factor(place const&) const { return c; }
    template <class V, class Pair>
    HEED_HD V operator()(V raw, Pair const&) const {
        return raw * V(c);
    }
};
template <class T>
scale(T) -> scale<T>;

struct inv_sqrt_width {
    HEED_HD double factor(place const& at) const { return at.width > 0 ? 1.0 / std::sqrt(static_cast<double>(at.width)) : 1.0; }
    template <class V, class Pair>
    HEED_HD V operator()(V raw, Pair const& p) const {
        return raw * V(factor(p.at));
    }
};

} // namespace heed
