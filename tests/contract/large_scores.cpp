// SPDX-License-Identifier: BSD-3-Clause
// Sentence: scores anywhere in +-1e30 leave softmax right, without overflow and without silent zero rows.
// Sentence: a +inf score makes its row NaN, as <heed/policy/normalize/softmax.hpp> states.
#include <support/catch.hpp>
#include <support/problem.hpp>

using namespace heed_test;

namespace {

float const inf = std::numeric_limits<float>::infinity();

// One query of width 1 and value 1: the keys are the scores.
template <class T>
struct scored {
    sizes n;
    tensor<T> q, k, v, out, lse;
    explicit scored(std::vector<T> const& scores, extent_t queries = 1)
        : n{1, 1, 1, queries, static_cast<extent_t>(scores.size()), 1, 2}, q(n.q()), k(n.k()), v(n.v()), out(n.out()), lse(n.lse()) {
        q.fill(1);
        for (extent_t j = 0; j < n.keys; ++j) {
            k(0, 0, j, 0) = scores[static_cast<std::size_t>(j)];
            v(0, 0, j, 0) = static_cast<T>(j + 1);
            v(0, 0, j, 1) = 1;
        }
    }
    template <class M>
    void run(M const& m) {
        heed::forward(m, q.in(), k.in(), v.in(), out.view(), heed::save{lse.view()});
    }
};

template <class T>
void try_magnitudes() {
    auto const m = heed::attention{heed::dot{}};
    for (double size : {1.0, 1e3, 1e10, 1e20, 1e30}) {
        T const s = static_cast<T>(size * 100 < 1e30 ? size * 100 : size);
        INFO(s);
        { // the greatest key takes all
            scored<T> p({-s, s, T(0), -s});
            p.run(m);
            CHECK(p.out(0, 0, 0, 0) == 2);
            CHECK(p.out(0, 0, 0, 1) == 1);
            CHECK(p.lse(0, 0, 0, 0) == approx(s));
        }
        { // ties share, at the top and at the bottom of the range
            scored<T> p({s, -s, s, s});
            p.run(m);
            CHECK(p.out(0, 0, 0, 0) == approx(T(8) / 3));
            scored<T> low({-s, -s});
            low.run(m);
            CHECK(low.out(0, 0, 0, 0) == approx(1.5));
            CHECK(low.out(0, 0, 0, 1) == 1);
            CHECK(low.lse(0, 0, 0, 0) == approx(std::log(2.0) - static_cast<double>(s)));
        }
        { // the greatest comes last, after many tiles of small ones, and first, before them
            std::vector<T> rising(700, -s);
            rising.back() = s;
            scored<T> p(rising, 50);
            p.run(m);
            for (extent_t i = 0; i < 50; ++i) { CHECK(p.out(0, 0, i, 0) == 700); }
            std::vector<T> falling(700, -s);
            falling.front() = s;
            scored<T> f(falling, 50);
            f.run(m);
            for (extent_t i = 0; i < 50; ++i) { CHECK(f.out(0, 0, i, 0) == 1); }
        }
    }
}

} // namespace

TEST_CASE("large scores: float", "[contract]") { try_magnitudes<float>(); }
TEST_CASE("large scores: double", "[contract]") { try_magnitudes<double>(); }

TEST_CASE("large scores: scale, bias, soft cap and sink keep the range", "[contract]") {
    float const s = 1e30f;
    scored<float> p({s, -s, 0});
    p.run(heed::attention{heed::dot{} | heed::inv_sqrt_width{}, heed::causal_bottom_right{}});
    CHECK(p.out(0, 0, 0, 0) == 1);
    std::vector<float> const bias{-s, s, 0};
    p.run(heed::attention{heed::dot{} | heed::bias{heed::tensor_view<float const>{bias.data(), {1, 1, 1, 3}}}});
    CHECK(p.out(0, 0, 0, 0) == approx(2)); // all three are 0
    p.run(heed::attention{heed::dot{} | heed::softcap{2.0f}});
    CHECK(p.out(0, 0, 0, 0) == approx((1 * std::exp(2.0) + 2 * std::exp(-2.0) + 3) / (std::exp(2.0) + std::exp(-2.0) + 1)));
    std::vector<float> const sink{s};
    p.run(heed::attention{heed::dot{}, heed::full{}, heed::softmax_sink{heed::per_head(sink.data(), 1)}});
    CHECK(p.out(0, 0, 0, 0) == approx(0.5));
    std::vector<float> const deep{-s};
    p.run(heed::attention{heed::dot{}, heed::full{}, heed::softmax_sink{heed::per_head(deep.data(), 1)}});
    CHECK(p.out(0, 0, 0, 0) == 1);
}

TEST_CASE("large scores: a mask beside huge scores", "[contract]") {
    HEED_SEEDED;
    random_source random(131);
    problem<float> p({1, 1, 1, 60, 200, 4, 4}, random);
    p.q.normal(random, 1e15);
    p.k.normal(random, 1e14);
    auto c = p.exact();
    c.keep = oracle::causal_bottom_right(p.n.pairs());
    p.run(heed::softmax_attention(heed::causal_bottom_right{}));
    auto const r = oracle::softmax(c);
    for (extent_t i = 0; i < 60; ++i) { // the winner takes all: compare with its value
        extent_t best = 0;
        for (extent_t j = 0; j < 200; ++j) { best = r.weights(0, 0, i, j) > r.weights(0, 0, i, best) ? j : best; }
        CHECK(p.out(0, 0, i, 1) == approx(p.v(0, 0, best, 1)));
    }
}

TEST_CASE("large scores: a +inf score makes its row NaN, and only its row", "[contract]") {
    scored<float> p({0, 1, 2});
    p.run(heed::attention{heed::dot{}});
    CHECK(!std::isnan(p.out(0, 0, 0, 0)));
    tensor<float> b(heed::shape{1, 1, 1, 3});
    b.fill(0);
    b(0, 0, 0, 1) = inf;
    p.run(heed::attention{heed::dot{} | heed::bias{b.view()}});
    CHECK(std::isnan(p.out(0, 0, 0, 0)));
    CHECK(std::isnan(p.lse(0, 0, 0, 0)));
    heed::forward(heed::attention{heed::dot{} | heed::bias{b.view()}}, p.q.in(), p.k.in(), p.v.in(), p.out.view(), heed::reference{});
    CHECK(std::isnan(p.out(0, 0, 0, 0)));
    HEED_SEEDED;
    random_source random(132);
    problem<float> rows({1, 1, 1, 60, 200, 4, 4}, random);
    tensor<float> wide(heed::shape{1, 1, 60, 200});
    wide.fill(0);
    wide(0, 0, 31, 150) = inf;
    rows.run(heed::attention{heed::dot{} | heed::bias{wide.view()}});
    for (extent_t i = 0; i < 60; ++i) { CHECK(std::isnan(rows.out(0, 0, i, 0)) == (i == 31)); }
}
