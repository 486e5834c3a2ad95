// SPDX-License-Identifier: BSD-3-Clause
// ParCNetV2: an image gates itself with a context that sees all of it, through oversized kernels and a bifurcate gate:
//
//   out = a c,   c = across * (down * gelu(b)) + added
//
// a and b, (B, rows, columns, d), are the halves of a projection; down (1, 1, 2 rows - 1, d) and across (1, 1, 2 columns - 1, d) are kernels of each channel
// (or (..., 1), of all), (k * x)_i = sum_j k_(j - i + n - 1) x_j with zeros outside: tap n - 1 is the position itself. added (B, rows, columns, d) is what
// other branches give to the context, such as a small depthwise convolution; or none. A sequence has no rows to go down: parc(across, added), with
// heads in their place. gelu(x) = x Phi(x), exact.
// Time O(rows columns log(rows columns) d). Law: kernels that are 1 at their own tap give a gelu(b). The circular border of the first version is
// circular_convolve. forward(parc(down, across, added), a, b, out). Source: Xu et al., arXiv:2211.07157.
#pragma once

#include <heed/mechanism/long_convolution.hpp>
#include <heed/view/tensor_view.hpp>

namespace heed {

template <class T>
struct oversized_gate {
    tensor_view<T const> down = {}, across, added = {};
};

template <class T>
HEED_HD constexpr oversized_gate<std::remove_const_t<T>> parc(tensor_view<T> down, tensor_view<std::remove_const_t<T> const> across, tensor_view<std::remove_const_t<T> const> added) {
    return {down, across, added};
}
template <class T>
HEED_HD constexpr oversized_gate<std::remove_const_t<T>> parc(tensor_view<T> down, tensor_view<std::remove_const_t<T> const> across) {
    return {down, across, {}};
}
template <class T>
HEED_HD constexpr oversized_gate<std::remove_const_t<T>> parc(tensor_view<T> across) {
    return {{}, across, {}};
}

namespace detail {
template <class M>
inline constexpr bool is_oversized_gate = false;
template <class T>
inline constexpr bool is_oversized_gate<oversized_gate<T>> = true;
} // namespace detail

template <class M>
concept OversizedGate = detail::is_oversized_gate<M>;

} // namespace heed
