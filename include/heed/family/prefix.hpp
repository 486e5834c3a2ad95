// SPDX-License-Identifier: BSD-3-Clause
// The shell of softmax over prefixes with one query a head (mechanism/aaren.hpp), and its state.
#pragma once

#include <heed/policy/concepts.hpp>
#include <heed/view/tensor_view.hpp>

namespace heed {

struct prefix_attention {
    double scale = 0; // 0 stands for 1 / sqrt(d)
};

// m, u (B, H, 1, 1), w (B, H, 1, dv), in the type of computation. Empty: m -inf, u and w 0.
template <class T>
struct prefix_state {
    tensor_view<T> m = {}, u = {}, w = {};
    bool given() const { return m.data_handle() != nullptr; }
};

} // namespace heed
