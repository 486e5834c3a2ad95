// SPDX-License-Identifier: BSD-3-Clause
// Rows softmax/decode/<type of the cache>/...: new tokens against a cache, several copies of which take turns, so that no cache of the processor serves
// them. Settings: layout=contiguous|paged|ring, page (rows of a page), mask=full|causal|window. Their limit is limit/read.
#pragma once

#include "owned_run.hpp"
#include "problem.hpp"

#include <cstdint>
#include <memory>
#include <string>

namespace heed::bench {

timed_case decode_case(problem const& p, std::uint64_t seed); // throws unsupported_error, naming the problem

// Bytes of keys, values and scales that one step must read.
double decode_bytes(problem const& p);

// What a translation unit compiles: the rows of one type of elements.
template <class Element>
std::shared_ptr<owned_run> make_decode_run(problem const& p, std::uint64_t seed);

} // namespace heed::bench
