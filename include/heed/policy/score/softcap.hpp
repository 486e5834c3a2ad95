// SPDX-License-Identifier: BSD-3-Clause
// softcap: s <- c tanh(s / c), c > 0. It bends what stands before it in the chain: `| softcap | bias` caps the logits alone,
// `| bias | softcap` caps their sum; the two are different types. Slope 1 - tanh^2(s / c). Cost: one tanh a pair.
#pragma once

#include <heed/kernel/math.hpp>

namespace heed {

template <class T = float>
struct softcap {
    T cap;
    template <class V, class Pair>
    HEED_HD V operator()(V raw, Pair const&) const {
        using math::tanh;
        return V(cap) * tanh(raw * (V(1) / V(cap)));
    }
};
template <class T>
softcap(T) -> softcap<T>;

} // namespace heed
