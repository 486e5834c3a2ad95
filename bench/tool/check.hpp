// SPDX-License-Identifier: BSD-3-Clause
// `heed check`: what a file names is run and compared with what the file expects.
#pragma once

#include "failure.hpp"

#include <iosfwd>
#include <string>
#include <vector>

namespace heed::tool {

struct check_options {
    bool forward_only = false; // leave the gradients of the file alone
    bool in_double = false;
};

// One file: exit_ok, exit_mismatch, exit_not_supported or exit_bad_input. Never throws because of what is in the file.
exit_code check_file(std::string const& path, check_options const& options, std::ostream& report, std::ostream& errors);

// Several: the first of exit_bad_input, exit_mismatch, exit_not_supported that occurred.
exit_code check_files(std::vector<std::string> const& paths, check_options const& options, std::ostream& report, std::ostream& errors);

} // namespace heed::tool
