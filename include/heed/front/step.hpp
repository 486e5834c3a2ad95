// SPDX-License-Identifier: BSD-3-Clause
// The decode door of the recurrent family: step(recurrent{...}, q, k, v, state, out, options...): tokens one after another, constant memory whatever came before.
#pragma once

#include <heed/engine/cpu/recurrent_step.hpp>
#include <heed/front/recurrent.hpp>

namespace heed {

// What a step needs of the caller: a few rows a thread. No engine below allocates.
template <class F, class E, class B>
class step_form_plan {
    using A = typename B::arch_type;
    using T = compute_t<E>;
    using form = recurrent_form<F, T>;
    using engine_type = recurrent_step<F, E, A>;
    using rules = detail::recurrent_rules_of<F, E, A>;
    using door = detail::door<A>;
    form form_;
    recurrent_problem<E> p_;
    B backend_;

public:
    step_form_plan(form const& m, recurrent_problem<E> const& p, B const& backend) : form_(m), p_(p), backend_(backend) {
        using detail::argument;
        argument const args[] = {argument::of("q", p.q), argument::of("k", p.k), argument::of("v", p.v), argument::of("out", p.out), argument::of("state", p.last.s), argument::of("z", p.last.z)};
        rules::check(form_, args);
        rules::check_offsets(form_, args);
        if (args[4].address == 0 && p.q.extent(3) * p.v.extent(3) > 0) { door::refuse("heed: a step needs a state, final_state{s}: zeros before the first token"); }
        if (form_.normalized && args[5].address == 0 && p.q.extent(3) > 0) { door::refuse("heed: a step of a mechanism with a running sum needs its z as well, final_state{s, z}"); }
        rules::check_state(form_, args[4], args[5], p.out.shape(), form_.width(p.q.extent(3)));
        argument given[6];
        int count = 0;
        for (auto const& a : args) {
            if (a.address != 0) { given[count++] = a; }
        }
        rules::check_written(form_, given, count);
    }
    template <Recurrent M>
    step_form_plan(M const& mechanism, recurrent_problem<E> const& p, B const& backend) : step_form_plan(form_of<T>(mechanism), p, backend) {
        static_assert(M::causal, "heed: a step goes along the sequence; this order reads all keys before any query");
        static_assert(!looks_at_keys<decltype(M::feature)>, "heed: a step knows no later keys; give positive_random_map a fixed_peak{...}");
    }
    static constexpr std::string_view engine() { return engine_type::name; }
    std::size_t workspace_bytes() const { return line_bytes - 1 + static_cast<std::size_t>(slots()) * engine_type::slot_bytes(form_, p_); }
    std::string describe() const { return sentence<A>(engine(), " on ", arch_name<A>(), ", ", slots(), slots() == 1 ? " slot, " : " slots, ", workspace_bytes(), " workspace bytes"); }
    template <class Stream>
    friend Stream& operator<<(Stream& s, step_form_plan const& p) {
        s << p.describe();
        return s;
    }
    // Runs in the caller's memory (at least workspace_bytes(), any alignment): as often as wanted, one more step each time.
    void run(std::span<std::byte> workspace) {
        if (workspace.size() < workspace_bytes()) {
            door::refuse(sentence<A>("heed: the workspace has ", workspace.size(), " bytes and the plan needs ", workspace_bytes(), "; see plan.workspace_bytes()"));
        }
        engine_type::run(form_, p_, backend_.executor, slots(), workspace.data());
    }

private:
    int slots() const {
        extent_t const items = p_.out.extent(0) * p_.heads();
        int const most = detail::concurrency_of(backend_.executor);
        return items < 1 ? 1 : items < most ? static_cast<int>(items) : most;
    }
};

template <Recurrent M, class E, class B>
using step_plan = step_form_plan<decltype(M::feature), E, B>;

// The next tokens (usually one) of every sequence: state is brought up to date and out_t is what it answers to q_t. Shapes as in forward; the state S (B, H, d, dv) and, for running
// sums, z (B, H, d, 1) are in the type of computation, zeros before the first token. Throws shape_error before anything is written. Makes one small allocation.
template <class A = native_arch, class M, class Q, class K, class V, class T, class O, class... Options>
    requires Recurrent<M>
void step(M const& mechanism, Q const& q, K const& k, V const& v, final_state<T> const& state, O&& out, Options const&... options) {
    static_assert((detail::is_backend<Options> && ...), "heed: the option of a step is a backend, heed::cpu{...}");
    auto const out_view = as_view(out);
    using E = typename decltype(out_view)::element_type;
    static_assert(std::is_same_v<T, compute_t<E>>, "heed: a state is of the type of computation: float for float, bf16 and fp16, double for double");
    auto const backend = detail::pick_backend(cpu<serial, A>{}, options...);
    step_plan<M, E, std::remove_const_t<decltype(backend)>> p(mechanism, {as_view(q), as_view(k), as_view(v), out_view, {state.s, state.z}, {state.s, state.z}}, backend);
    std::size_t const bytes = p.workspace_bytes();
    std::unique_ptr<std::byte[]> const memory(new std::byte[bytes]);
    p.run(std::span<std::byte>(memory.get(), bytes));
}

} // namespace heed
