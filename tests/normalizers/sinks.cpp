// SPDX-License-Identifier: BSD-3-Clause
// Sinks that are constants, and keys with weights of their own.
#include <support/catch.hpp>
#include <support/problem.hpp>

#include <heed/mechanism/off_by_one.hpp>
#include <heed/policy/score/weighted_keys.hpp>

using namespace heed_test;

namespace {
auto const plain_score = heed::dot{} | heed::inv_sqrt_width{};
}

TEST_CASE("normalizers: constant sinks", "[oracle]") {
    HEED_SEEDED;
    random_source random(941);
    for (int i = 0; i < 30; ++i) {
        extent_t const kv = random.integer(1, 2), heads = kv * random.integer(1, 3);
        problem<float> p({random.integer(1, 2), heads, kv, random.integer(1, 60), random.integer(0, 200), random.integer(1, 20), random.integer(1, 20)}, random);
        float const logit = static_cast<float>(random.pick({random.normal(), 30 * random.normal(), 0.0}));
        auto c = p.exact();
        c.keep = oracle::causal_bottom_right(p.n.pairs());
        c.sinks = oracle::array({1, heads, 1, 1}, static_cast<double>(logit));
        auto found = run_and_compare(p, heed::attention{plain_score, heed::causal_bottom_right{}, heed::softmax_constant_sink{logit}}, c);
        INFO(p.n << " " << found.text);
        REQUIRE(found.good());
        c.sinks = oracle::array({1, heads, 1, 1}, 0.0);
        found = run_and_compare(p, heed::off_by_one_attention(heed::causal_bottom_right{}), c);
        INFO(found.text);
        REQUIRE(found.good());
    }
}
TEST_CASE("normalizers: a constant sink of -infinity is none, to the bit", "[laws]") {
    HEED_SEEDED;
    random_source random(942);
    problem<float> p({1, 2, 2, 40, 160, 8, 8}, random), plain = copied(p);
    p.run(heed::attention{plain_score, heed::full{}, heed::softmax_constant_sink{-std::numeric_limits<float>::infinity()}});
    plain.run(heed::softmax_attention());
    CHECK(same_bits(p.out, plain.out));
    CHECK(same_bits(p.lse, plain.lse));
}
TEST_CASE("normalizers: off by one is a key of zeros with a value of zeros", "[laws]") {
    HEED_SEEDED;
    random_source random(943);
    problem<float> p({1, 2, 1, 40, 150, 8, 8}, random), more({1, 2, 1, 40, 151, 8, 8}, random);
    more.q.copy(p.q.in());
    more.k.each_at([&](float& x, extent_t b, extent_t h, extent_t j, extent_t d) { x = j == 0 ? 0 : p.k(b, h, j - 1, d); });
    more.v.each_at([&](float& x, extent_t b, extent_t h, extent_t j, extent_t d) { x = j == 0 ? 0 : p.v(b, h, j - 1, d); });
    p.run(heed::off_by_one_attention());
    more.run(heed::softmax_attention());
    CHECK(compare_close<float>(p.out.in(), more.out.in(), 1e-6).text == "");
    CHECK(compare_close<float>(p.lse.in(), more.lse.in(), 2e-6).text == "");
}

TEST_CASE("normalizers: weighted keys", "[oracle]") {
    HEED_SEEDED;
    random_source random(944);
    for (int i = 0; i < 30; ++i) {
        extent_t const kv = random.integer(1, 3), heads = kv * random.integer(1, 3), batch = random.integer(1, 2);
        problem<float> p({batch, heads, kv, random.integer(1, 60), random.integer(1, 300), random.integer(1, 20), random.integer(1, 20)}, random);
        tensor<float> w(heed::shape{random.chance(0.5) ? batch : 1, random.chance(0.5) ? kv : 1, random.chance(0.9) ? p.n.keys : 1, 1});
        w.each([&](float& x) { x = random.chance(0.2) ? 0 : static_cast<float>(std::exp(4 * random.normal())); });
        auto c = p.exact();
        c.keep = oracle::causal_bottom_right(p.n.pairs());
        c.bias = oracle::array({batch, heads, 1, p.n.keys});
        for (extent_t b = 0; b < batch; ++b)
            for (extent_t h = 0; h < heads; ++h)
                for (extent_t j = 0; j < p.n.keys; ++j) { c.bias(b, h, 0, j) = std::log(oracle::read(w.in()).spread(b, w.shape().head == 1 ? 0 : h / (heads / kv), j, 0)); }
        auto const found = run_and_compare(p, heed::attention{plain_score | heed::weighted_keys{w.in()}, heed::causal_bottom_right{}}, c);
        INFO(p.n << " " << found.text);
        REQUIRE(found.good());
    }
}
TEST_CASE("normalizers: weights of 1 change no bit, n is n times the key, 0 is no key", "[laws]") {
    HEED_SEEDED;
    random_source random(945);
    problem<float> p({1, 4, 2, 50, 90, 8, 8}, random), plain = copied(p);
    tensor<float> w(heed::shape{1, 2, 90, 1});
    w.fill(1);
    auto const weighted = heed::attention{plain_score | heed::weighted_keys{w.in()}, heed::full{}};
    tensor<float> nothing(heed::shape{1, 1, 1, 90});
    nothing.fill(0);
    plain.run(heed::attention{plain_score | heed::bias{nothing.in()}, heed::full{}}); // a chain that is not folded into the queries either
    p.run(weighted);
    CHECK(same_bits(p.out, plain.out));
    CHECK(same_bits(p.lse, plain.lse));

    std::vector<extent_t> times;
    extent_t total = 0;
    for (extent_t j = 0; j < 90; ++j) {
        times.push_back(random.integer(0, 4));
        total += times.back();
    }
    w.each_at([&](float& x, extent_t, extent_t, extent_t j, extent_t) { x = static_cast<float>(times[static_cast<std::size_t>(j)]); });
    problem<float> repeated({1, 4, 2, 50, total, 8, 8}, random);
    repeated.q.copy(p.q.in());
    for (extent_t h = 0; h < 2; ++h) {
        for (extent_t j = 0, to = 0; j < 90; ++j) {
            for (extent_t n = 0; n < times[static_cast<std::size_t>(j)]; ++n, ++to) {
                for (extent_t d = 0; d < 8; ++d) { repeated.k(0, h, to, d) = p.k(0, h, j, d), repeated.v(0, h, to, d) = p.v(0, h, j, d); }
            }
        }
    }
    p.run(weighted);
    repeated.run(heed::softmax_attention());
    CHECK(compare_close<float>(p.out.in(), repeated.out.in(), 2e-6).text == "");
    CHECK(compare_close<float>(p.lse.in(), repeated.lse.in(), 4e-6).text == "");
    // a NaN in an absent key or its value reaches nothing
    tensor<float> before(p.out.shape());
    before.copy(p.out.in());
    for (extent_t j = 0; j < 90; ++j) {
        if (times[static_cast<std::size_t>(j)] == 0) { p.k(0, 0, j, 3) = p.v(0, 1, j, 2) = std::numeric_limits<float>::quiet_NaN(); }
    }
    p.run(weighted);
    CHECK(same_bits(p.out, before));
    p.k.normal(random);
    p.v.normal(random);
    // -1 has no logarithm, +infinity no sum
    for (float bad : {-1.0f, std::numeric_limits<float>::infinity(), std::numeric_limits<float>::quiet_NaN()}) {
        w.fill(1);
        w(0, 1, 7, 0) = bad;
        p.run(weighted);
        bool all = true;
        for (extent_t i = 0; i < 50; ++i) { all = all && std::isnan(p.out(0, 2, i, 0)) && std::isnan(p.out(0, 3, i, 7)) && std::isfinite(p.out(0, 1, i, 0)); }
        CHECK(all);
    }
}
TEST_CASE("normalizers: a shape of key weights that fits nothing is refused", "[contract]") {
    random_source random(946);
    problem<float> p({1, 4, 2, 5, 9, 4, 4}, random);
    tensor<float> w(heed::shape{1, 4, 9, 1}); // one per query head
    w.fill(1);
    CHECK_THROWS_AS(p.run(heed::attention{plain_score | heed::weighted_keys{w.in()}, heed::full{}}), heed::shape_error);
}
