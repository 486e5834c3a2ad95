// SPDX-License-Identifier: BSD-3-Clause
// The machine's limits, measured in the same run as everything else: rows limit/<what>/<threads>.
#pragma once

#include "problem.hpp"
#include "timed_case.hpp"

#include <string>
#include <string_view>
#include <vector>

namespace heed::bench {

// what: fma_f32, fma_f64, add_max, range, read, and bf16_dot where the build has the instruction. An isa other than the build's
// own ("avx2") adds the key isa=... Throws unsupported_error for a limit that this build cannot measure.
timed_case limit_case(std::string_view what, int threads, std::string_view isa = "");
timed_case limit_case(std::string_view name); // limit/<what>/<threads>[/isa=...]
std::vector<std::string> limits_here(); // every `what` of this build

// A register-only loop: `work` operations per call and thread.
struct register_loop {
    void (*run)(long steps);
    long steps;
    double work;
};

namespace native {
register_loop fma_f32();
register_loop fma_f64();
register_loop add_max();
register_loop range(); // difference, maximum and minimum: a step of a Hilbert score
register_loop bf16_dot(); // run is null where the build lacks the instruction
} // namespace native

namespace avx2 {
register_loop fma_f32(); // run is null where the file was not built for AVX2
register_loop fma_f64();
register_loop add_max();
} // namespace avx2

timed_case read_case(int threads);
std::size_t beyond_caches(); // bytes of which the last cache holds half at most, between 256 MiB and 1 GiB: data read in turn comes from memory

} // namespace heed::bench
