// SPDX-License-Identifier: BSD-3-Clause
// Attention on the sphere (Bonev et al., arXiv:2505.11157): sums over keys are integrals over the sphere, each key with its quadrature weight w_j,
//   out_i = sum_j w_j exp(q_i . k_j / sqrt(d)) v_j / sum_j w_j exp(q_i . k_j / sqrt(d))
// over all points, or over those within a great-circle distance of i (the neighbourhood). Queries and keys may lie on different grids (up- and
// down-sampling); w are the weights of the keys' grid, {1, 1, M, 1}: sphere_grid::point_weights. Multiplying all w by a number changes nothing; equal scores
// give the spherical mean.
//   Cost global O(N M (d + dv)); neighbourhood O(pairs (d + dv)), memory of the pattern O(rings).
#pragma once

#include <heed/family/pairwise.hpp>
#include <heed/policy/pattern/sphere.hpp>
#include <heed/policy/score/weighted_keys.hpp>

namespace heed {

// Any pattern: full{}, or sphere_neighbourhood{bands} for a neighbourhood.
template <class T, class P = full>
HEED_HD constexpr auto spherical_attention(tensor_view<T> weights, P pattern = {}) {
    return attention{dot{} | inv_sqrt_width{} | weighted_keys<std::remove_const_t<T>>{weights}, pattern, softmax{}};
}
template <class T>
HEED_HD constexpr auto spherical_neighbourhood_attention(tensor_view<T> weights, ring_bands const& bands) {
    return spherical_attention(weights, sphere_neighbourhood{bands});
}

} // namespace heed
