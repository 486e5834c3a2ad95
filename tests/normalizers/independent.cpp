// SPDX-License-Identifier: BSD-3-Clause
// In float; and what is saved, which is the logarithm of the divisor.
#include "independent.hpp"

using namespace heed_test;

TEST_CASE("normalizers: sigmoid", "[oracle]") {
    HEED_SEEDED;
    try_sigmoid<float>(40);
    try_offset_sigmoid<float>(20);
}
TEST_CASE("normalizers: rectified", "[oracle]") {
    HEED_SEEDED;
    try_relu<float>(25);
}
TEST_CASE("normalizers: proportional", "[oracle]") {
    HEED_SEEDED;
    try_proportional<float>(20);
}
TEST_CASE("normalizers: divided by a count", "[oracle]") {
    HEED_SEEDED;
    try_counts<float>(20);
}

TEST_CASE("normalizers: what is saved is the logarithm of the divisor", "[oracle]") {
    HEED_SEEDED;
    random_source random(911);
    problem<float> p({2, 4, 2, 33, 170, 8, 5}, random);
    heed::window const pattern(-3, 100);
    auto c = p.exact();
    c.keep = oracle::band(p.n.pairs(), pattern.left, pattern.right);
    auto const divisor = [&](oracle::function const& f, bool count) {
        auto const r = oracle::attend(c, oracle::each(f));
        tensor<float> expected(p.n.lse());
        expected.each_at([&](float& x, extent_t b, extent_t h, extent_t i, extent_t) {
            x = static_cast<float>(std::log(count ? r.seen(b, h, i, 0) : r.total(b, h, i, 0))); // -infinity where nothing is seen
        });
        return expected;
    };
    p.run(heed::proportional_attention(heed::softplus_weight{}, pattern));
    auto const sums = divisor([](real s) { return std::log1p(std::exp(s)); }, false);
    CHECK(compare_close<float>(p.lse.in(), sums.in(), 2e-6).text == "");
    p.run(heed::mean_attention(pattern));
    auto const counts = divisor([](real) { return real(1); }, true);
    CHECK(compare_close<float>(p.lse.in(), counts.in(), 1e-6).text == "");
    CHECK(p.intact());
    float least = 0;
    p.lse.each([&](float& x) { least = std::min(least, x); });
    CHECK(least == -std::numeric_limits<float>::infinity()); // the last rows' window lies behind the keys
}
