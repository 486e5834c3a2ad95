// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "calls.hpp"

#include <heed/heed.cuh>

namespace heed_test {

template <class M, class E, class P>
std::string forward_on_gpu(M const& m, heed::tensor_view<E const> q, heed::tensor_view<E const> k, heed::tensor_view<E const> v, heed::tensor_view<E> out, heed::tensor_view<float> lse,
                           cudaStream_t stream) {
    auto const backend = [&] {
        if constexpr (std::is_void_v<P>) { return heed::cuda{stream}; } else { return heed::cuda{stream, P{}}; }
    }();
    auto const plan = heed::plan<E>(m, q.shape(), k.shape(), v.shape(), backend);
    if constexpr (heed::detail::kept_of<decltype(M::normalizer)>() > 0) {
        if (lse.data_handle() != nullptr) {
            heed::forward(m, q, k, v, out, backend, heed::save{lse});
            return std::string(plan.engine(q, k, v, out));
        }
    }
    heed::forward(m, q, k, v, out, backend);
    return std::string(plan.engine(q, k, v, out));
}

} // namespace heed_test

// M, E, and P where fp32 products are chosen.
#define HEED_FORWARD_ON_GPU(M, E, ...)                                                                                                                                                   \
    template std::string heed_test::forward_on_gpu<M, E __VA_OPT__(, ) __VA_ARGS__>(M const&, heed::tensor_view<E const>, heed::tensor_view<E const>, heed::tensor_view<E const>, heed::tensor_view<E>,            \
                                                         heed::tensor_view<float>, cudaStream_t)
