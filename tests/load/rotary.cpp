// SPDX-License-Identifier: BSD-3-Clause
// Rotary embedding: the verb against its definition, the loader against the verb, and the law of relative positions.
#include <support/catch.hpp>
#include <support/problem.hpp>
#include <support/team.hpp>

using namespace heed_test;

namespace {

// x turned as the formula says, in double.
template <class T, class P, class F>
oracle::array turned(heed::tensor_view<T const> x, heed::rotary<P, F> const& how) {
    oracle::array y = oracle::read(x);
    extent_t const r = (how.width > 0 ? how.width : x.extent(3)) / 2 * 2, half = r / 2;
    for (extent_t b = 0; b < x.extent(0); ++b)
        for (extent_t h = 0; h < x.extent(1); ++h)
            for (extent_t n = 0; n < x.extent(2); ++n)
                for (extent_t m = 0; m < half; ++m) {
                    bool const given = how.positions.data_handle() != nullptr;
                    double const t = given ? how.positions(how.positions.extent(0) == 1 ? 0 : b, 0, n, 0) : static_cast<double>(n + how.offset);
                    double const angle = t * how.frequencies.frequency(m, r), c = how.frequencies.amplitude() * std::cos(angle), s = how.frequencies.amplitude() * std::sin(angle);
                    extent_t const i = std::is_same_v<P, heed::half_pairs> ? m : 2 * m, j = std::is_same_v<P, heed::half_pairs> ? m + half : 2 * m + 1;
                    double const u = static_cast<double>(x(b, h, n, i)), v = static_cast<double>(x(b, h, n, j));
                    y(b, h, n, i) = u * c - v * s;
                    y(b, h, n, j) = v * c + u * s;
                }
    return y;
}
template <class T>
double largest_difference(heed::tensor_view<T const> x, oracle::array const& y) {
    oracle::array const a = oracle::read(x);
    double worst = 0;
    for (std::size_t i = 0; i < a.x.size(); ++i) { worst = std::fmax(worst, std::fabs(a.x[i] - y.x[i])); }
    return worst;
}

// Every width, rows apart, features apart, and element type against the definition; nothing else is written.
template <class T, class P>
void check_verb(double allowed) {
    random_source random(411);
    for (extent_t width : {1, 2, 6, 9, 16, 31, 64, 128, 130, 256}) {
        for (extent_t rotated : {extent_t(0), width / 4 * 2}) {
            heed::shape const s{2, 3, 35, width};
            for (heed::strides const& st : {heed::row_major(s), padded(s, 5), heed::strides{35 * width * 3, width, width * 3, 1}, heed::strides{-105 * width, 35, 1, 105}, heed::strides{105 * width, 35 * width, -width, 1}}) {
                if (rotated == 0 && width > 1 && width < 4) { continue; }
                tensor<T> x(s, st);
                x.normal(random);
                heed::rotary<P> const how{{}, {}, rotated, 77};
                auto const expected = turned(x.in(), how);
                heed::rotate(x.view(), how);
                INFO("width " << width << ", rotated " << rotated);
                CHECK(largest_difference(x.in(), expected) <= allowed);
                CHECK(x.intact());
            }
        }
    }
}

template <class M>
tensor<float> attend(problem<float>& p, M const& m) {
    p.run(m);
    tensor<float> out(p.n.out());
    out.copy(p.out.in());
    return out;
}

} // namespace

TEST_CASE("rotary: the verb is the definition, for every layout of pairs and memory", "[load]") {
    HEED_SEEDED;
    check_verb<float, heed::half_pairs>(2e-6);
    check_verb<float, heed::interleaved_pairs>(2e-6);
    check_verb<double, heed::half_pairs>(1e-13);
    check_verb<double, heed::interleaved_pairs>(1e-13);
    check_verb<heed::bf16, heed::half_pairs>(6 * 0x1p-8);
    check_verb<heed::fp16, heed::interleaved_pairs>(6 * 0x1p-11);
}

TEST_CASE("rotary: explicit positions, per batch or for all; scaled frequencies; ragged batches; threads", "[load]") {
    HEED_SEEDED;
    random_source random(412);
    heed::shape const s{2, 2, 40, 48};
    tensor<float> x(s), y(s);
    tensor<std::int32_t> position(heed::shape{2, 1, 40, 1}), one(heed::shape{1, 1, 40, 1});
    position.each([&](std::int32_t& t) { t = static_cast<std::int32_t>(random.integer(-5, 1 << 20)); });
    one.each([&](std::int32_t& t) { t = static_cast<std::int32_t>(random.integer(0, 4096)); });
    heed::yarn const stretched{10000, 4, 2048};
    auto const check = [&](auto const& how, double allowed) {
        x.normal(random);
        y.copy(x.in());
        auto const expected = turned(x.in(), how);
        heed::rotate(x.view(), how);
        CHECK(largest_difference(x.in(), expected) <= allowed);
        heed::rotate(y.view(), how, heed::cpu{thread_team{3}});
        CHECK(same_bits(x, y));
    };
    check(heed::rotary{heed::half_pairs{}, heed::geometric{}, 0, 0, position.in()}, 2e-6);
    check(heed::rotary{heed::interleaved_pairs{}, heed::geometric{500000}, 32, 0, one.in()}, 2e-6);
    check(heed::rotary{heed::half_pairs{}, stretched}, 2e-6);
    check(heed::rotary{heed::half_pairs{}, heed::position_interpolation{10000, 3}}, 2e-6);

    // each sequence starts at its own position 0
    std::vector<std::int32_t> const starts{0, 7, 7, 40};
    tensor<float> packed(heed::shape{1, 2, 40, 48}), apart(heed::shape{1, 2, 40, 48});
    packed.normal(random);
    apart.copy(packed.in());
    heed::rotate(heed::ragged(packed.view(), heed::ragged_offsets(starts)), heed::rotary{});
    heed::tensor_view<float> const all = apart.view();
    heed::rotate(heed::tensor_view<float>{all.data_handle(), {1, 2, 7, 48}, all.strides()}, heed::rotary{});
    heed::rotate(heed::tensor_view<float>{all.row(0, 0, 7), {1, 2, 33, 48}, all.strides()}, heed::rotary{});
    CHECK(same_bits(packed, apart));
}

TEST_CASE("rotary: the loader is the verb and then plain attention, bit by bit, with grouped heads and more keys than queries", "[load]") {
    HEED_SEEDED;
    random_source random(413);
    auto const m = heed::softmax_attention(heed::causal_bottom_right{});
    for (sizes const& n : {sizes{2, 4, 2, 53, 150, 24, 13}, sizes{1, 6, 2, 130, 130, 64, 16}, sizes{1, 2, 1, 33, 20, 9, 8}, sizes{1, 1, 1, 10, 10, 1, 3}}) {
        problem<float> p(n, random);
        heed::rotary const rope{heed::interleaved_pairs{}, heed::geometric{}, extent_t(0), extent_t(12)};
        auto const loaded = attend(p, heed::with_load(m, heed::load{rope, rope}));
        tensor<float> lse(n.lse());
        lse.copy(p.lse.in());
        heed::rotate(p.k.view(), rope);
        heed::rotary of_queries = rope;
        of_queries.offset += n.keys - n.queries; // the last query sits at the last key
        heed::rotate(p.q.view(), of_queries);
        auto const turned_before = attend(p, m);
        INFO(n);
        CHECK(same_bits(loaded, turned_before));
        CHECK(same_bits(lse, p.lse));
        CHECK(p.intact());
    }
}

TEST_CASE("rotary: scores depend on the distance of positions only", "[load]") {
    HEED_SEEDED;
    random_source random(414);
    problem<float> p({1, 2, 2, 40, 60, 32, 16}, random);
    auto const run = [&](extent_t offset) {
        heed::rotary const rope{heed::interleaved_pairs{}, heed::geometric{}, extent_t(0), offset};
        return attend(p, heed::with_load(heed::softmax_attention(heed::causal_bottom_right{}), heed::load{rope, rope}));
    };
    auto const here = run(0), there = run(1000000), turned_one = attend(p, heed::softmax_attention(heed::causal_bottom_right{}));
    CHECK(compare_close<float>(here.in(), there.in(), 2e-5).good());
    CHECK(!compare_close<float>(here.in(), turned_one.in(), 1e-2).good()); // and it does depend on them
}

TEST_CASE("rotary: 16-bit rows are turned in float; the reference engine has loaders too; gradients are turned back", "[load]") {
    HEED_SEEDED;
    random_source random(415);
    sizes const n{1, 2, 1, 20, 33, 12, 9};
    heed::rotary const rope{heed::interleaved_pairs{}, heed::yarn{10000, 4, 64}};
    auto const m = heed::with_load(heed::softmax_attention(heed::causal_bottom_right{}), heed::load{rope, rope});
    tensor<heed::bf16> q(n.q()), k(n.k()), v(n.v()), out(n.out());
    problem<float> p(n, random);
    auto const halves = [](tensor<heed::bf16>& x, tensor<float>& y, random_source& r) {
        x.normal(r);
        y.each_at([&](float& e, extent_t b, extent_t h, extent_t i, extent_t c) { e = static_cast<float>(x(b, h, i, c)); });
    };
    halves(q, p.q, random);
    halves(k, p.k, random);
    halves(v, p.v, random);
    heed::forward(m, q.in(), k.in(), v.in(), out.view(), heed::reference{});
    auto const fast = attend(p, m);
    p.run(m, heed::reference{});
    CHECK(compare_close<float>(fast.in(), p.out.in(), 1e-5).good());
    bool rounded = true;
    p.out.each_at([&](float& e, extent_t b, extent_t h, extent_t i, extent_t c) { rounded = rounded && heed::bf16(e).bits == out(b, h, i, c).bits; });
    CHECK(rounded);

    // <R x, y> = <x, R' y>
    heed::place const at{0, 0, 0, 20, 20, 12};
    float rows[4 * 12] = {}, y[12], rx[12], ry[12];
    float* const x = rows + 3 * 12;
    for (int c = 0; c < 12; ++c) { x[c] = static_cast<float>(random.normal()), y[c] = static_cast<float>(random.normal()), ry[c] = y[c]; }
    rope.rows<heed::native_arch>(heed::operand{at, 0, 5}, heed::range{3, 4}, heed::tensor_view<float const>{rows, {1, 1, 4, 12}}, rx, 12);
    rope.pull_back<heed::native_arch>(heed::operand{at, 0, 5}, heed::range{3, 4}, 12, ry, 12);
    double left = 0, right = 0, length = 0;
    for (int c = 0; c < 12; ++c) {
        left += static_cast<double>(rx[c]) * static_cast<double>(y[c]);
        right += static_cast<double>(x[c]) * static_cast<double>(ry[c]);
        length += std::fabs(static_cast<double>(x[c]) * static_cast<double>(ry[c]));
    }
    CHECK(std::fabs(left - right) < 1e-6 * length);
}

TEST_CASE("rotary: gradients of a loader's call are those of turned tensors, turned back", "[load]") {
    HEED_SEEDED;
    random_source random(416);
    sizes const n{2, 4, 2, 61, 140, 18, 7};
    problem<double> p(n, random);
    tensor<double> dout(n.out()), dq(n.q()), dk(n.k()), dv(n.v()), dq2(n.q()), dk2(n.k()), dv2(n.v());
    dout.normal(random);
    heed::rotary const rope{heed::interleaved_pairs{}, heed::geometric{}};
    auto const m = heed::softmax_attention(heed::causal_bottom_right{});
    auto const gradients = [&](auto const& mechanism, tensor<double>& a, tensor<double>& b, tensor<double>& c) {
        auto const saved = heed::forward(mechanism, p.q.in(), p.k.in(), p.v.in(), p.out.view(), heed::save{p.lse.view()});
        heed::backward(mechanism, p.q.in(), p.k.in(), p.v.in(), p.out.in(), saved, dout.in(), a.view(), b.view(), c.view());
    };
    gradients(heed::with_load(m, heed::load{rope, rope}), dq, dk, dv);

    heed::rotary of_queries = rope;
    of_queries.offset = n.keys - n.queries;
    heed::rotate(p.q.view(), of_queries);
    heed::rotate(p.k.view(), rope);
    gradients(m, dq2, dk2, dv2);
    std::vector<double> back;
    for (extent_t f = 0; f < 9; ++f) { back.push_back(-rope.frequencies.frequency(f, 18)); }
    heed::rotary backwards{heed::interleaved_pairs{}, heed::listed_frequencies{heed::tensor_view<double const>{back.data(), {1, 1, 1, 9}}}};
    heed::rotate(dk2.view(), backwards);
    backwards.offset = of_queries.offset;
    heed::rotate(dq2.view(), backwards);
    CHECK(compare_close<double>(dq.in(), dq2.in(), 1e-12).good());
    CHECK(compare_close<double>(dk.in(), dk2.in(), 1e-12).good());
    CHECK(compare_close<double>(dv.in(), dv2.in(), 1e-12).good());
}

TEST_CASE("rotary: what does not fit is refused before anything is written", "[load]") {
    tensor<float> x(heed::shape{1, 2, 5, 8});
    x.fill(1);
    auto const before = x.bytes();
    tensor<std::int32_t> position(heed::shape{1, 1, 4, 1});
    position.fill(0);
    using heed::extent_t;
    CHECK_THROWS_AS(heed::rotate(x.view(), heed::rotary{heed::half_pairs{}, heed::geometric{}, extent_t(10)}), heed::shape_error);
    CHECK_THROWS_AS(heed::rotate(x.view(), heed::rotary{heed::half_pairs{}, heed::geometric{}, extent_t(3)}), heed::shape_error);
    CHECK_THROWS_AS(heed::rotate(x.view(), heed::rotary{heed::half_pairs{}, heed::geometric{}, extent_t(0), extent_t(0), position.in()}), heed::shape_error);
    CHECK_THROWS_AS(heed::rotate(heed::tensor_view<float>{x.view().data_handle(), {1, 2, 5, 8}, {0, 0, 8, 1}}, heed::rotary{}), heed::shape_error);
    CHECK(x.bytes() == before);
    heed::rotate(heed::tensor_view<float>{nullptr, {1, 0, 5, 8}}, heed::rotary{}); // nothing to do
}
