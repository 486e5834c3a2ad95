// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <chrono>

namespace heed::bench {

template <class F>
double time_of(F&& f) { // seconds
    auto const start = std::chrono::steady_clock::now();
    f();
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

} // namespace heed::bench
