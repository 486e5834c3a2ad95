// SPDX-License-Identifier: BSD-3-Clause
#include "eigen.hpp"

#include "../timing/pair_count.hpp"
#include "../timing/team.hpp"

#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized" // g++ 12's own AVX-512 header, where Eigen uses it
#endif
#define EIGEN_DONT_PARALLELIZE // the threads go over heads
#include <Eigen/Core>

#include <algorithm>
#include <cmath>
#include <limits>

namespace heed::bench {

namespace {

template <class T>
using matrix = Eigen::Matrix<T, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

template <class T>
void attend_one_head(problem const& p, operands<T> const& o, std::int64_t unit, T* scratch) {
    auto const batch = unit / p.heads, head = unit % p.heads;
    auto const kv = batch * p.kv_heads + head / (p.heads / p.kv_heads);
    Eigen::Map<matrix<T> const> const q(o.q + unit * p.queries * p.dim, p.queries, p.dim);
    Eigen::Map<matrix<T> const> const k(o.k + kv * p.keys * p.dim, p.keys, p.dim);
    Eigen::Map<matrix<T> const> const v(o.v + kv * p.keys * p.dim_v, p.keys, p.dim_v);
    Eigen::Map<matrix<T>> out(o.out + unit * p.queries * p.dim_v, p.queries, p.dim_v);
    Eigen::Map<matrix<T>> scores(scratch, p.queries, p.keys);

    scores.noalias() = q * k.transpose();
    auto const scale = T(1) / std::sqrt(static_cast<T>(p.dim));
    for (std::int64_t i = 0; i < p.queries; ++i) {
        auto row = scores.row(i).array();
        row *= scale;
        if (p.softcap != 0) row = static_cast<T>(p.softcap) * (row / static_cast<T>(p.softcap)).tanh();
        if (p.alibi) {
            auto const diagonal = static_cast<T>(i + p.keys - p.queries);
            row -=
                o.slopes[head] * (Eigen::Array<T, 1, Eigen::Dynamic>::LinSpaced(p.keys, T(0), static_cast<T>(p.keys - 1)) - diagonal).abs();
        }
        if (p.bias != bias_kind::none) {
            auto const first = p.bias == bias_kind::row ? 0 : (head * p.queries + i) * p.keys;
            row += Eigen::Map<Eigen::Array<T, 1, Eigen::Dynamic> const>(o.bias + first, p.keys);
        }
        auto const seen = keys_of(p, i);
        row.head(seen.begin).setConstant(-std::numeric_limits<T>::infinity());
        row.tail(p.keys - seen.end).setConstant(-std::numeric_limits<T>::infinity());
        auto const largest = row.maxCoeff();
        if (largest == -std::numeric_limits<T>::infinity()) {
            row.setZero();
            continue;
        }
        row = (row - largest).exp();
        row /= row.sum();
    }
    out.noalias() = scores * v;
}

} // namespace

template <class T>
std::size_t eigen_scratch_bytes(problem const& p) {
    auto const teams = std::min<std::int64_t>(p.threads, p.batch * p.heads);
    return static_cast<std::size_t>(teams * p.queries * p.keys) * sizeof(T);
}

template <class T>
void eigen_attention(problem const& p, operands<T> const& o, std::span<std::byte> scratch) {
    auto const units = p.batch * p.heads;
    auto const team = static_cast<int>(std::min<std::int64_t>(p.threads, units));
    auto const work = [&](int thread) {
        auto* const scores = reinterpret_cast<T*>(scratch.data()) + thread * p.queries * p.keys;
        for (std::int64_t unit = thread; unit < units; unit += team) attend_one_head(p, o, unit, scores);
    };
    if (team == 1)
        work(0);
    else
        on_team(team, work);
}

template std::size_t eigen_scratch_bytes<float>(problem const&);
template std::size_t eigen_scratch_bytes<double>(problem const&);
template void eigen_attention(problem const&, operands<float> const&, std::span<std::byte>);
template void eigen_attention(problem const&, operands<double> const&, std::span<std::byte>);

} // namespace heed::bench
