// SPDX-License-Identifier: BSD-3-Clause
// Loader: how a row of q, k or v is produced at the moment a tile is packed. load{q, k, v} holds one for each; plain, the default, takes rows
// as their view holds them, and costs nothing.
//
// A loader that is not plain writes rows of at.width (k, q) or dv (v) numbers in the type of computation:
//   rows<A>(operand, rows, view, dst, stride)   dst[(j - rows.begin) * stride + c] = feature c of row j, for j in rows; A is the architecture
// optional:
//   pull_back<A>(operand, rows, width, dst, stride)   turns gradients of the rows written into gradients of the rows stored, in place
//   views(sizes, rows, f)                             calls f(name, view, wanted shape) for every view held; rows is the operand's number of positions
//   makes_rows = true                                 rows come from views of the loader's own: the tensor beside it is a shape without memory
#pragma once

#include <heed/kernel/half.hpp>
#include <heed/policy/concepts.hpp>
#include <heed/view/tensor_view.hpp>

namespace heed {

// Whose rows: of q for this head, or of k or v for the head that it shares with others.
struct operand {
    place const& at;
    extent_t head;      // of the view
    extent_t first = 0; // position of row 0: M - N for q, 0 for k and v, so that the last query sits at the last key

    HEED_HD static operand of_query(place const& at) { return {at, at.head, at.shift()}; }
    HEED_HD static operand of_key(place const& at) { return {at, at.kv_head, 0}; }
};

struct plain {};

template <class Q = plain, class K = plain, class V = plain>
struct load {
    Q q = {};
    K k = {};
    V v = {};

    template <class F>
    constexpr void views(call_sizes const& n, F&& f) const {
        if constexpr (requires { q.views(n, n.queries, f); }) { q.views(n, n.queries, f); }
        if constexpr (requires { k.views(n, n.keys, f); }) { k.views(n, n.keys, f); }
        if constexpr (requires { v.views(n, n.keys, f); }) { v.views(n, n.keys, f); }
    }
};
load() -> load<>;
template <class Q>
load(Q) -> load<Q>;
template <class Q, class K>
load(Q, K) -> load<Q, K>;
template <class Q, class K, class V>
load(Q, K, V) -> load<Q, K, V>;

template <class L>
inline constexpr bool is_plain = std::is_same_v<L, plain>;

namespace detail {
template <class L>
inline constexpr bool makes_rows = requires { requires L::makes_rows; };
} // namespace detail

template <class L>
concept Loader = Policy<L> && (is_plain<L> || requires(L const l, operand const& of, range rows, tensor_view<float const> const& x, float* dst, extent_t stride) {
    l.template rows<native_arch>(of, rows, x, dst, stride);
});

namespace detail {
template <class L>
inline constexpr bool is_load = false;
template <class Q, class K, class V>
inline constexpr bool is_load<load<Q, K, V>> = Loader<Q> && Loader<K> && Loader<V>;
} // namespace detail

} // namespace heed
