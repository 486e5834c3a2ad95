// SPDX-License-Identifier: BSD-3-Clause
// What holds whatever the numbers: cuts, prefixes, threads, special decays and betas, long sequences.
#include "trial.hpp"

#include <heed/front/recurrent_backward.hpp>
#include <heed/mechanism/delta_rule.hpp>
#include <heed/mechanism/gated_linear.hpp>
#include <heed/mechanism/linear.hpp>

#include <support/allocation_counter.hpp>

using namespace heed_test;

namespace {
template <class T>
heed::tensor_view<T> part(heed::tensor_view<T> x, extent_t first, extent_t count) {
    return {x.row(0, 0, first), {x.extent(0), x.extent(1), count, x.extent(3)}, x.strides()};
}
} // namespace

TEST_CASE("A sequence cut in two, the state passed on in place, is the whole", "[recurrent]") {
    HEED_SEEDED;
    random_source random(21);
    trial<double> t(kind::kimi_delta, {2, 2, 2, 2, 2, 150, 150, 9, 10}, random);
    run_forward(t);
    for (extent_t const cut : {1, 63, 64, 100, 149}) {
        tensor<double> out(t.out.shape()), s(t.s0.shape());
        s.copy(t.s0.in());
        auto const piece = [&](extent_t first, extent_t count) {
            auto const m = heed::kimi_delta_attention(part(t.log_decay.in(), first, count), part(t.beta.in(), first, count), t.scale);
            heed::forward(m, part(t.q.in(), first, count), part(t.key.in(), first, count), part(t.v.in(), first, count), part(out.view(), first, count), heed::initial_state{s.in()}, heed::final_state{s.view()});
        };
        piece(0, cut), piece(cut, 150 - cut);
        CAPTURE(cut);
        CHECK(far(out, t.out) < 1e-13);
        CHECK(far(s, t.s1) < 1e-13);
    }
}

TEST_CASE("Nothing depends on how many threads there are, nor on what comes later", "[recurrent]") {
    HEED_SEEDED;
    random_source random(22);
    for (kind const k : along) {
        trial<float> t(k, {1, 2, 2, 2, 2, 140, 140, 24, 150}, random);
        run_backward(t);
        trial<float> const first = [&] {
            trial<float> c(k, t.n, random);
            c.out.copy(t.out.in()), c.s1.copy(t.s1.in()), c.dq.copy(t.dq.in()), c.dk.copy(t.dk.in()), c.dv.copy(t.dv.in()), c.dlog.copy(t.dlog.in()), c.dbeta.copy(t.dbeta.in());
            return c;
        }();
        CAPTURE(name_of(k));
        t.threads = 7;
        t.out.fill(0), t.dq.fill(0);
        run_backward(t);
        CHECK((same_bits(t.out, first.out) && same_bits(t.s1, first.s1) && same_bits(t.dq, first.dq) && same_bits(t.dk, first.dk) && same_bits(t.dv, first.dv)));
        CHECK((same_bits(t.dlog, first.dlog) && same_bits(t.dbeta, first.dbeta)));
        t.v(0, 0, 101, 3) = NAN, t.key(0, 0, 105, 2) = INFINITY, t.q(0, 0, 99, 1) = NAN;
        run_forward(t);
        bool prefix = true, seen = false;
        for (extent_t n = 0; n < 101; ++n)
            for (extent_t e = 0; e < 150; ++e) {
                if (n != 99) { prefix = prefix && std::fabs(t.out(0, 0, n, e) - first.out(0, 0, n, e)) <= 1e-4f * (1 + std::fabs(first.out(0, 0, n, e))); }
                seen = seen || (n == 99 && std::isnan(t.out(0, 0, n, e)));
            }
        CHECK(prefix);
        CHECK(seen);
        CHECK(std::isnan(t.out(0, 0, 101, 3)));
        CHECK(std::isfinite(t.out(0, 0, 101, 4)));
    }
}

TEST_CASE("Equal keys and a running sum: the mean of the values so far", "[recurrent]") {
    random_source random(23);
    trial<double> t(kind::normalized, {1, 1, 1, 1, 1, 200, 200, 6, 4}, random);
    t.with_states = false, t.eps = 0;
    t.key.each_at([](double& x, extent_t, extent_t, extent_t, extent_t e) { x = 0.1 * static_cast<double>(e); });
    run_forward(t);
    double mean = 0;
    for (extent_t n = 0; n < 200; ++n) {
        mean += (t.v(0, 0, n, 2) - mean) / static_cast<double>(n + 1);
        CHECK(t.out(0, 0, n, 2) == approx(mean).margin(1e-13));
    }
}

TEST_CASE("Decays of 1 are no decay, a decay of 0 forgets all", "[recurrent]") {
    HEED_SEEDED;
    random_source random(24);
    trial<double> raw(kind::raw, {1, 2, 2, 2, 2, 130, 130, 7, 9}, random), delta(kind::delta, raw.n, random);
    run_forward(raw), run_forward(delta);
    for (kind const k : {kind::retention, kind::head_decay, kind::channel_decay, kind::gated_delta, kind::kimi_delta}) {
        trial<double> const& plain = is_delta(k) ? delta : raw;
        trial<double> t(k, raw.n, random);
        t.q.copy(plain.q.in()), t.key.copy(plain.key.in()), t.v.copy(plain.v.in()), t.s0.copy(plain.s0.in());
        if (is_delta(k)) { t.beta.copy(plain.beta.in()); }
        t.log_decay.fill(0);
        run_forward(t);
        CAPTURE(name_of(k));
        CHECK(far(t.out, plain.out) < 1e-13);
        if (k == kind::retention) { continue; }
        t.log_decay.each_at([](double& x, extent_t, extent_t, extent_t n, extent_t) { x = n == 77 ? -INFINITY : -0.1; });
        t.s0.fill(1e30); // forgotten
        run_forward(t);
        oracle::array const out = oracle::read(t.out.in());
        t.s0.fill(-3);
        t.v.each_at([](double& x, extent_t, extent_t, extent_t n, extent_t) { x = n < 77 ? 5 : x; });
        run_backward(t);
        double apart = 0;
        for (extent_t n = 77; n < 130; ++n)
            for (extent_t e = 0; e < 9; ++e) { apart = std::fmax(apart, std::fabs(out(0, 1, n, e) - t.out(0, 1, n, e))); }
        CHECK(apart < 1e-12);
        bool finite = true;
        t.dlog.each([&](double x) { finite = finite && std::isfinite(x); });
        t.dk.each([&](double x) { finite = finite && std::isfinite(x); });
        CHECK(finite);
    }
}

TEST_CASE("Delta rule: beta 0 keeps the state, orthonormal keys are recalled exactly", "[recurrent]") {
    random_source random(25);
    trial<double> t(kind::delta, {1, 1, 1, 1, 1, 100, 100, 8, 5}, random);
    t.beta.fill(0);
    run_forward(t);
    CHECK(far(t.s1, t.s0) == 0);
    t.beta.fill(1);
    t.key.each_at([](double& x, extent_t, extent_t, extent_t n, extent_t e) { x = n % 8 == e ? 1 : 0; });
    t.q.each_at([](double& x, extent_t, extent_t, extent_t n, extent_t e) { x = (n + 3) % 8 == e ? 1 : 0; });
    run_forward(t);
    for (extent_t n = 8; n < 100; ++n) { // the key of query n was last written 5 tokens ago
        for (extent_t e = 0; e < 5; ++e) { CHECK(t.out(0, 0, n, e) == approx(t.scale * t.v(0, 0, n - 5, e)).margin(1e-13)); }
    }
}

TEST_CASE("64k tokens with any decays: no overflow, no NaN, forward and back", "[recurrent]") {
    random_source random(26);
    for (kind const k : {kind::head_decay, kind::channel_decay, kind::gated_delta, kind::kimi_delta}) {
        for (double const strength : {1e-7, 0.1, 30.0, 1e6}) {
            trial<float> t(k, {1, 1, 1, 1, 1, 65536, 65536, 4, 3}, random);
            t.key.each([&](float& x) { x *= 0.5f; });
            t.log_decay.each([&](float& x) { x = static_cast<float>(-strength * random.uniform(0, 1)); });
            run_backward(t);
            bool finite = true;
            auto const look = [&](float x) { finite = finite && std::isfinite(x); };
            t.out.each(look), t.s1.each(look), t.dq.each(look), t.dk.each(look), t.dv.each(look), t.dlog.each(look);
            CAPTURE(name_of(k), strength);
            CHECK(finite);
        }
    }
}

TEST_CASE("One allocation a call, none in the engine; memory that does not grow with the sequence", "[recurrent]") {
    random_source random(27);
    trial<float> shorter(kind::gated_delta, {1, 2, 2, 2, 2, 100, 100, 16, 16}, random), longer(kind::gated_delta, {1, 2, 2, 2, 2, 2000, 2000, 16, 16}, random);
    auto const bytes = [](trial<float>& t) {
        auto const m = heed::gated_delta_attention(t.log_decay.in(), t.beta.in());
        auto p = heed::plan<float>(m, t.q.shape(), t.key.shape(), t.v.shape());
        allocation_scope scope;
        heed::forward(m, t.q.in(), t.key.in(), t.v.in(), t.out.view());
        CHECK(scope.calls() == 1);
        CHECK(scope.bytes() == p.workspace_bytes());
        return p.workspace_bytes();
    };
    CHECK(bytes(shorter) == bytes(longer));
}

TEST_CASE("Ragged sequences are those sequences alone", "[recurrent]") {
    HEED_SEEDED;
    random_source random(28);
    trial<double> t(kind::channel_decay, {1, 2, 2, 2, 2, 180, 180, 5, 6}, random);
    std::int32_t const starts[] = {0, 70, 70, 180};
    heed::ragged_offsets const offsets{std::span<std::int32_t const>(starts)};
    auto const m = heed::gated_linear(heed::ragged(t.log_decay.in(), offsets), t.scale);
    heed::forward(m, heed::ragged(t.q.in(), offsets), heed::ragged(t.key.in(), offsets), heed::ragged(t.v.in(), offsets), heed::ragged(t.out.view(), offsets));
    for (int b = 0; b < 3; ++b) {
        extent_t const first = starts[b], count = starts[b + 1] - starts[b];
        if (count == 0) { continue; }
        tensor<double> out({1, 2, count, 6});
        heed::forward(heed::gated_linear(part(t.log_decay.in(), first, count), t.scale), part(t.q.in(), first, count), part(t.key.in(), first, count), part(t.v.in(), first, count), out.view());
        bool equal = true;
        out.each_at([&](double x, extent_t, extent_t h, extent_t n, extent_t e) { equal = equal && x == t.out(0, h, first + n, e); });
        CHECK(equal);
    }
}
