// SPDX-License-Identifier: BSD-3-Clause
// Sentence: public math::exp in fp32 is within 1 ulp, exact at -inf and 0, keeps NaN; the engines' exp2 is within 3 ulp on [-126, 0],
// exact at 0 and -inf. A dense sample here; exhaustive_exp.cpp has all inputs.
#include <support/catch.hpp>
#include <support/random.hpp>
#include <support/ulp.hpp>

#include <heed/kernel/batch.hpp>
#include <heed/kernel/math.hpp>

#include <cmath>
#include <limits>
#include <vector>

namespace {

using batch = heed::vec<float, heed::native_arch>;
using batch_double = heed::vec<double, heed::native_arch>;

template <class V, class F>
std::vector<typename V::value_type> through(std::vector<typename V::value_type> x, F f) {
    std::size_t const n = x.size();
    x.resize((n + V::lanes - 1) / V::lanes * V::lanes, 0);
    for (std::size_t i = 0; i < x.size(); i += V::lanes) { f(V::load(x.data() + i)).store(x.data() + i); }
    x.resize(n);
    return x;
}
std::vector<float> batch_exp(std::vector<float> x) {
    return through<batch>(std::move(x), [](batch v) { return exp(v); });
}
std::vector<float> batch_exp2(std::vector<float> x) {
    return through<batch>(std::move(x), [](batch v) { return fast_exp2(v); });
}

float const inf = std::numeric_limits<float>::infinity();
float const not_a_number = std::numeric_limits<float>::quiet_NaN();

// Every 1021st float, all floats where the result begins to overflow or to vanish, and around 0.
std::vector<float> sample() {
    std::vector<float> x;
    for (std::uint64_t bits = 0; bits <= 0xffffffffu; bits += 1021) { x.push_back(heed_test::float_of(static_cast<std::uint32_t>(bits))); }
    for (float edge : {88.722839f, -87.33655f, -103.972084f, -104.0f, 0.34657359f, -0.34657359f, 1.0f}) {
        for (int k = -2000; k <= 2000; ++k) { x.push_back(heed_test::float_of(heed_test::bits_of_float(edge) + static_cast<std::uint32_t>(k))); }
    }
    for (std::uint32_t k = 0; k < 1000; ++k) {
        x.push_back(heed_test::float_of(k));
        x.push_back(heed_test::float_of(0x80000000u + k));
    }
    return x;
}

} // namespace

TEST_CASE("math: exp in float is within one ulp", "[math]") {
    auto const x = sample();
    auto const y = batch_exp(x);
    double worst = 0, worst_scalar = 0;
    float where = 0;
    for (std::size_t i = 0; i < x.size(); ++i) {
        double const exact = std::exp(static_cast<double>(x[i]));
        double const error = heed_test::ulp_error(y[i], exact);
        if (error > worst) {
            worst = error;
            where = x[i];
        }
        worst_scalar = std::fmax(worst_scalar, heed_test::ulp_error(heed::math::exp(x[i]), exact));
    }
    INFO("worst at " << where);
    CHECK(worst <= 1.0);
    CHECK(worst > 0.4); // a measurement, not a constant
    CHECK(worst_scalar <= 1.0);
}

TEST_CASE("math: exp at the special points", "[math]") {
    auto const y = batch_exp({-inf, 0.0f, -0.0f, inf, not_a_number, -not_a_number, 1000.0f, -1000.0f, std::numeric_limits<float>::max(), std::numeric_limits<float>::lowest(),
                              heed_test::float_of(1), heed_test::float_of(0x7f800001u)});
    CHECK((y[0] == 0.0f && !std::signbit(y[0])));
    CHECK(y[1] == 1.0f);
    CHECK(y[2] == 1.0f);
    CHECK(y[3] == inf);
    CHECK(std::isnan(y[4]));
    CHECK(std::isnan(y[5]));
    CHECK(y[6] == inf);
    CHECK(y[7] == 0.0f);
    CHECK(y[8] == inf);
    CHECK(y[9] == 0.0f);
    CHECK(y[10] == 1.0f);
    CHECK(std::isnan(y[11]));
    CHECK(batch_exp({-100.0f})[0] > 0.0f); // gradual underflow
}

TEST_CASE("math: exp gives the same bits in every lane", "[math]") {
    std::vector<float> x(batch::lanes);
    for (float value : {-1.7f, -88.0f, 0.3f, 42.0f}) {
        x.assign(batch::lanes, value);
        auto const y = batch_exp(x);
        for (float lane : y) { CHECK(lane == y[0]); }
    }
}

TEST_CASE("math: exp in double is within two ulp", "[math]") {
    HEED_SEEDED;
    heed_test::random_source random(1);
    std::vector<double> x;
    for (int i = 0; i < 400000; ++i) { x.push_back(random.uniform(-708, 709)); }
    for (int i = 0; i < 100000; ++i) { x.push_back(random.uniform(-2, 2)); }
    auto const y = through<batch_double>(x, [](batch_double v) { return exp(v); });
    double worst = 0;
    for (std::size_t i = 0; i < x.size(); ++i) {
        long double const exact = std::exp(static_cast<long double>(x[i]));
        int exponent = 0;
        std::frexp(static_cast<double>(exact), &exponent);
        worst = std::fmax(worst, static_cast<double>(std::fabs(static_cast<long double>(y[i]) - exact)) / std::ldexp(1.0, exponent - 53));
    }
    CHECK(worst <= 2.0);
    CHECK(worst > 0.4);
    double const special[] = {-std::numeric_limits<double>::infinity(), 0.0, std::numeric_limits<double>::infinity(), std::nan("")};
    auto const z = through<batch_double>({special, special + 4}, [](batch_double v) { return exp(v); });
    CHECK(z[0] == 0.0);
    CHECK(z[1] == 1.0);
    CHECK(z[2] == std::numeric_limits<double>::infinity());
    CHECK(std::isnan(z[3]));
}

TEST_CASE("math: the engines' exp2 is within three ulp on [-126, 0]", "[math]") {
    std::vector<float> x;
    for (std::uint32_t bits = 0x80000000u; bits <= 0xc2fc0000u; bits += 499) { x.push_back(heed_test::float_of(bits)); } // -0 .. -126
    x.push_back(-126.0f);
    for (int k = 0; k <= 126; ++k) { x.push_back(static_cast<float>(-k)); }
    auto const y = batch_exp2(x);
    double worst = 0;
    float where = 0;
    for (std::size_t i = 0; i < x.size(); ++i) {
        double const error = heed_test::ulp_error(y[i], std::exp2(static_cast<double>(x[i])));
        if (error > worst) {
            worst = error;
            where = x[i];
        }
    }
    INFO("worst at " << where);
    CHECK(worst <= 3.0);
    CHECK(worst > 0.4);
    auto const z = batch_exp2({0.0f, -0.0f, -inf, not_a_number, -1e30f, -127.0f, -200.0f, -126.5f});
    CHECK(z[0] == 1.0f);
    CHECK(z[1] == 1.0f);
    CHECK((z[2] == 0.0f && !std::signbit(z[2])));
    CHECK(std::isnan(z[3]));
    CHECK(z[4] == 0.0f);
    for (std::size_t i = 5; i < 8; ++i) { // below the smallest normal number: flushed or coarse, never large, never negative
        CHECK(z[i] >= 0.0f);
        CHECK(z[i] <= 0x1p-126f);
    }
}

TEST_CASE("math: the engines' exp2 in double", "[math]") {
    HEED_SEEDED;
    heed_test::random_source random(2);
    std::vector<double> x{0.0, -1.0, -1022.0};
    for (int i = 0; i < 200000; ++i) { x.push_back(random.uniform(-1022, 0)); }
    for (int i = 0; i < 100000; ++i) { x.push_back(random.uniform(-1, 0)); }
    auto const y = through<batch_double>(x, [](batch_double v) { return fast_exp2(v); });
    double worst = 0;
    for (std::size_t i = 0; i < x.size(); ++i) {
        long double const exact = std::exp2(static_cast<long double>(x[i]));
        int exponent = 0;
        std::frexp(static_cast<double>(exact), &exponent);
        worst = std::fmax(worst, static_cast<double>(std::fabs(static_cast<long double>(y[i]) - exact)) / std::ldexp(1.0, exponent - 53));
    }
    CHECK(worst <= 3.0);
    CHECK(y[0] == 1.0);
    CHECK(through<batch_double>({-std::numeric_limits<double>::infinity()}, [](batch_double v) { return fast_exp2(v); })[0] == 0.0);
}

TEST_CASE("math: tanh is within four ulp and keeps small arguments", "[math]") {
    std::vector<float> x;
    for (std::uint32_t bits = 0; bits < 0x7f800000u; bits += 4099) {
        x.push_back(heed_test::float_of(bits));
        x.push_back(-heed_test::float_of(bits));
    }
    auto const y = through<batch>(x, [](batch v) { return tanh(v); });
    double worst = 0;
    float where = 0;
    for (std::size_t i = 0; i < x.size(); ++i) {
        double const error = heed_test::ulp_error(y[i], std::tanh(static_cast<double>(x[i])));
        if (error > worst) {
            worst = error;
            where = x[i];
        }
    }
    INFO("worst at " << where);
    CHECK(worst <= 4.0);
    auto const z = through<batch>({inf, -inf, not_a_number, 0.0f}, [](batch v) { return tanh(v); });
    CHECK(z[0] == 1.0f);
    CHECK(z[1] == -1.0f);
    CHECK(std::isnan(z[2]));
    CHECK(z[3] == 0.0f);
}
