// SPDX-License-Identifier: BSD-3-Clause
// Spectral mechanisms against the dense oracle: every border, orientation and normalizer over short, long, prime and odd lengths, strides, shared
// batches, crossed lengths, NaN, threads, refusals.
#include "try_mixing.hpp"

#include <support/allocation_counter.hpp>
#include <support/team.hpp>

using namespace heed_test;

namespace {

constexpr auto convolve = heed::spectral{heed::wrapped{}, heed::convolution{}};
constexpr auto correlate = heed::spectral{heed::wrapped{}, heed::correlation{}};
constexpr auto causal = heed::spectral{heed::unwrapped{}, heed::convolution{}};

template <class T, class M>
verdict try_one(M const& m, heed::shape z, heed::shape v, heed::shape out, random_source& random) {
    return mixing<T>(z, v, out, random).run(m);
}

} // namespace

TEST_CASE("one weight vector a head, around a circle and causal, lengths of every kind") {
    HEED_SEEDED;
    random_source random(11);
    for (extent_t const n : {1, 2, 3, 7, 37, 64, 127, 200, 360, 1009, 1031}) {
        extent_t const d = n > 500 ? 3 : 2 * heed::fft_passes<float, heed::native_arch>::row_size + 5;
        heed::shape const z{2, 2, n, 1}, v{2, 2, n, d};
        CAPTURE(n, d);
        CHECK(try_one<float>(heed::circular_attention(), z, v, v, random).text == "");
        CHECK(try_one<float>(heed::circular_attention(heed::convolution{}), z, v, v, random).text == "");
        CHECK(try_one<float>(causal, z, v, v, random).text == "");
        CHECK(try_one<double>(convolve, {1, 2, n, 1}, {1, 2, n, 3}, {1, 2, n, 3}, random).text == "");
    }
    CHECK(try_one<float>(heed::circular_attention(), {1, 1, 4095, 1}, {1, 1, 4095, 2}, {1, 1, 4095, 2}, random).text == "");
    CHECK(try_one<float>(heed::circular_attention(), {1, 1, 4099, 1}, {1, 1, 4099, 2}, {1, 1, 4099, 2}, random).text == "");
}

TEST_CASE("a weight vector for each channel") {
    HEED_SEEDED;
    random_source random(12);
    for (extent_t const n : {1, 2, 5, 37, 96, 509}) {
        extent_t const d = heed::fft_passes<float, heed::native_arch>::row_size + 3;
        heed::shape const s{1, 2, n, d};
        CAPTURE(n, d);
        CHECK(try_one<float>(convolve, s, s, s, random).text == "");
        CHECK(try_one<float>(correlate, s, s, s, random).text == "");
        CHECK(try_one<float>(causal, s, {2, 2, n, d}, {2, 2, n, d}, random).text == "");
        CHECK(try_one<float>(heed::spectral{heed::unwrapped{n / 2}, heed::convolution{}}, s, s, s, random).text == "");
    }
}

TEST_CASE("kernels longer and shorter than the sequence, moved by any shift, both orientations") {
    HEED_SEEDED;
    random_source random(13);
    for (extent_t const n : {1, 9, 150, 400}) {
        for (extent_t const k : {extent_t(1), extent_t(5), n, 2 * n - 1, 3 * n}) {
            for (extent_t const shift : {extent_t(0), extent_t(2), n - 1, n / 2, -n / 3}) {
                CAPTURE(n, k, shift);
                CHECK(try_one<double>(heed::spectral{heed::unwrapped{shift}, heed::convolution{}}, {1, 1, k, 1}, {1, 1, n, 3}, {1, 1, n, 3}, random).text == "");
                CHECK(try_one<double>(heed::spectral{heed::unwrapped{shift}, heed::correlation{}}, {1, 1, k, 3}, {1, 1, n, 3}, {1, 1, n, 3}, random).text == "");
            }
        }
    }
}

TEST_CASE("values of another length are folded onto the circle, or end in zeros") {
    HEED_SEEDED;
    random_source random(14);
    for (extent_t const n : {5, 21, 360, 509}) {
        for (extent_t const m : {1, 3, 20, 700, 1300}) {
            CAPTURE(n, m);
            CHECK(try_one<float>(heed::circular_attention(), {1, 2, n, 1}, {1, 2, m, 5}, {1, 2, n, 5}, random).text == "");
            CHECK(try_one<float>(convolve, {1, 2, n, 5}, {1, 2, m, 5}, {1, 2, n, 5}, random).text == "");
        }
    }
}

TEST_CASE("scores or values shared by batch entries and heads") {
    HEED_SEEDED;
    random_source random(15);
    for (extent_t const n : {30, 256}) {
        CHECK(try_one<float>(heed::circular_attention(), {1, 2, n, 1}, {3, 2, n, 5}, {3, 2, n, 5}, random).text == "");
        CHECK(try_one<float>(heed::circular_attention(), {3, 2, n, 1}, {1, 1, n, 5}, {3, 2, n, 5}, random).text == "");
        CHECK(try_one<float>(convolve, {1, 1, n, 5}, {3, 2, n, 5}, {3, 2, n, 5}, random).text == "");
    }
}

TEST_CASE("any strides, next to protected pages") {
    HEED_SEEDED;
    random_source random(16);
    for (extent_t const n : {17, 128, 211}) {
        heed::shape const z{2, 2, n, 1}, v{2, 2, n, 21};
        heed::strides const backwards{2 * n * 21, n * 21, -21, 1}, features_first{2 * n * 21, n * 21, 1, n}, doubled{8 * n * 21, 4 * n * 21, 84, 2};
        for (auto const& steps : {backwards, features_first, doubled}) {
            for (place const where : {place::margin, place::upper_page, place::lower_page}) {
                mixing<float> m(z, v, v, random, where);
                tensor<float> out(v, steps, where), values(v, steps, where);
                values.copy(m.v.in());
                heed::forward(heed::circular_attention(), m.z.in(), values.in(), out.view());
                auto const result = compare_rms<float>(out.in(), m.exact(heed::circular_attention()));
                CHECK(result.text == "");
                CHECK(out.intact());
            }
        }
        mixing<float> whole({1, 1, n, 1}, {1, 1, n, 64}, {1, 1, n, 64}, random, place::upper_page); // rows taken as they lie
        CHECK(whole.run(convolve).text == "");
    }
}

TEST_CASE("NaN and infinities stand in the rows and channels that attend them, and in no other") {
    HEED_SEEDED;
    random_source random(17);
    for (extent_t const n : {20, 300}) {
        for (extent_t const d : {7, 64}) {
            mixing<float> m({1, 1, n, 1}, {1, 1, n, d}, {1, 1, n, d}, random);
            m.v(0, 0, n / 2, 3) = NAN;
            CHECK(m.run(causal).text == "");
            CHECK(m.run(convolve).text == "");
            CHECK(m.run(heed::spectral{heed::unwrapped{3}, heed::correlation{}}).text == "");
            m.z(0, 0, 7, 0) = -INFINITY; // masks the value that stands there
            CHECK(m.run(heed::circular_attention()).text == "");
            CHECK(m.run(heed::causal_circular_attention()).text == "");
            m.z(0, 0, 7, 0) = 0;
            m.v(0, 0, n / 2, 3) = INFINITY;
            CHECK(m.run(causal).text == "");
            mixing<float> c({1, 1, n, d}, {1, 1, n, d}, {1, 1, n, d}, random);
            c.z(0, 0, n - 2, 1) = NAN;
            CHECK(c.run(causal).text == "");
        }
    }
}

TEST_CASE("scores of any size: softmax neither overflows nor loses its row; all of them -inf weigh nothing") {
    HEED_SEEDED;
    random_source random(18);
    mixing<float> m({1, 2, 100, 1}, {1, 2, 100, 4}, {1, 2, 100, 4}, random);
    m.z.each([](float& x) { x = 1e30f * x; });
    CHECK(m.run(heed::circular_attention()).text == "");
    m.z.normal(random, 1, 90);
    CHECK(m.run(heed::circular_attention()).text == "");
    m.z.each_at([](float& x, extent_t, extent_t h, extent_t, extent_t) { x = h == 0 ? -INFINITY : x; });
    CHECK(m.run(heed::circular_attention()).text == "");
    CHECK(m.out(0, 0, 7, 2) == 0.0f);
}

TEST_CASE("the same bits for any number of threads; a plan runs without allocation; empty calls write nothing") {
    HEED_SEEDED;
    random_source random(19);
    for (extent_t const n : {24, 509, 512}) {
        mixing<float> a({2, 3, n, 1}, {2, 3, n, 40}, {2, 3, n, 40}, random);
        tensor<float> other(a.out.shape());
        heed::forward(heed::circular_attention(), a.z.in(), a.v.in(), a.out.view());
        heed::forward(heed::circular_attention(), a.z.in(), a.v.in(), other.view(), heed::cpu{thread_team{3}});
        CHECK(same_bits(a.out, other));
        heed::forward(heed::circular_attention(), a.z.in(), a.v.in(), other.view(), heed::cpu{backwards{}});
        CHECK(same_bits(a.out, other));

        auto plan = heed::plan<float>(heed::circular_attention(), a.z.shape(), a.v.shape(), other.shape());
        std::vector<std::byte> tables(plan.tables_bytes()), scratch(plan.scratch_bytes());
        plan.make_tables(tables);
        other.fill(0);
        allocation_scope const counted;
        plan.run(a.z.in(), a.v.in(), other.view(), std::span<std::byte const>(tables), std::span<std::byte>(scratch));
        CHECK(counted.calls() == 0);
        CHECK(same_bits(a.out, other));
    }
    tensor<float> z({0, 2, 5, 1}), v({0, 2, 5, 3}), out({0, 2, 5, 3}), narrow({1, 1, 5, 0}), z1({1, 1, 5, 1});
    heed::forward(heed::circular_attention(), z.in(), v.in(), out.view());
    heed::forward(heed::circular_attention(), z1.in(), narrow.in(), narrow.view());
    tensor<float> none({1, 1, 0, 1}), five({1, 1, 5, 3}), result({1, 1, 5, 3}); // no weights: nothing is mixed in
    five.normal(random);
    heed::forward(causal, none.in(), five.in(), result.view());
    result.each([](float x) { CHECK(x == 0.0f); });
}

TEST_CASE("refusals name the argument, both numbers and the rule") {
    tensor<float> z({1, 2, 6, 1}), wide({1, 2, 6, 3}), v({1, 2, 6, 4}), out({1, 2, 6, 4}), longer({1, 2, 7, 4}), heads({1, 3, 6, 4});
    auto const cat = heed::circular_attention();
    CHECK_THROWS_WITH(heed::forward(cat, z.in(), v.in(), longer.view()), contains("out has 7 positions and z has 6"));
    CHECK_THROWS_WITH(heed::forward(causal, z.in(), v.in(), longer.view()), contains("out has 7 positions and v has 6"));
    CHECK_THROWS_WITH(heed::forward(convolve, wide.in(), v.in(), out.view()), contains("z has 3 features and out has 4"));
    CHECK_THROWS_WITH(heed::forward(cat, v.in(), v.in(), out.view()), contains("one score a token"));
    CHECK_THROWS_WITH(heed::forward(cat, z.in(), heads.in(), out.view()), contains("v.head is 3 and out has 2 heads"));
    CHECK_THROWS_WITH(heed::forward(cat, z.in(), out.in(), out.view()), contains("overlaps"));
    auto plan = heed::plan<float>(cat, z.shape(), v.shape(), out.shape());
    std::vector<std::byte> small(8);
    CHECK_THROWS_WITH(plan.run(z.in(), v.in(), out.view(), std::span<std::byte>(small)), contains("workspace has 8 bytes"));
    CHECK(plan.describe().find("by products") != std::string::npos);
    CHECK(heed::plan<float>(cat, {1, 1, 4096, 1}, {1, 1, 4096, 64}, {1, 1, 4096, 64}).transform_length() == 4096);
    CHECK(heed::plan<float>(cat, {1, 1, 4099, 1}, {1, 1, 4099, 64}, {1, 1, 4099, 64}).transform_length() == 8192);
}
