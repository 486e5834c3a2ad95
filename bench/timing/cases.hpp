// SPDX-License-Identifier: BSD-3-Clause
// From problems to timed cases.
#pragma once

#include "operands.hpp"
#include "problem.hpp"
#include "timed_case.hpp"

#include <memory>
#include <string>
#include <vector>

namespace heed::bench {

// Throws unsupported_error, naming the problem, when no kernel for it is compiled in.
timed_case case_for(problem const& p, std::shared_ptr<operand_store> const& store);

// The cases of all problems, each once, and after them the limits that they are measured against. With `skipped`, what
// is not compiled in is left out and said there; without, it is thrown.
case_group group_of(std::string title, std::vector<problem> const& problems, std::shared_ptr<operand_store> const& store,
                    std::vector<std::string>* skipped = nullptr);

// Rivals of the cpu rows: the same problem on Eigen and unfused, as vs_eigen and vs_unfused, where it is in the group.
void add_backend_rivals(case_group& group);

} // namespace heed::bench
