// SPDX-License-Identifier: BSD-3-Clause
// Attention to retrieved chunks (hierarchical sparse attention, RAMba; grouped cross attention before it): every chosen chunk has a softmax of its own,
//
//   out_i = sum over slots s of w_is sum_{j in chunk c_is} e^{q_i . k_j factor} / (sum_{j in chunk} e^{...} + n) v_j
//
// and the chunks' weights w, which need not sum to 1, come from the scores a of retrieval: in the order of slots, most recent chunk first,
//   stick_breaking  w_s = sigmoid(a_s) prod_{t < s} (1 - sigmoid(a_t)): sums to 1 at most, not renormalised
//   softmax_weights w_s = e^{a_s} / sum_t e^{a_t}; all empty: 0
// Query heads of a group share choices and weights. Gradients reach q, k, v and the weights; none passes through the choice. A row without chunks is 0.
#pragma once

#include <heed/engine/cpu/gated_rows.hpp>
#include <heed/front/chosen.hpp>
#include <heed/front/select.hpp>
#include <heed/policy/pattern/routed.hpp>

#include <cmath>

namespace heed {

template <class T>
struct hsa {
    extent_t chunk;                           // keys of a chunk
    tensor_view<std::int32_t const> lists;    // {B, S, N, slots}, -1: empty; H a multiple of S
    tensor_view<T const> weights;             // as lists
    T factor = 0;                             // of the scores; 0: 1 / sqrt(d)
    T off = 0;                                // n
};
template <class I, class T>
hsa(extent_t, tensor_view<I>, tensor_view<T>) -> hsa<std::remove_const_t<T>>;
template <class I, class T, class F>
hsa(extent_t, tensor_view<I>, tensor_view<T>, F) -> hsa<std::remove_const_t<T>>;
template <class I, class T, class F, class N>
hsa(extent_t, tensor_view<I>, tensor_view<T>, F, N) -> hsa<std::remove_const_t<T>>;

template <class T>
hsa<std::remove_const_t<T>> retrieved_chunk_attention(extent_t chunk, tensor_view<std::int32_t const> lists, tensor_view<T> weights) {
    return {chunk, lists, weights};
}

// Option of backward: the gradient of the weights, in their shape.
template <class T>
struct chunk_weight_gradient {
    tensor_view<T> d = {};
};
template <class T>
chunk_weight_gradient(tensor_view<T>) -> chunk_weight_gradient<T>;

// Chosen chunks and their weights, {B, S, N, slots}; a slot of number -1 is empty.
template <class T>
struct hsa_choice {
    std::vector<std::int32_t> list;
    std::vector<T> score, weight;
    shape s;
    tensor_view<std::int32_t const> lists() const { return {list.data(), s}; }
    tensor_view<T const> scores() const { return {score.data(), s}; }
    tensor_view<T const> weights() const { return {weight.data(), s}; }
};
enum class chunk_weights { stick_breaking, softmax };

// Retrieval: the best `slots` chunks that lie wholly before the query's own, by e . landmark / sqrt(d_r), in falling order of their numbers, and their weights.
// e (B, S, N, d_r), landmarks (B, S, chunks, d_r); keys: a tensor with the sequence lengths. Option: a backend.
template <class A = native_arch, class E, class L, class K, class... Options>
auto retrieve_chunks(E const& e_in, L const& landmarks, K const& keys, extent_t chunk, extent_t slots, chunk_weights kind, Options const&... options) {
    auto const e = as_view(e_in);
    using T = typename decltype(e)::value_type;
    auto found = select_lists<A>(past_rule{}, e, landmarks, keys, chunk, slots, static_cast<double>(inv_sqrt<T>(e.extent(3))), options...);
    hsa_choice<T> to{std::move(found.list), std::move(found.score), {}, found.s};
    to.weight.resize(to.list.size());
    for (extent_t row = 0; row < to.s.batch * to.s.head * to.s.seq; ++row) {
        std::int32_t* const list = to.list.data() + row * slots;
        T *const a = to.score.data() + row * slots, *const w = to.weight.data() + row * slots;
        for (extent_t x = 1; x < slots; ++x) { // few slots: sorted by insertion, empty ones last
            std::int32_t const c = list[x];
            T const s = a[x];
            extent_t y = x;
            for (; y > 0 && list[y - 1] < c; --y) { list[y] = list[y - 1], a[y] = a[y - 1]; }
            list[y] = c, a[y] = s;
        }
        T rest(1), sum(0), top = -math::inf<T>();
        for (extent_t x = 0; x < slots; ++x) { top = a[x] > top ? a[x] : top; }
        for (extent_t x = 0; x < slots; ++x) {
            if (list[x] < 0) {
                w[x] = T(0);
            } else if (kind == chunk_weights::stick_breaking) {
                T const p = a[x] >= T(0) ? T(1) / (T(1) + std::exp(-a[x])) : std::exp(a[x]) / (T(1) + std::exp(a[x]));
                w[x] = rest * p;
                rest *= a[x] >= T(0) ? std::exp(-a[x]) / (T(1) + std::exp(-a[x])) : T(1) / (T(1) + std::exp(a[x]));
            } else {
                w[x] = std::exp(a[x] - top);
                sum += w[x];
            }
        }
        for (extent_t x = 0; kind == chunk_weights::softmax && sum > T(0) && x < slots; ++x) { w[x] /= sum; }
    }
    return to;
}
// The gradient of the scores from that of the weights, both {B, S, N, slots}: to the query and the landmarks it goes as through any product.
template <class T>
void chunk_score_gradient(hsa_choice<T> const& choice, chunk_weights kind, std::span<T const> dweight, std::span<T> dscore) {
    extent_t const slots = choice.s.feature;
    for (extent_t row = 0; row < choice.s.batch * choice.s.head * choice.s.seq; ++row) {
        std::size_t const at = static_cast<std::size_t>(row * slots);
        T after(0); // sum over later slots of dw w
        for (extent_t x = slots - 1; x >= 0; --x) {
            std::size_t const n = at + static_cast<std::size_t>(x);
            T const part = dweight[n] * choice.weight[n];
            if (kind == chunk_weights::stick_breaking) { // w_x = sigmoid(a_x) rest: d w_x = w_x (1 - p), and every later weight has the factor 1 - p
                T const p = T(1) / (T(1) + std::exp(-choice.score[n]));
                dscore[n] = choice.list[n] < 0 ? T(0) : part * (T(1) - p) - after * p;
            }
            after += part;
        }
        for (extent_t x = 0; kind == chunk_weights::softmax && x < slots; ++x) {
            std::size_t const n = at + static_cast<std::size_t>(x);
            dscore[n] = choice.weight[n] * (dweight[n] - after);
        }
    }
}

// What forward leaves for backward: rows and log-sum-exps of every slot.
template <class T>
struct hsa_saved {
    shape s; // of the rows of a slot
    std::vector<std::vector<T>> out, lse;
    tensor_view<T> part(extent_t n) { return {out[static_cast<std::size_t>(n)].data(), s}; }
    tensor_view<T const> part(extent_t n) const { return {out[static_cast<std::size_t>(n)].data(), s}; }
    tensor_view<T> sums(extent_t n) { return {lse[static_cast<std::size_t>(n)].data(), {s.batch, s.head, s.seq, 1}}; }
    tensor_view<T> sums(extent_t n) const { return {const_cast<T*>(lse[static_cast<std::size_t>(n)].data()), {s.batch, s.head, s.seq, 1}}; }
};

namespace detail {

// One slot of {B, S, N, slots}.
template <class T>
tensor_view<T> slot_of(tensor_view<T> const& v, extent_t slot) {
    return {v.data_handle() == nullptr ? nullptr : v.data_handle() + slot * v.stride(3), {v.extent(0), v.extent(1), v.extent(2), 1}, v.strides()};
}
template <class M>
inline constexpr bool is_hsa = false;
template <class T>
inline constexpr bool is_hsa<hsa<T>> = true;
template <class O>
inline constexpr bool is_chunk_gradient = false;
template <class T>
inline constexpr bool is_chunk_gradient<chunk_weight_gradient<T>> = true;
template <class T>
chunk_weight_gradient<T> pick_chunk_gradient() { return {}; }
template <class T, class First, class... Rest>
chunk_weight_gradient<T> pick_chunk_gradient(First const& first, Rest const&... rest) {
    if constexpr (is_chunk_gradient<First>) { return first; } else { return pick_chunk_gradient<T>(rest...); }
}
template <class A, class T, class F>
void for_each_slot(hsa<T> const& m, tensor_view<T const> const& q, tensor_view<T const> const& k, F const& f) {
    using door = detail::door<A>;
    auto const& lists = m.lists;
    if (m.chunk < 1) { door::refuse(sentence<A>("heed: chunks of ", m.chunk, " keys; a chunk has at least one")); }
    extent_t const heads = lists.extent(1), chunks = (k.extent(2) + m.chunk - 1) / m.chunk;
    if (heads < 1 || q.extent(1) % heads != 0 || lists.extent(0) != q.extent(0) || lists.extent(2) != q.extent(2)) {
        door::refuse(sentence<A>("heed: lists of chunks are for ", lists.extent(0), " batch entries, ", heads, " heads and ", lists.extent(2), " queries; q has ", q.extent(0), ", ", q.extent(1), " and ", q.extent(2)));
    }
    door::check_same(argument::of("the weights", m.weights), argument::of("the lists", lists));
    for (extent_t s = 0; s < lists.extent(3); ++s) {
        block_bits const bits(slot_of(lists, s), chunks);
        routed const pattern(bits.map(1, m.chunk, q.extent(1) / heads));
        f(s, any_pattern(pattern));
    }
}
template <class T>
auto chunk_attention(hsa<T> const& m, any_pattern const& pattern, extent_t width) {
    return chosen_attention(pattern, m.factor == T(0) ? inv_sqrt<T>(width) : m.factor, m.off > T(0) ? std::log(m.off) : -math::inf<T>());
}

} // namespace detail

template <class M>
concept ChunkedSparse = detail::is_hsa<M>;

// q, out (B, H, N, d | dv), k, v (B, Hkv, M, d | dv), float or double. Returns what backward needs. Option: a backend.
template <class A = native_arch, class M, class Q, class K, class V, class O, class... Options>
    requires ChunkedSparse<M>
auto forward(M const& m, Q const& q_in, K const& k_in, V const& v_in, O&& out_in, Options const&... options) {
    auto const out = as_view(out_in);
    using T = typename decltype(out)::element_type;
    tensor_view<T const> const q = as_view(q_in), k = as_view(k_in), v = as_view(v_in);
    auto backend = detail::pick_backend(cpu<serial, A>{}, options...);
    int const slots = detail::concurrency_of(backend.executor);
    hsa_saved<T> saved{out.shape(), {}, {}};
    for (extent_t b = 0; b < out.extent(0) && m.lists.extent(3) == 0; ++b) {
        for (extent_t x = 0; x < out.extent(1) * out.extent(2) * out.extent(3); ++x) { out(b, x / out.extent(3) / out.extent(2), x / out.extent(3) % out.extent(2), x % out.extent(3)) = T(0); }
    }
    detail::for_each_slot<A>(m, q, k, [&](extent_t s, any_pattern const& pattern) {
        saved.out.emplace_back(static_cast<std::size_t>(out.shape().size()));
        saved.lse.emplace_back(static_cast<std::size_t>(q.extent(0) * q.extent(1) * q.extent(2)));
        forward<A>(detail::chunk_attention<T>(m, pattern, q.extent(3)), q, k, v, saved.part(s), save{saved.sums(s)}, backend);
        gated_rows<T, A>::sum(detail::slot_of(m.weights, s), saved.part(s), out, s == 0, backend.executor, slots);
    });
    return saved;
}

// Gradients of q, k, v, written, not accumulated; saved is what forward returned. Options: a backend, chunk_weight_gradient{dweights}.
template <class A = native_arch, class M, class Q, class K, class V, class O, class T, class DO, class DQ, class DK, class DV, class... Options>
    requires ChunkedSparse<M>
void backward(M const& m, Q const& q_in, K const& k_in, V const& v_in, O const&, hsa_saved<T> const& saved, DO const& dout_in, DQ&& dq_in, DK&& dk_in, DV&& dv_in, Options const&... options) {
    static_assert(((detail::is_backend<Options> || detail::is_chunk_gradient<Options>) && ...), "heed: options of backward over chunks are a backend and chunk_weight_gradient{...}");
    chunk_weight_gradient<T> const dweights = detail::pick_chunk_gradient<T>(options...);
    tensor_view<T const> const q = as_view(q_in), k = as_view(k_in), v = as_view(v_in), dout = as_view(dout_in);
    tensor_view<T> const dq = as_view(dq_in), dk = as_view(dk_in), dv = as_view(dv_in);
    auto backend = detail::pick_backend(cpu<serial, A>{}, options...);
    using rows = gated_rows<T, A>;
    using detail::argument;
    detail::door<A>::check_same(argument::of("dout", dout), argument{"the saved rows", saved.s, {}, 1, sizeof(T), {}, false});
    int const slots = detail::concurrency_of(backend.executor);
    auto const room = [](shape s) { return std::vector<T>(static_cast<std::size_t>(s.size())); };
    auto dy = room(dout.shape()), dq_part = room(q.shape()), dk_part = room(k.shape()), dv_part = room(v.shape());
    tensor_view<T> const to_y(dy.data(), dout.shape()), to_q(dq_part.data(), q.shape()), to_k(dk_part.data(), k.shape()), to_v(dv_part.data(), v.shape());
    detail::for_each_slot<A>(m, q, k, [&](extent_t s, any_pattern const& pattern) {
        rows::gradient(detail::slot_of(m.weights, s), saved.part(s), dout, to_y, detail::slot_of(dweights.d, s), backend.executor, slots);
        backward<A>(detail::chunk_attention<T>(m, pattern, q.extent(3)), q, k, v, saved.part(s), save{saved.sums(s)}, tensor_view<T const>(to_y), s == 0 ? dq : to_q, s == 0 ? dk : to_k, s == 0 ? dv : to_v, backend);
        if (s == 0) { return; }
        rows::add(to_q, dq, backend.executor, slots), rows::add(to_k, dk, backend.executor, slots), rows::add(to_v, dv, backend.executor, slots);
    });
}

} // namespace heed
