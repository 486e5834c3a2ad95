// SPDX-License-Identifier: BSD-3-Clause
// Sub-gradients where values are gathered by (max, +) and (min, +).
#include "try_gradients.hpp"

#include <support/team.hpp>

using namespace heed_test;

TEST_CASE("winners: gradients against central differences", "[gradient]") {
    HEED_SEEDED;
    try_gradients(heed::attention{heed::hilbert{}, heed::causal_bottom_right{}, heed::tropical<heed::max_plus>{}, heed::max_plus{}});
    try_gradients(heed::attention{heed::one_sided_hilbert{}, heed::window(50, 2), heed::tropical_exit{}, heed::max_plus{}});
    try_gradients(heed::attention{heed::min_plus_score{}, heed::full{}, heed::tropical<heed::min_plus>{}, heed::min_plus{}});
    try_gradients(heed::attention{heed::dot{} | heed::scale{0.3} | heed::softcap{2.0}, heed::causal_bottom_right{}, heed::tropical<heed::max_plus>{}, heed::max_plus{}});
}

TEST_CASE("winners: ties go to the lowest key and the lowest feature", "[gradient]") {
    auto const m = heed::attention{heed::max_plus_score{}, heed::full{}, heed::tropical<heed::max_plus>{}, heed::max_plus{}};
    sizes const n{1, 1, 1, 30, 200, 19, 5};
    random_source random(42);
    gradients_of p(n, 0, random);
    p.q.fill(0), p.k.fill(0), p.v.fill(0), p.dout.fill(1);
    p.run(m);
    p.dv.each_at([&](double& x, extent_t, extent_t, extent_t j, extent_t) { REQUIRE(x == (j == 0 ? 30 : 0)); });
    p.dk.each_at([&](double& x, extent_t, extent_t, extent_t j, extent_t c) { REQUIRE(x == (j == 0 && c == 0 ? 150 : 0)); });
    p.dq.each_at([&](double& x, extent_t, extent_t, extent_t, extent_t c) { REQUIRE(x == (c == 0 ? 5 : 0)); });
}

TEST_CASE("winners: threads change no bit, rows without keys and NaN send nothing back", "[contract]") {
    HEED_SEEDED;
    auto const m = heed::attention{heed::hilbert{}, heed::causal_bottom_right{}, heed::tropical_exit{}, heed::max_plus{}};
    random_source random(43);
    sizes const n{2, 4, 2, 77, 50, 6, 7};
    gradients_of p(n, 0, random), other(n, 0, random);
    other.q.copy(p.q.in()), other.k.copy(p.k.in()), other.v.copy(p.v.in()), other.dout.copy(p.dout.in());
    p.run(m);
    thread_team const threads{3};
    other.run(m, heed::cpu{threads});
    auto const same = [](tensor<double> const& a, tensor<double>& b) { b.each_at([&](double& x, extent_t i, extent_t j, extent_t k, extent_t l) { REQUIRE(x == a(i, j, k, l)); }); };
    same(p.dq, other.dq), same(p.dk, other.dk), same(p.dv, other.dv);
    for (extent_t c = 0; c < n.width; ++c) { CHECK(p.dq(0, 0, 3, c) == 0); } // sees no key
    // a NaN key, attended by the last queries, changes nothing for the others
    double const nan = std::numeric_limits<double>::quiet_NaN();
    other.k(0, 0, 49, 2) = nan;
    other.run(m);
    for (extent_t i = 0; i < 76; ++i) {
        for (extent_t c = 0; c < n.width; ++c) { REQUIRE(other.dq(0, 0, i, c) == p.dq(0, 0, i, c)); }
    }
    other.dk.each([](double& x) { REQUIRE(std::isfinite(x)); });
}
