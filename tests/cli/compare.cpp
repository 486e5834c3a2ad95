// SPDX-License-Identifier: BSD-3-Clause
// The comparison that check prints: tolerances, infinities, NaN, integers, sets.
#include <tool/compare.hpp>

#include <support/catch.hpp>

#include <cstdint>
#include <limits>
#include <vector>

using heed::tool::compare;
using heed::tool::largest_magnitude;

namespace {
constexpr double infinite = std::numeric_limits<double>::infinity(), not_a_number = std::numeric_limits<double>::quiet_NaN();
using reals = std::vector<double>;
using integers = std::vector<std::int64_t>;
} // namespace

TEST_CASE("compare: largest absolute and relative difference and their ratio to what is allowed", "[cli]") {
    auto const found = compare(reals{1, -2, 0.5}, reals{1.25, -2, 0.25}, 0.5);
    CHECK(found.max_abs == 0.25);
    CHECK(found.max_rel == 0.5);
    CHECK(found.error_ratio == 0.5);
    CHECK(found.good);
    CHECK(compare(reals{1}, reals{1.5}, 0.5).good); // at most, not below
    CHECK_FALSE(compare(reals{1}, reals{1.5}, 0.4375).good);
    CHECK(compare(reals{0, 3}, reals{0, 3}, 0).good);
    CHECK(compare(reals{0, 3}, reals{0, 3}, 0).error_ratio == 0);
    CHECK_FALSE(compare(reals{0}, reals{1e-300}, 0).good);
    CHECK(compare(reals{}, reals{}, 0).good);
}

TEST_CASE("compare: the relative part is per element", "[cli]") {
    CHECK(compare(reals{1024, 1}, reals{1025, 1}, 0, 0x1p-10).good);
    CHECK_FALSE(compare(reals{1024, 1}, reals{1024, 1.5}, 0, 0x1p-10).good);
}

TEST_CASE("compare: equal infinities match, NaN matches NaN only", "[cli]") {
    CHECK(compare(reals{infinite, -infinite, not_a_number}, reals{infinite, -infinite, not_a_number}, 0).good);
    for (auto const& [want, have] : {std::pair{infinite, -infinite},
                                     {infinite, 1.0},
                                     {1.0, infinite},
                                     {not_a_number, 1.0},
                                     {1.0, not_a_number},
                                     {not_a_number, infinite},
                                     {infinite, not_a_number},
                                     {-infinite, -1e308}}) {
        auto const found = compare(reals{want}, reals{have}, 1e300, 1);
        CHECK_FALSE(found.good);
        CHECK(found.max_abs == infinite);
        CHECK(found.error_ratio == infinite);
    }
}

TEST_CASE("compare: integers are equal, rows may be sets", "[cli]") {
    CHECK(compare(integers{1, 2, 3, 4}, integers{1, 2, 3, 4}).good);
    CHECK_FALSE(compare(integers{1, 2, 3, 4}, integers{2, 1, 3, 4}).good);
    CHECK(compare(integers{1, 2, 3, 4}, integers{2, 1, 4, 3}, 2).good);
    CHECK_FALSE(compare(integers{1, 2, 3, 4}, integers{3, 1, 4, 2}, 2).good); // across rows
    CHECK_FALSE(compare(integers{1, 1, 2}, integers{1, 2, 2}, 3).good);
}

TEST_CASE("compare: the largest finite magnitude", "[cli]") {
    CHECK(largest_magnitude(reals{-3, 2, infinite, not_a_number}) == 3);
    CHECK(largest_magnitude(reals{}) == 0);
}
