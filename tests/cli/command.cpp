// SPDX-License-Identifier: BSD-3-Clause
// The command as a user runs it: exit codes, sentences, files in and out.
#include "raw_file.hpp"

#include <support/catch.hpp>

#include <array>
#include <cmath>
#include <cstdio>
#include <string>
#include <vector>

#include <sys/wait.h>

using namespace heed_test;

namespace {

struct outcome {
    int code; // -1: ended by a signal
    std::string text;
};

std::string in_shell_quotes(std::string const& text) {
    std::string result = "'";
    for (char const c : text) {
        if (c == '\'') {
            result += "'\\''";
        } else {
            result += c;
        }
    }
    result += '\'';
    return result;
}

outcome run_heed(std::vector<std::string> const& arguments) {
    std::string line = in_shell_quotes(HEED_COMMAND);
    for (auto const& argument : arguments) { line.append(" ").append(in_shell_quotes(argument)); }
    auto* const pipe = ::popen((line + " 2>&1").c_str(), "r");
    REQUIRE(pipe != nullptr);
    outcome result;
    std::array<char, 4096> buffer;
    for (std::size_t n; (n = std::fread(buffer.data(), 1, buffer.size(), pipe)) > 0;) { result.text.append(buffer.data(), n); }
    int const status = ::pclose(pipe);
    result.code = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
    INFO(line << "\n" << result.text);
    CHECK(result.code >= 0);
    return result;
}

std::string golden(std::string const& name) { return std::string(HEED_GOLDEN) + "/" + name + ".safetensors"; }

std::vector<float> floats(parted_file const& file, std::string const& tensor) {
    auto const& entry = file.header[tensor];
    CHECK(entry["dtype"] == "F32");
    auto const begin = entry["data_offsets"][0].get<std::size_t>(), end = entry["data_offsets"][1].get<std::size_t>();
    std::vector<float> values((end - begin) / sizeof(float));
    std::memcpy(values.data(), file.data.data() + begin, end - begin);
    return values;
}

// The largest difference of a tensor in two files.
double difference(parted_file const& a, std::string const& in_a, parted_file const& b, std::string const& in_b) {
    auto const x = floats(a, in_a), y = floats(b, in_b);
    REQUIRE(x.size() == y.size());
    double largest = 0;
    for (std::size_t i = 0; i < x.size(); ++i) {
        if (x[i] != y[i]) { largest = std::max(largest, static_cast<double>(std::abs(x[i] - y[i]))); }
    }
    return largest;
}

} // namespace

TEST_CASE("heed: usage", "[cli]") {
    CHECK(run_heed({}).code == 2);
    CHECK(run_heed({"--help"}).code == 0);
    CHECK_THAT(run_heed({"--version"}).text, contains("heed "));
    for (auto const* command : {"list", "run", "check", "info"}) {
        auto const help = run_heed({command, "--help"});
        CHECK(help.code == 0);
        CHECK_THAT(help.text, contains("Usage: heed " + std::string(command)));
        CHECK(run_heed({command, "--no-such-option"}).code == 2);
    }
    auto const unknown = run_heed({"frobnicate"});
    CHECK(unknown.code == 2);
    CHECK_THAT(unknown.text, contains("there is no command \"frobnicate\""));
    CHECK(run_heed({"check"}).code == 2);
    CHECK(run_heed({"run"}).code == 2);
}

TEST_CASE("heed list: every mechanism with verbs, backends, dtypes, options", "[cli]") {
    CHECK_THAT(run_heed({"list"}).text, contains("softmax") && contains("forward") && contains("softcap"));
    auto const result = run_heed({"list", "--json"});
    REQUIRE(result.code == 0);
    auto const all = json::parse(result.text);
    REQUIRE(all.is_array());
    bool found = false;
    for (auto const& mechanism : all) {
        for (auto const* key : {"name", "header", "verbs", "backends", "dtypes", "options"}) { CHECK(mechanism.contains(key)); }
        if (mechanism["name"] != "softmax") { continue; }
        found = true;
        CHECK(mechanism["verbs"][0] == "forward");
        CHECK(mechanism["dtypes"] == json({"f32", "f64", "bf16", "f16"}));
        CHECK(mechanism["options"][0]["key"] == "mask");
    }
    CHECK(found);
}

TEST_CASE("heed info: what was built and what is there", "[cli]") {
    auto const result = run_heed({"info"});
    CHECK(result.code == 0);
    CHECK_THAT(result.text,
               contains("isa compiled") && contains("isa present") && contains("engines") && contains("threads") && contains("gpu"));
}

TEST_CASE("heed check: exit codes", "[cli]") {
    scratch_folder const folder;
    CHECK(run_heed({"check", "--forward", golden("plain_self")}).code == 0);
    CHECK(run_heed({"check", "--forward", "--double", golden("plain_self"), golden("varlen_causal")}).code == 0);
    CHECK(run_heed({"check", golden("tiles_d64"), golden("forgetting_gate")}).code == 0); // without gradients and with
    CHECK_THAT(run_heed({"check", golden("forgetting_gate")}).text, contains("dg "));
    CHECK_THAT(run_heed({"check", "--forward", golden("forgetting_gate")}).text, !contains("dg "));

    parted_file changed(read_bytes(golden("softcap")));
    changed.begin_of("q")[3] ^= 1; // the exponent of the first number
    auto const mismatch = folder.write("changed", changed.bytes());
    CHECK(run_heed({"check", "--forward", mismatch}).code == 1);
    CHECK_THAT(run_heed({"check", "--forward", mismatch}).text, contains("MISMATCH"));

    parted_file renamed(read_bytes(golden("softcap")));
    renamed.header["__metadata__"]["case"] = "hardcap";
    auto const unknown = folder.write("renamed", renamed.bytes());
    CHECK(run_heed({"check", "--forward", unknown}).code == 3);
    CHECK(run_heed({"check", "--forward", unknown, mismatch}).code == 1);

    auto const whole = read_bytes(golden("softcap"));
    auto const truncated = folder.write("truncated", whole.substr(0, whole.size() - 5));
    CHECK(run_heed({"check", "--forward", truncated}).code == 2);
    CHECK_THAT(run_heed({"check", "--forward", truncated}).text, contains(truncated) && contains("tensor"));
    CHECK(run_heed({"check", "--forward", unknown, mismatch, truncated}).code == 2);
    for (auto const& path :
         {folder.path("missing"), folder.path("."), folder.write("empty", ""), folder.write("garbage", "garbage garbage")}) {
        auto const result = run_heed({"check", "--forward", path});
        CHECK(result.code == 2);
        CHECK_THAT(result.text, contains(path));
    }
}

TEST_CASE("heed run: what it writes is what check expects", "[cli]") {
    scratch_folder const folder;
    struct row {
        std::string name;
        std::vector<std::string> options;
    };
    std::vector<row> const rows{{"plain_self", {}},
                                {"plain_cross_dv", {"mask=full"}},
                                {"gqa_8_2", {}},
                                {"scale_explicit", {"scale=0.3"}},
                                {"causal_bottom_right", {"mask=causal"}},
                                {"causal_top_left", {"mask=causal_top_left"}},
                                {"window_causal", {"mask=window", "window=7"}},
                                {"window_two_sided", {"mask=window", "left=5", "right=3"}},
                                {"mask_bool_empty_rows", {}},
                                {"mask_key_padding", {}},
                                {"bias_broadcast", {}},
                                {"bias_neg_inf", {"bias=tensor"}},
                                {"alibi_causal", {"mask=causal"}},
                                {"alibi_symmetric_cross", {"alibi=1"}},
                                {"softcap", {"softcap=5"}},
                                {"softcap_causal_window_gqa", {"softcap=4", "mask=window", "window=9"}},
                                {"sink_cross", {}}};
    for (auto const& [name, options] : rows) {
        std::vector<std::string> arguments{"run", "--mechanism", "softmax", "--set", "lse=1"};
        for (auto const& option : options) { arguments.insert(arguments.end(), {"--set", option}); }
        auto const out = folder.path("out.safetensors");
        arguments.insert(arguments.end(), {golden(name), "-o", out});
        INFO(name);
        auto const result = run_heed(arguments);
        INFO(result.text);
        REQUIRE(result.code == 0);
        parted_file const expected(read_bytes(golden(name))), made(read_bytes(out));
        CHECK(made.header["__metadata__"]["mechanism"] == "softmax");
        CHECK(made.header["out"]["shape"] == expected.header["out"]["shape"]);
        CHECK(difference(made, "out", expected, "out") < 1e-5);
        CHECK(difference(made, "lse", expected, "lse") < 2e-5);
    }
}

TEST_CASE("heed run: factors and latents, through a cache and without, are what check expects", "[cli]") {
    scratch_folder const folder;
    auto const out = folder.path("out.safetensors");
    for (std::string const& line : {std::string("tensor_product/factors_causal_bottom_right step=0"), std::string("tensor_product/factors_causal_bottom_right step=1"), std::string("other/mla_core absorbed=0"), std::string("other/mla_core absorbed=1")}) {
        auto const space = line.find(' ');
        auto const in = golden("../" + line.substr(0, space));
        auto const result = run_heed({"run", "--mechanism", line[0] == 't' ? "tensor_product" : "latent", "--set", "mask=causal", "--set", line.substr(space + 1), in, "-o", out});
        INFO(line << ": " << result.text);
        REQUIRE(result.code == 0);
        parted_file const expected(read_bytes(in)), made(read_bytes(out));
        CHECK(difference(made, "out", expected, "out") < 2e-6);
    }
    CHECK(run_heed({"run", "--mechanism", "latent", golden("../tensor_product/factors_causal_bottom_right"), "-o", folder.path("none")}).code == 2);
}

TEST_CASE("heed run: combinations of ingredients agree with the mask that says the same", "[cli]") {
    scratch_folder const folder;
    // Documents and a boolean mask of the same pairs, beside bias, slopes and sinks.
    std::vector<float> q, k, v, bias;
    std::uint32_t state = 1;
    auto const fill = [&](std::vector<float>& x, std::size_t count) {
        for (std::size_t i = 0; i < count; ++i) {
            x.push_back(static_cast<float>((state = state * 1664525u + 1013904223u) >> 8) * 0x1p-23f - 1.0f);
        }
    };
    constexpr std::int64_t N = 21, d = 6;
    for (auto* x : {&q, &k, &v}) { fill(*x, 2 * N * d); }
    fill(bias, N * N);
    std::vector<std::int32_t> documents;
    std::vector<std::uint8_t> keep;
    for (std::int32_t n = 0; n < N; ++n) { documents.push_back(n / 8); }
    for (std::int32_t i = 0; i < N; ++i) {
        for (std::int32_t j = 0; j < N; ++j) {
            keep.push_back(documents[static_cast<std::size_t>(i)] == documents[static_cast<std::size_t>(j)]);
        }
    }
    auto const base = [&] {
        file_builder file;
        file.add<float>("q", "F32", {1, 2, N, d}, q).add<float>("k", "F32", {1, 2, N, d}, k).add<float>("v", "F32", {1, 2, N, d}, v);
        file.add<float>("bias", "F32", {1, 1, N, N}, bias)
            .add<float>("slopes", "F32", {2}, {0.5f, 0.25f})
            .add<float>("sinks", "F32", {2}, {0.1f, -1.0f});
        return file;
    };
    auto const by_ids = folder.write("ids", base().add<std::int32_t>("doc_id", "I32", {N}, documents).bytes());
    auto const by_mask = folder.write("mask", base().add<std::uint8_t>("mask", "BOOL", {1, 1, N, N}, keep).bytes());
    for (std::string const softcap : {"softcap=2", "scale=0.4"}) {
        auto const a = folder.path("a"), b = folder.path("b");
        auto const first = run_heed({"run", "--mechanism", "softmax", "--set", softcap, "--set", "mask=document", by_ids, "-o", a});
        INFO(first.text);
        REQUIRE(first.code == 0);
        REQUIRE(run_heed({"run", "--mechanism", "softmax", "--set", softcap, by_mask, "-o", b}).code == 0);
        parted_file const with_ids(read_bytes(a)), with_mask(read_bytes(b));
        CHECK(difference(with_ids, "out", with_mask, "out") < 1e-6);
        // and every ingredient counts
        REQUIRE(run_heed({"run", "--mechanism", "softmax", "--set", softcap, "--set", "bias=none", by_mask, "-o", b}).code == 0);
        CHECK(difference(with_ids, "out", parted_file(read_bytes(b)), "out") > 1e-3);
        REQUIRE(run_heed({"run", "--mechanism", "softmax", "--set", softcap, "--set", "alibi=0", by_mask, "-o", b}).code == 0);
        CHECK(difference(with_ids, "out", parted_file(read_bytes(b)), "out") > 1e-3);
        REQUIRE(run_heed({"run", "--mechanism", "softmax", "--set", softcap, by_ids, "-o", b}).code == 0);
        CHECK(difference(with_ids, "out", parted_file(read_bytes(b)), "out") > 1e-3);
    }
}

TEST_CASE("heed run: double in, double out", "[cli]") {
    scratch_folder const folder;
    auto const in = folder.write("in", file_builder()
                                           .add<double>("q", "F64", {1, 1, 1, 1}, {1})
                                           .add<double>("k", "F64", {1, 1, 2, 1}, {0, std::log(2.0)})
                                           .add<double>("v", "F64", {1, 1, 2, 1}, {0, 3})
                                           .bytes());
    auto const out = folder.path("out");
    REQUIRE(run_heed({"run", "--mechanism", "softmax", in, "-o", out}).code == 0);
    parted_file made(read_bytes(out));
    REQUIRE(made.header["out"]["dtype"] == "F64");
    CHECK_FALSE(made.header.contains("lse"));
    double value = 0;
    std::memcpy(&value, made.begin_of("out"), sizeof value);
    CHECK(std::abs(value - 2) < 1e-14); // weights 1/3 and 2/3
}

TEST_CASE("heed run: mixing by distance", "[cli]") {
    scratch_folder const folder;
    auto const with = [&](std::vector<double> const& z) {
        std::vector<std::int64_t> const shape{1, 1, static_cast<std::int64_t>(z.size())};
        return folder.write("in", file_builder().add<double>("z", "F64", shape, z).add<double>("v", "F64", {1, 1, 3, 1}, {1, 10, 100}).bytes());
    };
    auto const check = [&](std::vector<std::string> arguments, std::string const& in, std::vector<double> const& expected) {
        auto const out = folder.path("out");
        arguments.insert(arguments.begin(), {"run", "--mechanism"});
        arguments.insert(arguments.end(), {in, "-o", out});
        auto const result = run_heed(arguments);
        INFO(arguments[2] << ": " << result.text);
        REQUIRE(result.code == 0);
        parted_file made(read_bytes(out));
        REQUIRE(made.header["out"]["dtype"] == "F64");
        for (std::size_t i = 0; i < expected.size(); ++i) {
            double value = 0;
            std::memcpy(&value, made.begin_of("out") + i * sizeof value, sizeof value);
            CHECK(std::abs(value - expected[i]) < 1e-12);
        }
    };
    auto const scores = with({0, std::log(2.0), std::log(5.0)}); // weights 1/8, 2/8, 5/8
    check({"circular"}, scores, {65.125, 26.875, 19});
    check({"circular", "--set", "orientation=convolution"}, scores, {31.375, 64, 15.625});
    check({"causal_circular"}, scores, {1, 4, 15.625});
    check({"causal_convolution"}, with({2, -1}), {2, 19, 190});
    std::vector<double> const zeros(3);
    check({"averaged_key"}, folder.write("in", file_builder().add<double>("q", "F64", {1, 1, 3, 1}, zeros).add<double>("k", "F64", {1, 1, 3, 1}, {1, 2, 3}).add<double>("v", "F64", {1, 1, 3, 1}, {1, 10, 100}).bytes()),
          {37, 37, 37});
}

TEST_CASE("heed run: bad usage and bad files end with 2 and write nothing", "[cli]") {
    scratch_folder const folder;
    auto const out = folder.path("out");
    auto const run = [&](std::vector<std::string> arguments, std::string const& in = golden("plain_self")) {
        arguments.insert(arguments.begin(), {"run", "--mechanism", "softmax"});
        arguments.insert(arguments.end(), {in, "-o", out});
        auto const result = run_heed(arguments);
        CHECK_FALSE(std::filesystem::exists(out));
        return result;
    };
    for (auto const* set : {"nonsense", "=3", "nokey=1", "mask=diagonal", "scale=fast", "scale=nan", "softcap=-1", "softcap=0",
                            "mask=window", "window=3", "lse=yes", "mask=document", "bias=tensor", "scale="}) {
        INFO(set);
        CHECK(run({"--set", set}).code == 2);
    }
    CHECK(run({"--set", "lse=1", "--set", "lse=0"}).code == 2);
    CHECK(run({"--set", "mask=window", "--set", "window=0"}).code == 2);
    CHECK(run({"--set", "mask=window", "--set", "window=3", "--set", "left=2"}).code == 2);
    CHECK_THAT(run({"--set", "nokey=1"}).text, contains("\"nokey\": no such option") && contains("softcap"));
    CHECK(run_heed({"run", "--mechanism", "telepathy", golden("plain_self"), "-o", out}).code == 3);
    CHECK(run_heed({"run", "--mechanism", "softmax", golden("plain_self"), "-o", folder.path("no/such/folder")}).code == 2);

    auto const file = [&](std::vector<std::int64_t> const& k_shape, char const* dtype, char const* k_name) {
        std::size_t count = 1;
        for (auto const extent : k_shape) { count *= static_cast<std::size_t>(extent); }
        file_builder f;
        f.add<float>("q", "F32", {1, 2, 1, 2}, {1, 2, 3, 4}).add<float>(k_name, dtype, k_shape, std::vector<float>(count));
        return folder.write("in", f.add<float>("v", "F32", {1, 2, 1, 2}, {1, 2, 3, 4}).bytes());
    };
    auto const refused = [&](std::string const& in, std::string const& part) {
        auto const result = run({}, in);
        CHECK(result.code == 2);
        CHECK_THAT(result.text, contains(in) && contains(part));
    };
    refused(file({1, 2, 1, 3}, "F32", "k"), "tensor \"k\"");
    refused(file({2, 1, 2}, "F32", "k"), "tensor \"k\"");
    refused(file({1, 3, 1, 2}, "F32", "k"), "tensor \"v\"");
    refused(file({1, 2, 1, 2}, "I32", "k"), "tensor \"k\": has dtype I32");
    refused(file({1, 2, 1, 2}, "F32", "key"), "tensor \"k\": is missing");
    refused(folder.write("in", "garbage"), "truncated");

    file_builder half;
    for (auto const* name : {"q", "k", "v"}) { half.add<std::uint16_t>(name, "BF16", {1, 1, 1, 1}, {0}); }
    auto const result = run({}, folder.write("in", half.bytes()));
    CHECK(result.code == 3);
    CHECK_THAT(result.text, contains("BF16"));
}
