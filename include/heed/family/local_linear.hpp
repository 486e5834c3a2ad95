// SPDX-License-Identifier: BSD-3-Clause
// The shells of attention as a local regression (mechanism/local_linear.hpp): solved for, or with the slope given; and the form that engines take.
#pragma once

#include <heed/kernel/half.hpp>
#include <heed/policy/pattern/band.hpp>
#include <heed/policy/place.hpp>
#include <heed/view/tensor_view.hpp>

namespace heed {

struct ridge {
    double lambda = 1;
    static constexpr bool relative = false;
};
struct relative_ridge {
    double lambda = 1;
    static constexpr bool relative = true;
};

namespace detail {
template <class P>
inline constexpr bool is_local_order = std::is_same_v<P, full> || std::is_same_v<P, causal_bottom_right>;
}

template <class P = full, class R = ridge>
struct local_linear {
    P order = {};
    R penalty = {};
    double scale = 0; // 0 stands for 1 / sqrt(d)
    static_assert(detail::is_local_order<P>, "heed: the order of local linear attention is full or causal_bottom_right");
};
template <class P>
local_linear(P) -> local_linear<P>;
template <class P, class R>
local_linear(P, R) -> local_linear<P, R>;
template <class P, class R>
local_linear(P, R, double) -> local_linear<P, R>;

template <class E, class P = causal_bottom_right>
struct parallax {
    tensor_view<E const> r; // as q
    P order = {};
    double scale = 0;
    static_assert(detail::is_local_order<P>, "heed: the order of parallax is full or causal_bottom_right");
};
template <class E>
parallax(tensor_view<E>) -> parallax<std::remove_const_t<E>>;
template <class E, class P>
parallax(tensor_view<E>, P) -> parallax<std::remove_const_t<E>, P>;
template <class E, class P>
parallax(tensor_view<E>, P, double) -> parallax<std::remove_const_t<E>, P>;

// The same as an engine takes it.
template <class E>
struct local_form {
    using T = compute_t<E>;
    T scale = T(1), lambda = T(0);
    bool relative = false, causal = false;
    tensor_view<E const> r = {}; // null: solve for it
    bool solves() const { return r.data_handle() == nullptr; }
};

} // namespace heed
