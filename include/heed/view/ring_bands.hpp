// SPDX-License-Identifier: BSD-3-Clause
// Which points of one sphere grid lie within a great-circle distance of the points of another. By symmetry a ring of queries meets a ring of keys in an arc
// of longitudes that turns with the query: one half-width per pair of rings is the whole list, O(rings) memory, not O(points).
//   sin^2(d/2) = sin^2((a - c)/2) + sin a sin c sin^2(f/2),  a, c colatitudes, f the difference of longitudes, all in double
// Longitudes are counted on a common circle of lcm(query longitudes, key longitudes) steps, so the numbers of longitudes need not divide each other.
#pragma once

#include <heed/view/sphere.hpp>

#include <numeric>

namespace heed {

// The view that policies hold. Key k of ring c is seen by query m of ring a if their difference on the circle, k key_step - m query_step, is at most half.
struct ring_bands {
    extent_t query_rings = 0, query_longitudes = 0, key_rings = 0, key_longitudes = 0;
    extent_t circle = 1, query_step = 1, key_step = 1;
    std::int32_t const* first = nullptr; // [query_rings] the first key ring of a query ring
    std::int32_t const* start = nullptr; // [query_rings + 1] where its half-widths start
    std::int32_t const* half = nullptr;  // one per pair of rings that meet

    HEED_HD extent_t queries() const { return query_rings * query_longitudes; }
    HEED_HD extent_t keys() const { return key_rings * key_longitudes; }
    HEED_HD extent_t first_ring(extent_t a) const { return first[a]; }
    HEED_HD extent_t end_ring(extent_t a) const { return first[a] + (start[a + 1] - start[a]); }
    // -1 where the rings do not meet
    HEED_HD extent_t half_width(extent_t a, extent_t c) const {
        extent_t const at = c - first[a];
        return at < 0 || at >= start[a + 1] - start[a] ? -1 : half[start[a] + at];
    }
    HEED_HD bool whole(extent_t width) const { return 2 * width + 1 >= circle; }
};

// Owns the half-widths. cutoff in radians; margin widens it relatively, so that points exactly at the cut-off are in whatever rounding does.
class ring_neighbourhood {
    std::vector<std::int32_t> first_, start_, half_;
    ring_bands bands_;

public:
    // Throws shape_error if some query would have no key.
    HEED_INLINE ring_neighbourhood(sphere_grid const& queries, sphere_grid const& keys, double cutoff, double margin = 1e-3) {
        constexpr double pi = std::numbers::pi;
        if (!(cutoff >= 0 && margin >= 0)) { HEED_THROW(shape_error(sentence("heed: a cut-off of ", cutoff, " radians with margin ", margin, "; both must be at least 0"))); }
        extent_t const circle = std::lcm(queries.longitudes(), keys.longitudes());
        if (circle > (extent_t(1) << 30)) {
            HEED_THROW(shape_error(sentence("heed: ", queries.longitudes(), " and ", keys.longitudes(), " longitudes have ", circle, " common steps; at most 2^30")));
        }
        double const reach = cutoff * (1 + margin);
        auto const square = [](double s) { return s * s; };
        bands_ = {queries.rings(), queries.longitudes(), keys.rings(), keys.longitudes(), circle, circle / queries.longitudes(), circle / keys.longitudes(), nullptr, nullptr, nullptr};
        for (extent_t a = 0; a < queries.rings(); ++a) {
            double const of_query = queries.colatitudes()[static_cast<std::size_t>(a)];
            start_.push_back(static_cast<std::int32_t>(half_.size()));
            extent_t widest = -1, from = 0;
            for (extent_t c = 0; c < keys.rings(); ++c) {
                double const of_key = keys.colatitudes()[static_cast<std::size_t>(c)];
                double const left = reach >= pi ? 1 : square(std::sin(reach / 2)) - square(std::sin((of_query - of_key) / 2));
                if (reach < pi && left < 0) { continue; }
                double const across = std::sin(of_query) * std::sin(of_key);
                double const angle = reach >= pi || left >= across ? pi : 2 * std::asin(std::sqrt(left / across));
                extent_t const width = static_cast<extent_t>(std::floor(angle / (2 * pi) * static_cast<double>(circle) + 1e-9));
                if (widest < 0) { from = c; }
                widest = width > widest ? width : widest;
                half_.push_back(static_cast<std::int32_t>(width < circle / 2 ? width : circle / 2));
            }
            first_.push_back(static_cast<std::int32_t>(from));
            if (widest < bands_.key_step / 2) {
                HEED_THROW(shape_error(sentence("heed: within ", cutoff, " radians ring ", a, " of the queries has points without any key; a cut-off reaches at least the next key")));
            }
        }
        start_.push_back(static_cast<std::int32_t>(half_.size()));
    }

    // Valid as long as this object is.
    HEED_INLINE ring_bands bands() const {
        ring_bands b = bands_;
        b.first = first_.data();
        b.start = start_.data();
        b.half = half_.data();
        return b;
    }
    // Keys that all queries see together: what a forward pass works on.
    HEED_INLINE extent_t pairs() const {
        ring_bands const b = bands();
        extent_t count = 0;
        for (extent_t a = 0; a < b.query_rings; ++a) {
            for (extent_t c = b.first_ring(a); c < b.end_ring(a); ++c) {
                extent_t const h = b.half_width(a, c);
                for (extent_t m = 0; m < (b.key_step == 1 ? 1 : b.query_longitudes); ++m) {
                    extent_t const centre = m * b.query_step + b.circle; // keys at multiples of key_step in [centre - h, centre + h]
                    extent_t const seen = b.whole(h) ? b.key_longitudes : (centre + h) / b.key_step - (centre - h + b.key_step - 1) / b.key_step + 1;
                    count += seen * (b.key_step == 1 ? b.query_longitudes : 1);
                }
            }
        }
        return count;
    }
};

} // namespace heed
