// SPDX-License-Identifier: BSD-3-Clause
// The engine that walks arcs of rings against the one that walks tiles: the same rule, handed over without saying that it is rings.
#include "geometry.hpp"

#include <contract/poison.hpp>
#include <gradient/problem.hpp>
#include <gradient/problem.hpp>
#include <support/team.hpp>

#include <heed/mechanism/spherical.hpp>

#include <vector>

using namespace heed_test;

namespace {

struct tiles_of_sphere {
    heed::sphere_neighbourhood p;
    bool keep(heed::place const& at, extent_t i, extent_t j) const { return p.keep(at, i, j); }
    heed::range hull(heed::place const& at, heed::range rows) const { return p.hull(at, rows); }
    heed::tile classify(heed::place const& at, heed::range rows, heed::range cols) const { return p.classify(at, rows, cols); }
    void pack(heed::place const& at, heed::range rows, heed::range cols, std::uint64_t* words) const { p.pack(at, rows, cols, words); }
};

// A chain with data of every form, some keys absent, some pairs masked; and a normalizer.
template <class T, class N>
void try_engines(N const& normalizer, double units_allowed, int count, std::uint64_t stream) {
    random_source random(stream);
    for (int trial = 0; trial < count; ++trial) {
        heed::sphere_grid const q = any_grid(random, 12, 40), k(any_rule(random), random.integer(2, 12), random.chance(0.3) ? q.longitudes() : random.integer(1, 40));
        heed::ring_neighbourhood const near(q, k, random.uniform(3.3 / 1.001 * (trial % 3 == 0 ? 1 : 0.5), 3.3));
        heed::sphere_neighbourhood const rings{near.bands()};
        sizes const n{random.integer(1, 2), 2, random.integer(1, 2), q.points(), k.points(), random.integer(0, 40), random.integer(1, 40)};
        gradient_problem<T> p(n, random);
        tensor<T> out(n.out()), dq(n.q()), dk(n.k()), dv(n.v()), dw(heed::shape{1, 1, n.keys, 1}), other_dw(dw.shape());
        tensor<T> weights(heed::shape{1, 1, n.keys, 1}), bias(heed::shape{1, 1, n.queries, n.keys});
        weights.each([&](T& x) { x = random.chance(0.1) ? T(0) : static_cast<T>(random.uniform(0.2, 3)); });
        bias.each([&](T& x) { x = random.chance(0.05) ? -heed::math::inf<T>() : static_cast<T>(random.uniform(-1, 1)); });
        auto const chain = heed::dot{} | heed::inv_sqrt_width{} | heed::weighted_keys{weights.in()} | heed::bias{bias.in()} | heed::softcap{T(4)};
        heed::attention const by_rings{chain, rings, normalizer};
        heed::attention const by_tiles{chain, tiles_of_sphere{rings}, normalizer};
        REQUIRE(heed::plan<T>(by_rings, n.q(), n.k(), n.v()).engine() == "cpu.rings.forward");
        REQUIRE(heed::plan<T>(by_tiles, n.q(), n.k(), n.v()).engine() == "cpu.pairwise.forward");
        auto const go = [&](auto const& m, tensor<T>& o, tensor<T>& to_q, tensor<T>& to_k, tensor<T>& to_v, auto const&... options) {
            if constexpr (N::kept == 0) {
                heed::forward(m, p.q.in(), p.k.in(), p.v.in(), o.view());
                heed::backward(m, p.q.in(), p.k.in(), p.v.in(), o.in(), heed::nothing_saved{}, p.dout.in(), to_q.view(), to_k.view(), to_v.view(), options...);
            } else {
                heed::forward(m, p.q.in(), p.k.in(), p.v.in(), o.view(), heed::save{p.lse.view()});
                heed::backward(m, p.q.in(), p.k.in(), p.v.in(), o.in(), heed::save{p.lse.view()}, p.dout.in(), to_q.view(), to_k.view(), to_v.view(), options...);
            }
        };
        go(by_rings, p.out, p.dq, p.dk, p.dv);
        go(by_tiles, out, dq, dk, dv, heed::weighted_keys_gradient{other_dw.view()});
        INFO(n << " rings " << q.rings() << " x " << q.longitudes() << " and " << k.rings() << " x " << k.longitudes());
        auto const close = [&](char const* name, tensor<T> const& a, tensor<T> const& b, double units) {
            auto const found = compare_close<T>(a.in(), b.in(), units * eps<T>);
            INFO(name << " " << found.text);
            REQUIRE(found.good());
        };
        close("out", p.out, out, units_allowed);
        close("dq", p.dq, dq, 20 * units_allowed);
        close("dk", p.dk, dk, 20 * units_allowed);
        close("dv", p.dv, dv, 20 * units_allowed);
        if (trial % 8 == 0) { // gradients of data
            go(by_rings, p.out, p.dq, p.dk, p.dv, heed::weighted_keys_gradient{dw.view()});
            close("dw", dw, other_dw, 60 * units_allowed);
            close("dk", p.dk, dk, 20 * units_allowed);
        }
        REQUIRE(p.intact());
    }
}

} // namespace

TEST_CASE("rings: arcs and tiles agree, any two grids", "[sphere]") {
    HEED_SEEDED;
    try_engines<float>(heed::softmax{}, 60, 25, 731);
    try_engines<double>(heed::sigmoid{}, 600, 15, 732);
}

TEST_CASE("rings: what is not finite reaches exactly the rows that see it", "[sphere]") {
    HEED_SEEDED;
    heed::sphere_grid const g(heed::latitudes::equiangular, 11, 24);
    heed::ring_neighbourhood const near(g, g, 0.5);
    heed::sphere_neighbourhood const rings{near.bands()};
    poison_one(heed::attention{heed::dot{} | heed::inv_sqrt_width{}, rings, heed::softmax{}}, [&](extent_t i, extent_t j) { return rings.keep({}, i, j); }, {1, 2, 1, g.points(), g.points(), 9, 5}, 733);
}

TEST_CASE("rings: a sequence that ends inside the grid, against rows one by one", "[sphere]") {
    HEED_SEEDED;
    random_source random(734);
    heed::sphere_grid const g(heed::latitudes::equiangular, 6, 10);
    heed::ring_neighbourhood const near(g, g, 0.9);
    heed::sphere_neighbourhood const rings{near.bands()};
    std::int32_t const starts[] = {0, 60, 97, 97, 98};
    heed::ragged_offsets const offsets{std::span<std::int32_t const>(starts)};
    tensor<double> q(heed::shape{1, 1, 98, 3}), k(heed::shape{1, 1, 98, 3}), v(heed::shape{1, 1, 98, 2}), out(heed::shape{1, 1, 98, 2}), other(heed::shape{1, 1, 98, 2});
    for (auto* x : {&q, &k, &v}) { x->normal(random); }
    auto const run = [&](auto const& pattern, tensor<double>& to) {
        heed::forward(heed::attention{heed::dot{}, pattern, heed::softmax{}}, heed::ragged(q.in(), offsets), heed::ragged(k.in(), offsets), heed::ragged(v.in(), offsets), heed::ragged(to.view(), offsets));
    };
    run(rings, out);
    run(tiles_of_sphere{rings}, other);
    auto const found = compare_close<double>(out.in(), other.in(), 1e-13);
    INFO(found.text);
    CHECK(found.good());
}

TEST_CASE("rings: gradients' bits do not depend on threads, on strides or on who else is wanted", "[sphere]") {
    HEED_SEEDED;
    random_source random(736);
    heed::sphere_grid const q(heed::latitudes::equiangular, 37, 36), k(heed::latitudes::equiangular, 37, 72);
    heed::ring_neighbourhood const near(q, k, 0.2);
    heed::attention const m{heed::dot{} | heed::inv_sqrt_width{}, heed::sphere_neighbourhood{near.bands()}, heed::softmax{}};
    gradient_problem<float> p({1, 2, 1, q.points(), k.points(), 9, 12}, random);
    p.back(m);
    thread_team three{3};
    tensor<float> dq(p.n.q()), dk(p.n.k(), heed::strides{k.points() * 9, 0, 1, k.points()}), dv(p.n.v());
    heed::backward(m, p.q.in(), p.k.in(), p.v.in(), p.out.in(), heed::save{p.lse.view()}, p.dout.in(), dq.view(), dk.view(), dv.view(), heed::saved_gradient{p.dlse.in()}, heed::cpu{three});
    CHECK(same_bits(dq, p.dq));
    CHECK(same_bits(dv, p.dv));
    CHECK(compare_close<float>(dk.in(), p.dk.in(), 1e-6).good()); // the leading factor is applied to other sums
    dk.fill(3);
    heed::backward(m, p.q.in(), p.k.in(), p.v.in(), p.out.in(), heed::save{p.lse.view()}, p.dout.in(), heed::tensor_view<float>{}, p.dk.view(), heed::tensor_view<float>{}, heed::saved_gradient{p.dlse.in()});
    tensor<float> again(p.n.k());
    heed::backward(m, p.q.in(), p.k.in(), p.v.in(), p.out.in(), heed::save{p.lse.view()}, p.dout.in(), dq.view(), again.view(), dv.view(), heed::saved_gradient{p.dlse.in()});
    CHECK(same_bits(again, p.dk));
}

TEST_CASE("rings: bits do not depend on threads, element types are rounded once", "[sphere]") {
    HEED_SEEDED;
    random_source random(735);
    heed::sphere_grid const g(heed::latitudes::equiangular, 19, 70);
    heed::ring_neighbourhood const near(g, g, 0.4);
    heed::attention const m{heed::dot{} | heed::inv_sqrt_width{}, heed::sphere_neighbourhood{near.bands()}, heed::softmax{}};
    problem<float> p({1, 2, 2, g.points(), g.points(), 20, 12}, random);
    tensor<heed::bf16> q(p.n.q()), k(p.n.k()), v(p.n.v()), out(p.n.out());
    auto const round = [](tensor<heed::bf16>& to, tensor<float>& of) {
        to.each_at([&](heed::bf16& x, extent_t b, extent_t h, extent_t n, extent_t d) { x = heed::bf16(of(b, h, n, d)), of(b, h, n, d) = static_cast<float>(x); });
    };
    round(q, p.q), round(k, p.k), round(v, p.v);
    p.run(m);
    auto other = copied(p);
    thread_team three{3};
    other.run(m, heed::cpu{three});
    CHECK(same_bits(p.out, other.out));
    heed::forward(m, q.in(), k.in(), v.in(), out.view());
    bool same = true;
    out.each_at([&](heed::bf16& x, extent_t b, extent_t h, extent_t n, extent_t d) { same = same && x.bits == heed::bf16(p.out(b, h, n, d)).bits; });
    CHECK(same);
}
