// SPDX-License-Identifier: BSD-3-Clause
// Two objects of one source, compiled for different instruction sets, in one program: both must be right.
#include "side.hpp"

#include <support/catch.hpp>

#include <algorithm>
#include <cmath>
#include <random>

namespace {

heed_test::problem random_problem() {
    heed_test::problem p{4, 2, 37, 53, 24, 20, {}, {}, {}, {0.5f, 0.25f, 0.125f, 0.0625f}};
    std::mt19937 generator(20240229);
    std::normal_distribution<float> normal;
    auto fill = [&](std::vector<float>& values, int count) {
        values.resize(static_cast<std::size_t>(count));
        std::generate(values.begin(), values.end(), [&] { return normal(generator); });
    };
    fill(p.q, p.heads * p.queries * p.width);
    fill(p.k, p.kv_heads * p.keys * p.width);
    fill(p.v, p.kv_heads * p.keys * p.value_width);
    return p;
}

// The equations in double, with their own masks: `score` gives the score from the scaled dot product, -inf where nothing is seen.
template <class Score>
std::vector<double> expected(heed_test::problem const& p, Score score) {
    std::vector<double> out;
    for (int h = 0; h < p.heads; ++h) {
        int const kv = h / (p.heads / p.kv_heads);
        for (int i = 0; i < p.queries; ++i) {
            std::vector<double> weights;
            for (int j = 0; j < p.keys; ++j) {
                double dot = 0;
                for (int c = 0; c < p.width; ++c) {
                    dot += double{p.q[static_cast<std::size_t>((h * p.queries + i) * p.width + c)]} *
                           double{p.k[static_cast<std::size_t>((kv * p.keys + j) * p.width + c)]};
                }
                weights.push_back(std::exp(score(dot / std::sqrt(double(p.width)), h, i + p.keys - p.queries, j)));
            }
            for (int c = 0; c < p.value_width; ++c) {
                double above = 0, below = 0;
                for (int j = 0; j < p.keys; ++j) {
                    double const weight = weights[static_cast<std::size_t>(j)];
                    above += weight * double{p.v[static_cast<std::size_t>((kv * p.keys + j) * p.value_width + c)]};
                    below += weight;
                }
                out.push_back(above / below);
            }
        }
    }
    return out;
}

double largest_difference(std::vector<float> const& got, std::vector<double> const& want) {
    REQUIRE(got.size() == want.size());
    double largest = 0;
    for (std::size_t i = 0; i < got.size(); ++i) { largest = std::max(largest, std::abs(double{got[i]} - want[i])); }
    return largest;
}

} // namespace

TEST_CASE("objects with different architecture flags are both right in one program") {
    auto const p = random_problem();
    INFO("plain: " << heed_test::side_plain::arch() << ", tuned: " << heed_test::side_tuned::arch());

    auto const softmax = expected(p, [](double s, int, int, int) { return s; });
    CHECK(largest_difference(heed_test::side_plain::plain_softmax(p), softmax) < 2e-6);
    CHECK(largest_difference(heed_test::side_tuned::plain_softmax(p), softmax) < 2e-6);

    auto const composed = expected(p, [&](double s, int h, int i, int j) {
        bool const seen = j <= i && j > i - 9;
        return seen ? 4 * std::tanh(s / 4) - double{p.slopes[static_cast<std::size_t>(h)]} * std::abs(i - j) : -INFINITY;
    });
    CHECK(largest_difference(heed_test::side_plain::composed(p), composed) < 2e-6);
    CHECK(largest_difference(heed_test::side_tuned::composed(p), composed) < 2e-6);
}

TEST_CASE("the two objects were compiled for different instruction sets") {
    CHECK(heed_test::side_plain::arch() != heed_test::side_tuned::arch());
}

TEST_CASE("each object runs its own engine") {
    auto const p = random_problem();
    CHECK(heed_test::side_plain::vector_bytes(p) == 16);
    CHECK(heed_test::side_tuned::vector_bytes(p) > 16);
}

TEST_CASE("every door gives the same in both objects") {
    auto const p = random_problem();
    auto const plain = heed_test::side_plain::many_doors(p);
    auto const tuned = heed_test::side_tuned::many_doors(p);
    REQUIRE(plain.size() == tuned.size());
    double largest = 0;
    for (std::size_t i = 0; i < plain.size(); ++i) { largest = std::max(largest, std::abs(plain[i] - tuned[i])); }
    CHECK(largest < 1e-12);
}

TEST_CASE("public types have one layout whatever the architecture flags") {
    auto const plain = heed_test::side_plain::layouts();
    auto const tuned = heed_test::side_tuned::layouts();
    REQUIRE(plain.size() == tuned.size());
    for (std::size_t i = 0; i < plain.size(); ++i) {
        INFO(plain[i].name);
        CHECK(plain[i].size == tuned[i].size);
        CHECK(plain[i].alignment == tuned[i].alignment);
    }
}
