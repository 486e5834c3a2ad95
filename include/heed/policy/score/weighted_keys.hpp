// SPDX-License-Identifier: BSD-3-Clause
// weighted_keys: s <- s + ln w_j, so that softmax weighs key j w_j times: multiplicities of merged keys (asymmetric merging of caches: values stored as
// means; a sum of values is its mean times w_j), or the measure of a quadrature rule. w is given itself, not its logarithm; the logarithm is taken in
// vectors, once per tile.
//   w = 1 changes no bit of the score; 0 means the key is absent, for every normalizer; +infinity and NaN spread to the row; w < 0 is NaN.
// minus_log_keys: s <- s - ln M, the bias that keeps sigmoid attention's row sums near 1 (arXiv:2409.04431). offset: s <- s + c.
#pragma once

#include <heed/kernel/math.hpp>
#include <heed/policy/place.hpp>
#include <heed/view/tensor_view.hpp>

namespace heed {

// Options of backward: gradients of the data of the stages below, in the shape of that data. An absent key (w = 0) has gradient 0.
template <class T>
struct weighted_keys_gradient {
    tensor_view<T> d; // as weighted_keys::w
    static constexpr char const* name = "key weights gradient";
};
template <class T>
weighted_keys_gradient(tensor_view<T>) -> weighted_keys_gradient<T>;
template <class T>
struct offset_gradient {
    tensor_view<T> d; // {1, 1, 1, 1}
    static constexpr char const* name = "offset gradient";
};
template <class T>
offset_gradient(tensor_view<T>) -> offset_gradient<T>;

template <class T>
struct weighted_keys {
    using gradient = weighted_keys_gradient<T>;
    tensor_view<T const> w; // [B|1, Hkv|1, M|1, 1]

    HEED_HD shape gradient_shape() const { return w.shape(); }

    struct logarithm {
        tensor_view<T const> w;
        HEED_HD T of_row(place const&, extent_t) const { return T(0); }
        HEED_HD T of_col(place const& at, extent_t j) const {
            return w(w.extent(0) == 1 ? 0 : at.batch, w.extent(1) == 1 ? 0 : at.kv_head, col_entry(at, j), 0);
        }
        HEED_HD extent_t col_entry(place const&, extent_t j) const { return w.extent(2) == 1 ? 0 : j; }
        HEED_HD T col_slope(place const& at, extent_t j) const {
            T const x = of_col(at, j);
            return x == T(0) ? T(0) : T(1) / x;
        }
        template <class V>
        HEED_HD V map_col(V x) const {
            using math::log;
            return log(x);
        }
    };
    HEED_HD constexpr logarithm table() const { return {w}; }
    template <class V, class Pair>
    HEED_HD V operator()(V raw, Pair const& p) const {
        return raw + V(p.load(table()));
    }
    template <class V, class Pair>
    HEED_HD V slope(V, Pair const&) const {
        return V(1);
    }
    template <class F>
    constexpr void views(call_sizes const& n, F&& f) const {
        f("key weights", w, shape{n.batch, n.kv_head, n.keys, 1});
    }
};
template <class T>
weighted_keys(tensor_view<T>) -> weighted_keys<std::remove_const_t<T>>;

template <class T = float>
struct offset {
    using gradient = offset_gradient<T>;
    T c;
    static constexpr shape gradient_shape() { return {1, 1, 1, 1}; }
    template <class V, class Pair>
    HEED_HD V parameter_slope(V, Pair const&) const {
        return V(1);
    }
    template <class V, class Pair>
    HEED_HD V operator()(V raw, Pair const&) const {
        return raw + V(c);
    }
    template <class V, class Pair>
    HEED_HD V slope(V, Pair const&) const {
        return V(1);
    }
};
template <class T>
offset(T) -> offset<T>;

struct minus_log_keys {
    template <class V, class Pair>
    HEED_HD V operator()(V raw, Pair const& p) const {
        using math::log;
        return raw - log(V(p.at.keys)); // of a register: taken once, before the loop over pairs
    }
    template <class V, class Pair>
    HEED_HD V slope(V, Pair const&) const {
        return V(1);
    }
};

} // namespace heed
