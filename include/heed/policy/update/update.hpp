// SPDX-License-Identifier: BSD-3-Clause
// State updates of the recurrent family. The state S (d x dv) goes along the sequence:
//
//   S' = diag(a_t) S_{t-1}          decay: none, one number a head (scalar_decay), one a key channel (channel_decay); or S_{t-1} diag(a_t), one a value channel (value_decay)
//   u_t = v_t                       additive
//   u_t = beta_t v_t                additive, weighted (weighted_update{beta})
//   u_t = beta_t (v_t - S'^T k_t)   delta rule: what the state would answer is corrected, not added to
//   S_t = S' + k_t u_t^T
//
// Decays are held as natural logarithms, at most 0, -inf is a reset; views (B|1, H|1, N|1, 1), (.., d) or, of value channels, (.., dv). A view of extent 1 along the
// sequence is a fixed decay. beta is (B|1, H|1, N|1, 1), or (.., dv) for one a value channel. `decay | rule` joins the two: scalar_decay{g} | delta_rule{beta} is
// the gated delta rule (Yang et al., arXiv:2412.06464), channel_decay{g} | delta_rule{beta} Kimi delta attention (arXiv:2510.26692).
//
// What an engine reads of an update:
//   decays      decay_kind::none, head, channel or value; then log_decay, the view
//   corrects    the delta rule; then beta, the view
//   weighs      where said: values are multiplied by beta, the view
#pragma once

#include <heed/policy/concepts.hpp>
#include <heed/view/tensor_view.hpp>

namespace heed {

enum class decay_kind { none, head, channel, value };

struct additive_update {
    static constexpr decay_kind decays = decay_kind::none;
    static constexpr bool corrects = false;
};

template <class T>
struct weighted_update {
    static constexpr decay_kind decays = decay_kind::none;
    static constexpr bool corrects = false, weighs = true;
    tensor_view<T const> beta;
};
template <class T>
weighted_update(tensor_view<T>) -> weighted_update<std::remove_const_t<T>>;

// One decay a head and token. A fixed one is retention (Sun et al., arXiv:2307.08621).
template <class T>
struct scalar_decay {
    static constexpr decay_kind decays = decay_kind::head;
    static constexpr bool corrects = false;
    tensor_view<T const> log_decay;
};
template <class T>
scalar_decay(tensor_view<T>) -> scalar_decay<std::remove_const_t<T>>;

// One decay a key channel: gated linear attention (Yang et al., arXiv:2312.06635).
template <class T>
struct channel_decay {
    static constexpr decay_kind decays = decay_kind::channel;
    static constexpr bool corrects = false;
    tensor_view<T const> log_decay;
};
template <class T>
channel_decay(tensor_view<T>) -> channel_decay<std::remove_const_t<T>>;

// One decay a value channel: what the first half of gated slot attention does (Zhang et al., arXiv:2409.07146).
template <class T>
struct value_decay {
    static constexpr decay_kind decays = decay_kind::value;
    static constexpr bool corrects = false;
    tensor_view<T const> log_decay;
};
template <class T>
value_decay(tensor_view<T>) -> value_decay<std::remove_const_t<T>>;

// Yang et al., arXiv:2406.06484. Keys of length 1 keep it stable for beta in [0, 2].
template <class T>
struct delta_rule {
    static constexpr decay_kind decays = decay_kind::none;
    static constexpr bool corrects = true;
    tensor_view<T const> beta;
};
template <class T>
delta_rule(tensor_view<T>) -> delta_rule<std::remove_const_t<T>>;

template <class D, class T>
struct decayed_delta {
    static constexpr decay_kind decays = D::decays;
    static constexpr bool corrects = true;
    tensor_view<T const> log_decay, beta;
};
template <class T>
HEED_HD constexpr decayed_delta<scalar_decay<T>, T> operator|(scalar_decay<T> const& d, delta_rule<T> const& r) {
    return {d.log_decay, r.beta};
}
template <class T>
HEED_HD constexpr decayed_delta<channel_decay<T>, T> operator|(channel_decay<T> const& d, delta_rule<T> const& r) {
    return {d.log_decay, r.beta};
}

template <class U>
concept StateUpdate = Policy<U> && requires(U const u) {
    { U::decays } -> std::convertible_to<decay_kind>;
    { U::corrects } -> std::convertible_to<bool>;
};

} // namespace heed
