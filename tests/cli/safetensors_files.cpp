// SPDX-License-Identifier: BSD-3-Clause
// The reader takes what the format allows and refuses everything else by name; the writer leaves a whole file or none.
#include "raw_file.hpp"

#include <tool/failure.hpp>
#include <tool/safetensors.hpp>

#include <support/catch.hpp>

#include <csignal>
#include <cstring>
#include <string>

#include <sys/resource.h>

using namespace heed::tool;
using namespace heed_test;

namespace {

safetensors_file parse(std::string const& bytes) {
    auto const* begin = reinterpret_cast<std::byte const*>(bytes.data());
    return safetensors_file::parse("some.file", {begin, begin + bytes.size()});
}

// The sentence with which `bytes` are refused; empty when they are taken.
std::string refusal(std::string const& bytes) {
    try {
        parse(bytes);
        return {};
    } catch (failure const& error) {
        CHECK(error.code() == exit_bad_input);
        CHECK_THAT(error.what(), contains("some.file"));
        return error.what();
    }
}

std::string one_tensor(char const* dtype, char const* shape, std::string const& offsets) {
    return std::string(R"({"x":{"dtype":")") + dtype + R"(","shape":)" + shape + R"(,"data_offsets":)" + offsets + "}}";
}

} // namespace

TEST_CASE("reader: tensors and metadata as they were written by hand", "[cli]") {
    auto const file = parse(file_builder()
                                .add<float>("x", "F32", {2, 3}, {1, 2, 3, 4, 5, 6})
                                .add<std::int32_t>("index", "I32", {2}, {-1, 7})
                                .add<float>("empty", "F32", {4, 0, 2}, {})
                                .add<double>("scalar", "F64", {}, {0.5})
                                .metadata("case", "plain")
                                .bytes());
    REQUIRE(file.tensors().size() == 4);
    auto const* x = file.find("x");
    REQUIRE(x != nullptr);
    CHECK(x->type == dtype::f32);
    CHECK(x->shape == tensor_shape{2, 3});
    float last = 0;
    std::memcpy(&last, x->bytes.data() + 5 * sizeof(float), sizeof last);
    CHECK(last == 6.0f);
    CHECK(file.find("empty")->bytes.empty());
    CHECK(file.find("scalar")->shape.empty());
    CHECK(file.find("scalar")->bytes.size() == 8);
    CHECK(file.find("nothing") == nullptr);
    CHECK(file.metadata().at("case") == "plain");
    CHECK(parse(raw_file("{}")).tensors().empty());
    CHECK(parse(raw_file("{}   ")).tensors().empty()); // padding
}

TEST_CASE("reader: a bad file is refused, the sentence says what is wrong", "[cli]") {
    std::string const four(4, '\0'), eight(8, '\0');
    SECTION("length and header") {
        CHECK_THAT(refusal(""), contains("truncated"));
        CHECK_THAT(refusal("1234567"), contains("truncated"));
        CHECK_THAT(refusal(raw_file(3, "{}")), contains("its header is 3 bytes long, only 2 follow"));
        CHECK_THAT(refusal(raw_file(~std::uint64_t{0}, "{}")), contains("truncated or no safetensors file"));
        CHECK_THAT(refusal(raw_file(std::uint64_t{1} << 63, "{}")), contains("only 2 follow"));
        CHECK_THAT(refusal(raw_file(0, "")), contains("does not begin with {"));
        CHECK_THAT(refusal(raw_file("[]")), contains("does not begin with {"));
        CHECK_THAT(refusal(raw_file(" {}")), contains("does not begin with {"));
        CHECK_THAT(refusal(raw_file("{")), contains("not valid JSON"));
        CHECK_THAT(refusal(raw_file("{} x")), contains("not valid JSON"));
        CHECK_THAT(refusal(raw_file("{\"\xff\":1}")), contains("not valid JSON"));
        CHECK_THAT(refusal(raw_file(one_tensor("F32", "[1e999]", "[0,4]"), four)), contains("not valid JSON"));
        CHECK_THAT(refusal(raw_file("{\"x\":" + std::string(100'000, '['))), contains("nested too deeply"));
        CHECK_THAT(refusal(raw_file(100'000'001, std::string(100'000'001, ' '))), contains("longer than"));
    }
    SECTION("metadata") {
        CHECK_THAT(refusal(raw_file(R"({"__metadata__":3})")), contains("__metadata__ is not an object"));
        CHECK_THAT(refusal(raw_file(R"({"__metadata__":{"case":3}})")), contains("metadata \"case\" is not a string"));
        CHECK_THAT(refusal(raw_file(R"({"__metadata__":{"a":"x","a":"y"}})")), contains("holds the name \"a\" twice"));
    }
    SECTION("description of a tensor") {
        auto const x = contains("tensor \"x\"");
        CHECK_THAT(refusal(raw_file(R"({"x":3})")), x && contains("not an object"));
        CHECK_THAT(refusal(raw_file(R"({"x":{"shape":[1],"data_offsets":[0,4]}})", four)), x && contains("has no dtype"));
        CHECK_THAT(refusal(raw_file(R"({"x":{"dtype":"F32","data_offsets":[0,4]}})", four)), x && contains("has no shape"));
        CHECK_THAT(refusal(raw_file(R"({"x":{"dtype":"F32","shape":[1]}})", four)), x && contains("has no data_offsets"));
        CHECK_THAT(refusal(raw_file(R"({"x":{"dtype":"F32","shape":[1],"data_offsets":[0,4],"more":1}})", four)),
                   x && contains("unknown field \"more\""));
        CHECK_THAT(refusal(raw_file(one_tensor("F33", "[1]", "[0,4]"), four)), x && contains("unknown dtype \"F33\""));
        CHECK_THAT(refusal(raw_file(R"({"x":{"dtype":5,"shape":[1],"data_offsets":[0,4]}})", four)),
                   x && contains("dtype is not a string"));
        CHECK_THAT(refusal(raw_file(one_tensor("F32", "4", "[0,4]"), four)), x && contains("shape is not a list"));
        for (auto const* shape : {"[-1]", "[1.0]", "[\"1\"]", "[null]", "[9223372036854775808]", "[1e2]"}) {
            CHECK_THAT(refusal(raw_file(one_tensor("F32", shape, "[0,4]"), four)), x && contains("not a size"));
        }
        CHECK_THAT(refusal(raw_file(one_tensor("F32", "[9223372036854775807,3]", "[0,4]"), four)), x && contains("too large"));
        CHECK_THAT(refusal(raw_file(one_tensor("F32", "[4611686018427387905,4]", "[0,16]"), eight + eight)), x && contains("too large"));
        CHECK_THAT(refusal(raw_file(one_tensor("F32", "[0,4611686018427387904]", "[0,0]"))), x && contains("too large"));
        for (auto const* offsets : {"[0]", "[0,4,8]", "4", "[0,-4]", "[0,4.0]", "[\"0\",4]", "{}"}) {
            CHECK_THAT(refusal(raw_file(one_tensor("F32", "[1]", offsets), four)), x && contains("not a pair of offsets"));
        }
        CHECK_THAT(refusal(raw_file(one_tensor("F32", "[1]", "[4,0]"), four)), x && contains("run backwards"));
        CHECK_THAT(refusal(raw_file(one_tensor("F32", "[2]", "[0,4]"), four)), x && contains("takes 8 bytes, data_offsets hold 4"));
        CHECK_THAT(refusal(raw_file(one_tensor("F32", "[0]", "[0,4]"), four)), x && contains("takes 0 bytes"));
    }
    SECTION("layout of the data") {
        auto const two = [](int b0, int e0, int b1, int e1) {
            return R"({"x":{"dtype":"U8","shape":[)" + std::to_string(e0 - b0) + R"(],"data_offsets":[)" + std::to_string(b0) + "," +
                   std::to_string(e0) + R"(]},"y":{"dtype":"U8","shape":[)" + std::to_string(e1 - b1) + R"(],"data_offsets":[)" +
                   std::to_string(b1) + "," + std::to_string(e1) + "]}}";
        };
        CHECK(refusal(raw_file(two(0, 4, 4, 8), eight)).empty());
        CHECK(refusal(raw_file(two(4, 8, 0, 4), eight)).empty());
        CHECK_THAT(refusal(raw_file(two(0, 4, 4, 8), four)),
                   contains("tensor \"y\"") && contains("ends at byte 8 of the data, the file has only 4"));
        CHECK_THAT(refusal(raw_file(two(0, 4, 3, 8), eight)), contains("tensor \"y\"") && contains("overlaps tensor \"x\""));
        CHECK_THAT(refusal(raw_file(two(0, 8, 2, 4), eight)), contains("overlaps"));
        CHECK_THAT(refusal(raw_file(two(0, 8, 0, 8), eight)), contains("overlaps"));
        CHECK_THAT(refusal(raw_file(two(0, 3, 4, 8), eight)), contains("tensor \"y\"") && contains("hole"));
        CHECK_THAT(refusal(raw_file(two(1, 4, 4, 8), eight)), contains("tensor \"x\"") && contains("hole"));
        CHECK_THAT(refusal(raw_file(two(0, 4, 4, 8), eight + four)), contains("4 bytes behind the last tensor"));
        CHECK_THAT(refusal(raw_file("{}", four)), contains("4 bytes behind the last tensor"));
        CHECK_THAT(refusal(raw_file(one_tensor("U8", "[1]", "[18446744073709551615,18446744073709551615]"), four)),
                   contains("tensor \"x\""));
    }
    SECTION("duplicates") {
        std::string const x = R"("x":{"dtype":"F32","shape":[1],"data_offsets":[0,4]})";
        CHECK_THAT(refusal(raw_file("{" + x + "," + x + "}", four)), contains("holds the name \"x\" twice"));
        CHECK_THAT(refusal(raw_file(R"({"x":{"dtype":"F32","dtype":"F32","shape":[1],"data_offsets":[0,4]}})", four)),
                   contains("holds the name \"dtype\" twice"));
    }
    SECTION("names cannot play with the terminal") {
        CHECK_THAT(refusal(raw_file(R"({"\u001b[31m\n\"":3})")), contains(R"("\x1b[31m\x0a\"")"));
    }
}

TEST_CASE("reader: things that are no files", "[cli]") {
    scratch_folder const folder;
    auto const message = [](std::string const& path) -> std::string {
        try {
            safetensors_file::read(path);
        } catch (failure const& error) { return error.what(); }
        return {};
    };
    CHECK_THAT(message(folder.path("missing")), contains("missing") && contains("no such file"));
    CHECK_THAT(message(folder.path(".")), contains("is a directory"));
    CHECK_THAT(message("/dev/null"), contains("not a regular file"));
    CHECK_THAT(message(folder.write("empty", "")), contains("truncated"));
}

TEST_CASE("writer: what it writes the reader reads back, and data begins at a multiple of 8", "[cli]") {
    scratch_folder const folder;
    std::vector<float> const x{1, -2, 3};
    std::vector<std::int32_t> const index{4, 5};
    auto const path = folder.path("out.safetensors");
    std::vector<named_tensor> const tensors{{"x", {dtype::f32, {1, 3}, std::as_bytes(std::span(x))}},
                                            {"a \"name\"", {dtype::i32, {2}, std::as_bytes(std::span(index))}},
                                            {"nothing", {dtype::f64, {0, 5}, {}}}};
    write_safetensors(path, tensors, {{"key", "value"}});
    auto const file = safetensors_file::read(path);
    REQUIRE(file.tensors().size() == 3);
    CHECK(std::memcmp(file.find("x")->bytes.data(), x.data(), 12) == 0);
    CHECK(std::memcmp(file.find("a \"name\"")->bytes.data(), index.data(), 8) == 0);
    CHECK(file.find("nothing")->shape == tensor_shape{0, 5});
    CHECK(file.metadata().at("key") == "value");
    auto const bytes = read_bytes(path);
    std::uint64_t length = 0;
    std::memcpy(&length, bytes.data(), 8);
    CHECK(length % 8 == 0);

    SECTION("an existing file is replaced whole, and nothing else is left") {
        write_safetensors(path, std::span(tensors).first(1));
        CHECK(safetensors_file::read(path).tensors().size() == 1);
        CHECK(folder.files() == std::vector<std::string>{"out.safetensors"});
    }
    SECTION("a symbolic link stays one") {
        std::filesystem::create_symlink(path, folder.path("link"));
        write_safetensors(folder.path("link"), std::span(tensors).first(2));
        CHECK(std::filesystem::is_symlink(folder.path("link")));
        CHECK(safetensors_file::read(path).tensors().size() == 2);
    }
}

TEST_CASE("writer: a failure leaves no half file and spares the old one", "[cli]") {
    scratch_folder const folder;
    std::vector<float> const x(100'000);
    std::vector<named_tensor> const tensors{{"x", {dtype::f32, {100'000}, std::as_bytes(std::span(x))}}};
    CHECK_THROWS_AS(write_safetensors(folder.path("no/such/folder/out"), tensors), failure);
    CHECK_THROWS_AS(write_safetensors(folder.path("."), tensors), failure);
    CHECK_THROWS_AS(write_safetensors("/dev/null", tensors), failure);

    // A disk that is full after 64 KiB.
    auto const path = folder.write("out", "old");
    rlimit before{};
    REQUIRE(::getrlimit(RLIMIT_FSIZE, &before) == 0);
    auto* const handler = std::signal(SIGXFSZ, SIG_IGN);
    rlimit const small{65'536, before.rlim_max};
    REQUIRE(::setrlimit(RLIMIT_FSIZE, &small) == 0);
    std::string sentence;
    try {
        write_safetensors(path, tensors);
    } catch (failure const& error) { sentence = error.what(); }
    ::setrlimit(RLIMIT_FSIZE, &before);
    std::signal(SIGXFSZ, handler);
    CHECK_THAT(sentence, contains("cannot be written"));
    CHECK(read_bytes(path) == "old");
    CHECK(folder.files() == std::vector<std::string>{"out"});
}
