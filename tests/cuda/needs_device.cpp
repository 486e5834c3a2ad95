// SPDX-License-Identifier: BSD-3-Clause
// A machine without a GPU skips these tests: the program ends with 77 before any of them.
#include <cuda_runtime_api.h>

#include <cstdio>
#include <cstdlib>

namespace {
[[maybe_unused]] bool const has_device = [] {
    int count = 0;
    if (cudaGetDeviceCount(&count) == cudaSuccess && count > 0) { return true; }
    std::puts("no GPU here: skipped");
    std::fflush(stdout);
    std::_Exit(77);
}();
} // namespace
