// SPDX-License-Identifier: BSD-3-Clause
#include "compare.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

namespace heed::tool {

namespace {

constexpr double infinity = std::numeric_limits<double>::infinity();

// difference / allowed, where 0 / 0 is no error at all.
double ratio(double difference, double allowed) { return difference == 0 ? 0 : allowed == 0 ? infinity : difference / allowed; }

} // namespace

comparison compare(std::span<double const> expected, std::span<double const> result, double absolute, double relative) {
    comparison total;
    for (std::size_t i = 0; i < expected.size(); ++i) {
        double const want = expected[i], have = result[i];
        if (want == have || (std::isnan(want) && std::isnan(have))) { continue; }
        double difference = infinity, allowed = absolute;
        if (std::isfinite(want) && std::isfinite(have)) {
            difference = std::abs(want - have);
            allowed += relative * std::abs(want);
        }
        total.max_abs = std::max(total.max_abs, difference);
        total.max_rel = std::max(total.max_rel, std::isfinite(want) ? ratio(difference, std::abs(want)) : infinity);
        total.error_ratio = std::max(total.error_ratio, ratio(difference, allowed));
        total.good = total.good && difference <= allowed;
    }
    return total;
}

comparison compare(std::span<std::int64_t const> expected, std::span<std::int64_t const> result, std::size_t row_length) {
    std::vector<std::int64_t> want(expected.begin(), expected.end()), have(result.begin(), result.end());
    if (row_length > 0) {
        for (std::size_t row = 0; row + row_length <= want.size(); row += row_length) {
            auto const begin = static_cast<std::ptrdiff_t>(row), end = static_cast<std::ptrdiff_t>(row + row_length);
            std::sort(want.begin() + begin, want.begin() + end);
            std::sort(have.begin() + begin, have.begin() + end);
        }
    }
    if (want == have) { return {}; }
    return {infinity, infinity, infinity, false};
}

double largest_magnitude(std::span<double const> values) {
    double largest = 0;
    for (double const value : values) {
        if (std::isfinite(value)) { largest = std::max(largest, std::abs(value)); }
    }
    return largest;
}

} // namespace heed::tool
