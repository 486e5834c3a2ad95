// SPDX-License-Identifier: BSD-3-Clause
#include "sparse_problem.hpp"

#include <heed/front/attention.hpp>
#include <heed/front/backward.hpp>

namespace heed::tool {

template <class T>
void attend(sparse_problem<T> const& p, any_pattern const& pattern) {
    forward(attention{dot{} | scale{p.scale}, pattern, softmax{}}, p.q, p.k, p.v, p.out, save{p.lse});
}
template <class T>
void attend_gradients(sparse_problem<T> const& p, any_pattern const& pattern) {
    attention const m{dot{} | scale{p.scale}, pattern, softmax{}};
    if (p.dlse.data_handle() != nullptr) {
        backward(m, p.q, p.k, p.v, tensor_view<T const>(p.out), save{p.lse}, p.dout, p.dq, p.dk, p.dv, saved_gradient{p.dlse});
    } else {
        backward(m, p.q, p.k, p.v, tensor_view<T const>(p.out), save{p.lse}, p.dout, p.dq, p.dk, p.dv);
    }
}

template void attend<float>(sparse_problem<float> const&, any_pattern const&);
template void attend<double>(sparse_problem<double> const&, any_pattern const&);
template void attend_gradients<float>(sparse_problem<float> const&, any_pattern const&);
template void attend_gradients<double>(sparse_problem<double> const&, any_pattern const&);

} // namespace heed::tool
