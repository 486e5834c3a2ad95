// SPDX-License-Identifier: BSD-3-Clause
// Softmax attention over fixed sparse patterns: out_i = sum_j softmax_j(q_i . k_j / sqrt(d)) v_j over the pairs that the pattern keeps; an empty row is 0.
// Cost: 2 (d + dv) operations for each pair of the tiles that are not skipped.
//   block_sparse_attention(map)                      bits over blocks (BigBird: big_bird_blocks(...).map(...))
//   strided_attention(s), fixed_attention(s, c)      Child et al., arXiv:1904.10509
//   longformer_attention(w, g, dilation)             Beltagy et al., arXiv:2004.05150; the same projections for global tokens
//   neighbourhood_attention(bands)                   Hassani et al., arXiv:2504.16922, one to three axes
//   multi_window_attention(sizes, shifts)            a window for each head, Yadav et al., arXiv:2306.00561
//   shifted_group_attention(sizes, shifts)           S2-Attn, Chen et al., arXiv:2309.12307, causal, without wrap-around
//   sink_group_attention(sizes, shifts, sinks)       SF-Attn, Zhang, arXiv:2406.05678: the same, and the first tokens are seen by all, and see all before them
//   rolled_group_attention(size, shifts)             S2-Attn by rolling the sequence: the first positions see the last ones
#pragma once

#include <heed/mechanism/softmax.hpp>
#include <heed/policy/pattern/block_bits.hpp>
#include <heed/policy/pattern/either.hpp>
#include <heed/policy/pattern/groups.hpp>
#include <heed/policy/pattern/neighbourhood.hpp>
#include <heed/policy/pattern/stripes.hpp>

namespace heed {

HEED_HD constexpr auto block_sparse_attention(block_map const& map) { return softmax_attention(map); }
HEED_HD constexpr auto causal_block_sparse_attention(block_map const& map) { return softmax_attention(map & causal_bottom_right{}); }
HEED_HD constexpr auto strided_attention(extent_t stride) { return softmax_attention(strided{stride}); }
HEED_HD constexpr auto fixed_attention(extent_t stride, extent_t summary) { return softmax_attention(fixed{stride, summary}); }
HEED_HD constexpr auto longformer_attention(extent_t half_window, extent_t globals, extent_t dilation = 1) {
    return softmax_attention(dilated_window{half_window, dilation} | global_tokens{globals});
}
HEED_HD constexpr auto neighbourhood_attention(neighbourhood_bands const& bands) { return softmax_attention(neighbourhood{bands}); }
HEED_HD constexpr auto multi_window_attention(tensor_view<std::int32_t const> sizes, tensor_view<std::int32_t const> shifts) { return softmax_attention(head_groups{sizes, shifts}); }
HEED_HD constexpr auto shifted_group_attention(tensor_view<std::int32_t const> sizes, tensor_view<std::int32_t const> shifts) {
    return softmax_attention(head_groups{sizes, shifts} & causal_bottom_right{});
}
HEED_HD constexpr auto sink_group_attention(tensor_view<std::int32_t const> sizes, tensor_view<std::int32_t const> shifts, extent_t sinks) {
    return softmax_attention((head_groups{sizes, shifts} | global_tokens{sinks}) & causal_bottom_right{});
}
HEED_HD constexpr auto rolled_group_attention(extent_t size, tensor_view<std::int32_t const> shifts) { return softmax_attention(rolled_groups{size, shifts}); }

} // namespace heed
