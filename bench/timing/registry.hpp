// SPDX-License-Identifier: BSD-3-Clause
// What a mechanism adds to the benchmark: its rows, and its lines of the speed table. One object of each type at namespace scope.
#pragma once

#include "gates.hpp"
#include "operands.hpp"
#include "pair_count.hpp"
#include "problem.hpp"
#include "timed_case.hpp"

#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace heed::bench {

struct row_family {
    std::string_view mechanism;
    // Throws unsupported_error, naming the problem, for what is not compiled in. The limit that the case names and limit/read are added to its group.
    timed_case (*make)(problem const& p, std::shared_ptr<operand_store> const& store);
    double (*work)(problem const& p) = flops; // operations of a call: what gates of rate divide by the time
};

class row_registration {
public:
    explicit row_registration(row_family const& rows);
};

row_family const* find_rows(std::string_view mechanism); // null when there is none
std::vector<std::string> mechanisms_with_rows();

// add(cpus, groups): appends groups of gates; cpus says how many threads can be measured.
class gate_registration {
public:
    explicit gate_registration(void (*add)(int cpus, std::vector<gate_group>& groups));
};

void add_registered_gates(int cpus, std::vector<gate_group>& groups);

} // namespace heed::bench
