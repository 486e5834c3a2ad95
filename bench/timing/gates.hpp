// SPDX-License-Identifier: BSD-3-Clause
// The project's speed table: what each line must reach (the gate) and where it is going (the goal), read off one run.
#pragma once

#include "cases.hpp"
#include "run_record.hpp"

#include <iosfwd>
#include <string>
#include <vector>

namespace heed::bench {

enum class measure_of { // read from the ratios that are taken slice by slice
    peak,     // fraction of the limit
    scaling,  // speed-up over `other`, the same at fewer threads, over the speed-up of their limits: the quotient of their fractions
    rate,     // FLOP/s over that of `other`
    slowdown, // time over that of `other`: the smaller the better
    speedup,  // time of `other` over its time
};

struct gate {
    std::string what;
    measure_of measure = measure_of::peak;
    std::string row, other; // names
    double gate_at = 0, goal_at = 0;
};

struct gate_group {
    std::string title;
    std::vector<problem> problems;
    std::vector<gate> gates;
};

struct gate_result {
    std::string group, what;
    std::string reached, gate, goal;
    std::string verdict; // goal, gate, below, not measured
};

std::vector<gate_group> gate_groups(int cpus); // lines for two threads need two CPUs
case_group cases_of(gate_group const& group, std::shared_ptr<operand_store> const& store, std::vector<std::string>& skipped);
std::vector<gate_result> judge(gate_group const& group, run_record const& record);
void print(std::ostream& out, std::vector<gate_result> const& results);

} // namespace heed::bench
