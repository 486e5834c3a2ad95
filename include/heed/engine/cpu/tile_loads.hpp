// SPDX-License-Identifier: BSD-3-Clause
// Rows of a tile in the type of computation: where they lie if they lie well, else produced by their loader in the slot's memory. Every engine
// of the CPU takes q, k, v and gradients through here, and writes rows of other element types back.
#pragma once

#include <heed/kernel/pack.hpp>
#include <heed/policy/load/load.hpp>

namespace heed {

// Rows of contiguous features.
template <class T>
struct tile_rows {
    T const* data;
    extent_t stride;
    HEED_INLINE T const* at(extent_t r) const { return data + r * stride; }
};

// Rows [rows.begin, rows.end) of x. buffer: rows x width numbers, used only if the rows do not lie as floats or doubles with contiguous features.
template <class A, class L, class T>
tile_rows<compute_t<T>> load_rows(L const& loader, operand const& of, range rows, tensor_view<T const> const& x, compute_t<T>* buffer) {
    extent_t const width = x.extent(3);
    if constexpr (is_plain<L>) {
        T const* const first = x.row(of.at.batch, of.head, rows.begin);
        if constexpr (std::is_same_v<T, compute_t<T>>) {
            if (x.stride(3) == 1 || width <= 1) { return {first, x.stride(2)}; }
        }
        pack_rows<A>(first, x.stride(2), x.stride(3), rows.size(), width, buffer, width);
    } else {
        loader.template rows<A>(of, rows, x, buffer, width);
    }
    return {buffer, width};
}

// The same transposed, dst[c][r], 0 for r from rows.size() up to `filled`.
template <class A, class L, class T>
void load_transposed(L const& loader, operand const& of, range rows, tensor_view<T const> const& x, compute_t<T>* dst, extent_t pitch, extent_t filled, compute_t<T>* buffer) {
    if constexpr (is_plain<L> && std::is_same_v<T, compute_t<T>>) {
        pack_transposed<A>(x.row(of.at.batch, of.head, rows.begin), x.stride(2), x.stride(3), rows.size(), x.extent(3), dst, pitch, filled);
    } else {
        auto const loaded = load_rows<A>(loader, of, rows, x, buffer);
        pack_transposed<A>(loaded.data, loaded.stride, extent_t(1), rows.size(), x.extent(3), dst, pitch, filled);
    }
}

// A tile src[c][r] as rows of x, rounded once. buffer: rows x width numbers, used only if T is not the type of computation.
template <class A, class T>
void store_transposed(compute_t<T> const* src, extent_t pitch, range rows, tensor_view<T> const& x, extent_t batch, extent_t head, compute_t<T>* buffer) {
    T* const first = x.row(batch, head, rows.begin);
    extent_t const width = x.extent(3);
    if constexpr (std::is_same_v<T, compute_t<T>>) {
        unpack_transposed<A>(src, pitch, rows.size(), width, first, x.stride(2), x.stride(3));
    } else {
        unpack_transposed<A>(src, pitch, rows.size(), width, buffer, width, extent_t(1));
        unpack_rows<A>(buffer, width, rows.size(), width, first, x.stride(2), x.stride(3));
    }
}

// Asks for rows that will be read, or written, after some thousands of cycles.
template <bool Write, class T>
HEED_INLINE void expect_rows(tensor_view<T> const& x, extent_t batch, extent_t head, range rows) {
    if (x.stride(3) != 1) { return; }
    for (extent_t i = rows.begin; i < rows.end; ++i) {
        for (extent_t e = 0; e < x.extent(3); e += extent_t(line_bytes / sizeof(T))) { HEED_PREFETCH_FAR(x.row(batch, head, i) + e, Write); }
    }
}

} // namespace heed
