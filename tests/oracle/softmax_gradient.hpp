// SPDX-License-Identifier: BSD-3-Clause
// Gradients of softmax attention, dense, in double, from the equations of oracle/softmax.hpp: L = sum out . dout + sum lse . dlse.
//
//   dp_ij = dout_i . v_j     ds_ij = p_ij (dp_ij - dout_i . o_i + dlse_i)     dv_j = sum_i p_ij dout_i
//   ds is pulled back through cap_after, the additive terms (which receive it as it passes), cap_before and the scale to dq and dk.
//
// Every sum comes with the sum of its magnitudes, for bounds on the error.
#pragma once

#include "softmax.hpp"

namespace heed_test::oracle {

struct softmax_gradient {
    array dq, dk, dv, bias, slopes, table, gates, sinks;
    double scale = 0, cap_before = 0, cap_after = 0;
    double scale_magnitude = 0, cap_magnitude = 0;
    array dq_magnitude, dk_magnitude, dv_magnitude;
    double pair_magnitude = 0; // the largest |ds_ij| bound of a pair
    double slopes_magnitude = 0;
};

// bend_slope: derivative of c.bend by its score.
inline softmax_gradient gradient(softmax_case const& c, array const& dout, array const& dlse = {}, std::function<double(double, extent_t, extent_t)> const& bend_slope = {}) {
    softmax_result const r = softmax(c);
    extent_t const B = c.q.s.batch, H = c.q.s.head, N = c.q.s.seq, D = c.q.s.feature, M = c.k.s.seq, Dv = c.v.s.feature, shift = M - N;
    extent_t const per_key_head = c.k.s.head == 0 ? 1 : H / c.k.s.head;
    auto const same = [](array const& a) { return a.given() ? array(a.s) : array(); };
    softmax_gradient g{array(c.q.s), array(c.k.s), array(c.v.s), same(c.bias), same(c.slopes), same(c.table), same(c.gates), same(c.sinks), 0, 0, 0, 0, 0, array(c.q.s), array(c.k.s), array(c.v.s), 0, 0};
    auto const into = [](array& a, extent_t b, extent_t h, extent_t i, extent_t j) -> double& { return a(a.s.batch == 1 ? 0 : b, a.s.head == 1 ? 0 : h, a.s.seq == 1 ? 0 : i, a.s.feature == 1 ? 0 : j); };
    for (extent_t b = 0; b < B; ++b)
        for (extent_t h = 0; h < H; ++h)
            for (extent_t i = 0; i < N; ++i) {
                extent_t const kv = h / per_key_head;
                double const up = dlse.given() ? dlse(b, h, i, 0) : 0;
                double centre = 0, reach = std::fabs(up);
                for (extent_t e = 0; e < Dv; ++e) {
                    centre += dout(b, h, i, e) * r.out(b, h, i, e);
                    reach += std::fabs(dout(b, h, i, e)) * r.magnitude(b, h, i, e);
                }
                if (c.sinks.given() && r.lse(b, h, i, 0) != -std::numeric_limits<double>::infinity()) {
                    g.sinks(0, h, 0, 0) += std::exp(c.sinks(0, h, 0, 0) - r.lse(b, h, i, 0)) * (up - centre);
                }
                for (extent_t j = 0; j < M; ++j) {
                    double const p = r.weights(b, h, i, j);
                    if (p == 0) { continue; }
                    double dp = 0, dp_reach = 0;
                    for (extent_t e = 0; e < Dv; ++e) {
                        dp += dout(b, h, i, e) * c.v(b, kv, j, e);
                        dp_reach += std::fabs(dout(b, h, i, e) * c.v(b, kv, j, e));
                        g.dv(b, kv, j, e) += p * dout(b, h, i, e);
                        g.dv_magnitude(b, kv, j, e) += p * std::fabs(dout(b, h, i, e));
                    }
                    double ds = p * (dp - centre + up), size = p * (dp_reach + reach);
                    g.pair_magnitude = std::max(g.pair_magnitude, size);
                    // the chain once more, its values kept
                    double product = 0;
                    for (extent_t d = 0; d < D; ++d) { product += c.q(b, h, i, d) * c.k(b, kv, j, d); }
                    double const linear = c.scale * product;
                    double const capped = c.cap_before != 0 ? c.cap_before * std::tanh(linear / c.cap_before) : linear;
                    double sum = capped;
                    extent_t distance = 0;
                    if (c.bias.given()) { sum += c.bias.spread(b, h, i, j); }
                    if (c.slopes.given()) { sum -= c.slopes(0, h, 0, 0) * static_cast<double>(std::abs(i + shift - j)); }
                    if (c.table.given()) {
                        distance = std::clamp(j - i - shift, -c.left, c.table.s.seq - 1 - c.left) + c.left;
                        sum += c.table(0, c.table.s.head == 1 ? 0 : h, distance, 0);
                    }
                    if (c.gates.given()) { sum += c.gates(b, h, i + shift, 0) - c.gates(b, h, j, 0); }
                    double const after = c.cap_after != 0 ? c.cap_after * std::tanh(sum / c.cap_after) : sum;
                    if (c.bend) {
                        double const slope = bend_slope(after, i, j);
                        ds *= slope;
                        size *= std::fabs(slope);
                    }
                    if (c.cap_after != 0) {
                        double const t = after / c.cap_after, slope = 1 - t * t;
                        g.cap_after += ds * (t - slope * sum / c.cap_after);
                        g.cap_magnitude += size;
                        ds *= slope;
                    }
                    if (c.bias.given()) { into(g.bias, b, h, i, j) += ds; }
                    if (c.slopes.given()) {
                        double const far = static_cast<double>(std::abs(i + shift - j));
                        g.slopes(0, h, 0, 0) -= ds * far;
                        g.slopes_magnitude += size * far;
                    }
                    if (c.table.given()) { g.table(0, c.table.s.head == 1 ? 0 : h, distance, 0) += ds; }
                    if (c.gates.given()) {
                        g.gates(b, h, i + shift, 0) += ds;
                        g.gates(b, h, j, 0) -= ds;
                    }
                    if (c.cap_before != 0) {
                        double const t = capped / c.cap_before, slope = 1 - t * t;
                        g.cap_before += ds * (t - slope * linear / c.cap_before);
                        g.cap_magnitude += size;
                        ds *= slope;
                    }
                    g.scale += ds * product;
                    g.scale_magnitude += size * std::fabs(product);
                    for (extent_t d = 0; d < D; ++d) {
                        g.dq(b, h, i, d) += ds * c.scale * c.k(b, kv, j, d);
                        g.dk(b, kv, j, d) += ds * c.scale * c.q(b, h, i, d);
                        g.dq_magnitude(b, h, i, d) += size * std::fabs(c.scale * c.k(b, kv, j, d));
                        g.dk_magnitude(b, kv, j, d) += size * std::fabs(c.scale * c.q(b, h, i, d));
                    }
                }
            }
    return g;
}

} // namespace heed_test::oracle
