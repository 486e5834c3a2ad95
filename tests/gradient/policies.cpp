// SPDX-License-Identifier: BSD-3-Clause
// Gradients of the policies' own data, in the shape of that data, against the oracle; slopes in closed form against dual numbers.
#include "problem.hpp"

#include <oracle/try_score.hpp>

using namespace heed_test;

namespace {

auto const inner = heed::dot{} | heed::inv_sqrt_width{};

void look_at_sum(verdict& found, char const* name, tensor<float> const& got, oracle::array const& exact, double allowed) {
    got.in();
    oracle::array const all(exact.s, 1.0);
    for (extent_t b = 0; b < exact.s.batch; ++b)
        for (extent_t h = 0; h < exact.s.head; ++h)
            for (extent_t i = 0; i < exact.s.seq; ++i)
                for (extent_t j = 0; j < exact.s.feature; ++j) { found.look(name, b, h, i, j, static_cast<double>(got(b, h, i, j)), exact(b, h, i, j), allowed); }
    if (!got.intact()) { found.text = "memory around a gradient was written"; }
}
// allowed error of a sum of derivatives over all pairs
double allowed_for(oracle::softmax_case const& c, oracle::softmax_gradient const& g, double terms) {
    return static_cast<double>(eps<float>) * units_of(c) * g.pair_magnitude * std::fmax(1, std::sqrt(terms));
}
sizes some_sizes(random_source& random) {
    sizes n = random_score_sizes(random);
    n.keys = random.integer(1, 1300);
    return n;
}

} // namespace

TEST_CASE("gradients of a bias, reduced to its broadcast shape", "[gradient]") {
    HEED_SEEDED;
    random_source random(421);
    for (int i = 0; i < 40; ++i) {
        gradient_problem<float> p(some_sizes(random), random);
        tensor<float> b(broadcast(p.n.pairs(), random)), db(b.shape());
        b.normal(random);
        if (i % 3 == 0) {
            b.each([&](float& x) { x = random.chance(0.2) ? -std::numeric_limits<float>::infinity() : x; });
        }
        p.back(heed::attention{inner | heed::bias{b.view()}, heed::causal_bottom_right{}}, heed::bias_gradient{db.view()});
        auto c = p.exact();
        c.keep = oracle::causal_bottom_right(p.n.pairs());
        c.bias = oracle::read(b.in());
        auto const exact = oracle::gradient(c, oracle::read(p.dout.in()), oracle::read(p.dlse.in()));
        verdict found = against(p, c, exact);
        double const terms = static_cast<double>(p.n.pairs().size()) / static_cast<double>(b.shape().size());
        look_at_sum(found, "dbias", db, exact.bias, allowed_for(c, exact, terms));
        INFO(p.n << " bias " << b.shape().batch << " " << b.shape().head << " " << b.shape().seq << " " << b.shape().feature << " " << found.text);
        REQUIRE(found.good());
    }
}

TEST_CASE("gradients of slopes, relative tables, caps and scales in one chain", "[gradient]") {
    HEED_SEEDED;
    random_source random(422);
    for (int i = 0; i < 12; ++i) {
        gradient_problem<float> p(some_sizes(random), random);
        tensor<float> slopes(heed::shape{1, p.n.heads, 1, 1}), table(heed::shape{1, i % 2 == 0 ? p.n.heads : 1, random.integer(1, 90), 1}), dslopes(slopes.shape()), dtable(table.shape());
        slopes.each([&](float& x) { x = static_cast<float>(random.uniform(0, 0.2)); });
        table.normal(random);
        tensor<float> dscale(heed::shape{1, 1, 1, 1}), dcap(heed::shape{1, 1, 1, 1}), dcap_after(heed::shape{1, 1, 1, 1});
        extent_t const left = random.integer(0, table.shape().seq - 1);
        float const scale = static_cast<float>(random.uniform(0.1, 0.4));
        auto const chain = heed::dot{} | heed::scale{scale} | heed::softcap{5.0f} | heed::alibi{slopes.view()} | heed::relative_bias{table.view(), left} | heed::softcap{7.0f};
        p.back(heed::attention{chain, heed::full{}}, heed::alibi_gradient{dslopes.view()}, heed::relative_bias_gradient{dtable.view()}, heed::softcap_gradient{dcap.view()},
               heed::scale_gradient{dscale.view()}, heed::softcap_gradient{dcap_after.view()});
        auto c = p.exact(static_cast<double>(scale));
        c.slopes = oracle::read(slopes.in());
        c.table = oracle::read(table.in());
        c.left = left;
        c.cap_before = 5;
        c.cap_after = 7;
        auto const exact = oracle::gradient(c, oracle::read(p.dout.in()), oracle::read(p.dlse.in()));
        verdict found = against(p, c, exact);
        double const unit = static_cast<double>(eps<float>) * units_of(c);
        look_at_sum(found, "dslopes", dslopes, exact.slopes, unit * exact.slopes_magnitude);
        look_at_sum(found, "dtable", dtable, exact.table, allowed_for(c, exact, static_cast<double>(p.n.pairs().size())));
        found.look("dscale", 0, 0, 0, 0, static_cast<double>(dscale(0, 0, 0, 0)), exact.scale, unit * exact.scale_magnitude);
        found.look("dcap", 0, 0, 0, 0, static_cast<double>(dcap(0, 0, 0, 0)), exact.cap_before, unit * exact.cap_magnitude);
        found.look("dcap after", 0, 0, 0, 0, static_cast<double>(dcap_after(0, 0, 0, 0)), exact.cap_after, unit * exact.cap_magnitude);
        INFO(p.n << " " << found.text);
        REQUIRE(found.good());
    }
}

TEST_CASE("gradients of forget gates", "[gradient]") {
    HEED_SEEDED;
    random_source random(423);
    for (int i = 0; i < 8; ++i) {
        sizes n = some_sizes(random);
        n.queries = n.keys = random.integer(1, 300);
        gradient_problem<float> p(n, random);
        tensor<float> gates(heed::shape{n.batch, n.heads, n.keys, 1}), dgates(gates.shape());
        gates.each_at([&](float& x, extent_t b, extent_t h, extent_t t, extent_t) { x = (t == 0 ? 0.0f : gates(b, h, t - 1, 0)) - static_cast<float>(random.uniform(0, 0.3)); });
        p.back(heed::attention{inner | heed::forgetting{gates.view()}, heed::causal_bottom_right{}}, heed::forgetting_gradient{dgates.view()});
        auto c = p.exact();
        c.gates = oracle::read(gates.in());
        c.keep = oracle::causal_bottom_right(n.pairs());
        auto const exact = oracle::gradient(c, oracle::read(p.dout.in()), oracle::read(p.dlse.in()));
        verdict found = against(p, c, exact);
        look_at_sum(found, "dgates", dgates, exact.gates, allowed_for(c, exact, static_cast<double>(n.keys)));
        INFO(p.n << " " << found.text);
        REQUIRE(found.good());
    }
}

TEST_CASE("gradients of sinks, rows without keys among them", "[gradient]") {
    HEED_SEEDED;
    random_source random(424);
    for (int i = 0; i < 10; ++i) {
        gradient_problem<float> p(some_sizes(random), random);
        tensor<float> sinks(heed::shape{1, p.n.heads, 1, 1}), dsinks(sinks.shape());
        sinks.normal(random);
        p.back(heed::attention{inner, heed::causal_bottom_right{}, heed::softmax_sink{sinks.view()}}, heed::sink_gradient{dsinks.view()});
        auto c = p.exact();
        c.keep = oracle::causal_bottom_right(p.n.pairs());
        c.sinks = oracle::read(sinks.in());
        auto const exact = oracle::gradient(c, oracle::read(p.dout.in()), oracle::read(p.dlse.in()));
        verdict found = against(p, c, exact);
        look_at_sum(found, "dsinks", dsinks, exact.sinks, static_cast<double>(eps<float>) * units_of(c) * static_cast<double>(p.n.queries * p.n.batch) * 10);
        INFO(p.n << " " << found.text);
        REQUIRE(found.good());
    }
}

TEST_CASE("gradients: a user's own score needs no slope", "[gradient]") {
    HEED_SEEDED;
    random_source random(425);
    for (int i = 0; i < 8; ++i) {
        gradient_problem<float> p(some_sizes(random), random);
        p.back(heed::attention{inner | wave{}});
        auto c = p.exact();
        extent_t const shift = p.n.keys - p.n.queries;
        c.bend = [shift](double s, extent_t a, extent_t b) { return s * 0.5 + std::fabs(static_cast<double>(a + shift - b) * static_cast<double>(0.01f) - 1); };
        auto const exact = oracle::gradient(c, oracle::read(p.dout.in()), oracle::read(p.dlse.in()), [](double, extent_t, extent_t) { return 0.5; });
        verdict const found = against(p, c, exact);
        INFO(p.n << " " << found.text);
        REQUIRE(found.good());
    }
}

// Where a score has a slope in closed form, dual numbers agree with it.
TEST_CASE("gradients: closed slopes equal dual numbers", "[gradient]") {
    HEED_SEEDED;
    random_source random(426);
    std::vector<double> const numbers{0.3};
    heed::tensor_view<double const> const one{numbers.data(), {1, 1, 1, 1}};
    struct pair {
        heed::place at{};
        extent_t i = 3, j = 1;
        extent_t distance() const { return i - j; }
        double load(heed::tensor_view<double const>) const { return 0.7; }
        double load(heed::relative_bias<double>::by_distance) const { return -0.2; }
        double load(heed::forgetting<double>::difference) const { return 0.1; }
    } const p;
    auto const agree = [&](auto const& stage, double tolerance) {
        for (int i = 0; i < 50; ++i) {
            double const raw = random.uniform(-8, 8);
            double const dual = stage(heed::dual<double>(raw, 1.0), p).d;
            CHECK(std::fabs(heed::detail::slope_of(stage, raw, p) - dual) <= tolerance);
        }
    };
    agree(heed::softcap{2.0}, 1e-14);
    agree(heed::bias{one}, 0);
    agree(heed::alibi{one}, 0);
    agree(heed::relative_bias{one, 0}, 0);
    agree(heed::forgetting{one}, 0);
    agree(heed::scale{0.25}, 0);
}

TEST_CASE("gradients: more options than stages are refused", "[gradient]") {
    random_source random(427);
    gradient_problem<float> p({1, 1, 1, 3, 4, 5, 6}, random);
    float one = 0, two = 0;
    heed::tensor_view<float> const a{&one, {1, 1, 1, 1}}, b{&two, {1, 1, 1, 1}};
    CHECK_THROWS_AS(p.back(heed::attention{inner | heed::softcap{5.0f}}, heed::softcap_gradient{a}, heed::softcap_gradient{b}), heed::shape_error);
    heed::tensor_view<float> const wrong{&one, {1, 1, 2, 1}, {0, 0, 0, 0}};
    CHECK_THROWS_AS(p.back(heed::attention{inner | heed::softcap{5.0f}}, heed::softcap_gradient{wrong}), heed::shape_error);
}
