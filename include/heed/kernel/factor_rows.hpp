// SPDX-License-Identifier: BSD-3-Clause
// Rows that are sums over a rank: out[e] = sum_r w_r b_r[e], b any element type, vectors along features; and what gradients need of them.
#pragma once

#include <heed/kernel/half.hpp>

namespace heed {

template <class T, class A>
struct factor_rows {
    using C = compute_t<T>;
    using V = vec<C, A>;
    static constexpr int lanes = V::lanes;
    static constexpr int most = 4; // terms summed in registers at once

    // b: `rank` rows of `width` features, rank_stride apart, features `step` apart; w: [rank]. out: [width], contiguous.
    static void combine(T const* b, extent_t rank_stride, extent_t step, C const* w, extent_t rank, extent_t width, C* out) {
        if (step != 1 && width > 1) { return scattered(b, rank_stride, step, w, rank, width, out); }
        extent_t r = 0;
        switch (rank < most ? rank : most) {
        case 4: part<4, false>(b, rank_stride, w, width, out); break;
        case 3: part<3, false>(b, rank_stride, w, width, out); break;
        case 2: part<2, false>(b, rank_stride, w, width, out); break;
        case 1: part<1, false>(b, rank_stride, w, width, out); break;
        default: part<0, false>(b, rank_stride, w, width, out); break;
        }
        for (r = most; r + 2 <= rank; r += 2) { part<2, true>(b + r * rank_stride, rank_stride, w + r, width, out); }
        if (r < rank) { part<1, true>(b + r * rank_stride, rank_stride, w + r, width, out); }
    }

private:
    template <int R, bool Add>
    static void part(T const* HEED_RESTRICT b, extent_t rank_stride, C const* HEED_RESTRICT w, extent_t width, C* HEED_RESTRICT out) {
        V weight[R == 0 ? 1 : R];
        static_for<R>([&](auto r) HEED_INLINE_LAMBDA { weight[r] = V(w[r]); });
        auto const block = [&](extent_t e, auto count) HEED_INLINE_LAMBDA {
            constexpr int W = decltype(count)::value;
            V acc[W];
            static_for<W>([&](auto x) HEED_INLINE_LAMBDA { acc[x] = Add ? V::load(out + e + x * lanes) : V(0); });
            static_for<R>([&](auto r) HEED_INLINE_LAMBDA {
                static_for<W>([&](auto x) HEED_INLINE_LAMBDA { acc[x] = fma(weight[r], load_as<V>(b + r * rank_stride + e + x * lanes), acc[x]); });
            });
            static_for<W>([&](auto x) HEED_INLINE_LAMBDA { acc[x].store(out + e + x * lanes); });
        };
        extent_t e = 0;
        for (; e + 4 * lanes <= width; e += 4 * lanes) { block(e, std::integral_constant<int, 4>{}); }
        for (; e + lanes <= width; e += lanes) { block(e, std::integral_constant<int, 1>{}); }
        for (; e < width; ++e) {
            C sum = Add ? out[e] : C(0);
            for (int r = 0; r < R; ++r) { sum += w[r] * static_cast<C>(b[r * rank_stride + e]); }
            out[e] = sum;
        }
    }
    HEED_NOINLINE static void scattered(T const* b, extent_t rank_stride, extent_t step, C const* w, extent_t rank, extent_t width, C* out) {
        for (extent_t e = 0; e < width; ++e) {
            C sum(0);
            for (extent_t r = 0; r < rank; ++r) { sum += w[r] * static_cast<C>(b[r * rank_stride + e * step]); }
            out[e] = sum;
        }
    }
};

} // namespace heed
