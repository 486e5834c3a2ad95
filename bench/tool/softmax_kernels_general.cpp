// SPDX-License-Identifier: BSD-3-Clause
#include "softmax_call.hpp"

#include <heed/policy/pattern/lengths.hpp>
#include <heed/policy/pattern/mask.hpp>
#include <heed/policy/score/bias.hpp>
#include <heed/policy/score/softcap.hpp>

#include <limits>

namespace heed::tool::kernels {

template <class T>
void sink_window(softmax_problem<T> const& p) {
    call(p, scaled_dot(p), as_window(p), softmax_sink{p.sinks});
}
HEED_TOOL_INSTANTIATE(sink_window);

namespace {

// A view that broadcasts one neutral element, where the problem holds no data.
template <class V>
V or_neutral(V const& view, typename V::element_type& neutral) {
    return view.data_handle() ? view : V(&neutral, {1, 1, 1, 1});
}

template <class T, class Score>
void call_with_everything(softmax_problem<T> const& p, Score const& score) {
    T const no_bias = 0, no_slope = 0, no_sink = -std::numeric_limits<T>::infinity();
    auto const every_key = static_cast<std::int32_t>(p.k.extent(2)), one_document = std::int32_t{0};
    std::uint8_t const keep = 1;
    auto const pattern =
        as_window(p) & heed::prefix{or_neutral(p.prefix, every_key)} & heed::key_lengths{or_neutral(p.key_lengths, every_key)} &
        documents{or_neutral(p.query_ids, one_document), or_neutral(p.key_ids, one_document)} & mask{or_neutral(p.keep, keep)};
    call(p, score | bias{or_neutral(p.bias, no_bias)} | alibi{or_neutral(p.slopes, no_slope)}, pattern,
         softmax_sink{or_neutral(p.sinks, no_sink)});
}

} // namespace

template <class T>
void everything(softmax_problem<T> const& p) {
    call_with_everything(p, scaled_dot(p));
}
HEED_TOOL_INSTANTIATE(everything);

template <class T>
void everything_capped(softmax_problem<T> const& p) {
    call_with_everything(p, scaled_dot(p) | softcap{p.softcap});
}
HEED_TOOL_INSTANTIATE(everything_capped);

} // namespace heed::tool::kernels
