// SPDX-License-Identifier: BSD-3-Clause
// The shell of memory that learns by gradient steps (mechanism/gradient_memory.hpp): step, forgetting and momentum of each token, which rule; and its state.
#pragma once

#include <heed/policy/concepts.hpp>
#include <heed/view/tensor_view.hpp>

namespace heed {

template <class T>
struct gradient_memory {
    tensor_view<T const> theta, alpha, eta;
    extent_t chunk = 0;
    double scale = 1;
};
template <class T, class U, class W>
gradient_memory(tensor_view<T>, tensor_view<U>, tensor_view<W>) -> gradient_memory<std::remove_const_t<T>>;
template <class T, class U, class W>
gradient_memory(tensor_view<T>, tensor_view<U>, tensor_view<W>, extent_t) -> gradient_memory<std::remove_const_t<T>>;
template <class T, class U, class W>
gradient_memory(tensor_view<T>, tensor_view<U>, tensor_view<W>, extent_t, double) -> gradient_memory<std::remove_const_t<T>>;

// M and S (B, H, d, dv), in the type of computation. Empty: zeros.
template <class T>
struct memory_state {
    tensor_view<T> m = {}, s = {};
};

} // namespace heed
