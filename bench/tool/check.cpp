// SPDX-License-Identifier: BSD-3-Clause
#include "check.hpp"

#include "case_file.hpp"
#include "commands.hpp"
#include "compare.hpp"

#include <CLI/CLI.hpp>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <iostream>
#include <memory>

namespace heed::tool {

namespace {

// Where a file states no tolerance: this much of the tensor's largest value. A float32 expectation in a double check may be off by
// its own rounding.
constexpr double default_float_tolerance = 1e-5, default_double_tolerance = 1e-11, float_rounding = 0x1p-24;

class case_check {
    case_file const& source_;
    check_options options_;
    std::ostream& report_;
    std::size_t width_ = 6; // of the column of names
    int compared_ = 0, failed_ = 0, missing_ = 0;

public:
    case_check(case_file const& source, check_options const& options, std::ostream& report)
        : source_(source), options_(options), report_(report) {
        for (auto const& name : source.expected()) { width_ = std::max(width_, name.size()); }
    }

    template <class T>
    exit_code run(void (*wiring)(case_io<T>&)) {
        case_io<T> io(source_, options_.forward_only);
        wiring(io);
        report_ << source_.path() << ": " << source_.mechanism() << "/" << source_.name() << (options_.in_double ? ", double" : ", float")
                << "\n";
        for (auto const& name : source_.expected()) { check_tensor(io, name); }
        return failed_ ? exit_mismatch : missing_ ? exit_not_supported : exit_ok;
    }

private:
    template <class T>
    void check_tensor(case_io<T> const& io, std::string const& name) {
        auto const made = io.results().find(name);
        auto const made_integers = io.integer_results().find(name);
        if (made != io.results().end()) {
            print(name, compare_reals(name, {made->second.values.begin(), made->second.values.end()}));
        } else if (made_integers != io.integer_results().end()) {
            print(name, compare_integers(name, made_integers->second));
        } else if (!(source_.is_gradient(name) && options_.forward_only)) {
            ++missing_;
            line(name, source_.is_gradient(name) ? "gradient not supported yet" : "not supported yet");
        }
    }

    comparison compare_reals(std::string const& name, std::vector<double> const& values) const {
        auto const* twin = options_.in_double ? source_.file().find(name + "64") : nullptr;
        auto const expected = twin ? read_reals<double>(source_.file(), name + "64", *twin)
                                   : read_reals<double>(source_.file(), name, require(source_.file(), name));
        bool const rounded = options_.in_double && require(source_.file(), name).type == dtype::f32 && !twin;
        double const fraction = options_.in_double ? default_double_tolerance : default_float_tolerance;
        auto const allowed = source_.tolerance(name, options_.in_double);
        return compare(expected, values, allowed ? *allowed : fraction * largest_magnitude(expected), rounded ? float_rounding : 0);
    }

    comparison compare_integers(std::string const& name, integer_result const& made) const {
        auto const expected = read_integers(source_.file(), name, require(source_.file(), name));
        bool const sets = made.order == integer_order::rows_are_sets && !made.shape.empty();
        return compare(expected, made.values, sets ? static_cast<std::size_t>(made.shape.back()) : 0);
    }

    void print(std::string const& name, comparison const& found) {
        ++compared_;
        failed_ += !found.good;
        std::array<char, 128> text;
        std::snprintf(text.data(), text.size(), "max abs %-9.3g  max rel %-9.3g  error ratio %-9.3g  %s", found.max_abs, found.max_rel,
                      found.error_ratio, found.good ? "ok" : "MISMATCH");
        line(name, text.data());
    }

    void line(std::string const& name, std::string_view text) {
        report_ << "  " << name << std::string(width_ - name.size(), ' ') << "  " << text << "\n";
    }
};

exit_code checked(std::string const& path, check_options const& options, std::ostream& report) {
    case_file const source(safetensors_file::read(path));
    auto const& wiring = find_wiring(source);
    case_check check(source, options, report);
    return options.in_double ? check.run<double>(wiring.in_double) : check.run<float>(wiring.in_float);
}

} // namespace

exit_code check_file(std::string const& path, check_options const& options, std::ostream& report, std::ostream& errors) {
    auto const refuse = [&](std::string const& sentence, exit_code code) {
        report.flush(); // the two may share a terminal
        errors << "heed: " << sentence << std::endl;
        return code;
    };
    try {
        return checked(path, options, report);
    } catch (failure const& error) {
        return refuse(error.what(), error.code());
    } catch (std::exception const& error) { // a shape that the library refuses
        return refuse(path + ": " + sentence_of(error), exit_bad_input);
    }
}

exit_code check_files(std::vector<std::string> const& paths, check_options const& options, std::ostream& report, std::ostream& errors) {
    std::array<int, 4> count{}; // of files, by exit code
    for (auto const& path : paths) { ++count[static_cast<std::size_t>(check_file(path, options, report, errors))]; }
    if (paths.size() > 1) {
        report << paths.size() << " files: " << count[exit_ok] << " ok, " << count[exit_mismatch] << " mismatched, "
               << count[exit_not_supported] << " not supported, " << count[exit_bad_input] << " bad\n";
    }
    for (auto const code : {exit_bad_input, exit_mismatch, exit_not_supported}) {
        if (count[static_cast<std::size_t>(code)]) { return code; }
    }
    return exit_ok;
}

void add_check(CLI::App& app, int& exit) {
    auto* command = app.add_subcommand("check", "Run what each file names and compare with the expected tensors inside it");
    auto const options = std::make_shared<check_options>();
    auto const paths = std::make_shared<std::vector<std::string>>();
    command->add_flag("--forward", options->forward_only, "Skip the gradients");
    command->add_flag("--double", options->in_double, "Compute in double and compare with the float64 expectations");
    command->add_option("FILE", *paths, "Safetensors files with metadata mechanism and case")->required();
    command->footer("Exit code: 0 all within tolerance, 1 a mismatch, 2 bad usage or a bad file, 3 something is not supported.\n"
                    "Over several files: the first of 2, 1, 3 that occurred.");
    command->callback([options, paths, &exit] { exit = check_files(*paths, *options, std::cout, std::cerr); });
}

} // namespace heed::tool
