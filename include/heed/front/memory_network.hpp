// SPDX-License-Identifier: BSD-3-Clause
// The doors of memories that are networks: forward(titans_network(...), q, k, v, out, options...), also of ttt_linear and titans_normalised, and their backward.
#pragma once

#include <heed/engine/cpu/memory_network.hpp>
#include <heed/front/gradient_memory.hpp>
#include <heed/mechanism/memory_network.hpp>

namespace heed {

// Options: the weights before the first token and after the last (the two may be one memory); backward: where gradients by the mechanism's data and the first weights go, and the loss's own derivative by
// the last weights.
template <class T>
struct initial_network {
    network_state<T const> state;
};
template <class T>
initial_network(network_state<T>) -> initial_network<std::remove_const_t<T>>;
template <class T>
struct final_network {
    network_state<T> state;
};
template <class T>
final_network(network_state<T>) -> final_network<T>;
template <class T>
struct network_gradient {
    tensor_view<T> theta = {}, alpha = {}, eta = {}, weight = {}, bias = {};
    network_state<T> initial = {};
};
template <class T>
struct final_network_gradient {
    network_state<T const> state;
};

namespace detail {

template <class A, class E, class M>
void check_network(M const& m, network_problem<E> const& p, network_gradients<E> const& d) {
    using door = detail::door<A>;
    using T = compute_t<E>;
    constexpr bool deep = decltype(m.network)::deep, normalises = decltype(m.goal)::normalises;
    constexpr int states = 5, count = 13 + 4 * states, last = 13, first_gradient = last + states, start = first_gradient + states;
    argument const all[count] = {
        argument::of("q", p.q), argument::of("k", p.k), argument::of("v", p.v), argument::of("out", p.out), argument::of("dout", d.dout), argument::of("dq", d.dq), argument::of("dk", d.dk), argument::of("dv", d.dv),
        argument::of("gradient of theta", d.dtheta), argument::of("gradient of alpha", d.dalpha), argument::of("gradient of eta", d.deta), argument::of("gradient of weight", d.dweight), argument::of("gradient of bias", d.dbias),
        argument::of("final first.m", p.last.first.m), argument::of("final first.s", p.last.first.s), argument::of("final second.m", p.last.second.m), argument::of("final second.s", p.last.second.s), argument::of("final bias", p.last.bias),
        argument::of("gradient of the initial first.m", d.initial.first.m), argument::of("gradient of the initial first.s", d.initial.first.s), argument::of("gradient of the initial second.m", d.initial.second.m),
        argument::of("gradient of the initial second.s", d.initial.second.s), argument::of("gradient of the initial bias", d.initial.bias),
        argument::of("initial first.m", p.initial.first.m), argument::of("initial first.s", p.initial.first.s), argument::of("initial second.m", p.initial.second.m), argument::of("initial second.s", p.initial.second.s),
        argument::of("initial bias", p.initial.bias),
        argument::of("gradient of the final first.m", d.last.first.m), argument::of("gradient of the final first.s", d.last.first.s), argument::of("gradient of the final second.m", d.last.second.m),
        argument::of("gradient of the final second.s", d.last.second.s), argument::of("gradient of the final bias", d.last.bias)};
    door::check_axes(all, 4, memory_rules);
    for (int i = 1; i < 4; ++i) { door::check_offsets(all[i], all[0]); }
    if (m.chunk < 1) { door::refuse(sentence<A>("heed: a memory that is a network has chunks of ", m.chunk, " tokens; it must be positive")); }
    extent_t const B = p.q.extent(0), H = p.q.extent(1), width = p.q.extent(3), dv = p.v.extent(3);
    extent_t inner = dv;
    if constexpr (deep) {
        inner = m.network.hidden;
        if (inner < 1) { door::refuse(sentence<A>("heed: a network of two layers has a hidden width of ", inner, "; it must be positive")); }
    }
    if (normalises && width != dv) { door::refuse(sentence<A>("heed: v has ", dv, " features and k has ", width, "; a memory trained on v - k needs as many")); }
    // data that broadcasts, and what is gradient of it
    shape const numbers{B, H, p.q.extent(2), 1}, features{B, H, 1, dv};
    argument data[5];
    int n_data = 0;
    auto const take = [&](char const* name, tensor_view<T const> const& x, shape const& want, int gradient) {
        door::check_view(name, x.shape(), want, want.feature != 1);
        if (all[gradient].address != 0) { door::check_same(all[gradient], argument::of(name, x)); }
        data[n_data++] = argument::of(name, x);
    };
    auto const refuse_given = [&](int i) {
        if (all[i].address != 0) { door::refuse(sentence<A>("heed: ", all[i].name, " is given, and this memory has none")); }
    };
    take("theta", m.theta, numbers, 8);
    if (!m.steps_of_reader()) {
        take("alpha", m.alpha, numbers, 9), take("eta", m.eta, numbers, 10);
    } else {
        refuse_given(9), refuse_given(10);
    }
    if constexpr (normalises) {
        take("weight", m.goal.weight, features, 11), take("bias", m.goal.bias, features, 12);
    } else {
        refuse_given(11), refuse_given(12);
    }
    constexpr int like[] = {3, 0, 1, 2};
    for (int i = 0; i < 4; ++i) {
        if (all[4 + i].address != 0) { door::check_same(all[4 + i], all[like[i]]), door::check_offsets(all[4 + i], all[like[i]]); }
    }
    for (int i = last; i < count; ++i) {
        int const of = (i - last) % states;
        if (all[i].address == 0) { continue; }
        if ((of == 2 || of == 3) && !deep) { refuse_given(i); }
        if (of == 4 && !m.network.bias) { refuse_given(i); }
        if ((of == 1 || of == 3) && m.steps_of_reader()) { refuse_given(i); }
        argument const like_this{"the state", {B, H, of < 2 ? width : of < 4 ? inner : 1, of < 2 ? inner : dv}, {}, 1, sizeof(T), {}, false};
        door::check_same(all[i], like_this);
    }
    argument given[count];
    int n = 0;
    for (int i = 0; i < count; ++i) {
        int const to = i - start + last; // weights that go on in place
        if (all[i].address == 0 || (i >= start && i < start + states && all[to].address == all[i].address && all[to].steps == all[i].steps)) { continue; }
        given[n] = all[i];
        given[n++].written = (i == 3 && d.dout.data_handle() == nullptr) || (i >= 5 && i < start);
    }
    door::check_outputs(given, n);
    for (int i = 0; i < n; ++i) {
        for (int j = 0; given[i].written && j < n_data; ++j) { door::check_apart(given[i], data[j]); }
    }
}
template <class M>
M scaled_network(M m, extent_t d) {
    if (m.scale == 0) { m.scale = d == 0 ? 1 : 1 / std::sqrt(static_cast<double>(d)); }
    return m;
}

} // namespace detail

// q, k (B, H, N, d), v, out (B, H, N, dv); elements float, double, bf16 or fp16, weights and data in the type of computation. Options: a backend, initial_network{state}, final_network{state}: a call with one
// token and both in one memory is a step of chunks of 1. Throws shape_error before out is written. Makes one allocation whose size does not depend on N.
template <class A = native_arch, class T, class Network, class Goal, class Q, class K, class V, class O, class... Options>
void forward(memory_network<T, Network, Goal> const& mechanism, Q const& q, K const& k, V const& v, O&& out, Options const&... options) {
    static_assert(((detail::is_backend<Options> || detail::is_memory_option<initial_network, Options> || detail::is_memory_option<final_network, Options>)&&...),
                  "heed: options of forward with a memory network are a backend (heed::cpu{...}), heed::initial_network{state} and heed::final_network{state}");
    auto const out_view = as_view(out);
    using E = typename decltype(out_view)::element_type;
    network_problem<E> p{as_view(q), as_view(k), as_view(v), out_view};
    [[maybe_unused]] auto const take = [&](auto const& option) {
        using option_type = std::remove_cvref_t<decltype(option)>;
        if constexpr (detail::is_memory_option<initial_network, option_type>) { p.initial = option.state; }
        if constexpr (detail::is_memory_option<final_network, option_type>) { p.last = option.state; }
    };
    (take(options), ...);
    auto const m = detail::scaled_network(mechanism, p.q.extent(3));
    detail::check_network<A, E>(m, p, {});
    auto backend = detail::pick_backend(cpu<serial, A>{}, options...);
    using engine = memory_network_engine<E, A, Network, Goal>;
    detail::with_slots(backend, engine::items(p, {}), engine::slot_bytes(m, p, false), [&](int slots, std::byte* memory) { engine::forward(m, p, backend.executor, slots, memory); });
}

// Gradients of a loss by q, k, v from its derivative dout by out; options network_gradient{theta, alpha, eta, weight, bias, initial}, initial_network as in forward, final_network_gradient{state}.
// tensor_view<T>{} is not computed. Everything is written, nothing accumulated. Makes one allocation: the weights and momenta before each chunk, of the longest sequence and a thread.
template <class A = native_arch, class T, class Network, class Goal, class Q, class K, class V, class O, class DO, class DQ, class DK, class DV, class... Options>
void backward(memory_network<T, Network, Goal> const& mechanism, Q const& q, K const& k, V const& v, O const& out, nothing_saved, DO const& dout, DQ&& dq, DK&& dk, DV&& dv, Options const&... options) {
    static_assert(((detail::is_backend<Options> || detail::is_memory_option<initial_network, Options> || detail::is_memory_option<network_gradient, Options> ||
                    detail::is_memory_option<final_network_gradient, Options>)&&...),
                  "heed: options of backward with a memory network are a backend (heed::cpu{...}), heed::initial_network, heed::network_gradient and heed::final_network_gradient");
    using E = typename decltype(as_view(dout))::value_type;
    auto const read = as_view(out);
    // the problem holds a view that forward writes; backward only reads its shape
    network_problem<E> p{as_view(q), as_view(k), as_view(v), tensor_view<E>(const_cast<E*>(read.data_handle()), read.shape(), read.strides(), read.offsets())};
    network_gradients<E> d{as_view(dout), as_view(dq), as_view(dk), as_view(dv), {}, {}, {}, {}, {}};
    [[maybe_unused]] auto const take = [&](auto const& option) {
        using option_type = std::remove_cvref_t<decltype(option)>;
        if constexpr (detail::is_memory_option<initial_network, option_type>) { p.initial = option.state; }
        if constexpr (detail::is_memory_option<network_gradient, option_type>) {
            d.dtheta = option.theta, d.dalpha = option.alpha, d.deta = option.eta, d.dweight = option.weight, d.dbias = option.bias, d.initial = option.initial;
        }
        if constexpr (detail::is_memory_option<final_network_gradient, option_type>) { d.last = option.state; }
    };
    (take(options), ...);
    auto const m = detail::scaled_network(mechanism, p.q.extent(3));
    detail::check_network<A, E>(m, p, d);
    auto backend = detail::pick_backend(cpu<serial, A>{}, options...);
    using engine = memory_network_engine<E, A, Network, Goal>;
    detail::with_slots(backend, engine::items(p, d), engine::slot_bytes(m, p, true), [&](int slots, std::byte* memory) { engine::backward(m, p, d, backend.executor, slots, memory); });
}

} // namespace heed
