// SPDX-License-Identifier: BSD-3-Clause
// Attention along edges from its equations, one edge after another, in double: the score is a function of whole rows, gradients are central differences.
#pragma once

#include <oracle/array.hpp>
#include <support/tensor.hpp>
#include <support/tolerance.hpp>

#include <heed/front/degree_normalised.hpp>
#include <heed/front/edge.hpp>
#include <heed/mechanism/graph.hpp>

#include <algorithm>
#include <cmath>
#include <functional>
#include <vector>

namespace heed_test {

struct edge_pairs {
    extent_t sources = 0, targets = 0;
    std::vector<std::int32_t> source, target;

    extent_t size() const { return static_cast<extent_t>(source.size()); }
    heed::graph make(heed::self_loops loops = heed::self_loops::as_given) const { return {source, target, sources, targets, loops}; }
};
// Repeated edges, loops, isolated targets and sources, one target that most edges meet.
inline edge_pairs any_edges(random_source& random, extent_t most_nodes, extent_t most_edges) {
    edge_pairs e{random.integer(1, most_nodes), random.integer(1, most_nodes), {}, {}};
    for (extent_t n = random.integer(0, most_edges); n > 0; --n) {
        e.source.push_back(static_cast<std::int32_t>(random.integer(0, e.sources - 1)));
        e.target.push_back(static_cast<std::int32_t>(random.chance(0.3) ? e.targets / 2 : random.integer(0, e.targets - 1)));
    }
    return e;
}

namespace oracle {

using row = std::vector<double>;
inline row row_of(array const& a, extent_t b, extent_t h, extent_t n) {
    row r;
    if (!a.given()) { return r; }
    for (extent_t e = 0; e < a.s.feature; ++e) { r.push_back(a(a.s.batch == 1 ? 0 : b, a.s.head == 1 ? 0 : h, a.s.seq == 1 ? 0 : n, e)); }
    return r;
}

struct edge_case {
    array q, k, v, e, added, a;   // e: edge data of the score, added: of the values, a: attention vector
    edge_pairs edges;
    std::function<double(row const& q, row const& k, row const& e, row const& a)> score; // the whole chain
    std::function<double(double)> weight = [](double s) { return std::exp(s); };         // before division
    bool divides = true, by_degrees = false; // of both ends
    double eps = 0;
};
struct edge_result {
    array out, weights; // {B, H, targets, dv}, {B, H, edges, 1}
};
inline edge_result attend(edge_case const& c) {
    extent_t const B = c.q.s.batch, H = c.q.s.head, N = c.q.s.seq, dv = c.v.s.feature, E = c.edges.size();
    edge_result r{array({B, H, N, dv}), array({B, H, E, 1})};
    for (extent_t b = 0; b < B; ++b)
        for (extent_t h = 0; h < H; ++h) {
            extent_t const kv = h / (H / c.k.s.head);
            row sum(static_cast<std::size_t>(N), c.eps);
            for (extent_t x = 0; x < E; ++x) {
                std::size_t const at = static_cast<std::size_t>(x), i = static_cast<std::size_t>(c.edges.target[at]);
                r.weights(b, h, x, 0) = c.weight(c.score(row_of(c.q, b, h, c.edges.target[at]), row_of(c.k, b, kv, c.edges.source[at]), row_of(c.e, b, h, x), row_of(c.a, 0, h, 0)));
                sum[i] += r.weights(b, h, x, 0);
            }
            for (extent_t x = 0; x < E; ++x) {
                std::size_t const at = static_cast<std::size_t>(x), i = static_cast<std::size_t>(c.edges.target[at]), j = static_cast<std::size_t>(c.edges.source[at]);
                double& w = r.weights(b, h, x, 0);
                if (c.by_degrees) {
                    w = sum[j] > 0 ? w / std::sqrt(sum[i] * sum[j]) : 0;
                } else if (c.divides) {
                    w /= sum[i];
                }
                for (extent_t f = 0; f < dv; ++f) {
                    double const more = c.added.given() ? row_of(c.added, b, h, x)[static_cast<std::size_t>(f)] : 0;
                    r.out(b, h, c.edges.target[at], f) += w * (c.v(b, kv, c.edges.source[at], f) + more);
                }
            }
        }
    return r;
}
// d sum(out dout) / d x, element by element
inline array slope(edge_case const& c, array edge_case::*of, array const& dout) {
    array result((c.*of).s);
    edge_case moved = c;
    for (std::size_t at = 0; at < result.x.size(); ++at) {
        double const step = 1e-5, here = (c.*of).x[at];
        auto const loss = [&](double x) {
            (moved.*of).x[at] = x;
            array const out = attend(moved).out;
            double sum = 0;
            for (std::size_t o = 0; o < out.x.size(); ++o) { sum += out.x[o] * dout.x[o]; }
            return sum;
        };
        result.x[at] = (loss(here + step) - loss(here - step)) / (2 * step);
        (moved.*of).x[at] = here;
    }
    return result;
}

} // namespace oracle

// The largest difference, relative to the largest expected number (at least 1).
template <class T>
double apart(tensor<T> const& got, oracle::array const& exact) {
    double most = 1, worst = 0;
    for (double const x : exact.x) { most = std::fmax(most, std::fabs(x)); }
    std::size_t at = 0;
    auto const v = got.in();
    if (!(v.shape() == exact.s)) { return HUGE_VAL; }
    for (extent_t b = 0; b < v.extent(0); ++b)
        for (extent_t h = 0; h < v.extent(1); ++h)
            for (extent_t n = 0; n < v.extent(2); ++n)
                for (extent_t e = 0; e < v.extent(3); ++e) {
                    double const error = std::fabs(static_cast<double>(v(b, h, n, e)) - exact.x[at++]);
                    worst = std::isnan(error) ? HUGE_VAL : std::fmax(worst, error);
                }
    return worst / most;
}

// A random call: nodes in one of the usual layouts.
template <class T>
struct edge_call {
    edge_pairs pairs;
    heed::graph lists;
    tensor<T> q, k, v, out, lse, weights, dout, dq, dk, dv;

    static heed::strides layout(heed::shape s, int kind) {
        if (kind == 0) { return heed::row_major(s); }
        if (kind == 1) { return {s.head * s.seq * s.feature, s.feature, s.head * s.feature, 1}; } // heads of a node side by side
        return {s.head * s.seq * s.feature + 3, s.seq * s.feature, 1, s.seq};                      // features apart
    }
    // group: query heads of a key head
    edge_call(edge_pairs e, extent_t batch, extent_t heads, extent_t d, extent_t width, random_source& random, int kind = 1, extent_t group = 1)
        : pairs(std::move(e)), lists(pairs.make()), q({batch, heads, pairs.targets, d}, layout({batch, heads, pairs.targets, d}, kind)),
          k({batch, heads / group, pairs.sources, d}, layout({batch, heads / group, pairs.sources, d}, kind)),
          v({batch, heads / group, pairs.sources, width}, layout({batch, heads / group, pairs.sources, width}, kind)),
          out({batch, heads, pairs.targets, width}, layout({batch, heads, pairs.targets, width}, kind)), lse({batch, heads, pairs.targets, 1}), weights({batch, heads, pairs.size(), 1}),
          dout(out.shape(), layout(out.shape(), kind)), dq(q.shape(), layout(q.shape(), kind)), dk(k.shape(), layout(k.shape(), kind)), dv(v.shape(), layout(v.shape(), kind)) {
        q.normal(random);
        k.normal(random);
        v.normal(random);
        dout.normal(random);
    }
    oracle::edge_case exact() const {
        oracle::edge_case c;
        c.q = oracle::read(q.in());
        c.k = oracle::read(k.in());
        c.v = oracle::read(v.in());
        c.edges = pairs;
        return c;
    }
    template <class M, class... Gradients>
    void run(M const& m, Gradients const&... gradients) {
        if constexpr (keeps<M>()) {
            heed::forward(m, q.in(), k.in(), v.in(), out.view(), heed::save{lse.view()}, heed::edge_weights{weights.view()});
            heed::backward(m, q.in(), k.in(), v.in(), out.in(), heed::save{lse.view()}, dout.in(), dq.view(), dk.view(), dv.view(), gradients...);
        } else {
            heed::forward(m, q.in(), k.in(), v.in(), out.view(), heed::edge_weights{weights.view()});
            heed::backward(m, q.in(), k.in(), v.in(), out.in(), heed::nothing_saved{}, dout.in(), dq.view(), dk.view(), dv.view(), gradients...);
        }
    }
    template <class M>
    static constexpr bool keeps() {
        if constexpr (heed::EdgeAttention<M>) { return heed::detail::kept_of<decltype(M::normalizer)>() > 0; }
        return false;
    }

    bool intact() const { return q.intact() && k.intact() && v.intact() && out.intact() && lse.intact() && weights.intact() && dq.intact() && dk.intact() && dv.intact(); }

    // Forward and the gradients of q, k, v.
    void check(oracle::edge_case const& c, double ahead, double back) const {
        auto const r = oracle::attend(c);
        CHECK(apart(out, r.out) < ahead);
        CHECK(apart(weights, r.weights) < ahead);
        auto const d = oracle::read(dout.in());
        CHECK(apart(dq, oracle::slope(c, &oracle::edge_case::q, d)) < back);
        CHECK(apart(dk, oracle::slope(c, &oracle::edge_case::k, d)) < back);
        CHECK(apart(dv, oracle::slope(c, &oracle::edge_case::v, d)) < back);
        CHECK(intact());
    }
};

inline double leaky(double x, double below = 0.2) { return x < 0 ? below * x : x; }
inline double dot_of(oracle::row const& a, oracle::row const& b) {
    double s = 0;
    for (std::size_t e = 0; e < a.size(); ++e) { s += a[e] * b[e]; }
    return s;
}

} // namespace heed_test
