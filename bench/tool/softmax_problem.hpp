// SPDX-License-Identifier: BSD-3-Clause
// Softmax attention with everything decided at run time: what `heed check` and `heed run` fill in. attend() picks the mechanism
// type that says exactly this, and falls back to one composed of every ingredient, the unused ones neutral.
#pragma once

#include <heed/view/tensor_view.hpp>

#include <cstdint>

namespace heed::tool {

enum class mask_kind { full, causal_top_left, causal_bottom_right, window };

template <class T>
struct softmax_problem {
    tensor_view<T const> q, k, v;
    tensor_view<T> out, lse; // lse {B, H, N, 1}

    T scale = 1;
    T softcap = 0;                       // 0: none
    tensor_view<T const> bias = {};      // any extent may be 1; no data: none, here and below
    tensor_view<T const> slopes = {};    // ALiBi, per_head
    tensor_view<T const> log_gates = {}; // cumulative, {B, H, N, 1}

    mask_kind mask = mask_kind::full;
    extent_t left = 0, right = 0;                     // of a window: i - left <= j <= i + right
    tensor_view<std::int32_t const> prefix = {};      // per_batch: keys before it are visible to every query, the others causally
    tensor_view<std::int32_t const> key_lengths = {}; // per_batch
    tensor_view<std::int32_t const> query_ids = {}, key_ids = {}; // documents
    tensor_view<std::uint8_t const> keep = {};                    // boolean mask

    tensor_view<T const> sinks = {}; // per_head

    tensor_view<T const> dout = {}, dlse = {};      // of the loss by out and lse; no data: none, and so below
    tensor_view<T> dq = {}, dk = {}, dv = {};       // shaped as q, k, v
    tensor_view<T> dbias = {}, dgates = {}, dsinks = {}; // as bias, log_gates, sinks
};

template <class T>
void attend(softmax_problem<T> const& problem);
extern template void attend<float>(softmax_problem<float> const&);
extern template void attend<double>(softmax_problem<double> const&);

// The gradients that have memory, once out and lse are there.
template <class T>
void attend_gradients(softmax_problem<T> const& problem);
extern template void attend_gradients<float>(softmax_problem<float> const&);
extern template void attend_gradients<double>(softmax_problem<double> const&);

} // namespace heed::tool
