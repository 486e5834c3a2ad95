// SPDX-License-Identifier: BSD-3-Clause
// Weights of a pair by itself, f(s), and their slopes f'(s) in natural units; both take s times unit. A masked score, -inf, weighs exactly 0.
//   sigmoid_weight      1 / (1 + e^-s)            relatively accurate at both ends: e^-|s| is what is divided
//   relu_weight         max(s, 0)                 squared_relu_weight  max(s, 0)^2
//   softplus_weight     ln(1 + e^s)               = max(s, 0) + ln(1 + e^-|s|)
//   elu_weight          s + 1 above 0, e^s below
//   exponential_weight  e^min(s, limit)           no maximum is taken out: above the limit nothing grows, +infinity is no limit
//   quadratic_weight    1 + s + s^2 / 2           the exponential to second order (arXiv:2510.11602), at least 1/2
//   linear_weight       s                         signed
//   uniform_weight      1                         count average over the keys that are seen
#pragma once

#include <heed/kernel/math.hpp>

namespace heed {

struct sigmoid_weight {
    static constexpr double unit = math::log2e;
    template <class V>
    HEED_HD V operator()(V s) const {
        using math::abs;
        using math::fast_exp2;
        using math::select;
        V const e = fast_exp2(-abs(s));
        V const r = V(1) / (V(1) + e);
        return select(s >= V(0), r, e * r);
    }
    template <class V>
    HEED_HD V slope(V, V weight) const {
        return weight * (V(1) - weight);
    }
};

// max with the score second keeps NaN.
struct relu_weight {
    static constexpr double unit = 1;
    template <class V>
    HEED_HD V operator()(V s) const {
        using math::max;
        return max(V(0), s);
    }
    template <class V>
    HEED_HD V slope(V s, V) const {
        using math::select;
        return select(s > V(0), V(1), V(0));
    }
};
struct squared_relu_weight {
    static constexpr double unit = 1;
    template <class V>
    HEED_HD V operator()(V s) const {
        using math::max;
        V const x = max(V(0), s);
        return x * x;
    }
    template <class V>
    HEED_HD V slope(V s, V) const {
        using math::max;
        V const x = max(V(0), s);
        return x + x;
    }
};

struct softplus_weight {
    static constexpr double unit = 1;
    template <class V>
    HEED_HD V operator()(V s) const {
        using math::abs;
        using math::fast_exp2;
        using math::log1p_unit;
        using math::max;
        return max(V(0), s) + log1p_unit(fast_exp2(-abs(s) * V(math::log2e)));
    }
    template <class V>
    HEED_HD V slope(V s, V) const {
        return sigmoid_weight{}(s * V(math::log2e));
    }
};

struct elu_weight {
    static constexpr double unit = 1;
    template <class V>
    HEED_HD V operator()(V s) const {
        using math::fast_exp2;
        using math::min;
        using math::select;
        return select(s > V(0), s + V(1), fast_exp2(min(V(0), s) * V(math::log2e)));
    }
    template <class V>
    HEED_HD V slope(V s, V weight) const {
        using math::select;
        return select(s > V(0), V(1), weight);
    }
};

template <class T = float>
struct exponential_weight {
    T limit;
    static constexpr double unit = 1;
    template <class V>
    HEED_HD V operator()(V s) const {
        using math::exp;
        using math::min;
        return exp(min(V(limit), s));
    }
    template <class V>
    HEED_HD V slope(V s, V weight) const {
        using math::select;
        return select(s > V(limit), V(0), weight);
    }
};
template <class T>
exponential_weight(T) -> exponential_weight<T>;

struct quadratic_weight {
    static constexpr double unit = 1;
    template <class V>
    HEED_HD V operator()(V s) const {
        using math::fma;
        using math::select;
        return select(s == -math::inf<V>(), V(0), fma(s, fma(s, V(0.5), V(1)), V(1)));
    }
    template <class V>
    HEED_HD V slope(V s, V) const {
        using math::select;
        return select(s == -math::inf<V>(), V(0), s + V(1));
    }
};

struct linear_weight {
    static constexpr double unit = 1;
    static constexpr bool is_signed = true;
    template <class V>
    HEED_HD V operator()(V s) const {
        using math::select;
        return select(s == -math::inf<V>(), V(0), s);
    }
    template <class V>
    HEED_HD V slope(V s, V) const {
        using math::select;
        return select(s == -math::inf<V>(), V(0), V(1));
    }
};

struct uniform_weight {
    static constexpr double unit = 1;
    template <class V>
    HEED_HD V operator()(V s) const {
        using math::select;
        return select(s == -math::inf<V>(), V(0), select(s == s, V(1), s));
    }
    template <class V>
    HEED_HD V slope(V, V) const {
        return V(0);
    }
};

} // namespace heed
