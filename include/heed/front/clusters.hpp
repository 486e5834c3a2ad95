// SPDX-License-Identifier: BSD-3-Clause
// Routing Transformer (Roy et al., arXiv:2003.05997): each of C clusters of a head takes the `window` queries and the `window` keys that are nearest to its mean,
// attends among them, and a token's result is the mean over the clusters that took it:
//
//   out_i = 1 / (count_i + epsilon) sum over clusters c that took i of softmax over the keys j of c of factor q_i . k_j; no cluster: 0
//
//   cluster_means<double> means(H, C, d);  means.set(first)                                a state that no gradient reaches
//   auto const taken = take_clusters(unit_rows(q), unit_rows(k), means.view(), window);    lists of tokens, rising
//   forward(clusters{taken, causal, epsilon}, q, k, v, out);
//   means.update(x, 0.999, mean_rule::counted)                                             after a step of training
//
// epsilon: 1e-2 in the authors' code (a token of one cluster is scaled by 1 / 1.01), 1e-5 in a well-known other one. Causal compares positions; the choice itself
// looks at the whole sequence. memory_keys, memory_values: rows of each cluster that all its queries see. avoids_self, where queries and keys are the same: a
// token sees itself only where it sees nothing else. Cost: 2 N C d for the choice of either side, 2 C window^2 (d + dv) for attention.
#pragma once

#include <heed/engine/cpu/gated_rows.hpp>
#include <heed/front/chosen.hpp>
#include <heed/front/pick.hpp>
#include <heed/front/semiring_matmul.hpp>
#include <heed/policy/pattern/positions.hpp>

#include <cmath>

namespace heed {

struct taken_tokens {
    picked_tokens queries, keys; // {B, H C, window, 1}
};

template <class T>
struct clusters {
    taken_tokens const& taken; // must live as long
    bool causal = false;
    T epsilon = T(1e-2);
    bool avoids_self = false;
    tensor_view<T const> memory_keys = {}, memory_values = {}; // {1, H C, m, d | dv}; no data: none
    T factor = 0;                                              // 0: 1 / sqrt(d)
};
template <class T>
clusters(taken_tokens, bool, T) -> clusters<T>;
template <class T>
clusters(taken_tokens, bool, T, bool) -> clusters<T>;

// Rows of length 1, {B, H, N, d}; a row of zeros stays.
template <class T>
struct row_storage {
    std::vector<T> x;
    shape s;
    tensor_view<T const> view() const { return {x.data(), s}; }
};
template <class X>
auto unit_rows(X const& x_in) {
    auto const x = as_view(x_in);
    using T = typename decltype(x)::value_type;
    row_storage<T> to{{}, x.shape()};
    for (extent_t row = 0; row < to.s.batch * to.s.head * to.s.seq; ++row) {
        T const* const from = x.row(row / to.s.seq / to.s.head, row / to.s.seq % to.s.head, row % to.s.seq);
        double squares = 0;
        for (extent_t e = 0; e < to.s.feature; ++e) { squares += static_cast<double>(from[e * x.stride(3)]) * static_cast<double>(from[e * x.stride(3)]); }
        double const length = std::sqrt(squares) > 1e-12 ? std::sqrt(squares) : 1e-12;
        for (extent_t e = 0; e < to.s.feature; ++e) { to.x.push_back(static_cast<T>(static_cast<double>(from[e * x.stride(3)]) / length)); }
    }
    return to;
}

namespace detail {
// Products of means {1, H, C, d} with x {B, G, N, d}: {B, H, C, N}; H a multiple of G.
template <class A, class T, class... Options>
std::vector<T> nearness(tensor_view<T const> const& means, tensor_view<T const> const& x, Options const&... options) {
    extent_t const B = x.extent(0), G = x.extent(1), N = x.extent(2), d = x.extent(3), H = means.extent(1), C = means.extent(2), group = G > 0 ? H / G : 1;
    if (x.is_ragged() || means.extent(0) != 1 || means.extent(3) != d || G < 1 || H % G != 0) {
        door<A>::refuse(sentence<A>("heed: means of clusters for ", H, " heads of ", means.extent(3), " features, and tokens of ", G, " heads of ", d, x.is_ragged() ? ", ragged" : "", "; heads are a multiple, features equal, sequences of one length"));
    }
    std::vector<T> to(static_cast<std::size_t>(B * H * C * N));
    tensor_view<T const> const columns(x.data_handle(), {B, G, d, N}, {x.stride(0), x.stride(1), x.stride(3), x.stride(2)});
    for (extent_t h = 0; h < H; ++h) {
        tensor_view<T const> const of_head(means.row(0, h, 0), {1, 1, C, d}, means.strides()), tokens(columns.row(0, h / group, 0), {B, 1, d, N}, columns.strides());
        semiring_matmul<A>(plus_times{}, of_head, tokens, tensor_view<T>(to.data() + h * C * N, {B, 1, C, N}, {H * C * N, 0, N, 1}), options...);
    }
    return to;
}
} // namespace detail

// The `window` queries and keys of the greatest product with each mean. q {B, H, N, d}, k {B, Hkv, M, d}, means {1, H, C, d}. Option: a backend. Throws shape_error.
template <class A = native_arch, class Q, class K, class M, class... Options>
taken_tokens take_clusters(Q const& q_in, K const& k_in, M const& means_in, extent_t window, Options const&... options) {
    using T = typename decltype(as_view(q_in))::value_type;
    tensor_view<T const> const q = as_view(q_in), k = as_view(k_in), means = as_view(means_in);
    if (q.extent(1) != means.extent(1)) { detail::door<A>::refuse(sentence<A>("heed: means of clusters for ", means.extent(1), " heads and q of ", q.extent(1))); }
    auto const pick = [&](tensor_view<T const> const& x) {
        auto const score = detail::nearness<A>(means, x, options...);
        return pick_tokens(tensor_view<T const>(score.data(), {x.extent(0), means.extent(1), means.extent(2), x.extent(2)}), window);
    };
    return {pick(q), pick(k)};
}

// The means {1, H, C, d}, by exponential moving averages of the tokens nearest to each:
//   counted  sums and counts move apart, mean = sum / (count + 1e-5)
//   unit     mean <- (decay mean + (1 - decay) mean of its tokens), made of length 1
// A mean that has no token stays. Tokens are those the mechanism compares with (unit or normalised rows).
enum class mean_rule { counted, unit };
template <class T>
class cluster_means {
    extent_t heads_, clusters_, width_;
    std::vector<T> mean_, sum_, count_;

public:
    cluster_means(extent_t heads, extent_t clusters, extent_t width)
        : heads_(heads), clusters_(clusters), width_(width), mean_(static_cast<std::size_t>(heads * clusters * width)), sum_(mean_.size()), count_(static_cast<std::size_t>(heads * clusters), T(1)) {}
    // The means from elsewhere, with the counts that they have so far.
    template <class X>
    void set(X const& means_in, T count = T(1)) {
        auto const means = as_view(means_in);
        detail::door<native_arch>::check_same(detail::argument::of("the means", means), detail::argument{"the clusters", {1, heads_, clusters_, width_}, {}, 1, sizeof(T), {}, false});
        for (std::size_t n = 0; n < mean_.size(); ++n) {
            extent_t const at = static_cast<extent_t>(n);
            mean_[n] = means(0, at / width_ / clusters_, at / width_ % clusters_, at % width_), sum_[n] = mean_[n] * count;
        }
        for (T& c : count_) { c = count; }
    }
    tensor_view<T const> view() const { return {mean_.data(), {1, heads_, clusters_, width_}}; }
    // The mean of the greatest product for every token of x {B, H, N, d}, {B, H, 1, N}; of equals the first.
    template <class A = native_arch, class X>
    std::vector<std::int32_t> nearest(X const& x_in) const {
        tensor_view<T const> const x = as_view(x_in);
        auto const score = detail::nearness<A>(view(), x);
        extent_t const N = x.extent(2), heads = x.extent(0) * heads_;
        std::vector<std::int32_t> to(static_cast<std::size_t>(heads * N));
        for (extent_t h = 0; h < heads; ++h)
            for (extent_t n = 0; n < N; ++n) {
                extent_t best = 0;
                for (extent_t c = 1; c < clusters_; ++c) { best = score[static_cast<std::size_t>((h * clusters_ + c) * N + n)] > score[static_cast<std::size_t>((h * clusters_ + best) * N + n)] ? c : best; }
                to[static_cast<std::size_t>(h * N + n)] = static_cast<std::int32_t>(best);
            }
        return to;
    }
    template <class A = native_arch, class X>
    void update(X const& x_in, T decay, mean_rule rule) {
        tensor_view<T const> const x = as_view(x_in);
        auto const near = nearest<A>(x);
        extent_t const N = x.extent(2), group = x.extent(1) > 0 ? heads_ / x.extent(1) : 1;
        std::vector<T> sum(mean_.size()), count(count_.size());
        for (extent_t b = 0; b < x.extent(0); ++b)
            for (extent_t h = 0; h < heads_; ++h)
                for (extent_t n = 0; n < N; ++n) {
                    std::size_t const c = static_cast<std::size_t>(h * clusters_ + near[static_cast<std::size_t>((b * heads_ + h) * N + n)]);
                    count[c] += T(1);
                    for (extent_t e = 0; e < width_; ++e) { sum[c * static_cast<std::size_t>(width_) + static_cast<std::size_t>(e)] += x(b, h / group, n, e); }
                }
        for (std::size_t c = 0; c < count.size(); ++c) {
            T* const mean = mean_.data() + c * static_cast<std::size_t>(width_);
            T *const all = sum_.data() + (mean - mean_.data()), *const now = sum.data() + (mean - mean_.data());
            if (count[c] == T(0)) { continue; }
            count_[c] = decay * count_[c] + (T(1) - decay) * count[c];
            T squares(0);
            for (extent_t e = 0; e < width_; ++e) {
                all[e] = decay * all[e] + (T(1) - decay) * now[e];
                mean[e] = rule == mean_rule::counted ? all[e] / (count_[c] + T(1e-5)) : decay * mean[e] + (T(1) - decay) * now[e] / count[c];
                squares += mean[e] * mean[e];
            }
            T const length = rule == mean_rule::unit && squares > T(0) ? std::sqrt(squares) : T(1);
            for (extent_t e = 0; e < width_; ++e) { mean[e] /= length; }
        }
    }
};

// What forward leaves for backward: rows of the clusters, with their weights not yet applied.
template <class T>
struct cluster_saved {
    std::vector<T> out, lse, weight; // {B, H C, window, dv | 1}; {B, H, N, 1}
};
// Option of backward: gradients of the memories, in their shape.
template <class T>
struct cluster_memory_gradients {
    tensor_view<T> keys = {}, values = {};
};
template <class T>
cluster_memory_gradients(tensor_view<T>, tensor_view<T>) -> cluster_memory_gradients<T>;

namespace detail {

template <class M>
inline constexpr bool is_clusters = false;
template <class T>
inline constexpr bool is_clusters<clusters<T>> = true;
template <class O>
inline constexpr bool is_cluster_memory_gradient = false;
template <class T>
inline constexpr bool is_cluster_memory_gradient<cluster_memory_gradients<T>> = true;
template <class T>
cluster_memory_gradients<T> pick_cluster_memory_gradients() { return {}; }
template <class T, class First, class... Rest>
cluster_memory_gradients<T> pick_cluster_memory_gradients(First const& first, Rest const&... rest) {
    if constexpr (is_cluster_memory_gradient<First>) { return first; } else { return pick_cluster_memory_gradients<T>(rest...); }
}

// Rows of a call as the clusters see them, heads of their own.
template <class A, class T>
class cluster_rows {
    using door = detail::door<A>;
    clusters<T> const& m_;

public:
    extent_t B, H, E, w, memories, d, dv;
    std::vector<T> q, k, v;
    std::vector<std::int32_t> order; // positions of keys, -1 a memory

    cluster_rows(clusters<T> const& m, tensor_view<T const> const& of_q, tensor_view<T const> const& of_k, tensor_view<T const> const& of_v)
        : m_(m), B(of_q.extent(0)), H(of_q.extent(1)), E(m.taken.queries.extents().head), w(m.taken.keys.extents().seq), memories(m.memory_keys.data_handle() == nullptr ? 0 : m.memory_keys.extent(2)), d(of_q.extent(3)), dv(of_v.extent(3)) {
        if (m.taken.queries.extents().batch != B || m.taken.keys.extents().batch != B || m.taken.keys.extents().head != E || H < 1 || E % H != 0 || of_q.is_ragged() || of_k.is_ragged()) {
            door::refuse(sentence<A>("heed: tokens taken by ", E, " clusters in ", m.taken.queries.extents().batch, " batch entries, and q of ", H, " heads in ", B, "; clusters are a multiple of the heads, sequences of one length"));
        }
        auto const within = [&](picked_tokens const& taken, extent_t tokens) {
            for (extent_t b = 0; b < B; ++b)
                for (extent_t e = 0; e < E && taken.extents().seq > 0; ++e) {
                    std::int32_t const last = taken.at()(b, e, taken.extents().seq - 1, 0);
                    if (last >= tokens) { door::refuse(sentence<A>("heed: cluster ", e, " of batch entry ", b, " took token ", last, " of ", tokens)); }
                }
        };
        within(m.taken.queries, of_q.extent(2)), within(m.taken.keys, of_k.extent(2));
        if (memories > 0) {
            door::check_same(argument::of("the memory keys", m.memory_keys), argument{"the clusters", {1, E, memories, d}, {}, 1, sizeof(T), {}, false});
            door::check_same(argument::of("the memory values", m.memory_values), argument{"the clusters", {1, E, memories, dv}, {}, 1, sizeof(T), {}, false});
        }
        q.resize(static_cast<std::size_t>(q_shape().size())), k.resize(static_cast<std::size_t>(k_shape().size())), v.resize(static_cast<std::size_t>(v_shape().size()));
        gather_tokens(m.taken.queries, of_q, tensor_view<T>(q.data(), q_shape()));
        gather_tokens(m.taken.keys, of_k, behind(k.data(), k_shape())), gather_tokens(m.taken.keys, of_v, behind(v.data(), v_shape()));
        for (extent_t x = 0; x < B * E * memories; ++x) {
            for (extent_t e = 0; e < d; ++e) { k[static_cast<std::size_t>((x / memories * keys() + x % memories) * d + e)] = m.memory_keys(0, x / memories % E, x % memories, e); }
            for (extent_t e = 0; e < dv; ++e) { v[static_cast<std::size_t>((x / memories * keys() + x % memories) * dv + e)] = m.memory_values(0, x / memories % E, x % memories, e); }
        }
        order.assign(static_cast<std::size_t>(B * E * keys()), -1);
        for (extent_t x = 0; x < B * E * w; ++x) { order[static_cast<std::size_t>(x / w * keys() + memories + x % w)] = m.taken.keys.at().data_handle()[x]; }
    }
    extent_t queries() const { return m_.taken.queries.extents().seq; }
    extent_t keys() const { return memories + w; }
    shape q_shape() const { return {B, E, queries(), d}; }
    shape k_shape() const { return {B, E, keys(), d}; }
    shape v_shape() const { return {B, E, keys(), dv}; }
    shape out_shape() const { return {B, E, queries(), dv}; }
    shape row_shape() const { return {B, E, queries(), 1}; }
    T factor() const { return m_.factor == T(0) ? inv_sqrt<T>(d) : m_.factor; }
    // The part of the keys behind the memories.
    tensor_view<T> behind(T* x, shape s) const { return {x + memories * s.feature, {B, E, w, s.feature}, row_major(s)}; }
    template <class F>
    void with_pattern(F const& f) const {
        positions const in_time{m_.taken.queries.at(), {order.data(), {B, E, keys(), 1}}, m_.avoids_self};
        full const all;
        m_.causal ? f(any_pattern(in_time)) : f(any_pattern(all));
    }
    // f(b, cluster, query, key) for queries that see nothing but themselves.
    template <class F>
    void each_alone(T const* lse, F const& f) const {
        for (extent_t x = 0; m_.avoids_self && m_.causal && x < B * E * queries(); ++x) {
            if (lse[x] != -math::inf<T>()) { continue; }
            extent_t const row = x / queries(), own = m_.taken.queries.at().data_handle()[x];
            for (extent_t j = 0; j < w; ++j) {
                if (m_.taken.keys.at().data_handle()[row * w + j] == own) { f(row / E, row % E, x % queries(), memories + j); }
            }
        }
    }
};

} // namespace detail

template <class M>
concept ClusteredAttention = detail::is_clusters<M>;

// q, out (B, H, N, d | dv), k, v (B, Hkv, M, d | dv), float or double. Returns what backward needs. Option: a backend. Throws shape_error before out is written.
template <class A = native_arch, class M, class Q, class K, class V, class O, class... Options>
    requires ClusteredAttention<M>
auto forward(M const& m, Q const& q_in, K const& k_in, V const& v_in, O&& out_in, Options const&... options) {
    auto const out = as_view(out_in);
    using T = typename decltype(out)::element_type;
    static_assert(std::is_same_v<T, float> || std::is_same_v<T, double>, "heed: attention in clusters takes float or double");
    tensor_view<T const> const q = as_view(q_in), k = as_view(k_in), v = as_view(v_in);
    auto backend = detail::pick_backend(cpu<serial, A>{}, options...);
    detail::door<A>::check_pairwise(q, k, v, out);
    detail::cluster_rows<A, T> const x(m, q, k, v);
    cluster_saved<T> saved{std::vector<T>(static_cast<std::size_t>(x.out_shape().size())), std::vector<T>(static_cast<std::size_t>(x.row_shape().size())), {}};
    tensor_view<T> const rows(saved.out.data(), x.out_shape());
    x.with_pattern([&](any_pattern const& pattern) {
        forward<A>(chosen_attention(pattern, x.factor()), tensor_view<T const>(x.q.data(), x.q_shape()), tensor_view<T const>(x.k.data(), x.k_shape()), tensor_view<T const>(x.v.data(), x.v_shape()), rows,
                   save{tensor_view<T>(saved.lse.data(), x.row_shape())}, backend);
    });
    x.each_alone(saved.lse.data(), [&](extent_t b, extent_t e, extent_t i, extent_t j) {
        for (extent_t c = 0; c < x.dv; ++c) { rows(b, e, i, c) = x.v[static_cast<std::size_t>(((b * x.E + e) * x.keys() + j) * x.dv + c)]; }
    });
    for (std::int32_t const count : picks_of_tokens(m.taken.queries, x.H, q.extent(2))) { saved.weight.push_back(T(1) / (static_cast<T>(count) + m.epsilon)); }
    for (extent_t b = 0; b < x.B; ++b)
        for (extent_t h = 0; h < x.H; ++h)
            for (extent_t i = 0; i < q.extent(2); ++i)
                for (extent_t e = 0; e < x.dv; ++e) { out(b, h, i, e) = T(0); }
    scatter_tokens(m.taken.queries, rows, out, [&](extent_t b, extent_t, extent_t, extent_t h, extent_t token) { return saved.weight[static_cast<std::size_t>((b * x.H + h) * q.extent(2) + token)]; });
    return saved;
}

// Gradients dq, dk, dv, written, not accumulated; saved is what forward returned. Options: a backend, cluster_memory_gradients{dkeys, dvalues}.
template <class A = native_arch, class M, class Q, class K, class V, class O, class T, class DO, class DQ, class DK, class DV, class... Options>
    requires ClusteredAttention<M>
void backward(M const& m, Q const& q_in, K const& k_in, V const& v_in, O const&, cluster_saved<T> const& saved, DO const& dout_in, DQ&& dq_in, DK&& dk_in, DV&& dv_in, Options const&... options) {
    static_assert(((detail::is_backend<Options> || detail::is_cluster_memory_gradient<Options>) && ...), "heed: options of backward over clusters are a backend and cluster_memory_gradients{...}");
    cluster_memory_gradients<T> const dmemory = detail::pick_cluster_memory_gradients<T>(options...);
    tensor_view<T const> const q = as_view(q_in), k = as_view(k_in), v = as_view(v_in), dout = as_view(dout_in);
    tensor_view<T> const dq = as_view(dq_in), dk = as_view(dk_in), dv = as_view(dv_in);
    auto backend = detail::pick_backend(cpu<serial, A>{}, options...);
    using detail::argument;
    using door = detail::door<A>;
    detail::cluster_rows<A, T> const x(m, q, k, v);
    door::check_same(argument::of("dout", dout), argument{"out", {q.extent(0), q.extent(1), q.extent(2), v.extent(3)}, {}, 1, sizeof(T), {}, false});
    door::check_same(argument::of("dq", dq), argument::of("q", q));
    door::check_same(argument::of("dk", dk), argument::of("k", k));
    door::check_same(argument::of("dv", dv), argument::of("v", v));
    auto const room = [](shape s) { return std::vector<T>(static_cast<std::size_t>(s.size())); };
    auto up = room(x.out_shape()), of_q = room(x.q_shape()), of_k = room(x.k_shape()), of_v = room(x.v_shape());
    tensor_view<T> const rows(up.data(), x.out_shape()), to_v(of_v.data(), x.v_shape());
    gather_tokens(m.taken.queries, dout, rows);
    detail::for_each_pick(m.taken.queries, dout.shape(), [&](extent_t b, extent_t e, extent_t i, extent_t h, extent_t token) {
        for (extent_t c = 0; c < x.dv; ++c) { rows(b, e, i, c) *= saved.weight[static_cast<std::size_t>((b * x.H + h) * q.extent(2) + token)]; }
    });
    x.with_pattern([&](any_pattern const& pattern) {
        backward<A>(chosen_attention(pattern, x.factor()), tensor_view<T const>(x.q.data(), x.q_shape()), tensor_view<T const>(x.k.data(), x.k_shape()), tensor_view<T const>(x.v.data(), x.v_shape()),
                    tensor_view<T const>(saved.out.data(), x.out_shape()), save{tensor_view<T>(const_cast<T*>(saved.lse.data()), x.row_shape())}, tensor_view<T const>(rows), tensor_view<T>(of_q.data(), x.q_shape()),
                    tensor_view<T>(of_k.data(), x.k_shape()), to_v, backend);
    });
    x.each_alone(saved.lse.data(), [&](extent_t b, extent_t e, extent_t i, extent_t j) {
        for (extent_t c = 0; c < x.dv; ++c) { to_v(b, e, j, c) += rows(b, e, i, c); }
    });
    auto const back = [](picked_tokens const& taken, tensor_view<T const> const& from, tensor_view<T> const& to) {
        for (extent_t n = 0; n < to.shape().size(); ++n) { to(n / to.extent(3) / to.extent(2) / to.extent(1), n / to.extent(3) / to.extent(2) % to.extent(1), n / to.extent(3) % to.extent(2), n % to.extent(3)) = T(0); }
        scatter_tokens(taken, from, to, [](auto...) { return T(1); });
    };
    back(m.taken.queries, tensor_view<T const>(of_q.data(), x.q_shape()), dq);
    back(m.taken.keys, x.behind(of_k.data(), x.k_shape()), dk), back(m.taken.keys, x.behind(of_v.data(), x.v_shape()), dv);
    auto const memories = [&](std::vector<T> const& from, tensor_view<T> const& to) { // of all batch entries
        for (extent_t e = 0; to.data_handle() != nullptr && e < x.E * x.memories; ++e)
            for (extent_t c = 0; c < to.extent(3); ++c) {
                T sum(0);
                for (extent_t b = 0; b < x.B; ++b) { sum += from[static_cast<std::size_t>(((b * x.E + e / x.memories) * x.keys() + e % x.memories) * to.extent(3) + c)]; }
                to(0, e / x.memories, e % x.memories, c) = sum;
            }
    };
    memories(of_k, dmemory.keys), memories(of_v, dmemory.values);
}

} // namespace heed
