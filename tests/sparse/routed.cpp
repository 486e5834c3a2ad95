// SPDX-License-Identifier: BSD-3-Clause
// The engine that gathers queries by the blocks they chose, against the oracle and against itself on other threads.
#include <support/problem.hpp>
#include <support/team.hpp>

#include <heed/front/decode.hpp>
#include <heed/mechanism/moba.hpp>
#include <heed/policy/pattern/block_bits.hpp>

#include <algorithm>
#include <cmath>
#include <vector>

using namespace heed_test;

namespace {

heed::block_bits random_choice(sizes const& n, extent_t rows, extent_t keys, extent_t heads, double chance, random_source& random) {
    heed::block_bits bits(n.batch, heads, (n.queries + rows - 1) / rows, (n.keys + keys - 1) / keys);
    for (extent_t b = 0; b < n.batch; ++b)
        for (extent_t h = 0; h < heads; ++h)
            for (extent_t r = 0; r < bits.bits().extent(2); ++r)
                for (extent_t c = 0; c < bits.blocks(); ++c) {
                    if (random.chance(chance)) { bits.set(b, h, r, c); }
                }
    return bits;
}
sizes some_sizes(random_source& random) {
    sizes n;
    n.batch = random.integer(1, 2);
    n.kv_heads = random.integer(1, 2);
    n.heads = n.kv_heads * random.integer(1, 2);
    n.queries = random.integer(1, 1200);
    n.keys = random.integer(1, 400);
    n.width = random.integer(1, 30);
    n.value_width = random.integer(1, 30);
    return n;
}

} // namespace

TEST_CASE("routed attention: queries gathered by block give what the oracle gives", "[sparse][oracle]") {
    HEED_SEEDED;
    random_source random(730);
    static_assert(heed::forward_plan<decltype(heed::moba_attention(heed::block_map{})), float, heed::cpu<>>::engine() == "cpu.routed.forward");
    for (int trial = 0; trial < 14; ++trial) {
        sizes n = some_sizes(random);
        n.queries = trial < 10 ? random.integer(1, 150) : n.queries;
        problem<float> p(n, random);
        extent_t const rows = trial % 3 == 0 ? random.integer(2, 9) : 1, keys = random.integer(1, 150);
        auto const bits = random_choice(n, rows, keys, trial % 2 == 0 ? n.heads : n.kv_heads, random.pick({0.05, 0.4, 1.0}), random);
        auto const map = bits.map(rows, keys, trial % 2 == 0 ? 1 : n.heads / n.kv_heads);
        auto const m = heed::moba_attention(map);
        auto c = p.exact();
        heed::routed const pattern(map, heed::causal_bottom_right{});
        c.keep = oracle::relate(n.pairs(), [&](extent_t b, extent_t h, extent_t i, extent_t j) { return pattern.keep(heed::place{b, h, h / (n.heads / n.kv_heads), n.queries, n.keys, n.width}, i, j); });
        auto const found = run_and_compare(p, m, c);
        INFO(n << " blocks of " << rows << " x " << keys << " " << found.text);
        REQUIRE(found.good());
    }
}

TEST_CASE("routed attention: the bits do not depend on threads, on strides, nor on what was not chosen", "[sparse]") {
    HEED_SEEDED;
    random_source random(731);
    for (int trial = 0; trial < 3; ++trial) {
        sizes const n = some_sizes(random);
        problem<float> p(n, random), other = copied(p);
        extent_t const keys = random.integer(5, 90);
        auto const bits = random_choice(n, 1, keys, n.heads, 0.4, random);
        auto const m = heed::moba_attention(bits.map(1, keys));
        p.run(m);
        thread_team team{3};
        other.run(m, heed::cpu{team});
        REQUIRE((same_bits(p.out, other.out) && same_bits(p.lse, other.lse)));

        // a key that nobody chose is never read
        extent_t const block = random.integer(0, bits.blocks() - 1);
        auto some = random_choice(n, 1, keys, n.heads, 0, random);
        for (extent_t b = 0; b < n.batch; ++b)
            for (extent_t h = 0; h < n.heads; ++h)
                for (extent_t i = 0; i < n.queries; ++i)
                    for (extent_t c = 0; c < bits.blocks(); ++c) {
                        if (c != block && bits.keeps(b, h, i, c)) { some.set(b, h, i, c); }
                    }
        auto const without = heed::moba_attention(some.map(1, keys));
        p.run(without);
        auto const spoil = [&](float& x, extent_t, extent_t, extent_t j, extent_t) { x = j / keys == block ? NAN : x; };
        other.k.each_at(spoil), other.v.each_at(spoil);
        other.run(without);
        REQUIRE((same_bits(p.out, other.out) && same_bits(p.lse, other.lse)));
    }
}

TEST_CASE("routed attention: a step of decoding reads the chosen blocks and gives the rows of forward", "[sparse]") {
    HEED_SEEDED;
    random_source random(732);
    for (int trial = 0; trial < 8; ++trial) {
        sizes n = some_sizes(random);
        n.keys = random.integer(1, 3000), n.queries = random.integer(1, std::min<extent_t>(3, n.keys));
        problem<float> p(n, random), step = copied(p);
        extent_t const keys = random.integer(3, 200);
        bool const shared = trial % 2 == 0;
        auto const bits = random_choice(n, 1, keys, shared ? n.kv_heads : n.heads, random.pick({0.03, 0.5}), random);
        auto const m = heed::moba_attention(bits.map(1, keys, shared ? n.heads / n.kv_heads : 1));
        p.run(m);
        // what no query of a group chose is never read
        auto const spoil = [&](float& x, extent_t b, extent_t g, extent_t j, extent_t) {
            bool chosen = false;
            for (extent_t h = g * (n.heads / n.kv_heads); h < (g + 1) * (n.heads / n.kv_heads); ++h)
                for (extent_t i = 0; i < n.queries; ++i) { chosen = chosen || bits.keeps(b, shared ? g : h, i, j / keys); }
            x = chosen ? x : NAN;
        };
        step.k.each_at(spoil), step.v.each_at(spoil);
        std::vector<extent_t> lengths(static_cast<std::size_t>(n.batch), n.keys);
        auto const cache = heed::contiguous_cache(step.k.view(), step.v.view(), std::span<extent_t>(lengths));
        heed::decode(m, p.q.in(), cache, step.out.view());
        for (extent_t b = 0; b < n.batch; ++b)
            for (extent_t h = 0; h < n.heads; ++h)
                for (extent_t i = 0; i < n.queries; ++i)
                    for (extent_t e = 0; e < n.value_width; ++e) {
                        INFO(n << " at " << b << " " << h << " " << i << " " << e);
                        REQUIRE(step.out(b, h, i, e) == approx(p.out(b, h, i, e)).margin(2e-5));
                    }
    }
}
