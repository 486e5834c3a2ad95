// SPDX-License-Identifier: BSD-3-Clause
// Angles of rotary embedding against long double, for positions up to 2^20 and beyond; frequencies against their papers' limits.
#include <support/catch.hpp>
#include <support/random.hpp>

#include <heed/kernel/turn.hpp>
#include <heed/policy/load/frequencies.hpp>

#include <cmath>
#include <vector>

namespace {

// The largest error of cos and sin over positions and the pairs of a width.
template <class T, class A>
double worst_error(std::vector<double> const& positions, heed::extent_t pairs, double base) {
    heed::extent_t const room = pairs + 2 * heed::vec<T, A>::lanes;
    std::vector<double> frequency(static_cast<std::size_t>(room), 0.0);
    std::vector<T> c(frequency.size()), s(frequency.size());
    heed::geometric const f{base};
    for (heed::extent_t m = 0; m < pairs; ++m) { frequency[static_cast<std::size_t>(m)] = f.frequency(m, 2 * pairs) * 0.63661977236758134308; }
    double worst = 0;
    for (double t : positions) {
        heed::detail::turns<A, T>(t, frequency.data(), pairs, T(1), c.data(), s.data());
        for (heed::extent_t m = 0; m < pairs; ++m) {
            long double const angle = static_cast<long double>(t) * std::pow(static_cast<long double>(base), -static_cast<long double>(m) / static_cast<long double>(pairs));
            auto const i = static_cast<std::size_t>(m);
            worst = std::fmax(worst, static_cast<double>(std::fabs(static_cast<long double>(c[i]) - std::cos(angle))));
            worst = std::fmax(worst, static_cast<double>(std::fabs(static_cast<long double>(s[i]) - std::sin(angle))));
        }
    }
    return worst;
}

std::vector<double> positions_up_to(double most) {
    heed_test::random_source random(401);
    std::vector<double> t{0, 1, 2, 3, 4, 5, 100, -1, -7, most, most - 1};
    for (int k = 0; k < 300; ++k) { t.push_back(std::floor(random.uniform(-most, most))); }
    return t;
}

} // namespace

TEST_CASE("turn: float angles are right to the last bits at positions up to 2^20", "[load]") {
    HEED_SEEDED;
    auto const t = positions_up_to(1048576);
    for (heed::extent_t pairs : {1, 3, 8, 29, 64}) {
        CHECK(worst_error<float, heed::native_arch>(t, pairs, 10000) < 0x1p-23);
        CHECK(worst_error<float, heed::native_arch>(t, pairs, 500000) < 0x1p-23);
    }
#if defined(__SSE2__)
    CHECK(worst_error<float, heed::arch<heed::isa::sse2>>(t, 29, 10000) < 0x1p-23);
#endif
    CHECK(worst_error<float, heed::native_arch>(positions_up_to(0x1p30), 64, 10000) < 0x1p-21);
    // what a float angle would give
    float const angle = 1048575.0f * std::pow(10000.0f, -2.0f / 128);
    CHECK(std::fabs(std::cos(static_cast<double>(angle)) - std::cos(1048575.0 * std::pow(10000.0, -2.0 / 128))) > 0x1p-10);
}

TEST_CASE("turn: double angles lose what the product of position and frequency rounds", "[load]") {
    HEED_SEEDED;
    CHECK(worst_error<double, heed::native_arch>(positions_up_to(30), 29, 10000) < 1e-14);
    CHECK(worst_error<double, heed::native_arch>(positions_up_to(4096), 29, 10000) < 2e-12);
    CHECK(worst_error<double, heed::native_arch>(positions_up_to(1048576), 29, 10000) < 5e-10);
}

TEST_CASE("frequencies: geometric, interpolated, NTK, YaRN", "[load]") {
    using about = heed_test::approx;
    heed::geometric const plain{10000};
    CHECK(plain.frequency(0, 128) == 1.0);
    CHECK(plain.frequency(32, 128) == about(0.01));
    CHECK(heed::position_interpolation{10000, 4}.frequency(32, 128) == about(0.0025));
    // NTK: the first pair as it was, the last one divided by the factor
    heed::ntk const stretched{10000, 8};
    CHECK(stretched.frequency(0, 128) == 1.0);
    CHECK(stretched.frequency(63, 128) == about(plain.frequency(63, 128) / 8));
    CHECK(stretched.frequency(30, 128) < plain.frequency(30, 128));
    CHECK(stretched.frequency(0, 2) == 1.0);
    // YaRN: many turns within the length stay, less than one turn is divided, between them a straight line in the turns
    heed::yarn const y{10000, 8, 4096};
    double const two_pi = 6.283185307179586;
    for (heed::extent_t m = 0; m < 64; ++m) {
        double const f = plain.frequency(m, 128), turns = 4096 * f / two_pi;
        double const expected = turns >= 32 ? f : turns <= 1 ? f / 8 : f * ((turns - 1) / 31) + f / 8 * ((32 - turns) / 31);
        CHECK(y.frequency(m, 128) == about(expected));
    }
    CHECK(y.amplitude() == about(0.1 * std::log(8.0) + 1));
    CHECK(heed::yarn{10000, 1, 4096}.amplitude() == 1.0);
    double const list[] = {0.5, 0.25};
    CHECK(heed::listed_frequencies{heed::tensor_view<double const>{list, {1, 1, 1, 2}}}.frequency(1, 4) == 0.25);
}
