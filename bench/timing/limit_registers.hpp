// SPDX-License-Identifier: BSD-3-Clause
// Loops that live in registers. The accumulators are named one by one through a pack, so that the compiler never sees an
// array it could leave in memory, and there are enough of them to cover the latency of every pipe.
// Everything is local to the including file: two files with different instruction sets include this.
#pragma once

#include "limit.hpp"
#include "stopwatch.hpp"

#include <algorithm>
#include <cstddef>
#include <utility>

namespace heed::bench {
namespace {

#if defined(__AVX512F__)
constexpr std::size_t vector_bytes = 64, accumulators = 24; // of 32 registers
#elif defined(__AVX__)
constexpr std::size_t vector_bytes = 32, accumulators = 12; // of 16
#else
constexpr std::size_t vector_bytes = 16, accumulators = 12;
#endif

template <class T>
struct lanes {
    typedef T type __attribute__((vector_size(vector_bytes)));
    static constexpr std::size_t count = vector_bytes / sizeof(T);
};

struct fma_step {
    template <class V>
    static V apply(V own, V /*neighbour*/, V factor, V term) {
        return own * factor + term;
    }
};

struct add_max_step { // max(acc, a + b)
    template <class V>
    static V apply(V own, V neighbour, V /*factor*/, V term) {
        V const sum = neighbour + term;
        return own > sum ? own : sum;
    }
};

struct fma_max_step { // the same value, the addition on the multiply pipes: exact, since factor is 1
    template <class V>
    static V apply(V own, V neighbour, V factor, V term) {
        V const sum = neighbour * factor + term;
        return own > sum ? own : sum;
    }
};

template <class T, class Step, std::size_t... I>
[[gnu::noinline]] T iterate(long steps, T factor, T term, std::index_sequence<I...>) {
    using vector = typename lanes<T>::type;
    vector const f = vector{} + factor, t = vector{} + term;
    vector acc[] = {(vector{} + static_cast<T>(I + 1))...};
    for (long step = 0; step < steps; ++step) ((acc[I] = Step::apply(acc[I], acc[(I + 1) % sizeof...(I)], f, t)), ...);
    return (acc[I][0] + ...);
}

// One step of a Hilbert score: a difference, its maximum and its minimum. Two accumulators a step, half as many chains.
template <bool ByProduct, std::size_t... I>
[[gnu::noinline]] float iterate_range(long steps, float factor, float term, std::index_sequence<I...>) {
    using vector = typename lanes<float>::type;
    vector const f = vector{} + factor, t = vector{} + term;
    vector top[] = {(vector{} + static_cast<float>(I + 1))...}, low[] = {(vector{} - static_cast<float>(I + 1))...};
    auto const one = [&](vector& high, vector& least, vector neighbour) {
        vector const x = ByProduct ? neighbour * f + t : neighbour + t;
        high = x > high ? x : high;
        least = x < least ? x : least;
    };
    for (long step = 0; step < steps; ++step) (one(top[I], low[I], low[(I + 1) % sizeof...(I)]), ...);
    return ((top[I][0] + low[I][0]) + ...);
}
template <bool ByProduct>
void run_range(long steps) {
    float volatile factor = 1.0f, term = 0.0625f;
    [[maybe_unused]] float volatile result = iterate_range<ByProduct>(steps, factor, term, std::make_index_sequence<accumulators / 2>{});
}

template <class T, class Step>
void run_registers(long steps) {
    T volatile factor = T(1), term = T(-0.0625); // values the compiler may not know
    [[maybe_unused]] T volatile result = iterate<T, Step>(steps, factor, term, std::make_index_sequence<accumulators>{});
}

constexpr double per_call = 1e8; // operations: a millisecond or two, as short as a slice and long against the start of a thread team

template <class T, class Step>
[[maybe_unused]] register_loop loop_of() {
    double const per_step = 2.0 * static_cast<double>(accumulators * lanes<T>::count);
    auto const steps = static_cast<long>(per_call / per_step);
    return {&run_registers<T, Step>, steps, static_cast<double>(steps) * per_step};
}

template <bool ByProduct>
[[maybe_unused]] register_loop range_loop() { // counted as two operations a step, like an addition and a maximum
    double const per_step = 2.0 * static_cast<double>(accumulators / 2 * lanes<float>::count);
    auto const steps = static_cast<long>(per_call / per_step);
    return {&run_range<ByProduct>, steps, static_cast<double>(steps) * per_step};
}

[[maybe_unused]] register_loop fastest(register_loop a, register_loop b) {
    auto const rate = [](register_loop loop) {
        double best = 0;
        for (int repetition = 0; repetition < 3; ++repetition) best = std::max(best, loop.work / time_of([&] { loop.run(loop.steps); }));
        return best;
    };
    return rate(a) > rate(b) ? a : b;
}

} // namespace
} // namespace heed::bench
