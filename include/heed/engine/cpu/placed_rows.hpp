// SPDX-License-Identifier: BSD-3-Clause
// Rows taken to other places and brought back: piece c of batch entry b becomes batch entry b pieces + c, and its row n is row order[c rows + n] of b.
//
//   take  to[b pieces + c][n] = from[b][order]       zeros where order is -1
//   give  to[b][order] += from[b pieces + c][n]      the adjoint; pieces in rising order, so that no bit depends on threads
//
// Only the first features are moved, as many as the narrower side has.
#pragma once

#include <heed/engine/cpu/parallel.hpp>
#include <heed/view/tensor_view.hpp>

#include <cstdint>
#include <span>

namespace heed {

template <class T, class A>
struct placed_rows {
    using order_type = std::span<std::int32_t const>;

    template <class Executor>
    static void take(order_type order, tensor_view<T const> const& from, tensor_view<T> const& to, Executor& executor, int slots) {
        extent_t const width = narrower(from, to), rows = to.extent(2), heads = to.extent(1), pieces = from.extent(0) > 0 ? to.extent(0) / from.extent(0) : 0;
        detail::for_each_item<A>(executor, slots, to.extent(0) * heads, [&](extent_t item, int) noexcept {
            extent_t const piece = item / heads, h = item % heads;
            for (extent_t n = 0; n < rows; ++n) {
                std::int32_t const place = order[static_cast<std::size_t>(piece % pieces * rows + n)];
                T* const y = to.row(piece, h, n);
                T const* const x = place < 0 ? nullptr : from.row(piece / pieces, h, place);
                for (extent_t e = 0; e < width; ++e) { y[e * to.stride(3)] = x == nullptr ? T(0) : x[e * from.stride(3)]; }
            }
        });
    }
    // first: `to` is cleared before.
    template <class Executor>
    static void give(order_type order, tensor_view<T const> const& from, tensor_view<T> const& to, bool first, Executor& executor, int slots) {
        extent_t const width = narrower(from, to), rows = from.extent(2), heads = to.extent(1), pieces = to.extent(0) > 0 ? from.extent(0) / to.extent(0) : 0;
        detail::for_each_item<A>(executor, slots, to.extent(0) * heads, [&](extent_t item, int) noexcept {
            extent_t const b = item / heads, h = item % heads;
            for (extent_t n = 0; first && n < to.extent(2); ++n) {
                for (extent_t e = 0; e < width; ++e) { to(b, h, n, e) = T(0); }
            }
            for (extent_t c = 0; c < pieces; ++c) {
                for (extent_t n = 0; n < rows; ++n) {
                    std::int32_t const place = order[static_cast<std::size_t>(c * rows + n)];
                    if (place < 0) { continue; }
                    T const* const x = from.row(b * pieces + c, h, n);
                    T* const y = to.row(b, h, place);
                    for (extent_t e = 0; e < width; ++e) { y[e * to.stride(3)] += x[e * from.stride(3)]; }
                }
            }
        });
    }

private:
    static extent_t narrower(tensor_view<T const> const& from, tensor_view<T> const& to) { return from.extent(3) < to.extent(3) ? from.extent(3) : to.extent(3); }
};

} // namespace heed
