// SPDX-License-Identifier: BSD-3-Clause
// Tokens picked by experts, and queries taken in another order: what they move, where they put it back, what they refuse.
#include <gradient/problem.hpp>
#include <support/team.hpp>

#include <heed/front/chosen.hpp>
#include <heed/front/pick.hpp>
#include <heed/front/reordered.hpp>
#include <heed/policy/load/rotary.hpp>
#include <heed/policy/pattern/neighbourhood.hpp>
#include <heed/policy/pattern/positions.hpp>

#include <laws/agree.hpp>

using namespace heed_test;

TEST_CASE("picked tokens: the greatest of a row, rising, the earliest of equals", "[sparse]") {
    std::vector<float> const score{3, 1, 3, NAN, 2, 3, -1, 0};
    auto const picked = heed::pick_tokens(heed::tensor_view<float const>(score.data(), {1, 1, 2, 4}), 2);
    REQUIRE(picked.extents() == heed::shape{1, 2, 2, 1});
    CHECK((picked.at()(0, 0, 0, 0) == 0 && picked.at()(0, 0, 1, 0) == 2)); // of two 3s both; NaN never
    CHECK((picked.at()(0, 1, 0, 0) == 0 && picked.at()(0, 1, 1, 0) == 1));
    auto const all = heed::pick_tokens(heed::tensor_view<float const>(score.data(), {1, 1, 2, 4}), 4);
    CHECK(all.at()(0, 0, 3, 0) == 3);
    CHECK_THROWS_WITH(heed::pick_tokens(heed::tensor_view<float const>(score.data(), {1, 1, 2, 4}), 5), contains("picks 5 of 4 tokens"));
    std::vector<std::int32_t> list{1, 0, 2, 2};
    auto const given = [&] { return heed::picked_tokens(heed::tensor_view<std::int32_t const>(list.data(), {1, 2, 2, 1}), 3); };
    CHECK_THROWS_WITH(given(), contains("token 2 stands twice in the list of batch 0, expert 1"));
    list[3] = 3;
    CHECK_THROWS_WITH(given(), contains("token 3 at batch 0, expert 1, place 1; there are 3 tokens"));
    list[3] = 0;
    CHECK(given().at()(0, 1, 0, 0) == 0); // sorted
}

TEST_CASE("picked tokens: gather and scatter are adjoint, and everything picked is attention itself", "[sparse][laws]") {
    HEED_SEEDED;
    random_source random(740);
    extent_t const B = 2, H = 2, E = 3, N = 19, d = 5, w = 7;
    tensor<double> score(heed::shape{B, H, E, N}), x(heed::shape{B, H, N, d}), y(heed::shape{B, H * E, w, d}), gx(y.shape()), sy(x.shape());
    score.normal(random), x.normal(random), y.normal(random);
    auto const picked = heed::pick_tokens(score.in(), w);
    heed::gather_tokens(picked, x.in(), gx.view());
    sy.fill(0);
    heed::scatter_tokens(picked, y.in(), sy.view(), [](auto...) { return 1.0; });
    double ahead = 0, back = 0;
    y.each_at([&](double& v, extent_t b, extent_t h, extent_t n, extent_t c) { ahead += v * gx(b, h, n, c); });
    x.each_at([&](double& v, extent_t b, extent_t h, extent_t n, extent_t c) { back += v * sy(b, h, n, c); });
    CHECK(ahead == approx(back));
    auto const counts = heed::picks_of_tokens(picked, H, N);
    CHECK(std::accumulate(counts.begin(), counts.end(), 0) == static_cast<int>(B * H * E * w));
    CHECK_THROWS_WITH(heed::gather_tokens(picked, tensor<double>(heed::shape{B, 4, N, d}).in(), gx.view()), contains("experts are a multiple of the heads"));

    sizes const n{B, H, H, N, N, d, d};
    problem<double> p(n, random), other = copied(p);
    tensor<double> any(heed::shape{B, H, 1, N});
    any.normal(random);
    auto const all = heed::pick_tokens(any.in(), N);
    heed::positions const in_time{all.at(), all.at()};
    p.run(heed::chosen_attention(heed::any_pattern(in_time), heed::inv_sqrt<double>(d)));
    heed::causal_bottom_right const causal;
    other.run(heed::chosen_attention(heed::any_pattern(causal), heed::inv_sqrt<double>(d)));
    CHECK(same_bits(p.out, other.out));
}

TEST_CASE("positions: classify and pack agree with keep", "[sparse][laws]") {
    law("positions of any order", [] {
        rectangle const r = draw_rectangle();
        random_source random = draw_source();
        tensor<std::int32_t> q(heed::shape{2, 3, r.at.queries, 1}), k(heed::shape{1, 3, r.at.keys, 1});
        bool const rising = random.chance(0.5);
        auto const fill = [&](std::int32_t& x, extent_t, extent_t, extent_t i, extent_t) { x = static_cast<std::int32_t>(rising ? 2 * i : random.integer(-1, 80)); };
        q.each_at(fill), k.each_at(fill);
        agree(heed::positions{q.in(), k.in(), random.chance(0.5)}, r);
    });
}

TEST_CASE("reordered: the same rows whatever the order of the queries, forward and backward", "[sparse]") {
    HEED_SEEDED;
    random_source random(741);
    heed::neighbourhood_map const plain({{9, 5}, {14, 3, 2}}), patches({{9, 5}, {14, 3, 2}}, {2, 4});
    extent_t const N = plain.bands().points();
    gradient_problem<double> p(sizes{2, 4, 2, N, N, 6, 7}, random), other(p.n, random);
    other.q.copy(p.q.in()), other.k.copy(p.k.in()), other.v.copy(p.v.in()), other.dout.copy(p.dout.in());
    heed::neighbourhood const rows{plain.bands()}, tiles{patches.bands()};
    auto const run = [](gradient_problem<double>& to, auto const& m, auto const&... options) {
        heed::forward(m, to.q.in(), to.k.in(), to.v.in(), to.out.view(), heed::save{to.lse.view()}, options...);
        heed::backward(m, to.q.in(), to.k.in(), to.v.in(), to.out.in(), heed::save{to.lse.view()}, to.dout.in(), to.dq.view(), to.dk.view(), to.dv.view(), options...);
    };
    run(p, heed::chosen_attention(heed::any_pattern(rows), heed::inv_sqrt<double>(6)));
    thread_team team{2};
    heed::reordered const m{heed::chosen_attention(heed::any_pattern(tiles), heed::inv_sqrt<double>(6)), patches.order()};
    run(other, m, heed::cpu{team});
    auto const near = [](tensor<double> const& a, tensor<double> const& b) {
        bool good = true;
        tensor<double>(a.shape()).each_at([&](double&, extent_t i, extent_t h, extent_t n, extent_t e) { good = good && std::abs(a(i, h, n, e) - b(i, h, n, e)) < 1e-12; });
        return good;
    };
    CHECK((near(p.out, other.out) && near(p.lse, other.lse) && near(p.dq, other.dq) && near(p.dk, other.dk) && near(p.dv, other.dv)));
    CHECK((other.intact()));

    // rotated queries keep their positions
    auto const turned = [&](auto const& pattern) { return heed::with_load(heed::chosen_attention(heed::any_pattern(pattern), heed::inv_sqrt<double>(6)), heed::load{heed::rotary{}, heed::rotary{}}); };
    heed::forward(turned(rows), p.q.in(), p.k.in(), p.v.in(), p.out.view());
    heed::forward(heed::reordered{turned(tiles), patches.order()}, p.q.in(), p.k.in(), p.v.in(), other.out.view());
    CHECK((near(p.out, other.out)));

    std::vector<std::int32_t> order(static_cast<std::size_t>(N), 0);
    CHECK_THROWS_WITH(heed::forward(heed::reordered{m.mechanism, heed::tensor_view<std::int32_t const>(order.data(), {1, 1, N, 1})}, p.q.in(), p.k.in(), p.v.in(), p.out.view()), contains("slot 1 of the order names query 0"));
    CHECK_THROWS_WITH(heed::forward(heed::reordered{m.mechanism, heed::tensor_view<std::int32_t const>(order.data(), {1, 1, 3, 1})}, p.q.in(), p.k.in(), p.v.in(), p.out.view()), contains("the order names 3 queries"));
}
