// SPDX-License-Identifier: BSD-3-Clause
// Golden files with bytes flipped, cut, repeated and swapped: every one is taken or refused, none crashes, and no wrong number passes.
#include "raw_file.hpp"

#include <tool/check.hpp>
#include <tool/failure.hpp>
#include <tool/safetensors.hpp>

#include <support/catch.hpp>
#include <support/random.hpp>

#include <algorithm>
#include <set>
#include <sstream>
#include <string>
#include <vector>

using namespace heed::tool;
using namespace heed_test;

namespace {

std::vector<std::string> golden_files() {
    std::vector<std::string> files;
    for (auto const& entry : std::filesystem::directory_iterator(HEED_GOLDEN)) { files.push_back(entry.path().string()); }
    std::sort(files.begin(), files.end());
    return files;
}

std::size_t position(random_source& random, std::size_t size) {
    return static_cast<std::size_t>(random.integer(0, static_cast<heed::extent_t>(size) - 1));
}

// One to four wounds, most of them in the header, where they hurt.
std::string mutated(std::string bytes, random_source& random) {
    std::uint64_t header = 0;
    std::memcpy(&header, bytes.data(), 8);
    for (auto wounds = random.integer(1, 4); wounds > 0 && bytes.size() > 16; --wounds) {
        auto const reach = random.chance(0.8) ? std::min<std::size_t>(bytes.size(), 8 + header) : bytes.size();
        auto const at = position(random, reach);
        auto const length = std::min<std::size_t>(bytes.size() - at, 1 + position(random, 12));
        switch (random.integer(0, 5)) {
        case 0:
            bytes[at] = static_cast<char>(bytes[at] ^ (1 << random.integer(0, 7)));
            break;
        case 1:
            bytes[at] = random.pick({'0', '1', '9', '-', '.', 'e', '"', ',', ':', '[', ']', '{', '}', '\0', '\xff'});
            break;
        case 2:
            bytes.erase(at, length);
            break;
        case 3:
            bytes.insert(at, bytes.substr(position(random, reach), length));
            break;
        case 4:
            bytes.resize(at);
            break;
        default:
            std::rotate(bytes.begin() + static_cast<std::ptrdiff_t>(at), bytes.begin() + static_cast<std::ptrdiff_t>(at + length / 2),
                        bytes.begin() + static_cast<std::ptrdiff_t>(at + length));
        }
        // Half the time the length is made right again, so that the wound is in what the header says.
        if (bytes.size() > 16 && random.chance(0.5)) {
            auto const end = bytes.rfind('}', std::min<std::size_t>(bytes.size() - 1, 8 + header + 16));
            if (end != bytes.npos && end >= 8) {
                header = end - 7;
                std::memcpy(bytes.data(), &header, 8);
            }
        }
    }
    return bytes;
}

} // namespace

TEST_CASE("mutated files are taken or refused by the reader", "[cli]") {
    HEED_SEEDED;
    random_source random(1);
    auto const files = golden_files();
    REQUIRE(files.size() >= 44);
    int taken = 0, refused = 0;
    for (auto const& path : files) {
        auto const original = read_bytes(path);
        for (int i = 0; i < 150; ++i) {
            auto const bytes = mutated(original, random);
            auto const* begin = reinterpret_cast<std::byte const*>(bytes.data());
            try {
                auto const file = safetensors_file::parse("mutated", {begin, begin + bytes.size()});
                ++taken;
                for (auto const& [name, value] : file.tensors()) {
                    if (!value.bytes.empty()) {
                        CHECK(value.bytes.size() == static_cast<std::size_t>(element_count(value.shape)) * bytes_of(value.type));
                    }
                }
            } catch (failure const& error) {
                ++refused;
                if (error.code() != exit_bad_input) { FAIL(error.what()); }
            }
        }
    }
    CHECK(taken > 100); // both happen
    CHECK(refused > 100);
}

TEST_CASE("mutated files go through the whole check without a crash", "[cli]") {
    HEED_SEEDED;
    random_source random(2);
    scratch_folder const folder;
    std::set<int> codes;
    for (auto const& path : golden_files()) {
        auto const original = read_bytes(path);
        for (int i = 0; i < 40; ++i) {
            auto const file = folder.write("mutated", mutated(original, random));
            std::ostringstream report, errors;
            codes.insert(check_file(file, {random.chance(0.5), random.chance(0.5)}, report, errors));
        }
    }
    CHECK(codes.count(exit_bad_input) == 1);
    CHECK(codes.count(exit_not_supported) == 1);
}

TEST_CASE("a golden file with one expected number changed is a mismatch, in every case", "[cli]") {
    scratch_folder const folder;
    for (auto const& path : golden_files()) {
        parted_file parted(read_bytes(path));
        auto const expected = json::parse(parted.header["__metadata__"]["expected"].get<std::string>());
        for (auto const& [name, shape] : expected.items()) {
            auto changed = parted;
            float value = 0;
            std::memcpy(&value, changed.begin_of(name), sizeof value);
            value = value > -1e30f ? value + 0.01f : 0.0f; // -inf: a row without keys
            std::memcpy(changed.begin_of(name), &value, sizeof value);
            std::ostringstream report, errors;
            INFO(path << " " << name);
            CHECK(check_file(folder.write("changed", changed.bytes()), {}, report, errors) == exit_mismatch);
            if (!parted.header.contains(name + "64")) { continue; }
            double twin = static_cast<double>(value);
            std::memcpy(changed.begin_of(name + "64"), &twin, sizeof twin);
            CHECK(check_file(folder.write("changed", changed.bytes()), {false, true}, report, errors) == exit_mismatch);
        }
    }
}

TEST_CASE("a golden file without one of its inputs, or with one of another shape or type, is a bad file that names it", "[cli]") {
    scratch_folder const folder;
    for (auto const& path : golden_files()) {
        parted_file parted(read_bytes(path));
        auto const inputs = json::parse(parted.header["__metadata__"]["inputs"].get<std::string>());
        for (auto const& input : inputs) {
            auto const name = input.get<std::string>();
            INFO(path << " " << name);
            auto const refused = [&](parted_file const& file) {
                std::ostringstream report, errors;
                CHECK(check_file(folder.write("changed", file.bytes()), {}, report, errors) == exit_bad_input);
                CHECK_THAT(errors.str(), contains("tensor \"" + name + "\""));
            };
            auto renamed = parted;
            renamed.header["renamed"] = renamed.header[name];
            renamed.header.erase(name);
            refused(renamed);
            renamed.header["__metadata__"]["inputs"] = "[]"; // nor does the wiring find it
            refused(renamed);
            auto retyped = parted;
            auto& dtype = retyped.header[name]["dtype"];
            dtype = dtype == "F32" ? "U32" : dtype == "I32" ? "F32" : "I8";
            refused(retyped);
            auto reshaped = parted;
            reshaped.header[name]["shape"].push_back(1);
            refused(reshaped);
        }
    }
}
