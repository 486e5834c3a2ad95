// SPDX-License-Identifier: BSD-3-Clause
// Softmax attention written from its equations, dense, in double (sums in long double, so that the oracle's own rounding is
// well below that of a double engine):
//
//   s_ij = cap_before(scale q_i.k_j) + bias_ij - slope_h |i + (M-N) - j| + table[h, clamp(j - i - (M-N), -left, right) + left] + c_i - c_j,
//          then cap_after, then `bend`
//   p_ij = e^{s_ij} / (e^{sink_h} + sum_j e^{s_ij})      o_i = sum_j p_ij v_j      lse_i = ln(e^{sink_h} + sum_j e^{s_ij})
//
// A key that the relation excludes, or whose bias or score is -infinity, does not exist for the row. A row without keys gives 0 and
// -infinity (with a sink: 0 and the sink).
#pragma once

#include "array.hpp"
#include "relations.hpp"

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>

namespace heed_test::oracle {

struct softmax_case {
    array q, k, v;
    relation keep;         // empty: everything
    double scale = 1;
    double cap_before = 0; // 0: none
    double cap_after = 0;
    array bias;            // any extent may be 1
    array slopes;          // {1, H, 1, 1}
    array table;           // {1, H or 1, distances, 1}
    extent_t left = 0;     // distances to the left that the table holds
    array gates;           // {B, H, M, 1}, cumulative; query i stands at i + (M-N)
    std::function<double(double score, extent_t i, extent_t j)> bend;
    array sinks;           // {1, H, 1, 1}
};

struct softmax_result {
    array out;       // {B, H, N, Dv}
    array lse;       // {B, H, N, 1}, natural
    array weights;   // {B, H, N, M}
    array magnitude; // {B, H, N, Dv}: sum of p |v|
    array scores;    // {B, H, N, 1}: the largest finite |s_ij| of the row
    array largest;   // {B, H, N, 1}: the largest finite magnitude met on the way to them, partial sums of the products included
    array attended;  // {B, H, N, 1}: how many keys
};

// The score of one pair, -infinity where there is none; met(x) sees every number on the way and returns it.
template <class Met>
double pair_score(softmax_case const& c, extent_t b, extent_t h, extent_t i, extent_t j, Met met) {
    constexpr double inf = std::numeric_limits<double>::infinity();
    extent_t const D = c.q.s.feature, shift = c.k.s.seq - c.q.s.seq;
    extent_t const g = h / (c.k.s.head == 0 ? 1 : c.q.s.head / c.k.s.head);
    if (!c.keep.x.empty() && !c.keep(b, h, i, j)) { return -inf; }
    if (c.bias.given() && c.bias.spread(b, h, i, j) == -inf) { return -inf; }
    long double product = 0;
    for (extent_t d = 0; d < D; ++d) {
        product += static_cast<long double>(c.q(b, h, i, d)) * static_cast<long double>(c.k(b, g, j, d));
        met(c.scale * static_cast<double>(product));
    }
    double x = static_cast<double>(static_cast<long double>(c.scale) * product);
    if (c.cap_before != 0) { x = c.cap_before * std::tanh(x / c.cap_before); }
    if (c.bias.given()) { x = met(x + met(c.bias.spread(b, h, i, j))); }
    if (c.slopes.given()) { x = met(x - c.slopes(0, h, 0, 0) * static_cast<double>(std::abs(i + shift - j))); }
    if (c.table.given()) {
        extent_t const right = c.table.s.seq - 1 - c.left;
        extent_t const distance = std::clamp(j - i - shift, -c.left, right);
        x = met(x + c.table(0, c.table.s.head == 1 ? 0 : h, distance + c.left, 0));
    }
    if (c.gates.given()) { x = met(met(x + met(c.gates(b, h, i + shift, 0))) - met(c.gates(b, h, j, 0))); }
    if (c.cap_after != 0) { x = c.cap_after * std::tanh(x / c.cap_after); }
    if (c.bend) { x = met(c.bend(x, i, j)); }
    return x;
}

inline softmax_result softmax(softmax_case const& c) {
    constexpr double inf = std::numeric_limits<double>::infinity();
    extent_t const B = c.q.s.batch, H = c.q.s.head, N = c.q.s.seq, M = c.k.s.seq, Dv = c.v.s.feature;
    extent_t const per_key_head = c.k.s.head == 0 ? 1 : H / c.k.s.head;
    softmax_result r{array({B, H, N, Dv}), array({B, H, N, 1}, -inf), array({B, H, N, M}), array({B, H, N, Dv}), array({B, H, N, 1}), array({B, H, N, 1}),
                     array({B, H, N, 1})};

    for (extent_t b = 0; b < B; ++b) {
        for (extent_t h = 0; h < H; ++h) {
            extent_t const g = h / per_key_head;
            for (extent_t i = 0; i < N; ++i) {
                double& largest = r.largest(b, h, i, 0);
                auto met = [&](double x) {
                    if (std::isfinite(x)) { largest = std::max(largest, std::fabs(x)); }
                    return x;
                };
                std::vector<double> s(static_cast<std::size_t>(M), -inf);
                for (extent_t j = 0; j < M; ++j) { s[static_cast<std::size_t>(j)] = pair_score(c, b, h, i, j, met); }
                // NaN first: a maximum would lose it.
                bool nan = false;
                double top = -inf;
                for (double x : s) {
                    if (std::isfinite(x)) { r.scores(b, h, i, 0) = std::max(r.scores(b, h, i, 0), std::fabs(x)); }
                    nan = nan || std::isnan(x);
                    top = std::max(top, x);
                    r.attended(b, h, i, 0) += x != -inf;
                }
                bool const sink = c.sinks.given();
                double const sunk = sink ? c.sinks(0, h, 0, 0) : -inf;
                nan = nan || std::isnan(sunk);
                if (nan) {
                    for (extent_t d = 0; d < Dv; ++d) { r.out(b, h, i, d) = r.magnitude(b, h, i, d) = std::nan(""); }
                    for (extent_t j = 0; j < M; ++j) { r.weights(b, h, i, j) = std::nan(""); }
                    r.lse(b, h, i, 0) = std::nan("");
                    continue;
                }
                top = std::max(top, sunk);
                if (sink) { met(sunk); }
                if (top == -inf) { continue; }
                auto const exponential = [&](double x) { return std::exp(static_cast<long double>(x) - static_cast<long double>(top)); };
                long double total = sink ? exponential(sunk) : 0;
                for (double x : s) { total += x == -inf ? 0 : exponential(x); }
                r.lse(b, h, i, 0) = static_cast<double>(static_cast<long double>(top) + std::log(total));
                std::vector<long double> sum(static_cast<std::size_t>(Dv), 0), magnitude(static_cast<std::size_t>(Dv), 0);
                for (extent_t j = 0; j < M; ++j) {
                    double const x = s[static_cast<std::size_t>(j)];
                    if (x == -inf) { continue; }
                    long double const p = exponential(x) / total;
                    r.weights(b, h, i, j) = static_cast<double>(p);
                    for (extent_t d = 0; d < Dv; ++d) {
                        long double const value = static_cast<long double>(c.v(b, g, j, d));
                        sum[static_cast<std::size_t>(d)] += p * value;
                        magnitude[static_cast<std::size_t>(d)] += p * std::fabs(value);
                    }
                }
                for (extent_t d = 0; d < Dv; ++d) {
                    r.out(b, h, i, d) = static_cast<double>(sum[static_cast<std::size_t>(d)]);
                    r.magnitude(b, h, i, d) = static_cast<double>(magnitude[static_cast<std::size_t>(d)]);
                }
            }
        }
    }
    return r;
}

} // namespace heed_test::oracle
