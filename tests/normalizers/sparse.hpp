// SPDX-License-Identifier: BSD-3-Clause
// Rows with thresholds, for one element type.
#pragma once

#include "try_rows.hpp"

#include <heed/mechanism/sparse.hpp>

namespace heed_test {

template <class T>
void try_sparsemax(int count) {
    try_rows<T>(count, 921, [](auto pattern) { return heed::sparsemax_attention(pattern); }, oracle::sparsemax, support);
}
template <class T>
void try_entmax(int count) {
    try_rows<T>(count, 922, [](auto pattern) { return heed::entmax15_attention(pattern); }, oracle::entmax15, support);
}
template <class T>
void try_top_k(int count) {
    for (extent_t k : {1, 3, 17, 500}) {
        try_rows<T>(count, 923 + static_cast<std::uint64_t>(k), [=](auto pattern) { return heed::top_k_attention(k, pattern); }, oracle::top_k(k), {}, {},
                    oracle::near_tie(k, 64 * eps<T>));
    }
}

} // namespace heed_test
