// SPDX-License-Identifier: BSD-3-Clause
// Multi-head latent attention, DeepSeek-AI, arXiv:2405.04434: keys and values of all heads are maps of one latent per token, and one rotary part is shared:
//
//   k_h = [W_uk^h c | k^R]     v_h = W_uv^h c     s = q_h . k_h / sqrt(d_nope + d_rope), q_h = [q^N | q^R]                                naive
//   s = ((W_uk^h)^T q^N) . c + q^R . k^R, scaled alike     o_h = W_uv^h sum_j p_j c_j                                                    absorbed
//
// The scale is that of the width before absorption, never of the latent's. Absorbed, the heads share one cached row [c | k^R] whose first part is the value
// too: d_c + d_rope numbers a token, H (2 d_c + d_rope) multiply-adds a pair; naive takes d_nope + d_rope + d_v a pair. Law: absorbed = naive up to
// rounding. Grouped latent attention (arXiv:2505.21487): several latent heads, each for a group of heads.
#pragma once

#include <heed/mechanism/softmax.hpp>

#include <cmath>

namespace heed {

// s <- c s for elements of any type; a constant, without a gradient.
struct constant_scale {
    double c;
    HEED_HD constexpr double factor(place const&) const { return c; }
    template <class V, class Pair>
    HEED_HD V operator()(V raw, Pair const&) const {
        return raw * V(c);
    }
};

// width: d_nope + d_rope; `stretch` multiplies the scale (mscale^2 of models stretched beyond the length that they were trained for).
template <class P = causal_bottom_right>
constexpr auto latent_attention(extent_t width, P pattern = {}, double stretch = 1) {
    return attention{dot{} | constant_scale{stretch / std::sqrt(static_cast<double>(width < 1 ? 1 : width))}, pattern, softmax{}};
}

} // namespace heed
