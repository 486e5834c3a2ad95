// SPDX-License-Identifier: BSD-3-Clause
// Combiner (Ren et al., arXiv:2107.05768), causal: a token sees near tokens directly and far ones through summaries of blocks, all in one softmax:
//
//   k'_r = max over the block of k_j, q'_r = max of q_j (feature by feature)      v'_r = sum_j softmax_j(q'_r . k_j / sqrt(d)) v_j over the block
//   out_i = softmax over {tokens seen} and {blocks seen} of q_i . k / sqrt(d), applied to v and v'
//
// A summary counts as one logit, whatever its size. segment >= 1, the fixed form: tokens of the own segment up to i, and every segment before it. segment = 0, the
// logarithmic form: token i, and for every power of two its left sibling block (heed/policy/pattern/summaries.hpp). segment >= N or segment = 1: causal softmax
// attention. Gradients are those of all of it, the maxima's to their first greatest element.
// Cost of the fixed form: N (segment + N / segment) pairs, of the other N log2 N, rounded up to tiles; summaries cost as many pairs again as a tile of them sees.
#pragma once

#include <heed/engine/cpu/gated_rows.hpp>
#include <heed/front/chosen.hpp>
#include <heed/policy/pattern/summaries.hpp>

#include <vector>

namespace heed {

struct combiner {
    extent_t segment = 0; // 0: the logarithmic form
};
HEED_HD constexpr combiner combiner_attention(extent_t segment = 0) { return {segment}; }

// What forward leaves for backward.
template <class T>
struct combiner_saved {
    struct summaries { // of one size of block
        extent_t size, count, first;      // its keys begin at `first`
        std::vector<T> q, k, v, lse;      // {B, H, count, d}, {B, Hkv, count, d}, {B, H, count, dv}, {B, H, count, 1}
        std::vector<std::int32_t> q_at, k_at; // tokens of the maxima
    };
    std::vector<summaries> level;
    std::vector<T> k, v, out, lse; // tokens and summaries, one head for each of q: {B, H, keys, d | dv}; {B, H, N, dv | 1}
    extent_t keys = 0;
};

namespace detail {

template <class A, class T, class E>
class combiner_call {
    using door = detail::door<A>;
    combiner const& m_;
    tensor_view<T const> const &q_, &k_, &v_;
    E& executor_;
    int slots_;

public:
    extent_t B, H, G, N, d, dv;

    combiner_call(combiner const& m, tensor_view<T const> const& q, tensor_view<T const> const& k, tensor_view<T const> const& v, E& executor)
        : m_(m), q_(q), k_(k), v_(v), executor_(executor), slots_(concurrency_of(executor)), B(q.extent(0)), H(q.extent(1)), G(k.extent(1)), N(q.extent(2)), d(q.extent(3)), dv(v.extent(3)) {
        if (m.segment < 0) { door::refuse(sentence<A>("heed: combiner{segment ", m.segment, "}; at least 1, or 0 for the logarithmic form")); }
        if (q.is_ragged() || k.is_ragged() || k.extent(2) != N) { door::refuse(sentence<A>("heed: Combiner is attention of a sequence to itself, of one length; q has ", N, " positions and k ", k.extent(2))); }
    }
    // f(pattern of tokens and summaries)
    template <class F>
    void with_pattern(F const& f) const {
        if (m_.segment > 0) {
            segment_summaries const p{N, m_.segment};
            f(any_pattern(p));
        } else {
            sibling_summaries const p{N};
            f(any_pattern(p));
        }
    }
    extent_t keys() const { return N == 0 ? 0 : m_.segment > 0 ? segment_summaries{N, m_.segment}.keys() : sibling_summaries{N}.keys(); }
    auto blank() const {
        combiner_saved<T> to;
        to.keys = keys();
        auto const add = [&](extent_t size, extent_t count, extent_t first) {
            auto const room = [&](extent_t heads, extent_t width) { return std::vector<T>(static_cast<std::size_t>(B * heads * count * width)); };
            to.level.push_back({size, count, first, room(H, d), room(G, d), room(H, dv), room(H, 1), std::vector<std::int32_t>(static_cast<std::size_t>(B * H * count * d)), std::vector<std::int32_t>(static_cast<std::size_t>(B * G * count * d))});
        };
        if (m_.segment > 0 && N > 0) { add(m_.segment, (N + m_.segment - 1) / m_.segment, N); }
        for (extent_t l = 1, first = N; m_.segment == 0 && N >> l > 0; first += N >> l, ++l) { add(extent_t(1) << l, N >> l, first); }
        auto const room = [&](extent_t rows, extent_t width) { return std::vector<T>(static_cast<std::size_t>(B * H * rows * width)); };
        to.k = room(to.keys, d), to.v = room(to.keys, dv), to.out = room(N, dv), to.lse = room(N, 1);
        return to;
    }
    // The greatest elements of the blocks of x {B, h, N, d}.
    void pool(tensor_view<T const> const& x, typename combiner_saved<T>::summaries const& of, T* to, std::int32_t* at) const {
        extent_t const heads = x.extent(1);
        for_each_item<A>(executor_, slots_, B * heads * of.count, [&](extent_t item, int) noexcept {
            extent_t const b = item / of.count / heads, h = item / of.count % heads, first = item % of.count * of.size, end = first + of.size < N ? first + of.size : N;
            for (extent_t e = 0; e < d; ++e) {
                extent_t best = first;
                for (extent_t j = first + 1; j < end; ++j) { best = x(b, h, j, e) > x(b, h, best, e) ? j : best; }
                to[item * d + e] = x(b, h, best, e), at[item * d + e] = static_cast<std::int32_t>(best);
            }
        });
    }
    // rows {B, heads, count, width} as keys first, ... of {B, H, keys, width}
    void place_rows(tensor_view<T const> const& rows, extent_t first, extent_t keys, T* to) const {
        extent_t const width = rows.extent(3), group = rows.extent(1) > 0 ? H / rows.extent(1) : 1;
        for_each_item<A>(executor_, slots_, B * H, [&](extent_t item, int) noexcept {
            for (extent_t n = 0; n < rows.extent(2); ++n)
                for (extent_t e = 0; e < width; ++e) { to[(item * keys + first + n) * width + e] = rows(item / H, item % H / group, n, e); }
        });
    }
    // The adjoint: to {B, heads, count, width} (+)= the rows of all the heads of its group, in their order.
    void sum_rows(T const* from, extent_t first, extent_t keys, tensor_view<T> const& to, bool fresh) const {
        extent_t const width = to.extent(3), heads = to.extent(1), group = heads > 0 ? H / heads : 1;
        for_each_item<A>(executor_, slots_, B * heads, [&](extent_t item, int) noexcept {
            extent_t const b = item / heads, h = item % heads;
            for (extent_t n = 0; n < to.extent(2); ++n)
                for (extent_t e = 0; e < width; ++e) {
                    T sum = fresh ? T(0) : to(b, h, n, e);
                    for (extent_t x = h * group; x < (h + 1) * group; ++x) { sum += from[((b * H + x) * keys + first + n) * width + e]; }
                    to(b, h, n, e) = sum;
                }
        });
    }
    // to[at] += from, the adjoint of pool
    void unpool(T const* from, std::int32_t const* at, typename combiner_saved<T>::summaries const& of, tensor_view<T> const& to) const {
        extent_t const heads = to.extent(1);
        for_each_item<A>(executor_, slots_, B * heads, [&](extent_t item, int) noexcept {
            for (extent_t x = item * of.count * d; x < (item + 1) * of.count * d; ++x) { to(item / heads, item % heads, at[x], x % d) += from[x]; }
        });
    }
    tensor_view<T const> rows(T const* x, extent_t heads, extent_t count, extent_t width) const { return {x, {B, heads, count, width}}; }
    tensor_view<T> rows(T* x, extent_t heads, extent_t count, extent_t width) const { return {x, {B, heads, count, width}}; }
};

} // namespace detail

// q, out (B, H, N, d | dv), k, v (B, Hkv, N, d | dv), float or double. Returns what backward needs. Option: a backend. Throws shape_error before out is written.
template <class A = native_arch, class M, class Q, class K, class V, class O, class... Options>
    requires std::is_same_v<M, combiner>
auto forward(M const& m, Q const& q_in, K const& k_in, V const& v_in, O&& out_in, Options const&... options) {
    auto const out = as_view(out_in);
    using T = typename decltype(out)::element_type;
    static_assert(std::is_same_v<T, float> || std::is_same_v<T, double>, "heed: Combiner takes float or double");
    tensor_view<T const> const q = as_view(q_in), k = as_view(k_in), v = as_view(v_in);
    auto backend = detail::pick_backend(cpu<serial, A>{}, options...);
    detail::door<A>::check_pairwise(q, k, v, out);
    detail::combiner_call<A, T, decltype(backend.executor)> const x(m, q, k, v, backend.executor);
    auto saved = x.blank();
    T const factor = inv_sqrt<T>(x.d);
    x.place_rows(k, 0, saved.keys, saved.k.data()), x.place_rows(v, 0, saved.keys, saved.v.data());
    for (auto& s : saved.level) {
        x.pool(q, s, s.q.data(), s.q_at.data()), x.pool(k, s, s.k.data(), s.k_at.data());
        own_segment const own{s.size};
        forward<A>(chosen_attention(any_pattern(own), factor), tensor_view<T const>(x.rows(s.q.data(), x.H, s.count, x.d)), k, v, x.rows(s.v.data(), x.H, s.count, x.dv), save{x.rows(s.lse.data(), x.H, s.count, 1)}, backend);
        x.place_rows(x.rows(static_cast<T const*>(s.k.data()), x.G, s.count, x.d), s.first, saved.keys, saved.k.data());
        x.place_rows(x.rows(static_cast<T const*>(s.v.data()), x.H, s.count, x.dv), s.first, saved.keys, saved.v.data());
    }
    auto const room = x.rows(saved.out.data(), x.H, x.N, x.dv);
    x.with_pattern([&](any_pattern const& pattern) {
        forward<A>(chosen_attention(pattern, factor), q, tensor_view<T const>(x.rows(saved.k.data(), x.H, saved.keys, x.d)), tensor_view<T const>(x.rows(saved.v.data(), x.H, saved.keys, x.dv)), room, save{x.rows(saved.lse.data(), x.H, x.N, 1)}, backend);
    });
    for (extent_t b = 0; b < x.B; ++b)
        for (extent_t h = 0; h < x.H; ++h)
            for (extent_t i = 0; i < x.N; ++i)
                for (extent_t e = 0; e < x.dv; ++e) { out(b, h, i, e) = room(b, h, i, e); }
    return saved;
}

// Gradients dq, dk, dv, written, not accumulated; saved is what forward returned. Option: a backend.
template <class A = native_arch, class M, class Q, class K, class V, class O, class T, class DO, class DQ, class DK, class DV, class... Options>
    requires std::is_same_v<M, combiner>
void backward(M const& m, Q const& q_in, K const& k_in, V const& v_in, O const&, combiner_saved<T> const& saved, DO const& dout_in, DQ&& dq_in, DK&& dk_in, DV&& dv_in, Options const&... options) {
    tensor_view<T const> const q = as_view(q_in), k = as_view(k_in), v = as_view(v_in), dout = as_view(dout_in);
    tensor_view<T> const dq = as_view(dq_in), dk = as_view(dk_in), dv = as_view(dv_in);
    auto backend = detail::pick_backend(cpu<serial, A>{}, options...);
    using detail::argument;
    using door = detail::door<A>;
    detail::combiner_call<A, T, decltype(backend.executor)> const x(m, q, k, v, backend.executor);
    if (saved.keys != x.keys() || static_cast<extent_t>(saved.k.size()) != x.B * x.H * saved.keys * x.d) { door::refuse("heed: what was saved is of another call of Combiner"); }
    door::check_same(argument::of("dout", dout), argument{"out", {x.B, x.H, x.N, x.dv}, {}, 1, sizeof(T), {}, false});
    door::check_same(argument::of("dq", dq), argument::of("q", q));
    door::check_same(argument::of("dk", dk), argument::of("k", k));
    door::check_same(argument::of("dv", dv), argument::of("v", v));
    T const factor = inv_sqrt<T>(x.d);
    using rows = gated_rows<T, A>;
    int const slots = detail::concurrency_of(backend.executor);
    std::vector<T> dkx(saved.k.size()), dvx(saved.v.size());
    x.with_pattern([&](any_pattern const& pattern) {
        backward<A>(chosen_attention(pattern, factor), q, x.rows(saved.k.data(), x.H, saved.keys, x.d), x.rows(saved.v.data(), x.H, saved.keys, x.dv), x.rows(saved.out.data(), x.H, x.N, x.dv),
                    save{x.rows(const_cast<T*>(saved.lse.data()), x.H, x.N, 1)}, dout, dq, x.rows(dkx.data(), x.H, saved.keys, x.d), x.rows(dvx.data(), x.H, saved.keys, x.dv), backend);
    });
    x.sum_rows(dkx.data(), 0, saved.keys, dk, true), x.sum_rows(dvx.data(), 0, saved.keys, dv, true);
    for (auto const& s : saved.level) {
        std::vector<T> up(s.v.size()), of_q(s.q.size()), of_pool(s.k.size()), of_k(static_cast<std::size_t>(x.B * x.G * x.N * x.d)), of_v(static_cast<std::size_t>(x.B * x.G * x.N * x.dv));
        x.sum_rows(dvx.data(), s.first, saved.keys, x.rows(up.data(), x.H, s.count, x.dv), true);
        x.sum_rows(dkx.data(), s.first, saved.keys, x.rows(of_pool.data(), x.G, s.count, x.d), true);
        x.unpool(of_pool.data(), s.k_at.data(), s, dk);
        own_segment const own{s.size};
        auto const to_k = x.rows(of_k.data(), x.G, x.N, x.d), to_v = x.rows(of_v.data(), x.G, x.N, x.dv);
        backward<A>(chosen_attention(any_pattern(own), factor), x.rows(s.q.data(), x.H, s.count, x.d), k, v, x.rows(s.v.data(), x.H, s.count, x.dv), save{x.rows(const_cast<T*>(s.lse.data()), x.H, s.count, 1)},
                    x.rows(static_cast<T const*>(up.data()), x.H, s.count, x.dv), x.rows(of_q.data(), x.H, s.count, x.d), to_k, to_v, backend);
        x.unpool(of_q.data(), s.q_at.data(), s, dq);
        rows::add(to_k, dk, backend.executor, slots), rows::add(to_v, dv, backend.executor, slots);
    }
}

} // namespace heed
