// SPDX-License-Identifier: BSD-3-Clause
// How sizes, lists and settings are written on the command line: 1k is 1024, lists go by commas, a..b doubles.
#pragma once

#include <cstdint>
#include <map>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

namespace heed::bench {

struct usage_error : std::runtime_error { // exit 2: the command line is wrong
    using std::runtime_error::runtime_error;
};
struct unsupported_error : std::runtime_error { // exit 3: nothing is wrong, but this cannot be timed
    using std::runtime_error::runtime_error;
};

std::vector<std::string> split(std::string_view text, char separator);
std::string join(std::vector<std::string> const& items, std::string_view separator);

std::int64_t parse_size(std::string_view text);               // "1000", "4k", "1m"
std::vector<std::int64_t> parse_sizes(std::string_view text); // "1k..8k,1000" -> 1024 2048 4096 8192 1000
double parse_number(std::string_view text);
std::string number_text(double value); // the shortest text that parse_number reads back

using settings = std::map<std::string, std::string>;

// {"mask=full,causal", "softcap=30"} -> every combination, in the order written. A key may be given once.
std::vector<settings> parse_settings(std::vector<std::string> const& assignments);

} // namespace heed::bench
