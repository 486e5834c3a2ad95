// SPDX-License-Identifier: BSD-3-Clause
// `heed run`: tensors from a file through a mechanism into a file.
#include "commands.hpp"
#include "failure.hpp"
#include "runnable.hpp"

#include <CLI/CLI.hpp>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <iostream>
#include <memory>

namespace heed::tool {

namespace {

using registry = std::map<std::string_view, runnable>;

// Filled while the program starts, by the registrations; constant afterwards.
registry& runnables() {
    static registry all;
    return all;
}

std::string joined(std::span<std::string_view const> words) {
    std::string text;
    for (auto const word : words) { text += (text.empty() ? "" : ", ") + std::string(word); }
    return text;
}

failure wrong_value(std::string_view key, std::string_view value, std::string_view wanted) {
    return bad_usage("--set " + std::string(key) + "=" + std::string(value) + ": " + std::string(wanted));
}

template <class Number>
std::optional<Number> parsed(std::string_view text) {
    Number value{};
    auto const [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    return error == std::errc{} && end == text.data() + text.size() ? std::optional(value) : std::nullopt;
}

} // namespace

run_registration::run_registration(std::string_view mechanism, runnable const& entry) { runnables().emplace(mechanism, entry); }

runnable const* find_runnable(std::string_view mechanism) {
    auto const found = runnables().find(mechanism);
    return found == runnables().end() ? nullptr : &found->second;
}

settings::settings(std::vector<std::string> const& assignments, std::span<option_row const> allowed) {
    for (auto const& assignment : assignments) {
        auto const cut = assignment.find('=');
        if (cut == assignment.npos || cut == 0) { throw bad_usage("--set " + in_quotes(assignment) + ": write key=value"); }
        auto const key = assignment.substr(0, cut);
        if (std::none_of(allowed.begin(), allowed.end(), [&](option_row const& row) { return row.key == key; })) {
            std::vector<std::string_view> keys;
            for (auto const& row : allowed) { keys.push_back(row.key); }
            throw bad_usage("--set " + in_quotes(key) + ": no such option of this mechanism, there are " + joined(keys));
        }
        if (!values_.emplace(key, assignment.substr(cut + 1)).second) { throw bad_usage("--set " + in_quotes(key) + " is given twice"); }
    }
}

std::optional<std::string> settings::text(std::string_view key) const {
    auto const found = values_.find(key);
    return found == values_.end() ? std::nullopt : std::optional(found->second);
}

std::string settings::choice(std::string_view key, std::string_view otherwise, std::span<std::string_view const> choices) const {
    auto const value = text(key).value_or(std::string(otherwise));
    if (std::find(choices.begin(), choices.end(), value) == choices.end()) {
        throw wrong_value(key, value, "must be one of " + joined(choices));
    }
    return value;
}

std::optional<double> settings::number(std::string_view key) const {
    auto const value = text(key);
    if (!value) { return std::nullopt; }
    auto const number = parsed<double>(*value);
    if (!number || !std::isfinite(*number)) { throw wrong_value(key, *value, "must be a number"); }
    return number;
}

std::optional<std::int64_t> settings::integer(std::string_view key, std::int64_t least) const {
    auto const value = text(key);
    if (!value) { return std::nullopt; }
    constexpr std::int64_t most = std::int64_t{1} << 30;
    auto const number = parsed<std::int64_t>(*value);
    if (!number || *number < least || *number > most) {
        throw wrong_value(key, *value, "must be an integer from " + std::to_string(least) + " to " + std::to_string(most));
    }
    return number;
}

bool settings::flag(std::string_view key, bool otherwise) const {
    static constexpr std::string_view choices[] = {"0", "1"};
    return choice(key, otherwise ? "1" : "0", choices) == "1";
}

namespace {

struct run_arguments {
    std::string mechanism, input, output;
    std::vector<std::string> assignments;
};

void run_mechanism(run_arguments const& arguments) {
    auto const* entry = find_runnable(arguments.mechanism);
    if (!entry) {
        throw not_supported("mechanism " + in_quotes(arguments.mechanism) + " is not supported; heed list shows those that are");
    }
    settings const set(arguments.assignments, entry->options);
    auto const input = safetensors_file::read(arguments.input);

    std::vector<output_tensor> results;
    try {
        results = entry->run(input, set);
    } catch (std::invalid_argument const& error) { // a shape that the library refuses
        throw bad_file(arguments.input, sentence_of(error));
    }
    std::vector<named_tensor> named;
    for (auto const& result : results) { named.push_back({result.name, {result.type, result.shape, result.bytes}}); }
    metadata_map metadata{{"mechanism", arguments.mechanism}};
    for (auto const& row : entry->options) {
        if (auto const value = set.text(row.key)) { metadata.emplace(row.key, *value); }
    }
    write_safetensors(arguments.output, named, metadata);
    for (auto const& result : results) { std::cout << result.name << " " << text_of(result.shape) << " " << name_of(result.type) << "\n"; }
}

} // namespace

void add_run(CLI::App& app, int&) {
    auto* command = app.add_subcommand("run", "Run a mechanism on the tensors q, k, v of a file and write out");
    auto const arguments = std::make_shared<run_arguments>();
    command->add_option("--mechanism", arguments->mechanism, "Name, see heed list")->required();
    command->add_option("--set", arguments->assignments, "Option of the mechanism, key=value; may be repeated")->allow_extra_args(false);
    command->add_option("IN", arguments->input, "Safetensors file, F32 or F64: q, k, v of shape [batch, heads, sequence, width]; factors and latents as golden files have them")
        ->required();
    command->add_option("-o,--output", arguments->output, "Safetensors file to write")->required();
    command->callback([arguments] { run_mechanism(*arguments); });
}

} // namespace heed::tool
