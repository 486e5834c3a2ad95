// SPDX-License-Identifier: BSD-3-Clause
// 12: a needle in a long memory. Every block of 64 tokens has a topic; one token of one block holds the answer. A step of MoBA decode looks at the means of the
// blocks, picks eight, and reads those; dense decode reads everything. Both must find the answer. With a number: that many tokens, for example 262144.
#include <heed/heed.hpp>

#include <heed/front/select.hpp>
#include <heed/mechanism/moba.hpp>

#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <vector>

int main(int count, char** arguments) {
    constexpr heed::extent_t block = 64, top = 8, d = 64, heads = 4;
    heed::extent_t const tokens = count > 1 ? std::atol(arguments[1]) : 32768, blocks = (tokens + block - 1) / block, needle = tokens * 2 / 3;
    if (tokens < block) { return 2; }
    unsigned state = 7;
    auto const noise = [&] { // nearly normal
        float sum = 0;
        for (int i = 0; i < 12; ++i) { sum += static_cast<float>((state = state * 1664525u + 1013904223u) >> 8) / 16777216.0f; }
        return sum - 6;
    };
    std::vector<float> topics(static_cast<std::size_t>(blocks * d)), k(static_cast<std::size_t>(tokens * d)), v(k.size()), q(heads * d), dense(heads * d), routed(heads * d);
    for (float& x : topics) { x = noise(); }
    for (heed::extent_t j = 0; j < tokens; ++j)
        for (heed::extent_t e = 0; e < d; ++e) {
            k[static_cast<std::size_t>(j * d + e)] = topics[static_cast<std::size_t>(j / block * d + e)] + noise();
            v[static_cast<std::size_t>(j * d + e)] = j == needle ? static_cast<float>(e % 7) : 0.1f * noise(); // the answer: 0 1 2 ... 6 0 1 ...
        }
    for (heed::extent_t h = 0; h < heads; ++h)
        for (heed::extent_t e = 0; e < d; ++e) { q[static_cast<std::size_t>(h * d + e)] = 2 * k[static_cast<std::size_t>(needle * d + e)]; } // the question is like its key

    auto const memory = [&](std::vector<float>& x) { return heed::tensor_view<float const>(x.data(), {1, 1, tokens, d}); };
    auto const row = [&](std::vector<float>& x) { return heed::tensor_view<float>(x.data(), {1, heads, 1, d}); };
    heed::cache<float> cache = heed::make_cache<float>(heed::softmax_attention(), {1, 1, tokens, d, d});
    heed::append(cache, memory(k), memory(v));
    heed::block_summaries<float> means(1, 1, tokens, d, block); // kept beside the cache, extended with it
    means.append(memory(k));

    auto const best_of = [](auto const& step) {
        double best = 1e9;
        for (int n = 0; n < 5; ++n) {
            auto const begin = std::chrono::steady_clock::now();
            step();
            double const took = std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - begin).count();
            best = took < best ? took : best;
        }
        return best;
    };
    double const all = best_of([&] { heed::decode(heed::softmax_attention(), row(q), cache, row(dense)); });
    heed::extent_t needle_blocks = 0;
    double const some = best_of([&] {
        heed::block_bits const chosen = heed::select_moba(row(q), memory(k), means, top);
        needle_blocks = 0;
        for (heed::extent_t h = 0; h < heads; ++h) { needle_blocks += chosen.keeps(0, h, 0, needle / block); }
        heed::decode(heed::moba_attention(chosen.map(1, block)), row(q), cache, row(routed));
    });
    double worst = 0;
    for (heed::extent_t x = 0; x < heads * d; ++x) {
        double const answer = static_cast<double>(x % d % 7);
        worst = std::fmax(worst, std::fmax(std::fabs(static_cast<double>(dense[static_cast<std::size_t>(x)]) - answer), std::fabs(static_cast<double>(routed[static_cast<std::size_t>(x)]) - answer)));
    }
    double const mebi = 1.0 / (1 << 20), row_bytes = 2.0 * d * sizeof(float);
    std::printf("%lld tokens, %lld heads on one\n", static_cast<long long>(tokens), static_cast<long long>(heads));
    std::printf("dense  %8.3f ms a step, reads %.2f MiB of %.1f MiB\n", all, static_cast<double>(tokens) * row_bytes * mebi, static_cast<double>(cache.bytes()) * mebi);
    std::printf("MoBA   %8.3f ms a step, reads %.2f MiB at most, keeps %.2f MiB of means beside\n", some,
                (static_cast<double>(blocks) * row_bytes / 2 + static_cast<double>(heads * top * block) * row_bytes) * mebi, static_cast<double>(means.bytes()) * mebi);
    std::printf("needle found by %lld of %lld heads, farthest from the answer %.4f\n", static_cast<long long>(needle_blocks), static_cast<long long>(heads), worst);
    return needle_blocks == heads && worst < 0.05 ? 0 : 1;
}
