// SPDX-License-Identifier: BSD-3-Clause
// Superlinear multi-step attention (arXiv:2601.18401): a query searches among anchors whose distances grow as powers, attends around the best of them, and mixes
// what it found there:
//
//   anchors of position t   a_i = t - (floor(i^(1/p)) - 1) >= 0,  i = near + 1, near + 2, ...         about t^p of them
//   window                  the last W = floor((near + 1)^(1/p)) - 1 positions; the first anchor is the one before it
//   search                  s_i = search_t . k_(a_i), unscaled; the `top` greatest, of equals the nearest
//   spans                   [a - ceil(back sqrt(t + 1)), a + ceil(ahead sqrt(t + 1))], within the sequence and before the window
//   out_t = sum over the chosen of g_n softmax attention over span n and window,   g = softmax of their s; no anchor: the window alone
//
// Powers and roots are exact, by integers (floating point puts floor(i^2) below i^2 for hundreds of i below 2000). Gradients reach q, k, v and, through g, the
// search queries and the keys at anchors; none passes through the choice. window >= t + 1 is causal attention.
// Cost: N^(1 + p) d for the search; attention by tiles: each tile of queries visits the union of their spans, `top` times the window.
#pragma once

#include <heed/engine/cpu/gated_rows.hpp>
#include <heed/front/chosen.hpp>
#include <heed/front/hsa.hpp>
#include <heed/policy/pattern/spans.hpp>

#include <cmath>
#include <cstdint>
#include <vector>

namespace heed {

// p = part / whole, 0 < part <= whole <= 32.
struct search_power {
    int part = 1, whole = 2;
};

template <class T>
struct superlinear {
    tensor_view<T const> search; // {B, H, N, d}
    extent_t near = 2, top = 2, back = 2, ahead = 0;
    search_power power = {};
    T factor = 0; // of attention's scores; 0: 1 / sqrt(d)
};
template <class T>
superlinear(tensor_view<T>) -> superlinear<std::remove_const_t<T>>;
template <class T>
superlinear(tensor_view<T>, extent_t, extent_t) -> superlinear<std::remove_const_t<T>>;

template <class T>
superlinear<std::remove_const_t<T>> superlinear_attention(tensor_view<T> search, extent_t near, extent_t top) {
    return {search, near, top};
}

// Option of backward: the gradient of the search queries, in their shape.
template <class T>
struct search_gradient {
    tensor_view<T> d = {};
};
template <class T>
search_gradient(tensor_view<T>) -> search_gradient<T>;

// What forward leaves for backward: anchors (-1: none), gates and spans of every slot, and the rows of every slot.
template <class T>
struct superlinear_saved {
    hsa_saved<T> rows;
    shape s; // {B, H, N, top}
    std::vector<std::int32_t> anchor;
    std::vector<T> gate;
    std::vector<std::vector<std::int32_t>> spans; // of a slot: {B, H, N, 2}
    tensor_view<std::int32_t const> anchors() const { return {anchor.data(), s}; }
    tensor_view<T const> gates() const { return {gate.data(), s}; }
};

// floor(i^(whole / part)), exact.
inline extent_t exact_power(extent_t i, search_power p) {
    using digits = std::vector<std::uint32_t>; // least first
    auto const power = [](extent_t x, int n) {
        digits y{1};
        for (; n > 0; --n) {
            std::uint64_t carry = 0;
            for (auto& digit : y) {
                carry += static_cast<std::uint64_t>(digit) * static_cast<std::uint64_t>(x);
                digit = static_cast<std::uint32_t>(carry);
                carry >>= 32;
            }
            if (carry != 0) { y.push_back(static_cast<std::uint32_t>(carry)); }
        }
        return y;
    };
    auto const greater = [](digits const& a, digits const& b) {
        if (a.size() != b.size()) { return a.size() > b.size(); }
        for (std::size_t n = a.size(); n-- > 0;) {
            if (a[n] != b[n]) { return a[n] > b[n]; }
        }
        return false;
    };
    digits const of = power(i, p.whole);
    auto n = static_cast<extent_t>(std::pow(static_cast<double>(i), static_cast<double>(p.whole) / p.part));
    while (n > 0 && greater(power(n, p.part), of)) { --n; }
    while (!greater(power(n + 1, p.part), of)) { ++n; }
    return n;
}
// ceil(sqrt(x))
inline extent_t ceil_root(extent_t x) {
    auto n = static_cast<extent_t>(std::sqrt(static_cast<double>(x)));
    while (n > 0 && (n - 1) * (n - 1) >= x) { --n; }
    while (n * n < x) { ++n; }
    return n;
}

namespace detail {

template <class M>
inline constexpr bool is_superlinear = false;
template <class T>
inline constexpr bool is_superlinear<superlinear<T>> = true;
template <class O>
inline constexpr bool is_search_gradient = false;
template <class T>
inline constexpr bool is_search_gradient<search_gradient<T>> = true;
template <class T>
search_gradient<T> pick_search_gradient() { return {}; }
template <class T, class First, class... Rest>
search_gradient<T> pick_search_gradient(First const& first, Rest const&... rest) {
    if constexpr (is_search_gradient<First>) { return first; } else { return pick_search_gradient<T>(rest...); }
}

template <class A, class T>
T dot_of_rows(T const* x, extent_t xs, T const* y, extent_t ys, extent_t d) {
    using V = vec<T, A>;
    extent_t e = 0;
    T part[V::lanes], sum(0);
    if (xs == 1 && ys == 1 && d >= V::lanes) {
        V all(0);
        for (; e + V::lanes <= d; e += V::lanes) { all = fma(V::load(x + e), V::load(y + e), all); }
        all.store(part);
        for (T const p : part) { sum += p; }
    }
    for (; e < d; ++e) { sum += x[e * xs] * y[e * ys]; }
    return sum;
}

// Distances of the anchors, nearest first, up to `reach`; the first is the width of the window.
template <class A, class T>
std::vector<extent_t> anchor_distances(superlinear<T> const& m, extent_t reach) {
    if (m.near < 0 || m.top < 1 || m.back < 0 || m.ahead < 0 || m.power.part < 1 || m.power.whole < m.power.part || m.power.whole > 32) {
        door<A>::refuse(sentence<A>("heed: superlinear{near ", m.near, ", top ", m.top, ", back ", m.back, ", ahead ", m.ahead, ", power ", m.power.part, "/", m.power.whole, "}; at least one anchor is chosen, nothing is negative, the power lies in (0, 1], with 32 at most below"));
    }
    std::vector<extent_t> to;
    for (extent_t i = m.near + 1;; ++i) {
        extent_t const far = exact_power(i, m.power) - 1;
        if (!to.empty() && far > reach) { return to; }
        if (to.empty() || far > to.back()) { to.push_back(far); } // an anchor counts once
    }
}

} // namespace detail

template <class M>
concept SuperlinearAttention = detail::is_superlinear<M>;

// q, out (B, H, N, d | dv), k, v (B, Hkv, M, d | dv), float or double; query i stands at i + (M - N). Returns what backward needs. Option: a backend. Throws shape_error
// before out is written.
template <class A = native_arch, class M, class Q, class K, class V, class O, class... Options>
    requires SuperlinearAttention<M>
auto forward(M const& m, Q const& q_in, K const& k_in, V const& v_in, O&& out_in, Options const&... options) {
    auto const out = as_view(out_in);
    using T = typename decltype(out)::element_type;
    static_assert(std::is_same_v<T, float> || std::is_same_v<T, double>, "heed: superlinear attention takes float or double");
    tensor_view<T const> const q = as_view(q_in), k = as_view(k_in), v = as_view(v_in);
    auto backend = detail::pick_backend(cpu<serial, A>{}, options...);
    using detail::argument;
    using door = detail::door<A>;
    door::check_pairwise(q, k, v, out);
    door::check_same(argument::of("the search queries", m.search), argument::of("q", q));
    if (q.is_ragged() || k.is_ragged() || q.extent(2) > k.extent(2)) { door::refuse(sentence<A>("heed: superlinear attention takes sequences of one length, with no more queries than keys; q has ", q.extent(2), " positions and k ", k.extent(2))); }
    auto const far = detail::anchor_distances<A>(m, k.extent(2));
    extent_t const B = q.extent(0), H = q.extent(1), N = q.extent(2), d = q.extent(3), shift = k.extent(2) - N, group = k.extent(1) > 0 ? H / k.extent(1) : 1, window = far[0], top = m.top;
    superlinear_saved<T> saved{{out.shape(), {}, {}}, {B, H, N, top}, std::vector<std::int32_t>(static_cast<std::size_t>(B * H * N * top), -1), std::vector<T>(static_cast<std::size_t>(B * H * N * top)), {}};
    saved.spans.assign(static_cast<std::size_t>(top), std::vector<std::int32_t>(static_cast<std::size_t>(B * H * N * 2)));
    int const slots = detail::concurrency_of(backend.executor);
    detail::for_each_item<A>(backend.executor, slots, B * H * N, [&](extent_t row, int) noexcept {
        extent_t const b = row / N / H, h = row / N % H, i = row % N, t = i + shift;
        std::int32_t* const anchor = saved.anchor.data() + row * top;
        T* const score = saved.gate.data() + row * top;
        extent_t found = 0;
        for (std::size_t n = 0; n < far.size() && far[n] <= t; ++n) {
            T const s = detail::dot_of_rows<A>(m.search.row(b, h, i), m.search.stride(3), k.row(b, h / group, t - far[n]), k.stride(3), d);
            if (found == top && !(s > score[top - 1])) { continue; }
            extent_t place = found < top ? found++ : top - 1;
            for (; place > 0 && s > score[place - 1]; --place) { score[place] = score[place - 1], anchor[place] = anchor[place - 1]; }
            score[place] = s, anchor[place] = static_cast<std::int32_t>(t - far[n]);
        }
        extent_t const behind = ceil_root(m.back * m.back * (t + 1)), before = ceil_root(m.ahead * m.ahead * (t + 1)), last = t - window;
        T sum(0), peak = found > 0 ? score[0] : T(0);
        for (extent_t n = 0; n < found; ++n) { sum += score[n] = std::exp(score[n] - peak); }
        for (extent_t n = 0; n < top; ++n) {
            score[n] = n < found ? score[n] / sum : n == 0 && found == 0 ? T(1) : T(0);
            range const span = n < found ? intersect({anchor[n] - behind, anchor[n] + before + 1}, {0, last + 1}) : range{0, 0};
            saved.spans[static_cast<std::size_t>(n)][static_cast<std::size_t>(row * 2)] = static_cast<std::int32_t>(span.begin);
            saved.spans[static_cast<std::size_t>(n)][static_cast<std::size_t>(row * 2 + 1)] = static_cast<std::int32_t>(span.end);
        }
    });
    for (extent_t n = 0; n < top; ++n) {
        saved.rows.out.emplace_back(static_cast<std::size_t>(out.shape().size()));
        saved.rows.lse.emplace_back(static_cast<std::size_t>(B * H * N));
        span_or_window const pattern{{saved.spans[static_cast<std::size_t>(n)].data(), {B, H, N, 2}}, window};
        forward<A>(chosen_attention(any_pattern(pattern), m.factor == T(0) ? inv_sqrt<T>(d) : m.factor), q, k, v, saved.rows.part(n), save{saved.rows.sums(n)}, backend);
        gated_rows<T, A>::sum(detail::slot_of(saved.gates(), n), saved.rows.part(n), out, n == 0, backend.executor, slots);
    }
    return saved;
}

// Gradients dq, dk, dv, written, not accumulated; saved is what forward returned. Options: a backend, search_gradient{dsearch}.
template <class A = native_arch, class M, class Q, class K, class V, class O, class T, class DO, class DQ, class DK, class DV, class... Options>
    requires SuperlinearAttention<M>
void backward(M const& m, Q const& q_in, K const& k_in, V const& v_in, O const&, superlinear_saved<T> const& saved, DO const& dout_in, DQ&& dq_in, DK&& dk_in, DV&& dv_in, Options const&... options) {
    static_assert(((detail::is_backend<Options> || detail::is_search_gradient<Options>) && ...), "heed: options of superlinear attention's backward are a backend and search_gradient{...}");
    search_gradient<T> const dsearch = detail::pick_search_gradient<T>(options...);
    tensor_view<T const> const q = as_view(q_in), k = as_view(k_in), v = as_view(v_in), dout = as_view(dout_in);
    tensor_view<T> const dq = as_view(dq_in), dk = as_view(dk_in), dv = as_view(dv_in);
    auto backend = detail::pick_backend(cpu<serial, A>{}, options...);
    using rows = gated_rows<T, A>;
    using detail::argument;
    using door = detail::door<A>;
    door::check_same(argument::of("dout", dout), argument{"the saved rows", saved.rows.s, {}, 1, sizeof(T), {}, false});
    door::check_same(argument::of("dq", dq), argument::of("q", q));
    door::check_same(argument::of("dk", dk), argument::of("k", k));
    door::check_same(argument::of("dv", dv), argument::of("v", v));
    if (dsearch.d.data_handle() != nullptr) { door::check_same(argument::of("the gradient of the search", dsearch.d), argument::of("the search queries", m.search)); }
    int const slots = detail::concurrency_of(backend.executor);
    extent_t const B = q.extent(0), H = q.extent(1), N = q.extent(2), d = q.extent(3), G = k.extent(1), group = G > 0 ? H / G : 1, top = saved.s.feature, window = detail::anchor_distances<A>(m, k.extent(2))[0];
    auto const room = [](shape s) { return std::vector<T>(static_cast<std::size_t>(s.size())); };
    auto dy = room(dout.shape()), dq_part = room(q.shape()), dk_part = room(k.shape()), dv_part = room(v.shape()), dgate = room(saved.s);
    tensor_view<T> const to_y(dy.data(), dout.shape()), to_q(dq_part.data(), q.shape()), to_k(dk_part.data(), k.shape()), to_v(dv_part.data(), v.shape()), to_gate(dgate.data(), saved.s);
    for (extent_t n = 0; n < top; ++n) {
        rows::gradient(detail::slot_of(saved.gates(), n), saved.rows.part(n), dout, to_y, detail::slot_of(to_gate, n), backend.executor, slots);
        span_or_window const pattern{{saved.spans[static_cast<std::size_t>(n)].data(), {B, H, N, 2}}, window};
        backward<A>(chosen_attention(any_pattern(pattern), m.factor == T(0) ? inv_sqrt<T>(d) : m.factor), q, k, v, saved.rows.part(n), save{saved.rows.sums(n)}, tensor_view<T const>(to_y), n == 0 ? dq : to_q, n == 0 ? dk : to_k, n == 0 ? dv : to_v, backend);
        if (n == 0) { continue; }
        rows::add(to_q, dq, backend.executor, slots), rows::add(to_k, dk, backend.executor, slots), rows::add(to_v, dv, backend.executor, slots);
    }
    // through the gates to the searches, head by head of the keys
    detail::for_each_item<A>(backend.executor, slots, B * G, [&](extent_t item, int) noexcept {
        extent_t const b = item / G, g = item % G;
        for (extent_t h = g * group; h < (g + 1) * group; ++h)
            for (extent_t i = 0; i < N; ++i) {
                T mean(0);
                for (extent_t n = 0; n < top; ++n) { mean += saved.gates()(b, h, i, n) * to_gate(b, h, i, n); }
                for (extent_t e = 0; dsearch.d.data_handle() != nullptr && e < d; ++e) { dsearch.d(b, h, i, e) = T(0); }
                for (extent_t n = 0; n < top; ++n) {
                    std::int32_t const a = saved.anchors()(b, h, i, n);
                    T const ds = saved.gates()(b, h, i, n) * (to_gate(b, h, i, n) - mean);
                    for (extent_t e = 0; a >= 0 && e < d; ++e) {
                        dk(b, g, a, e) += ds * m.search(b, h, i, e);
                        if (dsearch.d.data_handle() != nullptr) { dsearch.d(b, h, i, e) += ds * k(b, g, a, e); }
                    }
                }
            }
    });
}

} // namespace heed
