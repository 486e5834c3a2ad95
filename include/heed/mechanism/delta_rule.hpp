// SPDX-License-Identifier: BSD-3-Clause
// The delta rule: what the state would answer to a key is replaced, not added to.
//   S' = diag(a_t) S_{t-1},   S_t = S' + k_t beta_t (v_t - S'^T k_t)^T,   o_t = scale q_t^T S_t
//   delta_attention         a = 1. Yang et al., arXiv:2406.06484
//   gated_delta_attention   a_t one number a head. Yang et al., arXiv:2412.06464
//   kimi_delta_attention    a_t one number a key channel. arXiv:2510.26692
// Keys should have length 1: then beta in [0, 1] is a step towards the value (1: exact recall of orthonormal keys; 0: nothing is written), up to 2 stable.
#pragma once

#include <heed/family/recurrent.hpp>

namespace heed {

// beta: (B, H, N, 1), or (B, H, N, dv) for one a value channel
template <class T>
HEED_HD constexpr recurrent<identity_map, delta_rule<std::remove_const_t<T>>> delta_attention(tensor_view<T> beta, double scale = 1) {
    return {{}, {beta}, {}, {}, scale};
}
// the same of any update: delta_attention(channel_decay{g} | delta_rule{beta})
template <StateUpdate U>
    requires(U::corrects)
HEED_HD constexpr recurrent<identity_map, U> delta_attention(U update, double scale = 1) {
    return {{}, update, {}, {}, scale};
}
// log_decay: (B, H, N, 1)
template <class T, class U>
HEED_HD constexpr auto gated_delta_attention(tensor_view<T> log_decay, tensor_view<U> beta, double scale = 1) {
    return recurrent{identity_map{}, scalar_decay{log_decay} | delta_rule{beta}, unnormalized{}, causal_bottom_right{}, scale};
}
// log_decay: (B, H, N, d)
template <class T, class U>
HEED_HD constexpr auto kimi_delta_attention(tensor_view<T> log_decay, tensor_view<U> beta, double scale = 1) {
    return recurrent{identity_map{}, channel_decay{log_decay} | delta_rule{beta}, unnormalized{}, causal_bottom_right{}, scale};
}

} // namespace heed
