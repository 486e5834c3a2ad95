// SPDX-License-Identifier: BSD-3-Clause
// The gradients of the recurrent family: backward(recurrent{...}, q, k, v, out, nothing_saved{}, dout, dq, dk, dv, options...).
#pragma once

#include <heed/engine/cpu/recurrent_backward.hpp>
#include <heed/front/recurrent.hpp>

namespace heed {

// Options of backward: where gradients by the initial state go, and the loss's own derivative by the final state, where it has one.
template <class T>
struct initial_state_gradient {
    tensor_view<T> s, z = {};
};
template <class T>
initial_state_gradient(tensor_view<T>) -> initial_state_gradient<T>;
template <class T>
initial_state_gradient(tensor_view<T>, tensor_view<T>) -> initial_state_gradient<T>;
template <class T>
struct final_state_gradient {
    tensor_view<T const> s, z = {};
};
template <class T>
final_state_gradient(tensor_view<T>) -> final_state_gradient<std::remove_const_t<T>>;
template <class T, class U>
final_state_gradient(tensor_view<T>, tensor_view<U>) -> final_state_gradient<std::remove_const_t<T>>;
// Of the logarithms of decays, and of beta: in the shape of the data, summed over what it was broadcast along.
template <class T>
struct log_decay_gradient {
    tensor_view<T> d;
};
template <class T>
log_decay_gradient(tensor_view<T>) -> log_decay_gradient<T>;
template <class T>
struct beta_gradient {
    tensor_view<T> d;
};
template <class T>
beta_gradient(tensor_view<T>) -> beta_gradient<T>;
template <class T>
struct factor_gradient { // of learned_denominator or row_factor
    tensor_view<T> d;
};
template <class T>
factor_gradient(tensor_view<T>) -> factor_gradient<T>;

namespace detail {
template <template <class> class Kind, class O>
inline constexpr bool is_kind_of = false;
template <template <class> class Kind, class T>
inline constexpr bool is_kind_of<Kind, Kind<T>> = true;
template <class O>
inline constexpr bool is_recurrent_gradient = is_backend<O> || is_initial_state<O> || is_kind_of<initial_state_gradient, O> || is_kind_of<final_state_gradient, O> || is_kind_of<log_decay_gradient, O> ||
                                              is_kind_of<beta_gradient, O> || is_kind_of<factor_gradient, O>;
} // namespace detail

// One for all mechanisms of a feature map F: recurrent_backward_plan<M, E, B> names it by the mechanism.
template <class F, class E, class B>
class recurrent_form_backward_plan {
    static_assert(detail::is_cpu<B>, "heed: recurrent mechanisms run on the cpu backend, heed::cpu{...}");
    using A = typename B::arch_type;
    using T = compute_t<E>;
    using form = recurrent_form<F, T>;
    using engine_type = recurrent_backward<F, E, A>;
    using rules = detail::recurrent_rules_of<F, E, A>;
    using door = detail::door<A>;
    form form_;
    recurrent_problem<E> p_;
    recurrent_gradients<E> d_;
    B backend_;

public:
    recurrent_form_backward_plan(form const& m, recurrent_problem<E> const& p, recurrent_gradients<E> const& d, B const& backend) : form_(m), p_(p), d_(d), backend_(backend) { check(); }
    template <Recurrent M>
    recurrent_form_backward_plan(M const& mechanism, recurrent_problem<E> const& p, recurrent_gradients<E> const& d, B const& backend)
        : recurrent_form_backward_plan(form_of<T>(mechanism), p, d, backend) {}

    std::string_view engine() const { return engine_type::name(form_.causal); }
    static constexpr extent_t chunk() { return engine_type::tokens; }
    std::size_t workspace_bytes() const { return line_bytes - 1 + static_cast<std::size_t>(slots()) * engine_type::slot_bytes(form_, p_); }
    std::string describe() const { return sentence<A>(engine(), " on ", arch_name<A>(), ", chunks of ", chunk(), " tokens, ", slots(), slots() == 1 ? " slot, " : " slots, ", workspace_bytes(), " workspace bytes"); }
    template <class Stream>
    friend Stream& operator<<(Stream& s, recurrent_form_backward_plan const& p) {
        s << p.describe();
        return s;
    }
    // Runs in the caller's memory (at least workspace_bytes(), any alignment).
    void run(std::span<std::byte> workspace) {
        if (workspace.size() < workspace_bytes()) {
            door::refuse(sentence<A>("heed: the workspace has ", workspace.size(), " bytes and the plan needs ", workspace_bytes(), "; see plan.workspace_bytes()"));
        }
        engine_type::run(form_, p_, d_, backend_.executor, engine_type::divide(p_, d_), slots(), workspace.data());
    }

private:
    int slots() const {
        extent_t const items = engine_type::divide(p_, d_).items();
        int const most = detail::concurrency_of(backend_.executor);
        return items < 1 ? 1 : items < most ? static_cast<int>(items) : most;
    }
    void check() const {
        using detail::argument;
        using namespace detail;
        argument const args[recurrent_arguments] = {
            argument::of("q", p_.q),           argument::of("k", p_.k),           argument::of("v", p_.v),
            argument::of("out", p_.out),       argument::of("initial state", p_.initial.s), argument::of("initial z", p_.initial.z),
            argument{},                        argument{},                        argument::of("dout", d_.dout),
            argument::of("dq", d_.dq),         argument::of("dk", d_.dk),         argument::of("dv", d_.dv),
            argument::of("gradient of the initial state", d_.initial.s), argument::of("gradient of the initial z", d_.initial.z), argument::of("gradient of the final state", d_.last.s),
            argument::of("gradient of the final z", d_.last.z), argument::of("log_decay_gradient", d_.log_decay), argument::of("beta_gradient", d_.beta), argument::of("factor_gradient", d_.factor)};
        rules::check(form_, args);
        rules::check_offsets(form_, args);
        shape const out = p_.out.shape();
        extent_t const width = form_.width(p_.q.extent(3));
        rules::check_state(form_, args[rec_s0], args[rec_z0], out, width);
        rules::check_state(form_, args[rec_ds0], args[rec_dz0], out, width);
        rules::check_state(form_, args[rec_ds], args[rec_dz], out, width);
        constexpr int pairs[][2] = {{rec_dout, rec_out}, {rec_dq, rec_q}, {rec_dk, rec_k}, {rec_dv, rec_v}};
        for (auto const& pair : pairs) {
            if (pair[0] != rec_dout && args[pair[0]].address == 0) { continue; }
            door::check_same(args[pair[0]], args[pair[1]]);
            door::check_offsets(args[pair[0]], args[pair[1]]);
        }
        if (args[rec_dlog].address != 0) { door::check_same(args[rec_dlog], argument::of("log decay", form_.log_decay)); }
        if (args[rec_dbeta].address != 0) { door::check_same(args[rec_dbeta], argument::of("beta", form_.beta)); }
        if (args[rec_dfactor].address != 0) { door::check_same(args[rec_dfactor], argument::of("the factor of rows", form_.factor)); }
        argument given[recurrent_arguments];
        int count = 0;
        for (int i = 0; i < recurrent_arguments; ++i) {
            if (args[i].address == 0) { continue; }
            given[count] = args[i];
            given[count].written = i >= rec_dq && i != rec_ds && i != rec_dz;
            ++count;
        }
        rules::check_written(form_, given, count);
    }
};

template <Recurrent M, class E, class B>
using recurrent_backward_plan = recurrent_form_backward_plan<decltype(M::feature), E, B>;

namespace detail {
// One option of backward into what the engine is given.
template <class M, class E, class O>
HEED_INLINE void take_recurrent(recurrent_problem<E>& p, recurrent_gradients<E>& d, O const& option) {
    if constexpr (is_initial_state<O>) {
        p.initial = {option.s, option.z};
    } else if constexpr (is_kind_of<initial_state_gradient, O>) {
        d.initial = {option.s, option.z};
    } else if constexpr (is_kind_of<final_state_gradient, O>) {
        d.last = {option.s, option.z};
    } else if constexpr (is_kind_of<log_decay_gradient, O>) {
        static_assert(M::decays != decay_kind::none, "heed: log_decay_gradient is for updates with decays; this one has none");
        d.log_decay = option.d;
    } else if constexpr (is_kind_of<beta_gradient, O>) {
        static_assert(M::corrects || M::weighs, "heed: beta_gradient is for the delta rule and weighted_update; this update has no beta");
        d.beta = option.d;
    } else if constexpr (is_kind_of<factor_gradient, O>) {
        static_assert(M::has_factor, "heed: factor_gradient is for learned_denominator and row_factor; this normalizer has no factor");
        d.factor = option.d;
    }
}
} // namespace detail

// Gradients of a loss by q, k and v from its derivative dout by out; out is what forward wrote. dq, dk, dv: shaped as q, k, v; tensor_view<T>{} is not
// computed. Options in any order: a backend; initial_state{s, z} as in forward; initial_state_gradient{ds, dz}; final_state_gradient{ds, dz}, the loss's derivative by the final
// state; log_decay_gradient{d} and beta_gradient{d}, in the shape of the data. Everything is written, nothing accumulated. Throws shape_error before anything is
// written. Makes one allocation: one state for each chunk of the longest sequence and thread.
template <class A = native_arch, class M, class Q, class K, class V, class O, class DO, class DQ, class DK, class DV, class... Options>
    requires Recurrent<M>
void backward(M const& mechanism, Q const& q, K const& k, V const& v, O const& out, nothing_saved, DO const& dout, DQ&& dq, DK&& dk, DV&& dv, Options const&... options) {
    static_assert((detail::is_recurrent_gradient<Options> && ...), "heed: options of a recurrent backward are a backend (heed::cpu{...}), heed::initial_state{s, z} and gradients by name");
    using E = typename decltype(as_view(dout))::value_type;
    auto const backend = detail::pick_backend(cpu<serial, A>{}, options...);
    auto const read = as_view(out);
    // the problem holds a view that forward writes; backward only reads it
    tensor_view<E> const out_view(const_cast<E*>(read.data_handle()), read.shape(), read.strides(), read.offsets());
    recurrent_problem<E> problem{as_view(q), as_view(k), as_view(v), out_view};
    recurrent_gradients<E> gradients{as_view(dout), as_view(dq), as_view(dk), as_view(dv)};
    (detail::take_recurrent<M>(problem, gradients, options), ...);
    recurrent_backward_plan<M, E, std::remove_const_t<decltype(backend)>> p(mechanism, problem, gradients, backend);
    std::size_t const bytes = p.workspace_bytes();
    std::unique_ptr<std::byte[]> const memory(new std::byte[bytes]);
    p.run(std::span<std::byte>(memory.get(), bytes));
}

} // namespace heed
