// SPDX-License-Identifier: BSD-3-Clause
// `heed list`: the catalog, with the options that `heed run` takes.
#include "cache_bytes.hpp"
#include "commands.hpp"
#include "failure.hpp"
#include "runnable.hpp"

#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include <array>
#include <iostream>
#include <memory>
#include <sstream>
#include <string>
#include <string_view>

namespace heed::tool {

namespace {

struct catalog_row {
    std::string_view name, header, verbs;
};

constexpr std::array catalog{
#define HEED_MECHANISM(name, header, factory, oracle, tolerance, ...) catalog_row{#name, header, #__VA_ARGS__},
#include <heed/mechanism/catalog.inc>
#undef HEED_MECHANISM
};

constexpr std::array<std::string_view, 2> backends{"cpu", "reference"};
constexpr std::array<std::string_view, 4> dtypes{"f32", "f64", "bf16", "f16"};

// The verbs of a catalog line: words, however they are separated there.
std::vector<std::string> words(std::string_view text) {
    std::string spaced(text);
    for (char& c : spaced) { c = c == ',' || c == '|' ? ' ' : c; }
    std::istringstream stream(spaced);
    std::vector<std::string> result;
    for (std::string word; stream >> word;) { result.push_back(word); }
    return result;
}

std::string joined(auto const& parts) {
    std::string text;
    for (auto const& part : parts) { text += (text.empty() ? "" : ", ") + std::string(part); }
    return text;
}

void print_json(std::ostream& out) {
    auto all = nlohmann::ordered_json::array();
    for (auto const& row : catalog) {
        auto options = nlohmann::ordered_json::array();
        if (auto const* entry = find_runnable(row.name)) {
            for (auto const& option : entry->options) {
                options.push_back({{"key", option.key}, {"values", option.values}, {"meaning", option.meaning}});
            }
        }
        all.push_back({{"name", row.name},
                       {"header", row.header},
                       {"verbs", words(row.verbs)},
                       {"backends", backends},
                       {"dtypes", dtypes},
                       {"options", options}});
    }
    out << all.dump(2) << "\n";
}

void print_text(std::ostream& out) {
    for (auto const& row : catalog) {
        out << row.name << "\n  header    " << row.header << "\n  verbs     " << joined(words(row.verbs)) << "\n  backends  "
            << joined(backends) << "\n  dtypes    " << joined(dtypes) << "\n";
        auto const* entry = find_runnable(row.name);
        if (!entry) { continue; }
        out << "  options of heed run --set key=value\n";
        for (auto const& option : entry->options) {
            std::string const key(option.key);
            out << "    " << key << std::string(key.size() < 10 ? 10 - key.size() : 1, ' ') << option.values << ": " << option.meaning
                << "\n";
        }
    }
}

} // namespace

void add_list(CLI::App& app, int&) {
    auto* command = app.add_subcommand("list", "Every mechanism: options, verbs, backends, dtypes");
    auto const as_json = std::make_shared<bool>(false);
    auto const caches = std::make_shared<bool>(false);
    auto* const json = command->add_flag("--json", *as_json, "As JSON");
    command->add_flag("--caches", *caches, "Instead: what a token costs in each kind of cache, a table in Markdown")->excludes(json);
    command->callback([as_json, caches] { *caches ? print_caches(std::cout) : *as_json ? print_json(std::cout) : print_text(std::cout); });
}

} // namespace heed::tool
