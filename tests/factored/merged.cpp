// SPDX-License-Identifier: BSD-3-Clause
// Caches whose neighbours are merged: multiplicities in the softmax, values kept whole, which pairs, what merging must not change.
#include <oracle/softmax.hpp>
#include <support/catch.hpp>
#include <support/problem.hpp>

#include <heed/front/merged_cache.hpp>

#include <numeric>

using namespace heed_test;

namespace {

using T = double;

struct merged_call {
    sizes n;
    tensor<T> q, k, v, out, lse;
    heed::merged_cache<T> cache;

    merged_call(sizes s, extent_t room, heed::merge_rule rule, random_source& random)
        : n(s), q(s.q()), k(s.k()), v(s.v()), out(s.out()), lse(s.lse()), cache({s.batch, s.kv_heads, room, s.width, s.value_width}, rule) {
        q.normal(random), k.normal(random), v.normal(random);
    }
    auto mechanism() const { return heed::merged_attention(cache.log_multiplicity(), heed::causal_bottom_right{}); }
    void run() { heed::forward(mechanism(), q.in(), cache.keys(), cache.values(), out.view(), heed::save{lse.view()}); }
    tensor<T> mass() {
        run();
        tensor<T> m({n.batch, n.kv_heads, cache.entries(), 1});
        heed::attention_mass(mechanism(), q.in(), cache.keys(), heed::save{lse.view()}, m.view());
        return m;
    }
};

} // namespace

TEST_CASE("merged: without a merge it is softmax attention; the mass is the columns' sum of weights", "[factored]") {
    HEED_SEEDED;
    random_source random(981);
    merged_call c({2, 4, 2, 5, 40, 9, 7}, 50, {4, 100}, random);
    heed::append(c.cache, c.k.in(), c.v.in());
    auto const mass = c.mass();
    oracle::softmax_case x;
    x.q = oracle::read(c.q.in()), x.k = oracle::read(c.k.in()), x.v = oracle::read(c.v.in());
    x.scale = 1.0 / 3;
    x.keep = oracle::causal_bottom_right({2, 4, 5, 40});
    auto const r = oracle::softmax(x);
    for (extent_t b = 0; b < 2; ++b)
        for (extent_t h = 0; h < 4; ++h)
            for (extent_t i = 0; i < 5; ++i)
                for (extent_t e = 0; e < 7; ++e) { CHECK(std::fabs(c.out(b, h, i, e) - r.out(b, h, i, e)) < 1e-13); }
    for (extent_t b = 0; b < 2; ++b)
        for (extent_t g = 0; g < 2; ++g)
            for (extent_t j = 0; j < 40; ++j) {
                double sum = 0;
                for (extent_t h = 2 * g; h < 2 * g + 2; ++h)
                    for (extent_t i = 0; i < 5; ++i) { sum += r.weights(b, h, i, j); }
                CHECK(std::fabs(mass(b, g, j, 0) - sum) < 1e-13);
            }
    heed::compress(c.cache, 40, mass.in()); // nothing to do
    CHECK(c.cache.entries() == 40);
    CHECK(c.cache.multiplicity(1, 39) == 1);
}

TEST_CASE("merged: entries with equal keys merge without changing an output; values and tokens are kept", "[factored]") {
    HEED_SEEDED;
    random_source random(982);
    merged_call c({2, 4, 2, 3, 64, 9, 7}, 64, {0, 100}, random);
    c.k.each_at([&](T& x, extent_t b, extent_t h, extent_t j, extent_t e) { x = c.k(b, h, j / 8 * 8, e); }); // runs of eight
    c.q.each([](T& x) { x *= 2; });
    heed::append(c.cache, c.k.in(), c.v.in());
    // every query sees every key
    auto const all = [&] { return heed::merged_attention(c.cache.log_multiplicity(), heed::full{}); };
    heed::forward(all(), c.q.in(), c.cache.keys(), c.cache.values(), c.out.view());
    tensor<T> before(c.out.shape());
    before.copy(c.out.in());
    for (extent_t size : {32, 16, 8}) {
        tensor<T> level({2, 1, c.cache.entries(), 1});
        level.fill(1);
        // weights fall with the index, so pairs are taken from the end: run by run
        heed::compress(c.cache, size, level.in());
        CHECK(c.cache.entries() == size);
        for (extent_t b = 0; b < 2; ++b) {
            extent_t tokens = 0;
            for (extent_t j = 0; j < size; ++j) {
                tokens += c.cache.multiplicity(b, j);
                CHECK(c.cache.positions()(b, 0, j, 0) == tokens - 1); // that of its last token
                CHECK(c.cache.multiplicity(b, j) == 64 / size);
            }
            CHECK(tokens == 64);
            for (extent_t h = 0; h < 2; ++h)
                for (extent_t e = 0; e < 7; ++e) {
                    double whole = 0, kept = 0;
                    for (extent_t j = 0; j < 64; ++j) { whole += c.v(b, h, j, e); }
                    for (extent_t j = 0; j < size; ++j) { kept += static_cast<double>(c.cache.multiplicity(b, j)) * c.cache.values()(b, h, j, e); }
                    CHECK(std::fabs(whole - kept) < 1e-12);
                }
        }
        heed::forward(all(), c.q.in(), c.cache.keys(), c.cache.values(), c.out.view());
        CHECK(compare_close<T>(c.out.in(), before.in(), 1e-13).good());
    }
}

TEST_CASE("merged: the least pairs merge, none twice, sinks never; sensitive elements keep their key", "[factored]") {
    HEED_SEEDED;
    random_source random(983);
    merged_call c({1, 2, 2, 4, 20, 6, 3}, 24, {3, 1e9}, random);
    heed::append(c.cache, c.k.in(), c.v.in());
    tensor<T> mass({1, 1, 20, 1});
    mass.fill(10);
    for (extent_t j : {0, 1, 2, 7, 8, 9, 14, 15}) { mass(0, 0, j, 0) = j == 8 ? 0.5 : 1; } // pairs (7, 8) or (8, 9), then (14, 15); 0, 1, 2 are sinks
    auto h = c.cache.sensitivities();
    for (extent_t e = 0; e < 6; ++e) { h(0, 0, 14, e) = e % 2 == 0 ? 1 : 0, h(0, 0, 15, e) = e % 2 == 0 ? 0 : 2; }
    heed::compress(c.cache, 18, mass.in());
    REQUIRE(c.cache.entries() == 18);
    std::vector<extent_t> l;
    for (extent_t j = 0; j < 18; ++j) { l.push_back(c.cache.multiplicity(0, j)); }
    std::vector<extent_t> expected(18, 1);
    expected[8] = 2, expected[13] = 2; // (8, 9): as light as (7, 8) but later; token 7 stays
    CHECK(l == expected);
    for (extent_t e = 0; e < 6; ++e) {
        CHECK(c.cache.keys()(0, 0, 13, e) == c.k(0, 0, e % 2 == 0 ? 14 : 15, e));
        CHECK(std::fabs(c.cache.keys()(0, 1, 13, e) - (c.k(0, 1, 14, e) + c.k(0, 1, 15, e)) / 2) < 1e-15);
        CHECK(c.cache.keys()(0, 0, 7, e) == c.k(0, 0, 7, e));
        CHECK(c.cache.keys()(0, 0, 9, e) == c.k(0, 0, 10, e));
    }
    // as short as it can become
    tensor<T> rest({1, 1, 18, 1});
    rest.fill(1);
    heed::compress(c.cache, 0, rest.in());
    CHECK(c.cache.entries() == 4);
    CHECK(c.cache.multiplicity(0, 3) == 17);
    CHECK(c.cache.tokens() == 20);
    // and goes on
    heed::append(c.cache, c.k.in(), c.v.in());
    CHECK(c.cache.positions()(0, 0, 4, 0) == 20);
    CHECK_THROWS_AS(heed::append(c.cache, c.k.in(), c.v.in()), heed::shape_error);
    CHECK_THROWS_AS(heed::compress(c.cache, 3, rest.in()), heed::shape_error);
}

TEST_CASE("merged: rotary keys stand at the position of their entry's last token", "[factored]") {
    HEED_SEEDED;
    random_source random(984);
    merged_call c({1, 2, 1, 2, 30, 8, 5}, 30, {2, 50}, random);
    heed::append(c.cache, c.k.in(), c.v.in());
    auto const mass = c.mass();
    heed::compress(c.cache, 17, mass.in());
    heed::rotary const rope{};
    auto const m = heed::with_load(heed::merged_attention(c.cache.log_multiplicity(), heed::full{}), heed::load{c.cache.of_queries(rope, 2), c.cache.of_keys(rope)});
    heed::forward(m, c.q.in(), c.cache.keys(), c.cache.values(), c.out.view());
    // the same, turned by hand
    tensor<T> k({1, 1, 17, 8}), q(c.q.shape()), expected(c.out.shape());
    k.copy(c.cache.keys()), q.copy(c.q.in());
    heed::rotary at = rope;
    at.positions = c.cache.positions();
    heed::rotate(k.view(), at);
    at = rope;
    at.offset = 28;
    heed::rotate(q.view(), at);
    heed::forward(heed::merged_attention(c.cache.log_multiplicity(), heed::full{}), q.in(), k.in(), c.cache.values(), expected.view());
    CHECK(compare_close<T>(c.out.in(), expected.in(), 1e-14).good());
}

TEST_CASE("merged: sequences of different lengths, prefill and steps, are each what they are alone", "[factored]") {
    HEED_SEEDED;
    random_source random(985);
    extent_t const H = 4, G = 2, d = 8, e = 5;
    std::vector<std::int32_t> const starts{0, 30, 41, 41};
    std::vector<extent_t> const counts{30, 11, 0};
    heed::ragged_offsets const offsets(starts);
    heed::merge_rule const rule{3, 50};
    tensor<T> k({1, G, 41, d}), v({1, G, 41, e}), q({1, H, 6, d}), out({1, H, 6, e}), step(out.shape());
    k.normal(random), v.normal(random), q.normal(random);
    heed::merged_cache<T> all({3, G, 40, d, e}, rule);
    heed::append(all, heed::ragged(k.in(), offsets), heed::ragged(v.in(), offsets));
    CHECK((all.entries(0) == 30 && all.entries(1) == 11 && all.entries(2) == 0));
    tensor<T> mass({3, 1, 30, 1});
    mass.each([&](T& x) { x = std::fabs(random.normal()); });
    heed::compress(all, 9, mass.in());
    CHECK((all.entries(0) == 9 && all.entries(1) == 9 && all.entries(2) == 0 && all.tokens(0) == 30 && all.tokens(1) == 11));
    // different numbers of new tokens
    std::vector<std::int32_t> const more{0, 2, 5, 6};
    heed::ragged_offsets const news(more);
    tensor<T> k2({1, G, 6, d}), v2({1, G, 6, e});
    k2.normal(random), v2.normal(random);
    heed::append(all, heed::ragged(k2.in(), news), heed::ragged(v2.in(), news));
    CHECK((all.entries(0) == 11 && all.entries(1) == 12 && all.entries(2) == 1));
    heed::rotary const rope{};
    auto const counted = [&](extent_t b) { return extent_t(more[static_cast<std::size_t>(b) + 1] - more[static_cast<std::size_t>(b)]); };
    auto const causal = heed::merged_attention(all.log_multiplicity(), heed::causal_lengths{all.lengths()});
    auto const turned = heed::with_load(causal, heed::load{all.of_queries(rope, counted), all.of_keys(rope)});
    tensor<T> alone(out.shape()), alone_turned(out.shape()), out_turned(out.shape());
    heed::forward(causal, heed::ragged(q.in(), news), all.keys(), all.values(), heed::ragged(out.view(), news));
    heed::forward(turned, heed::ragged(q.in(), news), all.keys(), all.values(), heed::ragged(out_turned.view(), news));
    heed::decode(heed::merged_attention(all.log_multiplicity(), heed::causal_bottom_right{}), heed::ragged(q.in(), news), all.view(), heed::ragged(step.view(), news));
    for (extent_t b = 0; b < 3; ++b) {
        extent_t const first = starts[static_cast<std::size_t>(b)], n = counts[static_cast<std::size_t>(b)], at = more[static_cast<std::size_t>(b)], fresh = counted(b);
        auto const cut = [](auto const& x, extent_t begin, extent_t count) { return std::remove_cvref_t<decltype(x)>{x.row(0, 0, begin), {1, x.extent(1), count, x.extent(3)}, x.strides()}; };
        heed::merged_cache<T> one({1, G, 40, d, e}, rule);
        heed::append(one, cut(k.in(), first, n), cut(v.in(), first, n));
        if (n > 0) { heed::compress(one, 9, heed::tensor_view<T const>{mass.in().row(b, 0, 0), {1, 1, n, 1}}); }
        heed::append(one, cut(k2.in(), at, fresh), cut(v2.in(), at, fresh));
        auto const m = heed::merged_attention(one.log_multiplicity(), heed::causal_bottom_right{});
        heed::forward(m, cut(q.in(), at, fresh), one.keys(), one.values(), cut(alone.view(), at, fresh));
        heed::forward(heed::with_load(m, heed::load{one.of_queries(rope, fresh), one.of_keys(rope)}), cut(q.in(), at, fresh), one.keys(), one.values(), cut(alone_turned.view(), at, fresh));
    }
    CHECK(compare_close<T>(out.in(), alone.in(), 1e-13).good());
    CHECK(compare_close<T>(out_turned.in(), alone_turned.in(), 1e-13).good());
    CHECK(compare_close<T>(step.in(), alone.in(), 1e-13).good());
}
