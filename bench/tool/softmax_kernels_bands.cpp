// SPDX-License-Identifier: BSD-3-Clause
#include "softmax_call.hpp"

namespace heed::tool::kernels {

template <class T>
void full(softmax_problem<T> const& p) {
    call(p, scaled_dot(p), heed::full{}, softmax{});
}
HEED_TOOL_INSTANTIATE(full);

template <class T>
void causal_top_left(softmax_problem<T> const& p) {
    call(p, scaled_dot(p), heed::causal_top_left{}, softmax{});
}
HEED_TOOL_INSTANTIATE(causal_top_left);

template <class T>
void causal_bottom_right(softmax_problem<T> const& p) {
    call(p, scaled_dot(p), heed::causal_bottom_right{}, softmax{});
}
HEED_TOOL_INSTANTIATE(causal_bottom_right);

template <class T>
void window(softmax_problem<T> const& p) {
    call(p, scaled_dot(p), heed::window{p.left, p.right}, softmax{});
}
HEED_TOOL_INSTANTIATE(window);

} // namespace heed::tool::kernels
