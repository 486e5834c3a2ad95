// SPDX-License-Identifier: BSD-3-Clause
// What one writes with Eigen in an afternoon: two matrix products and a softmax over rows, head by head.
#pragma once

#include "../timing/operands.hpp"
#include "../timing/problem.hpp"

#include <cstddef>
#include <span>

namespace heed::bench {

template <class T>
std::size_t eigen_scratch_bytes(problem const& p); // one score matrix per thread

template <class T>
void eigen_attention(problem const& p, operands<T> const& o, std::span<std::byte> scratch);

} // namespace heed::bench
