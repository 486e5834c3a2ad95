// SPDX-License-Identifier: BSD-3-Clause
#include "results.hpp"

#include "problem.hpp"
#include "statistics.hpp"
#include "text_table.hpp"

#include <algorithm>
#include <limits>
#include <map>
#include <ostream>

namespace heed::bench {

void print_banner(std::ostream& out, std::vector<std::pair<std::string, std::string>> const& context) {
    std::map<std::string, std::string> const c(context.begin(), context.end());
    auto const at = [&](char const* key) { return c.contains(key) ? c.at(key) : std::string("?"); };
    out << "heed " << at("heed_version") << " on " << at("cpu_model") << ", " << at("cpus") << " CPUs\n"
        << "built for " << at("isa_compiled") << " by " << at("compiler") << "; the machine has " << at("isa_present") << '\n'
        << at("repetitions") << " repetitions of at least " << at("min_time") << " s each, interleaved; medians; seed " << at("seed")
        << "\n\n";
}

std::vector<std::string> backends_in(run_record const& record) {
    std::vector<std::string> backends;
    for (auto const& r : record.rows) {
        if (is_limit(r.name)) continue;
        auto const backend = parse_name(r.name).backend;
        if (std::find(backends.begin(), backends.end(), backend) == backends.end()) backends.push_back(backend);
    }
    return backends;
}

row const* on_backend(run_record const& record, std::string const& row_name, std::string const& backend) {
    if (is_limit(row_name)) return nullptr;
    auto p = parse_name(row_name);
    p.backend = backend;
    return record.find(name_of(p));
}

bool any_failed(run_record const& record) {
    return std::any_of(record.rows.begin(), record.rows.end(), [](row const& r) { return !r.error.empty(); });
}

double speedup_over(run_record const& record, row const& own, std::string const& backend) {
    if (is_limit(own.name) || parse_name(own.name).backend != "cpu") return std::numeric_limits<double>::quiet_NaN();
    auto const counter = "vs_" + backend;
    if (own.counters.contains(counter)) return own.median_of(counter);
    auto const* const other = on_backend(record, own.name, backend);
    if (other == nullptr) return std::numeric_limits<double>::quiet_NaN();
    return other->median_seconds() / own.median_seconds();
}

void print_results(std::ostream& out, run_record const& record) {
    auto others = backends_in(record);
    std::erase(others, "cpu");
    std::vector<std::string> header{"<name", "time", "cv", "GFLOP/s", "GB/s", "of peak", "spread"};
    for (auto const& backend : others) header.push_back("vs " + backend);
    header.push_back("<");
    text_table table(header);
    for (auto const& r : record.rows) {
        if (!r.error.empty()) {
            table.add({r.name, "failed"});
            continue;
        }
        std::vector<std::string> cells{r.name,
                                       time_text(r.median_seconds()),
                                       percent_text(r.variation(), 1),
                                       giga_text(r.median_of("FLOP/s")),
                                       giga_text(r.median_of("bytes/s")),
                                       percent_text(r.median_of("of_peak"), 1),
                                       percent_text(r.spread_of("of_peak"), 1)};
        for (auto const& backend : others) cells.push_back(ratio_text(speedup_over(record, r, backend)));
        cells.push_back(r.unstable() ? "unstable" : "");
        table.add(cells);
    }
    out << table;

    std::map<std::string, std::string> engines; // engine -> first row it ran
    for (auto const& r : record.rows)
        if (!is_limit(r.name) && !r.engine.empty()) engines.try_emplace(r.engine, r.name);
    if (!engines.empty()) out << '\n';
    for (auto const& [engine, name] : engines) out << "engine " << engine << "  (" << name << ")\n";
    if (std::any_of(record.rows.begin(), record.rows.end(), [](row const& r) { return r.unstable(); }))
        out << "unstable: the repetitions' ratios to the limit spread over more than " << percent_text(unstable_above) << " (a limit: its times vary by more)\n";
    for (auto const& r : record.rows)
        if (!r.error.empty()) out << "FAILED " << r.name << ": " << r.error << '\n';
}

void print_quick_summary(std::ostream& out, run_record const& record) {
    text_table table({"<softmax attention, fp32, one thread", "heed", "Eigen", "heed GFLOP/s", "of FMA peak", "faster by"});
    for (auto const& r : record.rows) {
        if (is_limit(r.name) || !r.error.empty()) continue;
        auto const p = parse_name(r.name);
        if (p.backend != "cpu") continue;
        auto const* const eigen = on_backend(record, r.name, "eigen");
        if (eigen == nullptr) continue;
        table.add({"d = " + std::to_string(p.dim) + ", N = " + std::to_string(p.queries) + (p.mask == mask_kind::causal ? ", causal" : ""),
                   time_text(r.median_seconds()), time_text(eigen->median_seconds()), giga_text(r.median_of("FLOP/s")),
                   percent_text(r.median_of("of_peak")), ratio_text(speedup_over(record, r, "eigen"))});
    }
    if (!table.empty()) out << '\n' << table;
}

} // namespace heed::bench
