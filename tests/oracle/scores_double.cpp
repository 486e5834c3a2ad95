// SPDX-License-Identifier: BSD-3-Clause
// Score policies in double.
#include <support/catch.hpp>
#include <support/problem.hpp>

using namespace heed_test;

TEST_CASE("scores: a long chain in double", "[oracle][scores]") {
    HEED_SEEDED;
    random_source random(41);
    for (int i = 0; i < 20; ++i) {
        extent_t const heads = random.integer(1, 3);
        sizes const n{random.integer(1, 2), heads, heads, random.integer(1, 40), random.integer(1, 200), random.integer(1, 30), random.integer(1, 30)};
        problem<double> p(n, random);
        tensor<double> slopes(heed::shape{1, heads, 1, 1}), b(heed::shape{1, heads, n.queries, n.keys}), table(heed::shape{1, 1, 15, 1});
        slopes.normal(random, 0.1);
        b.normal(random);
        table.normal(random);
        auto c = p.exact();
        c.cap_before = 3;
        c.slopes = oracle::read(slopes.in());
        c.bias = oracle::read(b.in());
        c.table = oracle::read(table.in());
        c.left = 4;
        auto const found = run_and_compare(p, heed::attention{heed::dot{} | heed::inv_sqrt_width{} | heed::softcap{3.0} | heed::alibi{slopes.view()} |
                                                             heed::bias{b.view()} | heed::relative_bias{table.view(), 4}}, c);
        INFO(n << " " << found.text);
        REQUIRE(found.good());
    }
}
