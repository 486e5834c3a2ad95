// SPDX-License-Identifier: BSD-3-Clause
// additive_features<F>: sum_c w_c f(q_c + k_c), the contraction of additive attention: f = tanh in Bahdanau et al. (arXiv:1409.0473, appendix A.1.2),
// leaky ReLU in GATv2 (arXiv:2105.14491, eq. 7). w is the operand of the feature: one number a feature, shared by all pairs of a head.
// f is written over a value type: V operator()(V x) const, and slope(x), its derivative.
#pragma once

#include <heed/kernel/math.hpp>

namespace heed {

// x where positive, else c x, 0 <= c <= 1
template <class T = float>
struct leaky_relu {
    T c = T(0.2f);
    template <class V>
    HEED_HD V operator()(V x) const {
        using math::max;
        return max(x * V(c), x);
    }
    template <class V>
    HEED_HD V slope(V x) const {
        using math::select;
        return select(x > V(0), V(1), V(c));
    }
};
struct tanh_activation {
    template <class V>
    HEED_HD V operator()(V x) const {
        using math::tanh;
        return tanh(x);
    }
    template <class V>
    HEED_HD V slope(V x) const {
        using math::tanh;
        V const t = tanh(x);
        return V(1) - t * t;
    }
};

template <class F>
struct additive_features {
    static constexpr bool has_operand = true;
    static constexpr int spare = 2;
    F f = {};
    template <class V>
    HEED_HD static V zero() {
        return V(0);
    }
    template <class V>
    HEED_HD V step(V acc, V k, V q, V w) const {
        using math::fma;
        return fma(w, f(q + k), acc);
    }
    static constexpr int key_sign = 1;
    template <class V>
    HEED_HD V slope(V k, V q, V w) const {
        return w * f.slope(q + k);
    }
    // by w
    template <class V>
    HEED_HD V operand_slope(V k, V q) const {
        return f(q + k);
    }
    template <class V>
    HEED_HD static V reduce(V a, V b) {
        return a + b;
    }
};

} // namespace heed
