// SPDX-License-Identifier: BSD-3-Clause
// Scores with data of the edges and with attention vectors: their gradients too.
#include "edge_oracle.hpp"

using namespace heed_test;

namespace {
edge_call<double> any_call(random_source& random, extent_t d, extent_t dv, int trial) { return {any_edges(random, 10, trial == 0 ? 80 : 25), random.integer(1, 2), random.integer(1, 3), d, dv, random, trial % 3}; }
} // namespace

TEST_CASE("graph: GATv2 with edge features", "[graph]") {
    HEED_SEEDED;
    random_source random(821);
    for (int trial = 0; trial < 4; ++trial) {
        extent_t const d = random.integer(1, 11);
        auto p = any_call(random, d, random.integer(1, 9), trial);
        heed::shape const se{p.q.shape().batch, p.q.shape().head, p.pairs.size(), d}, sa{1, p.q.shape().head, 1, d};
        tensor<double> e(se), a(sa), de(se), da(sa);
        e.normal(random);
        a.normal(random);
        p.run(heed::gatv2_attention<double>(p.lists.edges(), a.in(), e.in()), heed::edge_data_gradient{de.view()}, heed::attention_vector_gradient{da.view()});
        auto c = p.exact();
        c.e = oracle::read(e.in());
        c.a = oracle::read(a.in());
        c.score = [](auto const& q, auto const& k, auto const& x, auto const& w) {
            double s = 0;
            for (std::size_t f = 0; f < q.size(); ++f) { s += w[f] * leaky(q[f] + k[f] + x[f]); }
            return s;
        };
        p.check(c, 1e-13, 1e-8);
        CHECK(apart(de, oracle::slope(c, &oracle::edge_case::e, oracle::read(p.dout.in()))) < 1e-8);
        CHECK(apart(da, oracle::slope(c, &oracle::edge_case::a, oracle::read(p.dout.in()))) < 1e-8);
    }
}
TEST_CASE("graph: edge vectors added to keys and values", "[graph]") {
    HEED_SEEDED;
    random_source random(822);
    for (int trial = 0; trial < 4; ++trial) {
        extent_t const d = random.integer(1, 11);
        auto p = any_call(random, d, d, trial);
        heed::shape const se{p.q.shape().batch, p.q.shape().head, p.pairs.size(), d};
        tensor<double> e(se, edge_call<double>::layout(se, trial % 3)), de(se), dadded(se);
        e.normal(random);
        p.run(heed::graph_transformer_attention<double>(p.lists.edges(), e.in()), heed::edge_data_gradient{de.view()}, heed::edge_value_gradient{dadded.view()});
        auto c = p.exact();
        c.e = c.added = oracle::read(e.in());
        c.score = [](auto const& q, auto k, auto const& x, auto const&) {
            for (std::size_t f = 0; f < k.size(); ++f) { k[f] += x[f]; }
            return dot_of(q, k) / std::sqrt(static_cast<double>(q.size()));
        };
        p.check(c, 1e-13, 1e-8);
        CHECK(apart(de, oracle::slope(c, &oracle::edge_case::e, oracle::read(p.dout.in()))) < 1e-8);
        CHECK(apart(dadded, oracle::slope(c, &oracle::edge_case::added, oracle::read(p.dout.in()))) < 1e-8);
    }
}
TEST_CASE("graph: edge-modulated products with a clamp and an epsilon", "[graph]") {
    HEED_SEEDED;
    random_source random(823);
    for (int trial = 0; trial < 3; ++trial) {
        auto p = any_call(random, 5, 4, trial);
        heed::shape const se{1, 1, p.pairs.size(), 5}; // the same for all heads
        tensor<double> e(se);
        e.normal(random);
        p.run(heed::edge_modulated_attention<double>(p.lists.edges(), e.in(), 1.0, 0.01));
        auto c = p.exact();
        c.e = oracle::read(e.in());
        c.eps = 0.01;
        c.score = [](auto const& q, auto k, auto const& x, auto const&) {
            for (std::size_t f = 0; f < k.size(); ++f) { k[f] *= x[f]; }
            return std::clamp(dot_of(q, k) / std::sqrt(5.0), -1.0, 1.0);
        };
        p.check(c, 1e-11, 1e-7);
    }
}
TEST_CASE("graph: AERO's weights, divided by nothing", "[graph]") {
    HEED_SEEDED;
    random_source random(824);
    for (int trial = 0; trial < 3; ++trial) {
        auto p = any_call(random, 9, 4, trial);
        heed::shape const sa{1, p.q.shape().head, 1, 9};
        tensor<double> a(sa), da(sa);
        a.normal(random);
        p.run(heed::aero_edge_attention<double>(p.lists.edges(), a.in()), heed::attention_vector_gradient{da.view()});
        auto c = p.exact();
        c.a = oracle::read(a.in());
        c.divides = false;
        c.weight = [](double s) { return std::log1p(std::exp(s)) + 1e-6; };
        c.score = [](auto const& q, auto const& k, auto const&, auto const& w) {
            double s = 0;
            for (std::size_t f = 0; f < q.size(); ++f) {
                double const x = q[f] + k[f];
                s += w[f] * (x < 0 ? std::expm1(x) : x);
            }
            return s;
        };
        p.check(c, 1e-13, 1e-7);
        CHECK(apart(da, oracle::slope(c, &oracle::edge_case::a, oracle::read(p.dout.in()))) < 1e-7);
    }
}
TEST_CASE("graph: AERO's symmetric degrees from two calls; equal weights propagate as a graph convolution", "[graph]") {
    HEED_SEEDED;
    random_source random(825);
    edge_pairs e{11, 11, {}, {}}; // symmetric, node 10 isolated
    for (int x = 0; x < 20; ++x) {
        auto const a = static_cast<std::int32_t>(random.integer(0, 9)), b = static_cast<std::int32_t>(random.integer(0, 9));
        e.source.insert(e.source.end(), {a, b});
        e.target.insert(e.target.end(), {b, a});
    }
    edge_call<double> p(e, 1, 2, 5, 3, random);
    tensor<double> a({1, 2, 1, 5}), ones({1, 2, 11, 1}), degree({1, 2, 11, 1}), scaled(p.v.shape());
    for (bool const equal : {true, false}) {
        a.normal(random);
        if (equal) { a.fill(0); }
        ones.fill(1);
        auto const m = heed::aero_edge_attention<double>(p.lists.edges(), a.in());
        heed::forward(m, p.q.in(), p.q.in(), ones.in(), degree.view());
        auto const factor = [&](extent_t h, extent_t n) { return degree(0, h, n, 0) > 0 ? 1 / std::sqrt(degree(0, h, n, 0)) : 0; };
        scaled.each_at([&](double& x, extent_t, extent_t h, extent_t n, extent_t f) { x = p.v(0, h, n, f) * factor(h, n); });
        heed::forward(m, p.q.in(), p.q.in(), scaled.in(), p.out.view());
        auto const weight = [&](extent_t h, std::int32_t i, std::int32_t j) { // softplus(a . elu(z_i + z_j)) + 1e-6
            double s = 0;
            for (extent_t f = 0; f < 5; ++f) {
                double const x = p.q(0, h, i, f) + p.q(0, h, j, f);
                s += a(0, h, 0, f) * (x < 0 ? std::expm1(x) : x);
            }
            return std::log1p(std::exp(s)) + 1e-6;
        };
        for (extent_t h = 0; h < 2; ++h) {
            std::vector<double> sum(11), count(11);
            for (std::size_t x = 0; x < e.source.size(); ++x) {
                sum[static_cast<std::size_t>(e.target[x])] += weight(h, e.target[x], e.source[x]);
                ++count[static_cast<std::size_t>(e.target[x])];
            }
            for (extent_t i = 0; i < 11; ++i) {
                for (extent_t f = 0; f < 3; ++f) {
                    double exact = 0;
                    for (std::size_t x = 0; x < e.source.size(); ++x) {
                        auto const s = static_cast<std::size_t>(e.source[x]), t = static_cast<std::size_t>(e.target[x]);
                        if (e.target[x] == i) { exact += (equal ? 1 / std::sqrt(count[s] * count[t]) : weight(h, e.target[x], e.source[x]) / std::sqrt(sum[s] * sum[t])) * p.v(0, h, e.source[x], f); }
                    }
                    double const got = p.out(0, h, i, f) * factor(h, i);
                    REQUIRE(std::abs(got - exact) < 1e-12);
                }
            }
        }
    }
}
