// SPDX-License-Identifier: BSD-3-Clause
// Scores with data of the edges and with attention vectors: their gradients too.
#include "edge_oracle.hpp"

using namespace heed_test;

namespace {
edge_call<double> any_call(random_source& random, extent_t d, extent_t dv, int trial) {
    extent_t const group = random.integer(1, 2);
    return {any_edges(random, 10, trial == 0 ? 80 : 25), random.integer(1, 2), group * random.integer(1, 3), d, dv, random, trial % 3, group};
}
double aero_score(oracle::row const& q, oracle::row const& k, oracle::row const&, oracle::row const& w) {
    double s = 0;
    for (std::size_t f = 0; f < q.size(); ++f) {
        double const x = q[f] + k[f];
        s += w[f] * (x < 0 ? std::expm1(x) : x);
    }
    return s;
}
} // namespace

TEST_CASE("graph: GATv2 with edge features", "[graph]") {
    HEED_SEEDED;
    random_source random(821);
    for (int trial = 0; trial < 4; ++trial) {
        extent_t const d = trial == 3 ? 37 : random.integer(1, 11); // far wider than the values, too
        auto p = any_call(random, d, random.integer(1, 9), trial == 3 ? 2 : trial);
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
        c.score = aero_score;
        p.check(c, 1e-13, 1e-7);
        CHECK(apart(da, oracle::slope(c, &oracle::edge_case::a, oracle::read(p.dout.in()))) < 1e-7);
    }
}
TEST_CASE("graph: AERO's weights divided by the degrees of both ends", "[graph]") {
    HEED_SEEDED;
    random_source random(825);
    for (int trial = 0; trial < 6; ++trial) {
        edge_pairs e = any_edges(random, 12, trial == 0 ? 0 : 40);
        extent_t const nodes = std::max(e.sources, e.targets), group = random.integer(1, 2), d = random.integer(0, 9);
        e.sources = e.targets = nodes;
        edge_call<double> p(e, random.integer(1, 2), 2 * group, d, random.integer(0, 5), random, trial % 3, group);
        heed::shape const sa{1, 2 * group, 1, d};
        tensor<double> a(sa), da(sa);
        a.normal(random);
        if (trial == 1) { a.fill(0); } // equal weights: a graph convolution
        p.run(heed::aero_attention<double>(p.lists.edges(), a.in()), heed::attention_vector_gradient{da.view()});
        auto c = p.exact();
        c.a = oracle::read(a.in());
        c.by_degrees = true;
        c.weight = [](double s) { return std::log1p(std::exp(s)) + 1e-6; };
        c.score = aero_score;
        p.check(c, 1e-13, 1e-7);
        CHECK(apart(da, oracle::slope(c, &oracle::edge_case::a, oracle::read(p.dout.in()))) < 1e-7);
        tensor<double> alone(p.dk.shape(), edge_call<double>::layout(p.dk.shape(), 2));
        heed::backward(heed::aero_attention<double>(p.lists.edges(), a.in()), p.q.in(), p.k.in(), p.v.in(), p.out.in(), heed::nothing_saved{}, p.dout.in(), heed::tensor_view<double>{}, alone.view(), heed::tensor_view<double>{});
        CHECK(apart(alone, oracle::read(p.dk.in())) < 1e-14);
    }
    edge_pairs const two_sets{3, 2, {0}, {1}};
    edge_call<double> p(two_sets, 1, 1, 4, 4, random);
    tensor<double> a({1, 1, 1, 4});
    CHECK_THROWS_WITH(heed::forward(heed::aero_attention<double>(p.lists.edges(), a.in()), p.q.in(), p.k.in(), p.v.in(), p.out.view()), heed_test::contains("one node set"));
}
