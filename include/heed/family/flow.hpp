// SPDX-License-Identifier: BSD-3-Clause
// The shell of flow attention (mechanism/flow.hpp): order of the tokens, map of the features; and its state.
#pragma once

#include <heed/family/recurrent.hpp>

namespace heed {

template <class P = full, class F = sigmoid_map>
struct flow {
    P order = {};
    double eps = 1e-6;
    F feature = {};
    static constexpr bool causal = detail::walks_along<P>;
    static_assert(std::is_same_v<P, full> || causal, "heed: the order of flow attention is full or causal_bottom_right");
    static_assert(ElementwiseMap<F>, "heed: the map of flow attention is one of single numbers, positive, such as sigmoid_map");
};
template <class P>
flow(P) -> flow<P>;
template <class P>
flow(P, double) -> flow<P>;
template <class P, class F>
flow(P, double, F) -> flow<P, F>;

// The state of the causal form: s (B, H, d, dv), sums (B, H, 4, d): of f(k), f(q), f(k) O, f(q) I; counts (B, H, 2, 1): tokens, and the sum of e^D. All zeros before the first token.
template <class T>
struct flow_state {
    tensor_view<T> s = {}, sums = {}, counts = {};
    bool given() const { return s.data_handle() != nullptr; }
};

namespace detail {
template <class M>
inline constexpr bool is_flow = false;
template <class P, class F>
inline constexpr bool is_flow<flow<P, F>> = true;
} // namespace detail

} // namespace heed
