// SPDX-License-Identifier: BSD-3-Clause
// The command itself, with shapes that take no time.
#include <support/catch.hpp>

#include <nlohmann/json.hpp>

#include <array>
#include <cstdio>
#include <fstream>
#include <iterator>
#include <set>
#include <sstream>
#include <string>

#include <sys/wait.h>

namespace {

struct outcome {
    int status;
    std::string out, error;
};

std::string path(std::string const& name) { return std::string(HEED_SCRATCH) + "/" + name; }

std::string content(std::string const& file) {
    std::ifstream stream(file, std::ios::binary);
    return {std::istreambuf_iterator<char>(stream), {}};
}

outcome run(std::string const& arguments) {
    auto const error_file = path("stderr.txt");
    auto* const pipe = popen(("'" HEED_TOOL "' " + arguments + " 2> '" + error_file + "'").c_str(), "r");
    REQUIRE(pipe != nullptr);
    outcome result{};
    std::array<char, 4096> buffer;
    while (auto const count = std::fread(buffer.data(), 1, buffer.size(), pipe)) { result.out.append(buffer.data(), count); }
    auto const status = pclose(pipe);
    result.status = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
    result.error = content(error_file);
    return result;
}

outcome bench(std::string const& arguments) { return run("bench --repetitions 2 --min-time 0.0001 " + arguments); }

std::set<std::string> names_in(nlohmann::json const& json) {
    std::set<std::string> names;
    for (auto const& entry : json["benchmarks"]) { names.insert(entry["run_name"].get<std::string>()); }
    return names;
}

} // namespace

TEST_CASE("bench: every backend computes awkward shapes rightly") {
    auto const result = bench("--heads 4 --kv-heads 2 --batch 2 --seq 1,37 --kv-seq 5,61 --dim 7 --dim-v 9 --dtype f32,f64 --set "
                              "mask=full,causal,window,document "
                              "--set documents=1 --set window=3 --backend cpu,reference,unfused,eigen");
    INFO(result.out << result.error);
    CHECK(result.status == 0);
    CHECK(result.out.find("FAILED") == std::string::npos);
}

TEST_CASE("bench: elements of 16 bits") {
    auto const result = bench("--heads 4 --kv-heads 2 --batch 2 --seq 1,37 --kv-seq 5,61 --dim 7 --dim-v 9 --dtype bf16,f16 --set mask=full,causal");
    INFO(result.out << result.error);
    CHECK(result.status == 0);
    CHECK(result.out.find("FAILED") == std::string::npos);
    CHECK(result.out.find("limit/") != std::string::npos);
}

TEST_CASE("bench: scores with more in them") {
    for (auto const* set : {"bias=row,full", "softcap=2", "alibi=1"}) {
        auto const result =
            bench("--heads 2 --seq 33 --kv-seq 40 --dim 8 --set mask=full,causal --backend cpu,unfused,eigen --set " + std::string(set));
        INFO(result.out << result.error);
        CHECK(result.status == 0);
    }
}

TEST_CASE("bench: JSON alone on standard output, with counters, context and limits") {
    auto const result = bench("--seq 32 --heads 1 --dim 16 --json - --seed 5");
    REQUIRE(result.status == 0);
    auto const json = nlohmann::json::parse(result.out);
    CHECK(names_in(json) == std::set<std::string>{"softmax/forward/f32/1/1/1/32/32/16/16/1", "limit/fma_f32/1", "limit/read/1"});
    for (auto const* key :
         {"seed", "repeat", "isa_compiled", "isa_present", "engine", "cpu_model", "compiler", "heed_version", "date", "num_cpus"}) {
        INFO(key);
        CHECK(json["context"].contains(key));
    }
    CHECK(json["context"]["seed"] == "5");
    int repetitions = 0;
    for (auto const& entry : json["benchmarks"]) {
        if (entry["run_name"] != "softmax/forward/f32/1/1/1/32/32/16/16/1" || entry["run_type"] != "iteration") { continue; }
        ++repetitions;
        for (auto const* counter : {"FLOP/s", "bytes/s", "of_peak", "of_peak_spread", "real_time"}) { CHECK(entry[counter].is_number()); }
        CHECK_THAT(entry["label"].get<std::string>(), heed_test::contains("pairwise"));
    }
    CHECK(repetitions == 2);
    CHECK_THAT(result.error, heed_test::contains("repeat: heed bench"));
}

TEST_CASE("bench: other backends are rivals, measured slice by slice") {
    auto const result = bench("--seq 32 --heads 1 --dim 16 --backend cpu,eigen,unfused --json -");
    REQUIRE(result.status == 0);
    for (auto const& entry : nlohmann::json::parse(result.out)["benchmarks"]) {
        bool const own = entry["run_name"] == "softmax/forward/f32/1/1/1/32/32/16/16/1";
        for (auto const* counter : {"vs_eigen", "vs_unfused", "vs_eigen_spread", "vs_unfused_spread"}) { CHECK(entry.contains(counter) == own); }
    }
    CHECK_THAT(result.error, heed_test::contains("vs eigen"));
}

TEST_CASE("bench: the repeat line repeats the rows") {
    auto const first = bench("--seq 16..64 --heads 2 --dim 8 --set mask=causal,full --json " + path("first.json"));
    REQUIRE(first.status == 0);
    auto const at = first.out.find("repeat: heed ");
    REQUIRE(at != std::string::npos);
    auto const line = first.out.substr(at + 13, first.out.find('\n', at) - at - 13);
    auto const second = run(line + " --json " + path("second.json"));
    REQUIRE(second.status == 0);
    CHECK(names_in(nlohmann::json::parse(content(path("first.json")))) == names_in(nlohmann::json::parse(content(path("second.json")))));
}

TEST_CASE("bench: comparison with an older file, and of two files") {
    REQUIRE(bench("--seq 16 --heads 1 --dim 8 --json " + path("old.json")).status == 0);
    auto const again = bench("--seq 16,24 --heads 1 --dim 8 --compare " + path("old.json") + " --json " + path("new.json"));
    REQUIRE(again.status == 0);
    CHECK_THAT(again.out, heed_test::contains("Compared with " + path("old.json")));
    CHECK_THAT(again.out, heed_test::contains("too few"));
    CHECK_THAT(again.out, heed_test::contains("only now:  softmax/forward/f32/1/1/1/24/24/8/8/1"));
    auto const files = run("bench --compare " + path("new.json") + " " + path("old.json"));
    CHECK(files.status == 0);
    CHECK_THAT(files.out, heed_test::contains("only then: softmax/forward/f32/1/1/1/24/24/8/8/1"));
}

TEST_CASE("bench: the report is a file of its own") {
    REQUIRE(bench("--seq 16,32 --heads 1 --dim 8 --backend cpu,eigen --report " + path("report.html")).status == 0);
    auto const html = content(path("report.html"));
    CHECK_THAT(html, heed_test::contains("<polyline"));
    CHECK(html.find("//") == std::string::npos);
    CHECK(html.find("<script") == std::string::npos);
}

TEST_CASE("bench: decode computes awkward shapes rightly, for every element and layout") {
    auto const result = bench("--decode --heads 6 --kv-heads 2 --batch 2 --seq 5,61 --dim 7 --dim-v 9 --dtype f32,bf16,f16,int8,f8 --set mask=window,causal "
                              "--set window=3 --set tokens=1,3 --set layout=contiguous,paged --set page=4");
    INFO(result.out << result.error);
    CHECK(result.status == 0);
    CHECK(result.out.find("FAILED") == std::string::npos);
    CHECK(bench("--decode --seq 40 --heads 2 --dim 5 --set mask=window --set window=7 --set layout=ring --json -").status == 0);
}

TEST_CASE("bench: gradients and split keys are timed and checked") {
    for (auto const* arguments : {"--backward --heads 2 --kv-heads 1 --seq 67 --kv-seq 75 --dim 20 --dim-v 12 --set mask=full,causal,window", "--backward --dtype bf16 --seq 40",
                                  "--seq 50 --kv-seq 131 --set splits=1,5,131"}) {
        auto const result = bench(arguments);
        INFO(arguments << '\n' << result.error);
        CHECK(result.status == 0);
        CHECK_THAT(result.out, heed_test::contains("limit/fma_f32/1"));
    }
}

TEST_CASE("bench: the limits alone") {
    auto const result = bench("--mechanism limit");
    CHECK(result.status == 0);
    for (auto const* what : {"limit/fma_f32/1", "limit/fma_f64/1", "limit/add_max/1", "limit/read/1"}) {
        CHECK_THAT(result.out, heed_test::contains(what));
    }
}

TEST_CASE("bench: exit 3 and a sentence for what this build cannot time") {
    for (auto const* arguments :
         {"--backward --dtype f64", "--backward --set softcap=3", "--backward --backend eigen", "--set splits=2 --set mask=causal", "--decode --dtype f64", "--decode --set layout=ring", "--dtype int8", "--dtype bf16 --set window=8", "--dtype f16 --backend reference", "--backend cuda", "--mechanism none-such", "--set temperature=2",
          "--set softcap=3 --set alibi=1", "--backend reference --threads 2", "--set isa=sse4.2"}) {
        auto const result = bench(arguments);
        INFO(arguments << '\n' << result.error);
        CHECK(result.status == 3);
        CHECK(result.error.size() > 20);
        CHECK(result.out.empty());
    }
}

TEST_CASE("bench: exit 2 and a sentence for wrong usage and wrong files") {
    std::ofstream(path("broken.json")) << "{\"benchmarks\": [";
    for (auto const& arguments : {std::string("--seq 0"), std::string("--set splits=0"), std::string("--seq 8..4"), std::string("--heads x"),
                                  std::string("--set mask=round"), std::string("--set mask"), std::string("--backend gpu"),
                                  std::string("--dtype f12"), std::string("--kv-heads 3"), std::string("--compare /nowhere/old.json"),
                                  "--compare " + path("broken.json"), std::string("--gates none-such"), std::string("--repetitions 0"), std::string("--nonsense")}) {
        auto const result = run("bench " + arguments);
        INFO(arguments << '\n' << result.error);
        CHECK(result.status == 2);
        CHECK(result.error.size() > 10);
    }
}
