// SPDX-License-Identifier: BSD-3-Clause
// Sentence: a -inf bias is the same as masked: what lies behind it is not there.
#include "poison.hpp"

using namespace heed_test;

TEST_CASE("non-finite: the same under a -inf bias", "[contract]") {
    HEED_SEEDED;
    tensor<float> b(heed::shape{1, 1, 53, 150});
    b.each_at([](float& x, extent_t, extent_t, extent_t i, extent_t j) { x = (i * 7 + j * 3) % 5 < 2 ? 0.5f : -inf; });
    poison_one(heed::attention{score | heed::bias{b.view()}}, [](extent_t i, extent_t j) { return (i * 7 + j * 3) % 5 < 2; }, {1, 2, 2, 53, 150, 5, 9}, 116);
}

TEST_CASE("non-finite: keys behind a -inf bias are not there", "[contract]") {
    HEED_SEEDED;
    tensor<float> b(heed::shape{1, 1, 1, 200});
    b.each_at([](float& x, extent_t, extent_t, extent_t, extent_t j) { x = j % 3 == 0 ? -inf : 0.1f * static_cast<float>(j % 11); });
    auto const keep = [](extent_t, extent_t j) { return j % 3 != 0; };
    poison_all_masked(heed::attention{score | heed::bias{b.view()}}, keep, {1, 2, 2, 51, 200, 6, 6}, 120);
    poison_all_masked(heed::attention{score | heed::softcap{5.0f} | heed::bias{b.view()}}, keep, {1, 2, 2, 51, 200, 6, 6}, 121);
}
TEST_CASE("non-finite: -inf bias and mask agree", "[contract]") {
    HEED_SEEDED;
    random_source random(123);
    problem<float> p({2, 2, 1, 60, 170, 8, 8}, random);
    tensor<std::uint8_t> m(heed::shape{2, 1, 60, 170});
    tensor<float> b(heed::shape{2, 1, 60, 170});
    m.each([&](std::uint8_t& x) { x = random.chance(0.4); });
    b.each_at([&](float& x, extent_t bb, extent_t h, extent_t i, extent_t j) { x = m(bb, h, i, j) != 0 ? 0 : -inf; });
    p.run(heed::softmax_attention(heed::mask{m.view()}));
    tensor<float> masked(p.n.out());
    masked.copy(p.out.in());
    p.run(heed::attention{score | heed::bias{b.view()}});
    // the score chain rounds once more than the folded scale does
    auto const found = compare_close<float>(masked.in(), p.out.in(), 1e-5);
    INFO(found.text);
    CHECK(found.good());
    // and with the soft cap behind the bias
    oracle::softmax_case c = p.exact();
    c.keep = oracle::listed(p.n.pairs(), oracle::read(m.in()));
    c.cap_after = 3;
    p.run(heed::attention{score | heed::bias{b.view()} | heed::softcap{3.0f}});
    auto const capped = p.against(c);
    INFO(capped.text);
    CHECK(capped.good());
}
