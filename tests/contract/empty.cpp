// SPDX-License-Identifier: BSD-3-Clause
// Sentence: a fully masked row, or zero keys, gives output 0 and log-sum-exp -inf.
// Sentence: zero queries, heads, batch or d_v are valid and nothing is written; d_qk = 0 means equal scores.
#include <support/catch.hpp>
#include <support/problem.hpp>

using namespace heed_test;

namespace {

float const inf = std::numeric_limits<float>::infinity();
auto const score = heed::dot{} | heed::inv_sqrt_width{};

// Rows for which `empty(i)` holds are exactly +0 and -inf; the others are neither.
template <class P, class Empty>
void check_rows(problem<P> const& p, Empty empty) {
    for (extent_t b = 0; b < p.n.batch; ++b)
        for (extent_t h = 0; h < p.n.heads; ++h)
            for (extent_t i = 0; i < p.n.queries; ++i) {
                INFO("row " << b << " " << h << " " << i);
                bool const none = empty(i);
                CHECK((p.lse(b, h, i, 0) == -inf) == none);
                for (extent_t e = 0; e < p.n.value_width; ++e) {
                    CHECK((p.out(b, h, i, e) == 0) == none);
                    if (none) { CHECK(!std::signbit(p.out(b, h, i, e))); }
                }
            }
}

} // namespace

TEST_CASE("empty: more queries than keys under a causal pattern", "[contract]") {
    HEED_SEEDED;
    random_source random(101);
    for (extent_t n : {5, 48, 130}) {
        problem<float> p({2, 2, 1, n, 3, 7, 5}, random);
        p.out.fill(9);
        p.run(heed::softmax_attention(heed::causal_bottom_right{}));
        check_rows(p, [&](extent_t i) { return i < n - 3; });
        p.run(heed::softmax_attention(heed::causal_bottom_right{}), heed::reference{});
        check_rows(p, [&](extent_t i) { return i < n - 3; });
    }
}

TEST_CASE("empty: rows without a flag in a mask", "[contract]") {
    HEED_SEEDED;
    random_source random(102);
    problem<float> p({1, 2, 2, 70, 200, 7, 5}, random);
    tensor<std::uint8_t> m(heed::shape{1, 1, 70, 200});
    m.each_at([](std::uint8_t& x, extent_t, extent_t, extent_t i, extent_t j) { x = i % 3 == 1 ? 0 : (i + j) % 7 == 0; });
    p.run(heed::softmax_attention(heed::mask{m.view()}));
    check_rows(p, [](extent_t i) { return i % 3 == 1; });
}

TEST_CASE("empty: rows whose bias is -inf everywhere", "[contract]") {
    HEED_SEEDED;
    random_source random(103);
    problem<float> p({1, 2, 2, 70, 200, 7, 5}, random);
    tensor<float> b(heed::shape{1, 1, 70, 200});
    b.each_at([](float& x, extent_t, extent_t, extent_t i, extent_t) { x = i % 5 == 2 ? -inf : 0.25f; });
    p.run(heed::attention{score | heed::bias{b.view()}});
    check_rows(p, [](extent_t i) { return i % 5 == 2; });
    p.run(heed::attention{score | heed::bias{b.view()}}, heed::reference{});
    check_rows(p, [](extent_t i) { return i % 5 == 2; });
}

TEST_CASE("empty: zero keys", "[contract]") {
    HEED_SEEDED;
    random_source random(104);
    problem<float> p({2, 4, 2, 51, 0, 7, 5}, random);
    p.out.fill(9);
    p.run(heed::softmax_attention());
    check_rows(p, [](extent_t) { return true; });
    // null pointers are fine where there is nothing to point at
    p.out.fill(9);
    heed::tensor_view<float const> const none_k{nullptr, p.n.k()}, none_v{nullptr, p.n.v()};
    heed::forward(heed::softmax_attention(), p.q.in(), none_k, none_v, p.out.view(), heed::save{p.lse.view()});
    check_rows(p, [](extent_t) { return true; });
    std::vector<std::int32_t> const zero{0, 0};
    problem<float> padded({2, 4, 2, 51, 30, 7, 5}, random);
    padded.run(heed::softmax_attention(heed::key_lengths{heed::per_batch(zero.data(), 2)}));
    check_rows(padded, [](extent_t) { return true; });
}

TEST_CASE("empty: a sink alone", "[contract]") {
    HEED_SEEDED;
    random_source random(105);
    problem<float> p({1, 2, 2, 5, 0, 3, 4}, random);
    std::vector<float> const sinks{0.5f, -inf};
    p.run(heed::attention{score, heed::full{}, heed::softmax_sink{heed::per_head(sinks.data(), 2)}});
    for (extent_t i = 0; i < 5; ++i) {
        CHECK(p.out(0, 0, i, 0) == 0);
        CHECK(p.lse(0, 0, i, 0) == approx(0.5f));
        CHECK(p.out(0, 1, i, 0) == 0);
        CHECK(p.lse(0, 1, i, 0) == -inf);
    }
}

TEST_CASE("empty: zero queries, heads or batch write nothing", "[contract]") {
    HEED_SEEDED;
    random_source random(106);
    for (sizes n : {sizes{1, 2, 2, 0, 9, 4, 4}, sizes{0, 2, 2, 9, 9, 4, 4}, sizes{1, 0, 0, 9, 9, 4, 4}, sizes{1, 0, 3, 9, 9, 4, 4}, sizes{0, 0, 0, 0, 0, 0, 0}}) {
        INFO(n);
        problem<float> p(n, random);
        CHECK_NOTHROW(p.run(heed::softmax_attention()));
        CHECK_NOTHROW(p.run(heed::softmax_attention(heed::causal_bottom_right{}), heed::reference{}));
        CHECK(p.intact());
        // and nothing is read: every pointer may be null
        heed::tensor_view<float> const out{nullptr, n.out()};
        heed::tensor_view<float const> const q{nullptr, n.q()};
        if (n.batch == 0 || n.heads == 0) {
            CHECK_NOTHROW(heed::forward(heed::softmax_attention(), q, p.k.in(), p.v.in(), out));
        }
    }
}

TEST_CASE("empty: d_v = 0 writes no output and a right log-sum-exp", "[contract]") {
    HEED_SEEDED;
    random_source random(107);
    problem<float> p({1, 2, 2, 50, 140, 4, 0}, random);
    p.run(heed::softmax_attention());
    auto const found = p.against(p.exact(), bound_of<float>(heed::softmax_attention()));
    INFO(found.text);
    CHECK(found.good());
    CHECK(p.intact());
    heed::tensor_view<float> const out{nullptr, p.n.out()};
    heed::tensor_view<float const> const v{nullptr, p.n.v()};
    CHECK_NOTHROW(heed::forward(heed::softmax_attention(), p.q.in(), p.k.in(), v, out));
}

TEST_CASE("empty: d_qk = 0 gives the mean of the values", "[contract]") {
    HEED_SEEDED;
    random_source random(108);
    problem<float> p({2, 2, 1, 50, 140, 0, 6}, random);
    p.run(heed::softmax_attention());
    auto const found = p.against(p.exact(), bound_of<float>(heed::softmax_attention()));
    INFO(found.text);
    CHECK(found.good());
    double mean = 0;
    for (extent_t j = 0; j < 140; ++j) { mean += static_cast<double>(p.v(1, 0, j, 3)) / 140; }
    CHECK(static_cast<double>(p.out(1, 1, 49, 3)) == approx(mean).margin(1e-6));
    CHECK(static_cast<double>(p.lse(1, 1, 49, 0)) == approx(std::log(140.0)));
    heed::tensor_view<float const> const q{nullptr, p.n.q()}, k{nullptr, p.n.k()};
    tensor<float> again(p.n.out());
    heed::forward(heed::softmax_attention(), q, k, p.v.in(), again.view());
    CHECK(same_bits(again, p.out));
}
