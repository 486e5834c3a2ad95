// SPDX-License-Identifier: BSD-3-Clause
// The mechanism of every ingredient, neutral where the problem has no data for it.
#pragma once

#include "softmax_call.hpp"

#include <heed/policy/pattern/lengths.hpp>
#include <heed/policy/pattern/mask.hpp>
#include <heed/policy/score/bias.hpp>

#include <cstdint>
#include <limits>

namespace heed::tool::kernels {

// A view that broadcasts one neutral element, where the problem holds no data.
template <class V>
V or_neutral(V const& view, typename V::element_type& neutral) {
    return view.data_handle() ? view : V(&neutral, {1, 1, 1, 1});
}

// f(mechanism), its scores beginning with `score`.
template <class T, class Score, class F>
void with_everything(softmax_problem<T> const& p, Score const& score, F const& f) {
    T const no_bias = 0, no_slope = 0, no_sink = -std::numeric_limits<T>::infinity();
    auto const every_key = static_cast<std::int32_t>(p.k.extent(2)), one_document = std::int32_t{0};
    std::uint8_t const keep = 1;
    auto const pattern =
        as_window(p) & heed::prefix{or_neutral(p.prefix, every_key)} & heed::key_lengths{or_neutral(p.key_lengths, every_key)} &
        documents{or_neutral(p.query_ids, one_document), or_neutral(p.key_ids, one_document)} & mask{or_neutral(p.keep, keep)};
    f(attention{score | bias{or_neutral(p.bias, no_bias)} | alibi{or_neutral(p.slopes, no_slope)}, pattern,
                softmax_sink{or_neutral(p.sinks, no_sink)}});
}

} // namespace heed::tool::kernels
