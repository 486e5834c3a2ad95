// SPDX-License-Identifier: BSD-3-Clause
// oneTBB's workers as an executor. Link with TBB::tbb.
#pragma once

#include <heed/engine/cpu/parallel.hpp>

#include <oneapi/tbb/parallel_for.h>
#include <oneapi/tbb/task_arena.h>

namespace heed {

struct tbb {
    int threads = oneapi::tbb::this_task_arena::max_concurrency();

    template <class F>
    void bulk(int n, F&& f) const {
        oneapi::tbb::task_arena arena(threads);
        arena.execute([&] { oneapi::tbb::parallel_for(0, n, [&](int i) { f(i); }, oneapi::tbb::simple_partitioner{}); });
    }
    int concurrency() const { return threads; }
};

} // namespace heed
