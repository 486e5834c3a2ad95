// SPDX-License-Identifier: BSD-3-Clause
#include "softmax_everything.hpp"

#include <heed/policy/score/softcap.hpp>

namespace heed::tool::kernels {

template <class T>
void sink_window(softmax_problem<T> const& p) {
    call(p, scaled_dot(p), as_window(p), softmax_sink{p.sinks});
}
HEED_TOOL_INSTANTIATE(sink_window);

namespace {

template <class T, class Score>
void call_with_everything(softmax_problem<T> const& p, Score const& score) {
    with_everything(p, score, [&](auto const& mechanism) { forward(mechanism, p.q, p.k, p.v, p.out, save{p.lse}); });
}

} // namespace

template <class T>
void everything(softmax_problem<T> const& p) {
    call_with_everything(p, scaled_dot(p));
}
HEED_TOOL_INSTANTIATE(everything);

template <class T>
void everything_capped(softmax_problem<T> const& p) {
    call_with_everything(p, scaled_dot(p) | softcap{p.softcap});
}
HEED_TOOL_INSTANTIATE(everything_capped);

} // namespace heed::tool::kernels
