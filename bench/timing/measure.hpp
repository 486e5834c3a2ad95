// SPDX-License-Identifier: BSD-3-Clause
// Runs cases under Google Benchmark: repetitions of one group in random order. Its times are printed; what is compared is compared within
// each repetition, slice by slice (brackets.hpp): counters of_peak and those of the rivals, each with its <counter>_spread.
#pragma once

#include "brackets.hpp"
#include "run_record.hpp"
#include "stopwatch.hpp"
#include "timed_case.hpp"

#include <string>
#include <vector>

namespace heed::bench {

struct measure_settings {
    int repetitions = 7;
    double min_time = 0.1; // seconds per repetition
    bool verify = true;
    bool progress = false; // on standard error
    clock_source clock = seconds_now;
};

struct measurement {
    std::string json;               // Google Benchmark's own format: every repetition and the aggregates, all groups
    std::vector<run_record> groups; // the same numbers, group by group
};

measurement measure(std::vector<case_group> const& groups, measure_settings const& how);

} // namespace heed::bench
