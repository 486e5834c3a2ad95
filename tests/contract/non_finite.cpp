// SPDX-License-Identifier: BSD-3-Clause
// Sentence: NaN in an element that is attended gives NaN in exactly the rows that attend it.
// Sentence: NaN or Inf in a masked, padded or unused element has no effect.
#include "poison.hpp"

using namespace heed_test;

TEST_CASE("non-finite: NaN and Inf reach exactly the rows that attend them, full", "[contract]") {
    HEED_SEEDED;
    poison_one(heed::softmax_attention(), [](extent_t, extent_t) { return true; }, {2, 2, 1, 53, 150, 5, 7}, 111);
}
TEST_CASE("non-finite: the same under a causal pattern", "[contract]") {
    HEED_SEEDED;
    poison_one(heed::softmax_attention(heed::causal_bottom_right{}), [](extent_t i, extent_t j) { return j <= i + 150 - 53; }, {1, 2, 2, 53, 150, 5, 9}, 112);
    poison_one(heed::softmax_attention(heed::causal_bottom_right{}), [](extent_t i, extent_t j) { return j <= i - 20; }, {1, 2, 2, 60, 40, 5, 9}, 113);
}
TEST_CASE("non-finite: the same under a window", "[contract]") {
    HEED_SEEDED;
    poison_one(heed::softmax_attention(heed::window{7, 3}), [](extent_t i, extent_t j) { return i - 7 <= j && j <= i + 3; }, {1, 1, 1, 140, 140, 5, 9}, 114);
}
TEST_CASE("non-finite: the same under a mask", "[contract]") {
    HEED_SEEDED;
    tensor<std::uint8_t> m(heed::shape{1, 1, 53, 150});
    m.each_at([](std::uint8_t& x, extent_t, extent_t, extent_t i, extent_t j) { x = (i * 7 + j * 3) % 5 < 2; });
    poison_one(heed::softmax_attention(heed::mask{m.view()}), [](extent_t i, extent_t j) { return (i * 7 + j * 3) % 5 < 2; }, {1, 2, 2, 53, 150, 5, 9}, 115);
}
TEST_CASE("non-finite: keys beyond the key lengths are not there", "[contract]") {
    HEED_SEEDED;
    for (std::int32_t length : {0, 1, 30, 127, 128, 131, 199}) {
        poison_all_masked(heed::softmax_attention(heed::key_lengths{heed::per_batch<std::int32_t const>(&length, 1)}),
                          [=](extent_t, extent_t j) { return j < length; }, {2, 2, 1, 51, 200, 6, 6}, 117);
    }
}
TEST_CASE("non-finite: skipped and partial tiles of a causal pattern and a window", "[contract]") {
    HEED_SEEDED;
    poison_all_masked(heed::softmax_attention(heed::causal_top_left{}), [](extent_t i, extent_t j) { return j <= i; }, {1, 1, 1, 51, 400, 6, 6}, 118);
    poison_all_masked(heed::softmax_attention(heed::window{20}), [](extent_t i, extent_t j) { return i + 330 - 20 < j && j <= i + 330; }, {1, 2, 2, 70, 400, 6, 6}, 119);
}
TEST_CASE("non-finite: values in strided features", "[contract]") {
    HEED_SEEDED;
    random_source random(122);
    sizes const n{1, 1, 1, 51, 200, 6, 6};
    heed::strides const features_apart{n.keys * 6, n.keys * 6, 1, n.keys};
    tensor<float> q(n.q()), k(n.k(), features_apart), v(n.v(), features_apart), out(n.out()), clean(n.out());
    q.normal(random);
    k.normal(random);
    v.normal(random);
    auto const m = heed::softmax_attention(heed::causal_top_left{});
    heed::forward(m, q.in(), k.in(), v.in(), clean.view());
    for (extent_t j = 51; j < 200; ++j) {
        for (extent_t d = 0; d < 6; ++d) { k(0, 0, j, d) = v(0, 0, j, d) = not_a_number; }
    }
    heed::forward(m, q.in(), k.in(), v.in(), out.view());
    CHECK(same_bits(out, clean));
    v(0, 0, 40, 2) = not_a_number;
    heed::forward(m, q.in(), k.in(), v.in(), out.view());
    for (extent_t i = 0; i < 51; ++i) {
        for (extent_t e = 0; e < 6; ++e) { CHECK(std::isnan(out(0, 0, i, e)) == (i >= 40 && e == 2)); }
    }
}

TEST_CASE("non-finite: -inf in a relative table is masked", "[contract]") {
    HEED_SEEDED;
    random_source random(124);
    problem<float> p({1, 2, 2, 60, 60, 8, 8}, random);
    tensor<float> table(heed::shape{1, 1, 9, 1});
    table.each_at([](float& x, extent_t, extent_t, extent_t t, extent_t) { x = t == 0 || t == 8 ? -inf : 0.25f * static_cast<float>(t); });
    oracle::softmax_case c = p.exact();
    c.table = oracle::read(table.in());
    c.left = 4;
    p.run(heed::attention{score | heed::relative_bias{table.view(), 4}});
    auto const found = p.against(c);
    INFO(found.text);
    CHECK(found.good());
    c.keep = oracle::band(p.n.pairs(), 3, 3);
    for (extent_t j = 30; j < 60; ++j) { p.v(0, 0, j, 2) = not_a_number; }
    p.run(heed::attention{score | heed::relative_bias{table.view(), 4}});
    for (extent_t i = 0; i < 60; ++i) { CHECK(std::isnan(p.out(0, 0, i, 2)) == (i >= 27)); }
}

TEST_CASE("non-finite: NaN in a bias reaches its row only; behind a mask it is not there", "[contract]") {
    HEED_SEEDED;
    random_source random(125);
    problem<float> p({1, 1, 1, 60, 170, 8, 8}, random);
    tensor<float> b(heed::shape{1, 1, 60, 170});
    b.normal(random);
    b(0, 0, 17, 100) = not_a_number;
    p.run(heed::attention{score | heed::bias{b.view()}});
    for (extent_t i = 0; i < 60; ++i) {
        CHECK(std::isnan(p.out(0, 0, i, 3)) == (i == 17));
        CHECK(std::isnan(p.lse(0, 0, i, 0)) == (i == 17));
    }
    p.run(heed::attention{score | heed::bias{b.view()}, heed::causal_top_left{}});
    for (extent_t i = 0; i < 60; ++i) { CHECK(!std::isnan(p.out(0, 0, i, 3))); }
}
