// SPDX-License-Identifier: BSD-3-Clause
// ANNA, approximate nearest neighbour attention (Liu et al., arXiv:2509.09001): values are averaged over the keys that fall in the query's bucket, table by table, with
// neither scores nor softmax:
//
//   out_i = sum_u sum_{j: g_u(k_j) = g_u(q_i)} v_j / sum_u |{j: g_u(k_j) = g_u(q_i)}|,   g_u(x) = signs of z products of x with the planes of table u
//
// A key that shares more tables weighs more; a query that meets no key gets 0. Planes are data, drawn from a seed (lsh_planes): the seed is part of the result.
// causal: keys at positions up to the query's own, i + (M - N). Gradients reach v, exactly; those of q and k are 0 everywhere.
// Cost: tables (N + M) (bits d + dv + log M); memory of a slot: the sums of one table's buckets.
//
//   lsh_planes<float> const planes(seed, tables, bits, d);
//   forward(anna{planes.view(), tables, causal}, q, k, v, out);
//   anna_buckets<float> state(batch, heads, dv, tables);  step(m, q_new, k_new, v_new, state, out_new);      causal, token by token
#pragma once

#include <heed/engine/cpu/parallel.hpp>
#include <heed/front/semiring_matmul.hpp>
#include <heed/policy/feature/random_maps.hpp>

#include <algorithm>
#include <unordered_map>
#include <vector>

namespace heed {

template <class T>
struct anna {
    tensor_view<T const> planes; // {1, 1, tables bits, d}
    extent_t tables;             // 1 to 62 bits each, or 0: one bucket
    bool causal = false;

    extent_t bits() const { return tables > 0 ? planes.extent(2) / tables : 0; }
};
template <class T>
anna(tensor_view<T>, extent_t) -> anna<std::remove_const_t<T>>;
template <class T>
anna(tensor_view<T>, extent_t, bool) -> anna<std::remove_const_t<T>>;

template <class T>
class lsh_planes {
    shape s_;
    std::vector<T> x_;

public:
    lsh_planes(std::uint64_t seed, extent_t tables, extent_t bits, extent_t d) : s_{1, 1, tables * bits, d}, x_(static_cast<std::size_t>(s_.size())) {
        if (s_.size() > 0) { draw_projection(seed, tensor_view<T>(x_.data(), s_)); }
    }
    tensor_view<T const> view() const { return {x_.data(), s_}; }
};

// How many keys every query met, tables counted apart, {B, H, N, 1}: what backward needs.
template <class T>
struct anna_saved {
    std::vector<T> count;
    shape s;
    tensor_view<T const> counts() const { return {count.data(), s}; }
};

namespace detail {

template <class A, class T>
void check_anna(anna<T> const& m, extent_t width) {
    using door = detail::door<A>;
    if (m.tables < 1 || m.planes.extent(0) != 1 || m.planes.extent(1) != 1 || m.planes.extent(2) % m.tables != 0 || m.bits() > 62 || (m.planes.extent(3) != width && m.planes.extent(2) > 0)) {
        door::refuse(sentence<A>("heed: ", m.planes.extent(2), " planes of ", m.planes.extent(3), " features for ", m.tables, " hash tables of vectors of ", width, "; each table has as many planes, 62 at most, of that width"));
    }
}
// Buckets of all rows: {B, H, tables, N}.
template <class A, class T, class... Options>
std::vector<std::uint64_t> codes_of(anna<T> const& m, tensor_view<T const> const& x, Options const&... options) {
    extent_t const B = x.extent(0), H = x.extent(1), N = x.extent(2), z = m.bits();
    std::vector<std::uint64_t> code(static_cast<std::size_t>(B * H * m.tables * N));
    std::vector<T> product(static_cast<std::size_t>(B * H * m.tables * z * N));
    tensor_view<T const> const columns(x.data_handle(), {B, H, x.extent(3), N}, {x.stride(0), x.stride(1), x.stride(3), x.stride(2)});
    if (z > 0) { semiring_matmul<A>(plus_times{}, m.planes, columns, tensor_view<T>(product.data(), {B, H, m.tables * z, N}), options...); }
    for (extent_t n = 0; n < B * H * m.tables * N; ++n) {
        T const* const p = product.data() + n / N * z * N + n % N;
        for (extent_t b = 0; b < z; ++b) { code[static_cast<std::size_t>(n)] |= std::uint64_t(p[b * N] > T(0)) << b; }
    }
    return code;
}
// Buckets of one table of keys, numbered by their codes.
class bucket_index {
    std::vector<std::uint64_t> code_;

public:
    std::vector<extent_t> of_key;
    bucket_index(std::uint64_t const* keys, extent_t count) : code_(keys, keys + count), of_key(static_cast<std::size_t>(count)) {
        std::sort(code_.begin(), code_.end());
        code_.erase(std::unique(code_.begin(), code_.end()), code_.end());
        for (extent_t j = 0; j < count; ++j) { of_key[static_cast<std::size_t>(j)] = find(keys[j]); }
    }
    extent_t buckets() const { return static_cast<extent_t>(code_.size()); }
    extent_t find(std::uint64_t code) const { // -1: no key has it
        auto const at = std::lower_bound(code_.begin(), code_.end(), code);
        return at != code_.end() && *at == code ? static_cast<extent_t>(at - code_.begin()) : -1;
    }
};

} // namespace detail

// q (B, H, N, d), k, v (B, Hkv, M, d | dv), out (B, H, N, dv), float or double. Returns what backward needs. Option: a backend. Throws shape_error before out is written.
template <class A = native_arch, class U, class Q, class K, class V, class O, class... Options>
auto forward(anna<U> const& m, Q const& q_in, K const& k_in, V const& v_in, O&& out_in, Options const&... options) {
    auto const out = as_view(out_in);
    using T = typename decltype(out)::element_type;
    static_assert(std::is_same_v<T, U>, "heed: the planes and the tensors are of one type, float or double");
    tensor_view<T const> const q = as_view(q_in), k = as_view(k_in), v = as_view(v_in);
    auto backend = detail::pick_backend(cpu<serial, A>{}, options...);
    detail::door<A>::check_pairwise(q, k, v, out);
    if (q.is_ragged() || k.is_ragged()) { detail::door<A>::refuse("heed: hash tables take sequences of one length"); }
    detail::check_anna<A>(m, q.extent(3));
    extent_t const B = q.extent(0), H = q.extent(1), G = k.extent(1), N = q.extent(2), M = k.extent(2), dv = v.extent(3), group = G > 0 ? H / G : 1, L = m.tables;
    auto const of_q = detail::codes_of<A>(m, q, backend), of_k = detail::codes_of<A>(m, k, backend);
    anna_saved<T> saved{std::vector<T>(static_cast<std::size_t>(B * H * N)), {B, H, N, 1}};
    detail::for_each_item<A>(backend.executor, detail::concurrency_of(backend.executor), B * G, [&](extent_t item, int) {
        extent_t const b = item / G, g = item % G;
        for (extent_t h = g * group; h < (g + 1) * group; ++h)
            for (extent_t i = 0; i < N; ++i)
                for (extent_t e = 0; e < dv; ++e) { out(b, h, i, e) = T(0); }
        for (extent_t u = 0; u < L; ++u) {
            detail::bucket_index const index(of_k.data() + ((b * G + g) * L + u) * M, M);
            std::vector<T> sum(static_cast<std::size_t>(index.buckets() * dv)), count(static_cast<std::size_t>(index.buckets()));
            extent_t there = 0;
            auto const put_until = [&](extent_t end) {
                for (; there < end && there < M; ++there) {
                    extent_t const x = index.of_key[static_cast<std::size_t>(there)];
                    count[static_cast<std::size_t>(x)] += T(1);
                    for (extent_t e = 0; e < dv; ++e) { sum[static_cast<std::size_t>(x * dv + e)] += v(b, g, there, e); }
                }
            };
            if (!m.causal) { put_until(M); }
            for (extent_t i = 0; i < N; ++i) {
                if (m.causal) { put_until(i + M - N + 1); }
                for (extent_t h = g * group; h < (g + 1) * group; ++h) {
                    extent_t const x = index.find(of_q[static_cast<std::size_t>(((b * H + h) * L + u) * N + i)]);
                    if (x < 0 || count[static_cast<std::size_t>(x)] == T(0)) { continue; } // an empty bucket adds nothing
                    saved.count[static_cast<std::size_t>((b * H + h) * N + i)] += count[static_cast<std::size_t>(x)];
                    for (extent_t e = 0; e < dv; ++e) { out(b, h, i, e) += sum[static_cast<std::size_t>(x * dv + e)]; }
                }
            }
        }
        for (extent_t h = g * group; h < (g + 1) * group; ++h)
            for (extent_t i = 0; i < N; ++i) {
                T const met = saved.count[static_cast<std::size_t>((b * H + h) * N + i)];
                for (extent_t e = 0; met > T(0) && e < dv; ++e) { out(b, h, i, e) /= met; }
            }
    });
    return saved;
}

// Gradients: dv exactly; dq and dk, where they have data, are 0. Written, not accumulated. saved is what forward returned. Option: a backend.
template <class A = native_arch, class T, class Q, class K, class V, class O, class DO, class DQ, class DK, class DV, class... Options>
void backward(anna<T> const& m, Q const& q_in, K const& k_in, V const& v_in, O const&, anna_saved<T> const& saved, DO const& dout_in, DQ&& dq_in, DK&& dk_in, DV&& dv_in, Options const&... options) {
    tensor_view<T const> const q = as_view(q_in), k = as_view(k_in), v = as_view(v_in), dout = as_view(dout_in);
    tensor_view<T> const dq = as_view(dq_in), dk = as_view(dk_in), dv = as_view(dv_in);
    auto backend = detail::pick_backend(cpu<serial, A>{}, options...);
    using detail::argument;
    using door = detail::door<A>;
    extent_t const B = q.extent(0), H = q.extent(1), G = k.extent(1), N = q.extent(2), M = k.extent(2), width = v.extent(3), group = G > 0 ? H / G : 1, L = m.tables;
    detail::check_anna<A>(m, q.extent(3));
    door::check_same(argument::of("dout", dout), argument{"out", {B, H, N, width}, {}, 1, sizeof(T), {}, false});
    door::check_same(argument{"what was saved", saved.s, {}, 1, sizeof(T), {}, false}, argument{"q", {B, H, N, 1}, {}, 1, sizeof(T), {}, false});
    door::check_same(argument::of("dv", dv), argument::of("v", v));
    auto const clear = [&](tensor_view<T> const& d, char const* name, argument const& of) {
        if (d.data_handle() == nullptr) { return; }
        door::check_same(argument::of(name, d), of);
        for (extent_t b = 0; b < d.extent(0); ++b)
            for (extent_t h = 0; h < d.extent(1); ++h)
                for (extent_t n = 0; n < d.extent(2); ++n)
                    for (extent_t e = 0; e < d.extent(3); ++e) { d(b, h, n, e) = T(0); }
    };
    clear(dq, "dq", argument::of("q", q)), clear(dk, "dk", argument::of("k", k)), clear(dv, "dv", argument::of("v", v));
    auto const of_q = detail::codes_of<A>(m, q, backend), of_k = detail::codes_of<A>(m, k, backend);
    detail::for_each_item<A>(backend.executor, detail::concurrency_of(backend.executor), B * G, [&](extent_t item, int) {
        extent_t const b = item / G, g = item % G;
        for (extent_t u = 0; u < L; ++u) {
            detail::bucket_index const index(of_k.data() + ((b * G + g) * L + u) * M, M);
            std::vector<T> sum(static_cast<std::size_t>(index.buckets() * width)); // of dout / count of the queries that see what comes now
            auto const meet = [&](extent_t i) {
                for (extent_t h = g * group; h < (g + 1) * group; ++h) {
                    extent_t const x = index.find(of_q[static_cast<std::size_t>(((b * H + h) * L + u) * N + i)]);
                    T const met = saved.count[static_cast<std::size_t>((b * H + h) * N + i)];
                    for (extent_t e = 0; x >= 0 && met > T(0) && e < width; ++e) { sum[static_cast<std::size_t>(x * width + e)] += dout(b, h, i, e) / met; }
                }
            };
            extent_t left = N; // queries not met yet, from the last
            for (extent_t j = M - 1; j >= 0; --j) {
                for (; left > 0 && (!m.causal || left - 1 + M - N >= j); --left) { meet(left - 1); }
                extent_t const x = index.of_key[static_cast<std::size_t>(j)];
                for (extent_t e = 0; e < width; ++e) { dv(b, g, j, e) += sum[static_cast<std::size_t>(x * width + e)]; }
            }
        }
    });
}

// Buckets of a causal sequence so far: sums of values and counts, for every table, key head and batch entry.
template <class T>
class anna_buckets {
    struct bucket {
        T count = T(0);
        std::vector<T> sum;
    };
    extent_t batch_, heads_, width_, tables_;
    std::vector<std::unordered_map<std::uint64_t, bucket>> tables_of_;

public:
    anna_buckets(extent_t batch, extent_t heads, extent_t value_width, extent_t tables)
        : batch_(batch), heads_(heads), width_(value_width), tables_(tables), tables_of_(static_cast<std::size_t>(batch * heads * tables)) {}
    bool fits(extent_t batch, extent_t heads, extent_t value_width, extent_t tables) const { return batch == batch_ && heads == heads_ && value_width == width_ && tables == tables_; }
    template <class Value>
    void put(extent_t b, extent_t g, extent_t u, std::uint64_t code, Value const& value) {
        bucket& x = tables_of_[static_cast<std::size_t>((b * heads_ + g) * tables_ + u)][code];
        x.sum.resize(static_cast<std::size_t>(width_));
        x.count += T(1);
        for (extent_t e = 0; e < width_; ++e) { x.sum[static_cast<std::size_t>(e)] += value(e); }
    }
    // f(count, sums) if the bucket has keys
    template <class F>
    void meet(extent_t b, extent_t g, extent_t u, std::uint64_t code, F const& f) const {
        auto const& table = tables_of_[static_cast<std::size_t>((b * heads_ + g) * tables_ + u)];
        auto const found = table.find(code);
        if (found != table.end()) { f(found->second.count, found->second.sum); }
    }
};
// New tokens behind those of the state, one after another: each is put, then asked. The rows of a causal forward over all of them.
template <class A = native_arch, class T, class Q, class K, class V, class O>
void step(anna<T> const& m, Q const& q_in, K const& k_in, V const& v_in, anna_buckets<T>& state, O&& out_in) {
    tensor_view<T const> const q = as_view(q_in), k = as_view(k_in), v = as_view(v_in);
    tensor_view<T> const out = as_view(out_in);
    using detail::argument;
    using door = detail::door<A>;
    door::check_pairwise(q, k, v, out);
    detail::check_anna<A>(m, q.extent(3));
    extent_t const H = q.extent(1), G = k.extent(1), N = q.extent(2), dv = v.extent(3), group = G > 0 ? H / G : 1;
    if (!m.causal || k.extent(2) != N || !state.fits(q.extent(0), G, dv, m.tables)) { door::refuse("heed: a step through hash tables is causal, takes as many queries as keys, and a state of its batch, key heads, value width and tables"); }
    auto const of_q = detail::codes_of<A>(m, q), of_k = detail::codes_of<A>(m, k);
    for (extent_t b = 0; b < q.extent(0); ++b)
        for (extent_t g = 0; g < G; ++g)
            for (extent_t i = 0; i < N; ++i) {
                for (extent_t u = 0; u < m.tables; ++u) { state.put(b, g, u, of_k[static_cast<std::size_t>(((b * G + g) * m.tables + u) * N + i)], [&](extent_t e) { return v(b, g, i, e); }); }
                for (extent_t h = g * group; h < (g + 1) * group; ++h) {
                    T met(0);
                    for (extent_t e = 0; e < dv; ++e) { out(b, h, i, e) = T(0); }
                    for (extent_t u = 0; u < m.tables; ++u) {
                        state.meet(b, g, u, of_q[static_cast<std::size_t>(((b * H + h) * m.tables + u) * N + i)], [&](T count, std::vector<T> const& sum) {
                            met += count;
                            for (extent_t e = 0; e < dv; ++e) { out(b, h, i, e) += sum[static_cast<std::size_t>(e)]; }
                        });
                    }
                    for (extent_t e = 0; met > T(0) && e < dv; ++e) { out(b, h, i, e) /= met; }
                }
            }
}

} // namespace heed
