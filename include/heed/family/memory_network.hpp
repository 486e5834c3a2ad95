// SPDX-License-Identifier: BSD-3-Clause
// The shell of memories that are networks trained while they read (mechanism/memory_network.hpp), chunk by chunk: which network, what it is trained on, what a token counts for later; and their state.
#pragma once

#include <heed/family/gradient_memory.hpp>
#include <heed/policy/feature/elementwise.hpp>
#include <heed/policy/update/memory_goal.hpp>

namespace heed {

// Networks: r = M^T x, with a row more for a bias, or r = W2^T f(W1^T x), f a map of single numbers.
struct linear_network {
    static constexpr bool deep = false;
    bool bias = false;
};
template <class F>
struct two_layers {
    static constexpr bool deep = true;
    static constexpr bool bias = false;
    extent_t hidden;
    F f = {};
};
template <class F>
two_layers(extent_t, F) -> two_layers<F>;

// theta: step; alpha, eta: forgetting and momentum, or empty, and the step is that of the token that reads.
template <class T, class Network, class Goal>
struct memory_network {
    tensor_view<T const> theta, alpha, eta;
    extent_t chunk;
    Network network;
    Goal goal;
    double scale = 1;
    HEED_HD constexpr bool steps_of_reader() const { return alpha.data_handle() == nullptr; }
};

// W1 (B, H, d, hidden) and W2 (B, H, hidden, dv) of two layers, else W1 (B, H, d, dv) alone, and the momenta of both; bias (B, H, 1, dv). In the type of computation. Empty: zeros.
template <class T>
struct network_state {
    memory_state<T> first = {}, second = {};
    tensor_view<T> bias = {};
};

} // namespace heed
