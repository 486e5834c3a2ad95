// SPDX-License-Identifier: BSD-3-Clause
// Attention with exact zeros: sparsemax (Martins and Astudillo, arXiv:1602.02068), entmax with alpha = 1.5 (Peters et al., arXiv:1905.05702), softmax
// over the k greatest scores. Cost: softmax's, the folds of the normalizer over the row, and a buffer of M scores for each query of a tile and thread.
#pragma once

#include <heed/family/pairwise.hpp>
#include <heed/policy/normalize/sparse.hpp>
#include <heed/policy/normalize/top_k.hpp>

namespace heed {

template <class P = full>
HEED_HD constexpr auto sparsemax_attention(P pattern = {}) {
    return attention{dot{} | inv_sqrt_width{}, pattern, sparsemax{}};
}
template <class P = full>
HEED_HD constexpr auto entmax15_attention(P pattern = {}) {
    return attention{dot{} | inv_sqrt_width{}, pattern, entmax15{}};
}
template <class P = full>
HEED_HD constexpr auto top_k_attention(extent_t k, P pattern = {}) {
    return attention{dot{} | inv_sqrt_width{}, pattern, top_k_softmax{k}};
}

} // namespace heed
