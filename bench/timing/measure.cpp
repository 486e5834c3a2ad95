// SPDX-License-Identifier: BSD-3-Clause
#include "measure.hpp"

#include "statistics.hpp"
#include "stopwatch.hpp"
#include "team.hpp"

#include <benchmark/benchmark.h>

#include <algorithm>
#include <cstdio>
#include <exception>
#include <map>
#include <memory>
#include <sstream>

namespace heed::bench {

namespace {

using run = benchmark::BenchmarkReporter::Run;

constexpr double warm_below = 0.02; // seconds: a longer call warms itself

// One registered case and what is known about it from one repetition to the next.
class repeated_case {
public:
    repeated_case(timed_case const& c, measure_settings const& how) : case_(c), how_(how) {}

    void operator()(benchmark::State& state) {
        try {
            if (error_.empty()) repeat(state);
        } catch (std::exception const& e) { error_ = e.what(); }
        if (!error_.empty()) state.SkipWithError(error_.c_str());
    }

private:
    void repeat(benchmark::State& state) {
        if (how_.progress) std::fprintf(stderr, "\r\033[K%s", case_.name.c_str());
        bool const first = one_call_ < 0;
        if (first && case_.prepare) engine_ = case_.prepare();
        team_binding const bound(case_.threads);
        if (first || one_call_ < warm_below) one_call_ = time_of(case_.run);
        for ([[maybe_unused]] auto _ : state) case_.run();
        state.SetLabel(engine_);
        auto const per_second = [](double amount) { return benchmark::Counter(amount, benchmark::Counter::kIsIterationInvariantRate); };
        if (case_.flops > 0) state.counters["FLOP/s"] = per_second(case_.flops);
        if (case_.bytes > 0) state.counters["bytes/s"] = per_second(case_.bytes);
        if (first && how_.verify && case_.verify) error_ = case_.verify();
    }

    timed_case const& case_;
    measure_settings const& how_;
    std::string engine_, error_;
    double one_call_ = -1;
};

// Keeps everything; what is shown is decided when the whole run is known.
class collector : public benchmark::BenchmarkReporter {
public:
    bool ReportContext(Context const&) override { return true; }
    void ReportRuns(std::vector<run> const& report) override {
        for (run r : report) {
            benchmark::BenchmarkName plain; // without the suffixes for time and repetitions
            plain.function_name = r.run_name.function_name;
            r.run_name = plain;
            runs.push_back(std::move(r));
        }
    }
    std::vector<run> runs;
};

std::vector<run> measure_group(case_group const& group, measure_settings const& how) {
    std::vector<std::unique_ptr<repeated_case>> running;
    for (auto const& c : group.cases) {
        running.push_back(std::make_unique<repeated_case>(c, how));
        benchmark::RegisterBenchmark(c.name.c_str(), [s = running.back().get()](benchmark::State& state) { (*s)(state); })
            ->Unit(benchmark::kMillisecond)
            ->UseRealTime()
            ->MinTime(how.min_time)
            ->Repetitions(how.repetitions);
    }
    collector reporter;
    benchmark::RunSpecifiedBenchmarks(&reporter);
    benchmark::ClearRegisteredBenchmarks();
    if (how.progress) std::fprintf(stderr, "\r\033[K");
    // Rows come back in the order in which they happened to finish: sort them as they were asked for.
    std::map<std::string, std::size_t> place;
    for (auto const& c : group.cases) place.emplace(c.name, place.size());
    auto runs = std::move(reporter.runs);
    std::stable_sort(runs.begin(), runs.end(),
                     [&](run const& a, run const& b) { return place[a.run_name.function_name] < place[b.run_name.function_name]; });
    return runs;
}

// of_peak: the row's rate over the median rate of its limit, measured in the same group.
void add_fraction_of_peak(case_group const& group, std::vector<run>& runs) {
    std::map<std::string, std::map<std::string, std::vector<double>>> rates;
    for (auto const& r : runs)
        if (r.run_type == run::RT_Iteration)
            for (auto const& [counter, value] : r.counters) rates[r.run_name.function_name][counter].push_back(value.value);
    std::map<std::string, std::string> limit_of;
    for (auto const& c : group.cases)
        if (!c.limit.empty()) limit_of[c.name] = c.limit;
    for (auto& r : runs) {
        auto const limit = limit_of.find(r.run_name.function_name);
        if (limit == limit_of.end()) continue;
        for (auto const& [counter, sample] : rates[limit->second]) {
            auto const own = r.counters.find(counter);
            if (own == r.counters.end()) continue;
            bool const relative = r.run_type == run::RT_Aggregate && r.aggregate_unit == benchmark::kPercentage; // cv
            r.counters["of_peak"] = benchmark::Counter(relative ? own->second.value : own->second.value / median(sample));
            break;
        }
    }
}

std::string json_of(std::vector<run> const& runs) {
    std::ostringstream text;
    benchmark::JSONReporter reporter;
    reporter.SetOutputStream(&text);
    reporter.SetErrorStream(&text);
    reporter.ReportContext(benchmark::BenchmarkReporter::Context());
    reporter.ReportRuns(runs);
    reporter.Finalize();
    return text.str();
}

void initialize_once() {
    static bool const done = [] {
        static char tool[] = "heed", interleave[] = "--benchmark_enable_random_interleaving=true"; // the name is kept as a pointer
        char* arguments[] = {tool, interleave, nullptr};
        int count = 2;
        benchmark::Initialize(&count, arguments);
        return true;
    }();
    (void)done;
}

} // namespace

measurement measure(std::vector<case_group> const& groups, measure_settings const& how) {
    initialize_once();
    measurement result;
    std::vector<run> all;
    std::int64_t family = 0;
    std::map<std::string, std::int64_t> families;
    for (auto const& group : groups) {
        if (how.progress && !group.title.empty()) std::fprintf(stderr, "\r\033[K%s\n", group.title.c_str());
        auto runs = measure_group(group, how);
        add_fraction_of_peak(group, runs);
        for (auto& r : runs) {
            auto const [place, fresh] = families.try_emplace(r.run_name.function_name, family);
            family += fresh ? 1 : 0;
            r.family_index = place->second;
        }
        result.groups.push_back(read_record(json_of(runs), "this run"));
        all.insert(all.end(), runs.begin(), runs.end());
    }
    result.json = json_of(all);
    return result;
}

} // namespace heed::bench
