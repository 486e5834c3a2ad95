// SPDX-License-Identifier: BSD-3-Clause
// What stands around attention in the cases that are whole layers: linear maps, norms, rotations by tables, heads of a row. Rows are row-major and
// live in the case.
#pragma once

#include "case_file.hpp"

#include <heed/policy/load/rotary.hpp>
#include <heed/view/tensor_view.hpp>

#include <Eigen/Core>

#include <algorithm>
#include <cmath>
#include <type_traits>

namespace heed::tool {

// y = x W^T + b for `rows` rows; W [out, in] as it lies in the file, b null or [out].
template <class T>
T* linear(case_io<T>& io, T const* x, extent_t rows, loaded<T> const& weight, T const* bias = nullptr) {
    using matrix = Eigen::Matrix<T, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
    extent_t const out = weight.shape[0], in = weight.shape[1];
    T* const y = io.scratch(rows * out);
    Eigen::Map<matrix> result(y, rows, out);
    result.noalias() = Eigen::Map<matrix const>(x, rows, in) * Eigen::Map<matrix const>(weight.data, out, in).transpose();
    if (bias) { result.rowwise() += Eigen::Map<Eigen::Matrix<T, 1, Eigen::Dynamic> const>(bias, out); }
    return y;
}

// In place, rows of `width` numbers: x / sqrt(mean of squares + eps) * weight.
template <class T>
void rms_norm(T* x, extent_t rows, extent_t width, T const* weight, double eps) {
    for (extent_t r = 0; r < rows; ++r) {
        T* const row = x + r * width;
        double squares = 0;
        for (extent_t e = 0; e < width; ++e) { squares += static_cast<double>(row[e]) * static_cast<double>(row[e]); }
        double const factor = 1 / std::sqrt(squares / static_cast<double>(width) + eps);
        for (extent_t e = 0; e < width; ++e) { row[e] = static_cast<T>(static_cast<double>(row[e]) * factor) * weight[e]; }
    }
}
// (x - mean) / sqrt(variance + eps) * weight + bias
template <class T>
void layer_norm(T* x, extent_t rows, extent_t width, T const* weight, T const* bias, double eps = 1e-5) {
    for (extent_t r = 0; r < rows; ++r) {
        T* const row = x + r * width;
        double mean = 0, squares = 0;
        for (extent_t e = 0; e < width; ++e) { mean += static_cast<double>(row[e]) / static_cast<double>(width); }
        for (extent_t e = 0; e < width; ++e) { squares += (static_cast<double>(row[e]) - mean) * (static_cast<double>(row[e]) - mean); }
        double const factor = 1 / std::sqrt(squares / static_cast<double>(width) + eps);
        for (extent_t e = 0; e < width; ++e) { row[e] = static_cast<T>((static_cast<double>(row[e]) - mean) * factor) * weight[e] + bias[e]; }
    }
}

// x [count, N, d] rotated by the angles of cos, sin [N, d/2], or back by them (direction -1), rows of the tables `step` apart; pairs are
// (x_m, x_{m + d/2}) or (x_2m, x_{2m+1}).
template <class Pairs, class T>
void rotate_by_tables(T const* x, T* rotated, extent_t count, extent_t rows, extent_t width, T const* cosines, T const* sines,
                      extent_t step, T direction = 1) {
    constexpr bool halves = std::is_same_v<Pairs, half_pairs>;
    extent_t const half = width / 2;
    for (extent_t row = 0; row < count * rows; ++row) {
        T const *const c = cosines + row % rows * step, *const s = sines + row % rows * step;
        for (extent_t m = 0; m < half; ++m) {
            extent_t const first = row * width + (halves ? m : 2 * m), second = first + (halves ? half : 1);
            T const a = x[first], b = x[second], sine = direction * s[m];
            rotated[first] = a * c[m] - b * sine;
            rotated[second] = b * c[m] + a * sine;
        }
    }
}

// Columns column(h) ... column(h) + width of rows [B N, row_width], as [B, H, N, width].
template <class T, class Column>
T* split_heads(case_io<T>& io, T const* rows, extent_t row_width, shape s, Column const& column) {
    T* const heads = io.scratch(s.size());
    for (extent_t b = 0; b < s.batch; ++b) {
        for (extent_t h = 0; h < s.head; ++h) {
            for (extent_t n = 0; n < s.seq; ++n) {
                T const* const from = rows + (b * s.seq + n) * row_width + column(h);
                std::copy(from, from + s.feature, heads + ((b * s.head + h) * s.seq + n) * s.feature);
            }
        }
    }
    return heads;
}

} // namespace heed::tool
