// SPDX-License-Identifier: BSD-3-Clause
// Scores of nodes: dot products, GAT, SuperGAT, clamped exponentials, forward and backward.
#include "edge_oracle.hpp"

using namespace heed_test;

namespace {
template <class T>
constexpr double fine = std::is_same_v<T, double> ? 1e-13 : 5e-6;
template <class T>
constexpr double fair = std::is_same_v<T, double> ? 1e-8 : 3e-5; // of central differences

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
