// SPDX-License-Identifier: BSD-3-Clause
// Logarithms around tropical attention: the valuations and their gradients, the paper's layer with one map a head, the exponential that leads back.
#include "try_gradients.hpp"

#include <oracle/contractions.hpp>

#include <heed/mechanism/tropical.hpp>

using namespace heed_test;

namespace {

template <class V>
void try_valuation_gradient(V const& valuation, tensor<double>& shift, tensor<double>& x, random_source& random) {
    tensor<double> u(x.shape()), du(x.shape()), dx(x.shape()), dshift(shift.shape());
    du.normal(random);
    auto const loss = [&] {
        heed::valuate(valuation, x.in(), u.view());
        double sum = 0;
        du.each_at([&](double& d, extent_t b, extent_t h, extent_t i, extent_t c) { sum += std::isinf(u(b, h, i, c)) ? 0 : d * u(b, h, i, c); });
        return sum;
    };
    loss();
    heed::valuate_backward(valuation, x.in(), u.in(), du.in(), dx.view(), dshift.view());
    require_slopes(x, dx, random, 1e-7, loss);
    require_slopes(shift, dshift, random, 1e-7, loss);
    REQUIRE((u.intact() && dx.intact() && dshift.intact()));
}

} // namespace

TEST_CASE("valuations: values from the equations, gradients against central differences", "[oracle][gradient]") {
    HEED_SEEDED;
    random_source random(51);
    tensor<double> x({2, 2, 9, 7}), shift({1, 2, 1, 7}), u(x.shape());
    x.normal(random), shift.normal(random);
    double const inf = std::numeric_limits<double>::infinity();
    heed::valuate(heed::log1p_valuation{shift.in()}, x.in(), u.view());
    x.each_at([&](double& v, extent_t b, extent_t h, extent_t i, extent_t c) { REQUIRE(std::fabs(u(b, h, i, c) - (std::log1p(std::fmax(0, v)) - shift(0, h, 0, c))) < 1e-14); });
    for (extent_t c = 0; c < 7; ++c) { x(1, 1, 4, c) = -1; } // a row without a positive coordinate
    heed::valuate(heed::simplex_valuation{shift.in()}, x.in(), u.view());
    x.each_at([&](double& v, extent_t b, extent_t h, extent_t i, extent_t c) {
        double top = -inf;
        for (extent_t o = 0; o < 7; ++o) { top = std::fmax(top, x(b, h, i, o) > 0 ? std::log(x(b, h, i, o)) - shift(0, h, 0, o) : -inf); }
        if (v <= 0) {
            REQUIRE(u(b, h, i, c) == -inf);
        } else {
            REQUIRE(std::fabs(u(b, h, i, c) - (std::log(v) - shift(0, h, 0, c) - top)) < 1e-14);
        }
    });
    x.normal(random);
    try_valuation_gradient(heed::log1p_valuation{shift.in()}, shift, x, random);
    try_valuation_gradient(heed::simplex_valuation{shift.in()}, shift, x, random);
}

TEST_CASE("valuations: the paper's layer, one map a head on all features", "[oracle]") {
    HEED_SEEDED;
    random_source random(52);
    extent_t const N = 21, H = 3, D = 10, d = 4;
    tensor<float> x({1, 1, N, D}), shift({1, 1, 1, D}), u({1, 1, N, D}), wq({1, H, D, d}), wk({1, H, D, d}), wv({1, H, D, d}), q({1, H, N, d}), k({1, H, N, d}), v({1, H, N, d}), out({1, H, N, d});
    x.each([&](float& e) { e = static_cast<float>(random.uniform(0.05, 4)); });
    shift.normal(random), wq.normal(random), wk.normal(random), wv.normal(random);
    heed::valuate(heed::simplex_valuation{shift.in()}, x.in(), u.view());
    heed::semiring_matmul(heed::max_plus{}, u.in(), wq.in(), q.view());
    heed::semiring_matmul(heed::max_plus{}, u.in(), wk.in(), k.view());
    heed::semiring_matmul(heed::max_plus{}, u.in(), wv.in(), v.view());
    heed::forward(heed::tropical_attention(heed::causal_bottom_right{}, heed::hilbert{}, heed::exponential{}), q.in(), k.in(), v.in(), out.view());

    using oracle::number;
    std::vector<number> z;
    for (extent_t i = 0; i < N; ++i) {
        number top = -std::numeric_limits<number>::infinity();
        for (extent_t c = 0; c < D; ++c) { top = std::max(top, std::log(number(x(0, 0, i, c))) - shift(0, 0, 0, c)); }
        for (extent_t c = 0; c < D; ++c) { z.push_back(std::log(number(x(0, 0, i, c))) - shift(0, 0, 0, c) - top); }
    }
    auto const mapped = [&](tensor<float> const& w) {
        oracle::array y({1, H, N, d});
        for (extent_t h = 0; h < H; ++h)
            for (extent_t i = 0; i < N; ++i)
                for (extent_t o = 0; o < d; ++o) {
                    number best = -std::numeric_limits<number>::infinity();
                    for (extent_t t = 0; t < D; ++t) { best = std::max(best, z[static_cast<std::size_t>(i * D + t)] + number(w(0, h, t, o))); }
                    y(0, h, i, o) = static_cast<double>(best);
                }
        return y;
    };
    oracle::array const expected = oracle::attend_pairs({mapped(wq), mapped(wk), mapped(wv), oracle::causal_bottom_right({1, H, N, N}), oracle::hilbert_score,
                                                         [](oracle::numbers const& s, oracle::numbers const& e) { return std::exp(oracle::greatest(s, e)); }});
    out.each_at([&](float& o, extent_t, extent_t h, extent_t i, extent_t e) { REQUIRE(std::fabs(o - expected(0, h, i, e)) <= 4e-6 * (1 + expected(0, h, i, e))); });
}

TEST_CASE("valuations: N = 1 with equal maps is relu", "[oracle]") {
    float x[] = {1.5f, -2, 0.25f, 7}, u[4], out[4];
    heed::shape const s{1, 1, 1, 4};
    heed::valuate(heed::log1p_valuation{}, heed::tensor_view{x, s}, heed::tensor_view{u, s});
    heed::forward(heed::tropical_attention(), heed::tensor_view{u, s}, heed::tensor_view{u, s}, heed::tensor_view{u, s}, heed::tensor_view{out, s});
    for (int c = 0; c < 4; ++c) { CHECK(std::fabs(out[c] - std::fmax(0.0f, x[c])) <= 3e-6f * (1 + std::fabs(x[c]))); }
    CHECK(out[1] == 0);
}

TEST_CASE("valuations: expm1 within 3 ulp", "[contract]") {
    HEED_SEEDED;
    random_source random(53);
    using heed::math::expm1;
    auto const worst = [&](auto zero, double low, double high) {
        using T = decltype(zero);
        using V = heed::vec<T, heed::native_arch>;
        double most = 0;
        for (int n = 0; n < 20000; ++n) {
            T x[V::lanes], y[V::lanes];
            for (T& e : x) {
                double const r = random.uniform(low, high);
                e = static_cast<T>(random.chance(0.5) ? r : r * std::exp2(-random.uniform(0, 40)));
            }
            expm1(V::load(x)).store(y);
            for (int l = 0; l < V::lanes; ++l) {
                long double const exact = std::expm1(static_cast<long double>(x[l]));
                T const as = static_cast<T>(exact);
                if (std::isinf(as)) {
                    REQUIRE(y[l] == as);
                    continue;
                }
                T const ulp = std::fabs(as) - std::nextafter(std::fabs(as), T(0));
                most = std::max(most, as == 0 ? 0 : static_cast<double>(std::fabs(static_cast<long double>(y[l]) - exact) / static_cast<long double>(ulp)));
            }
        }
        return most;
    };
    double const in_float = worst(0.0f, -30, 90), in_double = worst(0.0, -50, 711);
    INFO(in_float << " " << in_double);
    CHECK(in_float <= 3);
    CHECK(in_double <= 3);
    float const inf = std::numeric_limits<float>::infinity();
    using V = heed::vec<float, heed::native_arch>;
    float one[V::lanes];
    expm1(V(-inf)).store(one);
    CHECK(one[0] == -1);
    expm1(V(inf)).store(one);
    CHECK(one[0] == inf);
    expm1(V(0.0f)).store(one);
    CHECK(one[0] == 0);
    expm1(V(std::numeric_limits<float>::quiet_NaN())).store(one);
    CHECK(one[0] != one[0]);
}
