// SPDX-License-Identifier: BSD-3-Clause
// Runs cases under Google Benchmark: repetitions of one group in random order, so that what is compared is interleaved.
#pragma once

#include "run_record.hpp"
#include "timed_case.hpp"

#include <string>
#include <vector>

namespace heed::bench {

struct measure_settings {
    int repetitions = 7;
    double min_time = 0.1; // seconds per repetition
    bool verify = true;
    bool progress = false; // on standard error
};

struct measurement {
    std::string json;               // Google Benchmark's own format: every repetition and the aggregates, all groups
    std::vector<run_record> groups; // the same numbers, group by group
};

measurement measure(std::vector<case_group> const& groups, measure_settings const& how);

} // namespace heed::bench
