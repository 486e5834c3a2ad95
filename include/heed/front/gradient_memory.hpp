// SPDX-License-Identifier: BSD-3-Clause
// The doors of memory that learns by gradient steps: forward(titans_memory(theta, alpha, eta), q, k, v, out, options...) and its backward.
#pragma once

#include <heed/engine/backend.hpp>
#include <heed/engine/cpu/gradient_memory.hpp>
#include <heed/front/check.hpp>
#include <heed/front/options.hpp>
#include <heed/mechanism/gradient_memory.hpp>
#include <heed/view/adapt.hpp>

#include <memory>

namespace heed {

// Options: the state before the first token and after the last (the two may be one memory); backward: where gradients by theta, alpha, eta and the initial state go, and the loss's own derivative by
// the final state.
template <class T>
struct initial_memory {
    memory_state<T const> state;
};
template <class T>
initial_memory(memory_state<T>) -> initial_memory<std::remove_const_t<T>>;
template <class T>
struct final_memory {
    memory_state<T> state;
};
template <class T>
final_memory(memory_state<T>) -> final_memory<T>;
template <class T>
struct memory_gradient {
    tensor_view<T> theta = {}, alpha = {}, eta = {};
    memory_state<T> initial = {};
};
template <class T>
struct final_memory_gradient {
    memory_state<T const> state;
};

namespace detail {

template <template <class> class Kind, class O>
inline constexpr bool is_memory_option = false;
template <template <class> class Kind, class T>
inline constexpr bool is_memory_option<Kind, Kind<T>> = true;

inline constexpr axis_rule memory_rules[] = {
    {1, axis::batch, rule_kind::equal, 0, axis::batch}, {1, axis::head, rule_kind::equal, 0, axis::head},  {1, axis::seq, rule_kind::equal, 0, axis::seq}, {1, axis::feature, rule_kind::equal, 0, axis::feature},
    {2, axis::batch, rule_kind::equal, 0, axis::batch}, {2, axis::head, rule_kind::equal, 0, axis::head},  {2, axis::seq, rule_kind::equal, 0, axis::seq}, {3, axis::batch, rule_kind::equal, 0, axis::batch},
    {3, axis::head, rule_kind::equal, 0, axis::head},   {3, axis::seq, rule_kind::equal, 0, axis::seq},    {3, axis::feature, rule_kind::equal, 2, axis::feature},
};
template <class A, class E>
void check_memory(gradient_memory<compute_t<E>> const& m, memory_problem<E> const& p, memory_gradients<E> const& d) {
    using door = detail::door<A>;
    argument const all[] = {argument::of("q", p.q),   argument::of("k", p.k),   argument::of("v", p.v),   argument::of("out", p.out), argument::of("dout", d.dout),
                            argument::of("dq", d.dq), argument::of("dk", d.dk), argument::of("dv", d.dv), argument::of("gradient of theta", d.dtheta), argument::of("gradient of alpha", d.dalpha),
                            argument::of("gradient of eta", d.deta), argument::of("final m", p.last.m), argument::of("final s", p.last.s), argument::of("gradient of the initial m", d.initial.m),
                            argument::of("gradient of the initial s", d.initial.s), argument::of("initial m", p.initial.m), argument::of("initial s", p.initial.s),
                            argument::of("gradient of the final m", d.last.m), argument::of("gradient of the final s", d.last.s)};
    constexpr int count = 19;
    door::check_axes(all, 4, memory_rules);
    for (int i = 1; i < 4; ++i) { door::check_offsets(all[i], all[0]); }
    if (m.chunk < 0) { door::refuse(sentence<A>("heed: a memory has chunks of ", m.chunk, " tokens; 0 is the sequential rule, otherwise it must be positive")); }
    shape const numbers{p.q.extent(0), p.q.extent(1), p.q.extent(2), 1};
    tensor_view<compute_t<E> const> const views[] = {m.theta, m.alpha, m.eta};
    constexpr char const* names[] = {"theta", "alpha", "eta"};
    for (int i = 0; i < 3; ++i) {
        door::check_view(names[i], views[i].shape(), numbers, false);
        if (all[8 + i].address != 0) { door::check_same(all[8 + i], argument::of(names[i], views[i])); }
    }
    constexpr int like[] = {3, 0, 1, 2};
    for (int i = 0; i < 4; ++i) {
        if (all[4 + i].address != 0) { door::check_same(all[4 + i], all[like[i]]), door::check_offsets(all[4 + i], all[like[i]]); }
    }
    argument const state{"the state", {p.q.extent(0), p.q.extent(1), p.q.extent(3), p.v.extent(3)}, {}, 1, sizeof(compute_t<E>), {}, false};
    for (int i = 11; i < count; ++i) {
        if (all[i].address != 0) { door::check_same(all[i], state); }
    }
    auto const same = [](auto const& x, auto const& y) { return x.data_handle() == y.data_handle() && x.strides() == y.strides(); };
    bool const in_place = same(p.last.m, p.initial.m) && same(p.last.s, p.initial.s);
    argument given[count];
    int n = 0;
    for (int i = 0; i < count; ++i) {
        if (all[i].address == 0 || (in_place && (i == 15 || i == 16))) { continue; }
        given[n] = all[i];
        given[n++].written = (i == 3 && d.dout.data_handle() == nullptr) || (i >= 5 && i < 15);
    }
    door::check_outputs(given, n);
    for (int i = 0; i < n; ++i) {
        for (int j = 0; given[i].written && j < 3; ++j) { door::check_apart(given[i], argument::of(names[j], views[j])); }
    }
}
template <class B, class F>
void with_slots(B& backend, extent_t items, std::size_t bytes, F const& f) {
    int const most = concurrency_of(backend.executor), slots = items < 1 ? 1 : items < most ? static_cast<int>(items) : most;
    std::unique_ptr<std::byte[]> const memory(new std::byte[line_bytes - 1 + static_cast<std::size_t>(slots) * bytes]);
    f(slots, memory.get());
}

} // namespace detail

// q, k (B, H, N, d), v, out (B, H, N, dv); elements float, double, bf16 or fp16, states and theta, alpha, eta in the type of computation. Options: a backend, initial_memory{state},
// final_memory{state}: a call with one token and both in one memory is a step. Throws shape_error before out is written. Makes one allocation whose size does not depend on N.
template <class A = native_arch, class T, class Q, class K, class V, class O, class... Options>
void forward(gradient_memory<T> const& m, Q const& q, K const& k, V const& v, O&& out, Options const&... options) {
    static_assert(((detail::is_backend<Options> || detail::is_memory_option<initial_memory, Options> || detail::is_memory_option<final_memory, Options>)&&...),
                  "heed: options of forward with a memory are a backend (heed::cpu{...}), heed::initial_memory{state} and heed::final_memory{state}");
    auto const out_view = as_view(out);
    using E = typename decltype(out_view)::element_type;
    memory_problem<E> p{as_view(q), as_view(k), as_view(v), out_view};
    [[maybe_unused]] auto const take = [&](auto const& option) {
        using option_type = std::remove_cvref_t<decltype(option)>;
        if constexpr (detail::is_memory_option<initial_memory, option_type>) { p.initial = option.state; }
        if constexpr (detail::is_memory_option<final_memory, option_type>) { p.last = option.state; }
    };
    (take(options), ...);
    detail::check_memory<A, E>(m, p, {});
    auto backend = detail::pick_backend(cpu<serial, A>{}, options...);
    using engine = gradient_memory_engine<E, A>;
    detail::with_slots(backend, engine::items(p, {}), engine::slot_bytes(m, p, false), [&](int slots, std::byte* memory) { engine::forward(m, p, backend.executor, slots, memory); });
}

// Gradients of a loss by q, k, v from its derivative dout by out; options memory_gradient{theta, alpha, eta, initial}, initial_memory as in forward, final_memory_gradient{state}. tensor_view<T>{} is not
// computed. Everything is written, nothing accumulated. Makes one allocation: M and S before each chunk, a row of values a token, of the longest sequence and a thread.
template <class A = native_arch, class T, class Q, class K, class V, class O, class DO, class DQ, class DK, class DV, class... Options>
void backward(gradient_memory<T> const& m, Q const& q, K const& k, V const& v, O const& out, nothing_saved, DO const& dout, DQ&& dq, DK&& dk, DV&& dv, Options const&... options) {
    static_assert(((detail::is_backend<Options> || detail::is_memory_option<initial_memory, Options> || detail::is_memory_option<memory_gradient, Options> ||
                    detail::is_memory_option<final_memory_gradient, Options>)&&...),
                  "heed: options of backward with a memory are a backend (heed::cpu{...}), heed::initial_memory, heed::memory_gradient and heed::final_memory_gradient");
    using E = typename decltype(as_view(dout))::value_type;
    auto const read = as_view(out);
    // the problem holds a view that forward writes; backward only reads its shape
    memory_problem<E> p{as_view(q), as_view(k), as_view(v), tensor_view<E>(const_cast<E*>(read.data_handle()), read.shape(), read.strides(), read.offsets())};
    memory_gradients<E> d{as_view(dout), as_view(dq), as_view(dk), as_view(dv), {}, {}, {}};
    [[maybe_unused]] auto const take = [&](auto const& option) {
        using option_type = std::remove_cvref_t<decltype(option)>;
        if constexpr (detail::is_memory_option<initial_memory, option_type>) { p.initial = option.state; }
        if constexpr (detail::is_memory_option<memory_gradient, option_type>) { d.dtheta = option.theta, d.dalpha = option.alpha, d.deta = option.eta, d.initial = option.initial; }
        if constexpr (detail::is_memory_option<final_memory_gradient, option_type>) { d.last = option.state; }
    };
    (take(options), ...);
    detail::check_memory<A, E>(m, p, d);
    auto backend = detail::pick_backend(cpu<serial, A>{}, options...);
    using engine = gradient_memory_engine<E, A>;
    detail::with_slots(backend, engine::items(p, d), engine::slot_bytes(m, p, true), [&](int slots, std::byte* memory) { engine::backward(m, p, d, backend.executor, slots, memory); });
}

} // namespace heed
