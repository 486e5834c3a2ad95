// SPDX-License-Identifier: BSD-3-Clause
// Weights of a pair by itself with every divisor, for one element type.
#pragma once

#include "try_rows.hpp"

#include <heed/mechanism/proportional.hpp>
#include <heed/mechanism/rectified.hpp>
#include <heed/mechanism/sigmoid.hpp>

namespace heed_test {

using oracle::real;
inline auto const plain_score = heed::dot{} | heed::inv_sqrt_width{};

template <class T>
void try_sigmoid(int count) {
    auto const weigh = oracle::each([](real s) { return 1 / (1 + std::exp(-s)); });
    try_rows<T>(count, 901, [](auto pattern) { return heed::sigmoid_attention(pattern); }, weigh, {}, [](double s, extent_t keys) { return s - std::log(static_cast<double>(keys)); });
}
template <class T>
void try_offset_sigmoid(int count) {
    auto const weigh = oracle::each([](real s) { return 1 / (1 + std::exp(-s)); }, [](real sum, real, real) { return sum + 1e-8L; });
    try_rows<T>(
        count, 902,
        [](auto pattern) {
            return heed::attention{plain_score | heed::offset{T(-1.5)}, pattern, heed::pointwise<heed::sigmoid_weight, heed::by_sum<float>>{{}, {1e-8f}}};
        },
        weigh, {}, [](double s, extent_t) { return s - 1.5; });
}
template <class T>
void try_relu(int count) {
    auto const relu = [](real s) { return std::max<real>(s, 0); };
    auto const over_keys = [](real, real, real keys) { return keys; };
    try_rows<T>(count, 903, [](auto pattern) { return heed::relu_attention(pattern); }, oracle::each(relu, over_keys),
                [](auto const& r, extent_t b, extent_t h, extent_t i, extent_t keys) { return r.seen(b, h, i, 0) / static_cast<double>(keys); });
    try_rows<T>(count, 904, [](auto pattern) { return heed::squared_relu_attention(pattern); }, oracle::each([=](real s) { return relu(s) * relu(s); }, over_keys),
                [](auto const& r, extent_t b, extent_t h, extent_t i, extent_t keys) { return 2 * r.largest(b, h, i, 0) * r.seen(b, h, i, 0) / static_cast<double>(keys); });
    try_rows<T>(count, 905, [](auto pattern) { return heed::attention{plain_score, pattern, heed::pointwise<heed::relu_weight>{}}; }, oracle::each(relu),
                [](auto const& r, extent_t b, extent_t h, extent_t i, extent_t) { return r.seen(b, h, i, 0); });
}
template <class T>
void try_proportional(int count) {
    auto const by_sum = [](real sum, real, real) { return sum + static_cast<real>(1e-8f); };
    try_rows<T>(count, 906, [](auto pattern) { return heed::proportional_attention(heed::elu_weight{}, pattern); },
                oracle::each([](real s) { return s > 0 ? s + 1 : std::exp(s); }, by_sum));
    try_rows<T>(count, 907, [](auto pattern) { return heed::proportional_attention(heed::softplus_weight{}, pattern); },
                oracle::each([](real s) { return std::log1p(std::exp(s)); }, by_sum));
    try_rows<T>(count, 908, [](auto pattern) { return heed::proportional_attention(heed::quadratic_weight{}, pattern); },
                oracle::each([](real s) { return 1 + s + s * s / 2; }, by_sum), [](auto const&, auto...) { return 2.0; });
}
template <class T>
void try_counts(int count) {
    auto const by_seen = [](real, real seen, real) { return seen; };
    try_rows<T>(count, 909, [](auto pattern) { return heed::mean_attention(pattern); }, oracle::each([](real) { return real(1); }, by_seen));
    try_rows<T>(
        count, 910,
        [](auto pattern) {
            return heed::attention{plain_score, pattern, heed::pointwise<heed::exponential_weight<float>, heed::by_visible>{{5.0f}, {}}};
        },
        oracle::each([](real s) { return std::exp(std::min<real>(s, 5)); }, by_seen));
}

} // namespace heed_test
