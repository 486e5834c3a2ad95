// SPDX-License-Identifier: BSD-3-Clause
// Score policies against the oracle on random awkward shapes: positions, tables, long chains, a user's own.
#include <oracle/try_score.hpp>

using namespace heed_test;

TEST_CASE("scores: alibi", "[oracle][scores]") {
    HEED_SEEDED;
    tensor<float> slopes;
    try_score<float>(20, 28, [&](auto const& p, auto& c, auto& random) {
        slopes = per_head_numbers<float>(p.n.heads, random, -0.1, 0.5);
        c.slopes = oracle::read(slopes.in());
        return heed::dot{} | heed::inv_sqrt_width{} | heed::alibi{slopes.view()};
    });
}

TEST_CASE("scores: relative table, with fewer and more entries than distances", "[oracle][scores]") {
    HEED_SEEDED;
    tensor<float> table;
    try_score<float>(30, 29, [&](auto const& p, auto& c, auto& random) {
        extent_t const entries = random.integer(1, 90);
        table = tensor<float>(heed::shape{1, random.chance(0.5) ? p.n.heads : 1, entries, 1});
        table.normal(random);
        c.table = oracle::read(table.in());
        c.left = random.integer(0, entries - 1);
        return heed::dot{} | heed::inv_sqrt_width{} | heed::relative_bias{table.view(), c.left};
    });
}

TEST_CASE("scores: forgetting", "[oracle][scores]") {
    HEED_SEEDED;
    random_source random(30);
    for (int i = 0; i < 15; ++i) {
        sizes n = random_score_sizes(random);
        n.queries = n.keys = random.integer(1, 150);
        problem<float> p(n, random);
        tensor<float> gates(heed::shape{n.batch, n.heads, n.keys, 1});
        gates.each_at([&](float& x, extent_t b, extent_t h, extent_t t, extent_t) {
            x = (t == 0 ? 0.0f : gates(b, h, t - 1, 0)) - static_cast<float>(random.uniform(0, 0.3));
        });
        auto c = p.exact();
        c.gates = oracle::read(gates.in());
        c.keep = oracle::causal_bottom_right(n.pairs());
        auto const found = run_and_compare(p, heed::attention{heed::dot{} | heed::inv_sqrt_width{} | heed::forgetting{gates.view()}, heed::causal_bottom_right{}}, c);
        INFO(p.n << " " << found.text);
        REQUIRE(found.good());
    }
}

TEST_CASE("scores: two tables and a slope in one chain", "[oracle][scores]") {
    HEED_SEEDED;
    tensor<float> slopes, table, b;
    try_score<float>(15, 31, [&](auto const& p, auto& c, auto& random) {
        slopes = per_head_numbers<float>(p.n.heads, random, 0, 0.2);
        table = tensor<float>(heed::shape{1, p.n.heads, 21, 1});
        table.normal(random);
        b = tensor<float>(broadcast(p.n.pairs(), random));
        b.normal(random);
        c.slopes = oracle::read(slopes.in());
        c.table = oracle::read(table.in());
        c.left = 10;
        c.bias = oracle::read(b.in());
        c.cap_before = 5;
        return heed::dot{} | heed::inv_sqrt_width{} | heed::softcap{5.0f} | heed::bias{b.view()} | heed::alibi{slopes.view()} |
               heed::relative_bias{table.view(), 10};
    });
}

TEST_CASE("scores: a user's own", "[oracle][scores]") {
    HEED_SEEDED;
    try_score<float>(15, 32, [](auto const& p, auto& c, auto&) {
        extent_t const shift = p.n.keys - p.n.queries;
        c.bend = [shift](double s, extent_t i, extent_t j) { return s * 0.5 + std::fabs(static_cast<double>(i + shift - j) * static_cast<double>(0.01f) - 1); };
        return heed::dot{} | heed::inv_sqrt_width{} | wave{};
    });
}
