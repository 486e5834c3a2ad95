// SPDX-License-Identifier: BSD-3-Clause
// Causal convolutions token by token: the results of the full transform, whatever the steps.
#include "try_mixing.hpp"

#include <support/catch.hpp>
#include <support/team.hpp>

#include <heed/front/convolution_stream.hpp>

using namespace heed_test;

namespace {

// Steps of the given sizes in turn, until all tokens are there.
template <class T, class... Options>
void walk(heed::convolution_stream<T>& stream, tensor<T>& v, tensor<T>& out, std::vector<extent_t> const& steps, Options const&... options) {
    extent_t const n = v.shape().seq;
    auto const part = [](auto view, extent_t first, extent_t count) {
        heed::shape s = view.shape();
        s.seq = count;
        return heed::tensor_view(view.row(0, 0, first), s, view.strides());
    };
    for (std::size_t i = 0; stream.tokens() < n; ++i) {
        extent_t const first = stream.tokens(), count = std::min(steps[i % steps.size()], n - first);
        heed::step(stream, part(v.in(), first, count), part(out.view(), first, count), options...);
    }
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
    for (extent_t const n : {1, 31, 32, 33, 64, 129, 500, 1024}) {
        for (extent_t const k : {1, 2, 33, 66, 499, 1100}) {
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
