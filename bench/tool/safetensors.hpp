// SPDX-License-Identifier: BSD-3-Clause
// Safetensors files: 8 bytes little-endian header length, a JSON header, raw little-endian data. The reader is strict: every
// byte of the data belongs to exactly one tensor, and whatever breaks a rule is refused with the file and the tensor named.
// The writer never leaves half a file: it writes beside the target and renames.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace heed::tool {

enum class dtype { boolean, u8, i8, f8_e4m3, f8_e5m2, f8_e8m0, u16, i16, f16, bf16, u32, i32, f32, u64, i64, f64, c64 };

std::string_view name_of(dtype type); // as files spell it: "F32"
std::size_t bytes_of(dtype type);
std::optional<dtype> dtype_from(std::string_view name);

using tensor_shape = std::vector<std::int64_t>;
std::string text_of(tensor_shape const& shape); // "[2, 3, 4]"
std::int64_t element_count(tensor_shape const& shape);

// A tensor inside a file: bytes need not be aligned.
struct tensor {
    dtype type;
    tensor_shape shape;
    std::span<std::byte const> bytes;
};

using metadata_map = std::map<std::string, std::string, std::less<>>;

class safetensors_file {
    std::string path_;
    std::vector<std::byte> content_;
    std::map<std::string, tensor, std::less<>> tensors_;
    metadata_map metadata_;

public:
    // Both throw failure (exit_bad_input). `path` is only a name in the second.
    static safetensors_file read(std::string path);
    static safetensors_file parse(std::string path, std::vector<std::byte> content);

    safetensors_file(safetensors_file&&) = default; // moves keep the bytes where they are
    safetensors_file& operator=(safetensors_file&&) = default;

    std::string const& path() const { return path_; }
    std::map<std::string, tensor, std::less<>> const& tensors() const { return tensors_; }
    metadata_map const& metadata() const { return metadata_; }
    tensor const* find(std::string_view name) const;

private:
    safetensors_file(std::string path, std::vector<std::byte> content) : path_(std::move(path)), content_(std::move(content)) {}
};

struct named_tensor {
    std::string name;
    tensor value;
};

// Throws failure (exit_bad_input) when the file cannot be written; then nothing is left at `path` that was not there before.
void write_safetensors(std::string const& path, std::span<named_tensor const> tensors, metadata_map const& metadata = {});

} // namespace heed::tool
