// SPDX-License-Identifier: BSD-3-Clause
// Heads as experts, and groups with sinks.
#include "slopes.hpp"

#include <gradient/problem.hpp>
#include <support/team.hpp>

#include <heed/front/head_experts.hpp>
#include <heed/mechanism/patterned.hpp>

using namespace heed_test;

namespace {

// Gates {B, S, N, 1}, some of them 0.
void draw_gates(tensor<double>& g, double chance, random_source& random) {
    g.each_at([&](double& x, extent_t, extent_t, extent_t, extent_t) { x = random.chance(chance) ? random.uniform(0.2, 2) : 0; });
}

} // namespace

TEST_CASE("gated heads: attention times gates, gradients of all, nothing computed where the gate is 0", "[sparse][oracle]") {
    HEED_SEEDED;
    random_source random(760);
    for (int count = 0; count < 6; ++count) {
        extent_t const kv = random.integer(1, 2), heads = kv * random.integer(1, 3), keys = random.integer(1, 90);
        sizes const n{random.integer(1, 2), heads, kv, random.integer(1, keys), keys, random.integer(1, 9), random.integer(1, 9)};
        gradient_problem<double> p(n, random);
        extent_t const experts = count % 3 == 2 ? kv : heads; // a gate for several heads
        tensor<double> gates(heed::shape{n.batch, experts, n.queries, 1}), dgates(gates.shape()), want(n.out());
        draw_gates(gates, count % 2 == 0 ? 0.4 : 1, random);
        heed::gated_heads const m{heed::softmax_attention(heed::causal_bottom_right{}), gates.in()};
        auto const saved = heed::forward(m, p.q.in(), p.k.in(), p.v.in(), p.out.view());
        auto c = p.exact();
        c.keep = oracle::relate(n.pairs(), [&](extent_t, extent_t, extent_t i, extent_t j) { return j <= i + n.keys - n.queries; });
        auto const exact = oracle::softmax(c);
        want.each_at([&](double& x, extent_t b, extent_t h, extent_t i, extent_t e) { x = gates(b, h / (heads / experts), i, 0) * exact.out(b, h, i, e); });
        INFO(n << " experts " << experts);
        REQUIRE(largest_difference(p.out, want) < 1e-12);
        heed::backward(m, p.q.in(), p.k.in(), p.v.in(), p.out.in(), saved, p.dout.in(), p.dq.view(), p.dk.view(), p.dv.view(), heed::head_gate_gradient{dgates.view()});
        auto const loss = [&] {
            tensor<double> y(n.out());
            heed::forward(m, p.q.in(), p.k.in(), p.v.in(), y.view());
            return dot(y, p.dout);
        };
        REQUIRE(slope_error(loss, p.q, p.dq, random) < 1e-7);
        REQUIRE(slope_error(loss, p.k, p.dk, random) < 1e-7);
        REQUIRE(slope_error(loss, p.v, p.dv, random) < 1e-7);
        if (count % 2 == 1) { REQUIRE(slope_error(loss, gates, dgates, random) < 1e-7); }
        gates.each_at([&](double& g, extent_t b, extent_t s, extent_t i, extent_t) { REQUIRE((g != 0 || dgates(b, s, i, 0) == 0)); });
        // queries that did not choose a head are never read for it
        tensor<double> again(n.out());
        p.q.each_at([&](double& x, extent_t b, extent_t h, extent_t i, extent_t) { x = gates(b, h / (heads / experts), i, 0) == 0 ? NAN : x; });
        thread_team team{3};
        heed::forward(m, p.q.in(), p.k.in(), p.v.in(), again.view(), heed::cpu{team});
        REQUIRE((same_bits(again, p.out) && p.intact()));
    }
    sizes const n{1, 4, 1, 5, 5, 3, 3};
    problem<double> p(n, random);
    tensor<double> three(heed::shape{1, 3, 5, 1});
    CHECK_THROWS_WITH(heed::forward(heed::gated_heads{heed::softmax_attention(heed::causal_bottom_right{}), three.in()}, p.q.in(), p.k.in(), p.v.in(), p.out.view()), contains("heads are a multiple of the experts"));
}

TEST_CASE("choice of heads: the rules of gates, their gradients, and all heads alike", "[sparse]") {
    HEED_SEEDED;
    random_source random(761);
    extent_t const B = 2, N = 6, E = 5;
    tensor<double> logits(heed::shape{B, 1, N, E}), dgates(heed::shape{B, E, N, 1}), dlogits(logits.shape());
    logits.normal(random), dgates.normal(random);
    for (auto const rule : {heed::gate_rule::raw, heed::gate_rule::renormalised, heed::gate_rule::counted, heed::gate_rule::detached}) {
        for (extent_t const top : {1, 2, 5}) {
            auto const found = heed::choose_heads(logits.in(), top, rule);
            tensor<double> fixed_sum(heed::shape{B, 1, N, 1});
            for (extent_t b = 0; b < B; ++b)
                for (extent_t i = 0; i < N; ++i) {
                    std::vector<double> x, order;
                    for (extent_t e = 0; e < E; ++e) { x.push_back(logits(b, 0, i, e)); }
                    auto const p = softmax_of(x);
                    order = x;
                    std::sort(order.rbegin(), order.rend());
                    double sum = 0;
                    for (std::size_t e = 0; e < x.size(); ++e) { sum += x[e] >= order[static_cast<std::size_t>(top - 1)] ? p[e] : 0; }
                    fixed_sum(b, 0, i, 0) = sum;
                    for (extent_t e = 0; e < E; ++e) {
                        bool const in = x[static_cast<std::size_t>(e)] >= order[static_cast<std::size_t>(top - 1)];
                        double const want = !in ? 0 : p[static_cast<std::size_t>(e)] * (rule == heed::gate_rule::raw ? 1 : (rule == heed::gate_rule::counted ? double(top) : 1) / sum);
                        REQUIRE(found.gates()(b, e, i, 0) == approx(want).margin(1e-14));
                    }
                }
            heed::choose_heads_backward(logits.in(), top, rule, dgates.in(), dlogits.view());
            auto const loss = [&] {
                auto const g = heed::choose_heads(logits.in(), top, rule == heed::gate_rule::detached ? heed::gate_rule::raw : rule);
                double sum = 0;
                for (extent_t b = 0; b < B; ++b)
                    for (extent_t e = 0; e < E; ++e)
                        for (extent_t i = 0; i < N; ++i) { sum += g.gates()(b, e, i, 0) * dgates(b, e, i, 0) / (rule == heed::gate_rule::detached ? fixed_sum(b, 0, i, 0) : 1); }
                return sum;
            };
            REQUIRE(slope_error(loss, logits, dlogits, random) < 1e-7);
        }
    }
    CHECK_THROWS_WITH(heed::choose_heads(logits.in(), 6, heed::gate_rule::raw), contains("a query chooses 6 of 5 heads"));

    tensor<double> shared(heed::shape{B, 1, N, 2}), types(heed::shape{B, 1, N, 2}), dshared(shared.shape()), dtypes(types.shape()), d(heed::shape{B, 7, N, 1});
    shared.normal(random), types.normal(random), d.normal(random);
    heed::moh_router<double> const router{logits.in(), shared.in(), types.in(), 2, 2};
    auto const loss = [&] {
        auto const g = router.gates();
        double sum = 0;
        d.each_at([&](double& x, extent_t b, extent_t h, extent_t i, extent_t) { sum += x * g.gates()(b, h, i, 0); });
        return sum;
    };
    router.backward(d.in(), dlogits.view(), dshared.view(), dtypes.view());
    CHECK(slope_error(loss, logits, dlogits, random) < 1e-7);
    CHECK(slope_error(loss, shared, dshared, random) < 1e-7);
    CHECK(slope_error(loss, types, dtypes, random) < 1e-7);
    logits.fill(0.5), shared.fill(-1), types.fill(2); // all of one weight, all active: plain attention
    for (double const g : heed::moh_router<double>{logits.in(), shared.in(), types.in(), 5, 2}.gates().gate) { CHECK(g == approx(1)); }
    CHECK_THROWS_WITH((heed::moh_router<double>{logits.in(), shared.in(), types.in(), 2, 3}.gates()), contains("there are 3"));
}

TEST_CASE("groups with sinks: the first tokens are seen by all and see all before them", "[sparse]") {
    std::int32_t const size[] = {16, 16}, shift[] = {0, 8};
    for (extent_t const sinks : {0, 4, 20}) {
        auto const m = heed::sink_group_attention(heed::per_head(size, 2), heed::per_head(shift, 2), sinks);
        bool good = true;
        for (extent_t h = 0; h < 2; ++h)
            for (extent_t i = 0; i < 60; ++i)
                for (extent_t j = 0; j < 60; ++j) { good = good && m.pattern.keep({0, h, h, 60, 60, 4}, i, j) == (j <= i && (j < sinks || i < sinks || (i + shift[h]) / 16 == (j + shift[h]) / 16)); }
        CHECK(good);
    }
}
