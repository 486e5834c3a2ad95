// SPDX-License-Identifier: BSD-3-Clause
// Shared by the softmax_kernels_*.cpp: one call through the front door.
#pragma once

#include "softmax_kernels.hpp"

#include <heed/heed.hpp>

// The four functions of a file, in both element types.
#define HEED_TOOL_INSTANTIATE(function)                                                                                                    \
    template void function<float>(softmax_problem<float> const&);                                                                          \
    template void function<double>(softmax_problem<double> const&)

namespace heed::tool::kernels {

template <class T, class Score, class Pattern, class Normalizer>
void call(softmax_problem<T> const& p, Score const& score, Pattern const& pattern, Normalizer const& normalizer) {
    forward(attention{score, pattern, normalizer}, p.q, p.k, p.v, p.out, save{p.lse});
}

template <class T, class Mechanism, class... Options>
void call_gradients(softmax_problem<T> const& p, Mechanism const& mechanism, Options const&... options) {
    backward(mechanism, p.q, p.k, p.v, p.out, save{p.lse}, p.dout, p.dq, p.dk, p.dv, saved_gradient{p.dlse}, options...);
}

template <class T>
auto scaled_dot(softmax_problem<T> const& p) {
    return dot{} | scale{p.scale};
}

// Every mask but the data-driven ones is a band: a window that is wide enough where it has no edge.
template <class T>
heed::window as_window(softmax_problem<T> const& p) {
    extent_t const N = p.q.extent(2), M = p.k.extent(2), all = N + M;
    switch (p.mask) {
    case mask_kind::full:
        return {all, all};
    case mask_kind::causal_bottom_right:
        return {all, 0};
    case mask_kind::causal_top_left:
        return {all, N - M}; // rows shifted back
    case mask_kind::window:
        break;
    }
    return {p.left, p.right};
}

} // namespace heed::tool::kernels
