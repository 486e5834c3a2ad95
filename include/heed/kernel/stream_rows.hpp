// SPDX-License-Identifier: BSD-3-Clause
// stream_rows: rows of whole lines copied past the caches, for results far larger than they are: a line is not read before it is written, and drives out
// nothing. Such stores are weakly ordered: settle() before anybody else is told of them. x86 only; `exists` says whether it is worth asking.
#pragma once

#include <heed/kernel/batch.hpp>

namespace heed {

template <class T, class A>
struct stream_rows {
#if defined(__SSE2__)
    static constexpr bool exists = A::has(isa::sse2);
#else
    static constexpr bool exists = false;
#endif
    // Rows of `row` numbers from `at` on begin at lines.
    HEED_INLINE static bool takes(T const* at, extent_t row) {
        return exists && reinterpret_cast<std::uintptr_t>(at) % line_bytes == 0 && row * extent_t(sizeof(T)) % extent_t(line_bytes) == 0;
    }
    // width: of a row, whole lines; from: aligned as vectors are or not.
    HEED_INLINE static void copy(T const* from, extent_t from_row, T* to, extent_t to_row, extent_t count, extent_t width) {
#if defined(__SSE2__)
        if constexpr (exists) {
            for (extent_t i = 0; i < count; ++i) {
                auto const* const source = reinterpret_cast<std::byte const*>(from + i * from_row);
                auto* const target = reinterpret_cast<std::byte*>(to + i * to_row);
                for (extent_t b = 0; b < width * extent_t(sizeof(T)); b += extent_t(line_bytes)) { line(source + b, target + b); }
            }
        }
#endif
    }
    HEED_INLINE static void settle() {
#if defined(__SSE2__)
        if constexpr (exists) { _mm_sfence(); }
#endif
    }

private:
#if defined(__SSE2__)
    HEED_INLINE static void line(std::byte const* from, std::byte* to) {
#if defined(__AVX512F__)
        if constexpr (A::has(isa::avx512f)) {
            for (std::size_t b = 0; b < line_bytes; b += 64) { _mm512_stream_si512(reinterpret_cast<__m512i*>(to + b), _mm512_loadu_si512(from + b)); }
            return;
        }
#endif
        for (std::size_t b = 0; b < line_bytes; b += 16) {
            _mm_stream_si128(reinterpret_cast<__m128i*>(to + b), _mm_loadu_si128(reinterpret_cast<__m128i const*>(from + b)));
        }
    }
#endif
};

} // namespace heed
