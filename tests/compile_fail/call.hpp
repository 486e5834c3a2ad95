// SPDX-License-Identifier: BSD-3-Clause
// Tensors for the cases that are about a call.
#pragma once

#include <heed/heed.hpp>

inline constexpr heed::shape one{1, 1, 1, 1};

template <class T>
T storage[4] = {};
template <class T>
heed::tensor_view<T> view(int i) {
    return {storage<T> + i, one};
}
inline heed::tensor_view<float const> const q = view<float>(0), k = view<float>(1), v = view<float>(2);
inline heed::tensor_view<float> const out = view<float>(3);
