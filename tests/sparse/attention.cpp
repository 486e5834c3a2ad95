// SPDX-License-Identifier: BSD-3-Clause
// Attention over sparse patterns against the dense oracle, forward and backward, through one engine that takes any pattern; its laws.
#include <gradient/problem.hpp>
#include <support/team.hpp>

#include <heed/front/decode.hpp>
#include <heed/mechanism/patterned.hpp>
#include <heed/policy/pattern/chosen.hpp>

#include <vector>

using namespace heed_test;

namespace {

// The pairs of a pattern as the oracle takes them; the rules themselves are tested in patterns.cpp.
template <class P>
oracle::relation pairs_of(P const& p, sizes const& n) {
    return oracle::relate(n.pairs(), [&](extent_t b, extent_t h, extent_t i, extent_t j) {
        heed::place const at{b, h, h / (n.heads / n.kv_heads), n.queries, n.keys, n.width};
        return static_cast<bool>(p.keep(at, i, j));
    });
}
sizes some_sizes(random_source& random, extent_t queries, extent_t keys) {
    sizes n;
    n.batch = random.integer(1, 2);
    n.kv_heads = random.integer(1, 2);
    n.heads = n.kv_heads * random.integer(1, 2);
    n.queries = queries;
    n.keys = keys;
    n.width = random.integer(1, 20);
    n.value_width = random.integer(1, 20);
    return n;
}
template <class P>
void try_one(P const& pattern, sizes const& n, random_source& random) {
    gradient_problem<double> p(n, random);
    auto const m = heed::softmax_attention(heed::any_pattern(pattern));
    p.back(m);
    auto c = p.exact();
    c.keep = pairs_of(pattern, n);
    auto const ahead = p.problem<double>::against(c, bound_of<double>(m)), back = against(p, c);
    INFO(n << " " << ahead.text << " " << back.text);
    REQUIRE((ahead.good() && back.good()));
}

heed::block_bits random_blocks(sizes const& n, extent_t rows, extent_t keys, extent_t heads, double chance, random_source& random) {
    heed::block_bits bits(random.chance(0.5) ? 1 : n.batch, heads, (n.queries + rows - 1) / rows, (n.keys + keys - 1) / keys);
    for (extent_t b = 0; b < bits.bits().extent(0); ++b)
        for (extent_t h = 0; h < heads; ++h)
            for (extent_t r = 0; r < bits.bits().extent(2); ++r)
                for (extent_t c = 0; c < bits.blocks(); ++c) {
                    if (random.chance(chance)) { bits.set(b, h, r, c); }
                }
    return bits;
}

} // namespace

TEST_CASE("sparse attention: block maps against the oracle, forward and backward", "[sparse][oracle]") {
    HEED_SEEDED;
    random_source random(710);
    for (int trial = 0; trial < 16; ++trial) {
        sizes const n = some_sizes(random, random.integer(1, 150), random.integer(1, 400));
        extent_t const rows = random.integer(1, 50), keys = random.integer(1, 90);
        auto const bits = random_blocks(n, rows, keys, trial % 2 == 0 ? n.heads : n.kv_heads, random.pick({0.1, 0.5, 0.95}), random);
        auto const map = bits.map(rows, keys, trial % 2 == 0 ? 1 : n.heads / n.kv_heads);
        if (trial % 3 == 0) {
            auto const both = map & heed::causal_bottom_right{};
            try_one(both, n, random);
        } else {
            try_one(map, n, random);
        }
    }
}

TEST_CASE("sparse attention: rules and grids against the oracle, forward and backward", "[sparse][oracle]") {
    HEED_SEEDED;
    random_source random(711);
    for (int trial = 0; trial < 3; ++trial) {
        extent_t const keys = random.integer(30, 300);
        sizes const n = some_sizes(random, random.integer(1, keys), keys);
        extent_t const s = random.integer(1, 30);
        try_one(heed::strided{s}, n, random);
        try_one(heed::fixed{s, random.integer(0, s)}, n, random);
        try_one(heed::dilated_window{random.integer(0, 9), random.integer(1, 4)} | heed::global_tokens{random.integer(0, 5)}, n, random);
        std::vector<std::int32_t> sizes_of, shifts;
        for (extent_t h = 0; h < n.heads; ++h) {
            sizes_of.push_back(static_cast<std::int32_t>(random.integer(0, 60)));
            shifts.push_back(static_cast<std::int32_t>(random.integer(0, 30)));
        }
        auto const size = heed::per_head<std::int32_t const>(sizes_of.data(), n.heads), shift = heed::per_head<std::int32_t const>(shifts.data(), n.heads);
        auto const shifted = heed::head_groups{size, shift} & heed::causal_bottom_right{};
        try_one(shifted, n, random);
        try_one((heed::head_groups{size, shift} | heed::global_tokens{random.integer(0, 40)}) & heed::causal_bottom_right{}, n, random);
        try_one(heed::rolled_groups{s, shift}, n, random);
        heed::neighbourhood_map const plane({{random.integer(7, 15), random.integer(2, 7), 2}, {random.integer(9, 20), 4, 1, 2}}, {3, 4});
        try_one(heed::neighbourhood{plane.bands()}, some_sizes(random, plane.bands().points(), plane.bands().points()), random);
    }
}

TEST_CASE("sparse attention: all blocks are dense attention, and a map of blocks its mask", "[sparse][laws]") {
    HEED_SEEDED;
    random_source random(712);
    for (int trial = 0; trial < 6; ++trial) {
        sizes const n = some_sizes(random, random.integer(1, 150), random.integer(1, 300));
        problem<double> p(n, random), other = copied(p);
        extent_t const rows = random.integer(1, 70), keys = random.integer(1, 70);
        auto const all = random_blocks(n, rows, keys, 1, 1, random);
        auto const map = all.map(rows, keys, n.heads);
        p.run(heed::softmax_attention(heed::any_pattern(map)));
        heed::full const everything;
        other.run(heed::softmax_attention(heed::any_pattern(everything)));
        REQUIRE(same_bits(p.out, other.out));
        REQUIRE(same_bits(p.lse, other.lse));
    }
}

TEST_CASE("sparse attention: a compiled pattern gives the bits of the chosen one, on any number of threads", "[sparse]") {
    HEED_SEEDED;
    random_source random(713);
    sizes n = some_sizes(random, 201, 333);
    n.batch = 1, n.heads = n.kv_heads * 2;
    auto const bits = random_blocks(n, 30, 70, n.heads, 0.4, random);
    auto const map = bits.map(30, 70);
    gradient_problem<double> one(n, random);
    one.back(heed::block_sparse_attention(map));
    for (int threads : {1, 2, 5}) {
        gradient_problem<double> many(n, random);
        many.q.copy(one.q.in()), many.k.copy(one.k.in()), many.v.copy(one.v.in()), many.dout.copy(one.dout.in()), many.dlse.copy(one.dlse.in());
        thread_team team{threads};
        if (threads == 1) {
            many.back(heed::softmax_attention(heed::any_pattern(map)));
        } else {
            many.back(heed::block_sparse_attention(map), heed::cpu{team});
        }
        INFO(threads << " threads");
        REQUIRE((same_bits(one.out, many.out) && same_bits(one.lse, many.lse)));
        REQUIRE((same_bits(one.dq, many.dq) && same_bits(one.dk, many.dk) && same_bits(one.dv, many.dv)));
    }
}

TEST_CASE("block bits: what lists and offsets may not hold", "[sparse]") {
    std::vector<std::int32_t> list{0, 2, -1, 1, 1, 3};
    auto const view = [&] { return heed::tensor_view<std::int32_t const>(list.data(), {1, 1, 2, 3}); };
    CHECK_THROWS_WITH(heed::block_bits(view(), 4), contains("block 1 stands twice in the list of batch 0, head 0, row 1, again at slot 1"));
    list[4] = 4;
    CHECK_THROWS_WITH(heed::block_bits(view(), 4), contains("block 4 at batch 0, head 0, row 1, slot 1; there are 4 blocks"));
    list[4] = -2;
    CHECK_THROWS_WITH(heed::block_bits(view(), 4), contains("block -2"));
    list[4] = 2;
    heed::block_bits const good(view(), 4);
    CHECK((good.keeps(0, 0, 0, 0) && good.keeps(0, 0, 0, 2) && !good.keeps(0, 0, 0, 1) && good.keeps(0, 0, 1, 3)));
    CHECK_THROWS_WITH(good.map(0, 4), contains("blocks of 0 queries by 4 keys"));

    std::vector<std::int32_t> offsets{0, 2, 3}, blocks{0, 2, 1};
    CHECK(heed::block_bits(std::span<std::int32_t const>(offsets), std::span<std::int32_t const>(blocks), 3).keeps(0, 0, 0, 2));
    blocks[1] = 0;
    CHECK_THROWS_WITH(heed::block_bits(std::span<std::int32_t const>(offsets), std::span<std::int32_t const>(blocks), 3), contains("block 0 at position 1 of row 0; blocks of a row rise"));
    offsets[2] = 4;
    blocks[1] = 2;
    CHECK_THROWS_WITH(heed::block_bits(std::span<std::int32_t const>(offsets), std::span<std::int32_t const>(blocks), 3), contains("offsets of blocks go from 2 to 4 at row 1"));

    sizes const n{1, 2, 1, 10, 30, 4, 4};
    random_source random(714);
    problem<double> p(n, random);
    heed::block_bits const few(1, 1, 2, 4); // three rows of blocks are needed
    auto const map = few.map(4, 8);
    CHECK_THROWS_WITH(p.run(heed::softmax_attention(heed::any_pattern(map))), contains("block bits"));
}

TEST_CASE("big bird: windows, global and random blocks", "[sparse]") {
    auto const blocks = heed::big_bird_blocks(20, 1, 2, 3, 5), again = heed::big_bird_blocks(20, 1, 2, 3, 5);
    extent_t drawn = 0;
    for (extent_t r = 0; r < 20; ++r)
        for (extent_t c = 0; c < 20; ++c) {
            bool const must = c < 2 || r < 2 || (r - c <= 1 && c - r <= 1);
            CHECK((blocks.keeps(0, 0, r, c) || !must));
            CHECK(blocks.keeps(0, 0, r, c) == again.keeps(0, 0, r, c));
            drawn += !must && blocks.keeps(0, 0, r, c);
        }
    CHECK((drawn > 20 && drawn <= 60));
}
