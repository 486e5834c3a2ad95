// SPDX-License-Identifier: BSD-3-Clause
// A measured run, as it stands in a Google Benchmark JSON file. Tables, reports and comparisons read this and nothing else.
#pragma once

#include <cstddef>
#include <map>
#include <string>
#include <string_view>
#include <vector>

namespace heed::bench {

// Counter of a counter: seconds of the witness beside the slices that gave it.
inline constexpr char const* witness_suffix = "_witness";

struct row {
    std::string name;
    std::string engine;
    std::vector<double> seconds;                         // one per repetition
    std::map<std::string, std::vector<double>> counters; // the same
    std::string error;

    double median_seconds() const;
    double variation() const;                           // of the seconds
    // Of the repetitions, or of their quieter half where the row says what its witness took; NaN when the row has no such counter.
    double median_of(std::string const& counter) const;
    double spread_of(std::string const& counter) const;
    // Whether the repetitions differ too much to say anything: by the row's ratio to its limit; without one, by its time.
    bool unstable() const { return unstable("of_peak"); }
    bool unstable(std::string const& counter) const;

private:
    std::vector<double> quiet(std::string const& counter) const;
};

struct run_record {
    std::map<std::string, std::string> context;
    std::vector<row> rows;

    row const* find(std::string_view name) const;   // null when there is none
    std::string text(std::string const& key) const; // a context entry, "" when there is none
};

// Repetitions of one name become one row; aggregates are used only where a file keeps nothing else.
// `source` names the text in errors (usage_error).
run_record read_record(std::string const& json_text, std::string const& source);
run_record load_record(std::string const& path);

std::string read_file(std::string const& path);                       // usage_error when it cannot be read
void write_file(std::string const& path, std::string const& content); // whole or not at all

// The same JSON with entries added to its context.
std::string with_context(std::string const& json_text, std::vector<std::pair<std::string, std::string>> const& entries);

} // namespace heed::bench
