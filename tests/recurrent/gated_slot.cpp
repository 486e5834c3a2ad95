// SPDX-License-Identifier: BSD-3-Clause
// Gated slot attention: its equations token by token, steps, cuts, gradients.
#include "differences.hpp"

#include <heed/front/gated_slot.hpp>

using namespace heed_test;

namespace {

struct slots {
    double scale = 0.6;
    tensor<double> q, k, v, s, g, out, dout, dq, dk, dv, ds, dg, k0, v0, k1, v1;
    slots(extent_t n, extent_t d, extent_t m, extent_t width, extent_t decay_heads, random_source& random)
        : q({2, 2, n, d}), k({2, 1, n, d}), v({2, 2, n, width}), s({2, 2, n, m}), g({2, decay_heads, n, m}), out(v.shape()), dout(v.shape()), dq(q.shape()), dk(k.shape()), dv(v.shape()), ds(s.shape()),
          dg(g.shape()), k0({2, 2, d, m}), v0({2, 2, m, width}), k1(k0.shape()), v1(v0.shape()) {
        q.normal(random), k.normal(random), v.normal(random), s.normal(random, 0.5), dout.normal(random), k0.normal(random), v0.normal(random);
        g.each([&](double& x) { x = -random.uniform(0.01, 0.7); });
    }
    auto mechanism() const { return heed::gated_slot_attention(s.in(), g.in(), scale); }
    heed::slot_state<double const> start() const { return {k0.in(), v0.in()}; }
    void run() { heed::forward(mechanism(), q.in(), k.in(), v.in(), out.view(), heed::initial_slots<double>{start()}, heed::final_slots<double>{{k1.view(), v1.view()}}); }
    void run_back(int threads) {
        run();
        heed::backward(mechanism(), q.in(), k.in(), v.in(), out.in(), heed::nothing_saved{}, dout.in(), dq.view(), dk.view(), dv.view(), heed::initial_slots<double>{start()}, heed::slots_gradient{ds.view()},
                       heed::log_decay_gradient{dg.view()}, heed::cpu{thread_team{threads}});
    }
    oracle::array exact() const {
        extent_t const n = q.shape().seq, d = q.shape().feature, m = s.shape().feature, width = v.shape().feature;
        oracle::array o(out.shape()), K = oracle::read(k0.in()), V = oracle::read(v0.in());
        for (extent_t b = 0; b < 2; ++b)
            for (extent_t h = 0; h < 2; ++h)
                for (extent_t t = 0; t < n; ++t) {
                    std::vector<double> p(static_cast<std::size_t>(m));
                    double sum = 0;
                    for (extent_t j = 0; j < m; ++j) {
                        double const a = std::exp(g(b, g.shape().head == 1 ? 0 : h, t, j));
                        double& x = p[static_cast<std::size_t>(j)];
                        for (extent_t c = 0; c < d; ++c) {
                            K(b, h, c, j) = a * K(b, h, c, j) + k(b, 0, t, c) * s(b, h, t, j);
                            x += scale * q(b, h, t, c) * K(b, h, c, j);
                        }
                        for (extent_t e = 0; e < width; ++e) { V(b, h, j, e) = a * V(b, h, j, e) + s(b, h, t, j) * v(b, h, t, e); }
                        sum += x = std::exp(x);
                    }
                    for (extent_t j = 0; j < m; ++j)
                        for (extent_t e = 0; e < width; ++e) { o(b, h, t, e) += p[static_cast<std::size_t>(j)] / sum * V(b, h, j, e); }
                }
        return o;
    }
    double loss() const { return product(exact(), dout); }
};

} // namespace

TEST_CASE("Gated slots: chunks and steps are the equations; a cut sequence is the whole", "[recurrent]") {
    HEED_SEEDED;
    random_source random(81);
    for (extent_t const n : {1, 70, 150}) {
        slots t(n, 6, 5, 9, 2, random);
        t.run();
        oracle::array const exact = t.exact();
        CHECK(far<double>(t.out.in(), exact) < 1e-12);
        tensor<double> k = copied(t.k0), v = copied(t.v0);
        t.out.fill(0);
        heed::step(t.mechanism(), t.q.in(), t.k.in(), t.v.in(), heed::final_slots<double>{{k.view(), v.view()}}, t.out.view());
        CHECK(far<double>(t.out.in(), exact) < 1e-12);
        CHECK((far(k, t.k1) < 1e-12 && far(v, t.v1) < 1e-12));
        if (n < 2) { continue; }
        k.copy(t.k0.in()), v.copy(t.v0.in()), t.out.fill(0);
        auto const piece = [&](extent_t first, extent_t count) {
            auto const part = [&](auto x) { return rows_of(x, first, count); };
            heed::forward(heed::gated_slot_attention(part(t.s.in()), part(t.g.in()), t.scale), part(t.q.in()), part(t.k.in()), part(t.v.in()), part(t.out.view()), heed::initial_slots<double>{{k.in(), v.in()}},
                          heed::final_slots<double>{{k.view(), v.view()}});
        };
        piece(0, 33), piece(33, n - 33);
        CHECK(far<double>(t.out.in(), exact) < 1e-12);
    }
}

TEST_CASE("Gated slots: one slot does not ask the query; resets forget", "[recurrent]") {
    random_source random(82);
    slots t(90, 4, 1, 3, 1, random);
    t.run();
    oracle::array const out = oracle::read(t.out.in());
    t.q.each([](double& x) { x = -5 * x; });
    t.run();
    CHECK(far<double>(t.out.in(), out) < 1e-13);
    slots r(90, 4, 3, 3, 2, random);
    r.g.each_at([](double& x, extent_t, extent_t, extent_t n, extent_t) { x = n == 70 ? -INFINITY : x; });
    r.run();
    oracle::array const before = oracle::read(r.out.in());
    r.k0.fill(1e6), r.v0.fill(-1e6);
    r.run_back(1);
    double apart = 0;
    bool finite = true;
    for (extent_t n = 70; n < 90; ++n) { apart = std::fmax(apart, std::fabs(r.out(1, 1, n, 2) - before(1, 1, n, 2))); }
    r.dg.each([&](double& x) { finite = finite && std::isfinite(x); });
    CHECK(apart < 1e-9);
    CHECK(finite);
}

TEST_CASE("Gated slots: gradients are those of differences, whatever the threads; decays shared by heads", "[recurrent]") {
    HEED_SEEDED;
    random_source random(83);
    for (extent_t const decay_heads : {1, 2}) {
        slots t(70, 3, 4, 2, decay_heads, random);
        t.run_back(3);
        tensor<double> const dq = copied(t.dq), dg = copied(t.dg);
        t.run_back(1);
        CHECK((same_bits(dq, t.dq) && same_bits(dg, t.dg)));
        differences const check([&] { return t.loss(); }, decay_heads == 1 ? "shared decays" : "decays of a head");
        check("dq", t.q, t.dq, 31), check("dk", t.k, t.dk, 29), check("dv", t.v, t.dv, 23), check("ds", t.s, t.ds, 41), check("dg", t.g, t.dg, 37);
    }
    slots t(5, 3, 4, 2, 2, random), other(6, 3, 4, 2, 2, random);
    CHECK_THROWS_WITH(heed::forward(other.mechanism(), t.q.in(), t.k.in(), t.v.in(), t.out.view()), contains("slots.seq must equal q.seq"));
}
