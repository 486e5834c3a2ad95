// SPDX-License-Identifier: BSD-3-Clause
// Values gathered by (max, +) and (min, +): against the oracle, and what is exact.
#include "try_pairs.hpp"

#include <support/team.hpp>

using namespace heed_test;

namespace {

constexpr double inf = std::numeric_limits<double>::infinity();
auto const plain_max = heed::attention{heed::max_plus_score{}, heed::full{}, heed::tropical<heed::max_plus>{}, heed::max_plus{}};
auto const hilbert_causal = heed::attention{heed::hilbert{}, heed::causal_bottom_right{}, heed::tropical<heed::max_plus>{}, heed::max_plus{}};
auto const plain_min = heed::attention{heed::min_plus_score{}, heed::causal_bottom_right{}, heed::tropical<heed::min_plus>{}, heed::min_plus{}};

} // namespace

TEST_CASE("contractions: max-plus attention", "[oracle]") {
    HEED_SEEDED;
    try_pairs<float>(25, plain_max, oracle::everything, oracle::greatest_sum, oracle::greatest, 2e-6);
}
TEST_CASE("contractions: min-plus attention, empty rows +inf", "[oracle]") {
    HEED_SEEDED;
    try_pairs<double>(25, plain_min, oracle::causal_bottom_right, oracle::least_sum, oracle::least, 1e-14);
}
TEST_CASE("contractions: tropical attention by Hilbert's metric, empty rows -inf", "[oracle]") {
    HEED_SEEDED;
    try_pairs<float>(25, hilbert_causal, oracle::causal_bottom_right, oracle::hilbert_score, oracle::greatest, 4e-6);
}
TEST_CASE("contractions: tropical attention by the one-sided metric with its exit map, empty rows 0", "[oracle]") {
    HEED_SEEDED;
    auto const m = heed::attention{heed::one_sided_hilbert{}, heed::causal_bottom_right{}, heed::tropical_exit{}, heed::max_plus{}};
    try_pairs<double>(25, m, oracle::causal_bottom_right, oracle::one_sided_score,
                      [](oracle::numbers const& s, oracle::numbers const& v) { return s.empty() ? oracle::number(0) : std::expm1(oracle::greatest(s, v)); }, 1e-12);
}
TEST_CASE("contractions: values by (max, +) under dot products and a bent chain", "[oracle]") {
    HEED_SEEDED;
    auto const m = heed::attention{heed::dot{} | heed::scale{0.25f} | heed::softcap{3.f}, heed::window(40, 3), heed::tropical<heed::max_plus>{}, heed::max_plus{}};
    auto const dot = oracle::summed([](oracle::number q, oracle::number k) { return q * k; });
    try_pairs<float>(15, m, [](heed::shape s) { return oracle::band(s, 40, 3); },
                     [=](extent_t h, auto const& q, auto const& k) { return 3 * std::tanh(dot(h, q, k) / 12); }, oracle::greatest, 4e-6);
}

TEST_CASE("contractions: a small example by hand", "[oracle]") { // q = (1, 3), k = 0, v = (5, 1): s = -2, out = (3, -1)
    float q[] = {1, 3}, k[] = {0, 0}, v[] = {5, 1}, out[2];
    heed::shape const s{1, 1, 1, 2};
    heed::forward(heed::attention{heed::hilbert{}, heed::full{}, heed::tropical<heed::max_plus>{}, heed::max_plus{}}, heed::tensor_view{q, s}, heed::tensor_view{k, s},
                  heed::tensor_view{v, s}, heed::tensor_view{out, s});
    CHECK(out[0] == 3);
    CHECK(out[1] == -1);
}

TEST_CASE("contractions: NaN of q and k reaches its rows, of v its elements, and nothing else", "[contract]") {
    HEED_SEEDED;
    random_source random(11);
    sizes const n{1, 2, 1, 41, 200, 9, 11};
    problem<float> clean(n, random), dirty(n, random);
    dirty.q.copy(clean.q.in()), dirty.k.copy(clean.k.in()), dirty.v.copy(clean.v.in());
    auto const run = [](auto& p, auto const& m) { heed::forward(m, p.q.in(), p.k.in(), p.v.in(), p.out.view()); };
    float const nan = std::numeric_limits<float>::quiet_NaN();
    dirty.q(0, 1, 7, 3) = nan;
    dirty.k(0, 0, 190, 8) = nan; // of 200 keys and 41 queries, query i sees keys up to i + 159
    dirty.v(0, 0, 170, 10) = nan;
    dirty.v(0, 0, 3, 2) = std::numeric_limits<float>::infinity();
    clean.v(0, 0, 3, 2) = std::numeric_limits<float>::infinity();
    run(clean, hilbert_causal);
    run(dirty, hilbert_causal);
    dirty.out.each_at([&](float& x, extent_t, extent_t h, extent_t i, extent_t e) {
        bool const odd = (h == 1 && i == 7) || i + 159 >= 190 || (i + 159 >= 170 && e == 10);
        INFO(h << " " << i << " " << e);
        if (odd) {
            CHECK(x != x);
        } else {
            CHECK(x == clean.out(0, h, i, e));
        }
    });
}

TEST_CASE("contractions: infinite coordinates are compared on their face", "[contract]") {
    float const none = static_cast<float>(-inf);
    float q[] = {none, 1, 3}, k[] = {none, 0, 0, 2, 0, 0}, v[] = {0, 10}, out[1];
    heed::forward(hilbert_causal, heed::tensor_view{q, heed::shape{1, 1, 1, 3}}, heed::tensor_view{k, heed::shape{1, 1, 2, 3}}, heed::tensor_view{v, heed::shape{1, 1, 2, 1}},
                  heed::tensor_view{out, heed::shape{1, 1, 1, 1}});
    CHECK(out[0] == -2); // the other key is infinitely far
}

TEST_CASE("contractions: no features, no keys", "[contract]") {
    problem<float> p({1, 1, 1, 5, 9, 0, 4}, *std::make_unique<random_source>(3));
    heed::forward(heed::attention{heed::hilbert{}, heed::full{}, heed::tropical<heed::max_plus>{}, heed::max_plus{}}, p.q.in(), p.k.in(), p.v.in(), p.out.view());
    for (extent_t e = 0; e < 4; ++e) { // equal scores: the greatest value
        float top = p.v(0, 0, 0, e);
        for (extent_t j = 1; j < 9; ++j) { top = std::max(top, p.v(0, 0, j, e)); }
        CHECK(p.out(0, 0, 4, e) == top);
    }
    problem<float> empty({1, 1, 1, 5, 0, 3, 4}, *std::make_unique<random_source>(3));
    heed::forward(plain_max, empty.q.in(), empty.k.in(), empty.v.in(), empty.out.view());
    empty.out.each([](float& x) { CHECK(x == -static_cast<float>(inf)); });
}

TEST_CASE("contractions: threads change no bit; the scalar engine agrees", "[contract]") {
    HEED_SEEDED;
    random_source random(12);
    problem<float> p({2, 4, 2, 77, 333, 13, 9}, random), other({2, 4, 2, 77, 333, 13, 9}, random);
    other.q.copy(p.q.in()), other.k.copy(p.k.in()), other.v.copy(p.v.in());
    heed::forward(hilbert_causal, p.q.in(), p.k.in(), p.v.in(), p.out.view());
    thread_team const threads{3};
    heed::forward(hilbert_causal, p.q.in(), p.k.in(), p.v.in(), other.out.view(), heed::cpu{threads});
    p.out.each_at([&](float& x, extent_t b, extent_t h, extent_t i, extent_t e) { REQUIRE(std::bit_cast<std::uint32_t>(x) == std::bit_cast<std::uint32_t>(other.out(b, h, i, e))); });
    heed::forward(hilbert_causal, p.q.in(), p.k.in(), p.v.in(), other.out.view(), heed::reference{});
    p.out.each_at([&](float& x, extent_t b, extent_t h, extent_t i, extent_t e) { REQUIRE(x == other.out(b, h, i, e)); }); // max of single roundings: the same
}

TEST_CASE("contractions: laws of tropical attention", "[laws]") {
    HEED_SEEDED;
    random_source random(13);
    sizes const n{1, 2, 2, 37, 141, 7, 5};
    problem<double> p(n, random), moved(n, random);
    auto const m = heed::attention{heed::hilbert{}, heed::full{}, heed::tropical<heed::max_plus>{}, heed::max_plus{}};
    auto const run = [&](problem<double>& x) { heed::forward(m, x.q.in(), x.k.in(), x.v.in(), x.out.view()); };
    run(p);
    // d(q + a, k + b) = d(q, k)
    moved.v.copy(p.v.in());
    moved.q.each_at([&](double& x, extent_t b, extent_t h, extent_t i, extent_t c) { x = p.q(b, h, i, c) + 2.5; });
    moved.k.each_at([&](double& x, extent_t b, extent_t h, extent_t j, extent_t c) { x = p.k(b, h, j, c) - static_cast<double>(j); });
    run(moved);
    moved.out.each_at([&](double& x, extent_t b, extent_t h, extent_t i, extent_t e) { REQUIRE(std::fabs(x - p.out(b, h, i, e)) < 1e-12); });
    // equal rows are at distance 0, so values of 0 give 0 there, and never more
    moved.q.copy(p.k.in().extent(2) >= n.queries ? heed::tensor_view<double const>(p.k.in().data_handle(), p.q.shape(), p.k.in().strides()) : p.q.in());
    moved.k.copy(p.k.in());
    moved.v.fill(0);
    run(moved);
    moved.out.each([](double& x) { REQUIRE(x == 0); });
    // 1-Lipschitz in v, in the largest change; idempotent: every key twice changes no bit
    double const step = 0.01;
    moved.q.copy(p.q.in());
    moved.v.each_at([&](double& x, extent_t b, extent_t h, extent_t j, extent_t e) { x = p.v(b, h, j, e) + step * random.uniform(-1, 1); });
    run(moved);
    moved.out.each_at([&](double& x, extent_t b, extent_t h, extent_t i, extent_t e) { REQUIRE(std::fabs(x - p.out(b, h, i, e)) <= step * (1 + 1e-12)); });
    sizes twice = n;
    twice.keys *= 2;
    problem<double> both(twice, random);
    both.q.copy(p.q.in());
    both.k.each_at([&](double& x, extent_t b, extent_t h, extent_t j, extent_t c) { x = p.k(b, h, j / 2, c); });
    both.v.each_at([&](double& x, extent_t b, extent_t h, extent_t j, extent_t e) { x = p.v(b, h, j / 2, e); });
    run(both);
    both.out.each_at([&](double& x, extent_t b, extent_t h, extent_t i, extent_t e) { REQUIRE(x == p.out(b, h, i, e)); });
}
