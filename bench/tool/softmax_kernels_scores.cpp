// SPDX-License-Identifier: BSD-3-Clause
#include "softmax_call.hpp"

#include <heed/policy/score/bias.hpp>
#include <heed/policy/score/softcap.hpp>

namespace heed::tool::kernels {

template <class T>
void bias_full(softmax_problem<T> const& p) {
    call(p, scaled_dot(p) | bias{p.bias}, heed::full{}, softmax{});
}
HEED_TOOL_INSTANTIATE(bias_full);

template <class T>
void alibi_window(softmax_problem<T> const& p) {
    call(p, scaled_dot(p) | alibi{p.slopes}, as_window(p), softmax{});
}
HEED_TOOL_INSTANTIATE(alibi_window);

template <class T>
void softcap_window(softmax_problem<T> const& p) {
    call(p, scaled_dot(p) | softcap{p.softcap}, as_window(p), softmax{});
}
HEED_TOOL_INSTANTIATE(softcap_window);

template <class T>
void forgetting_window(softmax_problem<T> const& p) {
    call(p, scaled_dot(p) | forgetting{p.log_gates}, as_window(p), softmax{});
}
HEED_TOOL_INSTANTIATE(forgetting_window);

} // namespace heed::tool::kernels
