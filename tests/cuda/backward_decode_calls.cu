// SPDX-License-Identifier: BSD-3-Clause
#include "backward_call.cuh"

HEED_BACKWARD_ON_GPU(heed_test::on_gpu::causal, float);
HEED_BACKWARD_ON_GPU(heed_test::on_gpu::bent, heed::fp16);
HEED_BACKWARD_ON_GPU(heed_test::on_gpu::sparse, float);

namespace heed_test {

template <class M, class E>
std::string decode_on_gpu(M const& m, heed::tensor_view<E const> q, heed::cache_view<E> const& cache, heed::tensor_view<E> out, heed::tensor_view<float> lse, cudaStream_t stream) {
    heed::cuda const backend{stream};
    std::string const engine(heed::plan_decode<E>(m, q.shape(), cache, backend).engine());
    if constexpr (heed::detail::kept_of<decltype(M::normalizer)>() > 0) {
        heed::decode(m, q, cache, out, backend, heed::save{lse});
    } else {
        heed::decode(m, q, cache, out, backend);
    }
    return engine;
}

#define HEED_DECODE_ON_GPU(M, E) \
    template std::string decode_on_gpu<M, E>(M const&, heed::tensor_view<E const>, heed::cache_view<E> const&, heed::tensor_view<E>, heed::tensor_view<float>, cudaStream_t)

HEED_DECODE_ON_GPU(on_gpu::causal, float);
HEED_DECODE_ON_GPU(on_gpu::sunk, heed::bf16);
HEED_DECODE_ON_GPU(on_gpu::tropical_step, float);

} // namespace heed_test
