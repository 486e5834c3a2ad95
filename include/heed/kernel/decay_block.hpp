// SPDX-License-Identifier: BSD-3-Clause
// Decays of one block of tokens, a few rows square. Channel decays are carried from token to token as products of numbers in [0, 1], channels along the
// lanes: no exponential of a cumulated sum is divided by another, so nothing overflows whatever the decays.
//   diagonal_scores      a[t][s] = sum_c q[t][c] k[s][c] prod_{s < r <= t} e[r][c], s <= t
//   diagonal_gradients   of the same by q and k: sums of k, and of q, weighted with decays in between; either by itself too
//   substitute           u_t = beta_t (u_t - sum_{s < t} b[t][s] u_s), inside a block of at most six rows; and its transpose
#pragma once

#include <heed/kernel/lane_reduce.hpp>

namespace heed {

namespace detail {
// to[i] = the sum of the lanes of sums[i], a register's worth of them at a time.
template <class T, class A>
HEED_INLINE void flush_sums(vec<T, A>* sums, extent_t count, T* to) {
    using V = vec<T, A>;
    constexpr int lanes = V::lanes;
    for (extent_t i = 0; i < count; i += lanes) {
        V x[lanes];
        for (int l = 0; l < lanes; ++l) { x[l] = i + l < count ? sums[i + l] : V(0); }
        V const r = reduce_lanes<T, A>(x, [](V a, V b) HEED_INLINE_LAMBDA { return a + b; });
        T part[lanes];
        r.store(part);
        for (int l = 0; l < lanes && i + l < count; ++l) { to[i + l] = part[l]; }
    }
}
} // namespace detail

inline constexpr int decay_block_rows = 16;

// q, k, e: rows of `pitch`, zeros from the width up to `width`, a multiple of the lanes; a: rows of a_pitch.
template <class A, class T>
void diagonal_scores(T const* q, T const* k, T const* e, extent_t pitch, extent_t rows, extent_t width, T* a, extent_t a_pitch) {
    using V = vec<T, A>;
    constexpr int lanes = V::lanes, group = registers<A> == 32 ? 8 : 4;
    V sums[decay_block_rows];
    T line[decay_block_rows];
    for (extent_t s = 0; s < rows; ++s) {
        for (extent_t t = s; t < rows; ++t) { sums[t] = V(0); }
        extent_t c = 0;
        auto const walk = [&](auto size) HEED_INLINE_LAMBDA {
            constexpr int G = decltype(size)::value;
            V x[G]; // k_s, decayed up to token t
            static_for<G>([&](auto g) HEED_INLINE_LAMBDA { x[g] = V::load(k + s * pitch + c + g * lanes); });
            for (extent_t t = s; t < rows; ++t) {
                if (t > s) {
                    static_for<G>([&](auto g) HEED_INLINE_LAMBDA { x[g] = x[g] * V::load(e + t * pitch + c + g * lanes); });
                }
                V one = sums[t], two(0);
                static_for<G>([&](auto g) HEED_INLINE_LAMBDA {
                    if constexpr (decltype(g)::value % 2 == 0) {
                        one = fma(x[g], V::load(q + t * pitch + c + g * lanes), one);
                    } else {
                        two = fma(x[g], V::load(q + t * pitch + c + g * lanes), two);
                    }
                });
                sums[t] = one + two;
            }
            c += G * lanes;
        };
        while (c + group * lanes <= width) { walk(std::integral_constant<int, group>{}); }
        while (c < width) { walk(std::integral_constant<int, 1>{}); }
        detail::flush_sums<T, A>(sums + s, rows - s, line);
        for (extent_t t = s; t < rows; ++t) { a[t * a_pitch + s] = line[t - s]; }
    }
}

// dq[t] += sum_s da[t][s] k[s] prod e (Later), dk[s] += sign sum_t da[t][s] q[t] prod e (Earlier)
template <class A, bool Later = true, bool Earlier = true, class T>
void diagonal_gradients(T const* da, extent_t a_pitch, T const* q, T const* k, T const* e, extent_t pitch, extent_t rows, extent_t width, T* dq, T* dk, T sign) {
    using V = vec<T, A>;
    constexpr int lanes = V::lanes;
    for (extent_t s = 0; s < rows; ++s) {
        for (extent_t c = 0; c < width; c += lanes) {
            V const key = Later ? V::load(k + s * pitch + c) : V(0);
            V decay(1), sum(0);
            for (extent_t t = s; t < rows; ++t) {
                extent_t const at = t * pitch + c;
                if (t > s) { decay = decay * V::load(e + at); }
                V const d(da[t * a_pitch + s]);
                if constexpr (Later) { fma(d, key * decay, V::load(dq + at)).store(dq + at); }
                if constexpr (Earlier) { sum = fma(d, V::load(q + at) * decay, sum); }
            }
            if constexpr (Earlier) { fma(sum, V(sign), V::load(dk + s * pitch + c)).store(dk + s * pitch + c); }
        }
    }
}

inline constexpr int substitute_rows = 6;

// r, if not null, keeps what beta is multiplied with. u, beta, r: rows of `pitch`; b: rows of b_pitch.
template <class A, class T>
void substitute(T const* b, extent_t b_pitch, extent_t rows, T const* beta, extent_t pitch, extent_t width, T* u, T* r) {
    using V = vec<T, A>;
    for (extent_t c = 0; c < width; c += V::lanes) {
        V x[substitute_rows];
        static_for<substitute_rows>([&](auto t) HEED_INLINE_LAMBDA { x[t] = V(0); });
        static_for<substitute_rows>([&](auto t) HEED_INLINE_LAMBDA {
            if (t < rows) {
                V sum = V::load(u + t * pitch + c);
                static_for<decltype(t)::value>([&](auto s) HEED_INLINE_LAMBDA { sum = sum - V(b[t * b_pitch + s]) * x[s]; });
                if (r != nullptr) { sum.store(r + t * pitch + c); }
                x[t] = sum * V::load(beta + t * pitch + c);
                x[t].store(u + t * pitch + c);
            }
        });
    }
}
// The transpose, from the last row to the first: d_t -= sum_{s > t} b[s][t] h_s, h_t = beta_t d_t. h holds d before and h after; dbeta, if not null, becomes r d, of the r that substitute kept.
template <class A, class T>
void substitute_back(T const* b, extent_t b_pitch, extent_t rows, T const* beta, extent_t pitch, extent_t width, T* h, T const* r = nullptr, T* dbeta = nullptr) {
    using V = vec<T, A>;
    for (extent_t c = 0; c < width; c += V::lanes) {
        V x[substitute_rows];
        static_for<substitute_rows>([&](auto t) HEED_INLINE_LAMBDA { x[t] = V(0); });
        static_for<substitute_rows>([&](auto back) HEED_INLINE_LAMBDA {
            constexpr int t = substitute_rows - 1 - decltype(back)::value;
            if (t < rows) {
                V sum = V::load(h + t * pitch + c);
                static_for<decltype(back)::value>([&](auto later) HEED_INLINE_LAMBDA {
                    constexpr int s = t + 1 + decltype(later)::value;
                    if (s < rows) { sum = sum - V(b[s * b_pitch + t]) * x[s]; }
                });
                if (dbeta != nullptr) { (sum * V::load(r + t * pitch + c)).store(dbeta + t * pitch + c); }
                x[t] = sum * V::load(beta + t * pitch + c);
                x[t].store(h + t * pitch + c);
            }
        });
    }
}

} // namespace heed
