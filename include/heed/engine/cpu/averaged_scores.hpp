// SPDX-License-Identifier: BSD-3-Clause
// Scores against the mean of the keys, z_i = c q_i . mean_j k_j, and back: dq_i = c dz_i mean, dk_j = c / M sum_i dz_i q_i. Sums in double: they are long.
#pragma once

#include <heed/engine/cpu/parallel.hpp>
#include <heed/view/tensor_view.hpp>

#include <cmath>

namespace heed {

template <class T, class A>
struct averaged_scores {
    tensor_view<T const> q, k; // (B, H, N, d), (B, H, M, d)

    double scale() const { return q.extent(3) == 0 || k.extent(2) == 0 ? 0 : 1 / (std::sqrt(static_cast<double>(q.extent(3))) * static_cast<double>(k.extent(2))); }

    // mean: d numbers a head, times c; z: B H N numbers
    template <class E>
    void forward(E& executor, int slots, double* mean, T* z) const {
        extent_t const n = q.extent(2), d = q.extent(3);
        detail::for_each_item<A>(executor, slots, q.extent(0) * q.extent(1), [&](extent_t item, int) {
            double* const m = mean + item * d;
            sum(k, item, [](extent_t) { return 1.0; }, m);
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
        extent_t const n = q.extent(2), d = q.extent(3);
        detail::for_each_item<A>(executor, slots, q.extent(0) * q.extent(1), [&](extent_t item, int) {
            extent_t const b = item / q.extent(1), h = item % q.extent(1);
            double* const m = mean + item * d;
            sum(k, item, [](extent_t) { return 1.0; }, m);
            for (extent_t i = 0; i < n; ++i) {
                for (extent_t e = 0; e < d; ++e) { dq(b, h, i, e) = static_cast<T>(static_cast<double>(dz[item * n + i]) * m[e]); }
            }
            sum(q, item, [&](extent_t i) { return static_cast<double>(dz[item * n + i]); }, m);
            for (extent_t j = 0; j < k.extent(2); ++j) {
                for (extent_t e = 0; e < d; ++e) { dk(b, h, j, e) = static_cast<T>(m[e]); }
            }
        });
    }

private:
    // scale * sum of factor(j) rows j
    template <class F>
    void sum(tensor_view<T const> const& rows, extent_t item, F const& factor, double* to) const {
        extent_t const d = rows.extent(3);
        for (extent_t e = 0; e < d; ++e) { to[e] = 0; }
        for (extent_t j = 0; j < rows.extent(2); ++j) {
            T const* const row = rows.row(item / rows.extent(1), item % rows.extent(1), j);
            double const f = factor(j);
            for (extent_t e = 0; e < d; ++e) { to[e] += f * static_cast<double>(row[e * rows.stride(3)]); }
        }
        for (extent_t e = 0; e < d; ++e) { to[e] *= scale(); }
    }
};

} // namespace heed
