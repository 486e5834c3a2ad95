// SPDX-License-Identifier: BSD-3-Clause
// Mechanisms that `heed run` can run: how their options are called, and the function that turns a file into results.
#pragma once

#include "safetensors.hpp"

#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace heed::tool {

struct option_row {
    std::string_view key, values, meaning;
};

// The --set options of one call, each key once and among those that the mechanism has.
class settings {
    std::map<std::string, std::string, std::less<>> values_;

public:
    // Throws bad_usage.
    settings(std::vector<std::string> const& assignments, std::span<option_row const> allowed);

    std::optional<std::string> text(std::string_view key) const;
    std::string choice(std::string_view key, std::string_view otherwise, std::span<std::string_view const> choices) const;
    std::optional<double> number(std::string_view key) const;
    std::optional<std::int64_t> integer(std::string_view key, std::int64_t least) const;
    bool flag(std::string_view key, bool otherwise) const; // 0 or 1
};

// A tensor that owns its bytes.
struct output_tensor {
    std::string name;
    dtype type;
    tensor_shape shape;
    std::vector<std::byte> bytes;
};

struct runnable {
    std::span<option_row const> options;
    std::vector<output_tensor> (*run)(safetensors_file const& input, settings const& set);
};

// One object of this type at namespace scope, beside the function, makes a mechanism known to `heed run`.
class run_registration {
public:
    run_registration(std::string_view mechanism, runnable const& entry);
};

runnable const* find_runnable(std::string_view mechanism); // null when there is none

} // namespace heed::tool
