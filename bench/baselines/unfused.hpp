// SPDX-License-Identifier: BSD-3-Clause
// heed's own kernels without the fusion: all scores of a head are written out, then masked and normalised, then
// multiplied with the values. What the fused path must never be slower than.
#pragma once

#include "../timing/operands.hpp"
#include "../timing/problem.hpp"

#include <cstddef>
#include <span>
#include <string>

namespace heed::bench {

template <class T>
std::size_t unfused_scratch_bytes(problem const& p);

template <class T>
void unfused_attention(problem const& p, operands<T> const& o, std::span<std::byte> scratch);

template <class T>
std::string unfused_tile(); // "48 queries x 256 keys"

} // namespace heed::bench
