// SPDX-License-Identifier: BSD-3-Clause
// The Hyena operator of order n: values are gated and convolved n - 1 times, and gated once more. With v_n = v, for m = n - 1 ... 1,
//
//   u_m = v_(m+1) x_m (element by element),   v_m = h_m * u_m + b_m u_m,   out = v_1 x_0
//
//   hyena(filters, skip)           (h * u)_i = sum_(j <= i) h_(i - j) u_j                 causal
//   centred_hyena(filters, skip)   (h * u)_i = sum_j h_(i + L / 2 - j) u_j                ConfHyena: sees all tokens; tap L / 2 is the token itself, tap 0
//                                  looks L / 2 tokens ahead, L the sequence's own length. Sequences of different lengths are a ragged batch.
//
// Projections and short convolutions come before: their blocks of d channels are v (B, 1, N, d) and the heads of x (B, n, N, d), x_m at head m (strides of
// either sign put any order of blocks there). filters (1, n - 1, K, d), h_m at head m - 1; taps from L on are not used. skip (1, n - 1, 1, d), or none.
// Time O(n N log N d). Law: order 1 is one gate; a filter that is 1 at its token's own tap and 0 elsewhere gives (1 + b) u.
// forward(hyena(...), v, x, out). Sources: Poli et al., arXiv:2302.10866; Gaido et al., arXiv:2402.13208.
#pragma once

#include <heed/mechanism/long_convolution.hpp>
#include <heed/view/tensor_view.hpp>

namespace heed {

// Which tap of a filter is the token itself, in a sequence of some length.
struct causal_taps {
    HEED_HD static constexpr extent_t own(extent_t) { return 0; }
};
struct centred_taps {
    HEED_HD static constexpr extent_t own(extent_t length) { return length / 2; }
};

template <class T, class Taps>
struct hyena_operator {
    tensor_view<T const> filters, skip = {};
    Taps taps = {};

    HEED_HD constexpr extent_t order() const { return filters.extent(1) + 1; }
    HEED_HD constexpr auto mixing(extent_t length) const { return spectral{unwrapped{taps.own(length)}, convolution{}}; }
};

template <class T>
HEED_HD constexpr hyena_operator<std::remove_const_t<T>, causal_taps> hyena(tensor_view<T> filters, tensor_view<std::remove_const_t<T> const> skip = {}) {
    return {filters, skip, {}};
}
template <class T>
HEED_HD constexpr hyena_operator<std::remove_const_t<T>, centred_taps> centred_hyena(tensor_view<T> filters, tensor_view<std::remove_const_t<T> const> skip = {}) {
    return {filters, skip, {}};
}

namespace detail {
template <class M>
inline constexpr bool is_hyena = false;
template <class T, class Taps>
inline constexpr bool is_hyena<hyena_operator<T, Taps>> = true;
} // namespace detail

template <class M>
concept HyenaOperator = detail::is_hyena<M>;

} // namespace heed
