// SPDX-License-Identifier: BSD-3-Clause
#include "inputs.hpp"

#include "failure.hpp"

#include <cstring>

namespace heed::tool {

namespace {

// Number of axes in a pattern, not counting question marks.
std::size_t rank_of(std::string_view axes) {
    std::size_t rank = 0;
    for (char const c : axes) { rank += c != '?'; }
    return rank;
}

// Bytes of a file need not be aligned for their type.
template <class Stored, class T>
std::vector<T> converted(tensor const& source) {
    std::vector<T> result(static_cast<std::size_t>(element_count(source.shape)));
    for (std::size_t i = 0; i < result.size(); ++i) {
        Stored value;
        std::memcpy(&value, source.bytes.data() + i * sizeof(Stored), sizeof(Stored));
        result[i] = static_cast<T>(value);
    }
    return result;
}

failure wrong_dtype(safetensors_file const& file, std::string_view name, tensor const& source, std::string_view wanted) {
    return bad_tensor(file.path(), name, "has dtype " + std::string(name_of(source.type)) + ", needed is " + std::string(wanted));
}

} // namespace

void axis_lengths::match(std::string_view path, std::string_view tensor, tensor_shape const& shape, std::string_view axes) {
    if (shape.size() != rank_of(axes)) {
        throw bad_tensor(path, tensor, "has shape " + text_of(shape) + ", " + std::to_string(rank_of(axes)) + " axes are needed");
    }
    std::size_t axis = 0;
    for (std::size_t i = 0; i < axes.size(); ++i) {
        char const letter = axes[i];
        bool const may_broadcast = i + 1 < axes.size() && axes[i + 1] == '?';
        i += may_broadcast;
        std::int64_t const extent = shape[axis];
        auto const found = known_.find(letter);
        if (found == known_.end() && !may_broadcast) {
            known_.emplace(letter, length{extent, std::string(tensor)});
        } else if (found != known_.end() && extent != found->second.value && !(may_broadcast && extent == 1)) {
            throw bad_tensor(path, tensor,
                             "has shape " + text_of(shape) + ", its axis " + std::to_string(axis) + " (" + letter + ") must be " +
                                 std::to_string(found->second.value) + (may_broadcast ? " or 1" : "") + " because of " +
                                 found->second.tensor);
        }
        ++axis;
    }
}

void axis_lengths::set(char axis, std::int64_t value, std::string_view tensor) {
    known_.insert_or_assign(axis, length{value, std::string(tensor)});
}

tensor_shape axis_lengths::shape_of(std::string_view axes) const {
    tensor_shape shape;
    for (char const letter : axes) { shape.push_back((*this)[letter]); }
    return shape;
}

tensor const& require(safetensors_file const& file, std::string_view name) {
    auto const* found = file.find(name);
    if (!found) { throw bad_tensor(file.path(), name, "is missing"); }
    return *found;
}

template <class T>
std::vector<T> read_reals(safetensors_file const& file, std::string_view name, tensor const& source) {
    if (source.type == dtype::f32) { return converted<float, T>(source); }
    if (source.type == dtype::f64) { return converted<double, T>(source); }
    throw wrong_dtype(file, name, source, "F32 or F64");
}
template std::vector<float> read_reals<float>(safetensors_file const&, std::string_view, tensor const&);
template std::vector<double> read_reals<double>(safetensors_file const&, std::string_view, tensor const&);

std::vector<std::int64_t> read_integers(safetensors_file const& file, std::string_view name, tensor const& source) {
    switch (source.type) {
    case dtype::i32:
        return converted<std::int32_t, std::int64_t>(source);
    case dtype::i64:
        return converted<std::int64_t, std::int64_t>(source);
    case dtype::u8:
    case dtype::boolean:
        return converted<std::uint8_t, std::int64_t>(source);
    default:
        throw wrong_dtype(file, name, source, "I32, I64 or U8");
    }
}

std::vector<std::int32_t> read_integers(safetensors_file const& file, std::string_view name, tensor const& source, std::int64_t least,
                                        std::int64_t most) {
    auto const wide = read_integers(file, name, source);
    std::vector<std::int32_t> result(wide.size());
    for (std::size_t i = 0; i < wide.size(); ++i) {
        if (wide[i] < least || wide[i] > most) {
            throw bad_tensor(file.path(), name,
                             "holds " + std::to_string(wide[i]) + " at position " + std::to_string(i) + ", allowed is " +
                                 std::to_string(least) + " to " + std::to_string(most));
        }
        result[i] = static_cast<std::int32_t>(wide[i]);
    }
    return result;
}

std::vector<std::uint8_t> read_booleans(safetensors_file const& file, std::string_view name, tensor const& source) {
    if (source.type != dtype::u8 && source.type != dtype::boolean) { throw wrong_dtype(file, name, source, "U8 or BOOL"); }
    auto result = converted<std::uint8_t, std::uint8_t>(source);
    for (std::size_t i = 0; i < result.size(); ++i) {
        if (result[i] > 1) {
            throw bad_tensor(file.path(), name,
                             "holds " + std::to_string(result[i]) + " at position " + std::to_string(i) + ", a mask holds 0 and 1");
        }
    }
    return result;
}

} // namespace heed::tool
