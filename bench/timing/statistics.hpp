// SPDX-License-Identifier: BSD-3-Clause
// Order statistics of repeated timings.
#pragma once

#include <cstddef>
#include <span>

namespace heed::bench {

double median(std::span<double const> sample); // NaN when empty
double mean(std::span<double const> sample);
double deviation(std::span<double const> sample); // sample standard deviation, 0 for a single value
double variation(std::span<double const> sample); // coefficient of variation: deviation / mean

double spread(std::span<double const> sample);    // interquartile range over the median, 0 for a single value

inline constexpr double unstable_above = 0.03; // a row that varies more than this says little

struct u_test {
    double u = 0; // pairs (a, b) with a > b, ties count half
    double p = 1; // two-sided
    bool exact = false;
};

// Mann-Whitney. Exact for small samples without ties, else the normal approximation with ties and continuity corrected.
u_test mann_whitney(std::span<double const> a, std::span<double const> b);

// The smallest two-sided p that samples of these sizes can show.
double smallest_p(std::size_t a, std::size_t b);

} // namespace heed::bench
