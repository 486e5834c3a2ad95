// SPDX-License-Identifier: BSD-3-Clause
// Gated attention: out_i = sigmoid(g_i) * softmax attention_i, g of the shape of the output (elementwise) or one number per row (headwise). Qiu et al.,
// arXiv:2505.06708. g is a linear map of the layer's input, neither normalised nor rotated. Gates of 0 halve exactly; large ones leave softmax attention.
#pragma once

#include <heed/family/mixture.hpp>

namespace heed {

template <class T, class P = full>
HEED_HD constexpr auto gated_attention(tensor_view<T> gate, P pattern = {}) {
    return weigh(sigmoid_gate{gate}, attention{dot{} | inv_sqrt_width{}, pattern, softmax{}});
}

} // namespace heed
