// SPDX-License-Identifier: BSD-3-Clause
// Tropical attention (arXiv:2505.17190, section 3): out_i = e^{c_i} - 1, c_i = max_j (s_ij + v_j), s_ij = -(max_c (q_ic - k_jc) - min_c (q_ic - k_jc)), for
// q, k, v in logarithms: no multiplication, no scale, no softmax. The multi-head layer of the released code is
//     valuate(log1p_valuation{lambda}, x, u);                    u = log(1 + max(0, x)) - lambda
//     semiring_matmul(max_plus{}, u, transposed W, q);           tropical linear maps, of one matrix (1, 1, d, d) or one a head (1, H, d, d); k and v alike
//     forward(tropical_attention(pattern), q, k, v, out);
// and the paper's: simplex_valuation, u of all D features with head extent 1, maps (1, H, D, d), exit by the exponential.
// Laws: 1-Lipschitz in v; constants added to q or k change nothing; parts of the keys merge to the same bits, whatever the split.
// max_plus_attention, min_plus_attention: max_j (max_c (q_ic + k_jc) + v_j) and its mirror, which graph algorithms are made of.
// A row that sees no key: 0 behind an exit map, else -inf (max) or +inf (min). Sub-gradients go to the lowest winner.
#pragma once

#include <heed/family/pairwise.hpp>
#include <heed/policy/normalize/tropical.hpp>
#include <heed/policy/score/contractions.hpp>
#include <heed/policy/valuation.hpp>

namespace heed {

template <class P = full, class S = hilbert, class F = exp_minus_one>
HEED_HD constexpr auto tropical_attention(P pattern = {}, S score = {}, F exit = {}) {
    return attention{score, pattern, tropical_exit<F>{{}, exit}, max_plus{}};
}
template <class P = full>
HEED_HD constexpr auto max_plus_attention(P pattern = {}) {
    return attention{max_plus_score{}, pattern, tropical<max_plus>{}, max_plus{}};
}
template <class P = full>
HEED_HD constexpr auto min_plus_attention(P pattern = {}) {
    return attention{min_plus_score{}, pattern, tropical<min_plus>{}, min_plus{}};
}

} // namespace heed
