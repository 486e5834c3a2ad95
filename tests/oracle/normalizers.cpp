// SPDX-License-Identifier: BSD-3-Clause
// Softmax with and without sinks, log-sum-exp in both bases, with and without saving it.
#include <support/catch.hpp>
#include <support/problem.hpp>

using namespace heed_test;

namespace {
auto const plain_score = heed::dot{} | heed::inv_sqrt_width{};
}

TEST_CASE("normalizers: sinks", "[oracle][normalizers]") {
    HEED_SEEDED;
    random_source random(81);
    for (int i = 0; i < 40; ++i) {
        extent_t const kv = random.integer(1, 2), heads = kv * random.integer(1, 3);
        problem<float> p({random.integer(1, 2), heads, kv, random.integer(1, 60), random.integer(0, 200), random.integer(1, 20), random.integer(1, 20)}, random);
        tensor<float> sinks(heed::shape{1, heads, 1, 1});
        sinks.each([&](float& x) { x = static_cast<float>(random.pick({random.normal(), 30 * random.normal(), -std::numeric_limits<double>::infinity()})); });
        auto c = p.exact();
        c.sinks = oracle::read(sinks.in());
        c.keep = oracle::causal_bottom_right(p.n.pairs());
        auto const found = run_and_compare(p, heed::attention{plain_score, heed::causal_bottom_right{}, heed::softmax_sink{sinks.view()}}, c);
        INFO(p.n << " " << found.text);
        REQUIRE(found.good());
    }
}

TEST_CASE("normalizers: one sink for all heads", "[oracle][normalizers]") {
    HEED_SEEDED;
    random_source random(82);
    problem<float> p({1, 3, 1, 9, 40, 8, 8}, random);
    tensor<float> sink(heed::shape{1, 1, 1, 1});
    sink.fill(1.5f);
    auto c = p.exact();
    c.sinks = oracle::array({1, 3, 1, 1}, 1.5);
    auto const found = run_and_compare(p, heed::attention{plain_score, heed::full{}, heed::softmax_sink{sink.view()}}, c);
    INFO(found.text);
    REQUIRE(found.good());
}

TEST_CASE("normalizers: log-sum-exp in base 2 is the natural one divided by ln 2", "[oracle][normalizers]") {
    HEED_SEEDED;
    random_source random(83);
    problem<float> p({2, 2, 2, 50, 170, 16, 8}, random);
    auto const m = heed::softmax_attention(heed::causal_top_left{} & heed::window{-3, 100000});
    auto c = p.exact();
    c.keep = oracle::both(oracle::causal_top_left(p.n.pairs()), oracle::band(p.n.pairs(), -3, 100000));
    auto exact = oracle::softmax(c);
    heed::forward(m, p.q.in(), p.k.in(), p.v.in(), p.out.view(), heed::save_log2{p.lse.view()});
    for (double& x : exact.lse.x) { x /= std::log(2.0); }
    auto const found = compare<float>(p.out.in(), p.lse.in(), exact, bound_of<float>(m));
    INFO(found.text);
    REQUIRE(found.good());
}

TEST_CASE("normalizers: asking for log-sum-exp does not change the output", "[oracle][normalizers]") {
    HEED_SEEDED;
    random_source random(84);
    problem<float> p({1, 2, 2, 60, 150, 16, 8}, random);
    tensor<float> other(p.n.out());
    auto const m = heed::softmax_attention();
    auto const saved = heed::forward(m, p.q.in(), p.k.in(), p.v.in(), p.out.view(), heed::save{p.lse.view()});
    heed::forward(m, p.q.in(), p.k.in(), p.v.in(), other.view());
    CHECK(same_bits(p.out, other));
    CHECK(saved.lse.data_handle() == p.lse.view().data_handle());
    CHECK(p.against(p.exact(), bound_of<float>(m)).good());
}

TEST_CASE("normalizers: the reference backend agrees with the oracle", "[oracle][normalizers]") {
    HEED_SEEDED;
    random_source random(85);
    for (int i = 0; i < 10; ++i) {
        problem<float> p({1, 4, 2, random.integer(1, 40), random.integer(0, 60), random.integer(0, 20), random.integer(1, 20)}, random);
        tensor<float> sinks(heed::shape{1, 4, 1, 1});
        sinks.normal(random);
        auto c = p.exact();
        c.keep = oracle::causal_bottom_right(p.n.pairs());
        c.sinks = oracle::read(sinks.in());
        p.run(heed::attention{plain_score, heed::causal_bottom_right{}, heed::softmax_sink{sinks.view()}}, heed::reference{});
        error_bound bound;
        bound.keys_per_tile = 1;
        auto const found = p.against(c, bound);
        INFO(p.n << " " << found.text);
        REQUIRE(found.good());
    }
}
