// SPDX-License-Identifier: BSD-3-Clause
// degree_normalised{mechanism}, the doors: with w_ij the undivided weights of a mechanism along edges and r = deg^(-1/2), deg_i = sum_j w_ij (0 for 0),
//   out_i = sum_j p_ij v_j,  p_ij = r_i w_ij r_j
//   dv_j = sum_i p_ij dO_i,  dp_ij = dO_i . v_j,  dw_ij = r_i r_j dp_ij + g_i,  g_i = -(sum_j p_ij dp_ij + sum_l p_li dp_li) / (2 deg_i)
// since deg_i stands in every p of a row and of a column. One node set, deg from the edges into a node for both ends. A node without edges into it gets 0 and
// gives 0. Nothing is kept: backward makes the weights again. Laws: permuting nodes or edges permutes the result; multiplying all w by a number changes
// nothing; equal weights on a symmetric graph are a graph convolution. Memory of a call: edges x heads numbers, twice in backward.
#pragma once

#include <heed/front/edge.hpp>
#include <heed/policy/normalize/pointwise.hpp>

#include <vector>

namespace heed {

namespace detail {

template <class T, class M, class A>
struct degree_weights {
    static constexpr extent_t block = 256; // nodes of an item
    M const& m;
    extent_t B, H, N, edges;
    std::vector<T> p, root; // [B][edges][H], [B][N][H]: deg, then r
    T one = T(1), none = T(0);

    static_assert(std::is_same_v<decltype(M::value), node_value>, "heed: degree_normalised takes a mechanism whose values are the nodes' own");
    static_assert(kept_of<decltype(M::normalizer)>() == 0 && DifferentiableNormalizer<decltype(M::normalizer)>,
                  "heed: degree_normalised divides by degrees itself: its mechanism has undivided weights, heed::pointwise{weight}");

    degree_weights(M const& mechanism, shape q)
        : m(mechanism), B(q.batch), H(q.head), N(q.seq), edges(m.edges.edges()), p(static_cast<std::size_t>(B * edges * H)), root(static_cast<std::size_t>(B * N * H)) {
        if (m.edges.sources() != m.edges.targets()) {
            door<A>::refuse(sentence<A>("heed: degrees of both ends need one node set; the graph has ", m.edges.sources(), " sources and ", m.edges.targets(), " targets"));
        }
    }
    tensor_view<T> per_edge(std::vector<T>& x) const { return {x.data(), {B, H, edges, 1}, {edges * H, 1, H, 1}}; }
    tensor_view<T> per_node() { return {root.data(), {B, H, N, 1}, {N * H, 1, H, 1}}; }
    tensor_view<T const> everywhere(T const& x, extent_t heads) const { return {&x, {B, heads, N, 1}, {0, 0, 0, 0}}; }
    auto gathered() { return edge_attention{edge_score<edge::given, T>{{}, tensor_view<T const>(per_edge(p)), {}}, m.edges, pointwise<linear_weight>{}}; }

    // f(batch, node)
    template <class Executor, class F>
    void each_node(Executor& executor, F const& f) const {
        extent_t const blocks = (N + block - 1) / block;
        for_each_item<A>(executor, concurrency_of(executor), B * blocks, [&](extent_t item, int) noexcept {
            for (extent_t i = item % blocks * block; i < N && i < (item % blocks + 1) * block; ++i) { f(item / blocks, i); }
        });
    }
    T* roots(extent_t b, extent_t node) { return root.data() + (b * N + node) * H; }
    T* weights(extent_t b, extent_t slot) { return p.data() + (b * edges + m.edges.number(slot)) * H; }

    template <class Backend>
    void make(tensor_view<T const> q, tensor_view<T const> k, Backend& backend) {
        forward<A>(m, q, k, everywhere(one, k.extent(1)), per_node(), edge_weights{per_edge(p)}, backend);
        for (T& x : root) { x = x == T(0) ? T(0) : T(1) / std::sqrt(x); }
        each_node(backend.executor, [&](extent_t b, extent_t i) {
            T const* const to = roots(b, i);
            for (extent_t s = m.edges.begin(i); s < m.edges.end(i); ++s) {
                T const* const from = roots(b, m.edges.source(s));
                T* const w = weights(b, s);
                for (extent_t h = 0; h < H; ++h) { w[h] *= to[h] * from[h]; }
            }
        });
    }
};

} // namespace detail

// As forward(mechanism, ...) along edges, q and k of one node set; options: a backend, edge_weights{p}.
template <class A = native_arch, class M, class Q, class K, class V, class O, class... Options>
    requires DegreeNormalised<M>
void forward(M const& normalised, Q const& q_in, K const& k_in, V const& v_in, O&& out_in, Options const&... options) {
    static_assert(((detail::is_backend<Options> || detail::is_edge_weights<Options>) && ...), "heed: options here are a backend (heed::cpu{...}) and heed::edge_weights{view}; nothing is saved");
    auto const out = as_view(out_in);
    using T = typename decltype(out)::element_type;
    using door = detail::door<A>;
    using detail::argument;
    tensor_view<T const> const q = as_view(q_in), k = as_view(k_in), v = as_view(v_in);
    auto const& m = normalised.mechanism;
    auto backend = detail::pick_backend(cpu<serial, A>{}, options...);
    detail::check_edges<A>(m, q.shape(), k.shape(), v.shape());
    tensor_view<T> wanted{};
    [[maybe_unused]] auto const take = [&](auto const& option) {
        if constexpr (detail::is_edge_weights<std::remove_cvref_t<decltype(option)>>) { wanted = option.w; }
    };
    (take(options), ...);
    argument args[5] = {argument::of("q", q), argument::of("k", k), argument::of("v", v), argument::of("out", out)};
    int count = 4;
    detail::check_like<A>("edge weights", wanted, {q.extent(0), q.extent(1), m.edges.edges(), 1}, args, count);
    door::check_outputs(args, count);
    detail::check_edge_data_apart<A>(m, args, count);
    detail::degree_weights<T, std::remove_cvref_t<decltype(m)>, A> w(m, q.shape());
    w.make(q, k, backend);
    forward<A>(w.gathered(), w.everywhere(w.one, w.H), w.everywhere(w.one, v.extent(1)), v, out, backend);
    if (wanted.data_handle() == nullptr) { return; }
    w.each_node(backend.executor, [&](extent_t b, extent_t i) {
        for (extent_t s = m.edges.begin(i); s < m.edges.end(i); ++s) {
            for (extent_t h = 0; h < w.H; ++h) { wanted(b, h, m.edges.number(s), 0) = w.weights(b, s)[h]; }
        }
    });
}

// As backward(mechanism, ...) along edges, with nothing_saved{}; options: a backend, edge_data_gradient, attention_vector_gradient.
template <class A = native_arch, class M, class Q, class K, class V, class O, class DO, class DQ, class DK, class DV, class... Options>
    requires DegreeNormalised<M>
void backward(M const& normalised, Q const& q_in, K const& k_in, V const& v_in, O const& out_in, nothing_saved, DO const& dout_in, DQ&& dq_in, DK&& dk_in, DV&& dv_in, Options const&... options) {
    using T = typename decltype(as_view(dout_in))::value_type;
    tensor_view<T const> const q = as_view(q_in), k = as_view(k_in), v = as_view(v_in), out = as_view(out_in), dout = as_view(dout_in);
    tensor_view<T> const dq = as_view(dq_in), dk = as_view(dk_in), dv = as_view(dv_in);
    auto const& m = normalised.mechanism;
    auto backend = detail::pick_backend(cpu<serial, A>{}, options...);
    detail::check_edges<A>(m, q.shape(), k.shape(), v.shape());
    detail::degree_weights<T, std::remove_cvref_t<decltype(m)>, A> w(m, q.shape());
    std::vector<T> dw(w.p.size()), g(w.root.size());
    // nothing of the caller's is written before all of it is checked
    using detail::argument;
    argument args[10] = {argument::of("q", q), argument::of("k", k), argument::of("v", v), argument::of("out", out), argument::of("dout", dout)};
    int count = 5;
    detail::check_like<A>("dq", dq, q.shape(), args, count);
    detail::check_like<A>("dk", dk, k.shape(), args, count);
    detail::check_like<A>("dv", dv, v.shape(), args, count);
    shape const on_edges{w.B, w.H, w.edges, q.extent(3)}, of_heads{1, w.H, 1, q.extent(3)};
    [[maybe_unused]] auto const check_option = [&](auto const& option) {
        using P = std::remove_cvref_t<decltype(option)>;
        if constexpr (std::is_same_v<P, edge_data_gradient<T>>) {
            detail::check_like<A>("edge data gradient", option.d, on_edges, args, count);
        } else if constexpr (std::is_same_v<P, attention_vector_gradient<T>>) {
            detail::check_like<A>("attention vector gradient", option.d, of_heads, args, count);
        }
    };
    (check_option(options), ...);
    detail::door<A>::check_outputs(args, count);
    detail::check_edge_data_apart<A>(m, args, count);

    w.make(q, k, backend);
    tensor_view<T const> const ones = w.everywhere(w.one, w.H), zeros = w.everywhere(w.none, v.extent(1));
    backward<A>(w.gathered(), ones, zeros, v, out, nothing_saved{}, dout, tensor_view<T>{}, tensor_view<T>{}, dv, edge_data_gradient{w.per_edge(dw)}, backend);
    w.each_node(backend.executor, [&](extent_t b, extent_t i) {
        T* const sum = g.data() + (b * w.N + i) * w.H;
        T const* const r = w.roots(b, i);
        auto const add = [&](extent_t s) {
            T const *const p = w.weights(b, s), *const dp = dw.data() + (b * w.edges + m.edges.number(s)) * w.H;
            for (extent_t h = 0; h < w.H; ++h) { sum[h] += p[h] * dp[h]; }
        };
        for (extent_t s = m.edges.begin(i); s < m.edges.end(i); ++s) { add(s); }
        for (extent_t x = m.edges.out_begin(i); x < m.edges.out_end(i); ++x) { add(m.edges.out_slot(x)); }
        for (extent_t h = 0; h < w.H; ++h) { sum[h] *= T(-0.5) * r[h] * r[h]; } // 1 / deg = r r, and 0 for 0
    });
    w.each_node(backend.executor, [&](extent_t b, extent_t i) {
        T const *const to = w.roots(b, i), *const of_node = g.data() + (b * w.N + i) * w.H;
        for (extent_t s = m.edges.begin(i); s < m.edges.end(i); ++s) {
            T const* const from = w.roots(b, m.edges.source(s));
            T* const d = dw.data() + (b * w.edges + m.edges.number(s)) * w.H;
            for (extent_t h = 0; h < w.H; ++h) { d[h] = to[h] * from[h] * d[h] + of_node[h]; }
        }
    });
    edge_attention const scores{m.score, m.edges, m.normalizer, value_plus_edge<T>{tensor_view<T const>(w.per_edge(dw))}}; // dp = dw
    backward<A>(scores, q, k, zeros, ones, nothing_saved{}, ones, dq, dk, tensor_view<T>{}, options...);
}

} // namespace heed
