// SPDX-License-Identifier: BSD-3-Clause
// CAT with the averaged key (its qkv form, and its cross attention): the score of token i is that of its query against the mean of all keys,
//
//   z_i = q_i . mean_j(k_j) / sqrt(d),   w = softmax of z over the N queries,   out as heed/mechanism/circular.hpp
//
// arXiv:2504.06704. Keys and values may be of another length M: values are folded onto the N places, or end in zeros. O(N log N d).
// forward(averaged_key_attention(), q, k, v, out).
#pragma once

#include <heed/mechanism/circular.hpp>

namespace heed {

template <class O = correlation>
struct averaged_key {
    O orientation = {};
    static_assert(detail::is_orientation<O>, "heed: the orientation of averaged keys is heed::convolution{} or heed::correlation{}");
    HEED_HD constexpr auto mixing() const { return circular_attention(orientation); }
};
template <class O>
averaged_key(O) -> averaged_key<O>;

template <class O = correlation>
HEED_HD constexpr averaged_key<O> averaged_key_attention(O orientation = {}) {
    return {orientation};
}

namespace detail {
template <class M>
inline constexpr bool is_averaged_key = false;
template <class O>
inline constexpr bool is_averaged_key<averaged_key<O>> = true;
} // namespace detail

template <class M>
concept AveragedKey = detail::is_averaged_key<M>;

} // namespace heed
