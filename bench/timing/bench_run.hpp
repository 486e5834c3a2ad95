// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "bench_options.hpp"

namespace heed::bench {

// The whole of `heed bench` behind its command line. 0: done; 1: a verification failed. Throws usage_error, unsupported_error.
int run_bench(bench_options const& options);

} // namespace heed::bench
