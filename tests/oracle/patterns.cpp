// SPDX-License-Identifier: BSD-3-Clause
// Patterns of diagonals and lengths against the oracle's dense relations.
#include <oracle/try_pattern.hpp>

using namespace heed_test;

TEST_CASE("patterns: causal, both alignments", "[oracle][patterns]") {
    HEED_SEEDED;
    try_pattern<float>(40, 51, [](sizes n, auto& keep, auto&) {
        keep = oracle::causal_bottom_right(n.pairs());
        return heed::causal_bottom_right{};
    });
    try_pattern<float>(40, 52, [](sizes n, auto& keep, auto&) {
        keep = oracle::causal_top_left(n.pairs());
        return heed::causal_top_left{};
    });
}

TEST_CASE("patterns: windows", "[oracle][patterns]") {
    HEED_SEEDED;
    try_pattern<float>(40, 53, [](sizes n, auto& keep, auto& random) {
        extent_t const w = random.integer(1, 100);
        keep = oracle::band(n.pairs(), w - 1, 0);
        return heed::window{w};
    });
    try_pattern<float>(60, 54, [](sizes n, auto& keep, auto& random) {
        extent_t const l = random.integer(0, 100), r = random.integer(0, 100);
        keep = oracle::band(n.pairs(), l, r);
        return heed::window{l, r};
    });
}

TEST_CASE("patterns: windows that lie beside the diagonal, or are empty", "[oracle][patterns]") {
    HEED_SEEDED;
    try_pattern<float>(30, 55, [](sizes n, auto& keep, auto& random) {
        extent_t const l = random.integer(-20, 40), r = random.integer(-40, 20);
        keep = oracle::band(n.pairs(), l, r);
        return heed::window{l, r};
    });
}

TEST_CASE("patterns: prefix", "[oracle][patterns]") {
    HEED_SEEDED;
    lengths lens;
    try_pattern<float>(40, 56, [&](sizes n, auto& keep, auto& random) {
        lens.draw(n.batch, -2, n.keys + 5, random);
        keep = oracle::prefix(n.pairs(), lens.each);
        return heed::prefix{lens.view()};
    });
}

TEST_CASE("patterns: key lengths", "[oracle][patterns]") {
    HEED_SEEDED;
    lengths lens;
    try_pattern<float>(40, 57, [&](sizes n, auto& keep, auto& random) {
        lens.draw(n.batch, -2, n.keys + 5, random);
        keep = oracle::key_lengths(n.pairs(), lens.each);
        return heed::key_lengths{lens.view()};
    });
}
