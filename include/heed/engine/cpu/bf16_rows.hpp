// SPDX-License-Identifier: BSD-3-Clause
// Rows of bf16 for products of pairs: queries in pairs of features, keys as they lie, values in pairs of keys. Weights of 0 must meet no value
// that is not finite, so such rows are zeros in the pairs, and named.
#pragma once

#include <heed/engine/cpu/tile_loads.hpp>
#include <heed/kernel/bf16_tiles.hpp>

namespace heed {

// Contiguous rows of unchanged elements; buffer: rows x width elements, used only if features are apart.
template <class A, class T>
tile_rows<T> raw_rows(tensor_view<T const> const& x, operand const& of, range rows, T* buffer) {
    T const* const first = x.row(of.at.batch, of.head, rows.begin);
    extent_t const width = x.extent(3), step = x.stride(3);
    if (step == 1 || width <= 1) { return {first, x.stride(2)}; }
    for (extent_t r = 0; r < rows.size(); ++r) {
        for (extent_t c = 0; c < width; ++c) { buffer[r * width + c] = first[r * x.stride(2) + c * step]; }
    }
    return {buffer, width};
}

// dst[c][r] = features 2c and 2c + 1 of row r (0 beyond the last feature), 0 for r from rows.size() up to `filled`. buffer: rows x ceil(width / 2) pairs.
template <class A>
void load_query_pairs(tensor_view<bf16 const> const& x, operand const& of, range rows, float* dst, extent_t pitch, extent_t filled, float* buffer) {
    extent_t const width = x.extent(3), pairs = (width + 1) / 2;
    for (extent_t r = 0; r < rows.size(); ++r) {
        bf16 const* const row = x.row(of.at.batch, of.head, rows.begin + r);
        for (extent_t c = 0; c < pairs; ++c) {
            bf16 const second = 2 * c + 1 < width ? row[(2 * c + 1) * x.stride(3)] : bf16(0.0f);
            buffer[r * pairs + c] = pair_bits(row[2 * c * x.stride(3)], second);
        }
    }
    pack_transposed<A>(buffer, pairs, extent_t(1), rows.size(), pairs, dst, pitch, filled);
}

// Rows of values of a key tile: pairs[j / 2] of rows j and j + 1; bit j of `odd` says that row j is not finite and its pairs hold zeros.
template <class A>
void load_value_pairs(tensor_view<bf16 const> const& x, operand const& of, range rows, float* pairs, std::uint64_t* odd) {
    extent_t const width = x.extent(3), n = rows.size();
    for (extent_t j = 0; j < n; j += 64) { odd[j / 64] = 0; }
    auto const finite = [&](bf16 const* row, extent_t j) {
        if (x.stride(3) == 1) {
            if (row_finite<A>(row, width)) { return true; }
        } else {
            bool all = true;
            for (extent_t c = 0; c < width; ++c) { all = all && (row[c * x.stride(3)].bits & 0x7f80u) != 0x7f80u; }
            if (all) { return true; }
        }
        odd[j / 64] |= std::uint64_t(1) << (j % 64);
        return false;
    };
    for (extent_t j = 0; j < n; j += 2) {
        float* const dst = pairs + j / 2 * width;
        bf16 const* const first = x.row(of.at.batch, of.head, rows.begin + j);
        bf16 const* const second = j + 1 < n ? x.row(of.at.batch, of.head, rows.begin + j + 1) : nullptr;
        bool const keep_first = finite(first, j), keep_second = second != nullptr && finite(second, j + 1);
        zip_rows<A>(first, keep_second ? second : nullptr, x.stride(3), width, dst);
        if (!keep_first) {
            for (extent_t c = 0; c < width; ++c) { dst[c] = pair_bits(bf16(0.0f), keep_second ? second[c * x.stride(3)] : bf16(0.0f)); }
        }
    }
}

} // namespace heed
