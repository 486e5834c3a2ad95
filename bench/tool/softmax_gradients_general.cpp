// SPDX-License-Identifier: BSD-3-Clause
#include "softmax_everything.hpp"

namespace heed::tool::kernels {

template <class T>
void everything_gradients(softmax_problem<T> const& p) {
    with_everything(p, scaled_dot(p), [&](auto const& mechanism) { call_gradients(p, mechanism, bias_gradient{p.dbias}, sink_gradient{p.dsinks}); });
}
HEED_TOOL_INSTANTIATE(everything_gradients);

} // namespace heed::tool::kernels
