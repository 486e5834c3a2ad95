// SPDX-License-Identifier: BSD-3-Clause
#include "softmax_call.hpp"

#include <heed/policy/pattern/lengths.hpp>
#include <heed/policy/pattern/mask.hpp>

namespace heed::tool::kernels {

template <class T>
void prefix(softmax_problem<T> const& p) {
    call(p, scaled_dot(p), heed::prefix{p.prefix}, softmax{});
}
HEED_TOOL_INSTANTIATE(prefix);

template <class T>
void key_lengths(softmax_problem<T> const& p) {
    call(p, scaled_dot(p), heed::key_lengths{p.key_lengths}, softmax{});
}
HEED_TOOL_INSTANTIATE(key_lengths);

template <class T>
void documents_causal(softmax_problem<T> const& p) {
    call(p, scaled_dot(p), documents{p.query_ids, p.key_ids} & heed::causal_bottom_right{}, softmax{});
}
HEED_TOOL_INSTANTIATE(documents_causal);

template <class T>
void boolean_mask(softmax_problem<T> const& p) {
    call(p, scaled_dot(p), mask{p.keep}, softmax{});
}
HEED_TOOL_INSTANTIATE(boolean_mask);

} // namespace heed::tool::kernels
