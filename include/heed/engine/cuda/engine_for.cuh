// SPDX-License-Identifier: BSD-3-Clause
// Which engine runs a mechanism on the GPU. An engine states its needs twice: as a requirement on the mechanism's properties, here, and as
// serves(problem, device), asked of every call (widths, alignment, compute capability). The first of the list that serves runs; simt_forward, the
// last, serves everything. Plans say which it was.
//
//   static constexpr std::string_view name;
//   static constexpr extent_t tile_queries, tile_keys;
//   static bool serves(pairwise_problem<T> const&, cuda_device const&);                     null data: row-major views of these shapes
//   static std::size_t workspace_bytes(pairwise_problem<T> const&, cuda_device const&);
//   static void run(M const&, pairwise_problem<T> const&, cuda<A> const&, cuda_device const&, std::byte* workspace);
#pragma once

#include <heed/engine/cuda/pairwise_backward.cuh>
#include <heed/engine/cuda/pairwise_decode.cuh>
#include <heed/engine/cuda/pairwise_forward.cuh>
#include <heed/engine/cuda/tensor_backward.cuh>
#include <heed/engine/cuda/tensor_forward.cuh>
#include <heed/engine/engine_for.hpp>

namespace heed {

template <class... Engines>
struct engine_list {
    static constexpr bool tensors_only = true;
    // f(engine) of the first that serves; true once there was one.
    template <class Problem, class F>
    static void with(Problem const& x, cuda_device const& device, F&& f) {
        bool done = false;
        ((done = done || (Engines::serves(x, device) ? (f(std::type_identity<Engines>{}), true) : false)), ...);
    }
    template <class Problem>
    static std::size_t workspace_bytes(Problem const& x, cuda_device const& device) {
        std::size_t most = 0;
        ((most = Engines::workspace_bytes(x, device) > most ? Engines::workspace_bytes(x, device) : most), ...);
        return most;
    }
};

// A more demanding engine joins by a specialisation with a requirement: its own list, with what it does not serve left to simt_forward.
template <Pairwise M, class T, class A>
struct cuda_forward_engines {
    using type = engine_list<simt_forward<M, T, A>>;
};

template <Pairwise M, class T, class A>
    requires TensorCoreForward<M> && is_half<T>
struct cuda_forward_engines<M, T, A> {
    using type = engine_list<tensor_forward<M, T, A, 64, 64>, tensor_forward<M, T, A, 128, 128>, tensor_forward<M, T, A, 192, 192>, tensor_forward<M, T, A, 256, 256>, simt_forward<M, T, A>>;
};

template <Pairwise M, class T, class A>
struct forward_engine_for<M, T, cuda<A>> {
    using type = typename cuda_forward_engines<M, T, A>::type;
};

// The same for gradients, of a pairwise_gradient_problem; tensors_only says that an engine gives no gradients of policies' data.
template <Pairwise M, class T, class A>
struct cuda_backward_engines {
    using type = engine_list<simt_backward<M, T, A>>;
};
template <Pairwise M, class T, class A>
    requires TensorCoreBackward<M> && is_half<T>
struct cuda_backward_engines<M, T, A> {
    using type = engine_list<tensor_backward<M, T, A, 64>, tensor_backward<M, T, A, 128>, tensor_backward<M, T, A, 192>, tensor_backward<M, T, A, 256>, simt_backward<M, T, A>>;
};
template <Pairwise M, class T, class A>
struct backward_engine_for<M, T, cuda<A>> {
    static_assert(!detail::is_idempotent<decltype(M::normalizer)>, "heed: where values are gathered by a maximum, backward runs on the CPU");
    using type = typename cuda_backward_engines<M, T, A>::type;
};

// New queries against a cache.
template <Pairwise M, class Q, class K, class V, class A>
struct decode_engine_for<M, Q, K, V, cuda<A>> {
    static_assert(std::is_same_v<Q, K> && std::is_same_v<K, V>, "heed: on the GPU queries and caches have the same element type");
    using type = simt_decode<M, Q, A>;
};

} // namespace heed
