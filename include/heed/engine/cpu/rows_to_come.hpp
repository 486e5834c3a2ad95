// SPDX-License-Identifier: BSD-3-Clause
// Rows that will be read after the tile at hand: asked for line by line beside its work, an equal share in each of its passes, so that reading memory and
// computing overlap.
#pragma once

#include <heed/view/tensor_view.hpp>

namespace heed {

struct rows_to_come {
    std::byte const* at = nullptr;
    extent_t stride = 0, rows = 0, lines = 0; // stride in bytes; cache lines of a row

    // Rows that lie one behind another from `first` on, at most `count`.
    template <class E>
    HEED_INLINE static rows_to_come of(E const* first, extent_t row_stride, extent_t width, extent_t count) {
        constexpr extent_t line = extent_t(line_bytes), size = extent_t(sizeof(E));
        return {reinterpret_cast<std::byte const*>(first), row_stride * size, count, (width * size + line - 1) / line};
    }
    HEED_INLINE rows_to_come share(extent_t pass, extent_t passes) const {
        extent_t const first = lines * pass / passes, last = lines * (pass + 1) / passes;
        return {at + first * extent_t(line_bytes), stride, rows, last - first};
    }
    HEED_INLINE void ask(extent_t j) const {
        if (j >= rows) { return; }
        for (extent_t l = 0; l < lines; ++l) { HEED_PREFETCH_FAR(at + j * stride + l * extent_t(line_bytes), 0); }
    }
};

} // namespace heed
