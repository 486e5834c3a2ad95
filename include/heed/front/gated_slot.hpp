// SPDX-License-Identifier: BSD-3-Clause
// The doors of gated slot attention: forward, backward and step, each a pass over keys, a softmax of rows and a pass over values.
#pragma once

#include <heed/front/recurrent_backward.hpp>
#include <heed/front/step.hpp>
#include <heed/mechanism/gated_slot.hpp>

namespace heed {

// Options: the state before the first token and after the last (the two may be one memory); where gradients by the slots go.
template <class T>
struct initial_slots {
    slot_state<T const> state;
};
template <class T>
initial_slots(slot_state<T>) -> initial_slots<std::remove_const_t<T>>;
template <class T>
struct final_slots {
    slot_state<T> state;
};
template <class T>
final_slots(slot_state<T>) -> final_slots<T>;
template <class T>
struct slots_gradient {
    tensor_view<T> d;
};
template <class T>
slots_gradient(tensor_view<T>) -> slots_gradient<T>;

namespace detail {

template <class O>
inline constexpr bool is_slot_option = is_backend<O> || is_kind_of<initial_slots, O> || is_kind_of<final_slots, O> || is_kind_of<slots_gradient, O> || is_kind_of<log_decay_gradient, O>;

template <class T, class B>
class gated_slot_call {
    using A = typename B::arch_type;
    using door = detail::door<A>;
    using form = recurrent_form<identity_map, T>;
    gated_slot<T> m_;
    B backend_;
    recurrent_problem<T> p_;
    slot_state<T const> initial_;
    slot_state<T> last_;
    shape rows_; // (B, H, N, M)

    struct memory {
        tensor_view<T> logits, shares, dshares, dslots, ddecay;
        std::byte* rest;
    };
    memory lay(std::byte* at, int arrays, std::size_t& bytes) const {
        arena room(at);
        memory m{};
        tensor_view<T>* const views[] = {&m.logits, &m.shares, &m.dshares, &m.dslots};
        for (int i = 0; i < arrays; ++i) { *views[i] = {room.take<T>(rows_.size()), rows_}; }
        if (arrays > 1) { m.ddecay = {room.take<T>(m_.log_decay.shape().size()), m_.log_decay.shape()}; }
        bytes = room.bytes();
        m.rest = at == nullptr ? nullptr : at + bytes;
        return m;
    }
    form keys_form() const {
        double const d = static_cast<double>(p_.q.extent(3) < 1 ? 1 : p_.q.extent(3));
        return form_of<T>(recurrent{identity_map{}, value_decay<T>{m_.log_decay}, unnormalized{}, causal_bottom_right{}, m_.scale != 0 ? m_.scale : 1 / math::sqrt(d)});
    }
    form values_form() const { return form_of<T>(recurrent{identity_map{}, channel_decay<T>{m_.log_decay}}); }
    recurrent_problem<T> keys_problem(tensor_view<T> const& logits) const { return {p_.q, p_.k, m_.slots, logits, {initial_.k}, {last_.k}}; }
    recurrent_problem<T> values_problem(tensor_view<T> const& shares) const { return {shares, m_.slots, p_.v, p_.out, {initial_.v}, {last_.v}}; }
    template <class G>
    void each_row(G const& g) {
        extent_t const heads = rows_.batch * rows_.head;
        int const most = concurrency_of(backend_.executor);
        for_each_item<A>(backend_.executor, heads < most ? static_cast<int>(heads < 1 ? 1 : heads) : most, heads, [&](extent_t item, int) {
            for (extent_t n = 0; n < p_.q.length(item / rows_.head); ++n) { g(item / rows_.head, item % rows_.head, n); }
        });
    }
public:
    gated_slot_call(gated_slot<T> const& m, recurrent_problem<T> const& p, B const& backend) : m_(m), backend_(backend), p_(p) {
        argument const args[] = {argument::of("q", p.q), argument::of("k", p.k), argument::of("v", p.v), argument::of("out", p.out), argument::of("slots", m.slots)};
        recurrent_rules_of<identity_map, T, A>::check(form_of<T>(recurrent{}), args);
        rows_ = {p.out.extent(0), p.out.extent(1), p.out.extent(2), m.slots.extent(3)};
        door::check_same(args[4], argument{"q", rows_, {}, 1, sizeof(T), {}, false});
        door::check_view("log decay", m.log_decay.shape(), rows_, false);
        for (auto const& x : args) {
            if (x.offsets) { door::refuse(sentence<A>("heed: ", x.name, " is ragged; gated slot attention takes sequences of one length, call once for each")); }
        }
    }
    void states(slot_state<T const> const& initial, slot_state<T> const& last) { initial_ = initial, last_ = last; }

    void forward() {
        std::size_t own;
        lay(nullptr, 1, own);
        recurrent_form_plan<identity_map, T, B> first(keys_form(), p_.q.shape(), p_.k.shape(), m_.slots.shape(), backend_), second(values_form(), rows_, m_.slots.shape(), p_.v.shape(), backend_);
        std::size_t const rest = first.workspace_bytes() > second.workspace_bytes() ? first.workspace_bytes() : second.workspace_bytes();
        std::unique_ptr<std::byte[]> const bytes(new std::byte[line_bytes + own + rest]);
        memory const at = lay(aligned(bytes.get()), 1, own);
        std::span<std::byte> const work(at.rest, rest);
        first.run(p_.q, p_.k, m_.slots, at.logits, work, {initial_.k}, {last_.k});
        softmax(at.logits, at.logits);
        second.run(tensor_view<T const>(at.logits), m_.slots, p_.v, p_.out, work, {initial_.v}, {last_.v});
    }
    void step() {
        std::size_t own;
        lay(nullptr, 1, own);
        using engine = recurrent_step<identity_map, T, A>;
        tensor_view<T> const nowhere(nullptr, rows_);
        std::size_t const rest = slots_of(rows_.batch * rows_.head, engine::slot_bytes(keys_form(), keys_problem(nowhere)), engine::slot_bytes(values_form(), values_problem(nowhere)));
        std::unique_ptr<std::byte[]> const bytes(new std::byte[line_bytes + own + rest]);
        memory const at = lay(aligned(bytes.get()), 1, own);
        step_form_plan<identity_map, T, B> first(keys_form(), keys_problem(at.logits), backend_), second(values_form(), values_problem(at.logits), backend_);
        first.run({at.rest, rest});
        softmax(at.logits, at.logits);
        second.run({at.rest, rest});
    }
    void backward(recurrent_gradients<T> const& d, tensor_view<T> const& dslots) {
        std::size_t own;
        lay(nullptr, 4, own);
        using engine = recurrent_backward<identity_map, T, A>;
        tensor_view<T> const nowhere(nullptr, rows_);
        recurrent_form_plan<identity_map, T, B> again(keys_form(), p_.q.shape(), p_.k.shape(), m_.slots.shape(), backend_);
        std::size_t const back = slots_of(rows_.batch * rows_.head, engine::slot_bytes(keys_form(), keys_problem(nowhere)), engine::slot_bytes(values_form(), values_problem(nowhere)));
        std::size_t const rest = back > again.workspace_bytes() ? back : again.workspace_bytes();
        std::unique_ptr<std::byte[]> const bytes(new std::byte[line_bytes + own + rest]);
        memory const at = lay(aligned(bytes.get()), 4, own);
        std::span<std::byte> const work(at.rest, rest);
        bool const decays = d.log_decay.data_handle() != nullptr;
        again.run(p_.q, p_.k, m_.slots, at.logits, work, {initial_.k});
        softmax(at.logits, at.shares);
        recurrent_form_backward_plan<identity_map, T, B>(values_form(), values_problem(at.shares), {d.dout, at.dshares, at.dslots, d.dv, {}, {}, d.log_decay}, backend_).run(work);
        softmax_back(at.shares, at.dshares);
        recurrent_form_backward_plan<identity_map, T, B>(keys_form(), keys_problem(at.logits), {at.dshares, d.dq, d.dk, dslots, {}, {}, decays ? at.ddecay : tensor_view<T>{}}, backend_).run(work);
        if (dslots.data_handle() != nullptr) { add(at.dslots, dslots); }
        if (decays) { add(at.ddecay, d.log_decay); }
    }

private:
    std::size_t slots_of(extent_t items, std::size_t a, std::size_t b) const {
        int const most = concurrency_of(backend_.executor), slots = items < 1 ? 1 : items < most ? static_cast<int>(items) : most;
        return line_bytes - 1 + static_cast<std::size_t>(slots) * (a > b ? a : b);
    }
    void softmax(tensor_view<T> const& from, tensor_view<T> const& to) {
        each_row([&](extent_t b, extent_t h, extent_t n) { softmax_map{}.map<A>(from.row(b, h, n), rows_.feature, to.row(b, h, n)); });
    }
    // in place: p (d - p.d)
    void softmax_back(tensor_view<T> const& shares, tensor_view<T> const& d) {
        using V = vec<T, A>;
        each_row([&](extent_t b, extent_t h, extent_t n) {
            T const* const p = shares.row(b, h, n);
            T* const y = d.row(b, h, n);
            T const along = dot_rows<A>(p, static_cast<T const*>(y), rows_.feature);
            along_row<V>(
                rows_.feature, [&](extent_t i) HEED_INLINE_LAMBDA { (V::load(p + i) * (V::load(y + i) - V(along))).store(y + i); }, [&](extent_t i) HEED_INLINE_LAMBDA { y[i] = p[i] * (y[i] - along); });
        });
    }
    static void add(tensor_view<T> const& from, tensor_view<T> const& to) {
        for (extent_t b = 0; b < to.extent(0); ++b) {
            for (extent_t h = 0; h < to.extent(1); ++h) {
                for (extent_t n = 0; n < to.extent(2); ++n) {
                    for (extent_t e = 0; e < to.extent(3); ++e) { to(b, h, n, e) += from(b, h, n, e); }
                }
            }
        }
    }
};
template <class T, class O>
HEED_INLINE void take_slot_option(slot_state<T const>& initial, slot_state<T>& last, recurrent_gradients<T>& d, tensor_view<T>& dslots, O const& option) {
    if constexpr (is_kind_of<initial_slots, O>) {
        initial = option.state;
    } else if constexpr (is_kind_of<final_slots, O>) {
        last = option.state;
    } else if constexpr (is_kind_of<slots_gradient, O>) {
        dslots = option.d;
    } else if constexpr (is_kind_of<log_decay_gradient, O>) {
        d.log_decay = option.d;
    }
}

} // namespace detail

// q (B, Hq, N, d), k (B, Hk, N, d), v (B, Hv, N, dv), out (B, H, N, dv), slots (B, H, N, M); elements float or double. Options: a backend, initial_slots{state}, final_slots{state}.
// Throws shape_error before anything is written. Makes one allocation: M numbers a token, and what linear attention takes.
template <class A = native_arch, class T, class Q, class K, class V, class O, class... Options>
void forward(gated_slot<T> const& m, Q const& q, K const& k, V const& v, O&& out, Options const&... options) {
    static_assert((detail::is_slot_option<Options> && ...), "heed: options of gated slot attention are a backend (heed::cpu{...}), heed::initial_slots{state} and heed::final_slots{state}");
    auto const backend = detail::pick_backend(cpu<serial, A>{}, options...);
    detail::gated_slot_call<T, std::remove_const_t<decltype(backend)>> call(m, {as_view(q), as_view(k), as_view(v), as_view(out)}, backend);
    slot_state<T const> initial;
    slot_state<T> last;
    [[maybe_unused]] recurrent_gradients<T> none;
    [[maybe_unused]] tensor_view<T> no_slots;
    (detail::take_slot_option(initial, last, none, no_slots, options), ...);
    call.states(initial, last);
    call.forward();
}

// The next tokens (usually one) of every sequence; the state is brought up to date.
template <class A = native_arch, class T, class Q, class K, class V, class O, class... Options>
void step(gated_slot<T> const& m, Q const& q, K const& k, V const& v, final_slots<T> const& state, O&& out, Options const&... options) {
    static_assert((detail::is_backend<Options> && ...), "heed: the option of a step is a backend, heed::cpu{...}");
    auto const backend = detail::pick_backend(cpu<serial, A>{}, options...);
    detail::gated_slot_call<T, std::remove_const_t<decltype(backend)>> call(m, {as_view(q), as_view(k), as_view(v), as_view(out)}, backend);
    call.states({state.state.k, state.state.v}, state.state);
    call.step();
}

// Gradients by q, k, v and, as options, slots_gradient{ds} and log_decay_gradient{dg}; initial_slots as in forward. out is what forward wrote. Everything is written, nothing accumulated.
// Makes one allocation: four arrays of M numbers a token, and what the backward of linear attention takes.
template <class A = native_arch, class T, class Q, class K, class V, class O, class DO, class DQ, class DK, class DV, class... Options>
void backward(gated_slot<T> const& m, Q const& q, K const& k, V const& v, O const& out, nothing_saved, DO const& dout, DQ&& dq, DK&& dk, DV&& dv, Options const&... options) {
    static_assert((detail::is_slot_option<Options> && ...), "heed: options of the backward of gated slot attention are a backend (heed::cpu{...}), heed::initial_slots{state}, heed::slots_gradient{ds} and "
                                                            "heed::log_decay_gradient{dg}");
    auto const backend = detail::pick_backend(cpu<serial, A>{}, options...);
    auto const read = as_view(out);
    // the problem holds a view that forward writes; backward only reads it
    tensor_view<T> const out_view(const_cast<T*>(read.data_handle()), read.shape(), read.strides(), read.offsets());
    detail::gated_slot_call<T, std::remove_const_t<decltype(backend)>> call(m, {as_view(q), as_view(k), as_view(v), out_view}, backend);
    slot_state<T const> initial;
    slot_state<T> last;
    recurrent_gradients<T> d{as_view(dout), as_view(dq), as_view(dk), as_view(dv)};
    tensor_view<T> dslots;
    (detail::take_slot_option(initial, last, d, dslots, options), ...);
    call.states(initial, last);
    call.backward(d, dslots);
}

} // namespace heed
