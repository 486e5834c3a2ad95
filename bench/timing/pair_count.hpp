// SPDX-License-Identifier: BSD-3-Clause
// The work of a problem, counted from its pattern: attended pairs, floating-point operations, compulsory traffic.
#pragma once

#include "problem.hpp"

namespace heed::bench {

bool attends(problem const& p, std::int64_t query, std::int64_t key); // the definition, one pair at a time
std::int64_t pairs_per_head(problem const& p);                        // the same, counted in closed form

struct key_span {
    std::int64_t begin, end;
};
key_span keys_of(problem const& p, std::int64_t query); // the keys that a query attends; all our masks are bands

double flops(problem const& p); // attended pairs of all heads times 2 (d + d_v); backward 2.5 times that
double bytes(problem const& p); // every operand and the result once

} // namespace heed::bench
