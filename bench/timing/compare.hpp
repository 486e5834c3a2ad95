// SPDX-License-Identifier: BSD-3-Clause
// Two runs of the same rows: faster, slower or the same, and how sure that is.
#pragma once

#include "run_record.hpp"

#include <iosfwd>
#include <string>
#include <vector>

namespace heed::bench {

struct row_comparison {
    std::string name;
    double old_seconds = 0, new_seconds = 0; // medians
    double ratio = 1;                        // new over old: below 1 is faster
    double old_variation = 0, new_variation = 0;
    double p = 1;        // Mann-Whitney, two-sided
    std::string verdict; // faster, slower, same, or too few: no p of these sample sizes could be small enough
};

struct run_comparison {
    std::vector<row_comparison> rows;
    std::vector<std::string> only_old, only_new;
};

inline constexpr double significant_below = 0.05;
inline constexpr double same_within = 0.02; // a smaller change of the median is no change

run_comparison compare(run_record const& before, run_record const& after);
void print(std::ostream& out, run_comparison const& comparison, std::string const& old_source);

} // namespace heed::bench
