// SPDX-License-Identifier: BSD-3-Clause
// How far a result is from what a file expects.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace heed::tool {

struct comparison {
    double max_abs = 0;     // largest difference
    double max_rel = 0;     // largest difference relative to the expected number
    double error_ratio = 0; // largest difference in units of what is allowed there
    bool good = true;       // every difference is at most what is allowed
};

// Allowed is absolute + relative * |expected|. Equal infinities match, NaN matches NaN only; anything else not finite counts as
// infinitely far.
comparison compare(std::span<double const> expected, std::span<double const> result, double absolute, double relative = 0);

// Integers are equal or infinitely far. With row_length > 0 every row of that many numbers is a set: order does not count.
comparison compare(std::span<std::int64_t const> expected, std::span<std::int64_t const> result, std::size_t row_length = 0);

// The largest finite magnitude: what a tolerance refers to where a file states none.
double largest_magnitude(std::span<double const> values);

} // namespace heed::tool
