// SPDX-License-Identifier: BSD-3-Clause
#include "case_file.hpp"

#include "failure.hpp"
#include "strict_json.hpp"

#include <nlohmann/json.hpp>

#include <algorithm>
#include <cmath>
#include <limits>
#include <ranges>

namespace heed::tool {

namespace {

using json = nlohmann::ordered_json;

// The JSON text of one metadata value.
json parse_value(std::string const& path, std::string_view key, std::string const& text) {
    return parse_strictly<json>(path, "metadata " + in_quotes(key), text);
}

std::map<std::string, double, std::less<>> parse_tolerances(safetensors_file const& file, std::string_view key) {
    std::map<std::string, double, std::less<>> result;
    auto const found = file.metadata().find(key);
    if (found == file.metadata().end()) { return result; }
    auto const table = parse_value(file.path(), key, found->second);
    if (!table.is_object()) { throw bad_file(file.path(), "metadata " + in_quotes(key) + " is not an object"); }
    for (auto const& item : table.items()) {
        double const value = item.value().is_number() ? item.value().get<double>() : std::nan("");
        if (!(value >= 0) || std::isinf(value)) {
            throw bad_tensor(file.path(), item.key(), "its tolerance in " + in_quotes(key) + " is not a number of at least 0");
        }
        result.emplace(item.key(), value);
    }
    return result;
}

tensor_shape parse_shape(std::string const& path, std::string const& tensor, json const& value) {
    tensor_shape shape;
    for (auto const& extent : value) { // neither a number nor a string enters this loop
        if (!extent.is_number_unsigned()) {
            throw bad_tensor(path, tensor, "its shape in metadata \"expected\" holds something that is not a size");
        }
        shape.push_back(extent.get<std::int64_t>());
    }
    return shape;
}

} // namespace

case_file::case_file(safetensors_file file)
    : file_(std::move(file)), mechanism_(text("mechanism")), name_(text("case")), atol_f32_(parse_tolerances(file_, "atol_f32")),
      atol_f64_(parse_tolerances(file_, "atol_f64")) {
    check_promises(text("expected"), text("inputs"));
}

void case_file::check_promises(std::string const& expected_text, std::string const& inputs_text) {
    auto const inputs = parse_value(path(), "inputs", inputs_text);
    if (!inputs.is_array()) { throw bad_file(path(), "metadata \"inputs\" is not a list"); }
    for (auto const& input : inputs) {
        if (!input.is_string()) { throw bad_file(path(), "metadata \"inputs\" holds something that is not a name"); }
        inputs_.push_back(input.get<std::string>());
        require(file_, inputs_.back());
    }
    auto const expected = parse_value(path(), "expected", expected_text);
    if (!expected.is_object()) { throw bad_file(path(), "metadata \"expected\" is not an object"); }
    for (auto const& item : expected.items()) {
        auto const& name = item.key();
        auto const& stored = require(file_, name);
        if (!item.value().is_array() || parse_shape(path(), name, item.value()) != stored.shape) {
            throw bad_tensor(path(), name, "has shape " + text_of(stored.shape) + ", metadata \"expected\" says " + item.value().dump());
        }
        auto const* twin = file_.find(name + "64");
        if (twin && (twin->type != dtype::f64 || twin->shape != stored.shape)) {
            throw bad_tensor(path(), name + "64", "is not an F64 twin of " + in_quotes(name));
        }
        expected_.push_back(name);
    }
}

bool case_file::expects(std::string_view tensor) const { return std::find(expected_.begin(), expected_.end(), tensor) != expected_.end(); }

bool case_file::is_gradient(std::string_view tensor) const {
    if (!tensor.starts_with('d')) { return false; }
    auto const rest = tensor.substr(1);
    auto const is_input = [&](std::string_view name) { return std::find(inputs_.begin(), inputs_.end(), name) != inputs_.end(); };
    if (is_input(rest)) { return true; }
    auto const cut = rest.find('_');
    return cut != rest.npos && expects(rest.substr(0, cut)) && is_input(rest.substr(cut + 1));
}

std::optional<double> case_file::tolerance(std::string_view tensor, bool in_double) const {
    auto const& table = in_double ? atol_f64_ : atol_f32_;
    auto const found = table.find(tensor);
    return found == table.end() ? std::nullopt : std::optional(found->second);
}

std::string const& case_file::text(std::string_view key) const {
    auto const found = file_.metadata().find(key);
    if (found == file_.metadata().end()) { throw bad_file(path(), "metadata " + in_quotes(key) + " is missing"); }
    return found->second;
}

double case_file::number(std::string_view key) const {
    auto const value = parse_value(path(), key, text(key));
    if (!value.is_number() || !std::isfinite(value.get<double>())) {
        throw bad_file(path(), "metadata " + in_quotes(key) + " is not a number");
    }
    return value.get<double>();
}

std::optional<double> case_file::number_if(std::string_view key) const {
    return file_.metadata().contains(key) ? std::optional(number(key)) : std::nullopt;
}

bool case_file::flag(std::string_view key) const {
    auto const value = parse_value(path(), key, text(key));
    if (!value.is_boolean()) { throw bad_file(path(), "metadata " + in_quotes(key) + " is neither true nor false"); }
    return value.get<bool>();
}

std::int64_t case_file::integer(std::string_view key, std::int64_t least, std::int64_t most) const {
    auto const value = parse_value(path(), key, text(key));
    bool const fits = value.is_number_integer() && (!value.is_number_unsigned() || value.get<std::uint64_t>() <= std::uint64_t{1} << 62);
    if (!fits || value.get<std::int64_t>() < least || value.get<std::int64_t>() > most) {
        throw bad_file(path(),
                       "metadata " + in_quotes(key) + " is not an integer from " + std::to_string(least) + " to " + std::to_string(most));
    }
    return value.get<std::int64_t>();
}

template <class T>
loaded<T> case_io<T>::reals(std::string_view name, std::string_view axes) {
    auto const& stored = require(source_.file(), name);
    axes_.match(source_.path(), name, stored.shape, axes);
    reals_.push_back(read_reals<T>(source_.file(), name, stored));
    return {reals_.back().data(), stored.shape};
}

template <class T>
loaded<std::int32_t> case_io<T>::integers(std::string_view name, std::string_view axes, std::int64_t least, std::int64_t most) {
    auto const& stored = require(source_.file(), name);
    axes_.match(source_.path(), name, stored.shape, axes);
    constexpr std::int64_t lowest = std::numeric_limits<std::int32_t>::min(), highest = std::numeric_limits<std::int32_t>::max();
    integers_.push_back(read_integers(source_.file(), name, stored, std::max(least, lowest), std::min(most, highest)));
    return {integers_.back().data(), stored.shape};
}

template <class T>
loaded<std::uint8_t> case_io<T>::booleans(std::string_view name, std::string_view axes) {
    auto const& stored = require(source_.file(), name);
    axes_.match(source_.path(), name, stored.shape, axes);
    booleans_.push_back(read_booleans(source_.file(), name, stored));
    return {booleans_.back().data(), stored.shape};
}

template <class T>
std::size_t case_io<T>::room_for(std::string_view name, tensor_shape const& shape) const {
    if (expects(name)) {
        auto const& stored = require(source_.file(), name);
        if (stored.shape == shape) { return static_cast<std::size_t>(element_count(shape)); }
        throw bad_tensor(source_.path(), name, "has shape " + text_of(stored.shape) + ", from the inputs it must be " + text_of(shape));
    }
    // Nothing in the file bounds a result that it does not hold: inputs without elements can ask for any size.
    constexpr std::int64_t most = std::int64_t{1} << 28;
    std::int64_t count = 1;
    for (auto const extent : shape) {
        if (extent == 0) { return 0; }
        if (count > most / extent) {
            throw bad_tensor(source_.path(), name, "would have shape " + text_of(shape) + ", which is too large");
        }
        count *= extent;
    }
    return static_cast<std::size_t>(count);
}

template <class T>
T* case_io<T>::make(std::string_view name, std::string_view axes) {
    auto shape = axes_.shape_of(axes);
    std::vector<T> values(room_for(name, shape), std::numeric_limits<T>::quiet_NaN());
    auto& made = results_.insert_or_assign(std::string(name), result{std::move(shape), std::move(values)}).first->second;
    return made.values.data();
}

template <class T>
std::int64_t* case_io<T>::make_integers(std::string_view name, std::string_view axes, integer_order order) {
    auto shape = axes_.shape_of(axes);
    std::vector<std::int64_t> values(room_for(name, shape), std::numeric_limits<std::int64_t>::min());
    auto& made =
        integer_results_.insert_or_assign(std::string(name), integer_result{std::move(shape), std::move(values), order}).first->second;
    return made.values.data();
}

template <class T>
T* case_io<T>::scratch(std::int64_t count) {
    reals_.emplace_back(static_cast<std::size_t>(count));
    return reals_.back().data();
}

template class case_io<float>;
template class case_io<double>;

namespace {

using registry = std::multimap<std::string_view, std::span<case_wiring const>>; // the cases of a mechanism may stand in several files

// Filled while the program starts, by the registrations; constant afterwards.
registry& wirings() {
    static registry all;
    return all;
}

} // namespace

check_registration::check_registration(std::string_view mechanism, std::span<case_wiring const> cases) {
    wirings().emplace(mechanism, cases);
}

case_wiring const& find_wiring(case_file const& source) {
    auto const [first, last] = wirings().equal_range(source.mechanism());
    if (first == last) { throw not_supported(source.path() + ": mechanism " + in_quotes(source.mechanism()) + " is not supported"); }
    for (auto const& [mechanism, cases] : std::ranges::subrange(first, last)) {
        for (auto const& wiring : cases) {
            if (wiring.name == source.name()) { return wiring; }
        }
    }
    throw not_supported(source.path() + ": case " + in_quotes(source.name()) + " of mechanism " + in_quotes(source.mechanism()) +
                        " is not supported");
}

} // namespace heed::tool
