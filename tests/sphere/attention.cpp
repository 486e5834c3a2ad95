// SPDX-License-Identifier: BSD-3-Clause
// Attention on the sphere: against the oracle forward and backward, and the laws of the sphere.
#include "geometry.hpp"

#include <gradient/problem.hpp>
#include <support/team.hpp>

#include <heed/mechanism/spherical.hpp>

#include <vector>

using namespace heed_test;

namespace {

template <class T>
struct sphere_call {
    heed::sphere_grid q, k;
    heed::ring_neighbourhood near;
    tensor<T> weights;
    double reach;

    sphere_call(heed::sphere_grid const& of_q, heed::sphere_grid const& of_k, double cutoff) : q(of_q), k(of_k), near(q, k, cutoff), weights(heed::shape{1, 1, k.points(), 1}), reach(1.001 * cutoff) {
        weights.each_at([&](T& x, extent_t, extent_t, extent_t j, extent_t) { x = static_cast<T>(k.point_weight(j / k.longitudes())); });
    }
    auto mechanism() const { return heed::spherical_neighbourhood_attention(weights.in(), near.bands()); }
    sizes call_sizes(random_source& random) const {
        sizes n;
        n.batch = random.integer(1, 2);
        n.kv_heads = random.integer(1, 2);
        n.heads = n.kv_heads * random.integer(1, 2);
        n.queries = q.points();
        n.keys = k.points();
        n.width = random.integer(0, 20);
        n.value_width = random.integer(1, 20);
        return n;
    }
    oracle::softmax_case exact(problem<T> const& p) const {
        auto c = p.exact();
        c.keep = near_points(p.n.pairs(), q, k, reach);
        c.bias = oracle::array({1, 1, 1, k.points()});
        for (extent_t j = 0; j < k.points(); ++j) { c.bias(0, 0, 0, j) = std::log(static_cast<double>(weights(0, 0, j, 0))); }
        return c;
    }
};

template <class T>
void try_spheres(int count, std::uint64_t stream) {
    random_source random(stream);
    for (int trial = 0; trial < count; ++trial) {
        heed::sphere_grid const q = any_grid(random, 9, 30), k(any_rule(random), random.integer(2, 9), random.chance(0.5) ? q.longitudes() : random.integer(1, 30));
        sphere_call<T> const call(q, k, random.uniform(3.3 / 1.001 * (trial % 3 == 0 ? 1 : 0.5), 3.3)); // wide enough for any two grids
        gradient_problem<T> p(call.call_sizes(random), random);
        p.back(call.mechanism());
        auto const c = call.exact(p);
        auto const ahead = p.problem<T>::against(c, bound_of<T>(call.mechanism()));
        INFO(p.n << " rings " << q.rings() << " and " << k.rings() << " " << ahead.text);
        REQUIRE(ahead.good());
        auto const back = against(p, c);
        INFO(back.text);
        REQUIRE(back.good());
    }
}

} // namespace

TEST_CASE("sphere: random grids against the oracle", "[sphere]") {
    HEED_SEEDED;
    try_spheres<float>(25, 711);
    try_spheres<double>(8, 712);
}

TEST_CASE("sphere: a fine grid and a small cut-off", "[sphere]") {
    HEED_SEEDED;
    random_source random(713);
    heed::sphere_grid const g(heed::latitudes::equiangular, 19, 36);
    sphere_call<float> const call(g, g, 0.4);
    gradient_problem<float> p({1, 2, 1, g.points(), g.points(), 16, 12}, random);
    p.back(call.mechanism());
    auto const c = call.exact(p);
    auto const ahead = p.problem<float>::against(c, bound_of<float>(call.mechanism()));
    auto const back = against(p, c);
    INFO(ahead.text << back.text);
    CHECK(ahead.good());
    CHECK(back.good());
}

TEST_CASE("sphere: equal scores give the spherical mean, a constant field stays", "[sphere]") {
    heed::sphere_grid const g(heed::latitudes::equiangular, 3, 4);
    sphere_call<double> const call(g, g, 4);
    random_source random(714);
    problem<double> p({1, 1, 1, g.points(), g.points(), 5, 2}, random);
    p.k.fill(0.5);
    p.v.each_at([&](double& x, extent_t, extent_t, extent_t j, extent_t e) {
        double const z = std::cos(g.colatitudes()[static_cast<std::size_t>(j / 4)]);
        x = e == 0 ? z * z : 7.25;
    });
    p.run(call.mechanism());
    for (extent_t i = 0; i < g.points(); ++i) {
        CHECK(std::abs(p.out(0, 0, i, 0) - 1.0 / 3) < 1e-14); // 2/3 without weights
        CHECK(std::abs(p.out(0, 0, i, 1) - 7.25) < 1e-14);
    }
}

TEST_CASE("sphere: turning the fields turns the result, multiplying the weights changes nothing", "[sphere]") {
    HEED_SEEDED;
    random_source random(715);
    heed::sphere_grid const q(heed::latitudes::legendre_gauss, 6, 8), k(heed::latitudes::equiangular, 9, 16);
    sphere_call<double> call(q, k, 0.9);
    problem<double> p({1, 2, 1, q.points(), k.points(), 6, 3}, random);
    p.run(call.mechanism());
    auto turned = copied(p);
    extent_t const step = 3; // of the queries' longitudes, 6 of the keys'
    auto const from = [](heed::sphere_grid const& g, extent_t i, extent_t by) { return i / g.longitudes() * g.longitudes() + (i + by) % g.longitudes(); };
    turned.q.each_at([&](double& x, extent_t b, extent_t h, extent_t i, extent_t e) { x = p.q(b, h, from(q, i, step), e); });
    turned.k.each_at([&](double& x, extent_t b, extent_t h, extent_t j, extent_t e) { x = p.k(b, h, from(k, j, 2 * step), e); });
    turned.v.each_at([&](double& x, extent_t b, extent_t h, extent_t j, extent_t e) { x = p.v(b, h, from(k, j, 2 * step), e); });
    call.weights.each([](double& x) { x *= 3; });
    turned.run(call.mechanism());
    double worst = 0;
    turned.out.each_at([&](double& x, extent_t b, extent_t h, extent_t i, extent_t e) { worst = std::fmax(worst, std::abs(x - p.out(b, h, from(q, i, step), e))); });
    CHECK(worst < 1e-13);
}

TEST_CASE("sphere: a tiny cut-off sees the point alone; any number of threads gives the same bits", "[sphere]") {
    HEED_SEEDED;
    random_source random(716);
    heed::sphere_grid const g(heed::latitudes::legendre_gauss, 7, 25);
    problem<float> p({2, 2, 2, g.points(), g.points(), 9, 5}, random);
    sphere_call<float> const alone(g, g, 0.0);
    p.run(alone.mechanism());
    CHECK(same_bits<float>(p.out.in(), p.v.in()));
    sphere_call<float> const near(g, g, 0.8);
    p.run(near.mechanism());
    auto other = copied(p);
    thread_team three{3};
    other.run(near.mechanism(), heed::cpu{three});
    CHECK(same_bits(p.out, other.out));
}

TEST_CASE("sphere: the numbers of points are checked at the door", "[sphere]") {
    random_source random(717);
    heed::sphere_grid const g(heed::latitudes::equiangular, 5, 8);
    sphere_call<float> const call(g, g, 1);
    problem<float> p({1, 1, 1, g.points() + 1, g.points(), 4, 4}, random);
    CHECK_THROWS_WITH(p.run(call.mechanism()), heed_test::contains("points of the sphere grids"));
}
