// SPDX-License-Identifier: BSD-3-Clause
// Rules on what is not finite and on rows that see nothing, for every normalizer: one call with one key head, its numbers changed one at a time.
#include <support/catch.hpp>
#include <support/problem.hpp>

#include <heed/mechanism/proportional.hpp>
#include <heed/mechanism/rectified.hpp>
#include <heed/mechanism/sigmoid.hpp>
#include <heed/mechanism/sparse.hpp>

using namespace heed_test;

namespace {

constexpr float inf = std::numeric_limits<float>::infinity(), not_a_number = std::numeric_limits<float>::quiet_NaN();
constexpr extent_t N = 40, M = 300, D = 4, E = 6;

template <class F>
void with_every_mechanism(F const& f) {
    heed::window const pattern(150, 0); // rows see a part of the keys
    f("sigmoid", heed::sigmoid_attention(pattern));
    f("squared relu", heed::squared_relu_attention(pattern));
    f("softplus", heed::proportional_attention(heed::softplus_weight{}, pattern));
    f("elu", heed::proportional_attention(heed::elu_weight{}, pattern));
    f("quadratic", heed::proportional_attention(heed::quadratic_weight{}, pattern));
    f("mean", heed::mean_attention(pattern));
    f("sparsemax", heed::sparsemax_attention(pattern));
    f("entmax", heed::entmax15_attention(pattern));
    f("top k", heed::top_k_attention(7, pattern));
}
template <class M_>
void run(problem<float>& p, M_ const& m) {
    heed::forward(m, p.q.in(), p.k.in(), p.v.in(), p.out.view());
}
bool sees(extent_t i, extent_t j) { return i + (M - N) - 150 <= j && j <= i + (M - N); }
// Rows that are not finite, as text: one character per row.
std::string rows_of(problem<float> const& p, bool only_nan = true) {
    std::string rows;
    for (extent_t i = 0; i < N; ++i) {
        bool all = true, any = false;
        for (extent_t e = 0; e < E; ++e) {
            bool const bad = only_nan ? std::isnan(p.out(0, 0, i, e)) : !std::isfinite(p.out(0, 0, i, e));
            all = all && bad, any = any || bad;
        }
        rows += all ? 'x' : any ? '?' : '.';
    }
    return rows;
}
std::string seeing(extent_t j) {
    std::string rows;
    for (extent_t i = 0; i < N; ++i) { rows += sees(i, j) ? 'x' : '.'; }
    return rows;
}

} // namespace

TEST_CASE("normalizers: NaN where it is attended and nowhere else", "[contract]") {
    HEED_SEEDED;
    random_source random(961);
    problem<float> const original({1, 1, 1, N, M, D, E}, random);
    with_every_mechanism([&](char const* name, auto const& m) {
        INFO(name);
        problem<float> p = copied(original), clean = copied(original);
        run(clean, m);
        extent_t const j = 120; // the first rows see it, the last do not
        p.k(0, 0, j, 1) = not_a_number;
        run(p, m);
        CHECK(rows_of(p) == seeing(j));
        p.k.copy(original.k.in());
        for (extent_t e = 0; e < E; ++e) { p.v(0, 0, j, e) = not_a_number; }
        run(p, m);
        CHECK(rows_of(p) == seeing(j));
        for (extent_t i = 0; i < N; ++i) {
            if (!sees(i, j)) { CHECK(p.out(0, 0, i, 2) == clean.out(0, 0, i, 2)); }
        }
        p.v.copy(original.v.in());
        p.q(0, 0, 17, 2) = not_a_number;
        run(p, m);
        CHECK(rows_of(p) == std::string(17, '.') + "x" + std::string(N - 18, '.'));
    });
}

TEST_CASE("normalizers: a score of +infinity", "[contract]") {
    HEED_SEEDED;
    random_source random(962);
    problem<float> original({1, 1, 1, N, M, D, E}, random);
    original.q.each_at([](float& x, extent_t, extent_t, extent_t, extent_t d) { x = d == 0 ? 1.0f : x; });
    extent_t const j = 120;
    with_every_mechanism([&](char const* name, auto const& m) {
        INFO(name);
        problem<float> p = copied(original);
        for (extent_t d = 0; d < D; ++d) { p.k(0, 0, j, d) = d == 0 ? inf : 0; }
        run(p, m);
        using normalizer = std::remove_cvref_t<decltype(m.normalizer)>;
        if constexpr (std::is_same_v<normalizer, heed::sigmoid>) {
            // weighs 1: as a score that is merely large
            problem<float> large = copied(original);
            for (extent_t d = 0; d < D; ++d) { large.k(0, 0, j, d) = d == 0 ? 1e30f : 0; }
            run(large, m);
            CHECK(same_bits(p.out, large.out));
        } else if constexpr (std::is_same_v<normalizer, heed::pointwise<heed::uniform_weight, heed::by_visible>>) {
            CHECK(rows_of(p) == std::string(N, '.'));
        } else {
            CHECK(rows_of(p, false) == seeing(j));
        }
    });
}

TEST_CASE("normalizers: scores of any size", "[contract]") {
    HEED_SEEDED;
    random_source random(963);
    problem<float> const original({1, 1, 1, N, M, D, E}, random);
    // the greatest score wins, the others are too far away: every row is the value of one key
    auto const winner = [](auto const& m, problem<float> const& original_numbers, float size) {
        problem<float> p = copied(original_numbers);
        p.q.fill(1);
        p.k.each_at([&](float& x, extent_t, extent_t, extent_t j, extent_t d) { x = d == 0 ? size * (static_cast<float>((j * 89) % M) - 150) : 0; });
        run(p, m);
        bool right = true;
        for (extent_t i = 0; i < N; ++i) {
            extent_t best = -1;
            for (extent_t j = 0; j < M; ++j) {
                if (sees(i, j) && (best < 0 || p.k(0, 0, j, 0) > p.k(0, 0, best, 0))) { best = j; }
            }
            for (extent_t e = 0; e < E; ++e) { right = right && std::fabs(p.out(0, 0, i, e) - p.v(0, 0, best, e)) <= 1e-6f; }
        }
        return right;
    };
    for (float size : {1e3f, 1e28f, 1e35f}) {
        CHECK(winner(heed::sparsemax_attention(heed::window(150, 0)), original, size));
        CHECK(winner(heed::entmax15_attention(heed::window(150, 0)), original, size));
        CHECK(winner(heed::top_k_attention(2, heed::window(150, 0)), original, size));
    }
    // sigmoid: 1 above, 0 below, and small weights keep their size
    problem<float> p = copied(original);
    p.q.fill(1);
    p.k.each_at([](float& x, extent_t, extent_t, extent_t j, extent_t d) { x = d != 0 ? 0 : j % 2 == 0 ? 1e30f : -1e30f; });
    p.v.fill(1);
    run(p, heed::sigmoid_attention());
    CHECK(p.out(0, 0, 3, 1) == 150);
    p.k.each_at([](float& x, extent_t, extent_t, extent_t, extent_t d) { x = d != 0 ? 0 : -120; }); // e^-60 / 300 each
    run(p, heed::sigmoid_attention());
    CHECK(std::fabs(p.out(0, 0, 3, 1) / std::exp(-60.0f) - 1) < 1e-5f);
}

TEST_CASE("normalizers: rows that see nothing, and calls of no size", "[contract]") {
    HEED_SEEDED;
    random_source random(964);
    auto const empty_rows = [&](char const* name, auto const& m) {
        INFO(name);
        problem<float> p({1, 2, 1, 50, 20, D, E}, random); // the first 30 rows stand before the first key
        p.out.fill(not_a_number);
        run(p, m);
        bool zero = true, rest = true;
        for (extent_t i = 0; i < 50; ++i) {
            for (extent_t e = 0; e < E; ++e) { (i < 30 ? zero : rest) &= i < 30 ? p.out(0, 1, i, e) == 0 : std::isfinite(p.out(0, 1, i, e)); }
        }
        CHECK(zero);
        CHECK(rest);
        problem<float> none({1, 2, 1, 7, 0, D, E}, random), nothing({1, 2, 1, 0, 5, D, E}, random), flat({1, 2, 1, 7, 5, 0, E}, random);
        none.out.fill(not_a_number);
        run(none, m);
        for (extent_t i = 0; i < 7; ++i) { CHECK(none.out(0, 0, i, 0) == 0); }
        run(nothing, m);
        run(flat, m); // equal scores
        CHECK(std::isfinite(flat.out(0, 1, 6, 0)));
    };
    with_every_mechanism(empty_rows);
}
