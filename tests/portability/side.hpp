// SPDX-License-Identifier: BSD-3-Clause
// What each of the two objects offers; both are compiled from side.cpp, with different architecture flags.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

namespace heed_test {

struct problem {
    int heads, kv_heads, queries, keys, width, value_width;
    std::vector<float> q, k, v, slopes;
};

struct type_layout {
    std::string name;
    std::size_t size, alignment;
};

#define HEED_TEST_SIDE(side)                                                                                                               \
    namespace side {                                                                                                                       \
    std::string arch();                                                                                                                    \
    std::vector<type_layout> layouts();                                                                                                    \
    std::vector<float> plain_softmax(problem const& p);                                                                                    \
    std::vector<float> composed(problem const& p);                                                                                         \
    std::size_t vector_bytes(problem const& p);                                                                                            \
    std::vector<double> many_doors(problem const& p);                                                                                      \
    }
HEED_TEST_SIDE(side_plain)
HEED_TEST_SIDE(side_tuned)
#undef HEED_TEST_SIDE

} // namespace heed_test
