// SPDX-License-Identifier: BSD-3-Clause
// Every kind of cache holds the same tokens: paged and contiguous give the same bits, a ring those of its window, threads and company change nothing.
#include <support/allocation_counter.hpp>

#include <decode/cached.hpp>

#include <sstream>

using namespace heed_test;

namespace {

auto const causal = heed::softmax_attention(heed::causal_bottom_right{});

} // namespace

TEST_CASE("decode: pages of any size give the bits of a contiguous cache", "[decode]") {
    HEED_SEEDED;
    random_source random(501);
    step_sizes const n{2, 4, 2, 48, 40, {333, 0, 65, 1}};
    step<float> s(n, random);
    own_cache<float, float> whole(n, kind::contiguous, 340, 340, random);
    whole.fill(s, random, 200);
    s.decode(causal, whole);
    CHECK(differ(s, s.expected(causal), 2e-6) == "");
    for (extent_t rows : {1, 3, 16, 64, 200, 500}) {
        step<float> t = s;
        own_cache<float, float> pages(n, kind::paged, rows, 340, random);
        pages.fill(s, random, 50);
        t.decode(causal, pages);
        INFO("pages of " << rows);
        CHECK(same(s, t));
        CHECK(pages.intact());
    }
}

TEST_CASE("decode: a ring as long as the window is enough, and gives the same bits", "[decode]") {
    HEED_SEEDED;
    random_source random(502);
    for (extent_t tokens : {1, 4}) {
        step_sizes const n{2, 3, tokens, 20, 24, {500, 37, 5, 1000}};
        step<float> s(n, random);
        auto const m = heed::softmax_attention(heed::window{37});
        own_cache<float, float> whole(n, kind::contiguous, 1000, 1000, random), last(n, kind::ring, 37 + tokens - 1, 0, random);
        whole.fill(s, random, 300);
        last.fill(s, random, 60); // some appends are longer than the ring
        s.decode(m, whole);
        CHECK(differ(s, s.expected(m), 2e-6) == "");
        step<float> t = s;
        t.decode(m, last);
        CHECK(same(s, t));
        CHECK(last.intact());
        CHECK_THROWS_WITH(t.decode(heed::softmax_attention(heed::window{38}), last), contains("the mechanism looks back to"));
        CHECK_THROWS_WITH(t.decode(causal, last), contains("remembers positions from"));
    }
}

TEST_CASE("decode: threads, executors and the company of other sequences change no bit", "[decode]") {
    HEED_SEEDED;
    random_source random(503);
    step_sizes const n{2, 4, 1, 64, 64, {5000, 17, 2500}};
    step<float> s(n, random);
    own_cache<float, float> cache(n, kind::contiguous, 5100, 5100, random);
    cache.fill(s, random, 5000);
    s.decode(causal, cache);
    CHECK(differ(s, s.expected(causal), 2e-6) == "");
    for (int threads = 2; threads <= 8; ++threads) {
        step<float> t = s;
        t.decode(causal, cache, heed::cpu{thread_team{threads}});
        CHECK(same(s, t));
        t.decode(causal, cache, heed::cpu{backwards{threads}});
        CHECK(same(s, t));
    }
    for (extent_t b = 0; b < 3; ++b) {
        step_sizes one = n;
        one.lengths = {n.lengths[static_cast<std::size_t>(b)]};
        step<float> t(one, random);
        t.q.copy(first_rows(s.q.in(), b, 1));
        t.k.copy(first_rows(s.k.in(), b, one.longest()));
        t.v.copy(first_rows(s.v.in(), b, one.longest()));
        own_cache<float, float> alone(one, kind::paged, 100, 7000, random);
        alone.fill(t, random, 5000);
        t.decode(causal, alone);
        CHECK(same_bits<float>(t.out.in(), first_rows(s.out.in(), b, 1)));
        CHECK(same_bits<float>(t.lse.in(), first_rows(s.lse.in(), b, 1)));
    }
}

TEST_CASE("decode: a cache of its own grows page by page, forgets a sequence, and says its bytes", "[decode]") {
    HEED_SEEDED;
    random_source random(504);
    step_sizes const n{2, 2, 1, 16, 16, {50, 50}};
    step<float> s(n, random);
    s.decode(causal, [&] {
        auto c = heed::make_cache<float>(causal, {.batch = 2, .heads = 2, .tokens = 60, .width = 16, .value_width = 16});
        heed::append(c, s.k.in(), s.v.in());
        return c;
    }());
    step<float> const whole = [&] {
        step<float> t = s;
        t.out.copy(s.out.in());
        t.lse.copy(s.lse.in());
        return t;
    }();
    auto pages = heed::make_cache<float>(causal, {.batch = 2, .heads = 2, .tokens = 60, .width = 16, .value_width = 16}, heed::paged{8, 14});
    CHECK(pages.bytes() >= 14 * 8 * 2 * 32 * sizeof(float));
    CHECK(pages.bytes() < 14 * 8 * 2 * 32 * sizeof(float) + 1000);
    for (int round = 0; round < 3; ++round) {
        for (extent_t i = 0; i < 50; ++i) { heed::append(pages, rows_of(s.k.in(), i), rows_of(s.v.in(), i)); }
        s.decode(causal, pages);
        CHECK(same(s, whole));
        CHECK_THROWS_WITH(heed::append(pages, s.k.in(), s.v.in()), contains("more pages"));
        CHECK(pages.length(0) == 50);
        pages.clear(0);
        pages.clear(1);
        CHECK(pages.length(0) == 0);
    }
    {
        auto plan = heed::plan_decode<float>(causal, n.q(), pages);
        std::vector<std::byte> workspace(plan.workspace_bytes());
        allocation_scope const scope;
        heed::append(pages, rows_of(s.k.in(), 0), rows_of(s.v.in(), 0));
        plan.run(s.q.in(), pages, s.out.view(), workspace);
        std::size_t const calls = scope.calls();
        CHECK(calls == 0);
    }
    auto last = heed::make_cache<float>(heed::softmax_attention(heed::window{8}), {.batch = 2, .heads = 2, .tokens = 8, .width = 16, .value_width = 16}, heed::ring{});
    heed::append(last, s.k.in(), s.v.in());
    s.decode(heed::softmax_attention(heed::window{8}), last);
    CHECK(differ(s, s.expected(heed::softmax_attention(heed::window{8})), 2e-6) == "");
}

TEST_CASE("decode: a plan says what it will do, allocates nothing, and stays in its workspace", "[contract]") {
    HEED_SEEDED;
    random_source random(505);
    step_sizes const n{2, 4, 3, 33, 20, {700, 40}};
    step<float> s(n, random);
    own_cache<float, float> cache(n, kind::paged, 16, 800, random);
    cache.fill(s, random, 300);
    s.decode(causal, cache);
    step<float> t = s;
    for (int threads : {1, 3}) {
        auto plan = heed::plan_decode<float>(causal, n.q(), cache, heed::cpu{backwards{threads}});
        CHECK(plan.engine() == "cpu.pairwise.decode");
        std::ostringstream text;
        text << plan;
        CHECK_THAT(text.str(), contains("cpu.pairwise.decode") && contains(std::to_string(plan.workspace_bytes())));
        for (place where : {place::upper_page, place::lower_page}) {
            guarded_block const workspace(plan.workspace_bytes(), where, threads == 1 ? 0 : 5);
            std::size_t calls = 0;
            {
                allocation_scope const scope;
                plan.run(t.q.in(), cache, t.out.view(), std::span<std::byte>(workspace.data(), workspace.bytes()), heed::save{t.lse.view()});
                calls = scope.calls();
            }
            CHECK(calls == 0);
            CHECK(workspace.surroundings_intact());
            CHECK(same(s, t));
        }
        std::vector<std::byte> small(plan.workspace_bytes() - 1);
        CHECK_THROWS_WITH(plan.run(t.q.in(), cache, t.out.view(), small), contains("workspace"));
    }
}

TEST_CASE("decode: bad tables, lengths and shapes are refused by a sentence", "[contract]") {
    auto const table = [](std::vector<std::int32_t> const& t) { return heed::block_table(std::span<std::int32_t const>(t), 2, 3, 6); };
    CHECK_NOTHROW(table({0, 1, 2, 5, 4, -1}));
    CHECK_THROWS_WITH(table({0, 1, 6, 5, 4, -1}), contains("page 6 at sequence 0, position 2") && contains("out of range"));
    CHECK_THROWS_WITH(table({0, 1, -2, 5, 4, -1}), contains("page -2 at sequence 0, position 2"));
    CHECK_THROWS_WITH(table({0, 1, 2, 5, 1, -1}), contains("page 1 at sequence 1, position 1") && contains("used twice"));
    CHECK_THROWS_WITH(table({0, -1, 2, 5, 4, 3}), contains("sequence 0, position 2") && contains("behind a missing page"));
    CHECK_THROWS_WITH(table({0, 1}), contains("needs 6 entries"));

    HEED_SEEDED;
    random_source random(506);
    step_sizes const n{2, 2, 1, 8, 8, {20, 20}};
    step<float> s(n, random);
    own_cache<float, float> c(n, kind::contiguous, 20, 20, random);
    c.fill(s, random, 20);
    auto const before = c.k.bytes();
    CHECK_THROWS_WITH(heed::append(c, rows_of(s.k.in(), 0), rows_of(s.v.in(), 0)), contains("sequence 0 has 20 tokens and no room"));
    CHECK(c.k.bytes() == before);
    CHECK_THROWS_WITH(heed::append(c, rows_of(s.k.in(), 0), s.v.in()), contains("positions"));
    tensor<float> q(heed::shape{2, 3, 1, 8}), out(heed::shape{2, 3, 1, 8}), q9(heed::shape{2, 4, 1, 9}), q1(heed::shape{1, 4, 1, 8}), wide(heed::shape{2, 4, 1, 9});
    CHECK_THROWS_WITH(heed::decode(causal, q.in(), c, out.view()), contains("multiple"));
    CHECK_THROWS_WITH(heed::decode(causal, q9.in(), c, wide.view()), contains("features"));
    CHECK_THROWS_WITH(heed::decode(causal, q1.in(), c, wide.view()), contains("sequences"));
    CHECK_THROWS_WITH(heed::decode(causal, s.q.in(), c, wide.view()), contains("out has 9 features"));
    c.lengths[1] = 21;
    CHECK_THROWS_WITH(heed::decode(causal, s.q.in(), c, s.out.view()), contains("sequence 1 of the cache has length 21"));
}
