// SPDX-License-Identifier: BSD-3-Clause
// Laws of mixing by distance, over lengths of every kind: unit impulses, linearity, the adjoint, the circulant of a softmax, groups of heads; and the error of
// a whole convolution against the same in double.
#include "try_mixing.hpp"

#include <heed/front/averaged_key.hpp>

using namespace heed_test;

namespace {

constexpr auto convolve = heed::spectral{heed::wrapped{}, heed::convolution{}};
constexpr auto correlate = heed::spectral{heed::wrapped{}, heed::correlation{}};

double dot(tensor<double> const& a, tensor<double> const& b) {
    auto const x = oracle::read(a.in()), y = oracle::read(b.in());
    double sum = 0;
    for (std::size_t i = 0; i < x.x.size(); ++i) { sum += x.x[i] * y.x[i]; }
    return sum;
}

} // namespace

TEST_CASE("impulses move, mixing is linear, the orientations are adjoint, and the error is that of two transforms; lengths of every kind") {
    HEED_SEEDED;
    random_source random(61);
    for (extent_t const n : {1, 2, 3, 7, 127, 1009, 4095, 4097, 65537}) {
        CAPTURE(n);
        heed::shape const zs{1, 1, n, 1}, vs{1, 1, n, 2};
        tensor<double> w(zs), impulse(zs), v(vs), u(vs), a(vs), b(vs), c(vs);
        for (auto* t : {&w, &v, &u}) { t->normal(random); }
        double const log_n = std::log2(static_cast<double>(n) + 1), size = std::sqrt(static_cast<double>(n));
        extent_t const by = n / 3;
        impulse.fill(0), impulse(0, 0, by, 0) = 1;
        heed::circular_convolve(impulse.in(), v.in(), a.view());
        heed::forward(correlate, impulse.in(), v.in(), b.view());
        double worst = 0;
        for (extent_t i = 0; i < n; ++i)
            for (extent_t e = 0; e < 2; ++e) { worst = std::max({worst, std::abs(a(0, 0, (i + by) % n, e) - v(0, 0, i, e)), std::abs(b(0, 0, i, e) - v(0, 0, (i + by) % n, e))}); }
        CHECK(worst <= 8 * eps<double> * (1 + log_n));

        heed::circular_convolve(w.in(), v.in(), a.view());
        heed::forward(correlate, w.in(), u.in(), b.view());
        CHECK(dot(a, u) == approx(dot(v, b)).margin(1e-12 * size * static_cast<double>(n)));
        tensor<double> both(vs);
        both.each_at([&](double& x, extent_t, extent_t, extent_t i, extent_t e) { x = 3 * v(0, 0, i, e) - u(0, 0, i, e); });
        heed::circular_convolve(w.in(), u.in(), b.view());
        heed::circular_convolve(w.in(), both.in(), c.view());
        worst = 0;
        c.each_at([&](double& x, extent_t, extent_t, extent_t i, extent_t e) { worst = std::max(worst, std::abs(x - 3 * a(0, 0, i, e) + b(0, 0, i, e))); });
        CHECK(worst <= 40 * eps<double> * (1 + log_n) * size);

        for (bool const causal : {false, true}) { // of float against double
            tensor<float> w32(zs), v32(vs), out32(vs);
            w32.each_at([&](float& x, extent_t, extent_t, extent_t t, extent_t) { w(0, 0, t, 0) = static_cast<double>(x = static_cast<float>(w(0, 0, t, 0))); });
            v32.each_at([&](float& x, extent_t, extent_t, extent_t t, extent_t e) { v(0, 0, t, e) = static_cast<double>(x = static_cast<float>(v(0, 0, t, e))); });
            causal ? heed::causal_convolve(w32.in(), v32.in(), out32.view()) : heed::circular_convolve(w32.in(), v32.in(), out32.view());
            causal ? heed::causal_convolve(w.in(), v.in(), a.view()) : heed::circular_convolve(w.in(), v.in(), a.view());
            double error = 0, norm = 0;
            out32.each_at([&](float& x, extent_t, extent_t, extent_t i, extent_t e) {
                error += std::pow(static_cast<double>(x) - a(0, 0, i, e), 2);
                norm += std::pow(a(0, 0, i, e), 2);
            });
            CHECK(std::sqrt(error / norm) <= 0.6 * eps<float> * (1 + log_n));
        }
    }
}

TEST_CASE("the softmax of a circulant is the circulant of the softmax: each row a softmax of scores that have moved on") {
    HEED_SEEDED;
    random_source random(62);
    for (extent_t const n : {5, 37, 64}) {
        tensor<double> z({1, 1, n, 1}), unit({1, 1, n, n}), matrix({1, 1, n, n});
        z.normal(random, 3);
        unit.each_at([](double& x, extent_t, extent_t, extent_t i, extent_t e) { x = i == e ? 1 : 0; });
        heed::forward(heed::circular_attention(), z.in(), unit.in(), matrix.view());
        double sum = 0, columns = 0;
        for (extent_t t = 0; t < n; ++t) { sum += std::exp(z(0, 0, t, 0)); }
        for (extent_t i = 0; i < n; ++i)
            for (extent_t j = 0; j < n; ++j) { REQUIRE(matrix(0, 0, i, j) == approx(std::exp(z(0, 0, (j - i + n) % n, 0)) / sum).margin(1e-14)); }
        for (extent_t i = 0; i < n; ++i) { columns += matrix(0, 0, i, 2); }
        CHECK(columns == approx(1));
        z.fill(0.3); // equal scores: the mean of the values, in every row
        heed::forward(heed::circular_attention(heed::convolution{}), z.in(), unit.in(), matrix.view());
        matrix.each([&](double x) { REQUIRE(x == approx(1 / static_cast<double>(n)).margin(1e-14)); });
    }
}

TEST_CASE("heads of scores and of values may be fewer: groups share them, as their repetition does") {
    HEED_SEEDED;
    random_source random(63);
    for (extent_t const n : {20, 90}) {
        mixing<float> m({2, 2, n, 1}, {1, 3, n, 5}, {2, 6, n, 5}, random);
        tensor<float> z({2, 6, n, 1}), v({2, 6, n, 5}), out(m.out.shape()), dz(m.z.shape()), dv(m.v.shape()), dz_all(z.shape()), dv_all(v.shape());
        z.each_at([&](float& x, extent_t b, extent_t h, extent_t i, extent_t) { x = m.z(b, h / 3, i, 0); });
        v.each_at([&](float& x, extent_t, extent_t h, extent_t i, extent_t e) { x = m.v(0, h / 2, i, e); });
        auto const both = [&](auto const& mechanism) {
            heed::forward(mechanism, m.z.in(), m.v.in(), m.out.view());
            heed::forward(mechanism, z.in(), v.in(), out.view());
            CHECK(same_bits(out, m.out));
            heed::backward(mechanism, m.z.in(), m.v.in(), m.out.in(), v.in(), dz.view(), dv.view());
            heed::backward(mechanism, z.in(), v.in(), out.in(), v.in(), dz_all.view(), dv_all.view());
            dz.each_at([&](float& x, extent_t b, extent_t h, extent_t i, extent_t) { REQUIRE(x == approx(dz_all(b, 3 * h, i, 0) + dz_all(b, 3 * h + 1, i, 0) + dz_all(b, 3 * h + 2, i, 0)).margin(2e-5)); });
            dv.each_at([&](float& x, extent_t, extent_t h, extent_t i, extent_t e) { REQUIRE(x == approx(dv_all(0, 2 * h, i, e) + dv_all(0, 2 * h + 1, i, e) + dv_all(1, 2 * h, i, e) + dv_all(1, 2 * h + 1, i, e)).margin(2e-5)); });
        };
        both(heed::circular_attention());
        both(heed::causal_circular_attention());

        tensor<float> q({2, 6, n, 7}), k({2, 2, n + 3, 7}), values({2, 2, n + 3, 5}), keys({2, 6, n + 3, 7}), wide({2, 6, n + 3, 5}), dq(q.shape()), dk(k.shape()), dvalues(values.shape()), dq_all(q.shape()), dk_all(keys.shape()), dwide(wide.shape());
        for (auto* t : {&q, &k, &values}) { t->normal(random); }
        keys.each_at([&](float& x, extent_t b, extent_t h, extent_t i, extent_t e) { x = k(b, h / 3, i, e); });
        wide.each_at([&](float& x, extent_t b, extent_t h, extent_t i, extent_t e) { x = values(b, h / 3, i, e); });
        heed::forward(heed::averaged_key_attention(), q.in(), k.in(), values.in(), m.out.view());
        heed::forward(heed::averaged_key_attention(), q.in(), keys.in(), wide.in(), out.view());
        CHECK(same_bits(out, m.out));
        heed::backward(heed::averaged_key_attention(), q.in(), k.in(), values.in(), out.in(), v.in(), dq.view(), dk.view(), dvalues.view());
        heed::backward(heed::averaged_key_attention(), q.in(), keys.in(), wide.in(), out.in(), v.in(), dq_all.view(), dk_all.view(), dwide.view());
        CHECK(same_bits(dq, dq_all));
        dk.each_at([&](float& x, extent_t b, extent_t h, extent_t i, extent_t e) { REQUIRE(x == approx(dk_all(b, 3 * h, i, e) + dk_all(b, 3 * h + 1, i, e) + dk_all(b, 3 * h + 2, i, e)).margin(2e-6)); });
    }
}
