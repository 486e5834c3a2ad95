// SPDX-License-Identifier: BSD-3-Clause
// Local linear attention and Parallax: ridge regressions solved by elimination as the oracle, laws, gradients.
#include "differences.hpp"

#include <heed/front/local_linear.hpp>

using namespace heed_test;

namespace {

struct planes {
    double scale = 0.7, lambda = 0.3;
    bool relative = false;
    tensor<double> q, k, v, r, out, dout, dq, dk, dv, dr;
    planes(extent_t n, extent_t m, extent_t d, extent_t width, extent_t heads, random_source& random)
        : q({2, heads, n, d}, padded(heed::shape{2, heads, n, d}, 3)), k({2, 1, m, d}), v({2, 1, m, width}), r(q.shape()), out({2, heads, n, width}), dout(out.shape()), dq(q.shape()), dk(k.shape()),
          dv(v.shape()), dr(q.shape()) {
        q.normal(random), k.normal(random), v.normal(random), r.normal(random, 0.5), dout.normal(random);
    }
    // one query by elimination: solution of (sum w z z^T + lambda I) rho = sum w z
    template <bool Parallax>
    oracle::array exact(bool causal) const {
        extent_t const n = q.shape().seq, m = k.shape().seq, d = q.shape().feature;
        oracle::array o(out.shape());
        auto const at = [](extent_t i) { return static_cast<std::size_t>(i); };
        for (extent_t b = 0; b < 2; ++b)
            for (extent_t h = 0; h < q.shape().head; ++h)
                for (extent_t i = 0; i < n; ++i) {
                    extent_t const end = causal ? i + 1 + m - n : m;
                    if (end <= 0) { continue; }
                    std::vector<double> w(at(end)), rho(at(d)), t(at(end));
                    double most = -INFINITY, sum = 0, total = 0;
                    for (extent_t j = 0; j < end; ++j) {
                        for (extent_t c = 0; c < d; ++c) { w[at(j)] += scale * q(b, h, i, c) * k(b, 0, j, c); }
                        most = std::fmax(most, w[at(j)]);
                    }
                    for (double& x : w) { x = std::exp(x - most), sum += x; }
                    auto const z = [&](extent_t j, extent_t c) { return k(b, 0, j, c) - q(b, h, i, c); };
                    if (Parallax) {
                        double tau = 0;
                        for (extent_t j = 0; j < end; ++j) {
                            for (extent_t c = 0; c < d; ++c) { t[at(j)] += r(b, h, i, c) * k(b, 0, j, c); }
                            tau += w[at(j)] / sum * t[at(j)];
                        }
                        for (extent_t j = 0; j < end; ++j) { w[at(j)] *= (1 + tau - t[at(j)]) / sum; }
                        total = 1;
                    } else {
                        std::vector<double> s(at(d * (d + 1))); // with mu as the last column
                        for (extent_t a = 0; a < d; ++a) {
                            for (extent_t c = 0; c < d; ++c) {
                                for (extent_t j = 0; j < end; ++j) { s[at(a * (d + 1) + c)] += w[at(j)] * z(j, a) * z(j, c); }
                            }
                            s[at(a * (d + 1) + a)] += lambda * (relative ? 1 : std::exp(-most));
                            for (extent_t j = 0; j < end; ++j) { s[at(a * (d + 1) + d)] += w[at(j)] * z(j, a); }
                        }
                        for (extent_t a = 0; a < d; ++a)
                            for (extent_t c = 0; c < d; ++c) {
                                if (a == c) { continue; }
                                double const by = s[at(c * (d + 1) + a)] / s[at(a * (d + 1) + a)];
                                for (extent_t e = 0; e <= d; ++e) { s[at(c * (d + 1) + e)] -= by * s[at(a * (d + 1) + e)]; }
                            }
                        for (extent_t a = 0; a < d; ++a) { rho[at(a)] = s[at(a * (d + 1) + d)] / s[at(a * (d + 1) + a)]; }
                        for (extent_t j = 0; j < end; ++j) {
                            double b_j = 1;
                            for (extent_t c = 0; c < d; ++c) { b_j -= z(j, c) * rho[at(c)]; }
                            total += w[at(j)] *= b_j;
                        }
                    }
                    for (extent_t j = 0; j < end; ++j)
                        for (extent_t e = 0; e < v.shape().feature; ++e) { o(b, h, i, e) += w[at(j)] / total * v(b, 0, j, e); }
                }
        return o;
    }
    template <class P>
    void run(P order, int threads = 1) {
        heed::cpu const backend{thread_team{threads}};
        if (relative) {
            heed::forward(heed::local_linear_attention(order, heed::relative_ridge{lambda}, scale), q.in(), k.in(), v.in(), out.view(), backend);
        } else {
            heed::forward(heed::local_linear_attention(order, heed::ridge{lambda}, scale), q.in(), k.in(), v.in(), out.view(), backend);
        }
    }
    template <bool Parallax, class P>
    void run_back(P order, int threads = 1) {
        heed::cpu const backend{thread_team{threads}};
        if constexpr (Parallax) {
            auto const m = heed::parallax_attention(r.in(), order, scale);
            heed::forward(m, q.in(), k.in(), v.in(), out.view(), backend);
            heed::backward(m, q.in(), k.in(), v.in(), out.in(), heed::nothing_saved{}, dout.in(), dq.view(), dk.view(), dv.view(), heed::slope_gradient{dr.view()}, backend);
        } else {
            auto const m = heed::local_linear_attention(order, heed::ridge{lambda}, scale);
            heed::forward(m, q.in(), k.in(), v.in(), out.view(), backend);
            heed::backward(m, q.in(), k.in(), v.in(), out.in(), heed::nothing_saved{}, dout.in(), dq.view(), dk.view(), dv.view(), backend);
        }
    }
};
template <bool Parallax, class P>
void check_gradients(P order, extent_t n, extent_t m, random_source& random) {
    bool const causal = !std::is_same_v<P, heed::full>;
    planes t(n, m, 3, 2, 2, random);
    t.run_back<Parallax>(order, 3);
    CHECK(far<double>(t.out.in(), t.exact<Parallax>(causal)) < 1e-9);
    differences const check([&] { return product(t.exact<Parallax>(causal), t.dout); }, Parallax ? "parallax" : "local linear", 2e-6, 2e-6);
    check("dq", t.q, t.dq, 53), check("dk", t.k, t.dk, 31), check("dv", t.v, t.dv, 29);
    if (Parallax) { check("dr", t.r, t.dr, 67); }
    tensor<double> const dk = copied(t.dk);
    t.run_back<Parallax>(order, 1);
    CHECK(same_bits(dk, t.dk));
}

} // namespace

TEST_CASE("Local regressions are those by elimination; gradients are those of differences", "[recurrent]") {
    HEED_SEEDED;
    random_source random(91);
    check_gradients<false>(heed::full{}, 70, 80, random);
    check_gradients<false>(heed::causal_bottom_right{}, 75, 75, random);
    check_gradients<false>(heed::causal_bottom_right{}, 6, 3, random); // three queries see nothing
    check_gradients<true>(heed::full{}, 10, 70, random);
    check_gradients<true>(heed::causal_bottom_right{}, 70, 70, random);
}

TEST_CASE("Local regressions: a huge penalty is softmax attention, one key gives its value, a plane is continued", "[recurrent]") {
    HEED_SEEDED;
    random_source random(92);
    planes t(20, 90, 4, 3, 1, random);
    t.lambda = 1e12;
    t.run(heed::full{});
    t.r.fill(0); // Parallax without a slope is softmax
    tensor<double> soft(t.out.shape());
    heed::forward(heed::parallax_attention(t.r.in(), heed::full{}, t.scale), t.q.in(), t.k.in(), t.v.in(), soft.view());
    CHECK(far(t.out, soft) < 1e-9);
    planes one(5, 1, 4, 3, 1, random);
    one.run(heed::full{});
    for (extent_t i = 0; i < 5; ++i) { CHECK(one.out(1, 0, i, 2) == approx(one.v(1, 0, 0, 2)).epsilon(1e-12)); }
    planes p(30, 60, 3, 1, 1, random);
    p.lambda = 1e-9;
    p.q.each([](double& x) { x *= 2; }); // beyond the keys too
    auto const plane = [](auto const& x, extent_t b, extent_t i) { return 0.5 + x(b, 0, i, 0) - 2 * x(b, 0, i, 1) + 0.25 * x(b, 0, i, 2); };
    p.v.each_at([&](double& x, extent_t b, extent_t, extent_t j, extent_t) { x = plane(p.k, b, j); });
    p.run(heed::full{});
    for (extent_t i = 0; i < 30; ++i) { CHECK(p.out(0, 0, i, 0) == approx(plane(p.q, 0, i)).epsilon(1e-5).margin(1e-5)); }
}

TEST_CASE("Local regressions: large scores, a relative penalty, a NaN that nobody sees", "[recurrent]") {
    HEED_SEEDED;
    random_source random(93);
    planes t(70, 70, 3, 2, 1, random);
    t.relative = true, t.lambda = 0.1;
    t.run(heed::causal_bottom_right{});
    CHECK(far<double>(t.out.in(), t.exact<false>(true)) < 1e-9);
    t.q.each([](double& x) { x *= 30; }), t.k.each([](double& x) { x *= 30; });
    t.run(heed::causal_bottom_right{});
    bool finite = true;
    t.out.each([&](double& x) { finite = finite && std::isfinite(x); });
    CHECK(finite);
    t.relative = false;
    t.q.normal(random), t.k.normal(random);
    t.run_back<false>(heed::causal_bottom_right{});
    tensor<double> const out = copied(t.out), dk = copied(t.dk);
    t.v(0, 0, 50, 1) = NAN, t.k(0, 0, 66, 0) = INFINITY;
    t.run_back<false>(heed::causal_bottom_right{});
    double apart = 0;
    for (extent_t i = 0; i < 50; ++i) { apart = std::fmax(apart, std::fabs(out(0, 0, i, 1) - t.out(0, 0, i, 1))); }
    CHECK(apart < 1e-12);
    CHECK((std::isnan(t.out(0, 0, 50, 1)) && std::isnan(t.out(0, 0, 69, 1))));
    CHECK(std::isnan(t.out(0, 0, 66, 0)));
    CHECK(t.dk(1, 0, 20, 1) == dk(1, 0, 20, 1)); // the other batch entry
    CHECK_THROWS_WITH(heed::forward(heed::local_linear_attention(heed::full{}, heed::ridge{0}), t.q.in(), t.k.in(), t.v.in(), t.out.view()), contains("must be above 0"));
}
