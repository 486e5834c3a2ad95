// SPDX-License-Identifier: BSD-3-Clause
// Safetensors files written by hand, right or wrong, independent of the tool's own writer; and folders that clean up.
#pragma once

#include <nlohmann/json.hpp>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <stdexcept>
#include <string>
#include <vector>

#include <unistd.h>

namespace heed_test {

using json = nlohmann::ordered_json;

// Length, header, data as they stand.
inline std::string raw_file(std::uint64_t header_bytes, std::string const& header, std::string const& data = {}) {
    std::string file(8, '\0');
    std::memcpy(file.data(), &header_bytes, 8);
    return file + header + data;
}
inline std::string raw_file(std::string const& header, std::string const& data = {}) { return raw_file(header.size(), header, data); }

template <class T>
std::string bytes_of(std::vector<T> const& values) {
    return {reinterpret_cast<char const*>(values.data()), values.size() * sizeof(T)};
}

// A file put together tensor by tensor.
class file_builder {
    json header_ = json::object();
    std::string data_;

public:
    template <class T>
    file_builder& add(std::string const& name, char const* dtype, std::vector<std::int64_t> const& shape, std::vector<T> const& values) {
        auto const begin = data_.size();
        data_ += bytes_of(values);
        header_[name] = {{"dtype", dtype}, {"shape", shape}, {"data_offsets", {begin, data_.size()}}};
        return *this;
    }
    file_builder& metadata(std::string const& key, std::string const& value) {
        header_["__metadata__"][key] = value;
        return *this;
    }
    std::string bytes() const { return raw_file(header_.dump(), data_); }
};

// A file taken apart: change the header or the data, put it together again.
struct parted_file {
    json header;
    std::string data;

    explicit parted_file(std::string const& bytes) {
        std::uint64_t length = 0;
        std::memcpy(&length, bytes.data(), 8);
        header = json::parse(bytes.substr(8, length));
        data = bytes.substr(8 + length);
    }
    std::string bytes() const { return raw_file(header.dump(), data); }
    char* begin_of(std::string const& tensor) { return data.data() + header[tensor]["data_offsets"][0].get<std::size_t>(); }
};

inline std::string read_bytes(std::filesystem::path const& path) {
    std::ifstream stream(path, std::ios::binary);
    if (!stream) { throw std::runtime_error("cannot read " + path.string()); }
    return {std::istreambuf_iterator<char>(stream), {}};
}

// A new folder, removed with everything in it.
class scratch_folder {
    std::filesystem::path path_;

public:
    scratch_folder() {
        std::string name = (std::filesystem::temp_directory_path() / "heed_test_XXXXXX").string();
        if (!::mkdtemp(name.data())) { throw std::runtime_error("cannot make a folder like " + name); }
        path_ = name;
    }
    scratch_folder(scratch_folder const&) = delete;
    scratch_folder& operator=(scratch_folder const&) = delete;
    ~scratch_folder() {
        std::error_code ignored;
        std::filesystem::remove_all(path_, ignored);
    }

    std::string path(std::string const& name) const { return (path_ / name).string(); }
    std::string write(std::string const& name, std::string const& bytes) const {
        std::ofstream(path_ / name, std::ios::binary) << bytes;
        return path(name);
    }
    std::vector<std::string> files() const {
        std::vector<std::string> names;
        for (auto const& entry : std::filesystem::directory_iterator(path_)) { names.push_back(entry.path().filename().string()); }
        return names;
    }
};

} // namespace heed_test
