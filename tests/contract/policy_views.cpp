// SPDX-License-Identifier: BSD-3-Clause
// Sentence: not one byte is read outside the views; what a policy's view cannot be broadcast to is refused.
#include <support/catch.hpp>
#include <support/problem.hpp>

using namespace heed_test;

namespace {

template <class F>
std::string refused(F f) {
    try {
        f();
    } catch (heed::shape_error const& e) { return e.what(); }
    return "";
}
auto const score = heed::dot{} | heed::inv_sqrt_width{};

} // namespace

TEST_CASE("policy views: a bit mask of one byte is no mask of many keys", "[contract]") {
    HEED_SEEDED;
    random_source random(171);
    problem<float> p({1, 1, 1, 5, 20, 4, 4}, random);
    tensor<std::uint8_t> bits(heed::shape{1, 1, 5, 1}, place::upper_page);
    bits.fill(255);
    CHECK_THAT(refused([&] { p.run(heed::attention{score, heed::bit_mask{bits.view()}}); }), contains("bit mask.feature"));
}

TEST_CASE("policy views: gates are broadcast over batch and heads", "[contract]") {
    HEED_SEEDED;
    random_source random(172);
    for (heed::shape s : {heed::shape{1, 1, 40, 1}, heed::shape{2, 1, 40, 1}, heed::shape{1, 4, 40, 1}}) {
        problem<float> p({2, 4, 2, 40, 40, 4, 4}, random);
        tensor<float> gates(s, place::upper_page);
        gates.each_at([&](float& x, extent_t, extent_t, extent_t t, extent_t) { x = -0.1f * static_cast<float>(t); });
        auto c = p.exact();
        c.gates = oracle::array({2, 4, 40, 1});
        for (extent_t b = 0; b < 2; ++b)
            for (extent_t h = 0; h < 4; ++h)
                for (extent_t t = 0; t < 40; ++t) { c.gates(b, h, t, 0) = static_cast<double>(gates(s.batch == 1 ? 0 : b, s.head == 1 ? 0 : h, t, 0)); }
        auto const found = run_and_compare(p, heed::attention{score | heed::forgetting{gates.view()}}, c);
        INFO(found.text);
        CHECK(found.good());
    }
}

TEST_CASE("policy views: gates with fewer queries than keys", "[contract]") {
    HEED_SEEDED;
    random_source random(173);
    problem<float> p({1, 2, 2, 13, 40, 4, 4}, random);
    tensor<float> gates(heed::shape{1, 2, 40, 1}, place::lower_page);
    gates.each_at([&](float& x, extent_t, extent_t, extent_t t, extent_t) { x = -0.1f * static_cast<float>(t); });
    auto c = p.exact();
    c.gates = oracle::read(gates.in());
    c.keep = oracle::causal_bottom_right(p.n.pairs());
    auto const found = run_and_compare(p, heed::attention{score | heed::forgetting{gates.view()}, heed::causal_bottom_right{}}, c);
    INFO(found.text);
    CHECK(found.good());
}

TEST_CASE("policy views: gates with more queries than keys read nothing in front of the gates", "[contract]") {
    HEED_SEEDED;
    random_source random(174);
    problem<float> p({1, 1, 1, 3000, 2, 4, 4}, random);
    tensor<float> gates(heed::shape{1, 1, 2, 1}, place::lower_page);
    gates.fill(-1);
    std::string const text = refused([&] { p.run(heed::attention{score | heed::forgetting{gates.view()}, heed::causal_bottom_right{}}); });
    // either refused, or the rows that see no key are 0
    if (text.empty()) {
        for (extent_t i = 0; i < 2998; ++i) { REQUIRE(p.out(0, 0, i, 0) == 0); }
    } else {
        CHECK_THAT(text, contains("gates"));
    }
}

TEST_CASE("policy views: documents, lengths and masks of one entry are broadcast", "[contract]") {
    HEED_SEEDED;
    random_source random(175);
    problem<float> p({2, 2, 2, 20, 150, 4, 4}, random);
    tensor<std::int32_t> one_query(heed::shape{1, 1, 1, 1}, place::upper_page), keys(heed::shape{2, 1, 150, 1}, place::upper_page);
    one_query.fill(1);
    keys.each([&](std::int32_t& x) { x = static_cast<std::int32_t>(random.integer(0, 2)); });
    auto c = p.exact();
    c.keep = oracle::relate(p.n.pairs(), [&](extent_t b, extent_t, extent_t, extent_t j) { return keys(b, 0, j, 0) == 1; });
    auto const found = run_and_compare(p, heed::softmax_attention(heed::documents{one_query.view(), keys.view()}), c);
    INFO(found.text);
    CHECK(found.good());
    tensor<std::uint8_t> flag(heed::shape{1, 1, 1, 1}, place::upper_page);
    flag.fill(1);
    auto const kept = run_and_compare(p, heed::softmax_attention(heed::mask{flag.view()}), p.exact());
    INFO(kept.text);
    CHECK(kept.good());
}

TEST_CASE("policy views: an output on a view that a policy holds is refused", "[contract]") {
    std::vector<float> pool(4000, 0.5f), other(4000, 0.25f);
    heed::shape const s{1, 1, 10, 10};
    heed::tensor_view<float> const out{pool.data(), s};
    heed::tensor_view<float const> const in{other.data(), s}, bias{pool.data(), s};
    CHECK_THAT(refused([&] { heed::forward(heed::attention{heed::dot{} | heed::bias{bias}}, in, in, in, out); }), contains("out overlaps bias"));
    CHECK(pool[0] == 0.5f);
}
