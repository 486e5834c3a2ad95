// SPDX-License-Identifier: BSD-3-Clause
// What forward saves of a row: the state of one lane, and its numbers.
#pragma once

#include <heed/kernel/batch.hpp>
#include <heed/policy/concepts.hpp>
#include <heed/view/tensor_view.hpp>

#include <cstring>

namespace heed::detail {

// The row that stands in one lane of a vector of rows.
template <class N, class V>
typename N::template row<typename V::value_type> row_of_lane(typename N::template row<V> const& rows, int lane) {
    using T = typename V::value_type;
    using lane_row = typename N::template row<T>;
    static_assert(sizeof(rows) % sizeof(V) == 0 && sizeof(rows) / sizeof(V) == sizeof(lane_row) / sizeof(T), "heed: a row state holds values only");
    constexpr int members = static_cast<int>(sizeof(lane_row) / sizeof(T));
    T const* const state = reinterpret_cast<T const*>(&rows) + lane;
    T one[members];
    for (int c = 0; c < members; ++c) { one[c] = state[c * V::lanes]; }
    lane_row r;
    std::memcpy(&r, one, sizeof r);
    return r;
}
// Its numbers times `unit`, to row (b, h, i) of a view that takes them.
template <class V, class N>
void save_row(N const& normalizer, typename N::template row<V> const& rows, int lane, double unit, tensor_view<typename V::value_type> const& to, extent_t b, extent_t h, extent_t i) {
    using T = typename V::value_type;
    constexpr int kept = kept_of<N>();
    T value[kept];
    saved_numbers(normalizer, row_of_lane<N, V>(rows, lane), value);
    for (int c = 0; c < kept; ++c) { to(b, h, i, c) = static_cast<T>(static_cast<double>(value[c]) * unit); }
}

} // namespace heed::detail
