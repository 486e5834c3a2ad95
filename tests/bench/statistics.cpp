// SPDX-License-Identifier: BSD-3-Clause
#include <support/catch.hpp>

#include <timing/statistics.hpp>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <random>
#include <vector>

using namespace heed::bench;
using sample = std::vector<double>;

TEST_CASE("median, deviation, coefficient of variation") {
    CHECK(median(sample{3, 1, 2}) == 2);
    CHECK(median(sample{4, 1, 3, 2}) == 2.5);
    CHECK(median(sample{7}) == 7);
    CHECK(std::isnan(median(sample{})));
    CHECK(deviation(sample{2, 4, 4, 4, 5, 5, 7, 9}) == heed_test::approx(std::sqrt(32.0 / 7)));
    CHECK(deviation(sample{5}) == 0);
    CHECK(variation(sample{9, 10, 11}) == heed_test::approx(0.1));
    CHECK(spread(sample{10, 9, 11, 100, 8}) == heed_test::approx(0.2)); // 9 to 11 around 10: one far value does not count
    CHECK(spread(sample{4, 8}) == heed_test::approx(1.0 / 3));
    CHECK(spread(sample{5}) == 0);
}

TEST_CASE("Mann-Whitney: published exact values") {
    // all of one sample below the other: 2 / binomial(10, 5)
    auto const apart = mann_whitney(sample{1, 2, 3, 4, 5}, sample{6, 7, 8, 9, 10});
    CHECK(apart.exact);
    CHECK(apart.u == 0);
    CHECK(apart.p == heed_test::approx(2.0 / 252));
    // a common textbook case: ages of diagnosis, U = 17, p = 0.1111
    auto const ages = mann_whitney(sample{19, 22, 16, 29, 24}, sample{20, 11, 17, 12});
    CHECK(ages.u == 17);
    CHECK(ages.p == heed_test::approx(14.0 / 126));
    CHECK(mann_whitney(sample{1, 4}, sample{2, 3}).p == 1);
}

TEST_CASE("Mann-Whitney: exact p is the share of interleavings at least as far out") {
    auto const seed = std::random_device{}();
    INFO("seed " << seed);
    std::mt19937 random(seed);
    for (int round = 0; round < 60; ++round) {
        auto const n = 1 + random() % 6, m = 1 + random() % 6;
        sample values(n + m);
        std::iota(values.begin(), values.end(), 1.0);
        std::shuffle(values.begin(), values.end(), random);
        sample const a(values.begin(), values.begin() + static_cast<std::ptrdiff_t>(n)),
            b(values.begin() + static_cast<std::ptrdiff_t>(n), values.end());
        auto const middle = static_cast<double>(n * m) / 2;
        auto const found = mann_whitney(a, b);
        double all = 0, beyond = 0;
        for (unsigned chosen = 0; chosen < 1u << (n + m); ++chosen) {
            if (static_cast<unsigned>(__builtin_popcount(chosen)) != n) { continue; }
            double u = 0;
            for (unsigned i = 0; i < n + m; ++i) {
                for (unsigned j = 0; j < i; ++j) { u += (chosen >> i & 1) && !(chosen >> j & 1); }
            }
            ++all;
            beyond += std::abs(u - middle) >= std::abs(found.u - middle) - 1e-9;
        }
        CHECK(found.p == heed_test::approx(beyond / all));
        CHECK(mann_whitney(b, a).p == heed_test::approx(found.p));
    }
}

TEST_CASE("Mann-Whitney: ties go to the corrected normal approximation") {
    // ranks of {1,2,2,3} against {2,3,4,5}: U = 2.5, tie groups of 3 and 2, sigma^2 = 16/12 (9 - 30/56)
    auto const tied = mann_whitney(sample{1, 2, 2, 3}, sample{2, 3, 4, 5});
    CHECK_FALSE(tied.exact);
    CHECK(tied.u == 2.5);
    CHECK(tied.p == heed_test::approx(std::erfc((13.5 - 8 - 0.5) / std::sqrt(16.0 / 12 * (9 - 30.0 / 56)) / std::sqrt(2.0))));
    CHECK(mann_whitney(sample{1, 1, 1}, sample{1, 1, 1}).p == 1);
    CHECK(mann_whitney(sample{}, sample{1}).p == 1);
}

TEST_CASE("Mann-Whitney: the approximation meets the exact value for larger samples") {
    sample a(25), b(25);
    std::iota(a.begin(), a.end(), 0.0);
    std::iota(b.begin(), b.end(), 6.5);
    auto const exact = mann_whitney(a, b);
    a.resize(31, 100.0), b.resize(31, 200.0); // ties: approximate
    REQUIRE(exact.exact);
    CHECK_FALSE(mann_whitney(a, b).exact);
    sample const c(a.begin(), a.begin() + 25), d(b.begin(), b.begin() + 25);
    double const z = (std::max(exact.u, 625 - exact.u) - 312.5 - 0.5) / std::sqrt(625.0 / 12 * 51);
    CHECK(exact.p == heed_test::approx(std::erfc(z / std::sqrt(2.0))).epsilon(0.2));
}

TEST_CASE("too few repetitions can show nothing") {
    CHECK(smallest_p(3, 3) == heed_test::approx(0.1));
    CHECK(smallest_p(5, 5) == heed_test::approx(2.0 / 252));
    CHECK(smallest_p(1, 1) == 1);
}
