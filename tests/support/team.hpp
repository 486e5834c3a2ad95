// SPDX-License-Identifier: BSD-3-Clause
// Executors that the library does not know.
#pragma once

#include <thread>
#include <vector>

namespace heed_test {

// Threads of its own for every bulk; thread t takes the calls t, t + threads, ...
struct thread_team {
    int threads = 2;

    template <class F>
    void bulk(int n, F&& f) const {
        std::vector<std::thread> team;
        for (int t = 1; t < threads; ++t) {
            team.emplace_back([&f, t, n, step = threads] {
                for (int i = t; i < n; i += step) { f(i); }
            });
        }
        for (int i = 0; i < n; i += threads) { f(i); }
        for (std::thread& t : team) { t.join(); }
    }
    int concurrency() const { return threads; }
};

// Claims many, runs them one after another on the calling thread, the last first.
struct backwards {
    int claimed = 5;

    template <class F>
    void bulk(int n, F&& f) const {
        for (int i = n - 1; i >= 0; --i) { f(i); }
    }
    int concurrency() const { return claimed; }
};

// Only what an executor must have.
struct minimal {
    template <class F>
    void bulk(int n, F&& f) const {
        for (int i = 0; i < n; ++i) { f(i); }
    }
};

} // namespace heed_test
