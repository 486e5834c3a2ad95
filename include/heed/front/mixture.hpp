// SPDX-License-Identifier: BSD-3-Clause
// The door of mixtures: forward(mixture, q, k, v, out, options...).
#pragma once

#include <heed/engine/cpu/mixture_rows.hpp>
#include <heed/front/plan.hpp>

#include <memory>

namespace heed {

// What backward needs of one attention of a mixture: its own output, (B, H, N, dv), and what its normalizer saves; no lse if that is nothing.
template <class E, class T = compute_t<E>>
struct saved_term {
    tensor_view<E> out;
    tensor_view<T> lse = {};
};
template <class E>
saved_term(tensor_view<E>) -> saved_term<E>;
template <class E, class T>
saved_term(tensor_view<E>, tensor_view<T>) -> saved_term<E, T>;

// Option of forward, and its result: one term for each attention of the mixture, in their order.
template <class E, int N>
struct saved_terms {
    saved_term<E> term[N];
};
template <class E, class... Rest>
HEED_HD saved_terms<E, 1 + static_cast<int>(sizeof...(Rest))> save_terms(saved_term<E> const& first, Rest const&... rest) {
    return {{first, rest...}};
}

namespace detail {

template <class O>
inline constexpr bool is_save_terms = false;
template <class E, int N>
inline constexpr bool is_save_terms<saved_terms<E, N>> = true;
template <class O>
inline constexpr bool is_mixture_option = is_backend<O> || is_save_terms<O>;
// Second queries and keys of a mixture (0, 1) beside those of the call (2, 3): their width is their own.
inline constexpr axis_rule second_rules[] = {
    {0, axis::batch, rule_kind::equal, 2, axis::batch}, {0, axis::head, rule_kind::equal, 2, axis::head}, {0, axis::seq, rule_kind::equal, 2, axis::seq},
    {1, axis::batch, rule_kind::equal, 3, axis::batch}, {1, axis::head, rule_kind::equal, 3, axis::head}, {1, axis::seq, rule_kind::equal, 3, axis::seq},
    {1, axis::feature, rule_kind::equal, 0, axis::feature},
};

HEED_HD constexpr no_save pick_terms() { return {}; }
template <class First, class... Rest>
HEED_HD constexpr auto pick_terms(First const& first, Rest const&... rest) {
    if constexpr (is_save_terms<First>) {
        return first;
    } else {
        return pick_terms(rest...);
    }
}

// Queries and keys of a source: its own or those of the call.
template <class S, class T>
HEED_HD tensor_view<T const> queries_of(S const& source, tensor_view<T const> const& q) {
    if constexpr (requires { source.q; }) {
        return source.q;
    } else {
        return q;
    }
}
template <class S, class T>
HEED_HD tensor_view<T const> keys_of(S const& source, tensor_view<T const> const& k) {
    if constexpr (requires { source.k; }) {
        return source.k;
    } else {
        return k;
    }
}

} // namespace detail

// What a mixture's call will do: the plans of its attentions, and the workspace of all.
template <class M, class T, class B>
class mixture_plan {
    M mechanism_;
    shape q_, k_, v_;
    B backend_;

    static_assert(detail::is_cpu<B>, "heed: mixtures run on the cpu backend, heed::cpu{...}");
    static constexpr int attentions = detail::attentions_of<M>;
    using A = typename B::arch_type;
    using door = detail::door<A>;
    using rows = mixture_rows<M, T, A>;

public:
    mixture_plan(M const& mechanism, shape q, shape k, shape v, B const& backend) : mechanism_(mechanism), q_(q), k_(k), v_(v), backend_(backend) {
        detail::for_each_term(mechanism_, [&](auto const& term, auto, auto) {
            if constexpr (requires { term.coefficient.data(); }) { door::check_view(term.coefficient.name, term.coefficient.data().shape(), term.coefficient.wanted(out_shape()), false); }
            if constexpr (requires { term.source.pattern.views(call_sizes{}, [](auto const&...) {}); } && detail::attentions_of<std::remove_cvref_t<decltype(term.source)>> == 0) {
                term.source.pattern.views(call_sizes{q.batch, q.head, q.seq, k.seq, q.feature, k.head}, [](char const* name, auto const& view, shape want, auto... exact) { door::check_view(name, view.shape(), want, sizeof...(exact) > 0); });
            }
        });
        for_each_attention([&](auto const& term, int) {
            if constexpr (requires { term.source.q; }) {
                detail::argument const args[] = {detail::argument::of("the second q", term.source.q), detail::argument::of("the second k", term.source.k),
                                                 {"q", q, {}, 1, sizeof(T), {}, false}, {"k", k, {}, 1, sizeof(T), {}, false}};
                door::check_axes(args, 4, detail::second_rules);
            }
            plan_of(term);
        });
    }

    std::size_t workspace_bytes() const {
        std::size_t most = line_bytes + static_cast<std::size_t>(slots()) * rows::slot_bytes(v_.feature);
        for_each_attention([&](auto const& term, int) {
            std::size_t const own = plan_of(term).workspace_bytes();
            most = own > most ? own : most;
        });
        arena scratch(nullptr);
        for (int n = 1; n < attentions; ++n) { scratch.template take<T>(out_shape().size()); }
        return line_bytes - 1 + scratch.bytes() + most;
    }
    template <class Saved = detail::no_save>
    void run(tensor_view<T const> q, tensor_view<T const> k, tensor_view<T const> v, tensor_view<T> out, std::span<std::byte> workspace, Saved const& saved = {}) {
        if (workspace.size() < workspace_bytes()) {
            door::refuse(sentence<A>("heed: the workspace has ", workspace.size(), " bytes and the plan needs ", workspace_bytes(), "; see plan.workspace_bytes()"));
        }
        detail::argument given[4 + attentions] = {detail::argument::of("q", q), detail::argument::of("k", k), detail::argument::of("v", v), detail::argument::of("out", out)};
        door::check_axes(given, 4, detail::pairwise_rules);
        int count = 4;
        if constexpr (detail::is_save_terms<Saved>) {
            static_assert(std::size(Saved{}.term) == std::size_t(attentions), "heed: save_terms needs one saved_term for each attention of the mixture");
            for (auto const& one : saved.term) {
                given[count] = detail::argument::of("a term's out", one.out);
                door::check_same(given[count++], given[3]);
            }
        }
        door::check_outputs(given, count);
        detail::for_each_term(mechanism_, [&](auto const& term, auto, auto) {
            if constexpr (requires { term.coefficient.data(); }) {
                for (int o = 3; o < count; ++o) { door::check_apart(given[o], detail::argument::of(term.coefficient.name, term.coefficient.data())); }
            }
            if constexpr (requires { term.source.q; }) {
                for (int o = 3; o < count; ++o) {
                    door::check_apart(given[o], detail::argument::of("the second q", term.source.q));
                    door::check_apart(given[o], detail::argument::of("the second k", term.source.k));
                }
            }
        });

        arena memory(aligned(workspace.data()));
        mixture_problem<T, attentions> x{q, k, v, out, {}};
        for (int n = 0; n < attentions; ++n) {
            if constexpr (detail::is_save_terms<Saved>) {
                x.term[n] = saved.term[n].out;
            } else {
                x.term[n] = n == 0 ? out : detail::like(memory.template take<T>(out_shape().size()), out);
            }
        }
        std::byte* const rest = aligned(workspace.data()) + memory.bytes();
        std::span<std::byte> const left(rest, static_cast<std::size_t>(workspace.data() + workspace.size() - rest));
        for_each_attention([&](auto const& term, int n) {
            auto const term_q = detail::queries_of(term.source, q), term_k = detail::keys_of(term.source, k);
            auto p = plan_of(term);
            if constexpr (detail::is_save_terms<Saved>) {
                if constexpr (detail::kept_of<std::remove_cvref_t<decltype(detail::mechanism_of(term.source).normalizer)>>() > 0) {
                    p.run(term_q, term_k, v, x.term[n], left, save{saved.term[n].lse});
                    return;
                }
            }
            p.run(term_q, term_k, v, x.term[n], left);
        });
        rows::forward(mechanism_, x, backend_.executor, slots(), rest);
    }

private:
    shape out_shape() const { return {q_.batch, q_.head, q_.seq, v_.feature}; }
    int slots() const {
        extent_t const items = q_.batch * q_.head;
        int const most = detail::concurrency_of(backend_.executor);
        return items < 1 ? 1 : items < most ? static_cast<int>(items) : most;
    }
    template <class F>
    void for_each_attention(F const& f) const {
        detail::for_each_term(mechanism_, [&](auto const& term, auto, auto before) {
            if constexpr (detail::attentions_of<std::remove_cvref_t<decltype(term.source)>> != 0) { f(term, static_cast<int>(before)); }
        });
    }
    template <class Term>
    auto plan_of(Term const& term) const {
        shape q = q_, k = k_;
        if constexpr (requires { term.source.q; }) { q = term.source.q.shape(), k = term.source.k.shape(); }
        return plan<T, A>(detail::mechanism_of(term.source), q, k, v_, backend_);
    }
};

// out = the mixture's sum of terms. Options: a backend heed::cpu{...}; save_terms(saved_term{out, lse}, ...), one for each attention, which is then
// returned: what backward needs. Throws shape_error before out is written. Makes one allocation.
template <class A = native_arch, class M, class Q, class K, class V, class O, class... Options>
    requires Mixture<M>
auto forward(M const& mechanism, Q const& q, K const& k, V const& v, O&& out, Options const&... options) {
    static_assert((detail::is_mixture_option<Options> && ...), "heed: options of a mixture's forward are a backend (heed::cpu{...}) and heed::save_terms(...)");
    auto const out_view = as_view(out);
    using T = typename decltype(out_view)::element_type;
    auto const backend = detail::pick_backend(cpu<serial, A>{}, options...);
    auto const saved = detail::pick_terms(options...);
    mixture_plan<M, T, std::remove_const_t<decltype(backend)>> p(mechanism, as_view(q).shape(), as_view(k).shape(), as_view(v).shape(), backend);
    std::size_t const bytes = p.workspace_bytes();
    std::unique_ptr<std::byte[]> const memory(new std::byte[bytes]);
    p.run(as_view(q), as_view(k), as_view(v), out_view, std::span<std::byte>(memory.get(), bytes), saved);
    if constexpr (detail::is_save_terms<std::remove_const_t<decltype(saved)>>) { return saved; }
}

} // namespace heed
