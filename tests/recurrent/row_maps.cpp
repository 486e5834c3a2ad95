// SPDX-License-Identifier: BSD-3-Clause
// Maps of rows: their definitions, and their transposed derivatives against central differences.
#include "differences.hpp"

#include <heed/front/recurrent_backward.hpp>
#include <heed/mechanism/linear.hpp>

using namespace heed_test;
using A = heed::native_arch;

namespace {

template <class M>
void check_derivative(char const* name, M const& m, extent_t d, random_source& random) {
    auto const n = static_cast<std::size_t>(m.width(d)), w = static_cast<std::size_t>(d);
    std::vector<double> x(w), dx(w), dy(n), y(n);
    for (double& v : x) { v = random.normal(); }
    for (double& v : dy) { v = random.normal(); }
    m.template map_back<A>(x.data(), d, dy.data(), dx.data());
    auto const loss = [&] {
        m.template map<A>(x.data(), d, y.data());
        double sum = 0;
        for (std::size_t i = 0; i < n; ++i) { sum += y[i] * dy[i]; }
        return sum;
    };
    for (std::size_t i = 0; i < w; ++i) {
        double const was = x[i], step = 1e-6;
        x[i] = was + step;
        double const up = loss();
        x[i] = was - step;
        double const down = loss();
        x[i] = was;
        CAPTURE(name, d, i);
        CHECK((up - down) / (2 * step) == approx(dx[i]).epsilon(1e-6).margin(1e-7));
    }
}

} // namespace

TEST_CASE("Derivatives of row maps are those of differences", "[recurrent]") {
    HEED_SEEDED;
    random_source random(41);
    for (extent_t const d : {1, 3, 8, 21}) {
        check_derivative("taylor", heed::taylor_map(), d, random);
        check_derivative("square", heed::square_map(0.3), d, random);
        check_derivative("linear part", heed::series_map{0, 2, 0}, d, random);
        check_derivative("softmax", heed::softmax_map{}, d, random);
        check_derivative("hedgehog", heed::hedgehog_map{}, d, random);
        check_derivative("hadamard", heed::hadamard_map{}, d, random);
        check_derivative("dpfp", heed::dpfp_map{2}, d, random);
        std::vector<double> p(static_cast<std::size_t>(5 * d));
        for (double& v : p) { v = random.normal(); }
        check_derivative("relu projection", heed::relu_projection_map{heed::tensor_view<double>(p.data(), {1, 1, 5, d})}, d, random);
    }
}

TEST_CASE("Features multiply to powers of the product", "[recurrent]") {
    HEED_SEEDED;
    random_source random(42);
    for (extent_t const d : {1, 2, 7, 16, 33}) {
        auto const w = static_cast<std::size_t>(d);
        std::vector<double> q(w), k(w);
        double product = 0;
        for (std::size_t i = 0; i < w; ++i) { q[i] = random.normal(), k[i] = random.normal(), product += q[i] * k[i]; }
        heed::series_map const m{0.7, 1.5, 0.4, 0.3};
        auto const n = static_cast<std::size_t>(m.width(d));
        CHECK(n == static_cast<std::size_t>(1 + d + d * (d + 1) / 2));
        std::vector<double> a(n), b(n);
        m.map<A>(q.data(), d, a.data()), m.map<A>(k.data(), d, b.data());
        double sum = 0;
        for (std::size_t i = 0; i < n; ++i) { sum += a[i] * b[i]; }
        double const x = 0.3 * product;
        CHECK(sum == approx(0.7 + 1.5 * x + 0.4 * x * x).epsilon(1e-13).margin(1e-13));
    }
}

TEST_CASE("Softmax of features sums to 1 whatever their size; hedgehog's halves mirror each other", "[recurrent]") {
    float x[] = {1e4f, -1e4f, 9.99e3f, 0, 3};
    float y[10], z[10];
    heed::softmax_map{}.map<A>(x, 5, y);
    CHECK(y[0] + y[1] + y[2] + y[3] + y[4] == approx(1.0).epsilon(1e-6));
    heed::hedgehog_map{}.map<A>(x, 5, y);
    for (float& v : x) { v = -v; }
    heed::hedgehog_map{}.map<A>(x, 5, z);
    for (int i = 0; i < 5; ++i) { CHECK((y[i] == z[5 + i] && y[5 + i] == z[i])); }
    // worked by hand: r = (2, 0, 0, 1) of x = (2, -1), one shift: r_i r_(i-1)
    double const row[] = {2, -1};
    double f[4];
    heed::dpfp_map{1}.map<A>(row, 2, f);
    CHECK((f[0] == 2 && f[1] == 0 && f[2] == 0 && f[3] == 0));
}

TEST_CASE("Efficient attention is two softmaxes and two products, whatever the size of keys; gradients are those of differences", "[recurrent]") {
    HEED_SEEDED;
    random_source random(43);
    extent_t const N = 9, M = 70, d = 5, dv = 3;
    tensor<double> q({1, 1, N, d}), k({1, 1, M, d}), v({1, 1, M, dv}), out({1, 1, N, dv}), dout({1, 1, N, dv}), dq(q.shape()), dk(k.shape()), dv_(v.shape());
    q.normal(random), k.normal(random), v.normal(random), dout.normal(random);
    k.each_at([](double& x, extent_t, extent_t, extent_t, extent_t e) { x += e == 2 ? 900 : 0; }); // exponentials would overflow
    auto const exact = [&] {
        double loss = 0;
        std::vector<double> context(static_cast<std::size_t>(d * dv));
        for (extent_t c = 0; c < d; ++c) {
            double most = -INFINITY, sum = 0;
            for (extent_t j = 0; j < M; ++j) { most = std::fmax(most, k(0, 0, j, c)); }
            for (extent_t j = 0; j < M; ++j) { sum += std::exp(k(0, 0, j, c) - most); }
            for (extent_t j = 0; j < M; ++j)
                for (extent_t e = 0; e < dv; ++e) { context[static_cast<std::size_t>(c * dv + e)] += std::exp(k(0, 0, j, c) - most) / sum * v(0, 0, j, e); }
        }
        oracle::array o(out.shape());
        for (extent_t i = 0; i < N; ++i) {
            double sum = 0;
            for (extent_t c = 0; c < d; ++c) { sum += std::exp(q(0, 0, i, c)); }
            for (extent_t e = 0; e < dv; ++e) {
                for (extent_t c = 0; c < d; ++c) { o(0, 0, i, e) += std::exp(q(0, 0, i, c)) / sum * context[static_cast<std::size_t>(c * dv + e)]; }
                loss += o(0, 0, i, e) * dout(0, 0, i, e);
            }
        }
        return std::pair(o, loss);
    };
    heed::forward(heed::efficient_attention(), q.in(), k.in(), v.in(), out.view());
    CHECK(far<double>(out.in(), exact().first) < 1e-13);
    heed::backward(heed::efficient_attention(), q.in(), k.in(), v.in(), out.in(), heed::nothing_saved{}, dout.in(), dq.view(), dk.view(), dv_.view());
    differences const check([&] { return exact().second; }, "efficient attention", 1e-6, 1e-7);
    check("dq", q, dq, 1), check("dk", k, dk, 7), check("dv", v, dv_, 5);
}
