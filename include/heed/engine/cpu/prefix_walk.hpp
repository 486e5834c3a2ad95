// SPDX-License-Identifier: BSD-3-Clause
// Causal mixing with a softmax over the prefix,
//
//   out_i = sum_(t <= i) exp(z_t) v_(i - t) / sum_(t <= i) exp(z_t)
//
// as products of whole blocks. One scale for all of exp(z) would lose the rows before the largest score; so the triangle t <= i is cut until each block's
// largest score is at most ln 4 above the largest that its rows see: halves of a triangle are two triangles and a square, and a square's rows
// see all of its scores. Scores that rise for ever cost O(N log^2 N), others two or three transforms' worth.
#pragma once

#include <heed/engine/cpu/spectral_layout.hpp>

namespace heed {

// The largest of the scores that were taken, and the sum of exp(z - largest).
template <class T, class A>
struct running_denominator {
    T largest = -math::inf<T>();
    double sum = 0;

    void take(T z) {
        if (!(z <= largest)) { // NaN too, which then stays
            sum = largest > -math::inf<T>() ? sum * static_cast<double>(exp_of(largest - z)) : 0;
            largest = z;
        }
        if (largest != -math::inf<T>()) { sum += static_cast<double>(exp_of(z - largest)); }
    }
    T inverse() const { return static_cast<T>(sum == 0 ? 0 : 1 / sum); }
    HEED_INLINE static T exp_of(T x) {
        T part[vec<T, A>::lanes];
        exp(vec<T, A>(x)).store(part);
        return part[0];
    }
};

// Per row: the largest score so far, and 1 / sum of exp(z_t - largest), 0 where no score is above -inf.
template <class T, class A>
struct prefix_rows {
    T *scores, *top, *inverse;

    // returns whether all scores are numbers or -inf
    bool read(T const* z, extent_t step, extent_t count) const {
        running_denominator<T, A> state;
        bool fine = true;
        for (extent_t i = 0; i < count; ++i) {
            T const x = scores[i] = z[i * step];
            fine &= x < math::inf<T>();
            state.take(x);
            top[i] = state.largest;
            inverse[i] = state.inverse();
        }
        return fine;
    }
    // to[t] = exp(scores[first + t] - scale); scale finite
    HEED_INLINE void weights(extent_t first, extent_t count, T scale, T* to) const {
        each(first, count, to, [&](T x, extent_t) HEED_INLINE_LAMBDA { return x - scale; }, scores);
    }
    // to[i] = exp(scale - top) / sum of the row first + i: what a block of that scale counts there
    void shares(extent_t first, extent_t count, T scale, T* to) const {
        each(first, count, to, [&](T x, extent_t) HEED_INLINE_LAMBDA { return scale - x; }, top);
        for (extent_t i = 0; i < count; ++i) { to[i] = inverse[first + i] == T(0) ? T(0) : to[i] * inverse[first + i]; }
    }
    T largest(extent_t first, extent_t count) const {
        T m = -math::inf<T>();
        for (extent_t i = first; i < first + count; ++i) { m = scores[i] > m ? scores[i] : m; }
        return m;
    }

    HEED_INLINE static T exp_of(T x) { return running_denominator<T, A>::exp_of(x); }

private:
    template <class F>
    HEED_INLINE static void each(extent_t first, extent_t count, T* to, F const& f, T const* from) {
        using V = vec<T, A>;
        T part[V::lanes];
        for (extent_t i = 0; i < count; i += V::lanes) {
            extent_t const n = count - i < V::lanes ? count - i : V::lanes;
            for (extent_t l = 0; l < V::lanes; ++l) { part[l] = l < n ? f(from[first + i + l], i + l) : T(0); }
            exp(V::load(part)).store(part);
            for (extent_t l = 0; l < n; ++l) { to[i + l] = part[l]; }
        }
    }
};

// Blocks are base * 2^level scores.
struct prefix_blocks {
    extent_t rows = 0, base = 0;
    int levels = 0;

    static prefix_blocks of(extent_t rows) {
        prefix_blocks b;
        b.rows = rows;
        extent_t part = rows;
        for (; part > 64; part = (part + 1) / 2) { ++b.levels; }
        extent_t const least = part < 32 ? 32 : part; // (rows + 2^levels - 1) / 2^levels
        for (b.base = least; !(fft_is_smooth(b.base) && b.base % 11 && b.base % 13); ++b.base) {}
        return b;
    }
    extent_t block(int level) const { return base << level; }
};

// f(kind, first, size, level): triangle: scores and rows first ... first + size - 1; square: scores first ... first + size / 2 - 1, rows first + size / 2 ...
// A triangle of level 0 is to be taken row by row.
enum class prefix_part { triangle, square };
template <class T, class A, class F>
void walk_prefix(prefix_rows<T, A> const& rows, prefix_blocks const& b, extent_t first, int level, F const& f) {
    if (first >= b.rows) { return; }
    extent_t const size = b.block(level), have = b.rows - first < size ? b.rows - first : size;
    if (level == 0 || rows.largest(first, have) <= rows.top[first] + T(1.3862944)) {
        f(prefix_part::triangle, first, have, level);
        return;
    }
    walk_prefix(rows, b, first, level - 1, f);
    if (have > size / 2) {
        f(prefix_part::square, first, have, level);
        walk_prefix(rows, b, first + size / 2, level - 1, f);
    }
}

} // namespace heed
