// SPDX-License-Identifier: BSD-3-Clause
// MoSA, mixture of sparse attention (Piękos et al., arXiv:2505.00315): every head picks the w tokens of its greatest weights r and attends among them in their order of
// time; its rows are multiplied by the weights:
//
//   picked_tokens const picked = pick_tokens(r, w);                        r {B, 1, E, N}: sigmoids of E heads
//   gather_tokens(picked, x, x_picked);                                    {B, E, w, width}: each head projects its own rows to q, k, v
//   forward(mosa{picked, r}, q, k, v, out);                                {B, E, w, d | dv}: out = r softmax attention over the picked j with token_j <= token_i
//   scatter_tokens(picked, projected_out, y, [](auto...) { return 1; });   a token that no head picked gets 0
//
// The choice looks at the whole sequence, the mask does not. Gradients reach q, k, v and, through the weights, the router; none passes through the choice.
// Cost: E w^2 (d + dv).
#pragma once

#include <heed/engine/cpu/gated_rows.hpp>
#include <heed/front/chosen.hpp>
#include <heed/front/pick.hpp>
#include <heed/policy/pattern/positions.hpp>

namespace heed {

template <class T>
struct mosa {
    picked_tokens const& picked; // must live as long
    tensor_view<T const> r;      // {B, 1, E, N}
    T factor = 0;                // 0: 1 / sqrt(d)
};
template <class T>
mosa(picked_tokens, tensor_view<T>) -> mosa<std::remove_const_t<T>>;

// Option of backward: the gradient of the weights in their shape, 0 where a token was not picked.
template <class T>
struct pick_weight_gradient {
    tensor_view<T> d = {};
};
template <class T>
pick_weight_gradient(tensor_view<T>) -> pick_weight_gradient<T>;

// What forward leaves for backward.
template <class T>
struct mosa_saved {
    std::vector<T> out, lse; // rows before their weights
};

namespace detail {

template <class M>
inline constexpr bool is_mosa = false;
template <class T>
inline constexpr bool is_mosa<mosa<T>> = true;
template <class O>
inline constexpr bool is_pick_gradient = false;
template <class T>
inline constexpr bool is_pick_gradient<pick_weight_gradient<T>> = true;
template <class T>
pick_weight_gradient<T> pick_pick_gradient() { return {}; }
template <class T, class First, class... Rest>
pick_weight_gradient<T> pick_pick_gradient(First const& first, Rest const&... rest) {
    if constexpr (is_pick_gradient<First>) { return first; } else { return pick_pick_gradient<T>(rest...); }
}
// Weights of the picks, {B, E, w, 1}.
template <class A, class T>
std::vector<T> weights_of_picks(mosa<T> const& m, shape q) {
    shape const s = m.picked.extents();
    using door = detail::door<A>;
    if (!(q == shape{s.batch, s.head, s.seq, q.feature})) {
        door::refuse(sentence<A>("heed: rows of picked tokens have ", s.batch, " batch entries, ", s.head, " heads and ", s.seq, " places; q has ", q.batch, ", ", q.head, " and ", q.seq));
    }
    if (m.r.extent(0) != s.batch || m.r.extent(1) * m.r.extent(2) != s.head) {
        door::refuse(sentence<A>("heed: weights of ", m.r.extent(1), " x ", m.r.extent(2), " heads in ", m.r.extent(0), " batch entries; tokens were picked by ", s.head, " in ", s.batch));
    }
    std::vector<T> to;
    for (extent_t x = 0; x < s.size(); ++x) {
        extent_t const e = x / s.seq % s.head, token = m.picked.at().data_handle()[x];
        if (token >= m.r.extent(3)) { door::refuse(sentence<A>("heed: head ", e, " picked token ", token, "; there are weights of ", m.r.extent(3))); }
        to.push_back(m.r(x / s.seq / s.head, e / m.r.extent(2), e % m.r.extent(2), token));
    }
    return to;
}

} // namespace detail

template <class M>
concept PickedAttention = detail::is_mosa<M>;

// q, k (B, E, w, d), v, out (B, E, w, dv): rows of the picked tokens, float or double. Returns what backward needs. Option: a backend. Throws shape_error before out is written.
template <class A = native_arch, class M, class Q, class K, class V, class O, class... Options>
    requires PickedAttention<M>
auto forward(M const& m, Q const& q_in, K const& k_in, V const& v_in, O&& out_in, Options const&... options) {
    auto const out = as_view(out_in);
    using T = typename decltype(out)::element_type;
    static_assert(std::is_same_v<T, float> || std::is_same_v<T, double>, "heed: attention among picked tokens takes float or double");
    tensor_view<T const> const q = as_view(q_in);
    auto backend = detail::pick_backend(cpu<serial, A>{}, options...);
    using detail::argument;
    argument const given[] = {argument::of("q", q), argument::of("k", as_view(k_in)), argument::of("v", as_view(v_in)), argument::of("out", out)};
    detail::door<A>::check_axes(given, 4, detail::pairwise_rules);
    detail::door<A>::check_outputs(given, 4);
    auto const weights = detail::weights_of_picks<A>(m, q.shape());
    shape const s = out.shape(), rows{s.batch, s.head, s.seq, 1};
    mosa_saved<T> saved{std::vector<T>(static_cast<std::size_t>(s.size())), std::vector<T>(static_cast<std::size_t>(rows.size()))};
    positions const in_time{m.picked.at(), m.picked.at()};
    forward<A>(chosen_attention(any_pattern(in_time), m.factor == T(0) ? inv_sqrt<T>(q.extent(3)) : m.factor), q, k_in, v_in, tensor_view<T>(saved.out.data(), s), save{tensor_view<T>(saved.lse.data(), rows)}, backend);
    gated_rows<T, A>::sum(tensor_view<T const>(weights.data(), rows), tensor_view<T const>(saved.out.data(), s), out, true, backend.executor, detail::concurrency_of(backend.executor));
    return saved;
}

// Gradients dq, dk, dv, written, not accumulated; saved is what forward returned. Options: a backend, pick_weight_gradient{dr}.
template <class A = native_arch, class M, class Q, class K, class V, class O, class T, class DO, class DQ, class DK, class DV, class... Options>
    requires PickedAttention<M>
void backward(M const& m, Q const& q_in, K const& k_in, V const& v_in, O const&, mosa_saved<T> const& saved, DO const& dout_in, DQ&& dq, DK&& dk, DV&& dv, Options const&... options) {
    static_assert(((detail::is_backend<Options> || detail::is_pick_gradient<Options>) && ...), "heed: options of backward over picked tokens are a backend and pick_weight_gradient{...}");
    pick_weight_gradient<T> const dr = detail::pick_pick_gradient<T>(options...);
    tensor_view<T const> const q = as_view(q_in), dout = as_view(dout_in);
    auto backend = detail::pick_backend(cpu<serial, A>{}, options...);
    using detail::argument;
    auto const weights = detail::weights_of_picks<A>(m, q.shape());
    shape const s{q.extent(0), q.extent(1), q.extent(2), as_view(v_in).extent(3)}, rows{s.batch, s.head, s.seq, 1};
    detail::door<A>::check_same(argument::of("dout", dout), argument{"out", s, {}, 1, sizeof(T), {}, false});
    if (dr.d.data_handle() != nullptr) { detail::door<A>::check_same(argument::of("the gradient of the weights", dr.d), argument::of("the weights", m.r)); }
    std::vector<T> up(static_cast<std::size_t>(s.size())), of_weights(static_cast<std::size_t>(rows.size()));
    tensor_view<T const> const part(saved.out.data(), s);
    gated_rows<T, A>::gradient(tensor_view<T const>(weights.data(), rows), part, dout, tensor_view<T>(up.data(), s), tensor_view<T>(of_weights.data(), rows), backend.executor, detail::concurrency_of(backend.executor));
    positions const in_time{m.picked.at(), m.picked.at()};
    backward<A>(chosen_attention(any_pattern(in_time), m.factor == T(0) ? inv_sqrt<T>(q.extent(3)) : m.factor), q, k_in, v_in, part, save{tensor_view<T>(const_cast<T*>(saved.lse.data()), rows)}, tensor_view<T const>(up.data(), s), dq, dk, dv, backend);
    if (dr.d.data_handle() == nullptr) { return; }
    for (extent_t n = 0; n < m.r.shape().size(); ++n) { dr.d(n / m.r.extent(3) / m.r.extent(2) / m.r.extent(1), n / m.r.extent(3) / m.r.extent(2) % m.r.extent(1), n / m.r.extent(3) % m.r.extent(2), n % m.r.extent(3)) = T(0); }
    for (extent_t x = 0; x < rows.size(); ++x) {
        extent_t const e = x / s.seq % s.head;
        dr.d(x / s.seq / s.head, e / m.r.extent(2), e % m.r.extent(2), m.picked.at().data_handle()[x]) += of_weights[static_cast<std::size_t>(x)];
    }
}

} // namespace heed
