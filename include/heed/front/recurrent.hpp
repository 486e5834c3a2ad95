// SPDX-License-Identifier: BSD-3-Clause
// The door of the recurrent family: forward(recurrent{...}, q, k, v, out, options...), and what a call will do before it does it.
#pragma once

#include <heed/engine/backend.hpp>
#include <heed/engine/cpu/recurrent_forward.hpp>
#include <heed/front/check.hpp>
#include <heed/front/options.hpp>
#include <heed/view/adapt.hpp>

#include <memory>
#include <span>
#include <string>

namespace heed {

// Options: the state before the first token and after the last, S (B, H, d, dv) and for running sums z (B, H, d, 1), in the type of computation. The two may be
// the same memory: a sequence cut into pieces, each starting from where the last one ended, gives what the whole gives.
template <class T>
struct initial_state {
    tensor_view<T const> s, z = {};
};
template <class T>
initial_state(tensor_view<T>) -> initial_state<std::remove_const_t<T>>;
template <class T, class U>
initial_state(tensor_view<T>, tensor_view<U>) -> initial_state<std::remove_const_t<T>>;
template <class T>
struct final_state {
    tensor_view<T> s, z = {};
};
template <class T>
final_state(tensor_view<T>) -> final_state<T>;
template <class T>
final_state(tensor_view<T>, tensor_view<T>) -> final_state<T>;

namespace detail {

template <class O>
inline constexpr bool is_initial_state = false;
template <class T>
inline constexpr bool is_initial_state<initial_state<T>> = true;
template <class O>
inline constexpr bool is_final_state = false;
template <class T>
inline constexpr bool is_final_state<final_state<T>> = true;
template <class O>
inline constexpr bool is_recurrent_option = is_backend<O> || is_initial_state<O> || is_final_state<O>;

// Arguments of the family, in this order.
enum recurrent_argument { rec_q, rec_k, rec_v, rec_out, rec_s0, rec_z0, rec_s, rec_z, rec_dout, rec_dq, rec_dk, rec_dv, rec_ds0, rec_dz0, rec_ds, rec_dz, rec_dlog, rec_dbeta, rec_dfactor, recurrent_arguments };
inline constexpr axis_rule recurrent_rules[] = {
    {rec_k, axis::batch, rule_kind::equal, rec_q, axis::batch},     {rec_v, axis::batch, rule_kind::equal, rec_q, axis::batch},
    {rec_out, axis::batch, rule_kind::equal, rec_q, axis::batch},   {rec_k, axis::feature, rule_kind::equal, rec_q, axis::feature},
    {rec_v, axis::seq, rule_kind::equal, rec_k, axis::seq},         {rec_out, axis::seq, rule_kind::equal, rec_q, axis::seq},
    {rec_out, axis::feature, rule_kind::equal, rec_v, axis::feature}, {rec_out, axis::head, rule_kind::multiple, rec_q, axis::head},
    {rec_out, axis::head, rule_kind::multiple, rec_k, axis::head},  {rec_out, axis::head, rule_kind::multiple, rec_v, axis::head},
};
inline constexpr axis_rule along_rules[] = {{rec_k, axis::seq, rule_kind::equal, rec_q, axis::seq}};

// The rules of a call of the family, once for every verb and all updates of a feature map.
template <class F, class E, class A>
struct recurrent_rules_of {
    using T = compute_t<E>;
    using form = recurrent_form<F, T>;
    using door = detail::door<A>;

    static void check(form const& m, argument const* args) {
        door::check_axes(args, 4, recurrent_rules);
        if (m.causal) { door::check_axes(args, 4, along_rules, 1); }
        shape const q = args[rec_q].extents, out = args[rec_out].extents;
        if (m.decays != decay_kind::none) { door::check_view("log decay", m.log_decay.shape(), shape{out.batch, out.head, q.seq, m.decays == decay_kind::head ? 1 : m.decays == decay_kind::value ? out.feature : m.width(q.feature)}, false); }
        if (m.has_factor()) { door::check_view("the factor of rows", m.factor.shape(), shape{out.batch, out.head, q.seq, 1}, false); }
        if (m.weighs) { door::check_view("beta", m.beta.shape(), shape{out.batch, out.head, args[rec_k].extents.seq, out.feature}, false); }
        if (m.corrects) { door::check_view("beta", m.beta.shape(), shape{out.batch, out.head, q.seq, out.feature}, false); }
        if (m.lengths.data_handle() == nullptr) { return; }
        door::check_view("key lengths", m.lengths.shape(), shape{q.batch, 1, 1, 1}, false);
        for (extent_t b = 0; b < m.lengths.extent(0); ++b) {
            extent_t const n = m.lengths(b, 0, 0, 0);
            if (n < 0) { door::refuse(sentence<A>("heed: key lengths hold ", n, " at position ", b, "; a length must not be negative")); }
        }
    }
    static void check_offsets(form const& m, argument const* args) {
        door::check_offsets(args[rec_q], args[rec_out]);
        door::check_offsets(args[rec_k], args[rec_v]);
        if (m.causal) { door::check_offsets(args[rec_q], args[rec_k]); }
    }
    // Those that are given, and what is written among them.
    static void check_written(form const& m, argument const* args, int count) {
        door::check_outputs(args, count);
        for (int i = 0; i < count; ++i) {
            if (!args[i].written) { continue; }
            door::check_apart(args[i], argument::of("log decay", m.log_decay));
            door::check_apart(args[i], argument::of("beta", m.beta));
            door::check_apart(args[i], argument::of("the factor of rows", m.factor));
        }
    }
    // A state's argument against its shape, where it is given.
    static void check_state(form const& m, argument const& s, argument const& z, shape out, extent_t width) {
        state_shape(s, {out.batch, out.head, width, out.feature});
        if (m.over_positions && s.address != 0 && s.name[0] == 'i') { door::refuse("heed: an initial state is given and keys go through a softmax over all positions; there is no sum to go on from"); }
        if (z.address != 0 && !m.normalized) {
            door::refuse(sentence<A>("heed: ", z.name, " is given and this mechanism keeps no running sum; only running_sum has a z"));
        }
        state_shape(z, {out.batch, out.head, width, 1});
    }
private:
    static void state_shape(argument const& s, shape want) {
        if (s.address == 0) { return; }
        argument const as = {"the state", want, {}, 1, sizeof(T), {}, false};
        door::check_same(s, as);
    }
};

template <class T>
HEED_HD constexpr state_view<T const> initial_of() {
    return {};
}
template <class T, class First, class... Rest>
HEED_HD constexpr state_view<T const> initial_of(First const& first, Rest const&... rest) {
    if constexpr (is_initial_state<First>) {
        return {first.s, first.z};
    } else {
        return initial_of<T>(rest...);
    }
}
template <class T>
HEED_HD constexpr state_view<T> last_of() {
    return {};
}
template <class T, class First, class... Rest>
HEED_HD constexpr state_view<T> last_of(First const& first, Rest const&... rest) {
    if constexpr (is_final_state<First>) {
        return {first.s, first.z};
    } else {
        return last_of<T>(rest...);
    }
}

} // namespace detail

// One for all mechanisms of a feature map F: recurrent_plan<M, E, B> names it by the mechanism.
template <class F, class E, class B>
class recurrent_form_plan {
    static_assert(detail::is_cpu<B>, "heed: recurrent mechanisms run on the cpu backend, heed::cpu{...}");
    using A = typename B::arch_type;
    using T = compute_t<E>;
    using form = recurrent_form<F, T>;
    using engine_type = recurrent_forward<F, E, A>;
    using rules = detail::recurrent_rules_of<F, E, A>;
    using door = detail::door<A>;
    form form_;
    shape q_, k_, v_, out_;
    B backend_;

public:
    recurrent_form_plan(form const& m, shape q, shape k, shape v, B const& backend) : form_(m), q_(q), k_(k), v_(v), backend_(backend) {
        extent_t const most = q.head > k.head ? q.head : k.head;
        out_ = {q.batch, v.head > most ? v.head : most, q.seq, v.feature};
        detail::argument const args[] = {{"q", q, {}, 1, sizeof(E), {}, false}, {"k", k, {}, 1, sizeof(E), {}, false}, {"v", v, {}, 1, sizeof(E), {}, false}, {"out", out_, {}, 1, sizeof(E), {}, false}};
        rules::check(form_, args);
    }
    template <Recurrent M>
    recurrent_form_plan(M const& mechanism, shape q, shape k, shape v, B const& backend) : recurrent_form_plan(form_of<T>(mechanism), q, k, v, backend) {}

    std::string_view engine() const { return engine_type::name(form_.causal); }
    static constexpr extent_t chunk() { return engine_type::tokens; }
    int slots() const {
        extent_t const items = division().items;
        int const most = detail::concurrency_of(backend_.executor);
        return items < 1 ? 1 : items < most ? static_cast<int>(items) : most;
    }
    std::size_t workspace_bytes() const { return line_bytes - 1 + static_cast<std::size_t>(slots()) * engine_type::slot_bytes(form_, q_.feature, division()); }

    // Runs in the caller's memory (at least workspace_bytes(), any alignment). Shapes must be those of the plan.
    template <class Q, class K, class V, class O>
    void run(Q const& q, K const& k, V const& v, O const& out, std::span<std::byte> workspace, state_view<T const> const& initial = {}, state_view<T> const& last = {}) {
        recurrent_problem<E> const p{as_view(q), as_view(k), as_view(v), as_view(out), initial, last};
        check(p, workspace.size());
        if (out_.batch * out_.head == 0) { return; }
        engine_type::run(form_, p, backend_.executor, division(), slots(), workspace.data());
    }
    std::string describe() const {
        return sentence<A>(engine(), " on ", arch_name<A>(), ", chunks of ", chunk(), " tokens, ", slots(), slots() == 1 ? " slot, " : " slots, ", workspace_bytes(), " workspace bytes");
    }
    template <class Stream>
    friend Stream& operator<<(Stream& s, recurrent_form_plan const& p) {
        s << p.describe();
        return s;
    }

private:
    auto division() const { return engine_type::divide(form_, out_, detail::concurrency_of(backend_.executor)); }
    void check(recurrent_problem<E> const& p, std::size_t workspace) const {
        using detail::argument;
        argument const args[] = {argument::of("q", p.q),
                                 argument::of("k", p.k),
                                 argument::of("v", p.v),
                                 argument::of("out", p.out),
                                 argument::of("initial state", p.initial.s),
                                 argument::of("initial z", p.initial.z),
                                 argument::of("final state", p.last.s),
                                 argument::of("final z", p.last.z)};
        rules::check(form_, args);
        rules::check_offsets(form_, args);
        if (!(p.q.shape() == q_) || !(p.k.shape() == k_) || !(p.v.shape() == v_) || !(p.out.shape() == out_)) {
            door::refuse("heed: the plan was made for other shapes of q, k, v or out; make a new plan");
        }
        rules::check_state(form_, args[detail::rec_s0], args[detail::rec_z0], out_, form_.width(q_.feature));
        rules::check_state(form_, args[detail::rec_s], args[detail::rec_z], out_, form_.width(q_.feature));
        // a state is read before it is written: in and out may be one memory, and are then not compared
        bool const in_place = p.last.s.data_handle() == p.initial.s.data_handle() && p.last.z.data_handle() == p.initial.z.data_handle() && p.last.s.strides() == p.initial.s.strides() &&
                              p.last.z.strides() == p.initial.z.strides();
        argument given[8];
        int count = 0;
        for (int i = 0; i < 8; ++i) {
            if (args[i].address != 0 && !(in_place && (i == detail::rec_s0 || i == detail::rec_z0))) { given[count++] = args[i]; }
        }
        rules::check_written(form_, given, count);
        if (workspace < workspace_bytes()) {
            door::refuse(sentence<A>("heed: the workspace has ", workspace, " bytes and the plan needs ", workspace_bytes(), "; see plan.workspace_bytes()"));
        }
    }
};

template <Recurrent M, class E, class B>
using recurrent_plan = recurrent_form_plan<decltype(M::feature), E, B>;

// plan<float>(recurrent{...}, q.shape(), k.shape(), v.shape(), backend)
template <class E = float, class A = native_arch, class M, class B = cpu<serial, A>>
    requires Recurrent<M>
recurrent_plan<M, E, B> plan(M const& mechanism, shape q, shape k, shape v, B const& backend = {}) {
    return {mechanism, q, k, v, backend};
}

// out_t = what the state answers to q_t. q (B, Hq, N, d), k (B, Hk, M, d), v (B, Hv, M, dv), out (B, H, N, dv), H the largest of Hq, Hk, Hv and a multiple of each;
// N = M for causal orders. Elements float, double, bf16 or fp16; decays, beta and states are of the type of computation. Options in any order: a backend,
// initial_state{s, z}, final_state{s, z}. Throws shape_error before anything is written. Makes one allocation of plan.workspace_bytes() and frees it.
template <class A = native_arch, class M, class Q, class K, class V, class O, class... Options>
    requires Recurrent<M>
void forward(M const& mechanism, Q const& q, K const& k, V const& v, O&& out, Options const&... options) {
    static_assert((detail::is_recurrent_option<Options> && ...), "heed: options of a recurrent forward are a backend (heed::cpu{...}), heed::initial_state{s, z} and heed::final_state{s, z}");
    auto const out_view = as_view(out);
    using E = typename decltype(out_view)::element_type;
    static_assert(!std::is_const_v<E>, "heed: out is written; it must not be a view of const");
    static_assert(std::is_same_v<E, typename decltype(as_view(q))::value_type> && std::is_same_v<E, typename decltype(as_view(k))::value_type> && std::is_same_v<E, typename decltype(as_view(v))::value_type>,
                  "heed: q, k, v and out must have the same element type");
    auto const backend = detail::pick_backend(cpu<serial, A>{}, options...);
    auto p = plan<E, A>(mechanism, as_view(q).shape(), as_view(k).shape(), as_view(v).shape(), backend);
    std::size_t const bytes = p.workspace_bytes();
    std::unique_ptr<std::byte[]> const memory(new std::byte[bytes]);
    using T = compute_t<E>;
    p.run(q, k, v, out_view, std::span<std::byte>(memory.get(), bytes), detail::initial_of<T>(options...), detail::last_of<T>(options...));
}

} // namespace heed
