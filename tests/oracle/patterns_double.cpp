// SPDX-License-Identifier: BSD-3-Clause
// Patterns in double: other lanes, other tiles.
#include <support/catch.hpp>
#include <support/problem.hpp>

using namespace heed_test;

TEST_CASE("patterns: in double", "[oracle][patterns]") {
    HEED_SEEDED;
    random_source random(71);
    for (int i = 0; i < 25; ++i) {
        sizes const n{1, 2, 1, random.integer(1, 60), random.integer(1, 300), random.integer(1, 12), random.integer(1, 12)};
        problem<double> p(n, random);
        auto c = p.exact();
        extent_t const l = random.integer(0, 60), r = random.integer(0, 60);
        c.keep = oracle::both(oracle::causal_bottom_right(n.pairs()), oracle::band(n.pairs(), l, r));
        auto const banded = run_and_compare(p, heed::softmax_attention(heed::causal_bottom_right{} & heed::window{l, r}), c);
        INFO(n << " " << banded.text);
        REQUIRE(banded.good());

        tensor<std::uint8_t> m(n.pairs());
        m.each([&](std::uint8_t& x) { x = random.chance(0.3); });
        c.keep = oracle::listed(n.pairs(), oracle::read(m.in()));
        auto const masked = run_and_compare(p, heed::softmax_attention(heed::mask{m.view()}), c);
        INFO(n << " " << masked.text);
        REQUIRE(masked.good());
    }
}
