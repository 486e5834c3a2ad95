// SPDX-License-Identifier: BSD-3-Clause
#include "softmax_call.hpp"

namespace heed::tool::kernels {

namespace {

template <class T, class Pairs>
auto mechanism(softmax_problem<T> const& p, rotary<Pairs> const& rope) {
    return with_load(attention{scaled_dot(p), heed::causal_bottom_right{}, softmax{}}, load{rope, rope});
}

} // namespace

template <class T, class Pairs>
void rotary_causal(softmax_problem<T> const& p, rotary<Pairs> const& rope) {
    forward(mechanism(p, rope), p.q, p.k, p.v, p.out, save{p.lse});
    if (p.dout.data_handle()) { call_gradients(p, mechanism(p, rope)); }
}
template void rotary_causal(softmax_problem<float> const&, rotary<half_pairs> const&);
template void rotary_causal(softmax_problem<float> const&, rotary<interleaved_pairs> const&);
template void rotary_causal(softmax_problem<double> const&, rotary<half_pairs> const&);
template void rotary_causal(softmax_problem<double> const&, rotary<interleaved_pairs> const&);

} // namespace heed::tool::kernels
