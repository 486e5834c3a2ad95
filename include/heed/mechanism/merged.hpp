// SPDX-License-Identifier: BSD-3-Clause
// Attention on entries that stand for several tokens each (AsymKV: homogeneous keys are merged, values kept whole; the-scale-lab/Asymkv):
//
//   p_j = e^{s_j} / sum_m l_m e^{s_m}      o = sum_j p_j V_j          V_j the sum of l_j values
//       = softmax(s + ln l) of the means V_j / l_j                    which is how it is computed: a bias of the key, no exponential without its maximum
//
// Laws: l = 1: softmax attention; entries with equal keys may be merged without changing any output. Cost: that of attention on the entries.
#pragma once

#include <heed/mechanism/softmax.hpp>
#include <heed/policy/score/bias.hpp>

namespace heed {

// log_multiplicity {B, 1, 1, M}; values are means.
template <class T, class P = full>
HEED_HD constexpr auto merged_attention(tensor_view<T> log_multiplicity, P pattern = {}) {
    return attention{dot{} | inv_sqrt_width{} | bias{log_multiplicity}, pattern, softmax{}};
}

} // namespace heed
