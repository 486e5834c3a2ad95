// SPDX-License-Identifier: BSD-3-Clause
// heed check without a kernel: a mechanism made for these tests, whose right answers are known, in files of every kind of wrongness.
#include "raw_file.hpp"

#include <tool/case_file.hpp>
#include <tool/check.hpp>

#include <support/catch.hpp>

#include <array>
#include <limits>
#include <sstream>
#include <string>
#include <vector>

using namespace heed::tool;
using namespace heed_test;

namespace {

// out = factor * x, rank = the positions of x in decreasing order of value as a set per row, order = the same as a sequence.
struct doubling {
    template <class T>
    static void run(case_io<T>& io) {
        auto const x = io.reals("x", "AB");
        double const factor = io.source().number_if("factor").value_or(2);
        T* const out = io.make("out", "AB");
        for (std::int64_t i = 0; i < io['A'] * io['B']; ++i) { out[i] = static_cast<T>(factor) * x.data[i]; }
        if (!io.expects("rank")) { return; }
        auto* const rank = io.make_integers("rank", "AB", integer_order::rows_are_sets);
        auto* const order = io.make_integers("order", "AB", integer_order::exact);
        for (std::int64_t i = 0; i < io['A'] * io['B']; ++i) { rank[i] = order[i] = i % io['B']; }
    }
};

struct refusing {
    template <class T>
    static void run(case_io<T>&) {
        throw std::invalid_argument("heed: k has 3 heads and q has 8 heads");
    }
};

constexpr std::array test_cases{wire<doubling>("double"), wire<refusing>("refuse")};
check_registration const registration("test", test_cases);

// x = (1, -2, 3, 0), out = 2 x with a float64 twin; nothing wrong.
file_builder good_case() {
    file_builder file;
    file.add<float>("x", "F32", {2, 2}, {1, -2, 3, 0}).add<float>("out", "F32", {2, 2}, {2, -4, 6, 0});
    file.add<double>("out64", "F64", {2, 2}, {2, -4, 6, 0});
    file.metadata("mechanism", "test").metadata("case", "double").metadata("inputs", R"(["x"])").metadata("expected", R"({"out":[2,2]})");
    file.metadata("atol_f32", R"({"out":1e-6})").metadata("atol_f64", R"({"out":1e-12})");
    return file;
}

struct outcome {
    exit_code code;
    std::string report, errors;
};

outcome check(file_builder const& file, check_options const& options = {}) {
    scratch_folder const folder;
    std::ostringstream report, errors;
    auto const code = check_file(folder.write("case.file", file.bytes()), options, report, errors);
    return {code, report.str(), errors.str()};
}
constexpr check_options in_double{false, true}, forward_only{true, false};

} // namespace

TEST_CASE("check: everything right", "[cli]") {
    for (auto const& options : {check_options{}, in_double}) {
        auto const result = check(good_case(), options);
        CHECK(result.code == exit_ok);
        CHECK_THAT(result.report, contains("case.file") && contains("test/double") && contains("out") && contains("max abs") &&
                                      contains("max rel") && contains("error ratio") && contains("ok"));
        CHECK(result.errors.empty());
    }
}

TEST_CASE("check: a mismatch is 1 and is named", "[cli]") {
    auto const result = check(good_case().metadata("factor", "2.001"));
    CHECK(result.code == exit_mismatch);
    CHECK_THAT(result.report, contains("MISMATCH"));
    CHECK(check(good_case().metadata("factor", "2.0000001")).code == exit_ok);
    CHECK(check(good_case().metadata("factor", "2.0000001"), in_double).code == exit_mismatch); // against the twin, more tightly
}

TEST_CASE("check: tolerances the file does not state", "[cli]") {
    auto const file = [](double error) {
        file_builder f;
        f.add<float>("x", "F32", {1, 2}, {100, 1}).add<float>("out", "F32", {1, 2}, {200, 2});
        f.metadata("mechanism", "test").metadata("case", "double").metadata("inputs", R"(["x"])").metadata("expected", R"({"out":[1,2]})");
        return f.metadata("factor", std::to_string(2 + error));
    };
    CHECK(check(file(0.9e-5 * 2)).code == exit_ok); // 1e-5 of the largest value, 200
    CHECK(check(file(1.1e-5 * 2)).code == exit_mismatch);

    // In double without a twin: 1e-11 of the largest value, and 2^-24 of each for the float32 expectation.
    auto const third = [](double expected) {
        file_builder f;
        f.add<double>("x", "F64", {1, 1}, {1.0 / 3}).add<float>("out", "F32", {1, 1}, {static_cast<float>(expected)});
        f.metadata("mechanism", "test").metadata("case", "double").metadata("inputs", R"(["x"])").metadata("expected", R"({"out":[1,1]})");
        return f;
    };
    CHECK(check(third(2.0 / 3), in_double).code == exit_ok);
    CHECK(check(third(2.0 / 3 * (1 + 0x1p-22)), in_double).code == exit_mismatch);
}

TEST_CASE("check: a tolerance that is none makes a bad file", "[cli]") {
    for (auto const* text : {R"({"out":NaN})", R"({"out":"NaN"})", R"({"out":null})", R"({"out":-1e-6})", R"({"out":1e999})",
                             R"({"out":Infinity})", "[]", "", R"({"out":1,"out":2})", "{"}) {
        for (auto const* key : {"atol_f32", "atol_f64"}) {
            auto const result = check(good_case().metadata(key, text));
            CHECK(result.code == exit_bad_input);
            CHECK_THAT(result.errors, contains("case.file") && contains(key));
        }
    }
    CHECK_THAT(check(good_case().metadata("atol_f32", R"({"out":"NaN"})")).errors, contains("tensor \"out\""));
}

TEST_CASE("check: gradients that nobody computes", "[cli]") {
    auto const file = [](double factor) {
        auto f = good_case();
        f.add<float>("dx", "F32", {2, 2}, {1, 1, 1, 1}).add<float>("dout_x", "F32", {1}, {1});
        f.metadata("expected", R"({"dx":[2,2],"out":[2,2],"dout_x":[1]})").metadata("factor", std::to_string(factor));
        return f;
    };
    auto const result = check(file(2));
    CHECK(result.code == exit_not_supported);
    CHECK_THAT(result.report, contains("dx") && contains("dout_x") && contains("gradient not supported yet") && contains("ok"));
    CHECK(check(file(3)).code == exit_mismatch); // the forward part is still compared
    CHECK(check(file(2), forward_only).code == exit_ok);
    CHECK_THAT(check(file(2), forward_only).report, !contains("dx"));
    CHECK(check(file(3), forward_only).code == exit_mismatch);
}

TEST_CASE("check: an expected tensor that the wiring does not make is not supported", "[cli]") {
    auto f = good_case();
    f.add<float>("density", "F32", {1}, {1}).metadata("expected", R"({"out":[2,2],"density":[1]})");
    CHECK(check(f).code == exit_not_supported);
    CHECK(check(f, forward_only).code == exit_not_supported); // it only looks like a gradient
}

TEST_CASE("check: integers are compared exactly, selections as sets of a row", "[cli]") {
    auto const file = [](std::vector<std::int32_t> const& rank, std::vector<std::int32_t> const& order) {
        auto f = good_case();
        f.add<std::int32_t>("rank", "I32", {2, 2}, rank).add<std::int32_t>("order", "I32", {2, 2}, order);
        return f.metadata("expected", R"({"out":[2,2],"rank":[2,2],"order":[2,2]})");
    };
    CHECK(check(file({0, 1, 0, 1}, {0, 1, 0, 1})).code == exit_ok);
    CHECK(check(file({1, 0, 0, 1}, {0, 1, 0, 1})).code == exit_ok);
    CHECK(check(file({0, 1, 0, 1}, {1, 0, 0, 1})).code == exit_mismatch);
    CHECK(check(file({0, 1, 0, 0}, {0, 1, 0, 1})).code == exit_mismatch);
}

TEST_CASE("check: NaN and infinities in expectations", "[cli]") {
    auto const file = [](float x, float out) {
        file_builder f;
        f.add<float>("x", "F32", {1, 1}, {x}).add<float>("out", "F32", {1, 1}, {out});
        return f.metadata("mechanism", "test")
            .metadata("case", "double")
            .metadata("inputs", R"(["x"])")
            .metadata("expected", R"({"out":[1,1]})");
    };
    float const inf = std::numeric_limits<float>::infinity(), nan = std::numeric_limits<float>::quiet_NaN();
    CHECK(check(file(-inf, -inf)).code == exit_ok);
    CHECK(check(file(nan, nan)).code == exit_ok);
    CHECK(check(file(nan, 1)).code == exit_mismatch);
    CHECK(check(file(1, nan)).code == exit_mismatch);
    CHECK(check(file(inf, -inf)).code == exit_mismatch);
}

TEST_CASE("check: promises of the metadata that the file breaks", "[cli]") {
    auto const refused = [](file_builder const& file, std::string const& part) {
        auto const result = check(file);
        CHECK(result.code == exit_bad_input);
        CHECK_THAT(result.errors, contains("case.file") && contains(part));
    };
    for (std::string const key : {"mechanism", "case", "inputs", "expected"}) {
        parted_file parted(good_case().bytes());
        parted.header["__metadata__"].erase(key);
        scratch_folder const folder;
        std::ostringstream report, errors;
        CHECK(check_file(folder.write("case.file", parted.bytes()), {}, report, errors) == exit_bad_input);
        CHECK_THAT(errors.str(), contains("metadata \"" + key + "\" is missing"));
    }
    refused(good_case().metadata("inputs", R"(["x","y"])"), "tensor \"y\": is missing");
    refused(good_case().metadata("inputs", "3"), "not a list");
    refused(good_case().metadata("inputs", "[3]"), "not a name");
    refused(good_case().metadata("expected", R"({"out":[2,2],"lse":[2]})"), "tensor \"lse\": is missing");
    refused(good_case().metadata("expected", R"({"out":[4]})"), "tensor \"out\"");
    refused(good_case().metadata("expected", R"({"out":4})"), "tensor \"out\"");
    refused(good_case().metadata("expected", R"({"out":[2,2],"out":[2,2]})"), "twice");
    refused(good_case().metadata("expected", "[]"), "not an object");
    refused(good_case().metadata("factor", "\"two\""), "metadata \"factor\" is not a number");
    refused(good_case().metadata("factor", "two"), "metadata \"factor\" is not valid JSON");

    auto const with_x = [](char const* dtype, std::vector<std::int64_t> const& shape, std::vector<float> const& values) {
        file_builder f;
        f.add<float>("x", dtype, shape, values).add<float>("out", "F32", {2, 2}, {2, -4, 6, 0});
        return f.metadata("mechanism", "test")
            .metadata("case", "double")
            .metadata("inputs", R"(["x"])")
            .metadata("expected", R"({"out":[2,2]})");
    };
    refused(with_x("F32", {4}, {1, 2, 3, 4}), "tensor \"x\": has shape [4], 2 axes are needed");
    refused(with_x("I32", {2, 2}, {1, 2, 3, 4}), "tensor \"x\": has dtype I32, needed is F32 or F64");
    refused(with_x("F32", {1, 4}, {1, 2, 3, 4}), "tensor \"out\": has shape [2, 2], from the inputs it must be [1, 4]");
    file_builder twin;
    twin.add<float>("x", "F32", {1, 1}, {1}).add<float>("out", "F32", {1, 1}, {2}).add<double>("out64", "F64", {1}, {2});
    twin.metadata("mechanism", "test").metadata("case", "double").metadata("inputs", R"(["x"])").metadata("expected", R"({"out":[1,1]})");
    refused(twin, "tensor \"out64\": is not an F64 twin of \"out\"");
}

TEST_CASE("check: a shape that the library refuses makes a bad file", "[cli]") {
    auto const result = check(good_case().metadata("case", "refuse"));
    CHECK(result.code == exit_bad_input);
    CHECK_THAT(result.errors, contains("case.file: k has 3 heads and q has 8 heads"));
}

TEST_CASE("check: unknown mechanisms and cases are not supported", "[cli]") {
    auto const mechanism = check(good_case().metadata("mechanism", "telepathy"));
    CHECK(mechanism.code == exit_not_supported);
    CHECK_THAT(mechanism.errors, contains("case.file") && contains("mechanism \"telepathy\" is not supported"));
    auto const unknown_case = check(good_case().metadata("case", "triple"));
    CHECK(unknown_case.code == exit_not_supported);
    CHECK_THAT(unknown_case.errors, contains("case \"triple\" of mechanism \"test\" is not supported"));
}

TEST_CASE("check: over several files the first of 2, 1, 3 that occurred", "[cli]") {
    scratch_folder const folder;
    auto const ok = folder.write("ok", good_case().bytes());
    auto const mismatch = folder.write("mismatch", good_case().metadata("factor", "3").bytes());
    auto const unknown = folder.write("unknown", good_case().metadata("case", "triple").bytes());
    auto const bad = folder.write("bad", "garbage");
    auto const code = [](std::vector<std::string> const& paths) {
        std::ostringstream report, errors;
        return check_files(paths, {}, report, errors);
    };
    CHECK(code({ok, ok}) == exit_ok);
    CHECK(code({ok, unknown, ok}) == exit_not_supported);
    CHECK(code({unknown, mismatch, ok}) == exit_mismatch);
    CHECK(code({ok, unknown, mismatch, bad}) == exit_bad_input);
    CHECK(code({bad, ok}) == exit_bad_input);
}
