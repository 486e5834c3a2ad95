// SPDX-License-Identifier: BSD-3-Clause
// Which engine runs a mechanism on a backend: found by property, never by a mechanism's name. The primary fails with a sentence.
#pragma once

#include <heed/engine/backend.hpp>
#include <heed/engine/cpu/edge_backward.hpp>
#include <heed/engine/cpu/edge_forward.hpp>
#include <heed/engine/cpu/pairwise_backward.hpp>
#include <heed/engine/cpu/pairwise_decode.hpp>
#include <heed/engine/cpu/pairwise_forward.hpp>
#include <heed/engine/cpu/ring_backward.hpp>
#include <heed/engine/cpu/ring_forward.hpp>
#include <heed/engine/cpu/routed_forward.hpp>
#include <heed/engine/cpu/winners_backward.hpp>
#include <heed/engine/reference/pairwise_forward.hpp>

namespace heed {

template <class Mechanism, class T, class Backend>
struct forward_engine_for {
    static_assert(sizeof(Mechanism) == 0, "heed: no forward engine for this mechanism on this backend; mechanisms are heed::attention{...}, backends heed::cpu{} and heed::reference{}");
};

template <Pairwise M, class T, class E, class A>
struct forward_engine_for<M, T, cpu<E, A>> {
    using type = pairwise_forward<M, T, A>;
};
template <Pairwise M, class T, class E, class A>
    requires detail::OnRings<M>
struct forward_engine_for<M, T, cpu<E, A>> {
    using type = ring_forward<M, T, A>;
};
template <Pairwise M, class T, class E, class A>
    requires detail::gathers_queries<M, vec<compute_t<T>, A>>
struct forward_engine_for<M, T, cpu<E, A>> {
    using type = routed_forward<M, T, A>;
};
template <Pairwise M, class T, class A>
struct forward_engine_for<M, T, reference<A>> {
    using type = reference_pairwise_forward<M, T, A>;
};

template <EdgeAttention M, class T, class E, class A>
struct forward_engine_for<M, T, cpu<E, A>> {
    using type = edge_forward<M, T, A>;
};

template <class M, class T, class B>
using forward_engine = typename forward_engine_for<M, T, B>::type;

template <class Mechanism, class T, class Backend>
struct backward_engine_for {
    static_assert(sizeof(Mechanism) == 0, "heed: no backward engine for this mechanism on this backend; mechanisms are heed::attention{...}, the backend heed::cpu{}");
};
template <Pairwise M, class T, class E, class A>
struct backward_engine_for<M, T, cpu<E, A>> {
    static_assert(DifferentiableNormalizer<decltype(M::normalizer)>, "heed: backward needs a normalizer with kept, resume, derivative and centred; see heed/policy/concepts.hpp");
    using type = pairwise_backward<M, T, A>;
};
template <Pairwise M, class T, class E, class A>
    requires detail::is_idempotent<decltype(M::normalizer)>
struct backward_engine_for<M, T, cpu<E, A>> {
    using type = winners_backward<M, T, A>;
};
template <Pairwise M, class T, class E, class A>
    requires(detail::OnRings<M> && decltype(M::normalizer)::centred != centre::mean)
struct backward_engine_for<M, T, cpu<E, A>> {
    using type = ring_backward<M, T, A>;
};

template <EdgeAttention M, class T, class E, class A>
struct backward_engine_for<M, T, cpu<E, A>> {
    using type = edge_backward<M, T, A>;
};

template <class M, class T, class B>
using backward_engine = typename backward_engine_for<M, T, B>::type;

// Queries of Q against a cache of K and V.
template <class Mechanism, class Q, class K, class V, class Backend>
struct decode_engine_for {
    static_assert(sizeof(Mechanism) == 0, "heed: no decode engine for this mechanism on this backend; mechanisms are heed::attention{...}, the backend heed::cpu{}");
};
template <Pairwise M, class Q, class K, class V, class E, class A>
struct decode_engine_for<M, Q, K, V, cpu<E, A>> {
    using type = pairwise_decode<M, Q, K, V, A>;
};

template <class M, class Q, class K, class V, class B>
using decode_engine = typename decode_engine_for<M, Q, K, V, B>::type;

} // namespace heed
