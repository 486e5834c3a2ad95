// SPDX-License-Identifier: BSD-3-Clause
// Attention along the edges of a graph (j -> i), N(i) the sources of i's edges; linear maps of node and edge features are the caller's:
//   gat              leaky(a_dst . z_i + a_src . z_j [+ a_e . e_ij]), softmax, values z: q, k of width 1 are a_dst . z_i and a_src . z_j (arXiv:1710.10903)
//   gatv2            a . leaky(q_i + k_j [+ e_ij]), softmax (arXiv:2105.14491)
//   supergat_sd      leaky(z_i . z_j / sqrt(d)), softmax; supergat_mx leaky((q'_i + k'_j) sigmoid(z_i . z_j)), q' = a_r . z_i and k' = a_l . z_j behind the
//                    features of z (arXiv:2204.04879)
//   graph_transformer  q_i . (k_j [+ e_ij]) / sqrt(d), softmax, values v_j [+ e_ij] (arXiv:2009.03509)
//   edge_modulated   w = e^clamp(sum_c q_c k_c e_c / sqrt(d), -5, 5), out = sum w v / (sum w + 1e-6); clamped_graph_transformer without e and epsilon
//                    (arXiv:2012.09699). The clamp stands where others take out a maximum: not invariant to shifts, no gradient outside.
//   aero             w_ij = softplus(a . elu(z_i + z_j)) + 1e-6, out = sum_j w_ij / sqrt(deg_i deg_j) v_j, deg_i = sum_j w_ij (AERO-GNN, arXiv:2306.14376); q = k = z
//   aero_edges       the same weights w_ij, divided by nothing
// Targets without edges get 0. Repeated edges count each time. Cost O(edges x heads x (d + dv)).
#pragma once

#include <heed/family/edge.hpp>
#include <heed/policy/normalize/pointwise.hpp>

namespace heed {

// softplus(s) + 1e-6
struct raised_softplus_weight {
    static constexpr double unit = softplus_weight::unit;
    template <class V>
    HEED_HD V operator()(V s) const {
        return softplus_weight{}(s) + V(1e-6);
    }
    template <class V>
    HEED_HD V slope(V s, V weight) const {
        return softplus_weight{}.slope(s, weight);
    }
};

template <class T = float>
HEED_HD constexpr auto gat_attention(edge_list edges, T negative_slope = T(0.2)) {
    return edge_attention{edge_score<edge::sum, T>{} | activation{leaky_relu<T>{negative_slope}}, edges};
}
// scores {B|1, H|1, edges, 1}: a_e . W_e e_ij
template <class T>
HEED_HD constexpr auto gat_attention(edge_list edges, tensor_view<T const> scores, T negative_slope = T(0.2)) {
    return edge_attention{edge_score<edge::shifted_sum, T>{{}, scores, {}} | activation{leaky_relu<T>{negative_slope}}, edges};
}
// a {1, H, 1, d}
template <class T>
HEED_HD constexpr auto gatv2_attention(edge_list edges, tensor_view<T const> a, T negative_slope = T(0.2)) {
    using term = edge::activated_sum<leaky_relu<T>>;
    return edge_attention{edge_score<term, T>{term{{negative_slope}}, {}, a}, edges};
}
// e {B|1, H|1, edges, d}
template <class T>
HEED_HD constexpr auto gatv2_attention(edge_list edges, tensor_view<T const> a, tensor_view<T const> e, T negative_slope = T(0.2)) {
    using term = edge::shifted_activated_sum<leaky_relu<T>>;
    return edge_attention{edge_score<term, T>{term{{negative_slope}}, e, a}, edges};
}
template <class T = float>
HEED_HD constexpr auto supergat_sd_attention(edge_list edges, T negative_slope = T(0.2)) {
    return edge_attention{edge_score<edge::product, T>{} | inv_sqrt_width{} | activation{leaky_relu<T>{negative_slope}}, edges};
}
template <class T = float>
HEED_HD constexpr auto supergat_mx_attention(edge_list edges, T negative_slope = T(0.2)) {
    return edge_attention{edge_score<edge::gated_product, T>{} | activation{leaky_relu<T>{negative_slope}}, edges};
}
template <class T = float>
HEED_HD constexpr auto graph_transformer_attention(edge_list edges) {
    return edge_attention{edge_score<edge::product, T>{} | inv_sqrt_width{}, edges};
}
// One vector per edge, added to keys and to values: e {B|1, H|1, edges, d}, d = dv.
template <class T>
HEED_HD constexpr auto graph_transformer_attention(edge_list edges, tensor_view<T const> e) {
    return edge_attention{edge_score<edge::shifted_product, T>{{}, e, {}} | inv_sqrt_width{}, edges, softmax{}, value_plus_edge<T>{e}};
}
template <class T = float>
HEED_HD constexpr auto clamped_graph_transformer_attention(edge_list edges, T limit = T(5)) {
    return edge_attention{edge_score<edge::product, T>{} | inv_sqrt_width{} | clamp<T>{-limit, limit}, edges};
}
template <class T>
HEED_HD constexpr auto edge_modulated_attention(edge_list edges, tensor_view<T const> e, T limit = T(5), T eps = T(1e-6)) {
    return edge_attention{edge_score<edge::modulated_product, T>{{}, e, {}} | inv_sqrt_width{} | clamp<T>{-limit, limit}, edges, pointwise<exponential_weight<T>, by_sum<T>>{{limit}, {eps}}};
}
template <class T>
HEED_HD constexpr auto aero_edge_attention(edge_list edges, tensor_view<T const> a) {
    using term = edge::activated_sum<elu>;
    return edge_attention{edge_score<term, T>{term{}, {}, a}, edges, pointwise<raised_softplus_weight>{}};
}

template <class T>
HEED_HD constexpr auto aero_attention(edge_list edges, tensor_view<T const> a) {
    return degree_normalised{aero_edge_attention(edges, a)};
}

} // namespace heed
