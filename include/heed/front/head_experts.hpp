// SPDX-License-Identifier: BSD-3-Clause
// Heads as experts: every query weighs the heads, and heads of gate 0 are not computed for it.
//
//   out_h,i = g_h,i attention_h(q_i)
//
//   MoH (Jin et al., arXiv:2410.11842)   shared heads always, K of the others by a router, gates of both kinds balanced by a third (moh_gates)
//   MoA (Zhang et al., arXiv:2210.05144) experts of queries over one key and value head; K of them, gates raw or over their sum, which is a constant (gate_rule)
//   BAM (Zhang et al., arXiv:2408.08274) all experts, each of several heads that share a gate, weighed by a softmax
//
// The projections, and the sum over heads that the output projection makes, are the caller's. Queries that chose a head are gathered for it (routed
// attention), so that a head costs what its queries cost. Gradients reach q, k, v and the gates of chosen heads; through the gates the router's logits
// (choose_heads_backward); none passes through the choice.
#pragma once

#include <heed/engine/cpu/gated_rows.hpp>
#include <heed/front/attention.hpp>
#include <heed/front/backward.hpp>
#include <heed/policy/pattern/block_bits.hpp>
#include <heed/policy/pattern/routed.hpp>

#include <cmath>
#include <vector>

namespace heed {

template <class M, class T>
struct gated_heads {
    M mechanism;
    tensor_view<T const> gates; // {B, S, N, 1}, H a multiple of S: neighbouring heads of an expert share a gate

    static_assert(Pairwise<M>, "heed: gated_heads{mechanism, gates} takes a mechanism of the pairwise family: heed::attention{...}");
};
template <class M, class T>
gated_heads(M, tensor_view<T>) -> gated_heads<M, std::remove_const_t<T>>;

// Option of backward: the gradient of the gates, in their shape; 0 where a gate is 0.
template <class T>
struct head_gate_gradient {
    tensor_view<T> d = {};
};
template <class T>
head_gate_gradient(tensor_view<T>) -> head_gate_gradient<T>;

// What forward leaves for backward: rows before their gates, and their log-sum-exp.
template <class T>
struct gated_heads_saved {
    shape s;
    std::vector<T> out, lse;
    tensor_view<T> rows() { return {out.data(), s}; }
    tensor_view<T const> rows() const { return {out.data(), s}; }
    tensor_view<T> sums() const { return {const_cast<T*>(lse.data()), {s.batch, s.head, s.seq, 1}}; }
};

namespace detail {

template <class M>
inline constexpr bool is_gated_heads = false;
template <class M, class T>
inline constexpr bool is_gated_heads<gated_heads<M, T>> = true;
template <class O>
inline constexpr bool is_head_gradient = false;
template <class T>
inline constexpr bool is_head_gradient<head_gate_gradient<T>> = true;
template <class T>
head_gate_gradient<T> pick_head_gradient() { return {}; }
template <class T, class First, class... Rest>
head_gate_gradient<T> pick_head_gradient(First const& first, Rest const&... rest) {
    if constexpr (is_head_gradient<First>) { return first; } else { return pick_head_gradient<T>(rest...); }
}

// f(the mechanism over the pairs whose head the query chose): one block of all keys, a bit for every query.
template <class A, class M, class T, class F>
void over_chosen_heads(gated_heads<M, T> const& m, shape q, bool ragged, extent_t keys, F const& f) {
    using door = detail::door<A>;
    auto const& g = m.gates;
    if (g.extent(0) != q.batch || g.extent(1) < 1 || q.head % g.extent(1) != 0 || g.extent(2) != q.seq || g.extent(3) != 1 || ragged) {
        door::refuse(sentence<A>("heed: gates of heads are for ", g.extent(0), " batch entries, ", g.extent(1), " experts and ", g.extent(2), " queries, one number each; q has ", q.batch, ", ", q.head, " and ", q.seq,
                                 ragged ? ", ragged; sequences have one length" : "; heads are a multiple of the experts"));
    }
    block_bits bits(q.batch, g.extent(1), q.seq, 1);
    for (extent_t b = 0; b < q.batch; ++b)
        for (extent_t s = 0; s < g.extent(1); ++s)
            for (extent_t i = 0; i < q.seq; ++i) {
                if (g(b, s, i, 0) != T(0)) { bits.set(b, s, i, 0); }
            }
    f(attention{m.mechanism.score, routed{bits.map(1, keys > 0 ? keys : 1, q.head / g.extent(1)), m.mechanism.pattern}, m.mechanism.normalizer, m.mechanism.mix, m.mechanism.load});
}

} // namespace detail

template <class M>
concept GatedHeads = detail::is_gated_heads<M>;

// q, out (B, H, N, d | dv), k, v (B, Hkv, M, d | dv), float or double. Returns what backward needs. Option: a backend. Throws shape_error before out is written.
template <class A = native_arch, class M, class Q, class K, class V, class O, class... Options>
    requires GatedHeads<M>
auto forward(M const& m, Q const& q_in, K const& k, V const& v, O&& out_in, Options const&... options) {
    auto const out = as_view(out_in);
    using T = typename decltype(out)::element_type;
    static_assert(std::is_same_v<T, float> || std::is_same_v<T, double>, "heed: gated heads take float or double");
    tensor_view<T const> const q = as_view(q_in);
    auto backend = detail::pick_backend(cpu<serial, A>{}, options...);
    gated_heads_saved<T> saved{out.shape(), {}, {}};
    detail::over_chosen_heads<A>(m, q.shape(), q.is_ragged(), as_view(k).extent(2), [&](auto const& routed_mechanism) {
        constexpr int kept = detail::kept_of<std::remove_cvref_t<decltype(routed_mechanism.normalizer)>>();
        static_assert(kept <= 1, "heed: gated heads take normalizers that save one number of a row, or none");
        detail::argument const outs[] = {detail::argument::of("q", q), detail::argument::of("k", as_view(k)), detail::argument::of("v", as_view(v)), detail::argument::of("out", out)};
        detail::door<A>::check_axes(outs, 4, detail::pairwise_rules);
        detail::door<A>::check_outputs(outs, 4);
        saved.out.resize(static_cast<std::size_t>(saved.s.size()));
        saved.lse.resize(static_cast<std::size_t>(saved.s.batch * saved.s.head * saved.s.seq));
        if constexpr (kept == 1) {
            forward<A>(routed_mechanism, q, k, v, saved.rows(), save{saved.sums()}, backend);
        } else {
            forward<A>(routed_mechanism, q, k, v, saved.rows(), backend);
        }
    });
    gated_rows<T, A>::sum(m.gates, saved.rows(), out, true, backend.executor, detail::concurrency_of(backend.executor));
    return saved;
}

// Gradients dq, dk, dv, written, not accumulated; saved is what forward returned. Options: a backend, head_gate_gradient{dgates}.
template <class A = native_arch, class M, class Q, class K, class V, class O, class T, class DO, class DQ, class DK, class DV, class... Options>
    requires GatedHeads<M>
void backward(M const& m, Q const& q_in, K const& k, V const& v, O const&, gated_heads_saved<T> const& saved, DO const& dout_in, DQ&& dq, DK&& dk, DV&& dv, Options const&... options) {
    static_assert(((detail::is_backend<Options> || detail::is_head_gradient<Options>) && ...), "heed: options of backward over gated heads are a backend and head_gate_gradient{...}");
    head_gate_gradient<T> const dgates = detail::pick_head_gradient<T>(options...);
    tensor_view<T const> const q = as_view(q_in), dout = as_view(dout_in);
    auto backend = detail::pick_backend(cpu<serial, A>{}, options...);
    using detail::argument;
    detail::door<A>::check_same(argument::of("dout", dout), argument{"the saved rows", saved.s, {}, 1, sizeof(T), {}, false});
    if (dgates.d.data_handle() != nullptr) { detail::door<A>::check_same(argument::of("the gradient of the gates", dgates.d), argument::of("the gates", m.gates)); }
    std::vector<T> up(static_cast<std::size_t>(dout.shape().size()));
    tensor_view<T> const dy(up.data(), dout.shape());
    detail::over_chosen_heads<A>(m, q.shape(), q.is_ragged(), as_view(k).extent(2), [&](auto const& routed_mechanism) {
        gated_rows<T, A>::gradient(m.gates, saved.rows(), dout, dy, dgates.d, backend.executor, detail::concurrency_of(backend.executor));
        if constexpr (detail::kept_of<std::remove_cvref_t<decltype(routed_mechanism.normalizer)>>() == 1) {
            backward<A>(routed_mechanism, q, k, v, saved.rows(), save{saved.sums()}, tensor_view<T const>(dy), dq, dk, dv, backend);
        } else {
            backward<A>(routed_mechanism, q, k, v, saved.rows(), nothing_saved{}, tensor_view<T const>(dy), dq, dk, dv, backend);
        }
    });
}

// What becomes of p = softmax(logits) at the `top` chosen experts; 0 at the others.
//   raw           p
//   detached      p over the sum of the chosen, which is a constant in backward
//   renormalised  p over the sum of the chosen
//   counted       renormalised, times their number: all of equal weight have gate 1
enum class gate_rule { raw, detached, renormalised, counted };

// Gates {B, E, N, 1} of E experts.
template <class T>
struct expert_gates {
    std::vector<T> gate;
    shape s;
    tensor_view<T const> gates() const { return {gate.data(), s}; }
};

namespace detail {
// Weights of one row of logits: p of all, and which are chosen (the greatest, of equals the first; NaN never, and it makes every p NaN).
template <class T, class Row>
void weigh_experts(Row const& logit, extent_t experts, extent_t top, std::vector<T>& p, std::vector<char>& chosen) {
    T peak = -math::inf<T>(), sum(0);
    for (extent_t e = 0; e < experts; ++e) { peak = logit(e) > peak ? logit(e) : peak; }
    for (extent_t e = 0; e < experts; ++e) { sum += p[static_cast<std::size_t>(e)] = std::exp(logit(e) - peak), chosen[static_cast<std::size_t>(e)] = 0; }
    for (extent_t e = 0; e < experts; ++e) { p[static_cast<std::size_t>(e)] /= sum; }
    for (extent_t n = 0; n < top; ++n) {
        extent_t best = -1;
        for (extent_t e = 0; e < experts; ++e) {
            if (!chosen[static_cast<std::size_t>(e)] && logit(e) == logit(e) && (best < 0 || logit(e) > logit(best))) { best = e; }
        }
        if (best >= 0) { chosen[static_cast<std::size_t>(best)] = 1; }
    }
}
template <class T>
T chosen_sum(std::vector<T> const& p, std::vector<char> const& chosen) {
    T sum(0);
    for (std::size_t e = 0; e < p.size(); ++e) { sum += chosen[e] ? p[e] : T(0); }
    return sum;
}
} // namespace detail

// logits {B, 1, N, E}. Throws shape_error unless 1 <= top <= E.
template <class L>
auto choose_heads(L const& logits_in, extent_t top, gate_rule rule) {
    auto const logits = as_view(logits_in);
    using T = typename decltype(logits)::value_type;
    shape const s = logits.shape();
    if (top < 1 || top > s.feature || s.head != 1) { HEED_THROW(shape_error(sentence("heed: a query chooses ", top, " of ", s.feature, " heads, by logits of ", s.head, " heads; at least one, by one row"))); }
    expert_gates<T> to{std::vector<T>(static_cast<std::size_t>(s.size())), {s.batch, s.feature, s.seq, 1}};
    std::vector<T> p(static_cast<std::size_t>(s.feature));
    std::vector<char> chosen(p.size());
    for (extent_t b = 0; b < s.batch; ++b)
        for (extent_t i = 0; i < s.seq; ++i) {
            detail::weigh_experts([&](extent_t e) { return logits(b, 0, i, e); }, s.feature, top, p, chosen);
            T const by = rule == gate_rule::raw ? T(1) : (rule == gate_rule::counted ? static_cast<T>(top) : T(1)) / detail::chosen_sum(p, chosen);
            for (extent_t e = 0; e < s.feature; ++e) { to.gate[static_cast<std::size_t>((b * s.feature + e) * s.seq + i)] = chosen[static_cast<std::size_t>(e)] ? p[static_cast<std::size_t>(e)] * by : T(0); }
        }
    return to;
}
// dlogits {B, 1, N, E} from dgates {B, E, N, 1}; the choice is a constant.
template <class L, class DG, class DL>
void choose_heads_backward(L const& logits_in, extent_t top, gate_rule rule, DG const& dgates_in, DL&& dlogits_in) {
    auto const logits = as_view(logits_in);
    auto const dgates = as_view(dgates_in);
    auto const dlogits = as_view(dlogits_in);
    using T = typename decltype(logits)::value_type;
    shape const s = logits.shape();
    std::vector<T> p(static_cast<std::size_t>(s.feature));
    std::vector<char> chosen(p.size());
    for (extent_t b = 0; b < s.batch; ++b)
        for (extent_t i = 0; i < s.seq; ++i) {
            detail::weigh_experts([&](extent_t e) { return logits(b, 0, i, e); }, s.feature, top, p, chosen);
            T const sum = detail::chosen_sum(p, chosen), by = rule == gate_rule::raw ? T(1) : (rule == gate_rule::counted ? static_cast<T>(top) : T(1)) / sum;
            // over the chosen alone p / sum is a softmax; else that of all the experts, times a constant
            bool const among = rule == gate_rule::renormalised || rule == gate_rule::counted;
            T mean(0);
            for (extent_t e = 0; e < s.feature; ++e) { mean += chosen[static_cast<std::size_t>(e)] ? p[static_cast<std::size_t>(e)] * dgates(b, e, i, 0) : T(0); }
            for (extent_t e = 0; e < s.feature; ++e) {
                bool const in = chosen[static_cast<std::size_t>(e)];
                T const own = in ? dgates(b, e, i, 0) : T(0);
                dlogits(b, 0, i, e) = among && !in ? T(0) : p[static_cast<std::size_t>(e)] * by * (own - (among ? mean / sum : mean));
            }
        }
}

// MoH: gates {B, Hs + Hr, N, 1}, shared heads first: counted softmaxes of the types (2 logits), of the shared heads, and of `top` of the routed ones, the first two
// multiplied, and the first and the third. No logits of types or of shared heads (no data): factor 1.
template <class T>
struct moh_router {
    tensor_view<T const> routed, shared = {}, types = {}; // {B, 1, N, Hr | Hs | 2}
    extent_t top, shared_heads;

    expert_gates<T> gates() const {
        parts const x(*this);
        expert_gates<T> to{{}, {routed.extent(0), shared_heads + routed.extent(3), routed.extent(2), 1}};
        to.gate.resize(static_cast<std::size_t>(to.s.size()));
        each([&](extent_t b, extent_t h, extent_t i) { to.gate[static_cast<std::size_t>((b * to.s.head + h) * to.s.seq + i)] = x.own(*this, b, h, i) * x.type(*this, b, h, i); });
        return to;
    }
    // Gradients of the logits, each in its shape; views without data are not written.
    void backward(tensor_view<T const> const& dgates, tensor_view<T> const& drouted, tensor_view<T> const& dshared = {}, tensor_view<T> const& dtypes = {}) const {
        parts const x(*this);
        extent_t const B = routed.extent(0), N = routed.extent(2), R = routed.extent(3);
        std::vector<T> of_own(static_cast<std::size_t>(B * (shared_heads + R) * N)), of_type(static_cast<std::size_t>(B * 2 * N));
        auto const place = [&](extent_t b, extent_t h, extent_t i) { return h < shared_heads ? (b * shared_heads + h) * N + i : (B * shared_heads + b * R + h - shared_heads) * N + i; };
        each([&](extent_t b, extent_t h, extent_t i) {
            of_own[static_cast<std::size_t>(place(b, h, i))] = dgates(b, h, i, 0) * x.type(*this, b, h, i);
            of_type[static_cast<std::size_t>((b * 2 + (h < shared_heads ? 0 : 1)) * N + i)] += dgates(b, h, i, 0) * x.own(*this, b, h, i);
        });
        T* const data = of_own.data();
        if (drouted.data_handle() != nullptr) { choose_heads_backward(routed, top, gate_rule::counted, tensor_view<T const>(data + B * shared_heads * N, {B, R, N, 1}), drouted); }
        if (dshared.data_handle() != nullptr) { choose_heads_backward(shared, shared_heads, gate_rule::counted, tensor_view<T const>(data, {B, shared_heads, N, 1}), dshared); }
        if (dtypes.data_handle() != nullptr) { choose_heads_backward(types, 2, gate_rule::counted, tensor_view<T const>(of_type.data(), {B, 2, N, 1}), dtypes); }
    }

private:
    struct parts {
        expert_gates<T> routed, shared, types;
        explicit parts(moh_router const& r) : routed(choose_heads(r.routed, r.top, gate_rule::counted)), shared{{}, {}}, types{{}, {}} {
            auto const fits = [&](tensor_view<T const> const& v, extent_t experts) {
                if (v.extent(0) != r.routed.extent(0) || v.extent(2) != r.routed.extent(2) || v.extent(3) != experts) {
                    HEED_THROW(shape_error(sentence("heed: logits of ", v.extent(3), " for ", v.extent(0), " x ", v.extent(2), " queries beside those of routed heads for ", r.routed.extent(0), " x ", r.routed.extent(2), "; there are ", experts)));
                }
            };
            if (r.shared.data_handle() != nullptr) { fits(r.shared, r.shared_heads), shared = choose_heads(r.shared, r.shared_heads, gate_rule::counted); }
            if (r.types.data_handle() != nullptr) { fits(r.types, 2), types = choose_heads(r.types, 2, gate_rule::counted); }
        }
        T own(moh_router const& r, extent_t b, extent_t h, extent_t i) const {
            if (h >= r.shared_heads) { return routed.gates()(b, h - r.shared_heads, i, 0); }
            return shared.gate.empty() ? T(1) : shared.gates()(b, h, i, 0);
        }
        T type(moh_router const& r, extent_t b, extent_t h, extent_t i) const { return types.gate.empty() ? T(1) : types.gates()(b, h < r.shared_heads ? 0 : 1, i, 0); }
    };
    template <class F>
    void each(F const& f) const {
        for (extent_t b = 0; b < routed.extent(0); ++b)
            for (extent_t h = 0; h < shared_heads + routed.extent(3); ++h)
                for (extent_t i = 0; i < routed.extent(2); ++i) { f(b, h, i); }
    }
};

template <class T>
moh_router(tensor_view<T>, tensor_view<T>, tensor_view<T>, extent_t, extent_t) -> moh_router<std::remove_const_t<T>>;

} // namespace heed
