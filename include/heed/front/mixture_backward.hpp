// SPDX-License-Identifier: BSD-3-Clause
// The gradients of mixtures: backward(mixture, q, k, v, out, saved, dout, dq, dk, dv, options...). Every attention has its own backward, with the
// gradient of the output times its coefficient; coefficients and the other sources are linear in N and M.
#pragma once

#include <heed/front/backward.hpp>
#include <heed/front/mixture.hpp>

namespace heed {

// Option of backward: gradients of the queries and keys of an also{...}; the n-th goes to the n-th of the mixture.
template <class T>
struct also_gradient {
    tensor_view<T> dq, dk;
};
template <class T>
also_gradient(tensor_view<T>, tensor_view<T>) -> also_gradient<T>;

namespace detail {

template <class O>
inline constexpr bool is_also_gradient = false;
template <class T>
inline constexpr bool is_also_gradient<also_gradient<T>> = true;
template <class O>
concept CoefficientGradient = requires(O const o) {
    o.of.data_handle();
    { O::name } -> std::convertible_to<char const*>;
};
template <class O>
inline constexpr bool is_mixture_gradient = is_backward_option<O> || is_also_gradient<O> || CoefficientGradient<O>;


// The gradients that the options of a mixture's backward ask for.
template <class M, class T, class A>
struct mixture_gradients {
    tensor_view<T> coefficient[terms_of<M>];
    tensor_view<T> also_q[attentions_of<M> == 0 ? 1 : attentions_of<M>], also_k[attentions_of<M> == 0 ? 1 : attentions_of<M>];

    template <class O>
    void take(M const& m, O const& option) {
        if constexpr (CoefficientGradient<O> || is_also_gradient<O>) {
            bool taken = false;
            for_each_term(m, [&](auto const& term, auto number, auto before) {
                if constexpr (is_also_gradient<O>) {
                    if constexpr (requires { term.source.q; }) {
                        if (!taken && also_q[before].data_handle() == nullptr && also_k[before].data_handle() == nullptr) {
                            check(option.dq, term.source.q, "the second dq"), check(option.dk, term.source.k, "the second dk");
                            also_q[before] = option.dq, also_k[before] = option.dk, taken = true;
                        }
                    }
                } else if constexpr (requires { requires std::is_same_v<typename std::remove_cvref_t<decltype(term.coefficient)>::gradient, O>; }) {
                    if (!taken && coefficient[number].data_handle() == nullptr) {
                        check(option.of, term.coefficient.data(), O::name);
                        coefficient[number] = option.of, taken = true;
                    }
                }
            });
            if (!taken) { door<A>::refuse("heed: no term of this mixture takes one of the gradients asked for"); }
        }
    }

private:
    template <class U>
    static void check(tensor_view<T> const& d, tensor_view<U> const& of, char const* name) {
        if (d.data_handle() != nullptr) { door<A>::check_same(argument::of(name, d), argument::of("its data", of)); }
    }
};

} // namespace detail

// Gradients of a mixture: as those of an attention, with saved the result of forward(..., save_terms(...)). Options: a backend; head_factor_gradient{d},
// gate_gradient{d} (gates with batch, head and sequence of their own), also_gradient{dq, dk}; gradients of policies go to the first attention.
template <class A = native_arch, class M, class Q, class K, class V, class O, class Saved, class DO, class DQ, class DK, class DV, class... Options>
    requires Mixture<M>
void backward(M const& mechanism, Q const& q_in, K const& k_in, V const& v_in, O const& out_in, Saved const& saved, DO const& dout_in, DQ&& dq_in, DK&& dk_in, DV&& dv_in,
              Options const&... options) {
    static_assert((detail::is_mixture_gradient<Options> && ...), "heed: options of a mixture's backward are a backend (heed::cpu{...}) and gradients by name");
    constexpr int attentions = detail::attentions_of<M>;
    static_assert(detail::is_save_terms<Saved> && attentions > 0, "heed: backward of a mixture needs what forward(..., heed::save_terms(...)) returned");
    using T = typename decltype(as_view(dout_in))::value_type;
    static_assert(std::is_same_v<T, float> || std::is_same_v<T, double>, "heed: backward takes float or double");
    auto backend = detail::pick_backend(cpu<serial, A>{}, options...);
    using backend_type = std::remove_cvref_t<decltype(detail::pick_backend(cpu<serial, A>{}, std::declval<Options const&>()...))>;
    using R = mixture_rows<M, T, A>;
    tensor_view<T const> const q = as_view(q_in), k = as_view(k_in), v = as_view(v_in), dout = as_view(dout_in), out = as_view(out_in);
    tensor_view<T> const dq = as_view(dq_in), dk = as_view(dk_in), dv = as_view(dv_in);

    detail::mixture_gradients<M, T, A> wanted;
    (wanted.take(mechanism, options), ...);
    mixture_problem<T, attentions> x{q, k, v, {}, {}};
    for (int n = 0; n < attentions; ++n) { x.term[n] = saved.term[n].out; }
    x.out = x.term[0];
    mixture_plan<M, T, backend_type>(mechanism, q.shape(), k.shape(), v.shape(), backend); // the rules on shapes
    detail::door<A>::check_same(detail::argument::of("dout", dout), detail::argument::of("out", out));

    // Where the attentions' gradients go: the first writes what is asked for, the others write here and are added.
    struct buffers {
        tensor_view<T> dy, dq, dk, dv;
        T* partials;
    };
    auto const place_buffers = [&](arena& a) {
        auto const take = [&](auto const& of) { return detail::like(a.template take<T>(of.shape().size()), of); };
        buffers b{take(dout), {}, {}, {}, nullptr};
        if (attentions > 1) { b.dq = take(q), b.dk = take(k), b.dv = take(v); }
        b.partials = a.template take<T>(detail::terms_of<M> * q.extent(0) * q.extent(1));
        return b;
    };
    // each(number of the term, plan), then sum(from, to) of what is shared, for every attention
    auto const for_each_attention = [&](tensor_view<T const> const& dy, buffers const& b, auto const& each, auto const& sum) {
        detail::for_each_term(mechanism, [&](auto const& term, auto number, auto before) {
            if constexpr (detail::attentions_of<std::remove_cvref_t<decltype(term.source)>> != 0) {
                using base = std::remove_cvref_t<decltype(detail::mechanism_of(term.source))>;
                constexpr bool own = requires { term.source.q; };
                constexpr int n = decltype(before)::value;
                auto const part = [](tensor_view<T> const& asked, tensor_view<T> const& buffer) { return n == 0 || asked.data_handle() == nullptr ? asked : buffer; };
                tensor_view<T> const to_q = own ? wanted.also_q[n] : part(dq, b.dq), to_k = own ? wanted.also_k[n] : part(dk, b.dk), to_v = part(dv, b.dv);
                auto const with = [&](auto const& state, auto const&... more) {
                    backward_plan<base, T, backend_type> p(detail::mechanism_of(term.source), detail::queries_of(term.source, q), detail::keys_of(term.source, k), v, x.term[n], state, dy, to_q,
                                                           to_k, to_v, backend, more...);
                    each(number, p);
                    if (n == 0) { return; }
                    if (!own && dq.data_handle() != nullptr) { sum(b.dq, dq); }
                    if (!own && dk.data_handle() != nullptr) { sum(b.dk, dk); }
                    if (dv.data_handle() != nullptr) { sum(b.dv, dv); }
                };
                auto const with_state = [&](auto const& state) {
                    if constexpr (n == 0) {
                        with(state, options...);
                    } else {
                        with(state);
                    }
                };
                if constexpr (detail::kept_of<std::remove_cvref_t<decltype(detail::mechanism_of(term.source).normalizer)>>() > 0) {
                    with_state(save{saved.term[n].lse});
                } else {
                    with_state(nothing_saved{});
                }
            }
        });
    };
    int const slots = detail::concurrency_of(backend.executor);
    // Measured, and checked, on the caller's own tensors; nothing is written yet.
    std::size_t most = line_bytes + static_cast<std::size_t>(slots) * R::slot_bytes(v.extent(3));
    for_each_attention(
        dout, {{}, dq, dk, dv, nullptr}, [&](auto, auto& p) { most = p.workspace_bytes() > most ? p.workspace_bytes() : most; }, [](auto const&, auto const&) {});
    arena count(nullptr);
    place_buffers(count);
    std::size_t const bytes = line_bytes + count.bytes() + most;
    std::unique_ptr<std::byte[]> const memory(new std::byte[bytes]);
    arena scratch(aligned(memory.get()));
    buffers const b = place_buffers(scratch);
    std::byte* const rest = aligned(memory.get()) + scratch.bytes();
    std::span<std::byte> const left(rest, static_cast<std::size_t>(memory.get() + bytes - rest));
    for_each_attention(
        b.dy, b,
        [&](auto number, auto& p) {
            R::template weigh_gradient<decltype(number)::value>(mechanism, x, dout, b.dy, backend.executor, slots, rest);
            p.run(left);
        },
        [&](tensor_view<T> const& from, tensor_view<T> const& to) { R::add(from, to, backend.executor, slots); });
    R::backward(mechanism, x, dout, dv, wanted.coefficient, b.partials, backend.executor, slots, rest);
}

} // namespace heed
