// SPDX-License-Identifier: BSD-3-Clause
// Tensors of 16 bits: states and sums in float, one rounding at the end. Moments of keys; a learned denominator.
#include "trial.hpp"

#include <heed/front/recurrent_backward.hpp>
#include <heed/front/step.hpp>
#include <heed/mechanism/delta_rule.hpp>
#include <heed/mechanism/linear.hpp>

using namespace heed_test;

namespace {

// Everything of a gated delta rule with a decay a channel, in storage E and, the same numbers, in float.
template <class E>
void check_storage(double unit) {
    random_source random(111);
    extent_t const n = 150, d = 20, dv = 13;
    heed::shape const sk{1, 2, n, d}, sv{1, 2, n, dv}, sg{1, 2, n, d}, sb{1, 2, n, 1}, ss{1, 2, d, dv};
    tensor<E> q(sk), k(sk), v(sv), out(sv), stepped(sv), dout(sv), dq(sk), dk(sk), dv_(sv);
    tensor<float> wq(sk), wk(sk), wv(sv), wout(sv), wdout(sv), wdq(sk), wdk(sk), wdv(sv), g(sg), beta(sb), s(ss), ws(ss), t(ss), dlog(sg), wdlog(sg), dbeta(sb), wdbeta(sb);
    auto const both = [&](tensor<E>& x, tensor<float>& y, double deviation) { // numbers that E holds
        y.normal(random, deviation);
        x.each_at([&](E& e, extent_t b, extent_t h, extent_t r, extent_t c) { e = static_cast<E>(y(b, h, r, c)), y(b, h, r, c) = static_cast<float>(e); });
    };
    both(q, wq, 1), both(k, wk, 0.2), both(v, wv, 1), both(dout, wdout, 1);
    g.each([&](float& x) { x = static_cast<float>(-random.uniform(0, 0.3)); });
    beta.each([&](float& x) { x = static_cast<float>(random.uniform(0, 1)); });
    auto const m = heed::kimi_delta_attention(g.in(), beta.in(), 0.5);
    heed::forward(m, q.in(), k.in(), v.in(), out.view(), heed::final_state{s.view()});
    heed::forward(m, wq.in(), wk.in(), wv.in(), wout.view(), heed::final_state{ws.view()});
    CHECK(same_bits(s, ws)); // of the state nothing is rounded
    double worst = 0;
    auto const near = [&](tensor<E>& x, tensor<float> const& y, double errors) { // in units of half a last place, of the number itself or of the largest
        double largest = 0;
        x.each_at([&](E&, extent_t b, extent_t h, extent_t r, extent_t c) { largest = std::fmax(largest, std::fabs(static_cast<double>(y(b, h, r, c)))); });
        x.each_at([&](E& e, extent_t b, extent_t h, extent_t r, extent_t c) {
            double const exact = static_cast<double>(y(b, h, r, c)), off = std::fabs(static_cast<double>(static_cast<float>(e)) - exact);
            worst = std::fmax(worst, off / (unit * (std::fabs(exact) + errors * largest)));
        });
    };
    near(out, wout, 1e-6);
    t.fill(0);
    heed::step(m, q.in(), k.in(), v.in(), heed::final_state{t.view()}, stepped.view());
    near(stepped, wout, 1e-3); // steps and chunks round in another order before
    CHECK(worst <= 1);
    heed::backward(m, q.in(), k.in(), v.in(), out.in(), heed::nothing_saved{}, dout.in(), dq.view(), dk.view(), dv_.view(), heed::log_decay_gradient{dlog.view()}, heed::beta_gradient{dbeta.view()});
    heed::backward(m, wq.in(), wk.in(), wv.in(), wout.in(), heed::nothing_saved{}, wdout.in(), wdq.view(), wdk.view(), wdv.view(), heed::log_decay_gradient{wdlog.view()}, heed::beta_gradient{wdbeta.view()});
    near(dq, wdq, 1e-6), near(dk, wdk, 1e-6), near(dv_, wdv, 1e-6);
    CHECK(worst <= 1);
    CHECK((same_bits(dlog, wdlog) && same_bits(dbeta, wdbeta)));
    CHECK((out.intact() && dq.intact() && stepped.intact()));
}

} // namespace

TEST_CASE("bf16 and fp16 tensors: states in float, results rounded once", "[recurrent]") {
    check_storage<heed::bf16>(0x1p-8);
    check_storage<heed::fp16>(0x1p-10);
}

TEST_CASE("Moments: of order 2 by hand, of order 1 and 2 over all pairs; equal weights give the mean", "[recurrent]") {
    HEED_SEEDED;
    random_source random(112);
    double const q1[] = {1}, k1[] = {0, 1}, v1[] = {0, 1};
    double o1[1];
    heed::forward(heed::moment_attention(2, heed::full{}), heed::tensor_view(q1, {1, 1, 1, 1}), heed::tensor_view(k1, {1, 1, 2, 1}), heed::tensor_view(v1, {1, 1, 2, 1}), heed::tensor_view(o1, {1, 1, 1, 1}));
    CHECK(o1[0] == approx(2.5 / 3.5).epsilon(1e-14)); // weights 1 and 1 + 1 + 1/2
    tensor<double> q({1, 1, 70, 4}), k(q.shape()), v({1, 1, 70, 3}), out(v.shape());
    q.normal(random, 0.2), k.normal(random, 0.2), v.normal(random);
    for (int const highest : {1, 2}) {
        heed::forward(heed::moment_attention(highest), q.in(), k.in(), v.in(), out.view());
        oracle::array exact(out.shape());
        for (extent_t i = 0; i < 70; ++i) {
            double sum = 0;
            for (extent_t j = 0; j <= i; ++j) {
                double x = 0;
                for (extent_t c = 0; c < 4; ++c) { x += q(0, 0, i, c) * k(0, 0, j, c); }
                double const w = 1 + x + (highest > 1 ? x * x / 2 : 0);
                sum += w;
                for (extent_t e = 0; e < 3; ++e) { exact(0, 0, i, e) += w * v(0, 0, j, e); }
            }
            for (extent_t e = 0; e < 3; ++e) { exact(0, 0, i, e) /= sum; }
        }
        CHECK(far<double>(out.in(), exact) < 1e-13);
    }
}

TEST_CASE("A learned denominator of 0 is none; over all keys it is a factor of rows", "[recurrent]") {
    random_source random(113);
    tensor<double> q({2, 1, 33, 5}), k({2, 1, 33, 5}), v({2, 1, 33, 4}), n({2, 1, 33, 1}), out(v.shape()), raw(v.shape());
    q.normal(random), k.normal(random), v.normal(random);
    n.fill(0);
    heed::forward(heed::linear_attention_raw(0.5), q.in(), k.in(), v.in(), raw.view());
    heed::forward(heed::normalised_linear_attention(n.in(), 0.5), q.in(), k.in(), v.in(), out.view());
    CHECK(same_bits(out, raw));
    n.normal(random);
    heed::forward(heed::linear_attention_raw(0.5, heed::identity_map{}, heed::full{}), q.in(), k.in(), v.in(), raw.view());
    heed::forward(heed::normalised_linear_attention(n.in(), 0.5, heed::full{}), q.in(), k.in(), v.in(), out.view());
    raw.each_at([&](double& x, extent_t b, extent_t h, extent_t r, extent_t) { x *= std::exp(-n(b, h, r, 0)); });
    CHECK(far(out, raw) < 1e-14);
}
