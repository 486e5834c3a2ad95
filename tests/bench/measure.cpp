// SPDX-License-Identifier: BSD-3-Clause
#include <support/catch.hpp>

#include <timing/limit.hpp>
#include <timing/measure.hpp>
#include <timing/results.hpp>

#include <nlohmann/json.hpp>

#include <chrono>
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

} // namespace

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
    CHECK(row.median_of("of_peak") == heed_test::approx(row.median_of("FLOP/s") / record.rows[1].median_of("FLOP/s")));
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
