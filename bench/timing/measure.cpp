// SPDX-License-Identifier: BSD-3-Clause
#include "measure.hpp"

#include "statistics.hpp"
#include "team.hpp"
#include "witness.hpp"

#include <benchmark/benchmark.h>

#include <algorithm>
#include <cmath>
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

    void meet(std::map<std::string, repeated_case*> const& group) {
        auto const find = [&](std::string const& counter, std::string const& name, bool by_rate) {
            if (auto const found = group.find(name); found != group.end()) peers_.push_back({counter, found->second, by_rate});
        };
        find("of_peak", case_.limit, true);
        for (auto const& r : case_.rivals) find(r.counter, r.name, false);
    }

    void operator()(benchmark::State& state) {
        if (how_.progress) std::fprintf(stderr, "\r\033[K%s", case_.name.c_str());
        team_binding const bound(case_.threads);
        try {
            if (ready()) repeat(state);
        } catch (std::exception const& e) { error_ = e.what(); }
        if (!error_.empty()) state.SkipWithError(error_.c_str());
    }

private:
    struct known_peer {
        std::string counter;
        repeated_case* row;
        bool by_rate; // what is compared; else times
    };

    // Work of a call as a multiple of the limit's: operations, or bytes where the limit has none.
    double share_of(timed_case const& limit) const { return limit.flops > 0 ? case_.flops / limit.flops : case_.bytes / limit.bytes; }

    // Memory in place, one call made and looked at.
    bool ready() {
        if (one_call_ >= 0 || !error_.empty()) return error_.empty();
        try {
            if (case_.prepare) engine_ = case_.prepare();
            time_one_call();
            if (how_.verify && case_.verify) error_ = case_.verify();
        } catch (std::exception const& e) { error_ = e.what(); }
        return error_.empty();
    }
    void time_one_call() {
        auto const start = how_.clock(case_.threads);
        case_.run();
        one_call_ = how_.clock(case_.threads) - start;
    }
    brackets with_peers() {
        std::vector<peer> peers;
        for (auto const& p : peers_)
            if (p.row->ready()) peers.push_back({p.counter, p.row->case_.run, p.by_rate ? share_of(p.row->case_) : 1});
        if (!peers.empty() && !witness_) witness_ = witness(case_.threads);
        return {how_.clock, case_.threads, one_call_, std::move(peers), witness_};
    }

    void repeat(benchmark::State& state) {
        if (one_call_ < warm_below) time_one_call();
        brackets b = with_peers();
        auto const warm = [&] { if (b.calls() > 1 && !b.peers().empty()) case_.run(); }; // a peer has been in the caches
        b.gap();
        warm();
        long left = static_cast<long>(state.max_iterations), count = std::min(left, b.calls()), done = 0;
        b.begin();
        for ([[maybe_unused]] auto _ : state) {
            case_.run();
            if (++done < count || b.peers().empty()) continue;
            b.end(done);
            state.PauseTiming();
            b.gap();
            left -= done;
            done = 0;
            count = std::min(left, b.calls());
            if (left > 0) warm();
            state.ResumeTiming();
            b.begin();
        }
        report(state, b);
    }
    void report(benchmark::State& state, brackets const& b) const {
        state.SetLabel(engine_);
        auto const per_second = [](double amount) { return benchmark::Counter(amount, benchmark::Counter::kIsIterationInvariantRate); };
        if (case_.flops > 0) state.counters["FLOP/s"] = per_second(case_.flops);
        if (case_.bytes > 0) state.counters["bytes/s"] = per_second(case_.bytes);
        for (auto const& p : b.peers()) {
            auto const ratios = b.ratios(p);
            state.counters[p.counter] = median(ratios);
            state.counters[p.counter + "_spread"] = spread(ratios);
            if (auto const seconds = b.witnessed(p); !seconds.empty()) state.counters[p.counter + witness_suffix] = median(seconds);
        }
    }

    timed_case const& case_;
    measure_settings const& how_;
    std::vector<known_peer> peers_;
    std::function<void()> witness_;
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
            std::erase_if(r.counters, [](auto const& c) { return !std::isfinite(c.second.value); }); // cv of zeros; JSON knows no NaN
            runs.push_back(std::move(r));
        }
    }
    std::vector<run> runs;
};

std::vector<run> measure_group(case_group const& group, measure_settings const& how) {
    std::vector<std::unique_ptr<repeated_case>> running;
    std::map<std::string, repeated_case*> by_name;
    for (auto const& c : group.cases) {
        running.push_back(std::make_unique<repeated_case>(c, how));
        by_name.emplace(c.name, running.back().get());
        benchmark::RegisterBenchmark(c.name.c_str(), [s = running.back().get()](benchmark::State& state) { (*s)(state); })
            ->Unit(benchmark::kMillisecond)
            ->UseRealTime()
            ->MinTime(how.min_time)
            ->Repetitions(how.repetitions);
    }
    for (auto const& c : running) c->meet(by_name);
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
        for (auto const& c : group.cases)
            if (c.release) c.release();
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
