// SPDX-License-Identifier: BSD-3-Clause
// One row of the benchmark: something to call, what one call costs on paper, and how to tell that its result is right.
#pragma once

#include <functional>
#include <string>
#include <vector>

namespace heed::bench {

// The row that one is compared with: the counter is the other's time over the row's, per call.
struct rival {
    std::string counter, name;
};

struct timed_case {
    std::string name;
    int threads = 1;
    double flops = 0, bytes = 0;          // per call
    std::string limit;                    // the row that is 100 % of this one: counter of_peak; empty for a limit itself
    std::vector<rival> rivals;            // rows of the same group, for as many threads
    std::function<std::string()> prepare; // once, before the first call; returns what will run: engine and tile, or words
    std::function<void()> run;            // the timed call
    std::function<void()> release;        // after the last call of the group: memory of the row's own; may be empty
    std::function<std::string()> verify;  // a sentence when the result of run() is wrong; may be empty
};

struct case_group { // measured together, interleaved
    std::string title;
    std::vector<timed_case> cases;
};

} // namespace heed::bench
