// SPDX-License-Identifier: BSD-3-Clause
// Selectors that predict which pairs matter, for any attention whose pattern is a block_map. No gradient passes through a choice.
//
//   select_connections  Sparsifiner (Wei et al., CVPR 2023): low-rank connectivity of tokens, one row of keys for every query
//     c_i = softmax over the r bases of scale q'_i . (sum_j k'_j down_j),  connectivity_ij = sum_r c_ir [|up_jr| > threshold] |up_jr|,  the `coefficients` greatest c
//     kept, and of each row the ceil(keep M) greatest connectivities, of equals the first. The first `dense_rows` queries (a class token) keep all keys.
//     q', k' are the caller's projections; scale is 1 / sqrt(heads) in the authors' code (0). Bits {B, H, N, M}: map(1, 1).
//   select_sparge       SpargeAttn (Zhang et al., arXiv:2502.18137), its first stage: blocks of queries by blocks of keys
//     means q_a, k_b of blocks (k less its mean over all tokens), P_ab = softmax over b of scale q_a . k_b; of each row the greatest, as many as have a running
//     sum of at most tau, at least one. A block whose rows are not alike - mean of all cosines of pairs, own ones included, at most theta - has no mean to
//     trust: such a key block stays out of the softmax and is kept by every row, such a query block keeps every key block. Bits {B, H, ceil(N / rows), ceil(M / keys)}.
//
// Costs: N r (d' + M) H and a partial sort a row; (N + M) d for the means and the cosines, which are one sum of unit rows, and N M d / (rows keys).
#pragma once

#include <heed/engine/backend.hpp>
#include <heed/front/check.hpp>
#include <heed/front/options.hpp>
#include <heed/kernel/math.hpp>
#include <heed/policy/pattern/block_bits.hpp>
#include <heed/view/adapt.hpp>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

namespace heed {

template <class T>
struct connectivity {
    tensor_view<T const> down, up; // {1, 1, M, r}
    double keep = 0.25;            // of the keys, for every query
    extent_t coefficients = 8;     // of a query; all: as many as bases
    T threshold = T(0.02);
    extent_t dense_rows = 1;
    T scale = 0; // 0: 1 / sqrt(heads)
};
template <class T>
connectivity(tensor_view<T>, tensor_view<T>) -> connectivity<std::remove_const_t<T>>;
template <class T>
connectivity(tensor_view<T>, tensor_view<T>, double, extent_t) -> connectivity<std::remove_const_t<T>>;

namespace detail {
// The `count` greatest of a row, of equals the first; NaN last.
template <class T>
void greatest_of(std::vector<T> const& x, extent_t count, std::vector<std::int32_t>& order) {
    order.resize(x.size());
    std::iota(order.begin(), order.end(), 0);
    auto const first = [&](std::int32_t a, std::int32_t b) {
        T const va = x[static_cast<std::size_t>(a)], vb = x[static_cast<std::size_t>(b)];
        bool const na = va != va, nb = vb != vb;
        return na != nb ? nb : va > vb || (!(vb > va) && a < b);
    };
    std::partial_sort(order.begin(), order.begin() + static_cast<std::ptrdiff_t>(count), order.end(), first);
    order.resize(static_cast<std::size_t>(count));
}
} // namespace detail

// q (B, H, N, d'), k (B, Hkv, M, d'). Option: a backend. Throws shape_error.
template <class A = native_arch, class T, class Q, class K, class... Options>
block_bits select_connections(connectivity<T> const& m, Q const& q_in, K const& k_in, Options const&... options) {
    tensor_view<T const> const q = as_view(q_in), k = as_view(k_in);
    auto backend = detail::pick_backend(cpu<serial, A>{}, options...);
    using door = detail::door<A>;
    using detail::argument;
    extent_t const B = q.extent(0), H = q.extent(1), G = k.extent(1), N = q.extent(2), M = k.extent(2), d = q.extent(3), r = m.down.extent(3), group = G > 0 ? H / G : 1;
    argument const given[] = {argument::of("q", q), argument::of("k", k)};
    using detail::axis, detail::axis_rule, detail::rule_kind;
    static constexpr axis_rule rules[] = {{1, axis::batch, rule_kind::equal, 0, axis::batch}, {0, axis::head, rule_kind::multiple, 1, axis::head}, {1, axis::feature, rule_kind::equal, 0, axis::feature}};
    door::check_axes(given, 2, rules, 3);
    door::check_same(argument::of("the bases down", m.down), argument{"the keys", {1, 1, M, r}, {}, 1, sizeof(T), {}, false});
    door::check_same(argument::of("the bases up", m.up), argument::of("the bases down", m.down));
    if (q.is_ragged() || k.is_ragged() || !(m.keep > 0 && m.keep <= 1) || m.coefficients < 1 || m.dense_rows < 0) {
        door::refuse(sentence<A>("heed: connectivity keeps a part in (0, 1] of the keys, at least one coefficient, and takes sequences of one length; coefficients are ", m.coefficients, ", dense rows ", m.dense_rows));
    }
    extent_t const kept = std::min(M, static_cast<extent_t>(std::ceil(m.keep * static_cast<double>(M)))), coefficients = std::min(r, m.coefficients);
    T const scale = m.scale == T(0) ? static_cast<T>(1 / std::sqrt(static_cast<double>(H))) : m.scale;
    block_bits bits(B, H, N, M);
    detail::for_each_item<A>(backend.executor, detail::concurrency_of(backend.executor), B * H, [&](extent_t item, int) {
        extent_t const b = item / H, h = item % H;
        std::vector<T> low(static_cast<std::size_t>(d * r)), c(static_cast<std::size_t>(r)), row(static_cast<std::size_t>(M));
        std::vector<std::int32_t> best;
        for (extent_t j = 0; j < M; ++j)
            for (extent_t e = 0; e < d; ++e)
                for (extent_t x = 0; x < r; ++x) { low[static_cast<std::size_t>(e * r + x)] += k(b, h / group, j, e) * m.down(0, 0, j, x); }
        for (extent_t i = 0; i < N; ++i) {
            for (extent_t j = 0; i < m.dense_rows && j < M; ++j) { bits.set(b, h, i, j); }
            if (i < m.dense_rows) { continue; }
            std::fill(c.begin(), c.end(), T(0)), std::fill(row.begin(), row.end(), T(0));
            for (extent_t e = 0; e < d; ++e)
                for (extent_t x = 0; x < r; ++x) { c[static_cast<std::size_t>(x)] += scale * q(b, h, i, e) * low[static_cast<std::size_t>(e * r + x)]; }
            T peak = -math::inf<T>(), sum(0);
            for (T const x : c) { peak = x > peak ? x : peak; }
            for (T& x : c) { sum += x = std::exp(x - peak); }
            detail::greatest_of(c, coefficients, best);
            for (std::int32_t const x : best) {
                T const weight = c[static_cast<std::size_t>(x)] / sum;
                for (extent_t j = 0; j < M; ++j) {
                    T const base = m.up(0, 0, j, x) < T(0) ? -m.up(0, 0, j, x) : m.up(0, 0, j, x);
                    row[static_cast<std::size_t>(j)] += base > m.threshold ? weight * base : T(0);
                }
            }
            detail::greatest_of(row, kept, best);
            for (std::int32_t const j : best) { bits.set(b, h, i, j); }
        }
    });
    return bits;
}

struct sparge {
    extent_t rows = 128, keys = 64; // of a block
    double theta = 0.6, tau = 0.9;
    bool causal = false;     // block by block: key block b is there for query block a if it begins no later than the block's last query, i + (M - N)
    bool keeps_first = false; // the first key block always
    double scale = 0;        // 0: 1 / sqrt(d)
};

// q (B, H, N, d), k (B, Hkv, M, d), float or double. The causal mask inside blocks is the attention's: causal_block_sparse_attention(bits.map(rows, keys)).
// Option: a backend. Throws shape_error.
template <class A = native_arch, class Q, class K, class... Options>
block_bits select_sparge(sparge const& m, Q const& q_in, K const& k_in, Options const&... options) {
    using T = typename decltype(as_view(q_in))::value_type;
    tensor_view<T const> const q = as_view(q_in), k = as_view(k_in);
    auto backend = detail::pick_backend(cpu<serial, A>{}, options...);
    using door = detail::door<A>;
    using detail::argument;
    argument const given[] = {argument::of("q", q), argument::of("k", k)};
    using detail::axis, detail::axis_rule, detail::rule_kind;
    static constexpr axis_rule rules[] = {{1, axis::batch, rule_kind::equal, 0, axis::batch}, {0, axis::head, rule_kind::multiple, 1, axis::head}, {1, axis::feature, rule_kind::equal, 0, axis::feature}};
    door::check_axes(given, 2, rules, 3);
    if (m.rows < 1 || m.keys < 1 || q.is_ragged() || k.is_ragged()) { door::refuse(sentence<A>("heed: sparge{", m.rows, " rows, ", m.keys, " keys}; a block has at least one of each, sequences have one length")); }
    extent_t const B = q.extent(0), H = q.extent(1), G = k.extent(1), N = q.extent(2), M = k.extent(2), d = q.extent(3), group = G > 0 ? H / G : 1, shift = M - N;
    extent_t const of_q = (N + m.rows - 1) / m.rows, of_k = (M + m.keys - 1) / m.keys;
    double const scale = m.scale == 0 ? (d > 0 ? 1 / std::sqrt(static_cast<double>(d)) : 1.0) : m.scale;
    struct pooled {
        std::vector<double> mean; // {blocks, d}
        std::vector<char> alike;
    };
    auto const pool = [&](tensor_view<T const> const& x, extent_t b, extent_t h, extent_t size, std::vector<double> const& centre) {
        extent_t const rows = x.extent(2), blocks = (rows + size - 1) / size;
        pooled to{std::vector<double>(static_cast<std::size_t>(blocks * d)), std::vector<char>(static_cast<std::size_t>(blocks))};
        std::vector<double> unit(static_cast<std::size_t>(d)), row(static_cast<std::size_t>(d));
        for (extent_t c = 0; c < blocks; ++c) {
            double* const mean = to.mean.data() + c * d;
            extent_t const end = std::min(rows, (c + 1) * size);
            double const count = static_cast<double>(end - c * size);
            std::fill(unit.begin(), unit.end(), 0.0);
            for (extent_t n = c * size; n < end; ++n) {
                double squares = 0;
                for (extent_t e = 0; e < d; ++e) {
                    double const y = row[static_cast<std::size_t>(e)] = static_cast<double>(x(b, h, n, e)) - (centre.empty() ? 0.0 : centre[static_cast<std::size_t>(e)]);
                    squares += y * y, mean[e] += y / count;
                }
                double const by = squares > 0 ? 1 / std::sqrt(squares) : 0; // a row of zeros is like none
                for (extent_t e = 0; e < d; ++e) { unit[static_cast<std::size_t>(e)] += row[static_cast<std::size_t>(e)] * by; }
            }
            double cosines = 0; // the sum of all cosines is the square of the sum of unit rows
            for (double const u : unit) { cosines += u * u; }
            to.alike[static_cast<std::size_t>(c)] = cosines / (count * count) > m.theta;
        }
        return to;
    };
    block_bits bits(B, H, of_q, of_k);
    detail::for_each_item<A>(backend.executor, detail::concurrency_of(backend.executor), B * G, [&](extent_t item, int) {
        extent_t const b = item / G, g = item % G;
        std::vector<double> centre(static_cast<std::size_t>(d)), score(static_cast<std::size_t>(of_k));
        std::vector<std::int32_t> best;
        for (extent_t j = 0; j < M; ++j)
            for (extent_t e = 0; e < d; ++e) { centre[static_cast<std::size_t>(e)] += static_cast<double>(k(b, g, j, e)) / static_cast<double>(M); }
        pooled const keys = pool(k, b, g, m.keys, centre);
        for (extent_t h = g * group; h < (g + 1) * group; ++h) {
            pooled const queries = pool(q, b, h, m.rows, {});
            for (extent_t a = 0; a < of_q; ++a) {
                extent_t const last = std::min(N, (a + 1) * m.rows) - 1 + shift, there = m.causal ? (last < 0 ? 0 : std::min(of_k, last / m.keys + 1)) : of_k;
                double peak = -math::inf<double>(), sum = 0, running = 0;
                for (extent_t c = 0; c < of_k; ++c) {
                    double x = 0;
                    for (extent_t e = 0; e < d; ++e) { x += queries.mean[static_cast<std::size_t>(a * d + e)] * keys.mean[static_cast<std::size_t>(c * d + e)]; }
                    score[static_cast<std::size_t>(c)] = c < there && keys.alike[static_cast<std::size_t>(c)] ? scale * x : -math::inf<double>();
                    peak = std::max(peak, score[static_cast<std::size_t>(c)]);
                }
                for (double& x : score) { sum += x = x == -math::inf<double>() ? 0.0 : std::exp(x - peak); }
                if (sum > 0) {
                    detail::greatest_of(score, of_k, best);
                    for (std::size_t n = 0; n < best.size() && score[static_cast<std::size_t>(best[n])] > 0; ++n) {
                        running += score[static_cast<std::size_t>(best[n])] / sum;
                        if (n > 0 && running > m.tau) { break; }
                        bits.set(b, h, a, best[n]);
                    }
                }
                for (extent_t c = 0; c < there; ++c) {
                    if (!queries.alike[static_cast<std::size_t>(a)] || !keys.alike[static_cast<std::size_t>(c)] || (m.keeps_first && c == 0)) { bits.set(b, h, a, c); }
                }
            }
        }
    });
    return bits;
}

// Rows rounded to 8 bits as SpargeAttn's scores take them: by blocks of `rows` rows of a head, step = max|x| / 127 + 1e-7, half away from zero. Products of such rows
// are those of the integers times both steps: a sum of up to 1040 features is exact in float but for the steps' own rounding.
template <class X>
auto rounded_rows(X const& x_in, extent_t rows) {
    auto const x = as_view(x_in);
    using T = typename decltype(x)::value_type;
    if (rows < 1) { HEED_THROW(shape_error(sentence("heed: blocks of ", rows, " rows; a block has at least one"))); }
    struct storage {
        std::vector<T> x;
        shape s;
        tensor_view<T const> view() const { return {x.data(), s}; }
    } to{std::vector<T>(static_cast<std::size_t>(x.shape().size())), x.shape()};
    extent_t at = 0;
    for (extent_t b = 0; b < to.s.batch; ++b)
        for (extent_t h = 0; h < to.s.head; ++h)
            for (extent_t n = 0; n < to.s.seq; n += rows) {
                extent_t const end = std::min(to.s.seq, n + rows);
                T most(0);
                for (extent_t i = n; i < end; ++i)
                    for (extent_t e = 0; e < to.s.feature; ++e) { most = std::max(most, std::abs(x(b, h, i, e))); }
                T const step = most / T(127) + T(1e-7);
                for (extent_t i = n; i < end; ++i)
                    for (extent_t e = 0; e < to.s.feature; ++e) { to.x[static_cast<std::size_t>(at++)] = std::round(x(b, h, i, e) / step) * step; }
            }
    return to;
}

} // namespace heed
