// SPDX-License-Identifier: BSD-3-Clause
// Tensor-product attention (TPA), Zhang et al., arXiv:2501.06425: softmax attention whose q, k and v are sums of outer products of factors of heads and factors
// of features, x_h = 1/R sum_r a_r[h] b_r; rotary turns the factors of features before they are cached.
//
//   heed::forward(tensor_product_attention(), factored{a_q, b_q}, factored{a_k, b_k}, factored{a_v, b_v}, out)      heed/policy/load/factored.hpp
//   make_factor_cache, append(cache, factored, factored), decode(tensor_product_attention(), factored{...}, cache, out)
//
// Only keys and values factored (a dense query), constant A or B: by what is passed. Prefill costs what dense attention costs and R in (d + dv) per row and
// walk; a step reads (R_k + R_v)(H + d) numbers a token and takes, per token, R_k R_q (d + H) or R_k H d multiply-adds for scores, whichever is less, and R_v H dv.
#pragma once

#include <heed/mechanism/softmax.hpp>
#include <heed/policy/load/factored.hpp>

namespace heed {

template <class P = causal_bottom_right>
constexpr auto tensor_product_attention(P pattern = {}) {
    return softmax_attention(pattern);
}

} // namespace heed
