// SPDX-License-Identifier: BSD-3-Clause
// The doors of attention along edges: forward(mechanism, q, k, v, out, options...) and backward(mechanism, q, k, v, out, saved, dout, dq, dk, dv, options...).
//   q (B, H, targets, d), k (B, Hkv, sources, d), v (B, Hkv, sources, dv), out (B, H, targets, dv), H a multiple of Hkv; float or double; features side by side
//   are fastest, heads of a node side by side (sequence_major) faster still. Isolated targets get 0, log-sum-exp -inf.
#pragma once

#include <heed/engine/engine_for.hpp>
#include <heed/front/check.hpp>
#include <heed/front/options.hpp>
#include <heed/view/adapt.hpp>

#include <memory>
#include <span>
#include <string>

namespace heed {

// Option of forward: the final weight of every edge, {B, H, edges, 1}, by the edges' numbers.
template <class T>
struct edge_weights {
    tensor_view<T> w;
};
template <class T>
edge_weights(tensor_view<T>) -> edge_weights<T>;

// Options of backward: gradients of edge_score::edges {B, H, edges, d}, of value_plus_edge::edges {B, H, edges, dv}, of edge_score::vector {1, H, 1, d}.
template <class T>
struct edge_data_gradient {
    tensor_view<T> d;
};
template <class T>
edge_data_gradient(tensor_view<T>) -> edge_data_gradient<T>;
template <class T>
struct edge_value_gradient {
    tensor_view<T> d;
};
template <class T>
edge_value_gradient(tensor_view<T>) -> edge_value_gradient<T>;
template <class T>
struct attention_vector_gradient {
    tensor_view<T> d;
};
template <class T>
attention_vector_gradient(tensor_view<T>) -> attention_vector_gradient<T>;

namespace detail {

template <class O>
inline constexpr bool is_edge_weights = false;
template <class T>
inline constexpr bool is_edge_weights<edge_weights<T>> = true;
template <class O>
inline constexpr bool is_edge_gradient = false;
template <class T>
inline constexpr bool is_edge_gradient<edge_data_gradient<T>> = true;
template <class T>
inline constexpr bool is_edge_gradient<edge_value_gradient<T>> = true;
template <class T>
inline constexpr bool is_edge_gradient<attention_vector_gradient<T>> = true;

// Rules that forward and backward share: what a mechanism needs of the call's sizes.
template <class A, EdgeAttention M>
void check_edges(M const& m, shape q, shape k, shape v) {
    using door = detail::door<A>;
    argument args[] = {{"q", q, {}, 1, 1, {}, false}, {"k", k, {}, 1, 1, {}, false}, {"v", v, {}, 1, 1, {}, false}};
    door::check_axes(args, 3, pairwise_rules);
    if (q.seq != m.edges.targets()) { door::refuse(sentence<A>("heed: q has ", q.seq, " positions and the graph has ", m.edges.targets(), " targets; they must be equal")); }
    if (k.seq != m.edges.sources()) { door::refuse(sentence<A>("heed: k has ", k.seq, " positions and the graph has ", m.edges.sources(), " sources; they must be equal")); }
    auto const& head = head_of(m.score);
    using term = typename std::remove_cvref_t<decltype(head)>::term_type;
    if constexpr (has_last<term>) {
        if (q.feature < 1) { door::refuse("heed: the last feature of q and k is read by itself; they need one feature at least"); }
    }
    if constexpr (reads_edges<term>) { door::check_view("edge data of the score", head.edges.shape(), {q.batch, q.head, m.edges.edges(), q.feature}, true); }
    if constexpr (reads_vector<term>) { door::check_view("attention vector", head.vector.shape(), {1, q.head, 1, q.feature}, true); }
    if constexpr (adds_edges<decltype(M::value)>) { door::check_view("edge data of the values", m.value.edges.shape(), {q.batch, q.head, m.edges.edges(), v.feature}, true); }
}
// No output may share memory with what the mechanism reads.
template <class A, EdgeAttention M>
void check_edge_data_apart(M const& m, argument const* args, int count) {
    auto const& head = head_of(m.score);
    for (int i = 0; i < count; ++i) {
        if (!args[i].written) { continue; }
        detail::door<A>::check_apart(args[i], argument::of("edge data of the score", head.edges));
        detail::door<A>::check_apart(args[i], argument::of("attention vector", head.vector));
        if constexpr (adds_edges<decltype(M::value)>) { detail::door<A>::check_apart(args[i], argument::of("edge data of the values", m.value.edges)); }
    }
}
template <class A, class T>
void check_like(char const* name, tensor_view<T> const& v, shape want, argument* args, int& count) {
    if (v.data_handle() == nullptr && v.shape() == shape{}) { return; } // not wanted
    args[count] = argument::of(name, v);
    detail::door<A>::check_same(args[count], {"its data", want, {}, 1, sizeof(T), {}, false});
    ++count;
}

} // namespace detail

// What a forward call will do: engine and workspace; reusable, allocates nothing.
template <EdgeAttention M, class T, class B>
class edge_plan {
    using A = typename B::arch_type;
    using engine_type = forward_engine<M, T, B>;
    using door = detail::door<A>;
    static constexpr int kept = detail::kept_of<decltype(M::normalizer)>();
    M mechanism_;
    shape q_, k_, v_;
    B backend_;

public:
    edge_plan(M const& mechanism, shape q, shape k, shape v, B const& backend) : mechanism_(mechanism), q_(q), k_(k), v_(v), backend_(backend) { detail::check_edges<A>(mechanism_, q, k, v); }

    static constexpr std::string_view engine() { return engine_type::name; }
    std::size_t workspace_bytes() const { return line_bytes - 1 + engine_type::workspace_bytes(q_, v_, detail::concurrency_of(backend_.executor)); }
    std::string describe() const { return sentence<A>(engine(), " on ", arch_name<A>(), ", ", mechanism_.edges.edges(), " edges, ", workspace_bytes(), " workspace bytes"); }

    template <class... Options>
    void run(tensor_view<T const> q, tensor_view<T const> k, tensor_view<T const> v, tensor_view<T> out, std::span<std::byte> workspace, Options const&... options) {
        static_assert(kept != 0 || !(detail::is_save<Options> || ...), "heed: this normalizer keeps no number of a row; there is nothing to save");
        edge_problem<T> x{q, k, v, out, {}, 0, {}};
        [[maybe_unused]] auto const take = [&](auto const& option) {
            using O = std::remove_cvref_t<decltype(option)>;
            if constexpr (detail::is_save<O>) {
                x.saved = option.lse;
                x.saved_unit = (O::natural ? 1.0 : math::log2e) / decltype(M::normalizer)::unit;
            } else if constexpr (detail::is_edge_weights<O>) {
                x.weights = option.w;
            }
        };
        (take(options), ...);
        if (!(q.shape() == q_) || !(k.shape() == k_) || !(v.shape() == v_)) { door::refuse("heed: the plan was made for other shapes of q, k or v; make a new plan"); }
        using detail::argument;
        argument args[6] = {argument::of("q", q), argument::of("k", k), argument::of("v", v)};
        int count = 3;
        door::check_axes(args, 3, nullptr, 0);
        args[count++] = argument::of("out", out);
        door::check_axes(args, 4, detail::pairwise_rules);
        detail::check_like<A>("lse", x.saved, {q_.batch, q_.head, q_.seq, kept}, args, count);
        detail::check_like<A>("edge weights", x.weights, {q_.batch, q_.head, mechanism_.edges.edges(), 1}, args, count);
        door::check_outputs(args, count);
        detail::check_edge_data_apart<A>(mechanism_, args, count);
        if (workspace.size() < workspace_bytes()) {
            door::refuse(sentence<A>("heed: the workspace has ", workspace.size(), " bytes and the plan needs ", workspace_bytes(), "; see plan.workspace_bytes()"));
        }
        if (out.shape().size() == 0 && x.saved.data_handle() == nullptr && x.weights.data_handle() == nullptr) { return; }
        engine_type::run(mechanism_, x, backend_.executor, detail::concurrency_of(backend_.executor), workspace.data());
    }
};

template <class T = float, class A = native_arch, EdgeAttention M, class B = cpu<serial, A>>
edge_plan<M, T, B> plan(M const& mechanism, shape q, shape k, shape v, B const& backend = {}) {
    return {mechanism, q, k, v, backend};
}

// Options in any order: a backend; save{lse} or save_log2{lse}, which is then returned; edge_weights{view}. Throws shape_error before anything is written.
// Makes one allocation of plan.workspace_bytes() and frees it.
template <class A = native_arch, EdgeAttention M, class Q, class K, class V, class O, class... Options>
auto forward(M const& mechanism, Q const& q, K const& k, V const& v, O&& out, Options const&... options) {
    static_assert(((detail::is_option<Options> || detail::is_edge_weights<Options>) && ...), "heed: options along edges are a backend (heed::cpu{...}), heed::save{lse} and heed::edge_weights{view}");
    auto const out_view = as_view(out);
    using T = typename decltype(out_view)::element_type;
    static_assert(std::is_same_v<T, float> || std::is_same_v<T, double>, "heed: elements along edges are float or double, and out is written");
    auto const backend = detail::pick_backend(cpu<serial, A>{}, options...);
    auto const saved = detail::pick_save(options...);
    edge_plan<M, T, std::remove_const_t<decltype(backend)>> p(mechanism, as_view(q).shape(), as_view(k).shape(), as_view(v).shape(), backend);
    std::size_t const bytes = p.workspace_bytes();
    std::unique_ptr<std::byte[]> const memory(new std::byte[bytes]);
    p.run(as_view(q), as_view(k), as_view(v), out_view, std::span<std::byte>(memory.get(), bytes), options...);
    if constexpr (detail::is_save<std::remove_const_t<decltype(saved)>>) { return saved; }
}

// What a backward call will do, with the memory that is its caller's: one number or three of every edge and head. Reusable while the views stand.
template <EdgeAttention M, class T, class B>
class edge_backward_plan {
    using engine_type = backward_engine<M, T, B>;
    using door = detail::door<typename B::arch_type>;
    M mechanism_;
    edge_gradient_problem<T> problem_;
    B backend_;

public:
    edge_backward_plan(M const& mechanism, edge_gradient_problem<T> const& problem, B const& backend) : mechanism_(mechanism), problem_(problem), backend_(backend) {}

    static constexpr std::string_view engine() { return engine_type::name; }
    std::size_t workspace_bytes() const { return line_bytes - 1 + engine_type::workspace_bytes(mechanism_, problem_, detail::concurrency_of(backend_.executor)); }
    void run(std::span<std::byte> workspace) {
        if (workspace.size() < workspace_bytes()) {
            door::refuse(sentence<typename B::arch_type>("heed: the workspace has ", workspace.size(), " bytes and the plan needs ", workspace_bytes(), "; see plan.workspace_bytes()"));
        }
        engine_type::run(mechanism_, problem_, backend_.executor, detail::concurrency_of(backend_.executor), workspace.data());
    }
};

// Gradients by q, k, v (a default-constructed view is not computed) and, as options, edge_data_gradient, edge_value_gradient, attention_vector_gradient.
// out and saved are what forward wrote (nothing_saved{} for normalizers that keep nothing). The graph needs its lists by source. Everything is written,
// nothing accumulated; the same bits whatever the threads. Throws shape_error before anything is written. backward makes one allocation of plan.workspace_bytes().
// Written as a plan, checked now and run later in memory of the caller's:
template <class A = native_arch, EdgeAttention M, class Q, class K, class V, class O, class Saved, class DO, class DQ, class DK, class DV, class... Options>
auto plan_backward(M const& mechanism, Q const& q, K const& k, V const& v, O const& out, Saved const& saved, DO const& dout, DQ&& dq, DK&& dk, DV&& dv, Options const&... options) {
    static_assert(((detail::is_backend<Options> || detail::is_edge_gradient<Options>) && ...),
                  "heed: options of backward along edges are a backend, heed::edge_data_gradient, heed::edge_value_gradient and heed::attention_vector_gradient");
    using T = typename decltype(as_view(dout))::value_type;
    using term = typename std::remove_cvref_t<decltype(detail::head_of(mechanism.score))>::term_type;
    static_assert(((detail::reads_edges<term> || !std::is_same_v<Options, edge_data_gradient<T>>) && ...), "heed: this score reads no edge data; there is no gradient of it");
    static_assert(((detail::adds_edges<decltype(M::value)> || !std::is_same_v<Options, edge_value_gradient<T>>) && ...), "heed: edges add nothing to the values here; there is no gradient of it");
    static_assert(((detail::reads_vector<term> || !std::is_same_v<Options, attention_vector_gradient<T>>) && ...), "heed: this score has no attention vector; there is no gradient of it");
    constexpr int kept = detail::kept_of<decltype(M::normalizer)>();
    static_assert(detail::is_save<Saved> == (kept > 0), "heed: pass the result of forward(..., heed::save{lse}), or heed::nothing_saved{} for a normalizer that keeps nothing");
    auto const backend = detail::pick_backend(cpu<serial, A>{}, options...);
    using door = detail::door<A>;
    using detail::argument;
    edge_gradient_problem<T> x{as_view(q), as_view(k), as_view(v), as_view(out), as_view(dout), {}, 1, as_view(dq), as_view(dk), as_view(dv), {}, {}, {}};
    shape const sq = x.q.shape(), sk = x.k.shape(), sv = x.v.shape();
    extent_t const edges = mechanism.edges.edges();
    detail::check_edges<A>(mechanism, sq, sk, sv);
    if (!mechanism.edges.has_sources()) { door::refuse("heed: backward along edges needs the graph's lists by source; see heed::edge_list::by_source and heed::graph"); }
    argument args[12] = {argument::of("q", x.q), argument::of("k", x.k), argument::of("v", x.v), argument::of("out", x.out), argument::of("dout", x.dout)};
    door::check_axes(args, 5, nullptr, 0);
    argument const like_out{"its data", {sq.batch, sq.head, sq.seq, sv.feature}, {}, 1, sizeof(T), {}, false};
    door::check_same(args[3], like_out);
    door::check_same(args[4], like_out);
    int count = 5;
    if constexpr (kept > 0) {
        x.saved = saved.lse;
        x.saved_unit = decltype(M::normalizer)::unit / (Saved::natural ? 1.0 : math::log2e);
        argument const lse = argument::of("lse", x.saved);
        door::check_same(lse, {"its data", {sq.batch, sq.head, sq.seq, kept}, {}, 1, sizeof(T), {}, false});
        args[count++] = lse;
    }
    [[maybe_unused]] auto const take = [&](auto const& option) {
        using P = std::remove_cvref_t<decltype(option)>;
        if constexpr (std::is_same_v<P, edge_data_gradient<T>>) {
            x.dedges = option.d;
        } else if constexpr (std::is_same_v<P, edge_value_gradient<T>>) {
            x.dvalues = option.d;
        } else if constexpr (std::is_same_v<P, attention_vector_gradient<T>>) {
            x.dvector = option.d;
        } else {
            static_assert(!detail::is_edge_gradient<P>, "heed: gradients are of the element type of the call");
        }
    };
    (take(options), ...);
    detail::check_like<A>("dq", x.dq, sq, args, count);
    detail::check_like<A>("dk", x.dk, sk, args, count);
    detail::check_like<A>("dv", x.dv, sv, args, count);
    detail::check_like<A>("edge data gradient", x.dedges, {sq.batch, sq.head, edges, sq.feature}, args, count);
    detail::check_like<A>("edge value gradient", x.dvalues, {sq.batch, sq.head, edges, sv.feature}, args, count);
    detail::check_like<A>("attention vector gradient", x.dvector, {1, sq.head, 1, sq.feature}, args, count);
    door::check_outputs(args, count);
    detail::check_edge_data_apart<A>(mechanism, args, count);
    return edge_backward_plan<M, T, std::remove_const_t<decltype(backend)>>(mechanism, x, backend);
}
template <class A = native_arch, EdgeAttention M, class Q, class K, class V, class O, class Saved, class DO, class DQ, class DK, class DV, class... Options>
void backward(M const& mechanism, Q const& q, K const& k, V const& v, O const& out, Saved const& saved, DO const& dout, DQ&& dq, DK&& dk, DV&& dv, Options const&... options) {
    auto p = plan_backward<A>(mechanism, q, k, v, out, saved, dout, dq, dk, dv, options...);
    std::size_t const bytes = p.workspace_bytes();
    std::unique_ptr<std::byte[]> const memory(new std::byte[bytes]);
    p.run(std::span<std::byte>(memory.get(), bytes));
}

} // namespace heed
