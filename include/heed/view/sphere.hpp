// SPDX-License-Identifier: BSD-3-Clause
// Grids on the sphere: rings of equal colatitude, each with the same equally spaced longitudes 2 pi m / n (m = 0 ... n - 1). A ring's weight is that of a
// rule on x = cos(colatitude) in [-1, 1] (weights sum to 2); a point's is 2 pi w / n, so that all points sum to 4 pi.
//   equiangular     x_l = cos(l pi / (n - 1)), Clenshaw-Curtis; poles on the grid; exact for polynomials of degree n - 1
//   legendre_gauss  roots of P_n; no poles; exact to degree 2n - 1
//   lobatto         +-1 and the roots of P'_{n-1}; poles; exact to degree 2n - 3
//   trapezoidal     x equally spaced (not the angle), trapezoid weights; poles; exact to degree 1
// All in double. Points are numbered ring by ring from the north pole: ring * longitudes + longitude.
#pragma once

#include <heed/view/error.hpp>

#include <cmath>
#include <numbers>
#include <span>
#include <vector>

namespace heed {

enum class latitudes { equiangular, legendre_gauss, lobatto, trapezoidal };

namespace detail {

// P_n(x) and P_{n-1}(x) by the recurrence of Bonnet.
struct legendre_pair {
    double now, before;
};
HEED_INLINE legendre_pair legendre(extent_t n, double x) {
    double now = 1, before = 0;
    for (extent_t k = 0; k < n; ++k) {
        double const next = (static_cast<double>(2 * k + 1) * x * now - static_cast<double>(k) * before) / static_cast<double>(k + 1);
        before = now;
        now = next;
    }
    return {now, before};
}

// x <- x - step(x) until it moves no more
template <class Step>
HEED_INLINE double newton(double x, Step const& step) {
    for (int turn = 0; turn < 100; ++turn) {
        double const moved = step(x);
        x -= moved;
        if (std::abs(moved) < 1e-16) { break; }
    }
    return x;
}

// Nodes from x = 1 down and their weights.
HEED_INLINE void quadrature(latitudes kind, std::span<double> x, std::span<double> w) {
    constexpr double pi = std::numbers::pi;
    extent_t const n = static_cast<extent_t>(x.size());
    double const last = static_cast<double>(n - 1);
    for (extent_t l = 0; l < n; ++l) {
        std::size_t const at = static_cast<std::size_t>(l);
        double const place = static_cast<double>(l);
        bool const end = l == 0 || l == n - 1;
        if (kind == latitudes::equiangular) {
            double sum = 1;
            for (extent_t k = 1; 2 * k <= n - 1; ++k) {
                double const order = static_cast<double>(k), share = 2 * k == n - 1 ? 1 : 2;
                sum -= share / (4 * order * order - 1) * std::cos(2 * order * place * pi / last);
            }
            x[at] = std::cos(place * pi / last);
            w[at] = (end ? 1 : 2) / last * sum;
        } else if (kind == latitudes::trapezoidal) {
            x[at] = 1 - 2 * place / last;
            w[at] = (end ? 1 : 2) / last;
        } else if (kind == latitudes::legendre_gauss) {
            double const degree = static_cast<double>(n);
            auto const slope = [&](legendre_pair p, double y) { return degree * (p.before - y * p.now) / (1 - y * y); };
            x[at] = newton(std::cos(pi * (place + 0.75) / (degree + 0.5)), [&](double y) {
                legendre_pair const p = legendre(n, y);
                return p.now / slope(p, y);
            });
            double const d = slope(legendre(n, x[at]), x[at]);
            w[at] = 2 / ((1 - x[at] * x[at]) * d * d);
        } else { // the roots of (1 - x^2) P'_{n-1}, which are those of x P_{n-1} - P_{n-2}
            auto const step = [&](double y) {
                legendre_pair const p = legendre(n - 1, y);
                return (y * p.now - p.before) / (static_cast<double>(n) * p.now);
            };
            x[at] = l == 0 ? 1 : l == n - 1 ? -1 : newton(std::cos(place * pi / last), step);
            double const p = legendre(n - 1, x[at]).now;
            w[at] = 2 / (last * static_cast<double>(n) * p * p);
        }
    }
}

} // namespace detail

// A grid as a value: it owns its two small arrays.
class sphere_grid {
    std::vector<double> colatitude_, weight_;
    extent_t longitudes_ = 0;

public:
    // Throws shape_error where a rule has no such grid: two rings at least where the poles are on it, one of legendre_gauss; one longitude.
    HEED_INLINE sphere_grid(latitudes kind, extent_t rings, extent_t longitudes) : longitudes_(longitudes) {
        extent_t const least = kind == latitudes::legendre_gauss ? 1 : 2;
        if (rings < least || longitudes < 1 || rings * longitudes > (extent_t(1) << 30)) {
            HEED_THROW(shape_error(sentence("heed: a sphere grid of ", rings, " rings and ", longitudes, " longitudes; it needs at least ", least, " rings, 1 longitude and at most 2^30 points")));
        }
        std::vector<double> x(static_cast<std::size_t>(rings));
        weight_.resize(x.size());
        colatitude_.resize(x.size());
        detail::quadrature(kind, x, weight_);
        for (std::size_t l = 0; l < x.size(); ++l) {
            bool const even = kind == latitudes::equiangular; // the angle itself, not the arc cosine of its cosine
            colatitude_[l] = even ? std::numbers::pi * static_cast<double>(l) / static_cast<double>(rings - 1) : std::acos(x[l]);
        }
    }
    // Rings of one's own: colatitudes in [0, pi], rising, and their weights.
    HEED_INLINE sphere_grid(std::span<double const> colatitude, std::span<double const> weight, extent_t longitudes)
        : colatitude_(colatitude.begin(), colatitude.end()), weight_(weight.begin(), weight.end()), longitudes_(longitudes) {
        if (colatitude.size() != weight.size() || colatitude.empty() || longitudes < 1) {
            HEED_THROW(shape_error(sentence("heed: a sphere grid of ", colatitude.size(), " colatitudes, ", weight.size(), " weights and ", longitudes, " longitudes; one weight per ring, and one longitude at least")));
        }
        for (std::size_t l = 0; l < colatitude.size(); ++l) {
            if (!(colatitude[l] >= 0 && colatitude[l] <= std::numbers::pi && (l == 0 || colatitude[l] > colatitude[l - 1]))) {
                HEED_THROW(shape_error(sentence("heed: colatitude ", colatitude[l], " at position ", l, "; colatitudes rise from 0 (north) to pi")));
            }
        }
    }

    HEED_INLINE extent_t rings() const { return static_cast<extent_t>(colatitude_.size()); }
    HEED_INLINE extent_t longitudes() const { return longitudes_; }
    HEED_INLINE extent_t points() const { return rings() * longitudes_; }
    HEED_INLINE std::span<double const> colatitudes() const { return colatitude_; } // radians
    HEED_INLINE std::span<double const> weights() const { return weight_; }         // of rings, sum 2
    HEED_INLINE double point_weight(extent_t ring) const { return 2 * std::numbers::pi * weight_[static_cast<std::size_t>(ring)] / static_cast<double>(longitudes_); }
    // The weights of all points, as weighted_keys takes them: to[points()].
    template <class T>
    HEED_INLINE void point_weights(std::span<T> to) const {
        for (std::size_t i = 0; i < to.size(); ++i) { to[i] = static_cast<T>(point_weight(static_cast<extent_t>(i) / longitudes_)); }
    }
};

} // namespace heed
