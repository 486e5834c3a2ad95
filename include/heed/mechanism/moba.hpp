// SPDX-License-Identifier: BSD-3-Clause
// MoBA, mixture of block attention (Lu et al., arXiv:2502.13189): out_i = softmax attention over the keys j <= i whose block query i chose. Blocks come from
// select_moba (heed/front/select.hpp). Choosing costs 2 N (M / block) d, attention 2 (d + dv) for each of N top block pairs. top >= blocks is causal softmax
// attention; top = 1 is causal attention inside blocks.
#pragma once

#include <heed/mechanism/softmax.hpp>
#include <heed/policy/pattern/routed.hpp>

namespace heed {

HEED_HD constexpr auto moba_attention(block_map const& chosen) { return softmax_attention(routed{chosen, causal_bottom_right{}}); }

} // namespace heed
