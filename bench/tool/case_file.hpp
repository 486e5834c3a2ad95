// SPDX-License-Identifier: BSD-3-Clause
// A file that says what it is: metadata name a mechanism and a case, the tensors are inputs and expected results. case_io<T> is
// what the wiring of a case works with; it owns every array, so that views into them live as long as the case does.
#pragma once

#include "inputs.hpp"
#include "safetensors.hpp"

#include <cstdint>
#include <deque>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace heed::tool {

class case_file {
    safetensors_file file_;
    std::string mechanism_, name_;
    std::vector<std::string> inputs_;
    std::vector<std::string> expected_; // in the file's order
    std::map<std::string, double, std::less<>> atol_f32_, atol_f64_;

public:
    // Throws bad_file or bad_tensor unless everything that the metadata promises is there.
    explicit case_file(safetensors_file file);

    safetensors_file const& file() const { return file_; }
    std::string const& path() const { return file_.path(); }
    std::string const& mechanism() const { return mechanism_; }
    std::string const& name() const { return name_; }

    std::vector<std::string> const& expected() const { return expected_; }
    bool expects(std::string_view tensor) const;
    bool is_gradient(std::string_view tensor) const; // d<input>, or d<expected>_<input>
    std::optional<double> tolerance(std::string_view tensor, bool in_double) const;

    // Options of the case: JSON text in the metadata. All but the last throw bad_file when the key is missing.
    double number(std::string_view key) const;
    std::int64_t integer(std::string_view key, std::int64_t least, std::int64_t most) const;
    bool flag(std::string_view key) const;
    std::optional<double> number_if(std::string_view key) const;
    std::string const& word(std::string_view key) const { return text(key); }

private:
    std::string const& text(std::string_view key) const;
    void check_promises(std::string const& expected_text, std::string const& inputs_text);
};

// A tensor as it lies in the case: its extents are known by letters or from its own shape.
template <class T>
struct loaded {
    T const* data;
    tensor_shape shape;
};

enum class integer_order { exact, rows_are_sets };

struct integer_result {
    tensor_shape shape;
    std::vector<std::int64_t> values;
    integer_order order;
};

template <class T>
class case_io {
public:
    struct result {
        tensor_shape shape;
        std::vector<T> values;
    };

    explicit case_io(case_file const& source, bool forward_only = false) : source_(source), forward_only_(forward_only) {}

    case_file const& source() const { return source_; }
    bool expects(std::string_view tensor) const { return source_.expects(tensor); }
    bool wants(std::string_view gradient) const { return !forward_only_ && expects(gradient); }

    // Inputs by name; their axes as axis_lengths reads them.
    loaded<T> reals(std::string_view name, std::string_view axes);
    loaded<std::int32_t> integers(std::string_view name, std::string_view axes, std::int64_t least, std::int64_t most);
    loaded<std::uint8_t> booleans(std::string_view name, std::string_view axes);

    std::int64_t operator[](char axis) const { return axes_[axis]; }
    void set(char axis, std::int64_t value, std::string_view why) { axes_.set(axis, value, why); }

    // Room for a result, filled with NaN or the lowest integer: what is not written does not match. A result that the file does not
    // expect is scratch.
    T* make(std::string_view name, std::string_view axes);
    std::int64_t* make_integers(std::string_view name, std::string_view axes, integer_order order);
    T* scratch(std::int64_t count);

    std::map<std::string, result, std::less<>> const& results() const { return results_; }
    std::map<std::string, integer_result, std::less<>> const& integer_results() const { return integer_results_; }

private:
    // Number of elements, once the shape is what the file expects.
    std::size_t room_for(std::string_view name, tensor_shape const& shape) const;

    case_file const& source_;
    bool forward_only_;
    axis_lengths axes_;
    std::deque<std::vector<T>> reals_;
    std::deque<std::vector<std::int32_t>> integers_;
    std::deque<std::vector<std::uint8_t>> booleans_;
    std::map<std::string, result, std::less<>> results_;
    std::map<std::string, integer_result, std::less<>> integer_results_;
};
extern template class case_io<float>;
extern template class case_io<double>;

// The wiring of a case: reads inputs, runs kernels, makes results.
struct case_wiring {
    std::string_view name;
    void (*in_float)(case_io<float>&);
    void (*in_double)(case_io<double>&);
};

// W is a struct with a static template function run(case_io<T>&).
template <class W>
constexpr case_wiring wire(std::string_view name) {
    return {name, &W::template run<float>, &W::template run<double>};
}

// One object of this type at namespace scope, beside the wiring, makes a mechanism known to `heed check`.
class check_registration {
public:
    check_registration(std::string_view mechanism, std::span<case_wiring const> cases);
};

// Throws not_supported when the mechanism or the case is unknown.
case_wiring const& find_wiring(case_file const& source);

} // namespace heed::tool
