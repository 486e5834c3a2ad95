// SPDX-License-Identifier: BSD-3-Clause
// Sentence: alignment is a speed hint only. Sentence: strides of any sign work, and zero strides for inputs.
// Sentence: not one byte is read or written outside the views.
#include <support/catch.hpp>
#include <support/problem.hpp>

#include <algorithm>
#include <array>

using namespace heed_test;

namespace {

auto const causal = heed::softmax_attention(heed::causal_bottom_right{});

// Row-major strides of the axes in a random order, with gaps, some of them negative.
heed::strides random_strides(heed::shape s, random_source& random) {
    std::array<int, 4> order{0, 1, 2, 3};
    for (int i = 3; i > 0; --i) { std::swap(order[static_cast<std::size_t>(i)], order[static_cast<std::size_t>(random.integer(0, i))]); }
    extent_t st[4];
    extent_t step = random.integer(1, 2);
    for (int r : order) {
        st[r] = random.chance(0.3) ? -step : step;
        step = step * std::max<extent_t>(s[r], 1) + random.integer(0, 3);
    }
    return {st[0], st[1], st[2], st[3]};
}

template <class T>
void try_strides(int rounds, std::uint64_t stream) {
    random_source random(stream);
    for (int round = 0; round < rounds; ++round) {
        sizes const n{random.integer(1, 2), 4, random.pick({1, 2, 4}), random.integer(1, 70), random.integer(1, 150), random.integer(1, 18), random.integer(1, 18)};
        problem<T> plain(n, random);
        plain.run(causal);
        auto const any_place = [&] { return random.pick({place::margin, place::upper_page, place::lower_page}); };
        tensor<T> q(n.q(), random_strides(n.q(), random), any_place()), k(n.k(), random_strides(n.k(), random), any_place()),
            v(n.v(), random_strides(n.v(), random), any_place()), out(n.out(), random_strides(n.out(), random), any_place()),
            lse(n.lse(), random_strides(n.lse(), random), any_place());
        q.copy(plain.q.in());
        k.copy(plain.k.in());
        v.copy(plain.v.in());
        heed::forward(causal, q.in(), k.in(), v.in(), out.view(), heed::save{lse.view()});
        INFO(n);
        REQUIRE(same_bits(out, plain.out));
        REQUIRE(same_bits(lse, plain.lse));
        REQUIRE((out.intact() && lse.intact() && q.intact() && k.intact() && v.intact()));
    }
}

} // namespace

TEST_CASE("layout: strides of any order, sign and gap give the same bits", "[contract]") {
    HEED_SEEDED;
    try_strides<float>(60, 141);
    try_strides<double>(20, 142);
}

TEST_CASE("layout: sequence-major memory gives the same bits", "[contract]") {
    HEED_SEEDED;
    random_source random(143);
    problem<float> p({2, 4, 2, 60, 150, 16, 12}, random);
    p.run(causal);
    std::vector<float> q(static_cast<std::size_t>(p.n.q().size())), k(static_cast<std::size_t>(p.n.k().size())), v(static_cast<std::size_t>(p.n.v().size())),
        out(static_cast<std::size_t>(p.n.out().size()));
    auto const fill = [](heed::tensor_view<float> to, heed::tensor_view<float const> from) {
        for (extent_t b = 0; b < to.extent(0); ++b)
            for (extent_t h = 0; h < to.extent(1); ++h)
                for (extent_t i = 0; i < to.extent(2); ++i)
                    for (extent_t d = 0; d < to.extent(3); ++d) { to(b, h, i, d) = from(b, h, i, d); }
    };
    auto const qv = heed::sequence_major(q.data(), p.n.q()), kv = heed::sequence_major(k.data(), p.n.k()), vv = heed::sequence_major(v.data(), p.n.v()),
               ov = heed::sequence_major(out.data(), p.n.out());
    fill(qv, p.q.in());
    fill(kv, p.k.in());
    fill(vv, p.v.in());
    CHECK(&qv(1, 2, 3, 4) == q.data() + ((1 * 60 + 3) * 4 + 2) * 16 + 4);
    heed::forward(causal, qv, kv, vv, ov);
    CHECK(same_bits<float>(ov, p.out.in()));
}

TEST_CASE("layout: inputs with zero strides are broadcast", "[contract]") {
    HEED_SEEDED;
    random_source random(144);
    sizes const n{3, 4, 2, 60, 150, 16, 12};
    problem<float> p(n, random);
    // one batch entry for all; one key head for both; one value row for all; one number for a whole query
    heed::tensor_view<float const> const q{p.q.in().data_handle(), n.q(), {0, 16, 64, 1}}, k{p.k.in().data_handle(), n.k(), {0, 0, 16, 1}},
        v{p.v.in().data_handle(), n.v(), {1800, 12, 24, 1}}, same_value{p.v.in().data_handle(), n.v(), {7, 3, 0, 1}}, flat_q{p.q.in().data_handle(), n.q(), {0, 0, 1, 0}};
    tensor<float> dense_q(n.q()), dense_k(n.k()), dense_v(n.v()), dense_same(n.v()), dense_flat(n.q()), out(n.out()), expected(n.out());
    dense_q.copy(q);
    dense_k.copy(k);
    dense_v.copy(v);
    dense_same.copy(same_value);
    dense_flat.copy(flat_q);
    heed::forward(causal, q, k, v, out.view());
    heed::forward(causal, dense_q.in(), dense_k.in(), dense_v.in(), expected.view());
    CHECK(same_bits(out, expected));
    heed::forward(causal, flat_q, k, same_value, out.view());
    heed::forward(causal, dense_flat.in(), dense_k.in(), dense_same.in(), expected.view());
    CHECK(same_bits(out, expected));
    // a mechanism's own views too
    std::vector<float> const number{0.5f};
    heed::tensor_view<float const> const bias{number.data(), {3, 4, 60, 150}, {0, 0, 0, 0}};
    heed::forward(heed::attention{heed::dot{} | heed::bias{bias}}, q, k, v, out.view());
    tensor<float> dense_bias(heed::shape{1, 1, 60, 150});
    dense_bias.fill(0.5f);
    heed::forward(heed::attention{heed::dot{} | heed::bias{dense_bias.view()}}, q, k, v, expected.view());
    CHECK(same_bits(out, expected));
}

TEST_CASE("layout: bias and mask with strides of any order", "[contract]") {
    HEED_SEEDED;
    random_source random(145);
    for (int round = 0; round < 20; ++round) {
        sizes const n{2, 2, 1, random.integer(1, 70), random.integer(1, 150), 6, 6};
        problem<float> p(n, random);
        tensor<float> b(n.pairs()), wild_b(n.pairs(), random_strides(n.pairs(), random), place::upper_page), out(n.out());
        tensor<std::uint8_t> m(n.pairs()), wild_m(n.pairs(), random_strides(n.pairs(), random), place::lower_page);
        b.normal(random);
        m.each([&](std::uint8_t& x) { x = random.chance(0.6); });
        wild_b.copy(b.in());
        wild_m.copy(m.in());
        auto const score = heed::dot{} | heed::inv_sqrt_width{};
        heed::forward(heed::attention{score | heed::bias{b.view()}, heed::mask{m.view()}}, p.q.in(), p.k.in(), p.v.in(), p.out.view());
        heed::forward(heed::attention{score | heed::bias{wild_b.view()}, heed::mask{wild_m.view()}}, p.q.in(), p.k.in(), p.v.in(), out.view());
        REQUIRE(same_bits(out, p.out));
    }
}

#if defined(__x86_64__) || defined(__i386__) || defined(__aarch64__)
TEST_CASE("layout: data off its natural alignment gives the same bits", "[contract]") {
    HEED_SEEDED;
    random_source random(146);
    sizes const n{1, 2, 2, 60, 150, 16, 12};
    problem<float> p(n, random);
    p.run(causal);
    for (std::size_t shift : {4u, 8u, 20u, 36u, 60u}) { // aligned for float, for no vector
        tensor<float> q(n.q(), heed::row_major(n.q()), place::margin, shift), k(n.k(), heed::row_major(n.k()), place::margin, shift),
            v(n.v(), heed::row_major(n.v()), place::margin, shift), out(n.out(), heed::row_major(n.out()), place::margin, shift),
            lse(n.lse(), heed::row_major(n.lse()), place::margin, shift);
        q.copy(p.q.in());
        k.copy(p.k.in());
        v.copy(p.v.in());
        heed::forward(causal, q.in(), k.in(), v.in(), out.view(), heed::save{lse.view()});
        REQUIRE(same_bits(out, p.out));
        REQUIRE(same_bits(lse, p.lse));
        REQUIRE((out.intact() && lse.intact()));
    }
}
#endif

TEST_CASE("layout: every odd size flush against protected pages on both sides", "[contract]") {
    HEED_SEEDED;
    random_source random(147);
    for (int round = 0; round < 150; ++round) {
        place const where = round % 2 == 0 ? place::upper_page : place::lower_page;
        sizes const n{1, random.pick({1, 2}), 1, random.integer(1, 60), random.integer(1, 140), random.integer(1, 33), random.integer(1, 33)};
        problem<float> p(n, random, where);
        // row strides with a tail that the last row does not have
        tensor<float> k(n.k(), padded(n.k(), 3), where), v(n.v(), padded(n.v(), 5), where), out(n.out(), padded(n.out(), 1), where);
        k.copy(p.k.in());
        v.copy(p.v.in());
        p.run(causal);
        heed::forward(causal, p.q.in(), k.in(), v.in(), out.view());
        INFO(n);
        REQUIRE(same_bits(out, p.out));
        REQUIRE((p.intact() && out.intact() && k.intact() && v.intact()));
    }
}

TEST_CASE("layout: views of policies flush against protected pages", "[contract]") {
    HEED_SEEDED;
    random_source random(148);
    auto const score = heed::dot{} | heed::inv_sqrt_width{};
    for (int round = 0; round < 60; ++round) {
        place const where = round % 2 == 0 ? place::upper_page : place::lower_page;
        sizes const n{2, 2, 1, random.integer(1, 60), random.integer(1, 140), random.integer(1, 9), random.integer(1, 9)};
        problem<float> p(n, random, where);
        tensor<float> b(n.pairs(), where), slopes(heed::shape{1, 2, 1, 1}, where), table(heed::shape{1, 2, random.integer(1, 50), 1}, where), sinks(heed::shape{1, 2, 1, 1}, where);
        tensor<std::uint8_t> m(n.pairs(), where), bits(heed::shape{2, 2, n.queries, (n.keys + 7) / 8}, where);
        tensor<std::int32_t> ids_q(heed::shape{2, 1, n.queries, 1}, where), ids_k(heed::shape{2, 1, n.keys, 1}, where), lens(heed::shape{2, 1, 1, 1}, where);
        b.normal(random);
        slopes.normal(random, 0.1);
        table.normal(random);
        sinks.normal(random);
        m.each([&](std::uint8_t& x) { x = random.chance(0.6); });
        bits.each([&](std::uint8_t& x) { x = static_cast<std::uint8_t>(random.bits()); });
        ids_q.each([&](std::int32_t& x) { x = static_cast<std::int32_t>(random.integer(0, 2)); });
        ids_k.each([&](std::int32_t& x) { x = static_cast<std::int32_t>(random.integer(0, 2)); });
        lens.each([&](std::int32_t& x) { x = static_cast<std::int32_t>(random.integer(0, n.keys)); });
        p.run(heed::attention{score | heed::bias{b.view()} | heed::alibi{slopes.view()} | heed::relative_bias{table.view(), random.integer(0, 20)},
                              heed::mask{m.view()} & heed::bit_mask{bits.view()} & heed::documents{ids_q.view(), ids_k.view()} & heed::key_lengths{lens.view()},
                              heed::softmax_sink{sinks.view()}});
        REQUIRE((p.intact() && b.intact() && m.intact() && bits.intact()));
    }
}
