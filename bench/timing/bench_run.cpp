// SPDX-License-Identifier: BSD-3-Clause
#include "bench_run.hpp"

#include "cases.hpp"
#include "compare.hpp"
#include "environment.hpp"
#include "gates.hpp"
#include "limit.hpp"
#include "measure.hpp"
#include "report.hpp"
#include "results.hpp"
#include "team.hpp"

#include <algorithm>
#include <iostream>
#include <optional>
#include <sstream>

#include <unistd.h>

namespace heed::bench {

namespace {

case_group limits_alone(bench_options const& o) {
    case_group group;
    for (int threads : threads_of(o))
        for (auto const& what : limits_here()) group.cases.push_back(limit_case(what, threads));
    return group;
}

std::vector<case_group> plan_groups(bench_options const& o, std::vector<gate_group> const& gates,
                                    std::shared_ptr<operand_store> const& store, std::vector<std::string>& skipped) {
    if (!gates.empty()) {
        std::vector<case_group> groups;
        for (auto const& g : gates) groups.push_back(cases_of(g, store, skipped));
        return groups;
    }
    if (o.mechanism == "limit") return {limits_alone(o)};
    auto group = group_of("", o.quick ? quick_problems() : problems_of(o), store);
    add_backend_rivals(group);
    return {group};
}

std::vector<std::pair<std::string, std::string>> context_of(bench_options const& o) {
    auto context = environment();
    context.emplace_back("repetitions", std::to_string(o.repetitions));
    context.emplace_back("min_time", number_text(o.min_time));
    context.emplace_back("seed", std::to_string(o.seed));
    context.emplace_back("repeat", repeat_line(o));
    return context;
}

// The engines that ran join the context: they are known only now.
std::vector<std::pair<std::string, std::string>> with_engines(std::vector<std::pair<std::string, std::string>> context,
                                                              std::string const& json) {
    auto const record = read_record(json, "this run");
    std::vector<std::string> engines;
    for (auto const& r : record.rows) {
        if (!is_limit(r.name) && !r.engine.empty() && std::find(engines.begin(), engines.end(), r.engine) == engines.end()) {
            engines.push_back(r.engine);
        }
    }
    context.emplace_back("engine", join(engines, "; "));
    return context;
}

int compare_files(bench_options const& o, std::ostream& out) {
    auto const comparison = compare(load_record(o.compare[0]), load_record(o.compare[1]));
    print(out, comparison, o.compare[0]);
    return 0;
}

} // namespace

int run_bench(bench_options const& o) {
    // Whatever goes to standard output as JSON must be alone there.
    std::ostream& out = o.json == "-" ? std::cerr : std::cout;
    if (o.compare.size() == 2) return compare_files(o, out);
    std::optional<run_record> const before = o.compare.empty() ? std::nullopt : std::optional(load_record(o.compare.front()));

    auto const store = std::make_shared<operand_store>(o.seed);
    auto const cpus = usable_cpus().size();
    auto gates = o.gates ? gate_groups(has_teams() ? static_cast<int>(cpus) : 1) : std::vector<gate_group>{};
    std::erase_if(gates, [&](gate_group const& g) { return g.title.find(o.gate_words) == std::string::npos; });
    if (o.gates && gates.empty()) throw usage_error("--gates '" + o.gate_words + "': no title of a group has these words");
    std::vector<std::string> skipped;
    auto const groups = plan_groups(o, gates, store, skipped);
    auto const context = context_of(o);
    print_banner(out, context);
    for (auto const& sentence : skipped) out << "not measured: " << sentence << '\n';
    out.flush();

    measure_settings how;
    how.repetitions = o.repetitions;
    how.min_time = o.min_time;
    how.verify = o.verify;
    how.progress = isatty(STDERR_FILENO) != 0;
    auto const measured = measure(groups, how);
    auto const json = with_context(measured.json, with_engines(context, measured.json));
    auto const record = read_record(json, "this run");

    report_extras extras;
    print_results(out, record);
    for (std::size_t g = 0; g < gates.size(); ++g)
        for (auto const& result : judge(gates[g], measured.groups[g])) extras.gates.push_back(result);
    if (!extras.gates.empty()) print(out, extras.gates);
    if (before) {
        extras.comparison = compare(*before, record);
        extras.compared_with = o.compare.front();
        print(out, *extras.comparison, extras.compared_with);
    }
    if (o.quick) print_quick_summary(out, record);
    out << "\nrepeat: " << repeat_line(o) << '\n';

    if (o.json == "-")
        std::cout << json;
    else if (!o.json.empty())
        write_file(o.json, json);
    if (!o.report.empty()) write_file(o.report, report_html(record, extras));
    return any_failed(record) ? 1 : 0;
}

} // namespace heed::bench
