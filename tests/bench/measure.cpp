// SPDX-License-Identifier: BSD-3-Clause
#include <support/catch.hpp>

#include <timing/limit.hpp>
#include <timing/measure.hpp>
#include <timing/results.hpp>

#include <nlohmann/json.hpp>

#include <chrono>
#include <cmath>
#include <sstream>
#include <stdexcept>
#include <thread>

using namespace heed::bench;

namespace {

timed_case sleeper(std::string name, std::string limit) {
    timed_case c;
    c.name = std::move(name);
    c.flops = 1e6;
    c.bytes = 1e3;
    c.limit = std::move(limit);
    c.run = [] { std::this_thread::sleep_for(std::chrono::microseconds(200)); };
    return c;
}

measure_settings quickly() {
    measure_settings how;
    how.repetitions = 3;
    how.min_time = 0.001;
    return how;
}

// A machine whose calls take what they are told, times a factor that changes as its time goes on.
struct machine {
    double now = 0, slowdown = 1, period = 1e300; // every other period is slow

    timed_case row(std::string name, double seconds, double flops) {
        timed_case c;
        c.name = std::move(name);
        c.flops = flops;
        c.run = [this, seconds] { now += seconds * (std::fmod(now, 2 * period) < period ? 1 : slowdown); };
        return c;
    }
    measure_settings settings() {
        auto how = quickly();
        how.clock = [this](int) { return now; };
        return how;
    }
};

constexpr char const* row_name = "softmax/forward/f32/1/1/1/1/1/1/1/1";
constexpr char const* eigen_name = "softmax/forward/f32/1/1/1/1/1/1/1/1/backend=eigen";
constexpr char const* peak_name = "limit/fma_f32/1";

case_group against_both(machine& m) {
    auto own = m.row(row_name, 0.3e-3, 6e6); // 20 GFLOP/s of 25
    own.limit = peak_name;
    own.rivals = {{"vs_eigen", eigen_name}, {"vs_nobody", "a row that does not run"}};
    return {"", {own, m.row(eigen_name, 0.45e-3, 6e6), m.row(peak_name, 0.2e-3, 5e6)}};
}

} // namespace

TEST_CASE("brackets: a ratio per slice, the mean of the gaps around it over the slice; the quietest quarter counts") {
    double now = 0, cost = 1;
    clock_source const clock = [&](int) { return now; };
    brackets b(clock, 1, 4.0, {{"ratio", [&] { now += cost; }, 0.5, {}}});
    CHECK(b.calls() == 1);
    auto const slice = [&](double seconds, long calls, double next_gap) {
        b.begin();
        now += seconds;
        b.end(calls);
        cost = next_gap;
        b.gap();
        return b.ratios(b.peers()[0]);
    };
    using sample = std::vector<double>;
    b.gap();                                          // 1
    CHECK(slice(4, 1, 3) == sample{0.25});            // (1 + 3) / 2 / 4, half of it
    CHECK(slice(12, 3, 5) == sample{0.25});           // (3 + 5) / 2 / 4: louder
    CHECK(slice(8, 1, 1) == sample{0.25});            // (5 + 1) / 2 / 8: as loud as the slower of its gaps
    CHECK(slice(2, 1, 2) == sample{0.375});           // (1 + 2) / 2 / 2
    CHECK(slice(4, 2, 2) == sample{0.375, 0.5});      // (2 + 2) / 2 / 2, the second of five
}

TEST_CASE("brackets: slices are short, the peer of a long call runs longer") {
    double now = 0;
    long calls = 0;
    clock_source const clock = [&](int) { return now; };
    auto const in_gap = [&](double row, double of_peer) {
        brackets b(clock, 1, row, {{"", [&] { now += of_peer, ++calls; }, 1, {}}});
        calls = 0;
        b.gap();
        return calls;
    };
    CHECK(brackets(clock, 1, 1e-5, {}).calls() == heed_test::approx(200).margin(1));
    CHECK(brackets(clock, 1, 0.1, {}).calls() == 1);
    CHECK(in_gap(1e-5, 1e-4) == heed_test::approx(1 + 20).margin(1));
    CHECK(in_gap(0.08, 1e-4) == heed_test::approx(1 + 100).margin(1)); // an eighth of the row's call
    CHECK(in_gap(0.08, 0.2) == 1);
}

TEST_CASE("measure: ratios do not see that the machine changes its speed, times do") {
    for (double period : {1e300, 0.05, 7.0}) {
        machine m{0, 3, period};
        auto const record = read_record(measure({against_both(m)}, m.settings()).json, "test");
        auto const& own = *record.find(row_name);
        INFO("period " << period);
        CHECK(own.median_of("of_peak") == heed_test::approx(0.8).epsilon(1e-6));
        CHECK(own.median_of("vs_eigen") == heed_test::approx(1.5).epsilon(1e-6));
        CHECK(own.median_of("of_peak_spread") < 1e-6); // a few slices of many meet a change
        CHECK_FALSE(own.counters.contains("vs_nobody"));
        CHECK_FALSE(own.unstable());
        CHECK_FALSE(record.find(eigen_name)->counters.contains("vs_eigen"));
    }
}

TEST_CASE("measure: a row that meets other speeds than its limit is unstable") {
    machine m;
    auto group = against_both(m);
    auto const plain = group.cases[0].run;
    int calls = 0;
    group.cases[0].run = [&] {
        plain();
        if (++calls % 14 == 0) { plain(), plain(); }
    };
    auto how = m.settings();
    how.min_time = 0.05; // of the true clock, which decides how many calls there are: enough of them on a busy machine too
    auto const own = *read_record(measure({group}, how).json, "test").find(row_name);
    CHECK(own.median_of("of_peak_spread") > 0.03); // every other slice of six calls and one to warm up
    row spread_out = own;
    spread_out.counters["of_peak"] = {0.80, 0.85, 0.90};
    spread_out.counters["vs_eigen"] = {1.5, 1.5, 1.5};
    CHECK(spread_out.unstable());
    CHECK_FALSE(spread_out.unstable("vs_eigen"));
}

TEST_CASE("measure: Google Benchmark's JSON with every repetition, aggregates, counters and the fraction of the limit") {
    int prepared = 0, verified = 0;
    auto a = sleeper("softmax/forward/f32/1/1/1/1/1/1/1/1", "limit/fma_f32/1");
    a.prepare = [&] {
        ++prepared;
        return "an engine";
    };
    a.verify = [&] {
        ++verified;
        return std::string();
    };
    auto const result = measure({{"", {a, sleeper("limit/fma_f32/1", "")}}}, quickly());
    CHECK(prepared == 1);
    CHECK(verified == 1);

    auto const json = nlohmann::json::parse(result.json);
    int iterations = 0, medians = 0;
    for (auto const& entry : json["benchmarks"]) {
        CHECK(entry.contains("FLOP/s"));
        CHECK(entry.contains("bytes/s"));
        CHECK(entry.contains("of_peak") == (entry["run_name"] != "limit/fma_f32/1"));
        iterations += entry["run_type"] == "iteration";
        medians += entry["run_type"] == "aggregate" && entry["aggregate_name"] == "median";
    }
    CHECK(iterations == 6);
    CHECK(medians == 2);
    CHECK(json["context"].contains("library_build_type"));

    auto const record = read_record(result.json, "test");
    REQUIRE(record.rows.size() == 2);
    CHECK(record.rows[0].name == "softmax/forward/f32/1/1/1/1/1/1/1/1"); // as asked for, not as finished
    CHECK(record.rows[0].engine == "an engine");
    CHECK(record.rows[0].seconds.size() == 3);
    auto const& row = record.rows[0];
    CHECK(row.median_of("of_peak") > 0);
    CHECK(row.median_of("FLOP/s") == heed_test::approx(1e6 / row.median_seconds()).epsilon(0.01));
    CHECK_FALSE(any_failed(record));
}

TEST_CASE("measure: a failed verification and an exception are rows with a sentence, the rest goes on") {
    auto wrong = sleeper("softmax/forward/f32/1/1/1/2/2/1/1/1", "");
    wrong.verify = [] { return std::string("row 3 is wrong"); };
    auto broken = sleeper("softmax/forward/f32/1/1/1/3/3/1/1/1", "");
    broken.prepare = []() -> std::string { throw std::runtime_error("no such engine"); };
    auto const result = measure({{"first", {wrong, broken}}, {"second", {sleeper("softmax/forward/f32/1/1/1/4/4/1/1/1", "")}}}, quickly());
    auto const record = read_record(result.json, "test");
    REQUIRE(record.rows.size() == 3);
    CHECK(record.rows[0].error == "row 3 is wrong");
    CHECK(record.rows[1].error == "no such engine");
    CHECK(record.rows[2].error.empty());
    CHECK(any_failed(record));
    CHECK(result.groups.size() == 2);
    std::ostringstream text;
    print_results(text, record);
    CHECK_THAT(text.str(), heed_test::contains("FAILED softmax/forward/f32/1/1/1/2/2/1/1/1: row 3 is wrong"));

    auto how = quickly();
    how.verify = false;
    CHECK_FALSE(any_failed(read_record(measure({{"", {wrong}}}, how).json, "test")));
}

TEST_CASE("limits: every limit of the build runs and counts its work") {
    case_group group;
    for (auto const& what : limits_here()) { group.cases.push_back(limit_case(what, 1)); }
    auto how = quickly();
    how.repetitions = 1;
    auto const record = read_record(measure({group}, how).json, "test");
    for (auto const& what : limits_here()) {
        auto const* const row = record.find(limit_name(what, 1));
        REQUIRE(row != nullptr);
        CHECK(row->error.empty());
        CHECK(row->median_of(what == "read" ? "bytes/s" : "FLOP/s") > 0);
    }
    CHECK_THROWS_AS(limit_case("fma_f16", 1), unsupported_error);
}

TEST_CASE("brackets: a witness says which slices were quiet where the peer does not see it") {
    double now = 0, of_witness = 1;
    clock_source const clock = [&](int) { return now; };
    brackets b(clock, 1, 4.0, {{"ratio", [&] { now += 1; }, 1, {}}}, [&] { now += of_witness; });
    auto const slice = [&](double seconds, double next_witness) {
        b.begin();
        now += seconds;
        b.end(1);
        of_witness = next_witness;
        b.gap();
    };
    b.gap();
    for (auto const& [seconds, next] : {std::pair{5.0, 1.25}, {5.0, 1.25}, {8.0, 1.0}, {4.0, 1.0}, {8.0, 1.25}, {5.0, 1.25}}) { slice(seconds, next); }
    CHECK(b.ratios(b.peers()[0]) == std::vector<double>{0.25, 0.2}); // the one slice between two quiet gaps, then the first of the others
    CHECK(b.witnessed(b.peers()[0]) == std::vector<double>{1.0, 1.25});
}

TEST_CASE("run record: ratios are read off the quieter half of the repetitions, where a witness was heard") {
    row r;
    r.counters["of_peak"] = {0.6, 0.9, 0.7, 0.8, 0.5};
    CHECK(r.median_of("of_peak") == 0.7);
    r.counters[std::string("of_peak") + witness_suffix] = {3, 1, 2, 1, 4};
    CHECK(r.median_of("of_peak") == 0.8);
    CHECK(r.spread_of("of_peak") < 0.3);
    CHECK(r.counters.at("of_peak").size() == 5);
}
