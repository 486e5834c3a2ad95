// SPDX-License-Identifier: BSD-3-Clause
// Decoding where values are gathered by a maximum: the bits of forward, whatever the chunks, from every kind of cache; scores by distances.
#include <decode/cached.hpp>

#include <heed/front/merge.hpp>
#include <heed/mechanism/tropical.hpp>

using namespace heed_test;

namespace {

template <class T, class M>
void same_as_forward(M const& m, step_sizes n, kind what, std::uint64_t stream, double allowed = 0) {
    random_source random(stream);
    step<T> s(n, random), expected(s);
    INFO(n);
    extent_t const room = what == kind::ring ? n.longest() : n.longest() + 3;
    own_cache<T, T> cache(n, what, what == kind::paged ? 16 : room, room, random);
    cache.fill(s, random, n.longest() < 20 ? 7 : n.longest());
    heed::decode(m, s.q.in(), cache, s.out.view());
    thread_team const threads{3};
    step<T> again(s);
    heed::decode(m, s.q.in(), cache, again.out.view(), heed::cpu{threads});
    for (extent_t b = 0; b < n.batch(); ++b) {
        extent_t const len = n.lengths[static_cast<std::size_t>(b)];
        heed::forward(m, first_rows(s.q.in(), b, n.tokens), first_rows(s.k.in(), b, len), first_rows(s.v.in(), b, len), first_rows(expected.out.view(), b, n.tokens));
    }
    s.out.each_at([&](T& x, extent_t b, extent_t h, extent_t i, extent_t e) {
        REQUIRE(std::isfinite(x) == std::isfinite(expected.out(b, h, i, e)));
        if (std::isfinite(x)) { REQUIRE(std::fabs(static_cast<double>(x) - static_cast<double>(expected.out(b, h, i, e))) <= allowed); }
        REQUIRE(x == again.out(b, h, i, e));
    });
    REQUIRE(s.out.intact());
}

} // namespace

TEST_CASE("decode: tropical attention has the bits of forward", "[decode]") {
    HEED_SEEDED;
    auto const m = heed::tropical_attention(heed::causal_bottom_right{});
    std::uint64_t stream = 600;
    for (step_sizes const& n : {step_sizes{1, 1, 1, 1, 1, {1}}, step_sizes{2, 4, 1, 64, 64, {100}}, step_sizes{1, 8, 1, 7, 13, {31, 0, 17}}, step_sizes{3, 3, 5, 33, 9, {40, 5, 2}},
                                step_sizes{1, 2, 1, 0, 5, {9}}, step_sizes{1, 2, 2, 64, 72, {3500, 1, 2047}}, step_sizes{1, 1, 1, 30, 5, {20100}}}) {
        same_as_forward<float>(m, n, kind::contiguous, ++stream);
    }
    same_as_forward<float>(m, {2, 2, 1, 17, 21, {900, 37}}, kind::paged, 651);
}
TEST_CASE("decode: softmax of distances is that of forward", "[decode]") {
    HEED_SEEDED;
    auto const m = heed::attention{heed::one_sided_hilbert{} | heed::scale{0.1f}, heed::causal_bottom_right{}, heed::softmax{}};
    same_as_forward<float>(m, {1, 3, 2, 19, 21, {400, 37}}, kind::contiguous, 653, 2e-5);
}
TEST_CASE("decode: additive attention is that of forward, weights of features per head", "[decode]") {
    HEED_SEEDED;
    random_source random(656);
    for (extent_t const width : {7, 37}) {
        tensor<float> w(heed::shape{1, 6, 1, width});
        w.normal(random);
        same_as_forward<float>(heed::attention{heed::additive{heed::tanh_activation{}, w.in()}, heed::causal_bottom_right{}, heed::softmax{}}, {2, 3, 2, width, 21, {400, 37}}, kind::contiguous,
                               657, 2e-5);
    }
}
TEST_CASE("decode: NaN of a cached key or value of tropical attention reaches its rows", "[decode][contract]") {
    HEED_SEEDED;
    random_source random(654);
    step_sizes const n{1, 2, 3, 9, 10, {50}};
    step<float> s(n, random);
    float const nan = std::numeric_limits<float>::quiet_NaN();
    auto const m = heed::tropical_attention(heed::causal_bottom_right{});
    s.k(0, 0, 49, 8) = nan; // seen by the last token only
    s.v(0, 0, 48, 9) = nan; // by the last two
    own_cache<float, float> cache(n, kind::contiguous, 53, 53, random);
    cache.fill(s, random, 50);
    heed::decode(m, s.q.in(), cache, s.out.view());
    s.out.each_at([&](float& x, extent_t, extent_t, extent_t i, extent_t e) {
        INFO(i << " " << e);
        CHECK((x != x) == (i == 2 || (i == 1 && e == 9)));
    });
}
TEST_CASE("merge: parts of tropical attention have the bits of the whole", "[laws]") {
    HEED_SEEDED;
    random_source random(655);
    auto const m = heed::attention{heed::hilbert{}, heed::full{}, heed::tropical<heed::max_plus>{}, heed::max_plus{}};
    problem<float> whole({2, 2, 1, 30, 300, 9, 13}, random), a({2, 2, 1, 30, 133, 9, 13}, random), b({2, 2, 1, 30, 167, 9, 13}, random);
    a.q.copy(whole.q.in()), b.q.copy(whole.q.in());
    a.k.each_at([&](float& x, extent_t ib, extent_t h, extent_t j, extent_t c) { x = whole.k(ib, h, j, c); });
    a.v.each_at([&](float& x, extent_t ib, extent_t h, extent_t j, extent_t c) { x = whole.v(ib, h, j, c); });
    b.k.each_at([&](float& x, extent_t ib, extent_t h, extent_t j, extent_t c) { x = whole.k(ib, h, j + 133, c); });
    b.v.each_at([&](float& x, extent_t ib, extent_t h, extent_t j, extent_t c) { x = whole.v(ib, h, j + 133, c); });
    for (auto* p : {&whole, &a, &b}) { heed::forward(m, p->q.in(), p->k.in(), p->v.in(), p->out.view()); }
    tensor<float> merged(whole.out.shape());
    heed::merge(m, heed::partial{b.out.view()}, heed::partial{a.out.view()}, heed::partial{merged.view()});
    merged.each_at([&](float& x, extent_t ib, extent_t h, extent_t i, extent_t e) { REQUIRE(x == whole.out(ib, h, i, e)); });
}
