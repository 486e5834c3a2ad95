// SPDX-License-Identifier: BSD-3-Clause
// Softmax whose denominator counts one more logit that has no value row and is a constant:
//   softmax_constant_sink{c}   p_ij = e^{s_ij} / (e^c + sum_j e^{s_ij}); c = -infinity is softmax
//   softmax_off_by_one         c = 0: a row may attend to nothing in particular
// A logit per head, learned, is softmax_sink. Everything else is softmax's: the sink stands in the state before the first key, and merges with it once.
#pragma once

#include <heed/policy/normalize/softmax.hpp>

namespace heed {

template <class T = float>
struct softmax_constant_sink : softmax {
    T logit;

    softmax_constant_sink() = default;
    HEED_HD explicit constexpr softmax_constant_sink(T c) : logit(c) {}

    template <class V>
    HEED_HD row<V> start(place const&) const {
        using math::select;
        V const sink = V(logit) * V(unit), none = -math::inf<V>();
        return {sink, select(sink == none, V(0), sink), select(sink == none, V(0), V(1))};
    }
};
template <class T>
softmax_constant_sink(T) -> softmax_constant_sink<T>;

struct softmax_off_by_one : softmax {
    template <class V>
    HEED_HD row<V> start(place const&) const {
        return {V(0), V(0), V(1)};
    }
};

} // namespace heed
