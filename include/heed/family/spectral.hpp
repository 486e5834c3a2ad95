// SPDX-License-Identifier: BSD-3-Clause
// The spectral family: a sequence is mixed by a weight that depends on the distance of two positions only,
//
//   out_i = sum_t w_t v_(i - t)   (convolution)      out_i = sum_t w_t v_(i + t)   (correlation)
//
// Slots: border (what a position outside the sequence is), orientation, normalizer (how weights come from what the caller gives).
//   wrapped{}          positions modulo the N of out: circulant. Values of another length M are folded onto N, or end in zeros
//   unwrapped{s}       zeros outside; out_i takes the sample i + s of the convolution, or i - s of the correlation; s = 0 is causal for a convolution
//   as_given{}         w = z
//   token_softmax{}    w = softmax of z over its tokens; -inf masks: the value that it weighs is not read; all of them -inf: 0
//   prefix_softmax{}   out_i = sum_(t <= i) exp(z_t) v_(i - t) / sum_(t <= i) exp(z_t): only with unwrapped{} and convolution
//
// z is (B, H, N, 1), one weight vector a head, or (B, H, N, d), one a channel (not with prefix_softmax); z or v may have batch 1 (shared) and fewer heads, shared by groups.
// Cost O(N log N d) time. The two orientations are transposes of each other, so each is the other's backward.
#pragma once

#include <heed/config.hpp>

#include <type_traits>

namespace heed {

struct wrapped {};
struct unwrapped {
    extent_t shift = 0;
};

struct convolution {};
struct correlation {};

struct as_given {};
struct token_softmax {};
struct prefix_softmax {};

namespace detail {
template <class B>
inline constexpr bool is_border = false;
template <>
inline constexpr bool is_border<wrapped> = true;
template <>
inline constexpr bool is_border<unwrapped> = true;
template <class O>
inline constexpr bool is_orientation = false;
template <>
inline constexpr bool is_orientation<convolution> = true;
template <>
inline constexpr bool is_orientation<correlation> = true;
template <class N>
inline constexpr bool is_token_normalizer = false;
template <>
inline constexpr bool is_token_normalizer<as_given> = true;
template <>
inline constexpr bool is_token_normalizer<token_softmax> = true;
template <>
inline constexpr bool is_token_normalizer<prefix_softmax> = true;
} // namespace detail

template <class B, class O, class N = as_given>
struct spectral {
    B border;
    O orientation = {};
    N normalizer = {};

    static constexpr bool circular = std::is_same_v<B, wrapped>;
    static constexpr bool reversed = std::is_same_v<O, correlation>;
    static constexpr bool by_prefix = std::is_same_v<N, prefix_softmax>;

    static_assert(detail::is_border<B>, "heed: the border of a spectral mechanism is heed::wrapped{} or heed::unwrapped{shift}");
    static_assert(detail::is_orientation<O>, "heed: the orientation of a spectral mechanism is heed::convolution{} or heed::correlation{}; they are transposes of each other");
    static_assert(detail::is_token_normalizer<N>, "heed: the normalizer of a spectral mechanism is heed::as_given{}, heed::token_softmax{} or heed::prefix_softmax{}");
    static_assert(!by_prefix || (!circular && !reversed), "heed: prefix_softmax needs heed::unwrapped{} and heed::convolution{}: any other form weighs by scores of tokens that come later");
};
template <class B, class O>
spectral(B, O) -> spectral<B, O>;
template <class B, class O, class N>
spectral(B, O, N) -> spectral<B, O, N>;

namespace detail {
template <class M>
inline constexpr bool is_spectral = false;
template <class B, class O, class N>
inline constexpr bool is_spectral<spectral<B, O, N>> = true;
} // namespace detail

template <class M>
concept Spectral = detail::is_spectral<M>;

} // namespace heed
