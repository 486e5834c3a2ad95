// SPDX-License-Identifier: BSD-3-Clause
// Rows softmax/backward/<type>/...: dq, dk and dv of softmax attention from what forward wrote. Settings: mask=full|causal|window (f32), full|causal (bf16).
#pragma once

#include "owned_run.hpp"
#include "problem.hpp"

#include <cstdint>
#include <memory>
#include <string>

namespace heed::bench {

timed_case backward_case(problem const& p, std::uint64_t seed); // throws unsupported_error, naming the problem

// What a translation unit compiles: the rows of one type of elements.
template <class Element>
std::shared_ptr<owned_run> make_backward_run(problem const& p, std::uint64_t seed);

} // namespace heed::bench
