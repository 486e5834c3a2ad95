// SPDX-License-Identifier: BSD-3-Clause
#include "limit_registers.hpp"

#if defined(__AVX512BF16__)
#include <immintrin.h>
#endif

namespace heed::bench {

#if defined(__AVX512BF16__)
namespace {

template <std::size_t... I>
[[gnu::noinline]] float iterate_bf16(long steps, __m512bh a, __m512bh b, std::index_sequence<I...>) {
    __m512 acc[] = {_mm512_set1_ps(static_cast<float>(I))...};
    for (long step = 0; step < steps; ++step) ((acc[I] = _mm512_dpbf16_ps(acc[I], a, b)), ...);
    return (_mm512_cvtss_f32(acc[I]) + ...);
}

void run_bf16(long steps) {
    float volatile factor = 1.0f, term = -0.0625f;
    auto const broadcast = [](float x) { return _mm512_cvtne2ps_pbh(_mm512_set1_ps(x), _mm512_set1_ps(x)); };
    [[maybe_unused]] float volatile result =
        iterate_bf16(steps, broadcast(factor), broadcast(term), std::make_index_sequence<accumulators>{});
}

} // namespace
#endif

namespace native {

register_loop fma_f32() { return loop_of<float, fma_step>(); }
register_loop fma_f64() { return loop_of<double, fma_step>(); }
register_loop add_max() { return fastest(loop_of<float, add_max_step>(), loop_of<float, fma_max_step>()); }

register_loop range() { return fastest(range_loop<false>(), range_loop<true>()); }

register_loop bf16_dot() {
#if defined(__AVX512BF16__)
    double const per_step = 4.0 * static_cast<double>(accumulators * lanes<float>::count); // two products and two sums per lane
    auto const steps = static_cast<long>(2 * per_call / per_step);
    return {&run_bf16, steps, static_cast<double>(steps) * per_step};
#else
    return {};
#endif
}

} // namespace native
} // namespace heed::bench
