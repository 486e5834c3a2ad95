// SPDX-License-Identifier: BSD-3-Clause
// 05: decoding with a paged cache. Two sequences of different lengths grow token by token; their keys and values lie in pages of 16 tokens, in 8 bits.
// Each step appends one token per sequence and attends to all of it, eight query heads sharing two heads of keys.
#include <heed/heed.hpp>

#include <cmath>
#include <cstdio>
#include <vector>

int main() {
    using heed::extent_t;
    extent_t const batch = 2, heads = 8, kv_heads = 2, width = 64;
    auto const mechanism = heed::softmax_attention(heed::causal_bottom_right{});
    auto cache = heed::make_cache<std::int8_t>(mechanism, {.batch = batch, .heads = kv_heads, .tokens = 256, .width = width, .value_width = width}, heed::paged{16, 24});

    // what a model would compute: here waves, so that the result can be checked
    auto const wave = [](std::vector<float>& x, double phase) {
        for (std::size_t i = 0; i < x.size(); ++i) { x[i] = static_cast<float>(std::sin(0.37 * static_cast<double>(i) + phase)); }
    };
    // a prompt of 70 tokens for one sequence and of 9 for the other: packed one behind the other
    std::vector<float> prompt_k(79 * kv_heads * width), prompt_v(prompt_k.size());
    wave(prompt_k, 1);
    wave(prompt_v, 2);
    std::vector<std::int32_t> const starts{0, 70, 79};
    heed::ragged_offsets const offsets(std::span<std::int32_t const>(starts.data(), starts.size()));
    auto const packed = [&](std::vector<float>& x) { return heed::ragged(heed::sequence_major(x.data(), {1, kv_heads, 79, width}), offsets); };
    heed::append(cache, packed(prompt_k), packed(prompt_v));

    heed::shape const q_shape{batch, heads, 1, width}, kv_shape{batch, kv_heads, 1, width};
    std::vector<float> q(q_shape.size()), k(kv_shape.size()), v(kv_shape.size()), out(q_shape.size());
    auto plan = heed::plan_decode<float>(mechanism, q_shape, cache); // once; every step runs in the same workspace
    std::vector<std::byte> workspace(plan.workspace_bytes());
    std::printf("%s\n", plan.describe().c_str());
    double sum = 0;
    for (int step = 0; step < 100; ++step) {
        wave(q, step);
        wave(k, step + 0.5);
        wave(v, step + 0.25);
        heed::append(cache, heed::tensor_view{k.data(), kv_shape}, heed::tensor_view{v.data(), kv_shape});
        plan.run(heed::tensor_view{q.data(), q_shape}, cache, heed::tensor_view{out.data(), q_shape}, workspace);
        for (float x : out) { sum += std::fabs(static_cast<double>(x)); }
    }
    double const mean = sum / (100.0 * static_cast<double>(out.size()));
    std::printf("lengths %lld and %lld, %zu bytes of cache, mean magnitude of a result %.3f\n", static_cast<long long>(cache.length(0)), static_cast<long long>(cache.length(1)),
                cache.bytes(), mean);
    return cache.length(0) == 170 && cache.length(1) == 109 && mean > 0.05 && mean < 1 ? 0 : 1;
}
