// SPDX-License-Identifier: BSD-3-Clause
#include "witness.hpp"

#include "limit_registers.hpp"
#include "team.hpp"

#include <memory>
#include <vector>

#include <unistd.h>

namespace heed::bench {

namespace {

using vector = lanes<float>::type;
constexpr std::size_t chains = 12;

std::size_t near_cache_bytes() {
#if defined(_SC_LEVEL1_DCACHE_SIZE)
    if (long const bytes = sysconf(_SC_LEVEL1_DCACHE_SIZE); bytes > 0) return static_cast<std::size_t>(bytes);
#endif
    return 32768;
}

template <std::size_t... I>
[[gnu::noinline]] float pass(vector const* data, std::size_t count, long rounds, float factor, std::index_sequence<I...>) {
    vector const f = vector{} + factor;
    vector acc[] = {(vector{} + static_cast<float>(I))...};
    for (long round = 0; round < rounds; ++round)
        for (std::size_t at = 0; at < count; at += sizeof...(I)) ((acc[I] = data[at + I] * f + acc[I]), ...);
    return (acc[I][0] + ...);
}

} // namespace

std::function<void()> witness(int threads) {
    auto const count = near_cache_bytes() * 3 / 4 / sizeof(vector) / chains * chains;
    std::vector<std::vector<vector>> data(static_cast<std::size_t>(threads), std::vector<vector>(count, vector{} + 1e-3f));
    auto const rounds = static_cast<long>(150'000 / count); // 150 000 loads a call, at most two a cycle
    return [data = std::make_shared<std::vector<std::vector<vector>> const>(std::move(data)), count, rounds, threads] {
        on_team(threads, [&](int thread) {
            float volatile factor = 0.5f;
            [[maybe_unused]] float volatile result = pass((*data)[static_cast<std::size_t>(thread)].data(), count, rounds, factor, std::make_index_sequence<chains>{});
        });
    };
}

} // namespace heed::bench
