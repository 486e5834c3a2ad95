// SPDX-License-Identifier: BSD-3-Clause
// 01: causal softmax attention with grouped queries, on the calling thread.
#include <heed/heed.hpp>

#include <cstdio>
#include <random>
#include <vector>

int main() {
    // 8 query heads share 2 key/value heads; 300 queries continue a context of 1000 keys; values are wider than keys.
    heed::extent_t const B = 2, H = 8, Hkv = 2, N = 300, M = 1000, D = 64, Dv = 80;
    std::vector<float> q(B * H * N * D), k(B * Hkv * M * D), v(B * Hkv * M * Dv), out(B * H * N * Dv), lse(B * H * N);
    std::mt19937 random(1);
    std::normal_distribution<float> normal;
    for (auto* x : {&q, &k, &v}) {
        for (float& e : *x) { e = normal(random); }
    }

    // Views say shape and strides; sequence_major(...) would read memory in the order batch, sequence, head, feature.
    heed::tensor_view queries{q.data(), heed::shape{B, H, N, D}}, keys{k.data(), heed::shape{B, Hkv, M, D}};
    heed::tensor_view values{v.data(), heed::shape{B, Hkv, M, Dv}}, result{out.data(), heed::shape{B, H, N, Dv}};

    auto const mechanism = heed::softmax_attention(heed::causal_bottom_right{});
    heed::forward(mechanism, queries, keys, values, result, heed::save{heed::per_row(lse.data(), B, H, N)});

    std::printf("out[0, 0, 0, 0..3] = %.6f %.6f %.6f   log-sum-exp = %.6f\n", double(out[0]), double(out[1]), double(out[2]), double(lse[0]));

    // The same through the scalar engine, which does what the definition says, pair by pair.
    std::vector<float> plain(out.size());
    heed::forward(mechanism, queries, keys, values, heed::tensor_view{plain.data(), result.shape()}, heed::reference{});
    float worst = 0;
    for (std::size_t i = 0; i < out.size(); ++i) { worst = std::max(worst, std::abs(out[i] - plain[i])); }
    std::printf("largest difference from the scalar engine: %.2e\n", double(worst));
    return worst < 1e-5f ? 0 : 1;
}
