// SPDX-License-Identifier: BSD-3-Clause
// Between rows as the caller keeps them and tiles as the kernels want them: vectors along rows, feature major.
#pragma once

#include <heed/kernel/batch.hpp>

namespace heed {

namespace detail {

// dst[c * dst_pitch + r] = src[r * src_pitch + c], a 4 x 4 block with contiguous rows on both sides.
template <class T, class A>
HEED_INLINE void transpose_4x4(T const* src, extent_t src_pitch, T* dst, extent_t dst_pitch) {
#if defined(__SSE2__)
    if constexpr (sizeof(T) == 4) {
        __m128 a = _mm_loadu_ps(src), b = _mm_loadu_ps(src + src_pitch), c = _mm_loadu_ps(src + 2 * src_pitch), d = _mm_loadu_ps(src + 3 * src_pitch);
        __m128 const t0 = _mm_unpacklo_ps(a, b), t1 = _mm_unpackhi_ps(a, b), t2 = _mm_unpacklo_ps(c, d), t3 = _mm_unpackhi_ps(c, d);
        _mm_storeu_ps(dst, _mm_movelh_ps(t0, t2));
        _mm_storeu_ps(dst + dst_pitch, _mm_movehl_ps(t2, t0));
        _mm_storeu_ps(dst + 2 * dst_pitch, _mm_movelh_ps(t1, t3));
        _mm_storeu_ps(dst + 3 * dst_pitch, _mm_movehl_ps(t3, t1));
        return;
    }
#endif
    for (int r = 0; r < 4; ++r) {
        for (int c = 0; c < 4; ++c) { dst[c * dst_pitch + r] = src[r * src_pitch + c]; }
    }
}

} // namespace detail

// Rows into a tile: dst[c][r] = src[r][c] for r < rows, 0 up to `filled`.
template <class A, class T>
void pack_transposed(T const* src, extent_t row_stride, extent_t feature_stride, extent_t rows, extent_t width, T* dst, extent_t pitch, extent_t filled) {
    extent_t const r4 = feature_stride == 1 ? rows / 4 * 4 : 0, c4 = width / 4 * 4;
    for (extent_t r = 0; r < r4; r += 4) {
        T const* const from = src + r * row_stride;
        for (extent_t c = 0; c < c4; c += 4) { detail::transpose_4x4<T, A>(from + c, row_stride, dst + c * pitch + r, pitch); }
        for (extent_t c = c4; c < width; ++c) {
            for (extent_t i = 0; i < 4; ++i) { dst[c * pitch + r + i] = from[i * row_stride + c]; }
        }
    }
    for (extent_t r = r4; r < rows; ++r) {
        for (extent_t c = 0; c < width; ++c) { dst[c * pitch + r] = src[r * row_stride + c * feature_stride]; }
    }
    for (extent_t r = rows; r < filled; ++r) {
        for (extent_t c = 0; c < width; ++c) { dst[c * pitch + r] = T(0); }
    }
}

// A tile into rows: dst[r][c] = src[c][r].
template <class A, class T>
void unpack_transposed(T const* src, extent_t pitch, extent_t rows, extent_t width, T* dst, extent_t row_stride, extent_t feature_stride) {
    extent_t const r4 = feature_stride == 1 ? rows / 4 * 4 : 0, c4 = width / 4 * 4;
    for (extent_t r = 0; r < r4; r += 4) {
        for (extent_t c = 0; c < c4; c += 4) { detail::transpose_4x4<T, A>(src + c * pitch + r, pitch, dst + r * row_stride + c, row_stride); }
        for (extent_t c = c4; c < width; ++c) {
            for (extent_t i = 0; i < 4; ++i) { dst[(r + i) * row_stride + c] = src[c * pitch + r + i]; }
        }
    }
    for (extent_t r = r4; r < rows; ++r) {
        for (extent_t c = 0; c < width; ++c) { dst[r * row_stride + c * feature_stride] = src[c * pitch + r]; }
    }
}

// Rows with scattered features, copied to contiguous ones.
template <class A, class T>
void pack_rows(T const* src, extent_t row_stride, extent_t feature_stride, extent_t rows, extent_t width, T* dst) {
    for (extent_t r = 0; r < rows; ++r) {
        for (extent_t c = 0; c < width; ++c) { dst[r * width + c] = src[r * row_stride + c * feature_stride]; }
    }
}

// dst[i] *= by
template <class A, class T>
HEED_INLINE void scale_in_place(T* dst, extent_t n, T by) {
    using V = vec<T, A>;
    extent_t i = 0;
    for (; i + V::lanes <= n; i += V::lanes) { (V::load(dst + i) * V(by)).store(dst + i); }
    for (; i < n; ++i) { dst[i] *= by; }
}

// True if every element of the row is finite.
template <class A, class T>
HEED_INLINE bool row_finite(T const* row, extent_t feature_stride, extent_t n) {
    using V = vec<T, A>;
    V sum(0);
    extent_t c = 0;
    if (feature_stride == 1) {
        for (; c + V::lanes <= n; c += V::lanes) { sum = fma(V::load(row + c), V(0), sum); }
    }
    T rest(0);
    for (; c < n; ++c) { rest += row[c * feature_stride] * T(0); }
    return all(sum == V(0)) && rest == T(0);
}

} // namespace heed
