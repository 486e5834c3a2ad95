// SPDX-License-Identifier: BSD-3-Clause
// Gated slot attention: M slots of keys and of values, written and forgotten together, read by a softmax over the slots. Zhang et al., arXiv:2409.07146:
//
//   K_t = K_{t-1} diag(a_t) + k_t s_t^T      p_t = softmax(scale q_t^T K_t)      V_t = diag(a_t) V_{t-1} + s_t v_t^T      out_t = p_t^T V_t
//
// s_t (B, H, N, M) is how much token t writes to each slot (often 1 - a_t), a_t the decays, given as logarithms (B|1, H|1, N|1, M). Time O(N M (d + dv)), state M (d + dv).
// It is linear attention with decays of value channels, a softmax, and linear attention with decays of key channels. Laws: one slot (M = 1) is gated linear attention whose query
// does not matter; decays of 1 and one-hot s give softmax attention over sums of keys and of values.
#pragma once

#include <heed/family/recurrent.hpp>

namespace heed {

template <class T>
struct gated_slot {
    tensor_view<T const> slots, log_decay;
    double scale = 0; // 0 stands for 1 / sqrt(d)
};
template <class T, class U>
gated_slot(tensor_view<T>, tensor_view<U>) -> gated_slot<std::remove_const_t<T>>;
template <class T, class U>
gated_slot(tensor_view<T>, tensor_view<U>, double) -> gated_slot<std::remove_const_t<T>>;

template <class T, class U>
HEED_HD constexpr gated_slot<std::remove_const_t<T>> gated_slot_attention(tensor_view<T> slots, tensor_view<U> log_decay, double scale = 0) {
    return {slots, log_decay, scale};
}

// k (B, H, d, M) and v (B, H, M, dv), in the type of computation; zeros before the first token.
template <class T>
struct slot_state {
    tensor_view<T> k = {}, v = {};
};

} // namespace heed
