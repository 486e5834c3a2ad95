// SPDX-License-Identifier: BSD-3-Clause
// Features of random projections: their derivatives, what they estimate, the keys' common peak, drawn projections.
#include "trial.hpp"

#include <heed/front/recurrent_backward.hpp>
#include <heed/front/step.hpp>
#include <heed/mechanism/linear.hpp>

using namespace heed_test;
using A = heed::native_arch;

TEST_CASE("A drawn projection is orthogonal d rows at a time, and the same for the same seed", "[recurrent]") {
    tensor<double> p({1, 1, 19, 8}), again(p.shape()), other(p.shape());
    heed::draw_projection(7, p.view()), heed::draw_projection(7, again.view()), heed::draw_projection(8, other.view());
    CHECK(same_bits(p, again));
    CHECK(far(p, other) > 0.1);
    for (extent_t a = 0; a < 19; ++a)
        for (extent_t b = 0; b < a; ++b) {
            if (a / 8 != b / 8) { continue; }
            double sum = 0;
            for (extent_t c = 0; c < 8; ++c) { sum += p(0, 0, a, c) * p(0, 0, b, c); }
            CHECK(std::fabs(sum) < 1e-13);
        }
    double squares = 0;
    tensor<double> many({1, 1, 4000, 8});
    heed::draw_projection(9, many.view());
    many.each([&](double& x) { squares += x * x; });
    CHECK(squares / 32000 == approx(1.0).epsilon(0.02)); // numbers of variance 1
}

TEST_CASE("Products of positive features estimate the exponential of the scaled product", "[recurrent]") {
    HEED_SEEDED;
    random_source random(51);
    extent_t const d = 6, r = 20000;
    tensor<double> p({1, 1, r, d});
    heed::draw_projection(3, p.view());
    heed::positive_random_map<double, heed::fixed_peak> const map{p.in(), 0, {0.4}};
    std::vector<double> q(static_cast<std::size_t>(d)), k(q), a(static_cast<std::size_t>(r)), b(a);
    for (std::size_t i = 0; i < q.size(); ++i) { q[i] = 0.5 * random.normal(), k[i] = 0.5 * random.normal(); }
    double const held = map.peak<A>(q.data(), d, a.data());
    map.map<A>(q.data(), d, a.data()), map.map_keys<A>(k.data(), d, map.known_peak(), b.data());
    double sum = 0, product = 0;
    for (std::size_t i = 0; i < a.size(); ++i) { sum += a[i] * b[i]; }
    for (std::size_t i = 0; i < q.size(); ++i) { product += q[i] * k[i]; }
    CHECK(sum * std::exp(held + 0.4) == approx(std::exp(product / std::sqrt(6.0))).epsilon(0.05));
}

TEST_CASE("Derivatives of positive features, of queries and of keys with what these share", "[recurrent]") {
    HEED_SEEDED;
    random_source random(52);
    for (extent_t const d : {1, 5, 16}) {
        extent_t const r = 70; // more than are held at once
        tensor<double> p({1, 1, r, d});
        heed::draw_projection(4, p.view());
        heed::positive_random_map<double> const map{p.in(), 0.01};
        auto const n = static_cast<std::size_t>(r), w = static_cast<std::size_t>(d);
        std::vector<double> x(w), dx(w), extra(w), dy(n), y(n);
        for (double& v : x) { v = random.normal(); }
        for (double& v : dy) { v = random.normal(); }
        auto const difference = [&](double& at, auto const& loss) {
            double const was = at, step = 1e-6;
            at = was + step;
            double const up = loss();
            at = was - step;
            double const down = loss();
            at = was;
            return (up - down) / (2 * step);
        };
        auto const along = [&] {
            double sum = 0;
            for (std::size_t i = 0; i < n; ++i) { sum += y[i] * dy[i]; }
            return sum;
        };
        map.map_back<A>(x.data(), d, dy.data(), dx.data());
        for (std::size_t i = 0; i < w; ++i) { CHECK(difference(x[i], [&] { return map.map<A>(x.data(), d, y.data()), along(); }) == approx(dx[i]).epsilon(1e-6).margin(1e-7)); }
        double shared = 1.3;
        auto const key = [&] { return map.map_keys<A>(x.data(), d, shared, y.data()), along(); };
        double const by = map.map_keys_back<A>(x.data(), d, shared, dy.data(), dx.data());
        for (std::size_t i = 0; i < w; ++i) { CHECK(difference(x[i], key) == approx(dx[i]).epsilon(1e-6).margin(1e-7)); }
        CHECK(difference(shared, key) == approx(by).epsilon(1e-6));
        map.peak_back<A>(x.data(), d, 2.0, extra.data());
        for (std::size_t i = 0; i < w; ++i) { CHECK(2 * difference(x[i], [&] { return map.peak<A>(x.data(), d, y.data()); }) == approx(extra[i]).epsilon(1e-6).margin(1e-7)); }
    }
}

TEST_CASE("Performer: steps are chunks; near softmax; huge keys stay in range; a NaN beyond the keys reaches nothing", "[recurrent]") {
    HEED_SEEDED;
    random_source random(53);
    extent_t const N = 70, d = 4, dv = 3, r = 300;
    tensor<double> p({1, 1, r, d}), q({1, 2, N, d}), k({1, 1, N, d}), v({1, 2, N, dv}), out({1, 2, N, dv}), stepped(out.shape()), s({1, 2, r, dv}), z({1, 2, r, 1});
    heed::draw_projection(5, p.view());
    q.normal(random, 0.4), k.normal(random, 0.4), v.normal(random);
    auto const m = heed::performer_attention(p.in(), heed::causal_bottom_right{}, heed::fixed_peak{1});
    heed::forward(m, q.in(), k.in(), v.in(), out.view());
    s.fill(0), z.fill(0);
    heed::step(m, q.in(), k.in(), v.in(), heed::final_state{s.view(), z.view()}, stepped.view());
    CHECK(far(stepped, out) < 1e-12);
    double worst = 0;
    for (extent_t i = 0; i < N; ++i) {
        double sum = 0, mean = 0;
        for (extent_t j = 0; j <= i; ++j) {
            double score = 0;
            for (extent_t c = 0; c < d; ++c) { score += q(0, 1, i, c) * k(0, 0, j, c); }
            double const w = std::exp(score / 2);
            sum += w, mean += w * v(0, 1, j, 0);
        }
        worst = std::fmax(worst, std::fabs(mean / sum - out(0, 1, i, 0)));
    }
    CHECK(worst < 0.1);
    k.each_at([](double& x, extent_t, extent_t, extent_t n, extent_t) { x *= n == 20 ? 400 : 1; });
    k(0, 0, 61, 2) = NAN;
    std::int32_t const lengths[] = {60};
    auto const all = heed::performer_attention(p.in(), heed::key_lengths{heed::per_batch(lengths, 1)});
    tensor<double> dout(out.shape()), dq(q.shape()), dk(k.shape()), dv_(v.shape());
    dout.normal(random);
    heed::forward(all, q.in(), k.in(), v.in(), out.view());
    heed::backward(all, q.in(), k.in(), v.in(), out.in(), heed::nothing_saved{}, dout.in(), dq.view(), dk.view(), dv_.view());
    bool finite = true, nothing = true;
    for (tensor<double>* x : {&out, &dq, &dk, &dv_}) { x->each([&](double& y) { finite = finite && std::isfinite(y); }); }
    dk.each_at([&](double& x, extent_t, extent_t, extent_t n, extent_t) { nothing = nothing && (n < 60 || x == 0); });
    CHECK(finite);
    CHECK(nothing);
}
