// SPDX-License-Identifier: BSD-3-Clause
// The doors of flow attention: forward(flow_attention(), q, k, v, out, options...) and its backward.
#pragma once

#include <heed/engine/cpu/flow_rows.hpp>
#include <heed/front/recurrent_backward.hpp>
#include <heed/mechanism/flow.hpp>

namespace heed {

// Options of the causal form: the state before the first token and after the last (the two may be one memory).
template <class T>
struct initial_flow {
    flow_state<T const> state;
};
template <class T>
initial_flow(flow_state<T>) -> initial_flow<std::remove_const_t<T>>;
template <class T>
struct final_flow {
    flow_state<T> state;
};
template <class T>
final_flow(flow_state<T>) -> final_flow<T>;

namespace detail {

template <class O>
inline constexpr bool is_initial_flow = false;
template <class T>
inline constexpr bool is_initial_flow<initial_flow<T>> = true;
template <class O>
inline constexpr bool is_final_flow = false;
template <class T>
inline constexpr bool is_final_flow<final_flow<T>> = true;

inline constexpr axis_rule flow_rules[] = {{1, axis::head, rule_kind::equal, 0, axis::head}, {2, axis::head, rule_kind::equal, 0, axis::head}};

// One call: its views, the linear attention that it comes to, memory.
template <class M, class E, class B>
class flow_call {
    using A = typename B::arch_type;
    using T = compute_t<E>;
    using F = decltype(M::feature);
    using rows = flow_rows<F, E, A>;
    using door = detail::door<A>;
    M m_;
    B backend_;
    int slots_;
    std::size_t slot_bytes_;
    recurrent_problem<E> p_;
    flow_state<T const> initial_;
    flow_state<T> last_;

    struct memory {
        T *g, *w, *dg, *dw;
        std::byte *slots, *rest;
    };
    memory lay(std::byte* at, bool back, std::size_t& bytes) const {
        arena room(at);
        extent_t const heads = p_.out.extent(0) * p_.heads(), queries = heads * p_.q.extent(2), keys = heads * p_.k.extent(2);
        memory m{};
        m.g = room.take<T>(queries), m.w = room.take<T>(keys), m.dg = room.take<T>(back ? queries : 0), m.dw = room.take<T>(back ? keys : 0);
        m.slots = room.take<std::byte>(static_cast<extent_t>(static_cast<std::size_t>(slots_) * slot_bytes_));
        bytes = room.bytes();
        m.rest = at == nullptr ? nullptr : at + bytes;
        return m;
    }
    static shape per(tensor_view<E const> const& x) { return {x.extent(0), x.extent(1), x.extent(2), 1}; }
    recurrent_form<F, T> form(memory const& at) const {
        return form_of<T>(recurrent{m_.feature, weighted_update<T>{{at.w, per(p_.k)}}, row_factor<T>{{at.g, per(p_.q)}}, m_.order, 1.0});
    }
    template <class G>
    void each_head(memory const& at, bool back, G const& g) {
        for_each_item<A>(backend_.executor, slots_, p_.out.extent(0) * p_.heads(), [&](extent_t item, int slot) {
            arena room(at.slots + static_cast<std::size_t>(slot) * slot_bytes_);
            rows r(m_.feature, m_.eps, M::causal, p_.q.extent(3), p_.q.extent(2), p_.k.extent(2), back, room);
            extent_t const b = item / p_.heads(), h = item % p_.heads();
            g(r, typename rows::head{p_.q, p_.k, b, h, p_.q.length(b), p_.k.length(b)}, item * p_.q.extent(2), item * p_.k.extent(2));
        });
    }
    void check_state(char const* name, flow_state<T const> const& s) const {
        if (!s.given()) { return; }
        if (!M::causal) { door::refuse("heed: flow attention over all keys has no state; only the causal order has"); }
        extent_t const batch = p_.out.extent(0), heads = p_.heads(), d = p_.q.extent(3);
        argument const have[] = {argument::of(name, s.s), argument::of(name, s.sums), argument::of(name, s.counts)};
        shape const want[] = {{batch, heads, d, p_.v.extent(3)}, {batch, heads, 4, d}, {batch, heads, 2, 1}};
        for (int i = 0; i < 3; ++i) { door::check_same(have[i], argument{"the state", want[i], {}, 1, sizeof(T), {}, false}); }
    }

public:
    flow_call(M const& m, recurrent_problem<E> const& p, bool back, flow_state<T const> const& initial, flow_state<T> const& last, B const& backend)
        : m_(m), backend_(backend), p_(p), initial_(initial), last_(last) {
        argument const args[] = {argument::of("q", p.q), argument::of("k", p.k), argument::of("v", p.v), argument::of("out", p.out)};
        recurrent_rules_of<F, E, A>::check(form_of<T>(recurrent{m.feature, additive_update{}, unnormalized{}, m.order, 1.0}), args);
        door::check_axes(args, 4, flow_rules, 2);
        check_state("initial state", initial), check_state("final state", {last.s, last.sums, last.counts});
        arena count(nullptr);
        rows const one(m_.feature, m_.eps, M::causal, p_.q.extent(3), p_.q.extent(2), p_.k.extent(2), back, count);
        slot_bytes_ = count.bytes();
        extent_t const items = p_.out.extent(0) * p_.heads();
        int const most = concurrency_of(backend_.executor);
        slots_ = items < 1 ? 1 : items < most ? static_cast<int>(items) : most;
    }
    void forward() {
        std::size_t own;
        recurrent_form_plan<F, E, B> plan(form(lay(nullptr, false, own)), p_.q.shape(), p_.k.shape(), p_.v.shape(), backend_);
        std::size_t const rest = plan.workspace_bytes();
        std::unique_ptr<std::byte[]> const bytes(new std::byte[line_bytes + own + rest]);
        memory const at = lay(aligned(bytes.get()), false, own);
        each_head(at, false, [&](rows& r, typename rows::head const& x, extent_t i, extent_t j) { r.forward(x, {at.g + i, at.w + j}, initial_, last_); });
        recurrent_form_plan<F, E, B> real(form(at), p_.q.shape(), p_.k.shape(), p_.v.shape(), backend_);
        real.run(p_.q, p_.k, p_.v, p_.out, std::span<std::byte>(at.rest, rest), {initial_.s}, {last_.s});
    }
    void backward(recurrent_gradients<E> d) {
        std::size_t own;
        p_.initial = {initial_.s};
        auto const fill = [&](memory const& at) { d.beta = {at.dw, per(p_.k)}, d.factor = {at.dg, per(p_.q)}; };
        recurrent_form_backward_plan<F, E, B> plan(form(lay(nullptr, true, own)), p_, d, backend_); // for its bytes
        std::size_t const rest = plan.workspace_bytes();
        std::unique_ptr<std::byte[]> const bytes(new std::byte[line_bytes + own + rest]);
        memory const at = lay(aligned(bytes.get()), true, own);
        each_head(at, false, [&](rows& r, typename rows::head const& x, extent_t i, extent_t j) { r.forward(x, {at.g + i, at.w + j}, initial_, {}); });
        fill(at);
        recurrent_form_backward_plan<F, E, B> real(form(at), p_, d, backend_);
        real.run(std::span<std::byte>(at.rest, rest));
        each_head(at, true, [&](rows& r, typename rows::head const& x, extent_t i, extent_t j) { r.backward(x, {at.g + i, at.w + j}, {at.dg + i, at.dw + j}, initial_, d.dq, d.dk); });
    }
};

} // namespace detail

// q (B, H, N, d), k (B, H, M, d), v (B, H, M, dv), out (B, H, N, dv), N = M where causal; elements float, double, bf16 or fp16. Options in any order: a backend; of the causal form,
// initial_flow{state} and final_flow{state} (one token more is a step). Throws shape_error before out is written. Makes one allocation: two numbers a token, and what linear attention takes.
template <class A = native_arch, class M, class Q, class K, class V, class O, class... Options>
    requires(detail::is_flow<M>)
void forward(M const& mechanism, Q const& q, K const& k, V const& v, O&& out, Options const&... options) {
    static_assert(((detail::is_backend<Options> || detail::is_initial_flow<Options> || detail::is_final_flow<Options>)&&...),
                  "heed: options of flow attention are a backend (heed::cpu{...}), heed::initial_flow{state} and heed::final_flow{state}");
    auto const out_view = as_view(out);
    using E = typename decltype(out_view)::element_type;
    using T = compute_t<E>;
    auto const backend = detail::pick_backend(cpu<serial, A>{}, options...);
    flow_state<T const> initial;
    flow_state<T> last;
    [[maybe_unused]] auto const take = [&](auto const& option) {
        using option_type = std::remove_cvref_t<decltype(option)>;
        if constexpr (detail::is_initial_flow<option_type>) { initial = option.state; }
        if constexpr (detail::is_final_flow<option_type>) { last = option.state; }
    };
    (take(options), ...);
    detail::flow_call<M, E, std::remove_const_t<decltype(backend)>>(mechanism, {as_view(q), as_view(k), as_view(v), out_view}, false, initial, last, backend).forward();
}

// Gradients of a loss by q, k and v from its derivative dout by out; out is what forward wrote. tensor_view<T>{} is not computed. Options: a backend, initial_flow as in forward.
// Everything is written, nothing accumulated. Makes one allocation: some numbers a token, four rows a tile of 64 tokens where causal, and what the backward of linear attention takes.
template <class A = native_arch, class M, class Q, class K, class V, class O, class DO, class DQ, class DK, class DV, class... Options>
    requires(detail::is_flow<M>)
void backward(M const& mechanism, Q const& q, K const& k, V const& v, O const& out, nothing_saved, DO const& dout, DQ&& dq, DK&& dk, DV&& dv, Options const&... options) {
    static_assert(((detail::is_backend<Options> || detail::is_initial_flow<Options>)&&...), "heed: options of the backward of flow attention are a backend (heed::cpu{...}) and heed::initial_flow{state}");
    using E = typename decltype(as_view(dout))::value_type;
    using T = compute_t<E>;
    auto const backend = detail::pick_backend(cpu<serial, A>{}, options...);
    auto const read = as_view(out);
    // the problem holds a view that forward writes; backward only reads it
    tensor_view<E> const out_view(const_cast<E*>(read.data_handle()), read.shape(), read.strides(), read.offsets());
    flow_state<T const> initial;
    [[maybe_unused]] auto const take = [&](auto const& option) {
        if constexpr (detail::is_initial_flow<std::remove_cvref_t<decltype(option)>>) { initial = option.state; }
    };
    (take(options), ...);
    detail::flow_call<M, E, std::remove_const_t<decltype(backend)>>(mechanism, {as_view(q), as_view(k), as_view(v), out_view}, true, initial, {}, backend)
        .backward({as_view(dout), as_view(dq), as_view(dk), as_view(dv)});
}

} // namespace heed
