// SPDX-License-Identifier: BSD-3-Clause
// Lists of edges: what the owner makes of pairs, what the checked view refuses.
#include "edge_oracle.hpp"

#include <map>

using namespace heed_test;

TEST_CASE("graph: rows hold the pairs, both ways", "[graph]") {
    HEED_SEEDED;
    random_source random(801);
    for (int trial = 0; trial < 100; ++trial) {
        edge_pairs const e = any_edges(random, 20, 60);
        heed::graph const g = e.make();
        heed::edge_list const list = g.edges();
        std::vector<bool> met(e.source.size()), met_back(e.source.size());
        for (extent_t i = 0; i < e.targets; ++i) {
            for (extent_t s = list.begin(i); s < list.end(i); ++s) {
                auto const number = static_cast<std::size_t>(list.number(s));
                REQUIRE(e.target[number] == i);
                REQUIRE(e.source[number] == list.source(s));
                REQUIRE((s == list.begin(i) || list.number(s) > list.number(s - 1)));
                REQUIRE(g.origin(list.number(s)) == list.number(s));
                met[number] = true;
            }
        }
        for (extent_t j = 0; j < e.sources; ++j) {
            for (extent_t x = list.out_begin(j); x < list.out_end(j); ++x) {
                auto const number = static_cast<std::size_t>(list.number(list.out_slot(x)));
                REQUIRE((e.source[number] == j && e.target[number] == list.out_target(x)));
                met_back[number] = true;
            }
        }
        REQUIRE(std::count(met.begin(), met.end(), true) == static_cast<std::ptrdiff_t>(met.size()));
        REQUIRE(met == met_back);
    }
}

TEST_CASE("graph: one self loop each, numbered last", "[graph]") {
    std::vector<std::int32_t> const source{0, 1, 2, 1}, target{1, 1, 0, 2};
    heed::graph const g(source, target, 3, 3, heed::self_loops::one_each);
    CHECK(g.size() == 6);
    heed::edge_list const e = g.edges();
    CHECK((e.number(e.end(1) - 1) == 4 && e.source(e.end(1) - 1) == 1));
    CHECK((g.origin(1) == 2 && g.origin(2) == 3 && g.origin(3) == -1));
    CHECK_THROWS_WITH(heed::graph(source, target, 3, 4, heed::self_loops::one_each), heed_test::contains("one node set"));
}

TEST_CASE("graph: bad lists are refused with the position", "[graph]") {
    std::vector<std::int64_t> const offsets{0, 1, 3}, falling{0, 2, 1}, late{1, 1, 3}, small{0, 1, 2};
    std::vector<std::int32_t> const source{0, 1, 1}, far{0, 1, 5}, negative{0, -1, 1}, none;
    CHECK_NOTHROW(heed::edge_list(offsets, source, none, 2));
    CHECK_THROWS_WITH(heed::edge_list(falling, source, none, 2), heed_test::contains("from 2 to 1 at position 2"));
    CHECK_THROWS_WITH(heed::edge_list(late, source, none, 2), heed_test::contains("begin with 1"));
    CHECK_THROWS_WITH(heed::edge_list(small, source, none, 2), heed_test::contains("3 edges"));
    CHECK_THROWS_WITH(heed::edge_list(offsets, far, none, 2), heed_test::contains("hold 5 at position 2"));
    CHECK_THROWS_WITH(heed::edge_list(offsets, negative, none, 2), heed_test::contains("hold -1 at position 1"));
    CHECK_THROWS_WITH(heed::edge_list(offsets, source, far, 2), heed_test::contains("edge numbers hold 5"));
    CHECK_THROWS_WITH(heed::edge_list(offsets, source, source, 2), heed_test::contains("hold 1 at position 2 for the second time"));
    std::vector<std::int64_t> const out_offsets{0, 1, 3};
    std::vector<std::int32_t> const slots{0, 1, 2}, swapped{1, 0, 2}, targets{0, 1, 1}, wrong{0, 0, 1};
    heed::edge_list const list(offsets, source, none, 2);
    CHECK_NOTHROW(list.by_source(out_offsets, slots, targets));
    CHECK_THROWS_WITH(list.by_source(out_offsets, swapped, targets), heed_test::contains("position 0"));
    CHECK_THROWS_WITH(list.by_source(out_offsets, slots, wrong), heed_test::contains("position 1"));
    CHECK_THROWS_WITH(heed::graph(source, far, 2, 2), heed_test::contains("position 2 goes from 1 to 5"));
}
