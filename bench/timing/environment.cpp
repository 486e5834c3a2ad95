// SPDX-License-Identifier: BSD-3-Clause
#include "environment.hpp"

#include "list_syntax.hpp"
#include "team.hpp"

#include <heed/version.hpp>

#include <fstream>
#include <thread>

namespace heed::bench {

namespace {

std::string cpu_model() {
    std::ifstream file("/proc/cpuinfo");
    for (std::string line; std::getline(file, line);)
        if (line.rfind("model name", 0) == 0) return line.substr(line.find(':') + 2);
    return "unknown";
}

std::string compiler() {
#if defined(__clang__)
    return "clang " __clang_version__;
#elif defined(__GNUC__)
    return "g++ " __VERSION__;
#else
    return "unknown";
#endif
}

std::string isa_compiled() {
    std::vector<std::string> sets;
#if defined(__AVX512F__)
    sets.emplace_back("avx512f");
#endif
#if defined(__AVX512BW__)
    sets.emplace_back("avx512bw");
#endif
#if defined(__AVX512DQ__)
    sets.emplace_back("avx512dq");
#endif
#if defined(__AVX512VL__)
    sets.emplace_back("avx512vl");
#endif
#if defined(__AVX512BF16__)
    sets.emplace_back("avx512bf16");
#endif
#if defined(__AVX2__)
    sets.emplace_back("avx2");
#endif
#if defined(__FMA__)
    sets.emplace_back("fma");
#endif
#if defined(__F16C__)
    sets.emplace_back("f16c");
#endif
#if defined(__AVX__) && !defined(__AVX2__)
    sets.emplace_back("avx");
#endif
#if defined(__SSE2__) && !defined(__AVX__)
    sets.emplace_back("sse2");
#endif
#if defined(__ARM_NEON)
    sets.emplace_back("neon");
#endif
    return sets.empty() ? "scalar" : join(sets, " ");
}

std::string isa_present() {
    std::vector<std::string> sets;
#if defined(__x86_64__) && defined(__GNUC__)
    if (__builtin_cpu_supports("avx512f")) sets.emplace_back("avx512f");
    if (__builtin_cpu_supports("avx512bw")) sets.emplace_back("avx512bw");
    if (__builtin_cpu_supports("avx512dq")) sets.emplace_back("avx512dq");
    if (__builtin_cpu_supports("avx512vl")) sets.emplace_back("avx512vl");
    if (__builtin_cpu_supports("avx512bf16")) sets.emplace_back("avx512bf16");
    if (__builtin_cpu_supports("avx2")) sets.emplace_back("avx2");
    if (__builtin_cpu_supports("fma")) sets.emplace_back("fma");
    if (sets.empty()) sets.emplace_back("sse2");
#elif defined(__ARM_NEON)
    sets.emplace_back("neon");
#endif
    return sets.empty() ? "unknown" : join(sets, " ");
}

} // namespace

std::vector<std::pair<std::string, std::string>> environment() {
    auto const text = [](int major, int minor, int patch) {
        return std::to_string(major) + '.' + std::to_string(minor) + '.' + std::to_string(patch);
    };
    auto const usable = usable_cpus().size();
    return {{"heed_version", text(HEED_VERSION_MAJOR, HEED_VERSION_MINOR, HEED_VERSION_PATCH)},
            {"cpu_model", cpu_model()},
            {"cpus", std::to_string(usable != 0 ? usable : std::thread::hardware_concurrency())},
            {"isa_compiled", isa_compiled()},
            {"isa_present", isa_present()},
            {"compiler", compiler()}};
}

} // namespace heed::bench
