// SPDX-License-Identifier: BSD-3-Clause
// Instruction sets by name, in the bits of heed::isa.
#pragma once

#include <string>

namespace heed::tool {

// What this processor has and the operating system lets programs use.
unsigned present_features();

// "sse2 avx avx2 ...", "none" for no bit.
std::string text_of_features(unsigned features);

} // namespace heed::tool
