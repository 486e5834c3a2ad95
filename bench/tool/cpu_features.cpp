// SPDX-License-Identifier: BSD-3-Clause
#include "cpu_features.hpp"

#include <heed/config.hpp>

#include <array>
#include <string_view>
#include <utility>

#if defined(__x86_64__) || defined(__i386__)
#include <cpuid.h>
#endif

namespace heed::tool {

namespace {

constexpr std::array<std::pair<unsigned, std::string_view>, 12> feature_names{{{isa::sse2, "sse2"},
                                                                               {isa::sse4_2, "sse4.2"},
                                                                               {isa::avx, "avx"},
                                                                               {isa::fma, "fma"},
                                                                               {isa::avx2, "avx2"},
                                                                               {isa::f16c, "f16c"},
                                                                               {isa::avx512f, "avx512f"},
                                                                               {isa::avx512bw, "avx512bw"},
                                                                               {isa::avx512dq, "avx512dq"},
                                                                               {isa::avx512vl, "avx512vl"},
                                                                               {isa::avx512bf16, "avx512bf16"},
                                                                               {isa::neon64, "neon"}}};

#if defined(__x86_64__) || defined(__i386__)
// Which register states the operating system saves; XGETBV, written out because its intrinsic needs a compiler flag.
unsigned saved_states() {
    unsigned low = 0, high = 0;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return low;
}
#endif

} // namespace

unsigned present_features() {
#if defined(__x86_64__) || defined(__i386__)
    unsigned a = 0, b = 0, c = 0, d = 0, features = 0;
    auto const note = [&](unsigned word, int bit, unsigned feature) { features |= word >> bit & 1u ? feature : 0u; };
    if (!__get_cpuid(1, &a, &b, &c, &d)) { return 0; }
    note(d, 26, isa::sse2);
    note(c, 20, isa::sse4_2);
    unsigned const states = c >> 27 & 1u ? saved_states() : 0;
    bool const has_ymm = (states & 0x6u) == 0x6u, has_zmm = (states & 0xe6u) == 0xe6u;
    if (!has_ymm) { return features; }
    note(c, 28, isa::avx);
    note(c, 12, isa::fma);
    note(c, 29, isa::f16c);
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) { return features; }
    unsigned const deepest = a;
    note(b, 5, isa::avx2);
    if (!has_zmm) { return features; }
    note(b, 16, isa::avx512f);
    note(b, 17, isa::avx512dq);
    note(b, 30, isa::avx512bw);
    note(b, 31, isa::avx512vl);
    if (deepest >= 1 && __get_cpuid_count(7, 1, &a, &b, &c, &d)) { note(a, 5, isa::avx512bf16); }
    return features;
#elif defined(__aarch64__)
    return isa::neon64; // part of every 64-bit Arm processor
#else
    return 0;
#endif
}

std::string text_of_features(unsigned features) {
    std::string text;
    for (auto const& [bit, name] : feature_names) {
        if (!(features & bit)) { continue; }
        if (!text.empty()) { text += ' '; }
        text += name;
    }
    return text.empty() ? "none" : text;
}

} // namespace heed::tool
