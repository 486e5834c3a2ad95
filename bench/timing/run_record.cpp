// SPDX-License-Identifier: BSD-3-Clause
#include "run_record.hpp"

#include "list_syntax.hpp"
#include "statistics.hpp"

#include <nlohmann/json.hpp>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <fstream>
#include <iterator>
#include <limits>
#include <set>

namespace heed::bench {

double row::median_seconds() const { return median(seconds); }
double row::variation() const { return bench::variation(seconds); }
double row::spread_of(std::string const& counter) const {
    return counters.contains(counter) ? spread(quiet(counter)) : std::numeric_limits<double>::quiet_NaN();
}
bool row::unstable(std::string const& counter) const {
    return (counters.contains(counter) ? spread_of(counter) : variation()) > unstable_above;
}

double row::median_of(std::string const& counter) const {
    return counters.contains(counter) ? median(quiet(counter)) : std::numeric_limits<double>::quiet_NaN();
}
std::vector<double> row::quiet(std::string const& counter) const {
    auto const& all = counters.at(counter);
    auto const told = counters.find(counter + witness_suffix);
    if (told == counters.end() || told->second.size() != all.size()) return all;
    std::vector<std::size_t> order(all.size());
    for (std::size_t i = 0; i < order.size(); ++i) order[i] = i;
    std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) { return told->second[a] < told->second[b]; });
    std::vector<double> chosen;
    for (std::size_t i = 0; i < (order.size() + 1) / 2; ++i) chosen.push_back(all[order[i]]);
    return chosen;
}

row const* run_record::find(std::string_view name) const {
    auto const found = std::find_if(rows.begin(), rows.end(), [&](row const& r) { return r.name == name; });
    return found == rows.end() ? nullptr : &*found;
}

std::string run_record::text(std::string const& key) const {
    auto const found = context.find(key);
    return found == context.end() ? std::string{} : found->second;
}

namespace {

using json = nlohmann::ordered_json;

double seconds_per(std::string const& unit) {
    if (unit == "ns") return 1e-9;
    if (unit == "us") return 1e-6;
    if (unit == "ms") return 1e-3;
    if (unit == "s") return 1;
    throw usage_error("time_unit '" + unit + "' is none of ns, us, ms, s");
}

// The keys that Google Benchmark itself writes; every other number is a counter.
bool is_counter(std::string const& key) {
    static std::set<std::string> const own{
        "family_index", "per_family_instance_index", "repetitions", "repetition_index", "threads", "iterations", "real_time", "cpu_time"};
    return !own.contains(key);
}

row& row_named(run_record& record, std::string const& name) {
    for (auto& r : record.rows)
        if (r.name == name) return r;
    record.rows.emplace_back().name = name;
    return record.rows.back();
}

void add_entry(run_record& record, json const& entry, bool wanted_aggregate) {
    bool const aggregate = entry.value("run_type", "iteration") == "aggregate";
    if (aggregate != wanted_aggregate) return;
    if (aggregate && entry.value("aggregate_name", "") != "median") return;
    auto const name = entry.value("run_name", entry.value("name", std::string{}));
    if (aggregate && std::any_of(record.rows.begin(), record.rows.end(), [&](row const& r) { return r.name == name; })) return;
    auto& r = row_named(record, name);
    if (entry.value("error_occurred", false)) {
        r.error = entry.value("error_message", std::string("failed"));
        return;
    }
    r.engine = entry.value("label", r.engine);
    r.seconds.push_back(entry.at("real_time").get<double>() * seconds_per(entry.value("time_unit", "ns")));
    for (auto const& [key, value] : entry.items())
        if (value.is_number() && is_counter(key)) r.counters[key].push_back(value.get<double>());
}

json parse(std::string const& text, std::string const& source) {
    try {
        auto document = json::parse(text);
        if (!document.is_object() || !document.contains("benchmarks") || !document["benchmarks"].is_array())
            throw usage_error(source + ": no list 'benchmarks'; this is not a Google Benchmark file");
        return document;
    } catch (json::exception const& e) { throw usage_error(source + ": " + e.what()); }
}

} // namespace

run_record read_record(std::string const& json_text, std::string const& source) {
    auto const document = parse(json_text, source);
    run_record record;
    try {
        if (auto const context = document.find("context"); context != document.end())
            for (auto const& [key, value] : context->items())
                record.context[key] = value.is_string() ? value.get<std::string>() : value.dump();
        for (bool const aggregates : {false, true})
            for (auto const& entry : document["benchmarks"]) add_entry(record, entry, aggregates);
    } catch (json::exception const& e) { throw usage_error(source + ": " + e.what()); } catch (usage_error const& e) {
        throw usage_error(source + ": " + e.what());
    }
    return record;
}

std::string read_file(std::string const& path) {
    std::ifstream file(path, std::ios::binary);
    std::string content{std::istreambuf_iterator<char>(file), {}};
    if (!file) throw usage_error(path + ": cannot be read");
    return content;
}

run_record load_record(std::string const& path) { return read_record(read_file(path), path); }

void write_file(std::string const& path, std::string const& content) {
    auto const partial = path + ".partial";
    std::ofstream file(partial, std::ios::binary);
    file << content;
    file.close();
    if (!file || std::rename(partial.c_str(), path.c_str()) != 0) {
        std::remove(partial.c_str());
        throw usage_error(path + ": cannot be written");
    }
}

std::string with_context(std::string const& json_text, std::vector<std::pair<std::string, std::string>> const& entries) {
    auto document = json::parse(json_text);
    for (auto const& [key, value] : entries) document["context"][key] = value;
    return document.dump(2) + '\n';
}

} // namespace heed::bench
