// SPDX-License-Identifier: BSD-3-Clause
#include <support/catch.hpp>

#include <timing/list_syntax.hpp>
#include <timing/run_record.hpp>

#include <cmath>
#include <cstdio>
#include <filesystem>

using namespace heed::bench;

namespace {

constexpr char const* file = R"({
  "context": {"date": "2026-01-01", "num_cpus": 2, "cpu_model": "a \"quoted\" one"},
  "benchmarks": [
    {"name": "a", "run_name": "a", "run_type": "iteration", "repetitions": 3, "repetition_index": 0, "threads": 1, "iterations": 10,
     "real_time": 2.0, "cpu_time": 9.0, "time_unit": "ms", "FLOP/s": 1e9, "label": "engine one"},
    {"name": "a", "run_name": "a", "run_type": "iteration", "repetition_index": 1, "iterations": 10, "real_time": 4.0, "time_unit": "ms", "FLOP/s": 5e8},
    {"name": "a", "run_name": "a", "run_type": "iteration", "repetition_index": 2, "iterations": 10, "real_time": 3.0, "time_unit": "ms", "FLOP/s": 7e8},
    {"name": "a_median", "run_name": "a", "run_type": "aggregate", "aggregate_name": "median", "real_time": 99.0, "time_unit": "ms"},
    {"name": "b_mean", "run_name": "b", "run_type": "aggregate", "aggregate_name": "mean", "real_time": 1.0, "time_unit": "us"},
    {"name": "b_median", "run_name": "b", "run_type": "aggregate", "aggregate_name": "median", "real_time": 7.0, "time_unit": "us"},
    {"name": "c", "run_name": "c", "run_type": "iteration", "error_occurred": true, "error_message": "row 3 is wrong", "real_time": 0.0, "time_unit": "ns"}
  ]})";

} // namespace

TEST_CASE("record: repetitions of a name are one row, aggregates count only alone") {
    auto const record = read_record(file, "test");
    REQUIRE(record.rows.size() == 3);
    auto const& a = *record.find("a");
    CHECK(a.seconds == std::vector<double>{2e-3, 4e-3, 3e-3});
    CHECK(a.median_seconds() == heed_test::approx(3e-3));
    CHECK(a.median_of("FLOP/s") == heed_test::approx(7e8));
    CHECK(std::isnan(a.median_of("bytes/s")));
    CHECK(a.counters.size() == 1);
    CHECK(a.engine == "engine one");
    CHECK(a.unstable());
    CHECK(record.find("b")->seconds == std::vector<double>{7e-6});
    CHECK(record.find("c")->error == "row 3 is wrong");
    CHECK(record.find("d") == nullptr);
    CHECK(record.text("num_cpus") == "2");
    CHECK(record.text("nothing") == "");
}

TEST_CASE("record: the context takes additions and keeps the rest") {
    auto const record = read_record(with_context(file, {{"seed", "7"}, {"repeat", "heed bench --seq \"1k\""}}), "test");
    CHECK(record.text("seed") == "7");
    CHECK(record.text("repeat") == "heed bench --seq \"1k\"");
    CHECK(record.text("cpu_model") == "a \"quoted\" one");
    CHECK(record.rows.size() == 3);
}

TEST_CASE("record: a broken file is refused by name") {
    for (auto const* text : {"", "{", "[]", "{}", R"({"benchmarks": 3})", R"({"benchmarks": [{"name": "a"}]})", R"({"benchmarks": [3]})",
                             R"({"benchmarks": [{"name": "a", "real_time": "fast"}]})",
                             R"({"benchmarks": [{"name": "a", "real_time": 1, "time_unit": "weeks"}]})"}) {
        INFO(text);
        CHECK_THROWS_AS(read_record(text, "old.json"), usage_error);
        CHECK_THROWS_WITH(read_record(text, "old.json"), heed_test::contains("old.json"));
    }
    CHECK_THROWS_WITH(load_record("/nowhere/old.json"), heed_test::contains("/nowhere/old.json"));
}

TEST_CASE("files are written whole or not at all") {
    auto const path =
        (std::filesystem::temp_directory_path() / ("heed_bench_" + std::to_string(std::hash<std::string>{}(file)) + ".json")).string();
    write_file(path, file);
    CHECK(read_file(path) == file);
    CHECK_FALSE(std::filesystem::exists(path + ".partial"));
    std::remove(path.c_str());
    CHECK_THROWS_WITH(write_file("/nowhere/new.json", "x"), heed_test::contains("/nowhere/new.json"));
}
