// SPDX-License-Identifier: BSD-3-Clause
// Quadrature on the sphere: weights known by hand, their sum, exactness by degree, refusals.
#include "geometry.hpp"

#include <vector>

using heed::extent_t;
using heed::latitudes;

namespace {

// integral of cos(a)^degree sin(a) da by the grid, minus the exact one
double error_of_power(heed::sphere_grid const& g, int degree) {
    double sum = 0;
    for (std::size_t l = 0; l < g.weights().size(); ++l) { sum += g.weights()[l] * std::pow(std::cos(g.colatitudes()[l]), degree); }
    return sum - (degree % 2 == 0 ? 2.0 / (degree + 1) : 0.0);
}
bool close(std::span<double const> a, std::vector<double> const& b) {
    for (std::size_t l = 0; l < b.size(); ++l) {
        if (!(std::abs(a[l] - b[l]) < 1e-14)) { return false; }
    }
    return a.size() == b.size();
}

} // namespace

TEST_CASE("sphere grids: small rules by hand", "[sphere]") {
    CHECK(close(heed::sphere_grid(latitudes::equiangular, 2, 4).weights(), {1, 1}));
    CHECK(close(heed::sphere_grid(latitudes::equiangular, 3, 4).weights(), {1. / 3, 4. / 3, 1. / 3}));
    CHECK(close(heed::sphere_grid(latitudes::equiangular, 4, 4).weights(), {1. / 9, 8. / 9, 8. / 9, 1. / 9}));
    CHECK(close(heed::sphere_grid(latitudes::lobatto, 4, 4).weights(), {1. / 6, 5. / 6, 5. / 6, 1. / 6}));
    CHECK(close(heed::sphere_grid(latitudes::trapezoidal, 3, 4).weights(), {0.5, 1, 0.5}));
    heed::sphere_grid const gauss(latitudes::legendre_gauss, 2, 4);
    CHECK(close(gauss.weights(), {1, 1}));
    CHECK(std::abs(std::cos(gauss.colatitudes()[0]) - 1 / std::sqrt(3.0)) < 1e-15);
    CHECK(std::abs(std::cos(heed::sphere_grid(latitudes::lobatto, 4, 1).colatitudes()[1]) - 1 / std::sqrt(5.0)) < 1e-15);
    heed::sphere_grid const three(latitudes::equiangular, 3, 4);
    CHECK(std::abs(three.point_weight(0) - std::numbers::pi / 6) < 1e-15);
    CHECK(std::abs(three.point_weight(1) - 2 * std::numbers::pi / 3) < 1e-15);
}

TEST_CASE("sphere grids: all points sum to 4 pi, symmetric, north first", "[sphere]") {
    for (latitudes const kind : {latitudes::equiangular, latitudes::legendre_gauss, latitudes::lobatto, latitudes::trapezoidal}) {
        for (extent_t const n : {2, 3, 7, 32, 181, 1000}) {
            heed::sphere_grid const g(kind, n, 5);
            std::vector<double> w(static_cast<std::size_t>(g.points()));
            g.point_weights(std::span<double>(w));
            double sum = 0;
            for (double const x : w) { sum += x; }
            INFO("rule " << static_cast<int>(kind) << " rings " << n);
            CHECK(std::abs(sum - 4 * std::numbers::pi) < 1e-11);
            for (std::size_t l = 0; l < g.weights().size(); ++l) {
                std::size_t const mirror = g.weights().size() - 1 - l;
                REQUIRE(g.weights()[l] > 0);
                REQUIRE(std::abs(g.weights()[l] - g.weights()[mirror]) < 1e-12);
                REQUIRE(std::abs(g.colatitudes()[l] + g.colatitudes()[mirror] - std::numbers::pi) < 1e-12);
                REQUIRE((l == 0 || g.colatitudes()[l] > g.colatitudes()[l - 1]));
            }
        }
    }
}

TEST_CASE("sphere grids: polynomials are integrated exactly up to the rule's degree, and no further", "[sphere]") {
    for (int const n : {2, 3, 5, 8, 21}) {
        struct {
            latitudes kind;
            int degree;
        } const rules[] = {{latitudes::equiangular, n - 1}, {latitudes::legendre_gauss, 2 * n - 1}, {latitudes::lobatto, 2 * n - 3}, {latitudes::trapezoidal, 1}};
        for (auto const& rule : rules) {
            heed::sphere_grid const g(rule.kind, n, 1);
            INFO("rule " << static_cast<int>(rule.kind) << " rings " << n);
            for (int degree = 0; degree <= rule.degree; ++degree) { REQUIRE(std::abs(error_of_power(g, degree)) < 1e-13); }
            int const beyond = rule.degree + (rule.degree % 2 == 0 ? 2 : 1); // odd powers vanish by symmetry
            if (n <= 8) { CHECK(std::abs(error_of_power(g, beyond)) > 1e-8); }
        }
    }
}

TEST_CASE("sphere grids: what is refused", "[sphere]") {
    CHECK_THROWS_WITH(heed::sphere_grid(latitudes::equiangular, 1, 4), heed_test::contains("at least 2 rings"));
    CHECK_THROWS_WITH(heed::sphere_grid(latitudes::legendre_gauss, 3, 0), heed_test::contains("0 longitudes"));
    double const falling[] = {1.0, 0.5}, outside[] = {0.5, 3.2}, weights[] = {1, 1};
    CHECK_THROWS_WITH(heed::sphere_grid(falling, weights, 4), heed_test::contains("at position 1"));
    CHECK_THROWS_WITH(heed::sphere_grid(outside, weights, 4), heed_test::contains("at position 1"));
    CHECK_THROWS_WITH(heed::sphere_grid(std::span<double const>(falling, 1), weights, 4), heed_test::contains("1 colatitudes, 2 weights"));
}
