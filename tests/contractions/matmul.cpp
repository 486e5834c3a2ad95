// SPDX-License-Identifier: BSD-3-Clause
// Products of matrices over semirings: against plain loops, any strides, odd sizes, batches, threads, NaN.
#include <support/catch.hpp>
#include <support/team.hpp>
#include <support/tensor.hpp>

#include <heed/front/semiring_matmul.hpp>
#include <heed/view/error.hpp>

#include <bit>

using namespace heed_test;

namespace {

heed::strides turned(heed::shape s) { // columns first
    heed::strides t = heed::row_major(s);
    t.seq = 1;
    t.feature = s.seq;
    return t;
}

template <class T, class Ring, class Combine, class Reduce>
void try_matmul(Ring ring, double zero, Combine combine, Reduce reduce, double tolerance, int rounds) {
    random_source random(31);
    for (int round = 0; round < rounds; ++round) {
        extent_t const B = random.integer(1, 2), H = random.integer(1, 2), n = random.integer(1, 150), m = random.integer(1, 250), k = round == 0 ? 0 : random.integer(1, 300);
        heed::shape const sa{random.chance(0.3) ? 1 : B, H, n, k}, sb{B, random.chance(0.3) ? 1 : H, k, m}, sc{B, H, n, m};
        INFO(B << " " << H << " n=" << n << " m=" << m << " k=" << k);
        auto const laid = [&](heed::shape s) { return random.chance(0.5) ? tensor<T>(s) : tensor<T>(s, turned(s)); };
        tensor<T> a = laid(sa), b = laid(sb), c = laid(sc), again(sc);
        a.normal(random);
        b.normal(random);
        heed::semiring_matmul(ring, a.in(), b.in(), c.view());
        c.each_at([&](T& x, extent_t ib, extent_t h, extent_t i, extent_t j) {
            double sum = zero;
            for (extent_t t = 0; t < k; ++t) { sum = reduce(sum, combine(static_cast<double>(a(sa.batch == 1 ? 0 : ib, h, i, t)), static_cast<double>(b(ib, sb.head == 1 ? 0 : h, t, j)))); }
            if (!(std::fabs(static_cast<double>(x) - sum) <= tolerance)) { REQUIRE(static_cast<double>(x) == sum); }
        });
        REQUIRE(c.intact());
        thread_team const threads{3};
        heed::semiring_matmul(ring, a.in(), b.in(), again.view(), heed::cpu{threads});
        c.each_at([&](T& x, extent_t ib, extent_t h, extent_t i, extent_t j) { REQUIRE(x == again(ib, h, i, j)); });
    }
}
double sum_of(double a, double b) { return a + b; }

} // namespace

TEST_CASE("matmul: max-plus, min-plus, plus-times", "[oracle]") {
    HEED_SEEDED;
    double const inf = std::numeric_limits<double>::infinity();
    try_matmul<float>(heed::max_plus{}, -inf, sum_of, [](double a, double b) { return std::max(a, b); }, 1e-6, 16);
    try_matmul<double>(heed::min_plus{}, inf, sum_of, [](double a, double b) { return std::min(a, b); }, 1e-14, 8);
    try_matmul<float>(heed::plus_times{}, 0, [](double a, double b) { return a * b; }, sum_of, 2e-4, 8);
}
TEST_CASE("matmul: several chunks of rows, groups of columns and blocks of depth", "[oracle]") {
    HEED_SEEDED;
    random_source random(32);
    tensor<float> a({1, 1, 1100, 513}), b({1, 1, 513, 500}), c({1, 1, 1100, 500});
    a.normal(random), b.normal(random);
    heed::semiring_matmul(heed::max_plus{}, a.in(), b.in(), c.view());
    for (int n = 0; n < 3000; ++n) {
        extent_t const i = random.integer(0, 1099), j = random.integer(0, 499);
        float top = -std::numeric_limits<float>::infinity();
        for (extent_t t = 0; t < 513; ++t) { top = std::max(top, a(0, 0, i, t) + b(0, 0, t, j)); }
        REQUIRE(c(0, 0, i, j) == top);
    }
}
TEST_CASE("matmul: NaN reaches its row or its column, infinities absorb", "[contract]") {
    HEED_SEEDED;
    random_source random(33);
    tensor<float> a({1, 1, 20, 300}), b({1, 1, 300, 90}), c({1, 1, 20, 90});
    float const nan = std::numeric_limits<float>::quiet_NaN(), inf = std::numeric_limits<float>::infinity();
    a.normal(random), b.normal(random);
    a(0, 0, 5, 290) = nan;
    b(0, 0, 2, 77) = nan;
    a(0, 0, 6, 9) = -inf; // the zero of (max, +) times anything is the zero
    b(0, 0, 9, 8) = inf;
    heed::semiring_matmul(heed::max_plus{}, a.in(), b.in(), c.view());
    c.each_at([&](float& x, extent_t, extent_t, extent_t i, extent_t j) {
        INFO(i << " " << j);
        CHECK((x != x) == (i == 5 || j == 77));
        if (j == 8 && i != 5) { CHECK(std::isfinite(x) == (i == 6)); }
    });
}
TEST_CASE("matmul: refusals name the argument and the rule", "[contract]") {
    tensor<float> a({1, 1, 3, 4}), b({1, 1, 5, 6}), c({1, 1, 3, 6});
    REQUIRE_THROWS_WITH(heed::semiring_matmul(heed::max_plus{}, a.in(), b.in(), c.view()), contains("b has 5 positions and a has 4 features; b.seq must equal a.feature"));
    tensor<float> square({1, 1, 4, 4});
    REQUIRE_THROWS_WITH(heed::semiring_matmul(heed::max_plus{}, square.in(), square.in(), square.view()), contains("overlaps"));
}

TEST_CASE("matmul: gradients go to the winners, ties to the lowest, broadcast matrices get the sum", "[gradient]") {
    HEED_SEEDED;
    random_source random(34);
    extent_t const n = 9, k = 40, m = 61;
    tensor<double> a({2, 3, n, k}), b({1, 3, k, m}), c({2, 3, n, m}), dc({2, 3, n, m}), da(a.shape()), db(b.shape());
    a.normal(random), b.normal(random), dc.normal(random);
    for (extent_t j = 0; j < m; ++j) { b(0, 1, 7, j) = b(0, 1, 3, j); } // for every row two equal terms
    for (extent_t i = 0; i < n; ++i) { a(0, 1, i, 7) = a(0, 1, i, 3), a(1, 1, i, 7) = a(1, 1, i, 3); }
    heed::semiring_matmul(heed::min_plus{}, a.in(), b.in(), c.view());
    heed::semiring_matmul_backward(heed::min_plus{}, a.in(), b.in(), dc.in(), da.view(), db.view());
    tensor<double> ea(a.shape()), eb(b.shape());
    ea.fill(0), eb.fill(0);
    dc.each_at([&](double& d, extent_t ib, extent_t h, extent_t i, extent_t j) {
        extent_t t = 0;
        while (a(ib, h, i, t) + b(0, h, t, j) != c(ib, h, i, j)) { ++t; }
        ea(ib, h, i, t) += d, eb(0, h, t, j) += d;
    });
    da.each_at([&](double& x, extent_t ib, extent_t h, extent_t i, extent_t t) { REQUIRE(std::fabs(x - ea(ib, h, i, t)) < 1e-12); });
    db.each_at([&](double& x, extent_t ib, extent_t h, extent_t i, extent_t t) { REQUIRE(std::fabs(x - eb(ib, h, i, t)) < 1e-12); });
    for (extent_t i = 0; i < n; ++i) { CHECK(da(0, 1, i, 7) == 0); }
}
