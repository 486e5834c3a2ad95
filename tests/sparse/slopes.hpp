// SPDX-License-Identifier: BSD-3-Clause
// Gradients of doors that are made of several calls, against central differences of their own forward along random directions; dense rows of plain softmax.
#pragma once

#include <support/random.hpp>
#include <support/tensor.hpp>

#include <algorithm>
#include <cmath>
#include <vector>

namespace heed_test {

inline double dot(tensor<double> const& a, tensor<double> const& b) {
    double sum = 0;
    tensor<double>(a.shape()).each_at([&](double&, extent_t i, extent_t h, extent_t n, extent_t d) { sum += a(i, h, n, d) * b(i, h, n, d); });
    return sum;
}
inline double largest_difference(tensor<double> const& a, tensor<double> const& b) {
    double most = 0;
    tensor<double>(a.shape()).each_at([&](double&, extent_t i, extent_t h, extent_t n, extent_t d) {
        double const far = std::abs(a(i, h, n, d) - b(i, h, n, d));
        most = far <= most ? most : far; // NaN is far
    });
    return most;
}
// How far <dx, w> is from the slope of loss() along w as x moves, relative; x is left as it was.
template <class Loss>
double slope_error(Loss const& loss, tensor<double>& x, tensor<double> const& dx, random_source& random, double step = 1e-5) {
    tensor<double> start(x.shape()), way(x.shape());
    start.copy(x.in()), way.normal(random);
    auto const at = [&](double t) {
        x.each_at([&](double& y, extent_t b, extent_t h, extent_t n, extent_t d) { y = start(b, h, n, d) + t * way(b, h, n, d); });
        return loss();
    };
    double const ahead = at(step), back = at(-step), slope = dot(dx, way);
    x.copy(start.in());
    return std::abs((ahead - back) / (2 * step) - slope) / (1 + std::abs(slope));
}
// Weights e^s / sum e^s; all 0 where every score is -infinity.
inline std::vector<double> softmax_of(std::vector<double> s) {
    double top = -INFINITY, sum = 0;
    for (double x : s) { top = std::max(top, x); }
    for (double& x : s) { sum += x = top == -INFINITY ? 0 : std::exp(x - top); }
    for (double& x : s) { x = sum > 0 ? x / sum : 0; }
    return s;
}

} // namespace heed_test
