// SPDX-License-Identifier: BSD-3-Clause
// The oracle itself, against numbers that fit on paper.
#include <oracle/softmax.hpp>
#include <support/catch.hpp>

#include <cmath>

using namespace heed_test::oracle;
using heed_test::approx;

namespace {

double const inf = std::numeric_limits<double>::infinity();

array numbers(heed::shape s, std::vector<double> x) {
    array a(s);
    REQUIRE(a.x.size() == x.size());
    a.x = std::move(x);
    return a;
}
// One query of width 0 scores, all zero: only bias and friends speak.
softmax_case silent(extent_t queries, std::vector<double> values) {
    softmax_case c;
    extent_t const keys = static_cast<extent_t>(values.size());
    c.q = array({1, 1, queries, 0});
    c.k = array({1, 1, keys, 0});
    c.v = numbers({1, 1, keys, 1}, std::move(values));
    return c;
}
std::vector<int> rows(relation const& r) {
    std::vector<int> x;
    for (std::uint8_t flag : r.x) { x.push_back(flag); }
    return x;
}

} // namespace

TEST_CASE("oracle: two keys", "[oracle]") {
    softmax_case c;
    c.q = numbers({1, 1, 1, 1}, {1});
    c.k = numbers({1, 1, 2, 1}, {0, std::log(2.0)});
    c.v = numbers({1, 1, 2, 1}, {0, 3});
    auto const r = softmax(c);
    CHECK(r.weights.x[0] == approx(1.0 / 3));
    CHECK(r.weights.x[1] == approx(2.0 / 3));
    CHECK(r.out.x[0] == approx(2));
    CHECK(r.lse.x[0] == approx(std::log(3.0)));
    CHECK(r.largest.x[0] == approx(std::log(2.0)));
    CHECK(r.attended.x[0] == 2);
    c.scale = 2; // weights 1 : 4
    c.v.x[1] = -3;
    CHECK(softmax(c).out.x[0] == approx(-12.0 / 5));
    CHECK(softmax(c).magnitude.x[0] == approx(12.0 / 5));
}

TEST_CASE("oracle: terms of the score", "[oracle]") {
    auto c = silent(1, {1, 2, 4});
    CHECK(softmax(c).out.x[0] == approx(7.0 / 3));
    c.bias = numbers({1, 1, 1, 3}, {0, std::log(2.0), std::log(5.0)});
    CHECK(softmax(c).out.x[0] == approx((1 + 4 + 20) / 8.0));
    c.bias.x[2] = -inf;
    CHECK(softmax(c).out.x[0] == approx(5.0 / 3));
    CHECK(softmax(c).attended.x[0] == 2);

    auto a = silent(2, {1, 2, 4}); // positions 1 and 2 of 0..2
    a.slopes = numbers({1, 1, 1, 1}, {std::log(2.0)});
    CHECK(softmax(a).out.x[0] == approx((0.5 * 1 + 2 + 0.5 * 4) / 2));
    CHECK(softmax(a).out.x[1] == approx((0.25 * 1 + 0.5 * 2 + 4) / 1.75));

    auto t = silent(2, {1, 2, 4});
    t.table = numbers({1, 1, 3, 1}, {std::log(2.0), std::log(3.0), std::log(5.0)}); // one to the left, itself, one to the right
    t.left = 1;
    CHECK(softmax(t).out.x[0] == approx((2 * 1 + 3 * 2 + 5 * 4) / 10.0));
    CHECK(softmax(t).out.x[1] == approx((2 * 1 + 2 * 2 + 3 * 4) / 7.0));

    auto f = silent(3, {1, 2, 4});
    f.gates = numbers({1, 1, 3, 1}, {0, -std::log(2.0), -std::log(6.0)});
    f.keep = causal_top_left({1, 1, 3, 3});
    auto const forgotten = softmax(f);
    CHECK(forgotten.out.x[0] == approx(1));
    CHECK(forgotten.out.x[1] == approx((0.5 * 1 + 2) / 1.5));
    CHECK(forgotten.out.x[2] == approx((1.0 / 6 + 2.0 / 3 + 4) / (1.0 / 6 + 1.0 / 3 + 1)));
}

TEST_CASE("oracle: soft caps", "[oracle]") {
    softmax_case c;
    c.q = numbers({1, 1, 1, 1}, {1});
    c.k = numbers({1, 1, 2, 1}, {0, 3});
    c.v = numbers({1, 1, 2, 1}, {0, 1});
    c.bias = numbers({1, 1, 1, 2}, {0, 1});
    auto const weight = [](double s) { return std::exp(s) / (1 + std::exp(s)); };
    c.cap_before = 2;
    CHECK(softmax(c).out.x[0] == approx(weight(2 * std::tanh(1.5) + 1)));
    c.cap_before = 0;
    c.cap_after = 2;
    CHECK(softmax(c).out.x[0] == approx(weight(2 * std::tanh(2.0))));
}

TEST_CASE("oracle: sinks and empty rows", "[oracle]") {
    auto c = silent(1, {3, 5});
    c.sinks = numbers({1, 1, 1, 1}, {std::log(2.0)});
    CHECK(softmax(c).out.x[0] == approx(2));
    CHECK(softmax(c).lse.x[0] == approx(std::log(4.0)));
    c.keep = relation({1, 1, 1, 2}, 0);
    CHECK(softmax(c).out.x[0] == 0);
    CHECK(softmax(c).lse.x[0] == approx(std::log(2.0)));
    c.sinks = {};
    CHECK(softmax(c).out.x[0] == 0);
    CHECK(softmax(c).lse.x[0] == -inf);
    CHECK(softmax(silent(2, {})).lse.x[1] == -inf);
}

TEST_CASE("oracle: NaN is kept, masked NaN is not", "[oracle]") {
    softmax_case c;
    c.q = numbers({1, 1, 2, 1}, {1, 1});
    c.k = numbers({1, 1, 2, 1}, {0, std::nan("")});
    c.v = numbers({1, 1, 2, 2}, {1, 2, 3, 4});
    c.keep = causal_top_left({1, 1, 2, 2});
    auto const r = softmax(c);
    CHECK(r.out.x[0] == 1);
    CHECK(r.out.x[1] == 2);
    CHECK(std::isnan(r.out.x[2]));
    CHECK(std::isnan(r.lse.x[1]));
}

TEST_CASE("oracle: grouped heads", "[oracle]") {
    softmax_case c;
    c.q = array({1, 4, 1, 0});
    c.k = array({1, 2, 1, 0});
    c.v = numbers({1, 2, 1, 1}, {7, 9});
    CHECK(softmax(c).out.x == std::vector<double>{7, 7, 9, 9});
}

TEST_CASE("oracle: relations", "[oracle]") {
    heed::shape const wide{1, 1, 2, 4}, tall{1, 1, 4, 2};
    CHECK(rows(causal_top_left(wide)) == std::vector<int>{1, 0, 0, 0, 1, 1, 0, 0});
    CHECK(rows(causal_bottom_right(wide)) == std::vector<int>{1, 1, 1, 0, 1, 1, 1, 1});
    CHECK(rows(causal_top_left(tall)) == std::vector<int>{1, 0, 1, 1, 1, 1, 1, 1});
    CHECK(rows(causal_bottom_right(tall)) == std::vector<int>{0, 0, 0, 0, 1, 0, 1, 1});
    CHECK(rows(band(wide, 1, 0)) == std::vector<int>{0, 1, 1, 0, 0, 0, 1, 1});
    CHECK(rows(band(wide, 0, 1)) == std::vector<int>{0, 0, 1, 1, 0, 0, 0, 1});
    CHECK(rows(prefix(wide, {2})) == std::vector<int>{1, 1, 1, 0, 1, 1, 1, 1});
    CHECK(rows(prefix(tall, {1})) == std::vector<int>{1, 0, 1, 0, 1, 0, 1, 1});
    CHECK(rows(key_lengths({2, 1, 1, 3}, {0, 2})) == std::vector<int>{0, 0, 0, 1, 1, 0});
    CHECK(rows(documents(wide, numbers({1, 1, 2, 1}, {5, 6}), numbers({1, 1, 4, 1}, {5, 5, 6, 7}))) == std::vector<int>{1, 1, 0, 0, 0, 0, 1, 0});
    CHECK(rows(listed({1, 1, 2, 2}, numbers({1, 1, 1, 2}, {0, 1}))) == std::vector<int>{0, 1, 0, 1});
    CHECK(rows(both(causal_top_left(wide), band(wide, 5, -1))) == std::vector<int>{1, 0, 0, 0, 1, 1, 0, 0});
}
