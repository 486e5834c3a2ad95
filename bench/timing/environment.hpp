// SPDX-License-Identifier: BSD-3-Clause
// What a run ran on.
#pragma once

#include <string>
#include <utility>
#include <vector>

namespace heed::bench {

// Pairs for the context of a JSON file and the banner: cpu_model, isa_compiled, isa_present, compiler, heed_version, cpus.
std::vector<std::pair<std::string, std::string>> environment();

} // namespace heed::bench
