// SPDX-License-Identifier: BSD-3-Clause
// Native sparse attention (Yuan et al., arXiv:2502.11089), its three branches and their gates:
//
//   out_i = g_cmp,i compressed_i + g_slc,i selected_i + g_swa,i window_i
//   compressed  softmax over the means of blocks wholly in the past, of their mean values; 0 where there is none
//   selected    causal softmax over the tokens of the chosen blocks (select_nsa), one choice for the query heads of a group
//   window      causal softmax over the last `window` tokens; 0: no such branch
//
// Scores are q . k / sqrt(d), or times a factor. Over latents (keys and values made from shared rows c by linear maps): absorbed queries, the rows c as the one key head
// and their values, and the factor of the head that they stand for; means of latents are the latents of means, so nothing is ever written out.
// Gates are given as they multiply, one per head and token; they need not sum to 1. Gradients reach q, k, v and the gates
// through all branches, and nothing through the choice. Cost of a token: M / block + top block + window pairs.
#pragma once

#include <heed/engine/cpu/gated_rows.hpp>
#include <heed/front/chosen.hpp>
#include <heed/front/select.hpp>
#include <heed/policy/pattern/compressed.hpp>
#include <heed/policy/pattern/routed.hpp>

namespace heed {

// gates {B, H, N, 1} each, of the type of computation; no window: its gate has no data.
template <class T>
struct nsa {
    extent_t block, top, window;
    tensor_view<T const> compressed_gate, selected_gate, window_gate = {};
    T factor = 0; // of the scores; 0: 1 / sqrt(d)

    T scale(extent_t width) const { return factor == T(0) ? inv_sqrt<T>(width) : factor; }
    tensor_view<T const> const& gate(int n) const { return n == 0 ? compressed_gate : n == 1 ? selected_gate : window_gate; }
};
template <class T>
nsa(extent_t, extent_t, extent_t, tensor_view<T>, tensor_view<T>) -> nsa<std::remove_const_t<T>>;
template <class T>
nsa(extent_t, extent_t, extent_t, tensor_view<T>, tensor_view<T>, tensor_view<T>) -> nsa<std::remove_const_t<T>>;

template <class T>
nsa<std::remove_const_t<T>> native_sparse_attention(extent_t block, extent_t top, extent_t window, tensor_view<T> compressed_gate, tensor_view<T> selected_gate, tensor_view<T> window_gate = {}) {
    return {block, top, window, compressed_gate, selected_gate, window_gate};
}

// Option of backward: gradients of the gates, in their shape; a view without data is not computed.
template <class T>
struct nsa_gate_gradients {
    tensor_view<T> compressed = {}, selected = {}, window = {};
    tensor_view<T> const& gate(int n) const { return n == 0 ? compressed : n == 1 ? selected : window; }
};
template <class T>
nsa_gate_gradients(tensor_view<T>, tensor_view<T>) -> nsa_gate_gradients<T>;
template <class T>
nsa_gate_gradients(tensor_view<T>, tensor_view<T>, tensor_view<T>) -> nsa_gate_gradients<T>;

// What forward leaves for backward: summaries, choices, and the rows of every branch.
template <class T>
struct nsa_saved {
    block_summaries<T> keys, values;
    block_bits chosen;
    shape s;
    std::vector<T> out[3], lse[3];
    tensor_view<T> part(int n) { return {out[n].data(), s}; }
    tensor_view<T const> part(int n) const { return {out[n].data(), s}; }
    tensor_view<T> sums(int n) { return {lse[n].data(), {s.batch, s.head, s.seq, 1}}; }
    tensor_view<T> sums(int n) const { return {const_cast<T*>(lse[n].data()), {s.batch, s.head, s.seq, 1}}; }
};

namespace detail {

template <class M>
inline constexpr bool is_nsa = false;
template <class T>
inline constexpr bool is_nsa<nsa<T>> = true;
template <class O>
inline constexpr bool is_nsa_gradient = false;
template <class T>
inline constexpr bool is_nsa_gradient<nsa_gate_gradients<T>> = true;
template <class T>
nsa_gate_gradients<T> pick_gate_gradients() { return {}; }
template <class T, class First, class... Rest>
nsa_gate_gradients<T> pick_gate_gradients(First const& first, Rest const&... rest) {
    if constexpr (is_nsa_gradient<First>) { return first; } else { return pick_gate_gradients<T>(rest...); }
}
template <class A, class T>
void check_nsa(nsa<T> const& m, shape q, bool ragged) {
    using door = detail::door<A>;
    if (m.block < 1 || m.top < 1 || m.window < 0) { door::refuse(sentence<A>("heed: nsa{block ", m.block, ", top ", m.top, ", window ", m.window, "}; block and top are at least 1, window at least 0")); }
    if (ragged) { door::refuse("heed: native sparse attention takes sequences of one length"); }
    for (int n = 0; n < (m.window > 0 ? 3 : 2); ++n) {
        char const* const names[] = {"the gate of the compressed branch", "the gate of the selected branch", "the gate of the window branch"};
        argument const have[] = {argument::of(names[n], m.gate(n)), {"q", {q.batch, q.head, q.seq, 1}, {}, 1, sizeof(T), {}, false}};
        door::check_same(have[0], have[1]);
    }
}

} // namespace detail

template <class M>
concept NativeSparse = detail::is_nsa<M>;

// q, out (B, H, N, d | dv), k, v (B, Hkv, M, d | dv), float or double. Returns what backward needs. Option: a backend. Throws shape_error before out is written.
template <class A = native_arch, class M, class Q, class K, class V, class O, class... Options>
    requires NativeSparse<M>
auto forward(M const& m, Q const& q_in, K const& k_in, V const& v_in, O&& out_in, Options const&... options) {
    auto const out = as_view(out_in);
    using T = typename decltype(out)::element_type;
    static_assert(std::is_same_v<T, float> || std::is_same_v<T, double>, "heed: native sparse attention takes float or double");
    tensor_view<T const> const q = as_view(q_in), k = as_view(k_in), v = as_view(v_in);
    auto backend = detail::pick_backend(cpu<serial, A>{}, options...);
    detail::check_nsa<A>(m, q.shape(), q.is_ragged() || k.is_ragged());
    compressed const past{m.block, k.extent(2) - q.extent(2)};
    window const near{m.window};
    plan<T, A>(chosen_attention<T>(any_pattern(near), T(1)), q.shape(), k.shape(), v.shape(), backend); // the rules on shapes
    shape const s{q.extent(0), q.extent(1), q.extent(2), v.extent(3)};
    extent_t const group = k.extent(1) > 0 ? q.extent(1) / k.extent(1) : 1;
    nsa_saved<T> saved{block_summaries<T>(k, m.block, backend), block_summaries<T>(v, m.block, backend), block_bits(0, 0, 0, 0), s, {}, {}};
    for (int n = 0; n < (m.window > 0 ? 3 : 2); ++n) {
        saved.out[n].resize(static_cast<std::size_t>(s.size()));
        saved.lse[n].resize(static_cast<std::size_t>(s.batch * s.head * s.seq));
    }
    int const slots = detail::concurrency_of(backend.executor);
    T const factor = m.scale(q.extent(3));
    auto const branch = [&](int n, auto const& pattern, tensor_view<T const> const& keys, tensor_view<T const> const& values) {
        forward<A>(chosen_attention(any_pattern(pattern), factor), q, keys, values, saved.part(n), save{saved.sums(n)}, backend);
        gated_rows<T, A>::sum(m.gate(n), saved.part(n), out, n == 0, backend.executor, slots);
    };
    branch(0, past, saved.keys.means(), saved.values.means());
    saved.chosen = select_nsa<A>(q, k, saved.keys, tensor_view<T const>(saved.sums(0)), static_cast<double>(factor), m.top, backend);
    routed const chosen(saved.chosen.map(1, m.block, group), causal_bottom_right{});
    branch(1, chosen, k, v);
    if (m.window > 0) { branch(2, near, k, v); }
    return saved;
}

// Gradients: dq, dk, dv, written, not accumulated; saved is what forward returned. Options: a backend, nsa_gate_gradients{...}.
template <class A = native_arch, class M, class Q, class K, class V, class O, class T, class DO, class DQ, class DK, class DV, class... Options>
    requires NativeSparse<M>
void backward(M const& m, Q const& q_in, K const& k_in, V const& v_in, O const&, nsa_saved<T> const& saved, DO const& dout_in, DQ&& dq_in, DK&& dk_in, DV&& dv_in, Options const&... options) {
    static_assert(((detail::is_backend<Options> || detail::is_nsa_gradient<Options>) && ...), "heed: options of native sparse attention's backward are a backend and nsa_gate_gradients{...}");
    nsa_gate_gradients<T> const dgates = detail::pick_gate_gradients<T>(options...);
    tensor_view<T const> const q = as_view(q_in), k = as_view(k_in), v = as_view(v_in), dout = as_view(dout_in);
    tensor_view<T> const dq = as_view(dq_in), dk = as_view(dk_in), dv = as_view(dv_in);
    auto backend = detail::pick_backend(cpu<serial, A>{}, options...);
    using door = detail::door<A>;
    using detail::argument;
    using rows = gated_rows<T, A>;
    detail::check_nsa<A>(m, q.shape(), q.is_ragged() || k.is_ragged());
    door::check_same(argument::of("dout", dout), argument::of("the saved rows", saved.part(0)));
    door::check_same(argument::of("dq", dq), argument::of("q", q));
    door::check_same(argument::of("dk", dk), argument::of("k", k));
    door::check_same(argument::of("dv", dv), argument::of("v", v));
    int const slots = detail::concurrency_of(backend.executor);
    extent_t const group = k.extent(1) > 0 ? q.extent(1) / k.extent(1) : 1;
    auto const room = [](shape s) { return std::vector<T>(static_cast<std::size_t>(s.size())); };
    auto dy = room(dout.shape()), dq_part = room(q.shape()), dk_part = room(k.shape()), dv_part = room(v.shape()), dk_means = room(saved.keys.means().shape()), dv_means = room(saved.values.means().shape());
    tensor_view<T> const to_y(dy.data(), dout.shape()), to_q(dq_part.data(), q.shape()), to_k(dk_part.data(), k.shape()), to_v(dv_part.data(), v.shape());
    tensor_view<T> const to_km(dk_means.data(), saved.keys.means().shape()), to_vm(dv_means.data(), saved.values.means().shape());
    T const factor = m.scale(q.extent(3));
    auto const branch = [&](int n, auto const& pattern, tensor_view<T const> const& keys, tensor_view<T const> const& values, tensor_view<T> const& of_q, tensor_view<T> const& of_k, tensor_view<T> const& of_v) {
        rows::gradient(m.gate(n), saved.part(n), dout, to_y, dgates.gate(n), backend.executor, slots);
        backward<A>(chosen_attention(any_pattern(pattern), factor), q, keys, values, saved.part(n), save{saved.sums(n)}, tensor_view<T const>(to_y), of_q, of_k, of_v, backend);
    };
    // The selected branch writes what is asked for; the others are added to it.
    routed const chosen(saved.chosen.map(1, m.block, group), causal_bottom_right{});
    branch(1, chosen, k, v, dq, dk, dv);
    compressed const past{m.block, k.extent(2) - q.extent(2)};
    branch(0, past, saved.keys.means(), saved.values.means(), to_q, to_km, to_vm);
    rows::add(to_q, dq, backend.executor, slots);
    rows::spread(to_km, m.block, dk, backend.executor, slots);
    rows::spread(to_vm, m.block, dv, backend.executor, slots);
    if (m.window == 0) { return; }
    window const near{m.window};
    branch(2, near, k, v, to_q, to_k, to_v);
    rows::add(to_q, dq, backend.executor, slots);
    rows::add(to_k, dk, backend.executor, slots);
    rows::add(to_v, dv, backend.executor, slots);
}

} // namespace heed
