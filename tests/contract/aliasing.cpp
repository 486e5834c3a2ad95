// SPDX-License-Identifier: BSD-3-Clause
// Sentence: an output may not overlap an input; overlapping address ranges are refused unless equal strides and base offsets prove
// the boxes disjoint.
#include <support/catch.hpp>
#include <support/problem.hpp>

using namespace heed_test;

namespace {

template <class F>
std::string refused(F f) {
    try {
        f();
    } catch (heed::shape_error const& e) { return e.what(); }
    return "";
}

auto const m = heed::softmax_attention();

} // namespace

TEST_CASE("aliasing: an output on an input is refused, by name, with nothing written", "[contract]") {
    std::vector<float> pool(1000, 0.5f), other(1000, 0.25f);
    heed::shape const s{1, 2, 5, 4};
    auto const at = [&](extent_t offset) { return heed::tensor_view<float>{pool.data() + offset, s}; };
    heed::tensor_view<float const> const in{other.data(), s};
    auto const before = pool;
    for (extent_t offset : {0, 1, 39}) {
        CHECK_THAT(refused([&] { heed::forward(m, at(offset), in, in, at(0)); }), contains("out overlaps q"));
        CHECK_THAT(refused([&] { heed::forward(m, in, at(offset), in, at(0)); }), contains("out overlaps k"));
        CHECK_THAT(refused([&] { heed::forward(m, in, in, at(offset), at(0)); }), contains("out overlaps v"));
    }
    CHECK_THAT(refused([&] { heed::forward(m, in, in, in, at(0), heed::save{heed::tensor_view<float>{pool.data() + 39, {1, 2, 5, 1}}}); }), contains("overlaps"));
    CHECK_THAT(refused([&] { heed::forward(m, at(100), in, in, at(0), heed::save{heed::tensor_view<float>{pool.data() + 120, {1, 2, 5, 1}}}); }), contains("lse overlaps q"));
    CHECK(pool == before);
    // neighbours that only touch
    CHECK(refused([&] { heed::forward(m, at(40), at(80), at(120), at(0), heed::save{heed::tensor_view<float>{pool.data() + 160, {1, 2, 5, 1}}}); }) == "");
    // inputs may overlap each other
    CHECK(refused([&] { heed::forward(m, in, in, in, at(0)); }) == "");
}

TEST_CASE("aliasing: boxes that interleave without meeting are legal, and right", "[contract]") {
    HEED_SEEDED;
    random_source random(161);
    // q, k, v and out in one buffer, row by row: [n][4][d]
    extent_t const n = 60, d = 8, heads = 2;
    std::vector<float> pool(static_cast<std::size_t>(n * 4 * heads * d));
    for (float& x : pool) { x = static_cast<float>(random.normal()); }
    heed::shape const s{1, heads, n, d};
    heed::strides const st{n * 4 * heads * d, d, 4 * heads * d, 1};
    auto const part = [&](extent_t which) { return heed::tensor_view<float>{pool.data() + which * heads * d, s, st}; };
    problem<float> p({1, heads, heads, n, n, d, d}, random);
    p.q.copy(part(0));
    p.k.copy(part(1));
    p.v.copy(part(2));
    p.run(m);
    CHECK(refused([&] { heed::forward(m, part(0), part(1), part(2), part(3)); }) == "");
    CHECK(same_bits<float>(part(3), p.out.in()));
    // one element of shift makes the boxes meet
    heed::tensor_view<float> const shifted{pool.data() + 3 * heads * d - 1, s, st};
    CHECK_THAT(refused([&] { heed::forward(m, part(0), part(1), part(2), shifted); }), contains("out overlaps v"));
    // heads apart in one tensor
    std::vector<float> both(static_cast<std::size_t>(2 * n * d), 1.0f);
    heed::strides const rows{0, d, 2 * d, 1};
    heed::tensor_view<float> const left{both.data(), {1, 1, n, d}, rows}, right{both.data() + d, {1, 1, n, d}, rows};
    CHECK(refused([&] { heed::forward(m, left, left, left, right); }) == "");
    CHECK_THAT(refused([&] { heed::forward(m, left, left, left, left); }), contains("out overlaps q"));
}

TEST_CASE("aliasing: what cannot be proven disjoint is refused", "[contract]") {
    std::vector<float> pool(4000, 0.5f);
    // even and odd elements, but with other strides: disjoint, yet not by equal strides
    heed::tensor_view<float> const out{pool.data(), {1, 1, 10, 4}, {0, 0, 8, 2}};
    heed::tensor_view<float const> const in{pool.data() + 1, {1, 1, 10, 4}, {0, 0, 16, 2}}, apart{pool.data() + 2000, {1, 1, 10, 4}};
    CHECK_THAT(refused([&] { heed::forward(m, in, apart, apart, out); }), contains("out overlaps q"));
    // a reversed view of the same memory
    heed::tensor_view<float const> const reversed{pool.data() + 9 * 8, {1, 1, 10, 4}, {0, 0, -8, 2}};
    CHECK_THAT(refused([&] { heed::forward(m, reversed, apart, apart, out); }), contains("out overlaps q"));
}

TEST_CASE("aliasing: random boxes are judged like their elements", "[contract]") {
    HEED_SEEDED;
    random_source random(162);
    std::vector<float> pool(4096, 0.5f), apart(4096, 0.5f);
    int met = 0, free = 0;
    for (int round = 0; round < 2000; ++round) {
        heed::shape const s{1, random.integer(1, 3), random.integer(1, 4), random.integer(1, 4)};
        heed::strides st{0, random.integer(1, 40), random.integer(1, 40), random.integer(1, 40)};
        auto const reach = [&](heed::shape x) { return (x.head - 1) * st.head + (x.seq - 1) * st.seq + (x.feature - 1) * st.feature; };
        extent_t const a = random.integer(0, 100), b = random.integer(0, 100);
        std::vector<bool> mine(4096);
        bool self = false, meet = false;
        for (extent_t h = 0; h < s.head; ++h)
            for (extent_t i = 0; i < s.seq; ++i)
                for (extent_t e = 0; e < s.feature; ++e) {
                    auto const at = static_cast<std::size_t>(a + h * st.head + i * st.seq + e * st.feature);
                    self = self || mine[at];
                    mine[at] = true;
                }
        if (self || reach(s) + 100 >= 4096) { continue; } // an output that meets itself is another matter
        for (extent_t h = 0; h < s.head; ++h)
            for (extent_t i = 0; i < s.seq; ++i)
                for (extent_t e = 0; e < s.feature; ++e) { meet = meet || mine[static_cast<std::size_t>(b + h * st.head + i * st.seq + e * st.feature)]; }
        heed::tensor_view<float> const out{pool.data() + a, s, st};
        heed::tensor_view<float const> const q{pool.data() + b, s, st}, k{apart.data(), s, st};
        bool const taken = refused([&] { heed::forward(m, q, k, k, out); }).empty();
        INFO(s.head << " " << s.seq << " " << s.feature << " strides " << st.head << " " << st.seq << " " << st.feature << " at " << a << " and " << b);
        REQUIRE(taken == !meet);
        (meet ? met : free) += 1;
    }
    CHECK(met > 100);
    CHECK(free > 100);
}
