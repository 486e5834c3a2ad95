// SPDX-License-Identifier: BSD-3-Clause
// `heed info`: what this build is and what it runs on.
#include "commands.hpp"
#include "cpu_features.hpp"
#include "failure.hpp"

#include <heed/heed.hpp>
#include <heed/version.hpp>

#include <CLI/CLI.hpp>

#include <iostream>
#include <string>
#include <thread>

namespace heed::tool {

namespace {

std::string compiler() {
#if defined(__clang__)
    return "Clang " __clang_version__;
#elif defined(__GNUC__)
    return "GCC " __VERSION__;
#else
    return "unknown";
#endif
}

std::string executors() {
    std::string text = "serial";
#if defined(HEED_HAS_OPENMP)
    text += ", openmp";
#endif
#if defined(HEED_HAS_TBB)
    text += ", tbb";
#endif
    return text;
}

void print_info(std::ostream& out) {
    unsigned const compiled = native_arch::features, present = present_features();
    auto const line = [&](std::string label, std::string const& text) {
        label.resize(14, ' ');
        out << label << text << "\n";
    };
    line("heed", std::to_string(HEED_VERSION_MAJOR) + "." + std::to_string(HEED_VERSION_MINOR) + "." + std::to_string(HEED_VERSION_PATCH));
    line("compiler", compiler());
    line("isa compiled", std::string(arch_name<native_arch>()) + ": " + text_of_features(compiled));
    line("isa present",
         text_of_features(present) + ((compiled & ~present) ? " (less than compiled for: this build does not run here)" : ""));
    using mechanism = decltype(softmax_attention());
    line("engines", std::string(forward_engine<mechanism, float, cpu<>>::name) + ", " +
                        std::string(forward_engine<mechanism, float, reference<>>::name));
    line("dtypes", "f32, f64, bf16, f16 (the last two computed in f32" + std::string(has_bf16_dot<native_arch> ? ", bf16 in products of pairs)" : ")"));
    line("executors", executors());
    line("threads", std::to_string(std::thread::hardware_concurrency()));
    line("gpu", "none (built without CUDA)");
}

} // namespace

void add_info(CLI::App& app, int&) {
    app.add_subcommand("info", "Version, instruction sets compiled and present, engines, threads, GPU")->callback([] {
        print_info(std::cout);
    });
}

} // namespace heed::tool
