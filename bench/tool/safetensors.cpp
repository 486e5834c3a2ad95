// SPDX-License-Identifier: BSD-3-Clause
#include "safetensors.hpp"

#include "failure.hpp"
#include "strict_json.hpp"

#include <nlohmann/json.hpp>

#include <algorithm>
#include <array>
#include <bit>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <limits>
#include <system_error>

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

static_assert(std::endian::native == std::endian::little, "the data of safetensors files is little-endian and is taken as it lies");

namespace heed::tool {

namespace {

struct dtype_row {
    std::string_view name;
    std::size_t bytes;
};

// In the order of enum dtype.
constexpr std::array<dtype_row, 17> dtype_rows{{{"BOOL", 1},
                                                {"U8", 1},
                                                {"I8", 1},
                                                {"F8_E4M3", 1},
                                                {"F8_E5M2", 1},
                                                {"F8_E8M0", 1},
                                                {"U16", 2},
                                                {"I16", 2},
                                                {"F16", 2},
                                                {"BF16", 2},
                                                {"U32", 4},
                                                {"I32", 4},
                                                {"F32", 4},
                                                {"U64", 8},
                                                {"I64", 8},
                                                {"F64", 8},
                                                {"C64", 8}}};

constexpr std::size_t length_bytes = 8;
constexpr std::uint64_t max_header_bytes = 100'000'000;            // the format's own limit
constexpr std::uint64_t max_empty_extent = std::uint64_t{1} << 24; // a tensor without elements may not claim astronomic sizes

using nlohmann::json;

// Bytes of a tensor of this shape; nothing when that is no 63-bit number.
std::optional<std::uint64_t> size_in_bytes(tensor_shape const& shape, dtype type) {
    std::uint64_t product = bytes_of(type);
    bool empty = false;
    for (auto const extent : shape) {
        auto const e = static_cast<std::uint64_t>(extent);
        if (e == 0) {
            empty = true;
        } else if (product > static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max()) / e) {
            return std::nullopt;
        } else {
            product *= e;
        }
    }
    if (!empty) { return product; }
    return product <= max_empty_extent ? std::optional<std::uint64_t>{0} : std::nullopt;
}

struct entry {
    std::string name;
    tensor value;
    std::uint64_t begin, end;
};

entry parse_entry(std::string const& path, std::string const& name, json const& description) {
    auto const wrong = [&](std::string const& what) { return bad_tensor(path, name, what); };
    if (!description.is_object()) { throw wrong("description is not an object"); }
    for (auto const* key : {"dtype", "shape", "data_offsets"}) {
        if (!description.contains(key)) { throw wrong(std::string("has no ") + key); }
    }
    for (auto const& item : description.items()) {
        if (item.key() != "dtype" && item.key() != "shape" && item.key() != "data_offsets") {
            throw wrong("has an unknown field " + in_quotes(item.key()));
        }
    }

    auto const& type_text = description["dtype"];
    if (!type_text.is_string()) { throw wrong("dtype is not a string"); }
    auto const type = dtype_from(type_text.get_ref<std::string const&>());
    if (!type) { throw wrong("unknown dtype " + in_quotes(type_text.get_ref<std::string const&>())); }

    tensor_shape shape;
    auto const& extents = description["shape"];
    if (!extents.is_array()) { throw wrong("shape is not a list"); }
    for (auto const& extent : extents) {
        if (!extent.is_number_unsigned() ||
            extent.get<std::uint64_t>() > static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max())) {
            throw wrong("shape holds something that is not a size");
        }
        shape.push_back(extent.get<std::int64_t>());
    }

    auto const& offsets = description["data_offsets"];
    if (!offsets.is_array() || offsets.size() != 2 || !offsets[0].is_number_unsigned() || !offsets[1].is_number_unsigned()) {
        throw wrong("data_offsets is not a pair of offsets");
    }
    auto const begin = offsets[0].get<std::uint64_t>(), end = offsets[1].get<std::uint64_t>();
    if (begin > end) { throw wrong("data_offsets " + std::to_string(begin) + " to " + std::to_string(end) + " run backwards"); }

    auto const size = size_in_bytes(shape, *type);
    if (!size) { throw wrong("shape " + text_of(shape) + " is too large"); }
    if (*size != end - begin) {
        throw wrong("shape " + text_of(shape) + " of " + std::string(name_of(*type)) + " takes " + std::to_string(*size) +
                    " bytes, data_offsets hold " + std::to_string(end - begin));
    }
    return {name, {*type, std::move(shape), {}}, begin, end};
}

// Offsets inside the data, no two tensors on one byte, no byte without a tensor.
void check_layout(std::string const& path, std::vector<entry>& entries, std::uint64_t data_bytes) {
    for (auto const& e : entries) {
        if (e.end > data_bytes) {
            throw bad_tensor(path, e.name,
                             "ends at byte " + std::to_string(e.end) + " of the data, the file has only " + std::to_string(data_bytes));
        }
    }
    std::sort(entries.begin(), entries.end(),
              [](entry const& a, entry const& b) { return a.begin != b.begin ? a.begin < b.begin : a.end < b.end; });
    std::uint64_t position = 0;
    entry const* before = nullptr;
    for (auto const& e : entries) {
        if (e.begin < position) { throw bad_tensor(path, e.name, "overlaps tensor " + in_quotes(before->name)); }
        if (e.begin > position) {
            throw bad_tensor(path, e.name,
                             "leaves a hole before it: bytes " + std::to_string(position) + " to " + std::to_string(e.begin) +
                                 " belong to no tensor");
        }
        position = e.end;
        before = &e;
    }
    if (position != data_bytes) {
        throw bad_file(path, std::to_string(data_bytes - position) + " bytes behind the last tensor belong to no tensor");
    }
}

std::string system_message(int error) { return std::error_code(error, std::generic_category()).message(); }

} // namespace

std::string_view name_of(dtype type) { return dtype_rows[static_cast<std::size_t>(type)].name; }

std::size_t bytes_of(dtype type) { return dtype_rows[static_cast<std::size_t>(type)].bytes; }

std::optional<dtype> dtype_from(std::string_view name) {
    for (std::size_t i = 0; i < dtype_rows.size(); ++i) {
        if (dtype_rows[i].name == name) { return static_cast<dtype>(i); }
    }
    return std::nullopt;
}

std::string text_of(tensor_shape const& shape) {
    std::string text = "[";
    for (std::size_t i = 0; i < shape.size(); ++i) { text += (i ? ", " : "") + std::to_string(shape[i]); }
    return text + "]";
}

std::int64_t element_count(tensor_shape const& shape) {
    std::int64_t count = 1;
    for (auto const extent : shape) {
        if (extent == 0) { return 0; }
        count *= extent;
    }
    return count;
}

tensor const* safetensors_file::find(std::string_view name) const {
    auto const found = tensors_.find(name);
    return found == tensors_.end() ? nullptr : &found->second;
}

safetensors_file safetensors_file::read(std::string path) {
    std::error_code error;
    auto const status = std::filesystem::status(path, error);
    if (status.type() == std::filesystem::file_type::not_found) { throw bad_file(path, "no such file"); }
    if (error) { throw bad_file(path, "cannot be read: " + error.message()); }
    if (status.type() == std::filesystem::file_type::directory) { throw bad_file(path, "is a directory"); }
    if (status.type() != std::filesystem::file_type::regular) { throw bad_file(path, "is not a regular file"); }
    auto const size = std::filesystem::file_size(path, error);
    if (error) { throw bad_file(path, "cannot be read: " + error.message()); }

    std::ifstream stream(path, std::ios::binary);
    if (!stream) { throw bad_file(path, "cannot be opened for reading"); }
    std::vector<std::byte> content(size);
    stream.read(reinterpret_cast<char*>(content.data()), static_cast<std::streamsize>(size));
    if (stream.bad()) { throw bad_file(path, "cannot be read"); }
    content.resize(static_cast<std::size_t>(stream.gcount())); // shorter if the file shrank meanwhile
    return parse(std::move(path), std::move(content));
}

safetensors_file safetensors_file::parse(std::string path, std::vector<std::byte> content) {
    safetensors_file file(std::move(path), std::move(content));
    std::span<std::byte const> const all(file.content_);
    if (all.size() < length_bytes) {
        throw bad_file(file.path_, "is truncated: " + std::to_string(all.size()) + " bytes, the header length alone takes 8");
    }
    std::uint64_t header_bytes = 0;
    std::memcpy(&header_bytes, all.data(), length_bytes);
    if (header_bytes > all.size() - length_bytes) {
        throw bad_file(file.path_, "is truncated or no safetensors file: its header is " + std::to_string(header_bytes) +
                                       " bytes long, only " + std::to_string(all.size() - length_bytes) + " follow");
    }
    if (header_bytes > max_header_bytes) {
        throw bad_file(file.path_, "header is longer than " + std::to_string(max_header_bytes) + " bytes");
    }

    std::string_view const text(reinterpret_cast<char const*>(all.data()) + length_bytes, static_cast<std::size_t>(header_bytes));
    if (!text.starts_with('{')) { throw bad_file(file.path_, "header does not begin with {"); }
    auto const header = parse_strictly<json>(file.path_, "header", text);
    auto const data = all.subspan(length_bytes + static_cast<std::size_t>(header_bytes));

    std::vector<entry> entries;
    for (auto const& item : header.items()) {
        if (item.key() != "__metadata__") {
            entries.push_back(parse_entry(file.path_, item.key(), item.value()));
            continue;
        }
        if (!item.value().is_object()) { throw bad_file(file.path_, "__metadata__ is not an object"); }
        for (auto const& pair : item.value().items()) {
            if (!pair.value().is_string()) { throw bad_file(file.path_, "metadata " + in_quotes(pair.key()) + " is not a string"); }
            file.metadata_.emplace(pair.key(), pair.value().get<std::string>());
        }
    }
    check_layout(file.path_, entries, data.size());
    for (auto& e : entries) {
        e.value.bytes = data.subspan(static_cast<std::size_t>(e.begin), static_cast<std::size_t>(e.end - e.begin));
        file.tensors_.emplace(std::move(e.name), std::move(e.value));
    }
    return file;
}

namespace {

// The bytes in front of the data: length and header, padded with spaces so that the data begins at a multiple of 8.
std::string make_header(std::span<named_tensor const> tensors, metadata_map const& metadata) {
    nlohmann::ordered_json header = nlohmann::ordered_json::object();
    if (!metadata.empty()) { header["__metadata__"] = metadata; }
    std::uint64_t position = 0;
    for (auto const& [name, value] : tensors) {
        auto const end = position + value.bytes.size();
        header[name] = {{"dtype", name_of(value.type)}, {"shape", value.shape}, {"data_offsets", {position, end}}};
        position = end;
    }
    std::string text = header.dump();
    text.resize((text.size() + 7) / 8 * 8, ' ');
    auto const length = static_cast<std::uint64_t>(text.size());
    std::string bytes(length_bytes, '\0');
    std::memcpy(bytes.data(), &length, length_bytes);
    return bytes + text;
}

bool write_all(int descriptor, char const* data, std::size_t size) {
    while (size > 0) {
        auto const written = ::write(descriptor, data, size);
        if (written < 0 && errno == EINTR) { continue; }
        if (written <= 0) { return false; }
        data += written;
        size -= static_cast<std::size_t>(written);
    }
    return true;
}

// A new file beside its target that takes the target's name at the end, or disappears.
class temporary_file {
    std::string name_;
    int descriptor_ = -1;

public:
    explicit temporary_file(std::string const& target) : name_(target + ".XXXXXX") { descriptor_ = ::mkstemp(name_.data()); }
    temporary_file(temporary_file const&) = delete;
    temporary_file& operator=(temporary_file const&) = delete;
    ~temporary_file() {
        if (descriptor_ >= 0) {
            ::close(descriptor_);
            ::unlink(name_.c_str());
        }
    }

    bool open() const { return descriptor_ >= 0; }
    int descriptor() const { return descriptor_; }
    bool rename_to(std::string const& target) {
        mode_t const mask = ::umask(0); // mkstemp makes private files; give what an ordinary open would
        ::umask(mask);
        if (::fchmod(descriptor_, 0666 & ~mask) != 0) { return false; }
        int const closed = ::close(descriptor_);
        descriptor_ = -1;
        if (closed == 0 && ::rename(name_.c_str(), target.c_str()) == 0) { return true; }
        int const error = errno;
        ::unlink(name_.c_str());
        errno = error;
        return false;
    }
};

} // namespace

void write_safetensors(std::string const& path, std::span<named_tensor const> tensors, metadata_map const& metadata) {
    std::error_code error;
    auto const status = std::filesystem::status(path, error); // an error shows again when the file is created
    if (std::filesystem::is_directory(status)) { throw bad_file(path, "is a directory"); }
    if (std::filesystem::exists(status) && !std::filesystem::is_regular_file(status)) { throw bad_file(path, "is not a regular file"); }
    auto const target = std::filesystem::exists(status) ? std::filesystem::canonical(path, error).string() : path; // a link stays one

    auto const header = make_header(tensors, metadata);
    temporary_file output(target);
    if (!output.open()) { throw bad_file(path, "cannot be written: " + system_message(errno)); }
    bool good = write_all(output.descriptor(), header.data(), header.size());
    for (auto const& item : tensors) {
        good = good && write_all(output.descriptor(), reinterpret_cast<char const*>(item.value.bytes.data()), item.value.bytes.size());
    }
    if (!good || !output.rename_to(target)) { throw bad_file(path, "cannot be written: " + system_message(errno)); }
}

} // namespace heed::tool
