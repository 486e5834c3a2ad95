// SPDX-License-Identifier: BSD-3-Clause
#include "softmax_call.hpp"

#include <heed/policy/score/bias.hpp>
#include <heed/policy/score/softcap.hpp>

namespace heed::tool::kernels {

template <class T>
void causal_gradients(softmax_problem<T> const& p) {
    call_gradients(p, attention{scaled_dot(p), heed::causal_bottom_right{}, softmax{}});
}
HEED_TOOL_INSTANTIATE(causal_gradients);

template <class T>
void window_gradients(softmax_problem<T> const& p) {
    call_gradients(p, attention{scaled_dot(p), as_window(p), softmax{}});
}
HEED_TOOL_INSTANTIATE(window_gradients);

template <class T>
void softcap_gradients(softmax_problem<T> const& p) {
    call_gradients(p, attention{scaled_dot(p) | softcap{p.softcap}, as_window(p), softmax{}});
}
HEED_TOOL_INSTANTIATE(softcap_gradients);

template <class T>
void forgetting_gradients(softmax_problem<T> const& p) {
    call_gradients(p, attention{scaled_dot(p) | forgetting{p.log_gates}, as_window(p), softmax{}}, forgetting_gradient{p.dgates});
}
HEED_TOOL_INSTANTIATE(forgetting_gradients);

} // namespace heed::tool::kernels
