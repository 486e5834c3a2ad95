// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <chrono>
#include <ctime>

namespace heed::bench {

// Seconds from some point on. One thread: the time it had a CPU, so that other programs on the machine do not count; a team: the
// time that passed, since waiting for each other is part of its work.
inline double seconds_now(int threads) {
#if defined(CLOCK_THREAD_CPUTIME_ID)
    if (threads == 1) {
        std::timespec t{};
        clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
        return static_cast<double>(t.tv_sec) + 1e-9 * static_cast<double>(t.tv_nsec);
    }
#endif
    return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

template <class F>
double time_of(F&& f, int threads = 1) {
    auto const start = seconds_now(threads);
    f();
    return seconds_now(threads) - start;
}

} // namespace heed::bench
