// SPDX-License-Identifier: BSD-3-Clause
// Linear attention with decays, d x dv state:   S_t = diag(a_t) S_{t-1} + k_t v_t^T,   o_t = scale q_t^T S_t
//   retention              a_t = gamma, one a head. Sun et al., arXiv:2307.08621
//   simple_gated_linear    a_t one number a head and token (the state-space dual form of Mamba-2, arXiv:2405.21060)
//   gated_linear           a_t one number a key channel. Yang et al., arXiv:2312.06635
// Decays are given as natural logarithms, at most 0 (-inf forgets all); log_decay 0 leaves linear attention without a denominator.
#pragma once

#include <heed/family/recurrent.hpp>

namespace heed {

// log_gamma: one a head, per_head(data, H)
template <class T>
HEED_HD constexpr recurrent<identity_map, scalar_decay<std::remove_const_t<T>>> retention(tensor_view<T> log_gamma, double scale = 1) {
    return {{}, {log_gamma}, {}, {}, scale};
}
// log_decay: (B, H, N, 1)
template <class T>
HEED_HD constexpr recurrent<identity_map, scalar_decay<std::remove_const_t<T>>> simple_gated_linear(tensor_view<T> log_decay, double scale = 1) {
    return {{}, {log_decay}, {}, {}, scale};
}
// log_decay: (B, H, N, d)
template <class T>
HEED_HD constexpr recurrent<identity_map, channel_decay<std::remove_const_t<T>>> gated_linear(tensor_view<T> log_decay, double scale = 1) {
    return {{}, {log_decay}, {}, {}, scale};
}

} // namespace heed
