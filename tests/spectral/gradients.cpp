// SPDX-License-Identifier: BSD-3-Clause
// Gradients of spectral mechanisms against the derivative of the dense oracle (its matrix is linear in v; scores by central differences), and the causal
// form with a softmax over the prefix, forward and backward.
#include "try_mixing.hpp"

#include <support/team.hpp>

#include <heed/front/spectral_backward.hpp>

using namespace heed_test;

namespace {

constexpr auto causal = heed::causal_circular_attention();

// out's derivative along (dz, dv) by central differences of the oracle: the loss is sum(out dout).
double slope(oracle::spectral_case const& c, oracle::array const& z, oracle::array const& v, oracle::array const& dout, oracle::array const& toward_z, oracle::array const& toward_v) {
    auto const at = [&](double h) {
        oracle::array a = z, b = v;
        for (std::size_t i = 0; i < a.x.size(); ++i) { a.x[i] += h * toward_z.x[i]; }
        for (std::size_t i = 0; i < b.x.size(); ++i) { b.x[i] += h * toward_v.x[i]; }
        oracle::array const out = oracle::spectral(c, a, b, dout.s);
        double sum = 0;
        for (std::size_t i = 0; i < out.x.size(); ++i) { sum += out.x[i] * dout.x[i]; }
        return sum;
    };
    double const h = 1e-4;
    return (8 * (at(h) - at(-h)) - (at(2 * h) - at(-2 * h))) / (12 * h);
}
double along(oracle::array const& a, oracle::array const& b) {
    double sum = 0;
    for (std::size_t i = 0; i < a.x.size(); ++i) { sum += a.x[i] * b.x[i]; }
    return sum;
}

// Gradients along random directions, and along single elements of z and v.
template <class M>
void check_gradients(M const& m, heed::shape z, heed::shape v, heed::shape out, random_source& random, double spread = 1) {
    mixing<double> x(z, v, out, random);
    x.z.normal(random, spread);
    tensor<double> dout(out), dz(z), dv(v);
    dout.normal(random);
    heed::forward(m, x.z.in(), x.v.in(), x.out.view());
    heed::backward(m, x.z.in(), x.v.in(), x.out.in(), dout.in(), dz.view(), dv.view());
    CHECK((dz.intact() && dv.intact()));
    auto const c = case_of(m, out.seq);
    auto const exact_z = oracle::read(x.z.in()), exact_v = oracle::read(x.v.in()), exact_dout = oracle::read(dout.in()), got_z = oracle::read(dz.in()), got_v = oracle::read(dv.in());
    for (int trial = 0; trial < 5; ++trial) {
        oracle::array to_z(z), to_v(v);
        if (trial == 0) {
            for (double& a : to_z.x) { a = random.normal(); }
        } else if (trial == 1) {
            for (double& a : to_v.x) { a = random.normal(); }
        } else if (trial < 4) {
            to_z.x[static_cast<std::size_t>(random.integer(0, z.size() - 1))] = 1;
        } else {
            to_v.x[static_cast<std::size_t>(random.integer(0, v.size() - 1))] = 1;
        }
        double const expected = slope(c, exact_z, exact_v, exact_dout, to_z, to_v), got = along(got_z, to_z) + along(got_v, to_v);
        CAPTURE(z.seq, v.seq, out.seq, z.feature, trial);
        CHECK(std::abs(got - expected) <= 1e-7 * std::max(1.0, std::abs(expected)));
    }
}

} // namespace

TEST_CASE("gradients around a circle, both orientations, smooth and prime lengths, folded values") {
    HEED_SEEDED;
    random_source random(31);
    for (extent_t const n : {1, 2, 3, 12, 37, 64, 101}) {
        for (extent_t const values : {n, n / 2 + 1, 2 * n + 3}) {
            heed::shape const z{1, 2, n, 1}, v{1, 2, values, 5}, out{1, 2, n, 5};
            check_gradients(heed::circular_attention(), z, v, out, random);
            check_gradients(heed::circular_attention(heed::convolution{}), z, v, out, random);
        }
        heed::shape const s{1, 1, n, 9};
        check_gradients(heed::spectral{heed::wrapped{}, heed::correlation{}}, s, s, s, random);
        check_gradients(heed::spectral{heed::wrapped{}, heed::convolution{}}, s, s, s, random);
    }
}

TEST_CASE("gradients of long convolutions of any length and shift") {
    HEED_SEEDED;
    random_source random(32);
    for (extent_t const n : {1, 9, 50}) {
        for (extent_t const k : {extent_t(1), extent_t(4), n, 2 * n - 1}) {
            for (extent_t const shift : {extent_t(0), n - 1, n / 2}) {
                heed::shape const v{1, 2, n, 3};
                check_gradients(heed::spectral{heed::unwrapped{shift}, heed::convolution{}}, {1, 2, k, 3}, v, v, random);
                check_gradients(heed::spectral{heed::unwrapped{shift}, heed::correlation{}}, {1, 2, k, 1}, v, v, random);
            }
        }
    }
}

TEST_CASE("gradients of what batch entries and heads share are summed over them") {
    HEED_SEEDED;
    random_source random(33);
    heed::shape const out{3, 2, 20, 4};
    check_gradients(heed::circular_attention(), {1, 2, 20, 1}, {3, 2, 20, 4}, out, random);
    check_gradients(heed::circular_attention(), {3, 2, 20, 1}, {1, 1, 20, 4}, out, random);
    check_gradients(heed::spectral{heed::wrapped{}, heed::convolution{}}, {1, 1, 20, 4}, {3, 1, 20, 4}, out, random);
    check_gradients(causal, {1, 2, 20, 1}, {3, 1, 20, 4}, out, random);
}

TEST_CASE("causal with a softmax over the prefix: rows before a large score keep their digits") {
    HEED_SEEDED;
    random_source random(34);
    for (extent_t const n : {1, 31, 64, 65, 127, 300, 1024}) {
        for (int shape = 0; shape < 4; ++shape) {
            CAPTURE(n, shape);
            mixing<float> x({1, 2, n, 1}, {1, 2, n, 5}, {1, 2, n, 5}, random);
            x.z.each_at([&](float& z, extent_t, extent_t, extent_t i, extent_t) {
                if (shape == 1) { z = 200.0f * static_cast<float>(i) / static_cast<float>(n) + z; }            // rising: every block has a scale of its own
                if (shape == 2) { z = i == n / 2 ? 95.0f : z; }                                                 // a summit
                if (shape == 3) { z = i < n / 3 ? -INFINITY : z - 100.0f * static_cast<float>(i) / static_cast<float>(n); } // nothing at first, then falling
            });
            heed::forward(causal, x.z.in(), x.v.in(), x.out.view());
            auto const exact = x.exact(causal);
            verdict result;
            for (extent_t h = 0; h < 2; ++h)
                for (extent_t i = 0; i < n; ++i)
                    for (extent_t e = 0; e < 5; ++e) { result.look("out", 0, h, i, e, static_cast<double>(x.out(0, h, i, e)), exact(0, h, i, e), 4e-6); } // weights sum to 1, values to 4 or so
            CHECK(result.text == "");
        }
    }
    mixing<float> x({1, 1, 200, 1}, {1, 1, 200, 5}, {1, 1, 200, 5}, random);
    x.v(0, 0, 150, 2) = NAN;
    CHECK(x.run(causal).text == "");
    x.z(0, 0, 90, 0) = NAN;
    CHECK(x.run(causal).text == "");
}

TEST_CASE("gradients of the causal form; the same bits for any number of threads") {
    HEED_SEEDED;
    random_source random(35);
    for (extent_t const n : {1, 2, 40, 64, 130, 200}) {
        for (double const spread : {0.3, 4.0}) { check_gradients(causal, {1, 2, n, 1}, {1, 2, n, 3}, {1, 2, n, 3}, random, spread); }
    }
    mixing<float> x({2, 2, 150, 1}, {2, 2, 150, 40}, {2, 2, 150, 40}, random);
    auto const both = [&](auto const& m) {
        tensor<float> other(x.out.shape()), dz(x.z.shape()), dv(x.v.shape()), dz2(x.z.shape()), dv2(x.v.shape());
        heed::forward(m, x.z.in(), x.v.in(), x.out.view());
        heed::forward(m, x.z.in(), x.v.in(), other.view(), heed::cpu{thread_team{3}});
        CHECK(same_bits(x.out, other));
        heed::backward(m, x.z.in(), x.v.in(), x.out.in(), x.v.in(), dz.view(), dv.view());
        heed::backward(m, x.z.in(), x.v.in(), x.out.in(), x.v.in(), dz2.view(), dv2.view(), heed::cpu{thread_team{3}});
        CHECK((same_bits(dz, dz2) && same_bits(dv, dv2)));
    };
    both(causal);
    both(heed::circular_attention());
}
