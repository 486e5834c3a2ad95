// SPDX-License-Identifier: BSD-3-Clause
// Mixing by distance written as a dense matrix, in double: p_(h, i, j) is the weight of value j for row i.
#pragma once

#include <oracle/array.hpp>

#include <cmath>
#include <vector>

namespace heed_test::oracle {

enum class weigh { as_given, over_tokens, over_prefix };

struct spectral_case {
    bool circular = true, reversed = false; // out_i takes w_(j - i) in place of w_(i - j)
    extent_t shift = 0;                     // of a border without wrapping
    weigh how = weigh::as_given;
    extent_t rows = 0; // of out
};

// Weights of one head (and channel) from z.
inline std::vector<double> token_weights(spectral_case const& c, array const& z, extent_t b, extent_t h, extent_t channel) {
    extent_t const n = z.s.seq;
    std::vector<double> w(static_cast<std::size_t>(n));
    double top = -INFINITY, sum = 0;
    for (extent_t t = 0; t < n; ++t) {
        w[static_cast<std::size_t>(t)] = z(z.s.batch == 1 ? 0 : b, z.s.head == 1 ? 0 : h, t, z.s.feature == 1 ? 0 : channel);
        top = std::fmax(top, w[static_cast<std::size_t>(t)]);
    }
    if (c.how != weigh::over_tokens) { return w; }
    for (double const x : w) { sum += x == -INFINITY ? 0 : std::exp(x - top); }
    for (double& x : w) { x = x == -INFINITY ? x : std::exp(x - top) / sum; } // -inf stays: masked
    return w;
}

// The softmax of each prefix of one head's scores: its largest score, and the sum of exponentials below it.
struct prefixes {
    std::vector<double> top, sum;

    explicit prefixes(std::vector<double> const& z) {
        for (std::size_t i = 0; i < z.size(); ++i) {
            double const before = i == 0 ? -INFINITY : top[i - 1];
            top.push_back(std::isnan(before) || std::isnan(z[i]) ? NAN : std::fmax(before, z[i]));
            double total = 0;
            for (std::size_t t = 0; t <= i; ++t) { total += std::exp(z[t] - top[i]); }
            sum.push_back(total);
        }
    }
};

// The weight of value j in row i; nothing is summed that has no weight.
inline bool weight_of(spectral_case const& c, std::vector<double> const& w, prefixes const& p, extent_t i, extent_t j, double& weight) {
    extent_t const n = c.rows, k = static_cast<extent_t>(w.size());
    extent_t t = c.reversed ? j - i : i - j;
    t = c.circular ? (t % n + n) % n : t + c.shift;
    if (t < 0 || t >= k) { return false; }
    weight = w[static_cast<std::size_t>(t)];
    if (c.how != weigh::as_given && weight == -INFINITY) { return false; }
    if (c.how == weigh::over_prefix) {
        std::size_t const row = static_cast<std::size_t>(i);
        weight = p.top[row] == -INFINITY ? 0 : std::exp(weight - p.top[row]) / p.sum[row];
    }
    return true;
}

inline array spectral(spectral_case const& c, array const& z, array const& v, heed::shape out_shape) {
    array out(out_shape);
    for (extent_t b = 0; b < out_shape.batch; ++b)
        for (extent_t h = 0; h < out_shape.head; ++h) {
            std::vector<double> w;
            prefixes p({});
            for (extent_t e = 0; e < out_shape.feature; ++e) {
                if (e == 0 || z.s.feature > 1) { w = token_weights(c, z, b, h, e); }
                if (e == 0 && c.how == weigh::over_prefix) { p = prefixes(w); }
                for (extent_t i = 0; i < out_shape.seq; ++i) {
                    double sum = 0, weight = 0;
                    for (extent_t j = 0; j < v.s.seq; ++j) {
                        if (weight_of(c, w, p, i, j, weight)) { sum += weight * v(v.s.batch == 1 ? 0 : b, v.s.head == 1 ? 0 : h, j, e); }
                    }
                    out(b, h, i, e) = sum;
                }
            }
        }
    return out;
}

} // namespace heed_test::oracle
