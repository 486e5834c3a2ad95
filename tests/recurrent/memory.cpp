// SPDX-License-Identifier: BSD-3-Clause
// Memory that learns by gradient steps: token by token as the oracle, in both rules, laws, gradients, 16-bit storage.
#include "differences.hpp"

#include <heed/front/gradient_memory.hpp>
#include <heed/front/recurrent.hpp>
#include <heed/mechanism/delta_rule.hpp>

using namespace heed_test;

namespace {

struct memories {
    extent_t chunk = 0;
    double scale = 0.8;
    tensor<double> q, k, v, theta, alpha, eta, out, m0, s0, m1, s1, dout, dq, dk, dv, dtheta, dalpha, deta, dm0, ds0, dm1, ds1;
    memories(extent_t n, extent_t d, extent_t width, extent_t shared_heads, random_source& random)
        : q({2, 2, n, d}, padded(heed::shape{2, 2, n, d}, 3)), k({2, 2, n, d}), v({2, 2, n, width}), theta({2, 2, n, 1}), alpha({1, shared_heads, n, 1}), eta({2, 2, n, 1}), out(v.shape()), m0({2, 2, d, width}),
          s0(m0.shape()), m1(m0.shape()), s1(m0.shape()), dout(v.shape()), dq(q.shape()), dk(k.shape()), dv(v.shape()), dtheta(theta.shape()), dalpha(alpha.shape()), deta(eta.shape()), dm0(m0.shape()),
          ds0(m0.shape()), dm1(m0.shape()), ds1(m0.shape()) {
        q.normal(random), v.normal(random), m0.normal(random, 0.5), s0.normal(random, 0.2), dout.normal(random), dm1.normal(random), ds1.normal(random);
        k.normal(random, 1 / std::sqrt(static_cast<double>(d)));
        theta.each([&](double& x) { x = random.uniform(0, 0.3); });
        alpha.each([&](double& x) { x = random.uniform(0, 0.3); });
        eta.each([&](double& x) { x = random.uniform(0.2, 0.8); });
    }
    heed::gradient_memory<double> mechanism() const { return {theta.in(), alpha.in(), eta.in(), chunk, scale}; }
    void run(int threads = 1) {
        heed::forward(mechanism(), q.in(), k.in(), v.in(), out.view(), heed::initial_memory<double>{{m0.in(), s0.in()}}, heed::final_memory<double>{{m1.view(), s1.view()}}, heed::cpu{thread_team{threads}});
    }
    void run_back(int threads = 1) {
        heed::backward(mechanism(), q.in(), k.in(), v.in(), out.in(), heed::nothing_saved{}, dout.in(), dq.view(), dk.view(), dv.view(), heed::initial_memory<double>{{m0.in(), s0.in()}},
                       heed::memory_gradient<double>{dtheta.view(), dalpha.view(), deta.view(), {dm0.view(), ds0.view()}}, heed::final_memory_gradient<double>{{dm1.in(), ds1.in()}}, heed::cpu{thread_team{threads}});
    }
    struct result {
        oracle::array out, m, s;
    };
    result exact() const {
        extent_t const n = q.shape().seq, d = q.shape().feature, width = v.shape().feature;
        result r{oracle::array(out.shape()), oracle::read(m0.in()), oracle::read(s0.in())};
        for (extent_t b = 0; b < 2; ++b)
            for (extent_t h = 0; h < 2; ++h) {
                oracle::array seen = r.m; // the map that gradients are taken at
                for (extent_t t = 0; t < n; ++t) {
                    if (chunk == 0 || t % chunk == 0) { seen = r.m; }
                    double const forget = alpha(0, alpha.shape().head == 1 ? 0 : h, t, 0);
                    for (extent_t e = 0; e < width; ++e) {
                        double wrong = v(b, h, t, e);
                        for (extent_t c = 0; c < d; ++c) { wrong -= seen(b, h, c, e) * k(b, h, t, c); }
                        for (extent_t c = 0; c < d; ++c) {
                            r.s(b, h, c, e) = eta(b, h, t, 0) * r.s(b, h, c, e) + 2 * theta(b, h, t, 0) * k(b, h, t, c) * wrong;
                            r.m(b, h, c, e) = (1 - forget) * r.m(b, h, c, e) + r.s(b, h, c, e);
                            r.out(b, h, t, e) += scale * q(b, h, t, c) * r.m(b, h, c, e);
                        }
                    }
                }
            }
        return r;
    }
    double loss() const {
        result const r = exact();
        return product(r.out, dout) + product(r.m, dm1) + product(r.s, ds1);
    }
};

} // namespace

TEST_CASE("Memories in chunks are the recurrence token by token, in both rules", "[recurrent]") {
    HEED_SEEDED;
    random_source random(101);
    for (extent_t const n : {1, 64, 150}) {
        for (extent_t const chunk : {0, 1, 16, 100}) {
            memories t(n, 7, 9, 2, random);
            t.chunk = chunk;
            t.run(3);
            memories::result const r = t.exact();
            CAPTURE(n, chunk);
            CHECK((far<double>(t.out.in(), r.out) < 1e-12 && far<double>(t.m1.in(), r.m) < 1e-12 && far<double>(t.s1.in(), r.s) < 1e-12));
            CHECK((t.out.intact() && t.m1.intact()));
        }
    }
}

TEST_CASE("Memories: gradients are those of differences, whatever the threads", "[recurrent]") {
    HEED_SEEDED;
    random_source random(102);
    for (extent_t const chunk : {0, 16}) {
        for (extent_t const heads : {1, 2}) {
            memories t(70, 3, 2, heads, random);
            t.chunk = chunk;
            t.run(), t.run_back(3);
            tensor<double> const dk = copied(t.dk), dalpha = copied(t.dalpha);
            t.run_back(1);
            CHECK((same_bits(dk, t.dk) && same_bits(dalpha, t.dalpha)));
            differences const check([&] { return t.loss(); }, "chunks of " + std::to_string(chunk));
            check("dq", t.q, t.dq, 61), check("dk", t.k, t.dk, 37), check("dv", t.v, t.dv, 41), check("dtheta", t.theta, t.dtheta, 19), check("dalpha", t.alpha, t.dalpha, 11);
            check("deta", t.eta, t.deta, 19), check("dm0", t.m0, t.dm0, 5), check("ds0", t.s0, t.ds0, 5);
        }
    }
}

TEST_CASE("Memories: without momentum and forgetting, the delta rule; a cut sequence is the whole; a NaN reaches only what comes after", "[recurrent]") {
    HEED_SEEDED;
    random_source random(103);
    memories t(130, 6, 5, 2, random);
    t.alpha.fill(0), t.eta.fill(0), t.s0.fill(0);
    t.run();
    tensor<double> beta(t.theta.shape()), out(t.out.shape());
    beta.each_at([&](double& x, extent_t b, extent_t h, extent_t n, extent_t) { x = 2 * t.theta(b, h, n, 0); });
    heed::forward(heed::delta_attention(beta.in(), t.scale), t.q.in(), t.k.in(), t.v.in(), out.view(), heed::initial_state{t.m0.in()});
    CHECK(far(t.out, out) < 1e-12);
    memories w(130, 6, 5, 2, random);
    w.run();
    tensor<double> m = copied(w.m0), s = copied(w.s0);
    out.fill(0);
    for (extent_t first = 0; first < 130; first += 47) {
        auto const part = [&](auto x) { return rows_of(x, first, 47); };
        heed::forward(heed::gradient_memory<double>{part(w.theta.in()), part(w.alpha.in()), part(w.eta.in()), 0, w.scale}, part(w.q.in()), part(w.k.in()), part(w.v.in()), part(out.view()),
                      heed::initial_memory<double>{{m.in(), s.in()}}, heed::final_memory<double>{{m.view(), s.view()}});
    }
    CHECK((far(out, w.out) < 1e-12 && far(m, w.m1) < 1e-12 && far(s, w.s1) < 1e-12));
    w.v(0, 0, 100, 2) = NAN;
    w.run();
    bool before = true;
    for (extent_t n = 0; n < 100; ++n) { before = before && std::fabs(w.out(0, 0, n, 2) - out(0, 0, n, 2)) < 1e-12; }
    CHECK(before);
    CHECK((std::isnan(w.out(0, 0, 100, 2)) && std::isfinite(w.out(0, 0, 129, 1)) && std::isfinite(w.out(1, 0, 129, 2))));
    CHECK_THROWS_WITH(heed::forward(heed::gradient_memory<double>{w.theta.in(), w.alpha.in(), w.eta.in(), -1, 1}, w.q.in(), w.k.in(), w.v.in(), w.out.view()), contains("it must be positive"));
}
