// SPDX-License-Identifier: BSD-3-Clause
// Causal convolutions and causal circular attention token by token: the results of the full transform, whatever the steps.
#include "try_mixing.hpp"

#include <support/catch.hpp>
#include <support/team.hpp>

#include <heed/front/convolution_stream.hpp>
#include <heed/front/prefix_stream.hpp>

using namespace heed_test;

namespace {

// Steps of the given sizes in turn, until all tokens are there: one(first, count).
template <class S, class F>
void walk(S& stream, extent_t tokens, std::vector<extent_t> const& steps, F const& one) {
    for (std::size_t i = 0; stream.tokens() < tokens; ++i) {
        extent_t const first = stream.tokens();
        one(first, std::min(steps[i % steps.size()], tokens - first));
    }
}
template <class View>
auto rows(View view, extent_t first, extent_t count) {
    heed::shape s = view.shape();
    s.seq = count;
    return heed::tensor_view(view.row(0, 0, first), s, view.strides());
}
template <class T, class... Options>
void walk(heed::convolution_stream<T>& stream, tensor<T>& v, tensor<T>& out, std::vector<extent_t> const& steps, Options const&... options) {
    walk(stream, v.shape().seq, steps, [&](extent_t first, extent_t count) { heed::step(stream, rows(v.in(), first, count), rows(out.view(), first, count), options...); });
}
template <class T, class... Options>
void walk(heed::prefix_stream<T>& stream, mixing<T>& m, tensor<T>& out, std::vector<extent_t> const& steps, Options const&... options) {
    walk(stream, m.v.shape().seq, steps, [&](extent_t first, extent_t count) { heed::step(stream, rows(m.z.in(), first, count), rows(m.v.in(), first, count), rows(out.view(), first, count), options...); });
}

template <class T>
void try_stream(heed::shape z, heed::shape v, random_source& random, std::vector<extent_t> const& steps) {
    mixing<T> m(z, v, v, random);
    auto stream = heed::make_stream(heed::causal_long_convolution(), m.z.in(), v);
    walk(stream, m.v, m.out, steps);
    double const size = std::sqrt(static_cast<double>(z.seq)) * root_mean_square(oracle::read(m.z.in())) * root_mean_square(oracle::read(m.v.in()));
    verdict const found = compare_rms<T>(m.out.in(), m.exact(heed::causal_long_convolution()), size, sizeof(T) == 4 ? 3 : 6);
    INFO("taps " << z.seq << " x " << z.feature << ", tokens " << v.seq << " " << found.text);
    REQUIRE(found.good());
    REQUIRE((m.z.intact() && m.v.intact() && m.out.intact()));
}

} // namespace

TEST_CASE("stream: steps give what the oracle gives on the whole", "[decode]") {
    HEED_SEEDED;
    random_source random(31);
    for (extent_t const n : {1, 31, 33, 64, 129, 500}) {
        for (extent_t const k : {1, 2, 33, 66, 600}) {
            try_stream<float>({1, 1, k, 7}, {1, 1, n, 7}, random, {1});
            try_stream<double>({1, 2, k, 1}, {2, 2, n, 3}, random, {1, 5, 40});
        }
    }
    try_stream<float>({2, 1, 700, 21}, {2, 2, 700, 21}, random, {700});
}

TEST_CASE("stream: the steps' sizes and threads change no bit, a stream starts again", "[laws]") {
    HEED_SEEDED;
    random_source random(32);
    heed::shape const v{2, 2, 333, 19};
    mixing<float> m({1, 1, 333, 19}, v, v, random);
    auto stream = heed::make_stream(heed::causal_long_convolution(), m.z.in(), v);
    walk(stream, m.v, m.out, {1});
    tensor<float> other(v);
    stream.reset();
    thread_team three{3};
    walk(stream, m.v, other, {7, 64, 1}, heed::cpu{three});
    CHECK(same_bits(other, m.out));
}

TEST_CASE("stream: NaN and infinities reach the later rows of their channel and no other", "[contract]") {
    HEED_SEEDED;
    random_source random(33);
    for (float const poison : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
        heed::shape const v{1, 1, 200, 9};
        mixing<float> m({1, 1, 150, 1}, v, v, random);
        m.v(0, 0, 40, 3) = poison;
        auto stream = heed::make_stream(heed::causal_long_convolution(), m.z.in(), v);
        walk(stream, m.v, m.out, {1});
        m.out.each_at([&](float& x, extent_t, extent_t, extent_t i, extent_t c) { REQUIRE(std::isfinite(x) == !(c == 3 && i >= 40 && i < 190)); });
    }
}

TEST_CASE("stream: what is refused", "[contract]") {
    random_source random(34);
    mixing<float> m({1, 1, 20, 1}, {1, 2, 30, 5}, {1, 2, 30, 5}, random);
    auto stream = heed::make_stream(heed::causal_long_convolution(), m.z.in(), heed::shape{1, 2, 29, 5});
    CHECK_THROWS_WITH(heed::step(stream, m.v.in(), m.out.view()), heed_test::contains("30 more tokens after 0"));
    mixing<float> narrow({1, 1, 20, 1}, {1, 2, 3, 4}, {1, 2, 3, 4}, random);
    CHECK_THROWS_WITH(heed::step(stream, narrow.v.in(), narrow.out.view()), heed_test::contains("v.feature"));
    CHECK_THROWS_WITH(heed::make_stream(heed::causal_long_convolution(), m.v.in(), heed::shape{1, 2, 29, 4}), heed_test::contains("w.feature is 5"));
    CHECK_THROWS_WITH(heed::make_stream(heed::spectral{heed::unwrapped{2}, heed::convolution{}}, m.z.in(), heed::shape{1, 2, 29, 5}), heed_test::contains("shifted by 2"));
}

TEST_CASE("stream: causal circular attention token by token is what the oracle gives on the whole, whatever the range of the scores", "[decode]") {
    HEED_SEEDED;
    random_source random(35);
    auto const m = heed::causal_circular_attention();
    for (extent_t const n : {1, 31, 32, 33, 64, 65, 96, 129, 300}) {
        for (int form = 0; form < 5; ++form) {
            CAPTURE(n, form);
            mixing<float> x({1, form == 0 ? 1 : 2, n, 1}, {1, 2, n, 3}, {1, 2, n, 3}, random);
            x.z.each_at([&](float& z, extent_t, extent_t, extent_t i, extent_t) {
                if (form == 1) { z = 200.0f * static_cast<float>(i) / static_cast<float>(n) + z; }                          // rising
                if (form == 2) { z = i == n / 2 ? 95.0f : z; }                                                               // a summit
                if (form == 3) { z = i < n / 3 ? -INFINITY : z - 300.0f * static_cast<float>(i) / static_cast<float>(n); }   // nothing at first, then falling
                if (form == 4) { z = -INFINITY; }
            });
            auto stream = heed::make_stream<float>(m, x.v.shape());
            walk(stream, x, x.out, form % 2 == 0 ? std::vector<extent_t>{1} : std::vector<extent_t>{1, 7, 50});
            auto const exact = x.exact(m);
            verdict result;
            x.out.each_at([&](float& y, extent_t b, extent_t h, extent_t i, extent_t e) { result.look("out", b, h, i, e, static_cast<double>(y), exact(b, h, i, e), 4e-6); });
            CHECK(result.text == "");
            CHECK(x.out.intact());
        }
    }
    mixing<double> x({1, 2, 500, 1}, {1, 2, 500, 3}, {1, 2, 500, 3}, random);
    auto stream = heed::make_stream<double>(m, x.v.shape());
    walk(stream, x, x.out, {3});
    auto const exact = x.exact(m);
    verdict result;
    x.out.each_at([&](double& y, extent_t b, extent_t h, extent_t i, extent_t e) { result.look("out", b, h, i, e, y, exact(b, h, i, e), 1e-14); });
    CHECK(result.text == "");
}

TEST_CASE("stream: scores that come with the values: steps and threads change no bit, NaN, refusals", "[laws]") {
    HEED_SEEDED;
    random_source random(36);
    auto const m = heed::causal_circular_attention();
    heed::shape const v{2, 2, 333, 19};
    mixing<float> x({2, 2, 333, 1}, v, v, random);
    auto stream = heed::make_stream<float>(m, v);
    walk(stream, x, x.out, {1});
    tensor<float> other(v);
    stream.reset();
    thread_team three{3};
    walk(stream, x, other, {7, 64, 1}, heed::cpu{three});
    CHECK(same_bits(other, x.out));
    CHECK_THROWS_WITH(heed::step(stream, x.z.in(), x.v.in(), x.out.view()), heed_test::contains("333 more tokens after 333"));
    stream.reset();
    CHECK_THROWS_WITH(heed::step(stream, x.v.in(), x.v.in(), x.out.view()), heed_test::contains("1 score a token"));
    CHECK_THROWS_WITH(heed::step(stream, rows(x.z.in(), 0, 3), x.v.in(), x.out.view()), heed_test::contains("z has 3 positions and v has 333"));
    x.v(0, 1, 100, 3) = INFINITY;
    walk(stream, x, x.out, {1});
    x.out.each_at([&](float& y, extent_t b, extent_t h, extent_t i, extent_t c) { REQUIRE(std::isfinite(y) == !(b == 0 && h == 1 && c == 3 && i >= 100)); });
    x.v(0, 1, 100, 3) = 0;
    x.z(1, 0, 70, 0) = NAN; // in the denominator of every later row
    stream.reset();
    walk(stream, x, x.out, {1});
    x.out.each_at([&](float& y, extent_t b, extent_t h, extent_t i, extent_t) { REQUIRE(std::isfinite(y) == !(b == 1 && h == 0 && i >= 70)); });
}
