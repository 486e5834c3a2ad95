// SPDX-License-Identifier: BSD-3-Clause
// What a memory that learns is trained on, and how its answer r is read:
//   squared_error        |f(k) - v|^2, read as it is
//   normalised_residual  |LN(f(k)) - (v - k)|^2 / 2, LN(y) = weight (y - mean) / sqrt(var + eps) + bias; read r + LN(r). Learning to reconstruct at test time, Sun et al., arXiv:2407.04620.
//                        weight, bias: (B|1, H|1, 1, dv). `unbracketed`: -(dv g - (sum g + h sum g h) / (dv sd)) in place of the gradient -(dv g - sum g - h sum g h) / (dv sd) of its
//                        y, h = (y - mean) / sd, g = weight (weight h + bias - v + k): the update that flash-linear-attention's Titans makes.
#pragma once

#include <heed/view/tensor_view.hpp>

namespace heed {

struct squared_error {
    static constexpr bool normalises = false;
};

template <class T>
struct normalised_residual {
    static constexpr bool normalises = true;
    tensor_view<T const> weight, bias;
    double eps = 1e-6;
    bool unbracketed = false;
};

} // namespace heed
