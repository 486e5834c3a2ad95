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
#include <heed/engine/cuda/tensor_decode.cuh>
#include <heed/engine/cuda/tensor_forward.cuh>
#include <heed/engine/engine_for.hpp>

#include <tuple>

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
template <Pairwise M, class T, class A, class P>
struct cuda_forward_engines {
    using type = engine_list<simt_forward<M, T, A>>;
};

template <Pairwise M, class T, class A, class P>
    requires TensorCoreForward<M> && is_half<T>
struct cuda_forward_engines<M, T, A, P> {
    using type = engine_list<tensor_forward<M, T, A, 64, 64>, tensor_forward<M, T, A, 128, 128>, tensor_forward<M, T, A, 192, 192>, tensor_forward<M, T, A, 256, 256>, simt_forward<M, T, A>>;
};
template <Pairwise M, class A, class P>
    requires TensorCoreForward<M> && (!std::is_void_v<P>)
struct cuda_forward_engines<M, float, A, P> {
    using type = engine_list<tensor_forward<M, float, A, 64, 64, P>, tensor_forward<M, float, A, 128, 128, P>, simt_forward<M, float, A>>;
};

template <Pairwise M, class T, class A, class P>
struct forward_engine_for<M, T, cuda<A, P>> {
    using type = typename cuda_forward_engines<M, T, A, P>::type;
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
template <Pairwise M, class T, class A, class P>
struct backward_engine_for<M, T, cuda<A, P>> {
    static_assert(!detail::is_idempotent<decltype(M::normalizer)>, "heed: where values are gathered by a maximum, backward runs on the CPU");
    using type = typename cuda_backward_engines<M, T, A>::type;
};

// New queries against a cache: the first that serves runs, of its own sizes; simt_decode serves everything.
//   struct sizes                                                     sizes(shape of q, cache, device): rows, tile, chunks, kv_heads, dv ...
//   static bool serves(sizes const&, cache_view const&, cuda_device const&);
//   static std::size_t bytes(sizes const&);
//   static void run(M const&, decode_problem const&, cuda<A> const&, sizes const&, std::byte* workspace);
// or, of an engine that needs numbers that are 0 before every launch, and leaves them 0,
//   static extent_t counters(sizes const&);
//   static void run(M const&, decode_problem const&, cuda<A> const&, sizes const&, int* counters, std::byte* workspace);
template <class A, class... Engines>
struct decode_engine_list {
    template <class Engine>
    static constexpr bool counts = requires(typename Engine::sizes const& by) { Engine::counters(by); };

    struct sizes {
        cuda_device device;
        std::tuple<typename Engines::sizes...> of;
        std::string_view name; // of the engine for the cache that the sizes were made of
        extent_t rows, tile, chunks, kv_heads, dv;

        template <class Cache>
        sizes(shape q, Cache const& c) : device(cuda_device::current<A>()), of(typename Engines::sizes(q, c, device)...) {
            with(*this, c, [&](auto engine, auto const& by) {
                name = decltype(engine)::type::name;
                rows = by.rows;
                tile = by.tile;
                chunks = by.chunks;
                kv_heads = by.kv_heads;
                dv = by.dv;
            });
        }
    };
    // f(engine, its sizes) of the first that serves.
    template <class Cache, class F>
    static void with(sizes const& all, Cache const& c, F&& f) {
        bool done = false;
        ((done = done || (Engines::serves(std::get<typename Engines::sizes>(all.of), c, all.device) ? (f(std::type_identity<Engines>{}, std::get<typename Engines::sizes>(all.of)), true) : false)), ...);
    }
    static std::size_t bytes(sizes const& all, int) {
        std::size_t most = 0;
        each(all, [&](auto engine, auto const& by) { most = decltype(engine)::type::bytes(by) > most ? decltype(engine)::type::bytes(by) : most; });
        return counter_bytes(all) + most;
    }
    // Makes a workspace ready for run(..., true), which leaves it so.
    static void prepare(cuda<A> const& backend, sizes const& all, std::byte* workspace) {
        detail::check_cuda<A>(cudaMemsetAsync(aligned(workspace), 0, counter_bytes(all), backend.stream), "cudaMemsetAsync of the counters of decode");
    }
    template <class M, class Problem>
    static void run(M const& m, Problem const& x, cuda<A> const& backend, sizes const& all, std::byte* workspace, bool ready) {
        std::byte* const counters = aligned(workspace);
        with(all, x.cache, [&](auto engine, auto const& by) {
            using type = typename decltype(engine)::type;
            if constexpr (counts<type>) {
                if (!ready) { prepare(backend, all, workspace); }
                type::run(m, x, backend, by, reinterpret_cast<int*>(counters), counters + counter_bytes(all));
            } else {
                type::run(m, x, backend, by, counters + counter_bytes(all));
            }
        });
    }

private:
    template <class F>
    static void each(sizes const& all, F&& f) {
        (f(std::type_identity<Engines>{}, std::get<typename Engines::sizes>(all.of)), ...);
    }
    static std::size_t counter_bytes(sizes const& all) {
        arena count(nullptr);
        extent_t most = 0;
        each(all, [&](auto engine, auto const& by) {
            if constexpr (counts<typename decltype(engine)::type>) { most = decltype(engine)::type::counters(by) > most ? decltype(engine)::type::counters(by) : most; }
        });
        count.take<int>(most);
        return count.bytes();
    }
};

template <Pairwise M, class E, class A>
struct cuda_decode_engines {
    using type = decode_engine_list<A, simt_decode<M, E, A>>;
};
template <Pairwise M, class E, class A>
    requires TensorCoreForward<M> && is_half<E>
struct cuda_decode_engines<M, E, A> {
    using type = decode_engine_list<A, tensor_decode<M, E, A, 64>, tensor_decode<M, E, A, 128>, tensor_decode<M, E, A, 256>, simt_decode<M, E, A>>;
};

template <Pairwise M, class Q, class K, class V, class A, class P>
struct decode_engine_for<M, Q, K, V, cuda<A, P>> {
    static_assert(std::is_same_v<Q, K> && std::is_same_v<K, V>, "heed: on the GPU queries and caches have the same element type");
    using type = typename cuda_decode_engines<M, Q, A>::type;
};

} // namespace heed
