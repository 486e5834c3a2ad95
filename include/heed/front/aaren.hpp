// SPDX-License-Identifier: BSD-3-Clause
// The doors of softmax over every prefix: forward(aaren_attention(), q, k, v, out, options...) and its backward.
#pragma once

#include <heed/engine/backend.hpp>
#include <heed/engine/cpu/prefix_softmax.hpp>
#include <heed/front/check.hpp>
#include <heed/front/options.hpp>
#include <heed/mechanism/aaren.hpp>
#include <heed/view/adapt.hpp>

#include <memory>

namespace heed {

// Options: the state before the first token and after the last (the two may be one memory).
template <class T>
struct initial_prefix {
    prefix_state<T const> state;
    initial_prefix(tensor_view<T const> m, tensor_view<T const> u, tensor_view<T const> w) : state{m, u, w} {}
};
template <class T, class U, class W>
initial_prefix(tensor_view<T>, tensor_view<U>, tensor_view<W>) -> initial_prefix<std::remove_const_t<T>>;
template <class T>
struct final_prefix {
    prefix_state<T> state;
    final_prefix(tensor_view<T> m, tensor_view<T> u, tensor_view<T> w) : state{m, u, w} {}
};
template <class T>
final_prefix(tensor_view<T>, tensor_view<T>, tensor_view<T>) -> final_prefix<T>;

namespace detail {

template <class O>
inline constexpr bool is_initial_prefix = false;
template <class T>
inline constexpr bool is_initial_prefix<initial_prefix<T>> = true;
template <class O>
inline constexpr bool is_final_prefix = false;
template <class T>
inline constexpr bool is_final_prefix<final_prefix<T>> = true;

// q, k, v, out, then what is given of dout, dq, dk, dv and the states
inline constexpr axis_rule prefix_rules[] = {
    {1, axis::head, rule_kind::equal, 0, axis::head},   {1, axis::feature, rule_kind::equal, 0, axis::feature}, {2, axis::batch, rule_kind::equal, 1, axis::batch},
    {2, axis::head, rule_kind::equal, 1, axis::head},   {2, axis::seq, rule_kind::equal, 1, axis::seq},         {3, axis::batch, rule_kind::equal, 1, axis::batch},
    {3, axis::head, rule_kind::equal, 1, axis::head},   {3, axis::seq, rule_kind::equal, 1, axis::seq},         {3, axis::feature, rule_kind::equal, 2, axis::feature},
};
template <class A, class E>
void check_prefix(prefix_problem<E> const& p, prefix_gradients<E> const& d) {
    using door = detail::door<A>;
    argument const all[] = {argument::of("q", p.q),   argument::of("k", p.k),   argument::of("v", p.v),   argument::of("out", p.out), argument::of("dout", d.dout),
                            argument::of("dq", d.dq), argument::of("dk", d.dk), argument::of("dv", d.dv), argument::of("final m", p.last.m), argument::of("final u", p.last.u),
                            argument::of("final w", p.last.w), argument::of("initial m", p.initial.m), argument::of("initial u", p.initial.u), argument::of("initial w", p.initial.w)};
    door::check_axes(all, 4, prefix_rules);
    if (p.q.extent(2) != 1) { door::refuse(sentence<A>("heed: q has ", p.q.extent(2), " positions and a prefix softmax has one query a head; q is (B or 1, H, 1, d)")); }
    if (p.q.extent(0) != 1 && p.q.extent(0) != p.k.extent(0)) { door::refuse(sentence<A>("heed: q has ", p.q.extent(0), " batch entries and k has ", p.k.extent(0), "; q.batch must be 1 or equal k.batch")); }
    door::check_offsets(all[1], all[2]), door::check_offsets(all[1], all[3]);
    constexpr int like[] = {3, 0, 1, 2};
    for (int i = 0; i < 4; ++i) {
        if (all[4 + i].address == 0) { continue; }
        door::check_same(all[4 + i], all[like[i]]);
        if (i != 1) { door::check_offsets(all[4 + i], all[like[i]]); }
    }
    shape const one{p.out.extent(0), p.out.extent(1), 1, 1}, row{p.out.extent(0), p.out.extent(1), 1, p.out.extent(3)};
    for (int s = 8; s < 14; s += 3) {
        if (all[s].address == 0) { continue; }
        for (int i = 0; i < 3; ++i) { door::check_same(all[s + i], argument{"the state", i == 2 ? row : one, {}, 1, sizeof(compute_t<E>), {}, false}); }
    }
    bool const in_place = p.last.m.data_handle() == p.initial.m.data_handle() && p.last.u.data_handle() == p.initial.u.data_handle() && p.last.w.data_handle() == p.initial.w.data_handle() &&
                          p.last.w.strides() == p.initial.w.strides();
    argument given[14];
    int count = 0;
    for (int i = 0; i < 14; ++i) {
        if (all[i].address == 0 || (in_place && i >= 11)) { continue; }
        given[count] = all[i];
        given[count].written = (i == 3 && d.dout.data_handle() == nullptr) || (i >= 5 && i < 11);
        ++count;
    }
    door::check_outputs(given, count);
}
template <class A, class E>
compute_t<E> prefix_scale(prefix_attention const& m, prefix_problem<E> const& p) {
    return static_cast<compute_t<E>>(m.scale != 0 ? m.scale : 1 / math::sqrt(static_cast<double>(p.q.extent(3) < 1 ? 1 : p.q.extent(3))));
}
template <class B, class F>
void with_prefix_memory(B& backend, extent_t items, std::size_t slot, F const& f) {
    int const most = concurrency_of(backend.executor), slots = items < 1 ? 1 : items < most ? static_cast<int>(items) : most;
    std::unique_ptr<std::byte[]> const memory(new std::byte[line_bytes - 1 + static_cast<std::size_t>(slots) * slot]);
    f(slots, memory.get());
}

} // namespace detail

// q (B or 1, H, 1, d), k (B, H, N, d), v (B, H, N, dv), out (B, H, N, dv); elements float, double, bf16 or fp16, states in the type of computation. Options in any order: a backend,
// initial_prefix{m, u, w}, final_prefix{m, u, w}. Throws shape_error before out is written. Makes one small allocation, whose size does not depend on N.
template <class A = native_arch, class Q, class K, class V, class O, class... Options>
void forward(prefix_attention const& m, Q const& q, K const& k, V const& v, O&& out, Options const&... options) {
    static_assert(((detail::is_backend<Options> || detail::is_initial_prefix<Options> || detail::is_final_prefix<Options>)&&...),
                  "heed: options of forward over prefixes are a backend (heed::cpu{...}), heed::initial_prefix{m, u, w} and heed::final_prefix{m, u, w}");
    auto const out_view = as_view(out);
    using E = typename decltype(out_view)::element_type;
    prefix_problem<E> p{as_view(q), as_view(k), as_view(v), out_view};
    [[maybe_unused]] auto const take = [&](auto const& option) {
        if constexpr (detail::is_initial_prefix<std::remove_cvref_t<decltype(option)>>) {
            p.initial = option.state;
        } else if constexpr (detail::is_final_prefix<std::remove_cvref_t<decltype(option)>>) {
            p.last = option.state;
        }
    };
    (take(options), ...);
    detail::check_prefix<A>(p, prefix_gradients<E>{});
    auto backend = detail::pick_backend(cpu<serial, A>{}, options...);
    using engine = prefix_softmax_engine<E, A>;
    detail::with_prefix_memory(backend, engine::items(p, false), engine::slot_bytes(p, false),
                               [&](int slots, std::byte* memory) { engine::forward(p, detail::prefix_scale<A>(m, p), backend.executor, slots, memory); });
}

// Gradients of a loss by q, k and v from its derivative dout by out; out is what forward wrote. tensor_view<T>{} is not computed; dq is summed over the batch where q has batch 1.
// Options: a backend, initial_prefix as in forward. Everything is written, nothing accumulated. One allocation: two numbers a token and thread, and a few rows.
template <class A = native_arch, class Q, class K, class V, class O, class DO, class DQ, class DK, class DV, class... Options>
void backward(prefix_attention const& m, Q const& q, K const& k, V const& v, O const& out, nothing_saved, DO const& dout, DQ&& dq, DK&& dk, DV&& dv, Options const&... options) {
    static_assert(((detail::is_backend<Options> || detail::is_initial_prefix<Options>)&&...), "heed: options of backward over prefixes are a backend (heed::cpu{...}) and heed::initial_prefix{m, u, w}");
    using E = typename decltype(as_view(dout))::value_type;
    auto const read = as_view(out);
    // the problem holds a view that forward writes; backward only reads it
    prefix_problem<E> p{as_view(q), as_view(k), as_view(v), tensor_view<E>(const_cast<E*>(read.data_handle()), read.shape(), read.strides(), read.offsets())};
    [[maybe_unused]] auto const take = [&](auto const& option) {
        if constexpr (detail::is_initial_prefix<std::remove_cvref_t<decltype(option)>>) { p.initial = option.state; }
    };
    (take(options), ...);
    prefix_gradients<E> const d{as_view(dout), as_view(dq), as_view(dk), as_view(dv)};
    detail::check_prefix<A>(p, d);
    auto backend = detail::pick_backend(cpu<serial, A>{}, options...);
    using engine = prefix_softmax_engine<E, A>;
    detail::with_prefix_memory(backend, engine::items(p, true), engine::slot_bytes(p, true),
                               [&](int slots, std::byte* memory) { engine::backward(p, d, detail::prefix_scale<A>(m, p), backend.executor, slots, memory); });
}

} // namespace heed
