// SPDX-License-Identifier: BSD-3-Clause
// Which points are near: the rings against distances in space, the pattern's verdicts and bits against its definition.
#include "geometry.hpp"

#include <heed/policy/pattern/sphere.hpp>

#include <algorithm>
#include <vector>

using heed::extent_t;
using namespace heed_test;

TEST_CASE("neighbourhood: rings keep what distances in space keep", "[sphere]") {
    HEED_SEEDED;
    random_source random(701);
    extent_t kept = 0, all = 0;
    for (int trial = 0; trial < 150; ++trial) {
        heed::sphere_grid const q = any_grid(random, 9, 14), k = any_grid(random, 9, 14);
        double const cutoff = random.uniform(0, 3.5);
        try {
            heed::ring_neighbourhood const near(q, k, cutoff);
            heed::sphere_neighbourhood const p{near.bands()};
            auto const exact = near_points({1, 1, q.points(), k.points()}, q, k, 1.001 * cutoff);
            extent_t pairs = 0;
            for (extent_t i = 0; i < q.points(); ++i) {
                for (extent_t j = 0; j < k.points(); ++j) {
                    INFO("cutoff " << cutoff << " query " << i << " of " << q.rings() << "x" << q.longitudes() << " key " << j << " of " << k.rings() << "x" << k.longitudes());
                    REQUIRE(p.keep({}, i, j) == (exact(0, 0, i, j) != 0));
                    pairs += exact(0, 0, i, j);
                }
            }
            REQUIRE(near.pairs() == pairs);
            kept += pairs;
            all += q.points() * k.points();
        } catch (heed::shape_error const&) { // refused only where some point has no key
            extent_t lonely = 0;
            auto const exact = near_points({1, 1, q.points(), k.points()}, q, k, 1.001 * cutoff);
            for (extent_t i = 0; i < q.points(); ++i) {
                extent_t seen = 0;
                for (extent_t j = 0; j < k.points(); ++j) { seen += exact(0, 0, i, j); }
                lonely += seen == 0;
            }
            REQUIRE(lonely > 0);
        }
    }
    CHECK((kept > 0 && kept < all));
}

TEST_CASE("neighbourhood: verdicts, bits and hulls agree with keep", "[sphere]") {
    HEED_SEEDED;
    random_source random(702);
    int skipped = 0, full = 0;
    for (int trial = 0; trial < 400; ++trial) {
        heed::sphere_grid const q(heed::latitudes::equiangular, random.integer(3, 8), random.integer(1, 40)), k(heed::latitudes::equiangular, random.integer(3, 8), q.longitudes() * random.integer(1, 2));
        heed::ring_neighbourhood const near(q, k, random.uniform(0.8, 2)); // the rings lie at most pi / 2 apart
        heed::sphere_neighbourhood const p{near.bands()};
        heed::range rows, cols;
        rows.begin = random.integer(0, q.points() - 1);
        rows.end = random.integer(rows.begin + 1, std::min(q.points(), rows.begin + 64));
        cols.begin = random.integer(0, k.points() - 1);
        cols.end = random.integer(cols.begin + 1, std::min(k.points(), cols.begin + 64));
        heed::tile const verdict = p.classify({}, rows, cols);
        heed::range const hull = p.hull({}, rows);
        std::vector<std::uint64_t> words(static_cast<std::size_t>(cols.size()));
        p.pack({}, rows, cols, words.data());
        skipped += verdict == heed::tile::skip;
        full += verdict == heed::tile::full;
        for (extent_t i = rows.begin; i < rows.end; ++i) {
            for (extent_t j = cols.begin; j < cols.end; ++j) {
                bool const kept = p.keep({}, i, j);
                REQUIRE((verdict != heed::tile::skip || !kept));
                REQUIRE((verdict != heed::tile::full || kept));
                REQUIRE((!kept || (hull.begin <= j && j < hull.end)));
                REQUIRE(((words[static_cast<std::size_t>(j - cols.begin)] >> (i - rows.begin) & 1) != 0) == kept);
            }
        }
        for (std::uint64_t const w : words) { REQUIRE((w & ~heed::detail::low_bits(rows.size())) == 0); }
    }
    CHECK((skipped > 20 && full > 20));
}

TEST_CASE("neighbourhood: memory is by rings, not by points", "[sphere]") {
    heed::sphere_grid const g(heed::latitudes::equiangular, 181, 360);
    heed::ring_neighbourhood const near(g, g, 3 * std::numbers::pi / 180);
    heed::ring_bands const b = near.bands();
    CHECK(b.start[181] <= 181 * 7);
    CHECK(b.half_width(90, 90) == 3);
    CHECK(b.half_width(90, 92) == 2);
    CHECK(b.half_width(90, 94) == -1);
    CHECK(b.whole(b.half_width(0, 3))); // the pole sees whole rings
}

TEST_CASE("neighbourhood: what is refused", "[sphere]") {
    heed::sphere_grid const fine(heed::latitudes::equiangular, 9, 16), coarse(heed::latitudes::equiangular, 5, 8);
    CHECK_THROWS_WITH(heed::ring_neighbourhood(fine, coarse, 0.01), heed_test::contains("without any key"));
    CHECK_THROWS_WITH(heed::ring_neighbourhood(fine, coarse, -1), heed_test::contains("-1"));
    CHECK_NOTHROW(heed::ring_neighbourhood(fine, fine, 0.0)); // each point sees itself
}
