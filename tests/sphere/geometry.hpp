// SPDX-License-Identifier: BSD-3-Clause
// Distances on the sphere by vectors in space: shares no formula with the library's rings.
#pragma once

#include <oracle/array.hpp>
#include <support/random.hpp>

#include <heed/view/ring_bands.hpp>

#include <array>
#include <cmath>
#include <numbers>

namespace heed_test {

inline std::array<double, 3> point_of(heed::sphere_grid const& g, heed::extent_t i) {
    double const a = g.colatitudes()[static_cast<std::size_t>(i / g.longitudes())], f = 2 * std::numbers::pi * static_cast<double>(i % g.longitudes()) / static_cast<double>(g.longitudes());
    return {std::sin(a) * std::cos(f), std::sin(a) * std::sin(f), std::cos(a)};
}
inline double distance(std::array<double, 3> const& x, std::array<double, 3> const& y) {
    double const dot = x[0] * y[0] + x[1] * y[1] + x[2] * y[2];
    std::array<double, 3> const c{x[1] * y[2] - x[2] * y[1], x[2] * y[0] - x[0] * y[2], x[0] * y[1] - x[1] * y[0]};
    return std::atan2(std::sqrt(c[0] * c[0] + c[1] * c[1] + c[2] * c[2]), dot);
}
inline oracle::relation near_points(heed::shape pairs, heed::sphere_grid const& q, heed::sphere_grid const& k, double reach) {
    oracle::relation r(pairs);
    for (heed::extent_t i = 0; i < pairs.seq; ++i) {
        for (heed::extent_t j = 0; j < pairs.feature; ++j) {
            bool const near = distance(point_of(q, i), point_of(k, j)) <= reach;
            for (heed::extent_t h = 0; h < pairs.batch * pairs.head; ++h) { r.x[static_cast<std::size_t>((h * pairs.seq + i) * pairs.feature + j)] = near; }
        }
    }
    return r;
}
inline heed::latitudes any_rule(random_source& random) {
    return random.pick({heed::latitudes::equiangular, heed::latitudes::legendre_gauss, heed::latitudes::lobatto, heed::latitudes::trapezoidal});
}
inline heed::sphere_grid any_grid(random_source& random, heed::extent_t most_rings, heed::extent_t most_longitudes) {
    return {any_rule(random), random.integer(2, most_rings), random.integer(1, most_longitudes)};
}

} // namespace heed_test
