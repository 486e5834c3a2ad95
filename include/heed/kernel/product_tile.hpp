// SPDX-License-Identifier: BSD-3-Clause
// product_tile: small dense products out of the first caches, c[i][n] (+)= sum_j a(i, j) b[j][n], vectors along the columns n.
//
// a is read one scalar at a time, with any strides (its transpose costs nothing); b and c are rows of whole vectors. A block of R rows by W vectors lives in
// registers: R W fused multiply-adds for R + W loads. Each element is one chain of sums over j in order, whatever the blocks: columns may be split
// between threads, and rows between calls, without a bit changing.
// Triangular operands: `reach` leaves out the sums over zeros that stand outside a row's block.
#pragma once

#include <heed/kernel/batch.hpp>
#include <heed/kernel/coming_rows.hpp>

namespace heed {

enum class put { write, add, subtract, scale_add, scale_columns }; // scale_add: c = c * factor[i] + sum; scale_columns: c * factor[n] + sum
enum class reach {
    all,
    lower,   // a(i, j) = 0 for j > i
    upper,   // a(i, j) = 0 for j < i
    columns, // only columns n <= i are wanted
};

template <class T, class A>
struct product_tile {
    using V = vec<T, A>;
    static constexpr int lanes = V::lanes;
    static constexpr bool many = registers<A> == 32;
    static constexpr int rows = 6, vecs = many ? 4 : 2; // 24 or 12 accumulators, vecs of b, one of a

    // `n` columns, a multiple of the lanes.
    static void run(extent_t m, extent_t n, extent_t k, T const* a, extent_t am, extent_t ak, T const* b, extent_t bp, T* c, extent_t cp, put mode, reach r = reach::all,
                    T const* factor = nullptr, coming_rows* coming = nullptr);

private:
    template <int R, int W>
    HEED_INLINE static void block(T const* HEED_RESTRICT a, extent_t am, extent_t ak, T const* HEED_RESTRICT b, extent_t bp, extent_t first, extent_t last, T* c,
                                  extent_t cp, put mode, T const* factor) {
        V acc[R][W];
        static_for<R>([&](auto r) HEED_INLINE_LAMBDA { static_for<W>([&](auto w) HEED_INLINE_LAMBDA { acc[r][w] = V(0); }); });
        T const* aj = a + first * ak;
        T const* bj = b + first * bp;
        for (extent_t j = first; j < last; ++j, aj += ak, bj += bp) {
            V x[W];
            static_for<W>([&](auto w) HEED_INLINE_LAMBDA {
                x[w] = V::load(bj + w * lanes);
                pin(x[w]);
            });
            static_for<R>([&](auto r) HEED_INLINE_LAMBDA {
                V y(aj[r * am]);
                pin(y);
                static_for<W>([&](auto w) HEED_INLINE_LAMBDA { acc[r][w] = fma(y, x[w], acc[r][w]); });
            });
        }
        static_for<R>([&](auto r) HEED_INLINE_LAMBDA {
            static_for<W>([&](auto w) HEED_INLINE_LAMBDA {
                T* const to = c + r * cp + w * lanes;
                V const sum = acc[r][w];
                if (mode == put::write) {
                    sum.store(to);
                } else if (mode == put::add) {
                    (V::load(to) + sum).store(to);
                } else if (mode == put::subtract) {
                    (V::load(to) - sum).store(to);
                } else if (mode == put::scale_add) {
                    fma(V::load(to), V(factor[r]), sum).store(to);
                } else {
                    fma(V::load(to), V::load(factor + w * lanes), sum).store(to);
                }
            });
        });
    }
};

template <class T, class A>
void product_tile<T, A>::run(extent_t m, extent_t n, extent_t k, T const* a, extent_t am, extent_t ak, T const* b, extent_t bp, T* c, extent_t cp, put mode, reach reach_of,
                             T const* factor, coming_rows* coming) {
    extent_t const all = n / lanes;
    for (extent_t v = 0; v < all; v += vecs) { // a strip of b stays in the first cache
        auto const walk = [&](auto size, extent_t i) HEED_INLINE_LAMBDA {
            constexpr int R = decltype(size)::value;
            if (coming != nullptr) { coming->ask(16); }
            extent_t count = all - v < vecs ? all - v : extent_t(vecs), first = 0, last = k;
            if (reach_of == reach::lower) {
                last = i + R < k ? i + R : k;
            } else if (reach_of == reach::upper) {
                first = i < k ? i : k;
            } else if (reach_of == reach::columns) {
                extent_t const wanted = (i + R + lanes - 1) / lanes - v;
                count = wanted < count ? wanted : count;
            }
            T const* const at = a + i * am;
            T const* const bt = b + v * lanes;
            T* const ct = c + i * cp + v * lanes;
            T const* const f = factor == nullptr ? nullptr : factor + (mode == put::scale_add ? i : v * lanes);
            if constexpr (vecs == 4) {
                if (count == 4) {
                    block<R, 4>(at, am, ak, bt, bp, first, last, ct, cp, mode, f);
                } else if (count == 3) {
                    block<R, 3>(at, am, ak, bt, bp, first, last, ct, cp, mode, f);
                } else if (count == 2) {
                    block<R, 2>(at, am, ak, bt, bp, first, last, ct, cp, mode, f);
                } else if (count == 1) {
                    block<R, 1>(at, am, ak, bt, bp, first, last, ct, cp, mode, f);
                }
            } else {
                if (count == 2) {
                    block<R, 2>(at, am, ak, bt, bp, first, last, ct, cp, mode, f);
                } else if (count == 1) {
                    block<R, 1>(at, am, ak, bt, bp, first, last, ct, cp, mode, f);
                }
            }
        };
        extent_t i = 0;
        for (; i + rows <= m; i += rows) { walk(std::integral_constant<int, rows>{}, i); }
        if (i + 4 <= m) { walk(std::integral_constant<int, 4>{}, i), i += 4; }
        if (i + 2 <= m) { walk(std::integral_constant<int, 2>{}, i), i += 2; }
        if (i < m) { walk(std::integral_constant<int, 1>{}, i); }
    }
}

} // namespace heed
