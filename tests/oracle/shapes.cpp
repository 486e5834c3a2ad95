// SPDX-License-Identifier: BSD-3-Clause
// Edge shapes: a seeded sample of the cross product of {0, 1, 2, lane-1, lane, lane+1, tile-1, tile, tile+1, prime} over every extent.
#include <support/catch.hpp>
#include <support/problem.hpp>

using namespace heed_test;

namespace {

template <class T>
using plain_plan = heed::forward_plan<decltype(heed::softmax_attention()), T, heed::cpu<>>;

template <class T, class M>
void sample_shapes(M const& m, int count, extent_t most_pairs, bool causal, std::uint64_t stream) {
    random_source random(stream);
    extent_t const lane = heed::vec<T, heed::native_arch>::lanes;
    extent_t const rows = plain_plan<T>::tile_queries(), keys = plain_plan<T>::tile_keys();
    std::vector<extent_t> const queries{0, 1, 2, lane - 1, lane, lane + 1, rows - 1, rows, rows + 1, 31, 97};
    std::vector<extent_t> const lengths{0, 1, 2, lane - 1, lane, lane + 1, keys - 1, keys, keys + 1, 2 * keys + 1, 31, 199};
    std::vector<extent_t> const widths{0, 1, 2, 3, lane - 1, lane, lane + 1, 13, 31, 64, 67};
    int done = 0;
    while (done < count) {
        sizes n;
        n.queries = random.pick(queries);
        n.keys = random.pick(lengths);
        n.width = random.pick(widths);
        n.value_width = random.pick(widths);
        n.kv_heads = random.pick({1, 1, 2, 3});
        n.heads = n.kv_heads * random.pick({1, 1, 2, 5});
        n.batch = random.pick({0, 1, 1, 1, 2, 3});
        if (random.chance(0.03)) { n.heads = n.kv_heads = 0; }
        if (n.batch * n.heads * n.queries * n.keys > most_pairs) { continue; }
        ++done;
        INFO(n);
        problem<T> p(n, random, random.pick({place::margin, place::upper_page, place::lower_page}));
        auto c = p.exact();
        if (causal) { c.keep = oracle::causal_bottom_right(n.pairs()); }
        auto const found = run_and_compare(p, m, c);
        INFO(found.text);
        REQUIRE(found.good());
    }
}

} // namespace

TEST_CASE("shapes: full, float", "[oracle][shapes]") {
    HEED_SEEDED;
    sample_shapes<float>(heed::softmax_attention(), 250, 60000, false, 11);
}
TEST_CASE("shapes: causal, float", "[oracle][shapes]") {
    HEED_SEEDED;
    sample_shapes<float>(heed::softmax_attention(heed::causal_bottom_right{}), 250, 60000, true, 12);
}
TEST_CASE("shapes: full, double", "[oracle][shapes]") {
    HEED_SEEDED;
    sample_shapes<double>(heed::softmax_attention(), 80, 20000, false, 13);
}
TEST_CASE("shapes: causal, double", "[oracle][shapes]") {
    HEED_SEEDED;
    sample_shapes<double>(heed::softmax_attention(heed::causal_bottom_right{}), 80, 20000, true, 14);
}

TEST_CASE("shapes: every query count and every key count around a tile", "[oracle][shapes]") {
    HEED_SEEDED;
    random_source random(15);
    extent_t const rows = plain_plan<float>::tile_queries(), keys = plain_plan<float>::tile_keys();
    auto const m = heed::softmax_attention(heed::causal_bottom_right{});
    for (extent_t n = 1; n <= 2 * rows + 1; ++n) {
        problem<float> p({1, 1, 1, n, n + 3, 5, 6}, random, place::upper_page);
        auto c = p.exact();
        c.keep = oracle::causal_bottom_right(p.n.pairs());
        auto const found = run_and_compare(p, m, c);
        INFO(p.n << " " << found.text);
        REQUIRE(found.good());
    }
    for (extent_t n = keys - 9; n <= keys + 9; ++n) {
        problem<float> p({1, 1, 1, 5, n, 4, 3}, random, place::upper_page);
        auto const found = run_and_compare(p, heed::softmax_attention(), p.exact());
        INFO(p.n << " " << found.text);
        REQUIRE(found.good());
    }
    for (extent_t d = 1; d <= 70; ++d) {
        problem<float> p({1, 2, 1, 9, 11, d, 71 - d}, random, place::upper_page);
        auto const found = run_and_compare(p, heed::softmax_attention(), p.exact());
        INFO(p.n << " " << found.text);
        REQUIRE(found.good());
    }
}

TEST_CASE("shapes: many tiles", "[oracle][shapes]") {
    HEED_SEEDED;
    random_source random(16);
    for (sizes n : {sizes{1, 1, 1, 257, 1031, 64, 64}, sizes{1, 2, 1, 131, 521, 100, 36}, sizes{2, 1, 1, 64, 640, 128, 128}, sizes{1, 1, 1, 300, 300, 256, 200}}) {
        problem<float> p(n, random);
        auto c = p.exact();
        auto const full = run_and_compare(p, heed::softmax_attention(), c);
        INFO(n << " " << full.text);
        REQUIRE(full.good());
        c.keep = oracle::causal_bottom_right(n.pairs());
        auto const causal = run_and_compare(p, heed::softmax_attention(heed::causal_bottom_right{}), c);
        INFO(n << " " << causal.text);
        REQUIRE(causal.good());
    }
}
