// SPDX-License-Identifier: BSD-3-Clause
// Rows of memory that are needed after the work at hand: a short queue, asked for into the second cache a few lines at a time, in between blocks of products, so that reading and computing overlap. Without
// it a chunk's rows come at the pace of single misses, a tenth and more of the time of a backward chunk.
#pragma once

#include <heed/config.hpp>

namespace heed {

class coming_rows {
    struct piece {
        char const* at;
        extent_t stride, bytes, rows; // stride and bytes of a row
        bool write;
    };
    static constexpr int most = 12;
    piece pieces_[most];
    int count_ = 0, now_ = 0;
    extent_t row_ = 0, byte_ = 0;

public:
    HEED_INLINE void clear() { count_ = now_ = 0, row_ = byte_ = 0; }
    template <class E>
    HEED_INLINE void add(E* first, extent_t row_stride, extent_t width, extent_t rows, bool write) {
        if (count_ < most && rows > 0 && width > 0) { pieces_[count_++] = {reinterpret_cast<char const*>(first), row_stride * extent_t(sizeof(E)), width * extent_t(sizeof(E)), rows, write}; }
    }
    HEED_INLINE void ask(int lines) {
        for (; lines > 0 && now_ < count_; --lines) {
            piece const& p = pieces_[now_];
            char const* const line = p.at + row_ * p.stride + byte_;
            if (p.write) {
                HEED_PREFETCH_FAR(line, 1);
            } else {
                HEED_PREFETCH_FAR(line, 0);
            }
            byte_ += extent_t(line_bytes);
            if (byte_ < p.bytes) { continue; }
            byte_ = 0;
            if (++row_ == p.rows) { row_ = 0, ++now_; }
        }
    }
};

} // namespace heed
