// SPDX-License-Identifier: BSD-3-Clause
// Softmax attention over a pattern chosen at run time, and its gradients: the one kernel of the sparse cases.
#pragma once

#include <heed/policy/pattern/chosen.hpp>
#include <heed/view/tensor_view.hpp>

namespace heed::tool {

template <class T>
struct sparse_problem {
    tensor_view<T const> q, k, v;
    tensor_view<T> out, lse; // lse {B, H, N, 1}
    T scale = 1;
    tensor_view<T const> dout = {}; // no data: no gradients
    tensor_view<T> dq = {}, dk = {}, dv = {};
    tensor_view<T const> dlse = {}; // of the loss by lse; no data: none
};

template <class T>
void attend(sparse_problem<T> const& problem, any_pattern const& pattern);
extern template void attend<float>(sparse_problem<float> const&, any_pattern const&);
extern template void attend<double>(sparse_problem<double> const&, any_pattern const&);

// Gradients, once out and lse are there.
template <class T>
void attend_gradients(sparse_problem<T> const& problem, any_pattern const& pattern);
extern template void attend_gradients<float>(sparse_problem<float> const&, any_pattern const&);
extern template void attend_gradients<double>(sparse_problem<double> const&, any_pattern const&);

} // namespace heed::tool
