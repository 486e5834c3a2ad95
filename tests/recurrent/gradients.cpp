// SPDX-License-Identifier: BSD-3-Clause
// Gradients against central differences of the oracle in double; float against double; sums over what data are broadcast along.
#include "trial.hpp"

using namespace heed_test;

namespace {

// sum(out dout) + sum(last dlast), from the oracle
double loss(trial<double> const& t) {
    recurrent_result const r = token_by_token(t);
    oracle::array const dout = oracle::read(t.dout.in()), ds = oracle::read(t.ds1.in()), dz = oracle::read(t.dz1.in());
    double sum = 0;
    for (std::size_t i = 0; i < dout.x.size(); ++i) { sum += r.out.x[i] * dout.x[i]; }
    for (std::size_t i = 0; i < ds.x.size(); ++i) { sum += r.s.x[i] * ds.x[i]; }
    for (std::size_t i = 0; has_z(t.k) && i < dz.x.size(); ++i) { sum += r.z.x[i] * dz.x[i]; }
    return sum;
}
// Every `stride`-th element of x, its derivative against d.
void differences(trial<double>& t, char const* name, tensor<double>& x, tensor<double> const& d, int stride) {
    double largest = 0;
    tensor<double> seen = tensor<double>(d.shape());
    seen.copy(d.in());
    seen.each([&](double v) { largest = std::fmax(largest, std::fabs(v)); });
    int at = 0;
    x.each_at([&](double& v, extent_t b, extent_t h, extent_t n, extent_t e) {
        if (at++ % stride != 0) { return; }
        double const was = v, step = 1e-5;
        v = was + step;
        double const up = loss(t);
        v = was - step;
        double const down = loss(t);
        v = was;
        INFO(name_of(t.k) << " " << name << "(" << b << ", " << h << ", " << n << ", " << e << ") is " << d(b, h, n, e) << ", differences say " << (up - down) / (2 * step));
        CHECK(std::fabs((up - down) / (2 * step) - d(b, h, n, e)) <= 1e-6 * std::fmax(largest, 1));
    });
}
void check_gradients(kind k, lengths n, random_source& random) {
    trial<double> t(k, n, random);
    t.with_states = random.chance(0.8);
    t.log_decay.each([&](double& x) { x = -random.uniform(0.01, 0.6); });
    run_backward(t);
    int const stride = 1 + static_cast<int>(n.tokens * n.width / 60);
    differences(t, "dq", t.q, t.dq, stride), differences(t, "dk", t.key, t.dk, stride), differences(t, "dv", t.v, t.dv, stride);
    if (t.with_states) { differences(t, "ds0", t.s0, t.ds0, 3); }
    if (has_z(k) && t.with_states) { differences(t, "dz0", t.z0, t.dz0, 1); }
    if (has_decay(k)) { differences(t, "dlog", t.log_decay, t.dlog, decays_channels(k) ? stride : 1); }
    if (has_factor(k)) { differences(t, "dfactor", t.factor, t.dfactor, 1); }
    if (has_beta(k)) { differences(t, "dbeta", t.beta, t.dbeta, stride); }
    CHECK((t.dq.intact() && t.dk.intact() && t.dv.intact() && t.ds0.intact() && t.dz0.intact() && t.dlog.intact() && t.dbeta.intact()));
}

} // namespace

TEST_CASE("Gradients are those of central differences", "[recurrent]") {
    HEED_SEEDED;
    random_source random(11);
    for (kind const k : along) {
        check_gradients(k, {1, 2, 2, 2, 2, 37, 37, 5, 3}, random);
        check_gradients(k, {2, 2, 1, 1, 2, 70, 70, 3, 2}, random); // shared rows, two chunks
    }
    check_gradients(kind::all_keys, {2, 2, 2, 1, 1, 13, 70, 4, 3}, random);
    check_gradients(kind::first_keys, {2, 2, 2, 2, 2, 20, 15, 4, 3}, random);
}

TEST_CASE("Gradients in float are those in double, rounded", "[recurrent]") {
    HEED_SEEDED;
    for (kind const k : along) {
        random_source a(12), b(12);
        lengths const n{1, 2, 2, 2, 2, 300, 300, 33, 40};
        trial<double> exact(k, n, a);
        trial<float> t(k, n, b);
        // the same numbers: those that float holds
        exact.q.each_at([&](double& x, extent_t i, extent_t h, extent_t r, extent_t e) { x = static_cast<double>(t.q(i, h, r, e)); });
        auto const same = [](tensor<double>& to, tensor<float> const& from) { to.each_at([&](double& x, extent_t i, extent_t h, extent_t r, extent_t e) { x = static_cast<double>(from(i, h, r, e)); }); };
        same(exact.key, t.key), same(exact.v, t.v), same(exact.log_decay, t.log_decay), same(exact.beta, t.beta), same(exact.factor, t.factor), same(exact.s0, t.s0), same(exact.z0, t.z0), same(exact.dout, t.dout);
        same(exact.ds1, t.ds1), same(exact.dz1, t.dz1);
        run_backward(exact), run_backward(t);
        CAPTURE(name_of(k));
        auto const close = [](tensor<float> const& x, tensor<double> const& y) { return x.shape().size() == 0 || far<float>(x.in(), oracle::read(y.in())) < 3e-5; };
        CHECK(close(t.dq, exact.dq));
        CHECK(close(t.dk, exact.dk));
        CHECK(close(t.dv, exact.dv));
        CHECK(close(t.ds0, exact.ds0));
        if (has_decay(k)) { CHECK(close(t.dlog, exact.dlog)); }
        if (has_beta(k)) { CHECK(close(t.dbeta, exact.dbeta)); }
        if (has_factor(k)) { CHECK(close(t.dfactor, exact.dfactor)); }
    }
}

TEST_CASE("A NaN in a row reaches the gradients that depend on it, and no other", "[recurrent]") {
    random_source random(13);
    for (kind const k : along) {
        trial<double> t(k, {1, 1, 1, 1, 1, 150, 150, 4, 3}, random);
        t.with_states = false;
        t.ds1.fill(0), t.dz1.fill(0);
        run_backward(t);
        oracle::array const dk = oracle::read(t.dk.in()), dv = oracle::read(t.dv.in());
        t.dout(0, 0, 100, 1) = NAN; // tokens after 100 do not see it
        run_backward(t);
        CAPTURE(name_of(k));
        for (extent_t n = 101; n < 150; ++n) {
            CHECK(t.dk(0, 0, n, 0) == approx(dk(0, 0, n, 0)).margin(1e-12));
            CHECK(t.dv(0, 0, n, 1) == approx(dv(0, 0, n, 1)).margin(1e-12));
        }
        CHECK(std::isnan(t.dk(0, 0, 100, 0)));
        CHECK(std::isnan(t.dv(0, 0, 100, 1)));
    }
}
