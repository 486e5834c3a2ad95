// SPDX-License-Identifier: BSD-3-Clause
// Feature maps of the recurrent family that act on every number by itself, with the same width in and out:
//   identity_map      x
//   elu_plus_one      x + 1 for x > 0, e^x else: positive everywhere. Katharopoulos et al., arXiv:2006.16236
//   relu_map          max(x, 0)
//   squared_relu_map  max(x, 0)^2
//   exp_map           e^x
//   sigmoid_map       1 / (1 + e^-x)
//   silu_map          x / (1 + e^-x)
//   gelu_map          x Phi(x), Phi the normal distribution, not its approximation by tanh
// One call operator over a value type V; gradients come from the same text. At a kink the derivative is that of the lower side.
#pragma once

#include <heed/kernel/normal_cdf.hpp>
#include <heed/policy/concepts.hpp>

namespace heed {

struct identity_map {
    static constexpr bool identity = true; // rows pass as they are
    template <class V>
    HEED_HD V operator()(V x) const {
        return x;
    }
};

struct elu_plus_one {
    template <class V>
    HEED_HD V operator()(V x) const {
        using math::exp;
        using math::min;
        using math::select;
        return select(x > V(0), x + V(1), exp(min(V(0), x)));
    }
};

struct relu_map {
    template <class V>
    HEED_HD V operator()(V x) const {
        using math::select;
        return select(x <= V(0), V(0), x); // NaN stays
    }
};

struct squared_relu_map {
    template <class V>
    HEED_HD V operator()(V x) const {
        V const y = relu_map{}(x);
        return y * y;
    }
};

struct exp_map {
    template <class V>
    HEED_HD V operator()(V x) const {
        using math::exp;
        return exp(x);
    }
};

struct sigmoid_map {
    template <class V>
    HEED_HD V operator()(V x) const {
        using math::exp;
        return V(1) / (V(1) + exp(-x));
    }
};

struct silu_map {
    template <class V>
    HEED_HD V operator()(V x) const {
        using math::exp;
        return x / (V(1) + exp(-x));
    }
};

struct gelu_map {
    template <class V>
    HEED_HD V operator()(V x) const {
        return x * normal_cdf(x);
    }
};

// A map of single numbers.
template <class F>
concept ElementwiseMap = Policy<F> && requires(F const f, double x) {
    { f(x) } -> std::convertible_to<double>;
};

} // namespace heed
