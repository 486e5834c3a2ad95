// SPDX-License-Identifier: BSD-3-Clause
// Scores against the mean of the keys, z_i = c q_i . mean_j k_j, and back: dq_i = c dz_i mean, dk_j = c / M sum_i dz_i q_i, over all heads that share the key.
// Sums in double: they are long.
#pragma once

#include <heed/engine/cpu/parallel.hpp>
#include <heed/view/tensor_view.hpp>

#include <cmath>

namespace heed {

template <class T, class A>
struct averaged_scores {
    tensor_view<T const> q, k; // (B, H, N, d), (B, G, M, d), H a multiple of G

    double scale() const { return q.extent(3) == 0 || k.extent(2) == 0 ? 0 : 1 / (std::sqrt(static_cast<double>(q.extent(3))) * static_cast<double>(k.extent(2))); }

    // mean: d numbers a head of q, times c; z: B H N numbers
    template <class E>
    void forward(E& executor, int slots, double* mean, T* z) const {
        extent_t const n = q.extent(2), d = q.extent(3);
        detail::for_each_item<A>(executor, slots, q.extent(0) * q.extent(1), [&](extent_t item, int) {
            double* const m = mean + item * d;
            mean_of(item, m);
            for (extent_t i = 0; i < n; ++i) {
                T const* const row = q.row(item / q.extent(1), item % q.extent(1), i);
                double dot = 0;
                for (extent_t e = 0; e < d; ++e) { dot += static_cast<double>(row[e * q.stride(3)]) * m[e]; }
                z[item * n + i] = static_cast<T>(dot);
            }
        });
    }
    template <class E>
    void backward(E& executor, int slots, double* mean, T const* dz, tensor_view<T> dq, tensor_view<T> dk) const {
        extent_t const n = q.extent(2), d = q.extent(3), heads = q.extent(1), group = k.extent(1) == 0 ? 0 : heads / k.extent(1);
        detail::for_each_item<A>(executor, slots, q.extent(0) * heads, [&](extent_t item, int) {
            double* const m = mean + item * d;
            mean_of(item, m);
            for (extent_t i = 0; i < n; ++i) {
                for (extent_t e = 0; e < d; ++e) { dq(item / heads, item % heads, i, e) = static_cast<T>(static_cast<double>(dz[item * n + i]) * m[e]); }
            }
        });
        detail::for_each_item<A>(executor, slots, k.extent(0) * k.extent(1), [&](extent_t item, int) {
            extent_t const b = item / k.extent(1), h = item % k.extent(1), first = b * heads + h * group;
            double* const m = mean + first * d;
            for (extent_t e = 0; e < d; ++e) { m[e] = 0; }
            for (extent_t use = first; use < first + group; ++use) {
                add(q, b, use % heads, [&](extent_t i) { return static_cast<double>(dz[use * n + i]); }, m);
            }
            for (extent_t j = 0; j < k.extent(2); ++j) {
                for (extent_t e = 0; e < d; ++e) { dk(b, h, j, e) = static_cast<T>(scale() * m[e]); }
            }
        });
    }

private:
    void mean_of(extent_t item, double* to) const { // of a head of q
        extent_t const heads = q.extent(1), group = heads / k.extent(1);
        for (extent_t e = 0; e < q.extent(3); ++e) { to[e] = 0; }
        add(k, item / heads, item % heads / group, [](extent_t) { return 1.0; }, to);
        for (extent_t e = 0; e < q.extent(3); ++e) { to[e] *= scale(); }
    }
    // += sum of factor(j) rows j
    template <class F>
    void add(tensor_view<T const> const& rows, extent_t b, extent_t h, F const& factor, double* to) const {
        for (extent_t j = 0; j < rows.extent(2); ++j) {
            T const* const row = rows.row(b, h, j);
            double const f = factor(j);
            for (extent_t e = 0; e < rows.extent(3); ++e) { to[e] += f * static_cast<double>(row[e * rows.stride(3)]); }
        }
    }
};

} // namespace heed
