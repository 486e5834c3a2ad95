// SPDX-License-Identifier: BSD-3-Clause
// What an engine is given: checked views and nothing else.
#pragma once

#include <heed/kernel/half.hpp>
#include <heed/policy/place.hpp>
#include <heed/view/tensor_view.hpp>

namespace heed {

template <class T>
struct pairwise_problem {
    tensor_view<T const> q, k, v;  // (B, H, N, d), (B, Hkv, M, d), (B, Hkv, M, dv)
    tensor_view<T> out;            // (B, H, N, dv)
    tensor_view<compute_t<T>> lse; // (B, H, N, 1), or null
    double lse_unit = 0;           // log-sum-exp in units of the normalizer, times this number, is what is saved

    HEED_HD place at(extent_t b, extent_t h) const {
        return {b, h, k.extent(1) > 0 ? h / (q.extent(1) / k.extent(1)) : 0, q.length(b), k.length(b), q.extent(3)};
    }
};

} // namespace heed
