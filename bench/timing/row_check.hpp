// SPDX-License-Identifier: BSD-3-Clause
// The check of what was timed: sampled rows again in double precision, straight from the definition.
#pragma once

#include "operands.hpp"
#include "problem.hpp"

#include <string>

namespace heed::bench {

template <class T>
void poison(problem const& p, operands<T> const& o); // NaN in the whole output: what is not written shows

// Empty when the output is right, else a sentence that names the row.
template <class T>
std::string check_rows(problem const& p, operands<T> const& o, std::uint64_t seed);

} // namespace heed::bench
