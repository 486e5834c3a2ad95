// SPDX-License-Identifier: BSD-3-Clause
// Softmax attention with everything but the element type decided at run time: scale, pattern, one more constant logit. What routed mechanisms are made of,
// so that a program compiles one kernel for all of them.
#pragma once

#include <heed/front/attention.hpp>
#include <heed/front/backward.hpp>
#include <heed/policy/normalize/sink.hpp>
#include <heed/policy/pattern/chosen.hpp>

namespace heed {

// extra: the divisor counts e^extra more; -infinity: softmax itself.
template <class T>
auto chosen_attention(any_pattern const& pattern, T factor, T extra = -math::inf<T>()) {
    return attention{dot{} | scale{factor}, pattern, softmax_constant_sink{extra}};
}

// 1 / sqrt(width)
template <class T>
T inv_sqrt(extent_t width) {
    return static_cast<T>(width > 0 ? 1 / std::sqrt(static_cast<double>(width)) : 1.0);
}

} // namespace heed
