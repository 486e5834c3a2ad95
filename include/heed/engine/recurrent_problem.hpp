// SPDX-License-Identifier: BSD-3-Clause
// What an engine of the recurrent family is given: checked views and nothing else.
#pragma once

#include <heed/kernel/half.hpp>
#include <heed/policy/place.hpp>
#include <heed/view/tensor_view.hpp>

namespace heed {

// A state: S (B, H, d, dv) and, for running sums, z (B, H, d, 1); in the type of computation whatever the storage. Null views are zeros (in) or not wanted (out).
template <class T>
struct state_view {
    tensor_view<T> s = {}, z = {};
    bool given() const { return s.data_handle() != nullptr || z.data_handle() != nullptr; }
};

// Heads: out has H, q, k and v each a divisor of it; head h of the state reads head h / (H / Hq) of q.
template <class E>
struct recurrent_problem {
    using T = compute_t<E>;
    tensor_view<E const> q, k, v;  // (B, Hq, N, d), (B, Hk, M, d), (B, Hv, M, dv)
    tensor_view<E> out;            // (B, H, N, dv)
    state_view<T const> initial = {};
    state_view<T> last = {};       // may be the memory of initial

    HEED_HD extent_t heads() const { return out.extent(1); }
    template <class U>
    HEED_HD extent_t head_of(tensor_view<U> const& x, extent_t h) const {
        return h / (heads() / x.extent(1));
    }
    HEED_HD place at(extent_t b, extent_t h) const { return {b, h, head_of(k, h), q.length(b), k.length(b), q.extent(3)}; }
};

template <class E>
struct recurrent_gradients {
    using T = compute_t<E>;
    tensor_view<E const> dout;
    tensor_view<E> dq, dk, dv;            // shaped as q, k, v; null: not wanted
    state_view<T> initial = {};           // by the initial state
    state_view<T const> last = {};        // of the loss by the last state, where it has one
    tensor_view<T> log_decay = {}, beta = {}, factor = {}; // shaped as the views of update and normalizer
};

} // namespace heed
