// SPDX-License-Identifier: BSD-3-Clause
// The mechanism types behind attend(), one function each; their instantiations are spread over softmax_kernels_*.cpp so that no
// translation unit compiles long. Every function reads those members of the problem that its name speaks of, and scale.
#pragma once

#include "softmax_problem.hpp"

#include <heed/policy/load/rotary.hpp>

namespace heed::tool::kernels {

// softmax_kernels_bands.cpp
template <class T>
void full(softmax_problem<T> const& p);
template <class T>
void causal_top_left(softmax_problem<T> const& p);
template <class T>
void causal_bottom_right(softmax_problem<T> const& p);
template <class T>
void window(softmax_problem<T> const& p);

// softmax_kernels_data.cpp
template <class T>
void prefix(softmax_problem<T> const& p);
template <class T>
void key_lengths(softmax_problem<T> const& p);
template <class T>
void documents_causal(softmax_problem<T> const& p);
template <class T>
void boolean_mask(softmax_problem<T> const& p);

// softmax_kernels_scores.cpp; the scores take their mask as a window
template <class T>
void bias_full(softmax_problem<T> const& p);
template <class T>
void alibi_window(softmax_problem<T> const& p);
template <class T>
void softcap_window(softmax_problem<T> const& p);
template <class T>
void forgetting_window(softmax_problem<T> const& p);

// softmax_kernels_decode.cpp: k and v through a cache; full, with sinks or without
template <class T>
void decode(softmax_problem<T> const& p);

// softmax_kernels_general.cpp
template <class T>
void sink_window(softmax_problem<T> const& p);
template <class T>
void everything(softmax_problem<T> const& p); // no softcap, no gates; every other ingredient, neutral where unused
template <class T>
void everything_capped(softmax_problem<T> const& p);

// softmax_kernels_rotary.cpp; for half_pairs and interleaved_pairs; with gradients where the problem has dout
template <class T, class Pairs>
void rotary_causal(softmax_problem<T> const& p, rotary<Pairs> const& rope);

// softmax_gradients.cpp, softmax_gradients_general.cpp: the masks as windows but for causal_gradients
template <class T>
void causal_gradients(softmax_problem<T> const& p);
template <class T>
void window_gradients(softmax_problem<T> const& p);
template <class T>
void softcap_gradients(softmax_problem<T> const& p);
template <class T>
void forgetting_gradients(softmax_problem<T> const& p);
template <class T>
void everything_gradients(softmax_problem<T> const& p); // as everything()

} // namespace heed::tool::kernels
