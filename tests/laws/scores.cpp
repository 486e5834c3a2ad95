// SPDX-License-Identifier: BSD-3-Clause
// Scores that change nothing, and the slopes of scores. Before the policies, so that they can be read with dual numbers:
#include <heed/kernel/dual.hpp>

#include "law.hpp"

using namespace heed_test;

namespace {

constexpr float inf = std::numeric_limits<float>::infinity();
auto const scaled = heed::dot{} | heed::inv_sqrt_width{};
auto const plain = heed::attention{scaled};

template <class M>
void near_plain(problem<float>& p, M const& m, double added = 0, double apart = 0) {
    problem<float> other = same_inputs(p);
    p.run(m);
    other.run(plain);
    require_close(p.out, other.out, out_bound(m, p, added) + 2 * apart * largest(p.v.in()));
    require_close(p.lse, other.lse, log_bound(m, p, added) + apart);
}

// A pair at a chosen position, without tables.
struct pair_at {
    heed::place at;
    extent_t i, j;
    extent_t distance() const { return i + at.shift() - j; }
};
pair_at draw_pair() {
    heed::place at;
    at.queries = draw(1, 150);
    at.keys = draw(1, 150);
    at.width = draw(1, 40);
    return {at, draw(0, at.queries - 1), draw(0, at.keys - 1)};
}

using dual = heed::dual<double>;

void require_slope(double slope, double above, double below, double step) {
    double const difference = (above - below) / (2 * step);
    RC_LOG() << "slope " << slope << ", central difference " << difference << '\n';
    RC_ASSERT(std::fabs(slope - difference) <= 1e-7 * (1 + std::fabs(difference)));
}
// In the raw score.
template <class S>
void require_slope_in_raw(S const& s, double x, pair_at const& at) {
    double const step = 1e-5;
    dual const y = s(dual(x, 1), at);
    RC_ASSERT(std::fabs(y.v - s(x, at)) <= 1e-13 * (1 + std::fabs(y.v)));
    require_slope(y.d, s(x + step, at), s(x - step, at), step);
}

} // namespace

TEST_CASE("laws: scores that change nothing", "[laws]") {
    law("a constant on a row changes nothing but its log-sum-exp", [] {
        problem<float> p = draw_problem();
        random_source random = draw_source();
        tensor<float> bias(p.n.pairs()), constant(p.lse.shape()), expected(p.lse.shape());
        bias.normal(random);
        constant.normal(random, 3);
        problem<float> other = same_inputs(p);
        auto const m = heed::attention{scaled | heed::bias{bias.in()}};
        double const added = largest(bias.in()) + largest(constant.in());
        p.run(m);
        bias.each_at([&](float& x, extent_t b, extent_t h, extent_t i, extent_t) { x += constant(b, h, i, 0); });
        other.run(m);
        expected.each_at([&](float& x, extent_t b, extent_t h, extent_t i, extent_t) { x = p.lse(b, h, i, 0) + constant(b, h, i, 0); });
        require_close(other.out, p.out, out_bound(m, p, added));
        require_close(other.lse, expected, log_bound(m, p, added));
    });
    law("a large cap is nearly none", [] {
        problem<float> p = draw_problem();
        float const cap = 10000.0f;
        double const top = score_bound(p);
        near_plain(p, heed::attention{scaled | heed::softcap{cap}}, 0, std::pow(top, 3) / (3 * std::pow(static_cast<double>(cap), 2)));
    });
    law("a sink of -infinity is none", [] {
        problem<float> p = draw_problem();
        tensor<float> sinks(heed::shape{1, p.n.heads, 1, 1});
        sinks.fill(-inf);
        problem<float> other = same_inputs(p);
        p.run(heed::attention{scaled, heed::full{}, heed::softmax_sink{sinks.in()}});
        other.run(plain);
        require_same(p, other);
    });
    law("slopes of 0 are none", [] {
        problem<float> p = draw_problem();
        tensor<float> slopes(heed::shape{1, p.n.heads, 1, 1});
        slopes.fill(0);
        near_plain(p, heed::attention{scaled | heed::alibi{slopes.in()}});
    });
}

TEST_CASE("laws: slopes of scores in the raw score", "[laws]") {
    law("softcap", [] {
        random_source random = draw_source();
        auto const at = draw_pair();
        require_slope_in_raw(heed::softcap{random.uniform(0.5, 50)}, random.uniform(-60, 60), at);
    });
    law("a chain of scales and a cap", [] {
        random_source random = draw_source();
        auto const at = draw_pair();
        auto const s = heed::dot{} | heed::scale{random.uniform(-2, 2)} | heed::inv_sqrt_width{} | heed::softcap{random.uniform(0.5, 50)} |
                       heed::scale{random.uniform(-2, 2)};
        require_slope_in_raw(s, random.uniform(-20, 20), at);
    });
    law("alibi", [] {
        random_source random = draw_source();
        auto const at = draw_pair();
        tensor<double> slopes(heed::shape{1, 1, 1, 1});
        slopes.fill(random.uniform(-1, 1));
        require_slope_in_raw(heed::dot{} | heed::alibi{slopes.in()}, random.uniform(-20, 20), at);
        require_slope_in_raw(heed::dot{} | heed::alibi{slopes.in()} | heed::softcap{random.uniform(0.5, 50)}, random.uniform(-20, 20), at);
    });
}

TEST_CASE("laws: slopes of scores in their parameters", "[laws]") {
    law("the cap", [] {
        random_source random = draw_source();
        auto const at = draw_pair();
        double const cap = random.uniform(0.5, 50), x = random.uniform(-60, 60), step = 1e-5;
        require_slope(heed::softcap<dual>{dual(cap, 1)}(dual(x), at).d, heed::softcap{cap + step}(x, at), heed::softcap{cap - step}(x, at), step);
    });
    law("the scale before a cap", [] {
        random_source random = draw_source();
        auto const at = draw_pair();
        double const c = random.uniform(-2, 2), cap = random.uniform(0.5, 50), x = random.uniform(-20, 20), step = 1e-6;
        auto const value = [&](double factor) { return (heed::dot{} | heed::scale{factor} | heed::softcap{cap})(x, at); };
        auto const s = heed::dot{} | heed::scale<dual>{dual(c, 1)} | heed::softcap{cap};
        require_slope(s(dual(x), at).d, value(c + step), value(c - step), step);
    });
    law("the slope of alibi", [] {
        random_source random = draw_source();
        auto const at = draw_pair();
        dual const slope(random.uniform(-1, 1), 1);
        heed::alibi<dual> const s{heed::per_head<dual const>(&slope, 1)};
        auto const value = [&](double m) { return heed::alibi<double>{heed::per_head<double const>(&m, 1)}(1.5, at); };
        require_slope(s(dual(1.5), at).d, value(slope.v + 1e-5), value(slope.v - 1e-5), 1e-5);
    });
}
