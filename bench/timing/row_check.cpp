// SPDX-License-Identifier: BSD-3-Clause
#include "row_check.hpp"

#include "pair_count.hpp"

#include <heed/kernel/bf16_dot.hpp>

#include <algorithm>
#include <cmath>
#include <limits>
#include <sstream>
#include <vector>

namespace heed::bench {

namespace {

struct position {
    std::int64_t batch, head, query;
};

// The corners and some rows at random; every row of a tiny problem.
std::vector<position> sampled_rows(problem const& p, std::uint64_t seed) {
    auto const rows = p.batch * p.heads * p.queries;
    constexpr std::int64_t wanted = 12;
    std::vector<std::int64_t> chosen{0, p.queries - 1, rows - p.queries, rows - 1};
    for (std::int64_t i = 0; i < wanted - 4; ++i)
        chosen.push_back(rows <= wanted ? std::min(i, rows - 1)
                                        : static_cast<std::int64_t>(random_word(seed, static_cast<std::uint64_t>(i)) %
                                                                    static_cast<std::uint64_t>(rows)));
    std::vector<position> positions;
    for (auto row : chosen) positions.push_back({row / p.queries / p.heads, row / p.queries % p.heads, row % p.queries});
    return positions;
}

template <class T>
double score(problem const& p, operands<T> const& o, position at, std::int64_t key) {
    auto const kv_head = at.head / (p.heads / p.kv_heads);
    auto const* const q = o.q + ((at.batch * p.heads + at.head) * p.queries + at.query) * p.dim;
    auto const* const k = o.k + ((at.batch * p.kv_heads + kv_head) * p.keys + key) * p.dim;
    double s = 0;
    for (std::int64_t x = 0; x < p.dim; ++x) s += static_cast<double>(q[x]) * static_cast<double>(k[x]);
    s /= std::sqrt(static_cast<double>(p.dim));
    if (p.softcap != 0) s = p.softcap * std::tanh(s / p.softcap);
    if (p.alibi) s -= static_cast<double>(o.slopes[at.head]) * static_cast<double>(std::abs(at.query + p.keys - p.queries - key));
    if (p.bias == bias_kind::row) s += static_cast<double>(o.bias[key]);
    if (p.bias == bias_kind::full) s += static_cast<double>(o.bias[(at.head * p.queries + at.query) * p.keys + key]);
    return s;
}

template <class T>
constexpr double relative_rounding() {
    return static_cast<double>(std::numeric_limits<compute_t<T>>::epsilon());
}
// Of 16-bit elements: half a step of the output, and of the weights where products take pairs of bf16.
template <class T>
double storage_rounding(double value, double magnitude) {
    if constexpr (is_half<T>) {
        double const least = std::is_same_v<T, fp16> ? 0x1p-14 : 0x1p-126;
        double const step = std::ldexp(std::max(std::abs(value), least), -T::digits);
        return step + (std::is_same_v<T, bf16> && has_bf16_dot<native_arch> ? 0x1p-9 * magnitude : 0.0);
    } else {
        return 0;
    }
}

} // namespace

template <class T>
void poison(problem const& p, operands<T> const& o) {
    std::fill_n(o.out, p.batch * p.heads * p.queries * p.dim_v, static_cast<T>(std::numeric_limits<compute_t<T>>::quiet_NaN()));
}

template <class T>
std::string check_rows(problem const& p, operands<T> const& o, std::uint64_t seed) {
    auto const sentence = [&](position at, std::int64_t feature, auto const&... rest) {
        std::ostringstream text;
        text.precision(9);
        text << "row batch " << at.batch << ", head " << at.head << ", query " << at.query << ", feature " << feature << ": ";
        (text << ... << rest);
        return text.str();
    };

    std::vector<double> scores, expected(static_cast<std::size_t>(p.dim_v)), magnitude(expected.size());
    for (auto const at : sampled_rows(p, seed)) {
        scores.assign(static_cast<std::size_t>(p.keys), -std::numeric_limits<double>::infinity());
        double largest = -std::numeric_limits<double>::infinity(), steepest = 0;
        std::int64_t attended = 0;
        for (std::int64_t j = 0; j < p.keys; ++j) {
            if (!attends(p, at.query, j)) continue;
            auto const s = scores[static_cast<std::size_t>(j)] = score(p, o, at, j);
            largest = std::max(largest, s);
            steepest = std::max(steepest, std::abs(s));
            ++attended;
        }
        std::fill(expected.begin(), expected.end(), 0.0);
        std::fill(magnitude.begin(), magnitude.end(), 0.0);
        auto const kv_head = at.head / (p.heads / p.kv_heads);
        double total = 0;
        for (std::int64_t j = 0; j < p.keys; ++j) {
            auto const s = scores[static_cast<std::size_t>(j)];
            if (std::isinf(s)) continue;
            auto const weight = std::exp(s - largest);
            auto const* const v = o.v + ((at.batch * p.kv_heads + kv_head) * p.keys + j) * p.dim_v;
            total += weight;
            for (std::size_t x = 0; x < expected.size(); ++x) {
                expected[x] += weight * static_cast<double>(v[x]);
                magnitude[x] += weight * std::abs(static_cast<double>(v[x]));
            }
        }
        // Rounding of the scores, of the sums over d and over the keys; a random walk over the keys, with room.
        auto const steps = 4 + 4 * steepest + 4 * std::sqrt(static_cast<double>(attended + p.dim));
        auto const* const got = o.out + ((at.batch * p.heads + at.head) * p.queries + at.query) * p.dim_v;
        for (std::size_t x = 0; x < expected.size(); ++x) {
            auto const want = attended == 0 ? 0.0 : expected[x] / total;
            auto const allowed = attended == 0 ? 0.0 : relative_rounding<T>() * steps * magnitude[x] / total + storage_rounding<T>(want, magnitude[x] / total);
            auto const have = static_cast<double>(got[x]);
            if (!(std::abs(have - want) <= allowed)) return sentence(at, static_cast<std::int64_t>(x), "got ", have, ", expected ", want, " within ", allowed);
        }
    }

    for (std::int64_t i = 0; i < p.batch * p.heads * p.queries * p.dim_v; ++i)
        if (std::isnan(static_cast<double>(o.out[i]))) {
            auto const row = i / p.dim_v;
            return sentence({row / p.queries / p.heads, row / p.queries % p.heads, row % p.queries}, i % p.dim_v, "NaN, or never written");
        }
    return {};
}

template void poison(problem const&, operands<float> const&);
template void poison(problem const&, operands<double> const&);
template void poison(problem const&, operands<bf16> const&);
template void poison(problem const&, operands<fp16> const&);
template std::string check_rows(problem const&, operands<float> const&, std::uint64_t);
template std::string check_rows(problem const&, operands<double> const&, std::uint64_t);
template std::string check_rows(problem const&, operands<bf16> const&, std::uint64_t);
template std::string check_rows(problem const&, operands<fp16> const&, std::uint64_t);

} // namespace heed::bench
