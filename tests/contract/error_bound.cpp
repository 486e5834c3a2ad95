// SPDX-License-Identifier: BSD-3-Clause
// Sentence: fp32 forward, random inputs: elementwise error <= eps (c0 + c1 max|score| + c2 (sqrt T + sqrt(n / T))) sum p|v|, constants
// calibrated once, at most 4 each, then only tightened.
// Sentence: weights of a row sum to 1 within eps (4 + T/16 + n/T).
// Sentence: adding a constant c to a row's scores changes weights by at most eps (4 + 2 max(|s|, |c|)) relative.
#include <support/catch.hpp>
#include <support/problem.hpp>

using namespace heed_test;

namespace {

// Measured on AVX2 and SSE2: at most 0.6 of this bound.
constexpr double c0 = 1, c1 = 2, c2 = 0.5;

// The largest error as a fraction of the bound, with max|score| taken as the sentence says it.
template <class T>
double worst_fraction(sizes n, double deviation, random_source& random) {
    auto const m = heed::softmax_attention();
    problem<T> p(n, random);
    p.q.normal(random, deviation);
    p.run(m);
    auto const exact = oracle::softmax(p.exact());
    double const tile = bound_of<T>(m).keys_per_tile, keys = static_cast<double>(n.keys);
    double worst = 0;
    for (extent_t b = 0; b < n.batch; ++b)
        for (extent_t h = 0; h < n.heads; ++h)
            for (extent_t i = 0; i < n.queries; ++i)
                for (extent_t e = 0; e < n.value_width; ++e) {
                    double const bound = eps<T> * (c0 + c1 * exact.scores(b, h, i, 0) + c2 * (std::sqrt(tile) + std::sqrt(keys / tile))) * exact.magnitude(b, h, i, e);
                    worst = std::fmax(worst, std::fabs(static_cast<double>(p.out(b, h, i, e)) - exact.out(b, h, i, e)) / bound);
                }
    return worst;
}

} // namespace

TEST_CASE("numbers: float is within the elementwise bound", "[contract]") {
    HEED_SEEDED;
    static_assert(c0 <= 4 && c1 <= 4 && c2 <= 4);
    random_source random(181);
    double worst = 0;
    for (extent_t keys : {16, 100, 128, 129, 500, 2048}) {
        for (extent_t width : {1, 16, 64, 128}) {
            double const fraction = worst_fraction<float>({1, 1, 1, 48, keys, width, 24}, 1, random);
            INFO(keys << " keys, width " << width << ": " << fraction);
            CHECK(fraction <= 1);
            worst = std::fmax(worst, fraction);
        }
    }
    CHECK(worst > 0.02); // the bound is of the size of the error
}

TEST_CASE("numbers: float is within the bound with sharper rows", "[contract]") {
    HEED_SEEDED;
    random_source random(182);
    for (extent_t keys : {128, 1000}) {
        double const fraction = worst_fraction<float>({1, 1, 1, 48, keys, 64, 24}, 3, random);
        INFO(keys << " keys: " << fraction);
        CHECK(fraction <= 1);
    }
}

TEST_CASE("numbers: double is within its own bound, 1e-12", "[contract]") {
    HEED_SEEDED;
    random_source random(183);
    for (extent_t keys : {16, 128, 129, 1000}) {
        for (extent_t width : {8, 64}) {
            double const fraction = worst_fraction<double>({1, 1, 1, 24, keys, width, 24}, 1, random);
            INFO(keys << " keys, width " << width << ": " << fraction);
            CHECK(fraction <= 1);
            CHECK(eps<double> * (c0 + c1 * 6 + c2 * (std::sqrt(128.0) + 3)) < 1e-12);
        }
    }
}

TEST_CASE("numbers: the weights of a row sum to 1", "[contract]") {
    HEED_SEEDED;
    random_source random(184);
    auto const m = heed::softmax_attention();
    double const tile = bound_of<float>(m).keys_per_tile;
    for (extent_t keys : {1, 2, 31, 128, 500, 5000}) {
        for (double deviation : {0.1, 1.0, 10.0, 100.0}) {
            problem<float> p({1, 1, 1, 50, keys, 8, 1}, random);
            p.q.normal(random, deviation);
            p.v.fill(1);
            p.run(m);
            double const bound = eps<float> * (4 + tile / 16 + static_cast<double>(keys) / tile);
            for (extent_t i = 0; i < 50; ++i) { REQUIRE(std::fabs(static_cast<double>(p.out(0, 0, i, 0)) - 1) <= bound); }
        }
    }
}

TEST_CASE("numbers: adding a constant to a row's scores leaves the weights", "[contract]") {
    HEED_SEEDED;
    random_source random(185);
    sizes const n{1, 1, 1, 50, 60, 8, 60};
    problem<float> p(n, random);
    p.v.each_at([](float& x, extent_t, extent_t, extent_t j, extent_t e) { x = j == e ? 1.0f : 0.0f; }); // out is the matrix of weights
    tensor<float> constant(heed::shape{1, 1, 50, 1});
    auto const m = heed::attention{heed::dot{} | heed::inv_sqrt_width{} | heed::bias{constant.view()}};
    constant.fill(0);
    p.run(m);
    tensor<float> weights(n.out());
    weights.copy(p.out.in());
    auto const exact = oracle::softmax(p.exact());
    for (float c : {1.0f, -3.5f, 30.0f, -1000.0f, 1e5f}) {
        constant.fill(c);
        p.run(m);
        for (extent_t i = 0; i < 50; ++i) {
            double const bound = eps<float> * (4 + 2 * std::fmax(exact.scores(0, 0, i, 0), std::fabs(static_cast<double>(c))));
            for (extent_t j = 0; j < 60; ++j) {
                double const before = static_cast<double>(weights(0, 0, i, j)), after = static_cast<double>(p.out(0, 0, i, j));
                INFO("c " << c << " row " << i << " key " << j << ": " << before << " and " << after);
                REQUIRE(std::fabs(after - before) <= bound * before);
            }
        }
    }
}
