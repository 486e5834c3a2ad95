// SPDX-License-Identifier: BSD-3-Clause
#include "statistics.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <vector>

namespace heed::bench {

double median(std::span<double const> sample) {
    if (sample.empty()) return std::numeric_limits<double>::quiet_NaN();
    std::vector<double> sorted(sample.begin(), sample.end());
    auto const middle = sorted.begin() + static_cast<std::ptrdiff_t>(sorted.size() / 2);
    std::nth_element(sorted.begin(), middle, sorted.end());
    if (sorted.size() % 2 == 1) return *middle;
    return (*std::max_element(sorted.begin(), middle) + *middle) / 2;
}

double mean(std::span<double const> sample) {
    if (sample.empty()) return std::numeric_limits<double>::quiet_NaN();
    return std::accumulate(sample.begin(), sample.end(), 0.0) / static_cast<double>(sample.size());
}

double deviation(std::span<double const> sample) {
    if (sample.size() < 2) return 0;
    auto const center = mean(sample);
    double squares = 0;
    for (double x : sample) squares += (x - center) * (x - center);
    return std::sqrt(squares / static_cast<double>(sample.size() - 1));
}

double variation(std::span<double const> sample) {
    auto const spread = deviation(sample);
    return spread == 0 ? 0 : spread / mean(sample);
}

double spread(std::span<double const> sample) {
    if (sample.size() < 2) return 0;
    std::vector<double> sorted(sample.begin(), sample.end());
    std::sort(sorted.begin(), sorted.end());
    auto const quantile = [&](double share) { // between the two values that surround it
        auto const at = share * static_cast<double>(sorted.size() - 1);
        auto const below = static_cast<std::size_t>(at);
        auto const above = std::min(below + 1, sorted.size() - 1);
        return sorted[below] + (at - static_cast<double>(below)) * (sorted[above] - sorted[below]);
    };
    return (quantile(0.75) - quantile(0.25)) / median(sample);
}

namespace {

// counts[u] = number of interleavings of n and m values whose U statistic is u, as a distribution (sums to 1).
// An interleaving of (i, j) values ends either in an `a`, which beats all j values of b, or in a `b`.
std::vector<double> u_distribution(std::size_t n, std::size_t m) {
    std::vector<std::vector<double>> row(m + 1); // row[j] for the current i
    for (std::size_t j = 0; j <= m; ++j) row[j] = {1.0};
    for (std::size_t i = 1; i <= n; ++i) {
        for (std::size_t j = 1; j <= m; ++j) {
            std::vector<double> next(i * j + 1, 0.0);
            auto const ends_in_a = static_cast<double>(i) / static_cast<double>(i + j);
            for (std::size_t u = 0; u < row[j].size(); ++u) next[u + j] += ends_in_a * row[j][u];
            for (std::size_t u = 0; u < row[j - 1].size(); ++u) next[u] += (1 - ends_in_a) * row[j - 1][u];
            row[j] = std::move(next);
        }
    }
    return row[m];
}

constexpr std::size_t exact_up_to = 30; // values per sample

} // namespace

u_test mann_whitney(std::span<double const> a, std::span<double const> b) {
    u_test result;
    if (a.empty() || b.empty()) return result;
    for (double x : a)
        for (double y : b) result.u += x > y ? 1.0 : x == y ? 0.5 : 0.0;

    std::vector<double> all(a.begin(), a.end());
    all.insert(all.end(), b.begin(), b.end());
    std::sort(all.begin(), all.end());
    double tied = 0; // sum of t^3 - t over groups of t equal values
    for (std::size_t begin = 0; begin < all.size();) {
        std::size_t end = begin;
        while (end < all.size() && all[end] == all[begin]) ++end;
        auto const t = static_cast<double>(end - begin);
        tied += t * t * t - t;
        begin = end;
    }

    auto const n = static_cast<double>(a.size()), m = static_cast<double>(b.size());
    auto const larger = std::max(result.u, n * m - result.u);
    if (tied == 0 && a.size() <= exact_up_to && b.size() <= exact_up_to) {
        auto const distribution = u_distribution(a.size(), b.size());
        double tail = 0;
        for (auto u = static_cast<std::size_t>(larger); u < distribution.size(); ++u) tail += distribution[u];
        result.p = std::min(1.0, 2 * tail);
        result.exact = true;
        return result;
    }
    auto const total = n + m;
    auto const variance = n * m / 12 * (total + 1 - tied / (total * (total - 1)));
    if (!(variance > 0)) return result; // all values equal
    auto const z = std::max(0.0, larger - n * m / 2 - 0.5) / std::sqrt(variance);
    result.p = std::erfc(z / std::sqrt(2.0));
    return result;
}

double smallest_p(std::size_t a, std::size_t b) {
    auto const n = static_cast<double>(a), m = static_cast<double>(b);
    return std::min(1.0, 2 * std::exp(std::lgamma(n + 1) + std::lgamma(m + 1) - std::lgamma(n + m + 1)));
}

} // namespace heed::bench
