// SPDX-License-Identifier: BSD-3-Clause
// Between rows as the caller keeps them and tiles as the kernels want them: vectors along rows, feature major.
#pragma once

#include <heed/kernel/half.hpp>

namespace heed {

namespace detail {

// Side of the square block that the registers transpose.
template <class T, class A>
inline constexpr int transpose_side = sizeof(T) == 4 && A::has(isa::avx) ? 8 : 4;

// dst[c * dst_pitch + r] = src[r * src_pitch + c] for a block of B x B, contiguous rows on both sides.
template <int B, class T, class A>
HEED_INLINE void transpose_block(T const* src, extent_t src_pitch, T* dst, extent_t dst_pitch) {
#if defined(__AVX__)
    if constexpr (B == 8 && sizeof(T) == 4) {
        // rows r and r + 4 side by side, so that 4 x 4 transposes inside 128-bit lanes finish the block
        auto const pair = [&](int r, int c) HEED_INLINE_LAMBDA {
            return _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(src + r * src_pitch + c)), _mm_loadu_ps(src + (r + 4) * src_pitch + c), 1);
        };
        for (int c = 0; c < 8; c += 4) {
            __m256 const x0 = pair(0, c), x1 = pair(1, c), x2 = pair(2, c), x3 = pair(3, c);
            __m256 const t0 = _mm256_unpacklo_ps(x0, x1), t1 = _mm256_unpackhi_ps(x0, x1), t2 = _mm256_unpacklo_ps(x2, x3), t3 = _mm256_unpackhi_ps(x2, x3);
            _mm256_storeu_ps(dst + c * dst_pitch, _mm256_shuffle_ps(t0, t2, 0x44));
            _mm256_storeu_ps(dst + (c + 1) * dst_pitch, _mm256_shuffle_ps(t0, t2, 0xee));
            _mm256_storeu_ps(dst + (c + 2) * dst_pitch, _mm256_shuffle_ps(t1, t3, 0x44));
            _mm256_storeu_ps(dst + (c + 3) * dst_pitch, _mm256_shuffle_ps(t1, t3, 0xee));
        }
        return;
    }
#endif
#if defined(__SSE2__)
    if constexpr (B == 4 && sizeof(T) == 4) {
        __m128 const x0 = _mm_loadu_ps(src), x1 = _mm_loadu_ps(src + src_pitch), x2 = _mm_loadu_ps(src + 2 * src_pitch), x3 = _mm_loadu_ps(src + 3 * src_pitch);
        __m128 const t0 = _mm_unpacklo_ps(x0, x1), t1 = _mm_unpackhi_ps(x0, x1), t2 = _mm_unpacklo_ps(x2, x3), t3 = _mm_unpackhi_ps(x2, x3);
        _mm_storeu_ps(dst, _mm_movelh_ps(t0, t2));
        _mm_storeu_ps(dst + dst_pitch, _mm_movehl_ps(t2, t0));
        _mm_storeu_ps(dst + 2 * dst_pitch, _mm_movelh_ps(t1, t3));
        _mm_storeu_ps(dst + 3 * dst_pitch, _mm_movehl_ps(t3, t1));
        return;
    }
#endif
    for (int r = 0; r < B; ++r) {
        for (int c = 0; c < B; ++c) { dst[c * dst_pitch + r] = src[r * src_pitch + c]; }
    }
}

// dst[c * dst_pitch + r * dst_step] = src[r * src_pitch + c * src_step], n rows of m; blocks where both sides are contiguous.
template <class A, class T>
HEED_INLINE void transpose(T const* src, extent_t src_pitch, extent_t src_step, extent_t n, extent_t m, T* dst, extent_t dst_pitch, extent_t dst_step) {
    constexpr int B = transpose_side<T, A>;
    bool const blocks = src_step == 1 && dst_step == 1;
    extent_t r = 0;
    auto const strip = [&](auto side) HEED_INLINE_LAMBDA {
        constexpr int S = decltype(side)::value;
        T const* const from = src + r * src_pitch;
        extent_t const whole = m / S * S;
        for (extent_t c = 0; c < whole; c += S) { transpose_block<S, T, A>(from + c, src_pitch, dst + c * dst_pitch + r, dst_pitch); }
        for (extent_t c = whole; c < m; ++c) {
            for (extent_t i = 0; i < S; ++i) { dst[c * dst_pitch + r + i] = from[i * src_pitch + c]; }
        }
        r += S;
    };
    if (blocks) {
        while (r + B <= n) { strip(std::integral_constant<int, B>{}); }
        if (B > 4 && r + 4 <= n) { strip(std::integral_constant<int, 4>{}); }
    }
    for (; r < n; ++r) {
        for (extent_t c = 0; c < m; ++c) { dst[c * dst_pitch + r * dst_step] = src[r * src_pitch + c * src_step]; }
    }
}

} // namespace detail

// Rows into a tile: dst[c][r] = src[r][c] for r < rows, 0 up to `filled`.
template <class A, class T>
void pack_transposed(T const* src, extent_t row_stride, extent_t feature_stride, extent_t rows, extent_t width, T* dst, extent_t pitch, extent_t filled) {
    detail::transpose<A>(src, row_stride, feature_stride, rows, width, dst, pitch, extent_t(1));
    for (extent_t r = rows; r < filled; ++r) {
        for (extent_t c = 0; c < width; ++c) { dst[c * pitch + r] = T(0); }
    }
}

// A tile into rows: dst[r][c] = src[c][r].
template <class A, class T>
void unpack_transposed(T const* src, extent_t pitch, extent_t rows, extent_t width, T* dst, extent_t row_stride, extent_t feature_stride) {
    detail::transpose<A>(src, pitch, extent_t(1), width, rows, dst, row_stride, feature_stride);
}

// Rows of any element type as contiguous rows in the type of computation: dst[r][c] = src[r][c].
template <class A, class T>
void pack_rows(T const* src, extent_t row_stride, extent_t feature_stride, extent_t rows, extent_t width, compute_t<T>* dst, extent_t dst_stride) {
    using V = vec<compute_t<T>, A>;
    for (extent_t r = 0; r < rows; ++r, src += row_stride, dst += dst_stride) {
        extent_t c = 0;
        if (feature_stride == 1) {
            for (; c + V::lanes <= width; c += V::lanes) { load_as<V>(src + c).store(dst + c); }
        }
        for (; c < width; ++c) { dst[c] = static_cast<compute_t<T>>(src[c * feature_stride]); }
    }
}
// And back, rounded: dst[r][c] = src[r][c].
template <class A, class T>
void unpack_rows(compute_t<T> const* src, extent_t src_stride, extent_t rows, extent_t width, T* dst, extent_t row_stride, extent_t feature_stride) {
    using V = vec<compute_t<T>, A>;
    for (extent_t r = 0; r < rows; ++r, src += src_stride, dst += row_stride) {
        extent_t c = 0;
        if (feature_stride == 1) {
            for (; c + V::lanes <= width; c += V::lanes) { store_as(dst + c, V::load(src + c)); }
        }
        for (; c < width; ++c) { dst[c * feature_stride] = static_cast<T>(src[c]); }
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
