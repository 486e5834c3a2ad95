// SPDX-License-Identifier: BSD-3-Clause
#include "calls.hpp"

#include <heed/heed.cuh>

#include <algorithm>
#include <vector>

namespace heed_test {

template <class M, class E>
std::string decode_on_gpu(M const& m, heed::tensor_view<E const> q, heed::cache_view<E> const& cache, heed::tensor_view<E> out, heed::tensor_view<float> lse, cudaStream_t stream) {
    heed::cuda const backend{stream};
    auto plan = heed::plan_decode<E>(m, q.shape(), cache, backend);
    auto const run = [&](auto const&... saved) {
        heed::decode(m, q, cache, out, backend, saved...);
        void* memory = nullptr;
        cudaMallocAsync(&memory, plan.workspace_bytes(), stream);
        cudaMemsetAsync(memory, 0xee, plan.workspace_bytes(), stream);
        std::span<std::byte> const workspace(static_cast<std::byte*>(memory), plan.workspace_bytes());
        plan.own(workspace);
        for (int n = 0; n < 2; ++n) { plan.run(q, cache, out, workspace, saved...); }
        cudaFreeAsync(memory, stream);
    };
    if constexpr (heed::detail::kept_of<decltype(M::normalizer)>() > 0) {
        run(heed::save{lse});
    } else {
        run();
    }
    return std::string(plan.engine());
}

#define HEED_DECODE_ON_GPU(M, E) \
    template std::string decode_on_gpu<M, E>(M const&, heed::tensor_view<E const>, heed::cache_view<E> const&, heed::tensor_view<E>, heed::tensor_view<float>, cudaStream_t)

HEED_DECODE_ON_GPU(on_gpu::causal, float);
HEED_DECODE_ON_GPU(on_gpu::sunk, heed::bf16);
HEED_DECODE_ON_GPU(on_gpu::drafted, heed::fp16);
HEED_DECODE_ON_GPU(on_gpu::tropical_step, float);

} // namespace heed_test
