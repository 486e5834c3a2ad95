// SPDX-License-Identifier: BSD-3-Clause
// Scores of nodes: dot products, GAT, SuperGAT, clamped exponentials, forward and backward.
#include "edge_oracle.hpp"

using namespace heed_test;

namespace {
template <class T>
constexpr double fine = std::is_same_v<T, double> ? 1e-13 : 5e-6;
template <class T>
constexpr double fair = std::is_same_v<T, double> ? 1e-8 : 3e-5; // of central differences

struct by_head {
    template <class V, class Pair>
    V operator()(V raw, Pair const& p) const {
        return raw * V(static_cast<double>(1 + p.at.head));
    }
};

template <class T>
edge_call<T> any_call(random_source& random, extent_t d, int trial) {
    extent_t const group = random.integer(1, 2);
    return {any_edges(random, 12, trial == 0 ? 90 : 30), random.integer(1, 2), group * random.integer(1, 3), d, random.integer(0, 20), random, trial % 3, group};
}
} // namespace

TEMPLATE_TEST_CASE("graph: dot products along edges", "[graph]", float, double) {
    HEED_SEEDED;
    random_source random(811);
    for (int trial = 0; trial < 6; ++trial) {
        auto p = any_call<TestType>(random, random.integer(1, 20), trial);
        p.run(heed::graph_transformer_attention<TestType>(p.lists.edges()));
        auto c = p.exact();
        c.score = [](auto const& q, auto const& k, auto const&, auto const&) { return dot_of(q, k) / std::sqrt(static_cast<double>(q.size())); };
        p.check(c, fine<TestType>, fair<TestType>);
    }
}
TEST_CASE("graph: more heads than a register has lanes", "[graph]") {
    HEED_SEEDED;
    random_source random(816);
    for (int trial = 0; trial < 3; ++trial) {
        edge_call<double> p{any_edges(random, 6, 70), 1, 2 * random.integer(5, 9), random.integer(1, 9), random.integer(1, 9), random, trial, 2};
        p.run(heed::graph_transformer_attention<double>(p.lists.edges()));
        auto c = p.exact();
        c.score = [](auto const& q, auto const& k, auto const&, auto const&) { return dot_of(q, k) / std::sqrt(static_cast<double>(q.size())); };
        p.check(c, fine<double>, fair<double>);
    }
}
TEST_CASE("graph: a stage may ask for its head", "[graph]") {
    HEED_SEEDED;
    random_source random(817), again(817);
    edge_call<float> p{any_edges(random, 12, 90), 2, 5, 7, 3, random}, scaled{any_edges(again, 12, 90), 2, 5, 7, 3, again};
    scaled.q.each_at([](float& x, extent_t, extent_t h, extent_t, extent_t) { x *= static_cast<float>(1 + h); });
    p.run(heed::edge_attention{heed::edge_score<heed::edge::product>{} | by_head{}, p.lists.edges()});
    scaled.run(heed::edge_attention{heed::edge_score<heed::edge::product>{}, p.lists.edges()});
    CHECK(apart(p.out, oracle::read(scaled.out.in())) < 1e-5);
    CHECK(apart(p.dk, oracle::read(scaled.dk.in())) < 1e-5);
}
TEST_CASE("graph: GAT", "[graph]") {
    HEED_SEEDED;
    random_source random(812);
    for (int trial = 0; trial < 4; ++trial) {
        auto p = any_call<double>(random, 1, trial);
        p.run(heed::gat_attention<double>(p.lists.edges(), 0.3));
        auto c = p.exact();
        c.score = [](auto const& q, auto const& k, auto const&, auto const&) { return leaky(q[0] + k[0], 0.3); };
        p.check(c, fine<double>, fair<double>);
    }
}
TEST_CASE("graph: SuperGAT's gated product", "[graph]") {
    HEED_SEEDED;
    random_source random(813);
    for (int trial = 0; trial < 4; ++trial) {
        auto p = any_call<double>(random, random.integer(1, 12), trial);
        p.run(heed::supergat_mx_attention<double>(p.lists.edges()));
        auto c = p.exact();
        c.score = [](auto q, auto k, auto const&, auto const&) {
            double const sum = q.back() + k.back();
            q.pop_back();
            k.pop_back();
            return leaky(sum / (1 + std::exp(-dot_of(q, k))));
        };
        p.check(c, fine<double>, fair<double>);
    }
}
TEST_CASE("graph: the clamp stands for the maximum", "[graph]") {
    HEED_SEEDED;
    random_source random(815);
    for (int trial = 0; trial < 3; ++trial) {
        auto p = any_call<double>(random, 4, trial);
        p.q.each([](double& x) { x *= 4; }); // many scores outside
        p.run(heed::clamped_graph_transformer_attention<double>(p.lists.edges()));
        auto c = p.exact();
        c.score = [](auto const& q, auto const& k, auto const&, auto const&) { return std::clamp(dot_of(q, k) / 2, -5.0, 5.0); };
        p.check(c, fine<double>, fair<double>);
    }
}
