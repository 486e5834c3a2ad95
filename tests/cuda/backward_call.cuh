// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "calls.hpp"

#include <heed/heed.cuh>

namespace heed_test {

template <class M, class E>
std::string backward_on_gpu(M const& m, heed::tensor_view<E const> q, heed::tensor_view<E const> k, heed::tensor_view<E const> v, heed::tensor_view<E const> out, heed::tensor_view<float> lse,
                            heed::tensor_view<E const> dout, heed::tensor_view<float const> dlse, heed::tensor_view<E> dq, heed::tensor_view<E> dk, heed::tensor_view<E> dv, cudaStream_t stream,
                            bool in_order) {
    using normalizer = decltype(M::normalizer);
    heed::cuda const backend{stream, in_order ? heed::summed::in_order : heed::summed::as_they_come};
    if constexpr (heed::MergeableNormalizer<normalizer> && normalizer::centred == heed::centre::output) {
        if (dlse.data_handle() != nullptr) {
            heed::backward(m, q, k, v, out, heed::save{lse}, dout, dq, dk, dv, backend, heed::saved_gradient<float>{dlse});
            return heed::backward_plan<M, E, heed::cuda<>>(m, q, k, v, out, heed::save{lse}, dout, dq, dk, dv, backend).describe();
        }
    }
    heed::backward(m, q, k, v, out, heed::save{lse}, dout, dq, dk, dv, backend);
    return heed::backward_plan<M, E, heed::cuda<>>(m, q, k, v, out, heed::save{lse}, dout, dq, dk, dv, backend).describe();
}

} // namespace heed_test

#define HEED_BACKWARD_ON_GPU(M, E)                                                                                                                                                      \
    template std::string heed_test::backward_on_gpu<M, E>(M const&, heed::tensor_view<E const>, heed::tensor_view<E const>, heed::tensor_view<E const>, heed::tensor_view<E const>,     \
                                                          heed::tensor_view<float>, heed::tensor_view<E const>, heed::tensor_view<float const>, heed::tensor_view<E>,                   \
                                                          heed::tensor_view<E>, heed::tensor_view<E>, cudaStream_t, bool)
