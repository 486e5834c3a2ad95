// SPDX-License-Identifier: BSD-3-Clause
// Views as the copy engine of sm_90 reads them in tiles of rows, and which views it can read.
#pragma once

#include <heed/engine/cuda/simt_pair.cuh>
#include <heed/engine/cuda/tensor_sizes.cuh>
#include <heed/kernel/cuda/copy_async.cuh>

namespace heed::detail {

inline constexpr extent_t half_second_cache = extent_t(25) << 20;

// What one head and one batch are to a map: 0 where the view broadcasts, else 1.
struct tile_steps {
    int head = 1, batch = 1;
};

// Rows of contiguous features, strides of whole 16-byte words.
template <class E>
bool copied_by_tiles(tensor_view<E const> const& v) {
    if (reinterpret_cast<std::uintptr_t>(v.data_handle()) % 16 != 0 || (v.stride(3) != 1 && v.extent(3) != 1) || v.extent(2) > longest_sequence) { return false; }
    for (int r = 0; r < 3; ++r) {
        bool const broadcasts = r < 2 && v.stride(r) == 0;
        if (v.extent(r) > 1 && !broadcasts && (v.stride(r) <= 0 || v.stride(r) % 8 != 0 || v.stride(r) >= extent_t(1) << 39)) { return false; }
    }
    return true;
}
// The map of tiles of `rows` rows; false if the driver refuses it.
template <class E>
bool map_tiles(CUtensorMap& to, tile_steps& step, tensor_view<E const> const& view, int rows) {
    step = {view.stride(1) == 0 ? 0 : 1, view.stride(0) == 0 ? 0 : 1};
    extent_t const extent[4] = {view.extent(3), view.extent(2), step.head == 0 ? 1 : view.extent(1), step.batch == 0 ? 1 : view.extent(0)};
    extent_t const stride[4] = {2, 2 * view.stride(2), 2 * view.stride(1), 2 * view.stride(0)};
    return device::make_tile_map(to, view.data_handle(), extent, stride, device::panel_columns, rows);
}
// Whether rows may be read and written 16 bytes at a time.
template <class E>
bool rows_of_words(tensor_view<E> const& v) {
    constexpr extent_t n = 16 / sizeof(E);
    return reinterpret_cast<std::uintptr_t>(v.data_handle()) % 16 == 0 && v.stride(3) == 1 && v.stride(0) % n == 0 && v.stride(1) % n == 0 && v.stride(2) % n == 0;
}

} // namespace heed::detail
