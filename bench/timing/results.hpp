// SPDX-License-Identifier: BSD-3-Clause
// What a person reads on the terminal.
#pragma once

#include "run_record.hpp"

#include <iosfwd>
#include <string>
#include <vector>

namespace heed::bench {

void print_banner(std::ostream& out, std::vector<std::pair<std::string, std::string>> const& context);
void print_results(std::ostream& out, run_record const& record);
void print_quick_summary(std::ostream& out, run_record const& record); // heed beside Eigen, a line per shape

// The other backends that ran, and the row of the same problem on one of them (null when it did not run there).
std::vector<std::string> backends_in(run_record const& record);
row const* on_backend(run_record const& record, std::string const& row_name, std::string const& backend);
// The other backend's time over that of a cpu row: as measured slice by slice where the run did that, else the quotient of the medians; NaN for
// other rows, and where the other did not run.
double speedup_over(run_record const& record, row const& own, std::string const& backend);

bool any_failed(run_record const& record);

} // namespace heed::bench
