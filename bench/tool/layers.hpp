// SPDX-License-Identifier: BSD-3-Clause
// What stands around attention in the cases that are whole layers: linear maps, norms, rotations by tables, heads of a row, each with its adjoint.
// Rows are row-major and live in the case.
#pragma once

#include "case_file.hpp"

#include <heed/policy/load/rotary.hpp>
#include <heed/view/tensor_view.hpp>

#include <Eigen/Core>

#include <algorithm>
#include <cmath>
#include <functional>
#include <type_traits>
#include <utility>
#include <vector>

namespace heed::tool {

// A value of a case, and the loss's derivative by it (null where no gradient is wanted).
template <class T>
struct traced {
    T* x;
    T* d;
};

// The layers of a case, in their order, each with what it sends back: run in reverse, gradients add up at every value.
template <class T>
class tape {
    case_io<T>& io_;
    bool wanted_;
    std::vector<std::function<void()>> back_;

public:
    tape(case_io<T>& io, bool wanted) : io_(io), wanted_(wanted) {}

    case_io<T>& io() const { return io_; }
    bool wanted() const { return wanted_; }
    traced<T> room(extent_t count) const {
        traced<T> r{io_.scratch(count), nullptr};
        if (wanted_) { std::fill_n(r.d = io_.scratch(count), count, T(0)); }
        return r;
    }
    traced<T> copy(T const* from, extent_t count) const {
        traced<T> const r = room(count);
        std::copy_n(from, count, r.x);
        return r;
    }
    template <class F>
    void back(F f) {
        if (wanted_) { back_.push_back(f); }
    }
    // The loss is sum(out * dout).
    void run_back(traced<T> const& out, T const* dout, extent_t count) {
        std::copy_n(dout, count, out.d);
        for (auto step = back_.rbegin(); step != back_.rend(); ++step) { (*step)(); }
    }
};

template <class T>
void add(tensor_view<T const> from, tensor_view<T> to) {
    for (extent_t b = 0; b < to.extent(0); ++b)
        for (extent_t h = 0; h < to.extent(1); ++h)
            for (extent_t n = 0; n < to.extent(2); ++n)
                for (extent_t e = 0; e < to.extent(3); ++e) { to(b, h, n, e) += from(b, h, n, e); }
}

// y = x W^T + b for `rows` rows; W [out, in] as it lies in the file, b null or [out].
template <class T>
traced<T> linear(tape<T>& t, traced<T> x, extent_t rows, loaded<T> const& weight, T const* bias = nullptr) {
    using matrix = Eigen::Matrix<T, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
    extent_t const out = weight.shape[0], in = weight.shape[1];
    traced<T> const y = t.room(rows * out);
    Eigen::Map<matrix const> const w(weight.data, out, in);
    Eigen::Map<matrix> result(y.x, rows, out);
    result.noalias() = Eigen::Map<matrix const>(x.x, rows, in) * w.transpose();
    if (bias) { result.rowwise() += Eigen::Map<Eigen::Matrix<T, 1, Eigen::Dynamic> const>(bias, out); }
    t.back([=] { Eigen::Map<matrix>(x.d, rows, in).noalias() += Eigen::Map<matrix const>(y.d, rows, out) * Eigen::Map<matrix const>(weight.data, out, in); });
    return y;
}

// Rows of `width` numbers: (x - mean) / sqrt(variance + eps) * weight + bias; without Centred and bias, x / sqrt(mean of squares + eps) * weight.
template <bool Centred, class T>
traced<T> norm(tape<T>& t, traced<T> x, extent_t rows, extent_t width, T const* weight, T const* bias, double eps) {
    traced<T> const y = t.room(rows * width);
    auto const n = static_cast<double>(width);
    auto const moments = [=](T const* row) {
        double mean = 0, squares = 0;
        for (extent_t e = 0; Centred && e < width; ++e) { mean += static_cast<double>(row[e]) / n; }
        for (extent_t e = 0; e < width; ++e) { squares += (static_cast<double>(row[e]) - mean) * (static_cast<double>(row[e]) - mean); }
        return std::pair(mean, 1 / std::sqrt(squares / n + eps));
    };
    for (extent_t r = 0; r < rows; ++r) {
        auto const [mean, factor] = moments(x.x + r * width);
        for (extent_t e = 0; e < width; ++e) {
            T const unit = static_cast<T>((static_cast<double>(x.x[r * width + e]) - mean) * factor);
            y.x[r * width + e] = unit * weight[e] + (bias ? bias[e] : T(0));
        }
    }
    // with u the unit row and g = dy weight: dx = factor (g - mean(g) - u mean(g u)); mean(g) where the mean was taken out
    t.back([=] {
        for (extent_t r = 0; r < rows; ++r) {
            auto const [mean, factor] = moments(x.x + r * width);
            double along = 0, middle = 0;
            auto const unit = [&, m = mean, f = factor](extent_t e) { return (static_cast<double>(x.x[r * width + e]) - m) * f; };
            auto const g = [&](extent_t e) { return static_cast<double>(y.d[r * width + e]) * static_cast<double>(weight[e]); };
            for (extent_t e = 0; e < width; ++e) {
                along += g(e) * unit(e) / n;
                middle += Centred ? g(e) / n : 0;
            }
            for (extent_t e = 0; e < width; ++e) { x.d[r * width + e] += static_cast<T>(factor * (g(e) - middle - unit(e) * along)); }
        }
    });
    return y;
}

// x [count, N, d] rotated by the angles of cos, sin [N, d/2] (rows of the tables `step` apart), or back by them; pairs are (x_m, x_{m + d/2}) or
// (x_2m, x_{2m+1}). In place if `rotated` is x.
template <class Pairs, class T>
void rotate_by_tables(T const* x, T* rotated, extent_t count, extent_t rows, extent_t width, T const* cosines, T const* sines, extent_t step, T direction = 1) {
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
template <class Pairs, class T>
traced<T> rotate_by_tables(tape<T>& t, traced<T> x, extent_t count, extent_t rows, extent_t width, T const* cosines, T const* sines, extent_t step) {
    traced<T> const y = t.room(count * rows * width);
    rotate_by_tables<Pairs, T>(x.x, y.x, count, rows, width, cosines, sines, step);
    t.back([=] { // the gradient of a rotation turns back; nothing else reads y.d
        rotate_by_tables<Pairs, T>(y.d, y.d, count, rows, width, cosines, sines, step, T(-1));
        for (extent_t i = 0; i < count * rows * width; ++i) { x.d[i] += y.d[i]; }
    });
    return y;
}

// Columns column(h) ... column(h) + width of rows [B N, row_width], as [B, H, N, width].
template <class T, class Column>
traced<T> split_heads(tape<T>& t, traced<T> rows, extent_t row_width, shape s, Column const& column) {
    traced<T> const heads = t.room(s.size());
    auto const each_row = [=](auto const& f) {
        for (extent_t b = 0; b < s.batch; ++b)
            for (extent_t h = 0; h < s.head; ++h)
                for (extent_t n = 0; n < s.seq; ++n) { f((b * s.seq + n) * row_width + column(h), ((b * s.head + h) * s.seq + n) * s.feature); }
    };
    each_row([&](extent_t from, extent_t to) { std::copy_n(rows.x + from, s.feature, heads.x + to); });
    t.back([=] {
        each_row([&](extent_t from, extent_t to) {
            for (extent_t e = 0; e < s.feature; ++e) { rows.d[from + e] += heads.d[to + e]; }
        });
    });
    return heads;
}

// Heads [B, H, N, d] as rows [B N, H d].
template <class T>
traced<T> join_heads(tape<T>& t, traced<T> heads, shape s) {
    traced<T> const rows = t.room(s.size());
    auto const each = [=](auto const& f) {
        for (extent_t x = 0; x < s.size(); ++x) {
            extent_t const e = x % s.feature, n = x / s.feature % s.seq, h = x / s.feature / s.seq % s.head, b = x / s.feature / s.seq / s.head;
            f(x, ((b * s.seq + n) * s.head + h) * s.feature + e);
        }
    };
    each([&](extent_t from, extent_t to) { rows.x[to] = heads.x[from]; });
    t.back([=] { each([&](extent_t from, extent_t to) { heads.d[from] += rows.d[to]; }); });
    return rows;
}

// Writes out; and, where gradients are wanted, sends dout back through the layers.
template <class T>
void give(tape<T>& t, traced<T> out, std::string_view axes, extent_t count) {
    std::copy_n(out.x, count, t.io().make("out", axes));
    if (t.wanted()) { t.run_back(out, t.io().reals("dout", axes).data, count); }
}
template <class T>
void give_gradient(tape<T>& t, traced<T> input, std::string_view name, std::string_view axes, extent_t count) {
    if (t.io().wants(name)) { std::copy_n(input.d, count, t.io().make(name, axes)); }
}

} // namespace heed::tool
