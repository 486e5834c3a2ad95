// SPDX-License-Identifier: BSD-3-Clause
// Products of a few queries with keys that lie in runs: query r of a block meets row first[r] + x at slot begin + x. Neighbours on a ring see runs that shift
// by one row from query to query, so a row that is loaded once serves all queries of the block that see it, and no product is made that nobody wants.
//
//   scores    s[x][r] = q_r . k(x, r)                      vectors along features; the lanes of a register's worth of products are reduced at once
//   sums      o_r = o_r factor_r + sum_x p[x][r] v(x, r)   vectors along features
//   scatter   g(x, r) += p[x][r] q_r                       the adjoint of sums
//
// Rows are whole vectors, zeros behind the last feature, all of one pitch. Each score and each feature of a sum is one chain over its slots in their order,
// whatever shares a register: the bits of a query do not depend on its block.
#pragma once

#include <heed/kernel/lane_reduce.hpp>
#include <heed/kernel/math.hpp>

namespace heed {

struct slot_run {
    std::int32_t begin, count;
    std::int32_t first[4];
    std::int32_t shift; // first[r] = first[0] + r shift for every query, or -1
};

template <class T, class A>
struct ring_products {
    using V = vec<T, A>;
    using index = typename index_of<V>::value_type;
    static constexpr int lanes = V::lanes;
    static constexpr int rows = lanes < 4 ? lanes : 4; // queries of a block
    static constexpr int slots = lanes / rows;         // of a vector of scores, lane = slot * rows + query

    // s: [slots_in_all][rows], a multiple of `slots`; at: the row of every (slot, query), valid ones even behind the last run. q: [rows][pitch].
    static void scores(T const* q, T const* k, extent_t pitch, slot_run const* runs, int count, index const* at, int slots_in_all, T* s);
    // p: [slot][rows]; o: [rows][pitch].
    static void sums(T const* v, extent_t pitch, slot_run const* runs, int count, T const* p, T const* factor, T* o);
    // q: [rows][pitch], the first `valid` queries only.
    static void scatter(T const* q, extent_t pitch, slot_run const* runs, int count, T const* p, int valid, T* g);

    // Combines the lanes of each query: every lane of the result holds that of its own.
    template <class F>
    HEED_INLINE static V fold(V x, [[maybe_unused]] F const& f) {
        using native [[maybe_unused]] = typename V::native;
#if defined(__AVX512F__)
        if constexpr (lanes == 16) {
            x = f(x, V(native(_mm512_maskz_shuffle_f32x4(0xffff, x.v, x.v, 0x4e))));
            return f(x, V(native(_mm512_maskz_shuffle_f32x4(0xffff, x.v, x.v, 0xb1))));
        } else if constexpr (lanes == 8 && sizeof(T) == 8) {
            return f(x, V(native(_mm512_maskz_shuffle_f64x2(0xff, x.v, x.v, 0x4e))));
        } else
#endif
#if defined(__AVX__)
        if constexpr (lanes == 8 && sizeof(T) == 4) {
            return f(x, V(native(_mm256_permute2f128_ps(x.v, x.v, 1))));
        } else
#endif
        {
            static_assert(slots == 1, "heed: registers of this width need a fold of their own");
            return x;
        }
    }

private:
    static constexpr bool many = registers<A> == 32;

    // Queries x slots of rows that shift by Shift from query to query: slots + (rows - 1) Shift rows are loaded once.
    template <int Shift>
    HEED_INLINE static V shared_block(T const* HEED_RESTRICT q, T const* HEED_RESTRICT k, extent_t pitch) {
        V acc[lanes];
        static_for<lanes>([&](auto l) HEED_INLINE_LAMBDA { acc[l] = V(0); });
        for (extent_t c = 0; c < pitch; c += lanes) {
            V y[rows];
            static_for<rows>([&](auto r) HEED_INLINE_LAMBDA {
                y[r] = V::load(q + r * pitch + c);
                pin(y[r]);
            });
            static_for<slots + (rows - 1) * Shift>([&](auto u) HEED_INLINE_LAMBDA {
                V z = V::load(k + u * pitch + c);
                pin(z);
                static_for<rows>([&](auto r) HEED_INLINE_LAMBDA {
                    constexpr int x = decltype(u)::value - decltype(r)::value * Shift;
                    if constexpr (0 <= x && x < slots) { acc[x * rows + r] = fma(y[r], z, acc[x * rows + r]); }
                });
            });
        }
        return reduce_lanes(acc, [](V a, V b) HEED_INLINE_LAMBDA { return a + b; });
    }
    // Any rows: a query's features wait in registers for the rows that it meets.
    HEED_INLINE static V any_block(T const* HEED_RESTRICT q, T const* HEED_RESTRICT k, extent_t pitch, index const* HEED_RESTRICT at) {
        V acc[lanes];
        static_for<lanes>([&](auto l) HEED_INLINE_LAMBDA { acc[l] = V(0); });
        extent_t c = 0;
        auto const take = [&](auto size) HEED_INLINE_LAMBDA {
            constexpr int C = decltype(size)::value;
            static_for<rows>([&](auto r) HEED_INLINE_LAMBDA {
                V y[C];
                static_for<C>([&](auto f) HEED_INLINE_LAMBDA {
                    y[f] = V::load(q + r * pitch + c + f * lanes);
                    pin(y[f]);
                });
                static_for<slots>([&](auto x) HEED_INLINE_LAMBDA {
                    T const* const z = k + static_cast<extent_t>(at[x * rows + r]) * pitch + c;
                    static_for<C>([&](auto f) HEED_INLINE_LAMBDA { acc[x * rows + r] = fma(y[f], V::load(z + f * lanes), acc[x * rows + r]); });
                });
            });
            c += C * lanes;
        };
        while (c + 4 * lanes <= pitch) { take(std::integral_constant<int, 4>{}); }
        while (c < pitch) { take(std::integral_constant<int, 1>{}); }
        return reduce_lanes(acc, [](V a, V b) HEED_INLINE_LAMBDA { return a + b; });
    }

    // One row of values for the queries [First, Last) that see it; p: the weight of query 0 if it saw the row, back: how far the next query's lies behind.
    template <int First, int Last, int W, extent_t Back>
    HEED_INLINE static void add_row(V (&acc)[rows][W], T const* v, T const* p) {
        V x[W];
        static_for<W>([&](auto w) HEED_INLINE_LAMBDA {
            x[w] = V::load(v + w * lanes);
            pin(x[w]);
        });
        static_for<Last - First>([&](auto n) HEED_INLINE_LAMBDA {
            constexpr int r = First + decltype(n)::value;
            V y(p[-r * Back]);
            pin(y);
            static_for<W>([&](auto w) HEED_INLINE_LAMBDA { acc[r][w] = fma(x[w], y, acc[r][w]); });
        });
    }
    template <int W>
    HEED_INLINE static void add_run(V (&acc)[rows][W], T const* HEED_RESTRICT v, extent_t pitch, slot_run const& run, T const* HEED_RESTRICT p) {
        constexpr extent_t aligned = -1, shifted = rows - 1; // p[x][r]: one step of r, and a slot back
        T const* from = v + run.first[0] * pitch;
        if (run.shift == 0) {
            for (int x = 0; x < run.count; ++x, from += pitch, p += rows) { add_row<0, rows, W, aligned>(acc, from, p); }
        } else if (run.shift == 1 && run.count >= rows) {
            static_for<rows - 1>([&](auto t) HEED_INLINE_LAMBDA {
                add_row<0, decltype(t)::value + 1, W, shifted>(acc, from, p);
                from += pitch, p += rows;
            });
            for (int x = rows - 1; x < run.count; ++x, from += pitch, p += rows) { add_row<0, rows, W, shifted>(acc, from, p); }
            static_for<rows - 1>([&](auto t) HEED_INLINE_LAMBDA {
                add_row<decltype(t)::value + 1, rows, W, shifted>(acc, from, p);
                from += pitch, p += rows;
            });
        } else {
            T const* of[rows];
            static_for<rows>([&](auto r) HEED_INLINE_LAMBDA { of[r] = v + run.first[r] * pitch; });
            for (int x = 0; x < run.count; ++x, p += rows) {
                static_for<rows>([&](auto r) HEED_INLINE_LAMBDA {
                    add_row<r, r + 1, W, aligned>(acc, of[r], p);
                    of[r] += pitch;
                });
            }
        }
    }
    template <int W>
    static void strip_of_sums(T const* v, extent_t pitch, slot_run const* runs, int count, T const* p, T const* factor, T* o) {
        V acc[rows][W];
        static_for<rows>([&](auto r) HEED_INLINE_LAMBDA { static_for<W>([&](auto w) HEED_INLINE_LAMBDA { acc[r][w] = V(0); }); });
        for (int g = 0; g < count; ++g) { add_run<W>(acc, v, pitch, runs[g], p + runs[g].begin * rows); }
        static_for<rows>([&](auto r) HEED_INLINE_LAMBDA {
            V const by(factor[r]);
            static_for<W>([&](auto w) HEED_INLINE_LAMBDA {
                T* const to = o + r * pitch + w * lanes;
                fma(V::load(to), by, acc[r][w]).store(to);
            });
        });
    }

    template <int First, int Last, int W, extent_t Back>
    HEED_INLINE static void send_row(V const (&q)[rows][W], T* g, T const* p) {
        V sum[W];
        static_for<W>([&](auto w) HEED_INLINE_LAMBDA { sum[w] = V::load(g + w * lanes); });
        static_for<Last - First>([&](auto n) HEED_INLINE_LAMBDA {
            constexpr int r = First + decltype(n)::value;
            V y(p[-r * Back]);
            pin(y);
            static_for<W>([&](auto w) HEED_INLINE_LAMBDA { sum[w] = fma(q[r][w], y, sum[w]); });
        });
        static_for<W>([&](auto w) HEED_INLINE_LAMBDA { sum[w].store(g + w * lanes); });
    }
    template <int W>
    static void strip_of_scatter(T const* q, extent_t pitch, slot_run const* runs, int count, T const* weights, int valid, T* g) {
        constexpr extent_t aligned = -1, shifted = rows - 1;
        V of[rows][W];
        static_for<rows>([&](auto r) HEED_INLINE_LAMBDA { static_for<W>([&](auto w) HEED_INLINE_LAMBDA { of[r][w] = V::load(q + r * pitch + w * lanes); }); });
        for (int n = 0; n < count; ++n) {
            slot_run const& run = runs[n];
            T const* p = weights + run.begin * rows;
            T* to = g + run.first[0] * pitch;
            if (valid == rows && run.shift == 0) {
                for (int x = 0; x < run.count; ++x, to += pitch, p += rows) { send_row<0, rows, W, aligned>(of, to, p); }
            } else if (valid == rows && run.shift == 1 && run.count >= rows) {
                static_for<rows - 1>([&](auto t) HEED_INLINE_LAMBDA {
                    send_row<0, decltype(t)::value + 1, W, shifted>(of, to, p);
                    to += pitch, p += rows;
                });
                for (int x = rows - 1; x < run.count; ++x, to += pitch, p += rows) { send_row<0, rows, W, shifted>(of, to, p); }
                static_for<rows - 1>([&](auto t) HEED_INLINE_LAMBDA {
                    send_row<decltype(t)::value + 1, rows, W, shifted>(of, to, p);
                    to += pitch, p += rows;
                });
            } else {
                for (int x = 0; x < run.count; ++x, p += rows) {
                    static_for<rows>([&](auto r) HEED_INLINE_LAMBDA {
                        if (r < valid) { send_row<r, r + 1, W, aligned>(of, g + (run.first[r] + x) * pitch, p); }
                    });
                }
            }
        }
    }
    // Features in strips of Most vectors, then of fewer.
    template <int Most, class F>
    HEED_INLINE static void in_strips(extent_t pitch, F const& f) {
        extent_t e = 0;
        for (; e + Most * lanes <= pitch; e += Most * lanes) { f(std::integral_constant<int, Most>{}, e); }
        if constexpr (Most > 2) {
            if (e + 2 * lanes <= pitch) { f(std::integral_constant<int, 2>{}, e), e += 2 * lanes; }
        }
        for (; e < pitch; e += lanes) { f(std::integral_constant<int, 1>{}, e); }
    }
};

template <class T, class A>
void ring_products<T, A>::scores(T const* q, T const* k, extent_t pitch, slot_run const* runs, int count, index const* at, int slots_in_all, T* s) {
    int g = 0;
    for (int x = 0; x < slots_in_all; x += slots, s += lanes) {
        while (g + 1 < count && runs[g].begin + runs[g].count <= x) { ++g; }
        slot_run const& run = runs[g];
        bool const inside = x + slots <= run.begin + run.count;
        T const* const from = k + (run.first[0] + x - run.begin) * pitch;
        if (inside && run.shift == 1) {
            shared_block<1>(q, from, pitch).store(s);
        } else if (inside && run.shift == 0) {
            shared_block<0>(q, from, pitch).store(s);
        } else {
            any_block(q, k, pitch, at + x * rows).store(s);
        }
    }
}
template <class T, class A>
void ring_products<T, A>::sums(T const* v, extent_t pitch, slot_run const* runs, int count, T const* p, T const* factor, T* o) {
    in_strips<many ? 4 : 3>(pitch, [&](auto width, extent_t e) { strip_of_sums<decltype(width)::value>(v + e, pitch, runs, count, p, factor, o + e); });
}
template <class T, class A>
void ring_products<T, A>::scatter(T const* q, extent_t pitch, slot_run const* runs, int count, T const* p, int valid, T* g) {
    in_strips<many ? 4 : 2>(pitch, [&](auto width, extent_t e) { strip_of_scatter<decltype(width)::value>(q + e, pitch, runs, count, p, valid, g + e); });
}

} // namespace heed
