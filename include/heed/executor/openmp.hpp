// SPDX-License-Identifier: BSD-3-Clause
// OpenMP threads as an executor. Compile with -fopenmp.
#pragma once

#include <heed/engine/cpu/parallel.hpp>

#if !defined(_OPENMP)
#error "heed: <heed/executor/openmp.hpp> needs OpenMP (-fopenmp)"
#endif
#include <omp.h>

namespace heed {

struct openmp {
    int threads = omp_get_max_threads();

    template <class F>
    void bulk(int n, F&& f) const {
#pragma omp parallel for num_threads(threads) schedule(static, 1)
        for (int i = 0; i < n; ++i) { f(i); }
    }
    int concurrency() const { return threads; }
};

} // namespace heed
