// SPDX-License-Identifier: BSD-3-Clause
// Tensors of a file as typed, checked, owned arrays. Shapes are written as one letter per axis: the first tensor that uses a
// letter says how long it is, the others must agree; "?" behind a letter also allows 1 (broadcast).
#pragma once

#include "safetensors.hpp"

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

namespace heed::tool {

class axis_lengths {
    struct length {
        std::int64_t value;
        std::string tensor; // who said so
    };
    std::map<char, length> known_;

public:
    // Throws bad_tensor unless `shape` fits `axes` ("BHNd", "B?H?N?M?").
    void match(std::string_view path, std::string_view tensor, tensor_shape const& shape, std::string_view axes);
    void set(char axis, std::int64_t value, std::string_view tensor);
    std::int64_t operator[](char axis) const { return known_.at(axis).value; }
    tensor_shape shape_of(std::string_view axes) const; // "?" is not allowed here
};

// The tensor of that name, or bad_tensor.
tensor const& require(safetensors_file const& file, std::string_view name);

// F32 or F64 as float or double.
template <class T>
std::vector<T> read_reals(safetensors_file const& file, std::string_view name, tensor const& source);

// I32 or I64, every value within [least, most].
std::vector<std::int32_t> read_integers(safetensors_file const& file, std::string_view name, tensor const& source, std::int64_t least,
                                        std::int64_t most);
std::vector<std::int64_t> read_integers(safetensors_file const& file, std::string_view name, tensor const& source);

// U8 or BOOL, every value 0 or 1.
std::vector<std::uint8_t> read_booleans(safetensors_file const& file, std::string_view name, tensor const& source);

} // namespace heed::tool
