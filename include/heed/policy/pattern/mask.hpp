// SPDX-License-Identifier: BSD-3-Clause
// Patterns that are data. Engines pack the pairs of a tile to bits once, so a masked-out tile is skipped and a full one runs at full speed.
//   mask       bytes [B|1, H|1, N|1, M|1], nonzero keeps
//   bit_mask   the same, eight pairs a byte along the key axis, the lowest bit first: [B|1, H|1, N|1, ceil(M/8)]
//   documents  keeps pairs whose ids are equal: query ids {B|1, 1, N, 1}, key ids {B|1, 1, M, 1}, int32
#pragma once

#include <heed/policy/place.hpp>
#include <heed/view/tensor_view.hpp>

#include <cstdint>

namespace heed {

namespace detail {

// Row (b, h, i) of a view whose extents of 1 broadcast.
template <class T>
HEED_HD T* broadcast_row(tensor_view<T> const& v, place const& at, extent_t i) {
    return v.row(v.extent(0) == 1 ? 0 : at.batch, v.extent(1) == 1 ? 0 : at.head, v.extent(2) == 1 ? 0 : i);
}

} // namespace detail

template <class Byte>
struct mask {
    tensor_view<Byte const> m;

    HEED_HD bool keep(place const& at, extent_t i, extent_t j) const {
        return detail::broadcast_row(m, at, i)[m.extent(3) == 1 ? 0 : j * m.stride(3)] != Byte(0);
    }
    HEED_HD constexpr tile classify(place const&, range, range) const { return tile::partial; }
    HEED_HD void pack(place const& at, range rows, range cols, std::uint64_t* words) const {
        extent_t const n = cols.size(), step = m.extent(3) == 1 ? 0 : m.stride(3);
        for (extent_t j = 0; j < n; ++j) { words[j] = 0; }
        for (extent_t i = rows.begin; i < rows.end; ++i) {
            Byte const* row = detail::broadcast_row(m, at, i) + cols.begin * step;
            int const bit = static_cast<int>(i - rows.begin);
            if (step == 1) {
                for (extent_t j = 0; j < n; ++j) { words[j] |= static_cast<std::uint64_t>(row[j] != Byte(0)) << bit; }
            } else {
                for (extent_t j = 0; j < n; ++j) { words[j] |= static_cast<std::uint64_t>(row[j * step] != Byte(0)) << bit; }
            }
        }
    }
    template <class F>
    constexpr void views(call_sizes const& n, F&& f) const {
        f("mask", m, shape{n.batch, n.head, n.queries, n.keys});
    }
};

template <class Byte>
mask(tensor_view<Byte>) -> mask<std::remove_const_t<Byte>>;

struct bit_mask {
    tensor_view<std::uint8_t const> m;

    HEED_HD bool keep(place const& at, extent_t i, extent_t j) const {
        return ((detail::broadcast_row(m, at, i)[(j >> 3) * m.stride(3)] >> (j & 7)) & 1) != 0;
    }
    HEED_HD constexpr tile classify(place const&, range, range) const { return tile::partial; }
    HEED_HD void pack(place const& at, range rows, range cols, std::uint64_t* words) const {
        extent_t const n = cols.size();
        for (extent_t j = 0; j < n; ++j) { words[j] = 0; }
        for (extent_t i = rows.begin; i < rows.end; ++i) {
            std::uint8_t const* row = detail::broadcast_row(m, at, i);
            int const bit = static_cast<int>(i - rows.begin);
            for (extent_t j = 0; j < n; ++j) {
                extent_t const c = cols.begin + j;
                words[j] |= static_cast<std::uint64_t>((row[(c >> 3) * m.stride(3)] >> (c & 7)) & 1) << bit;
            }
        }
    }
    template <class F>
    constexpr void views(call_sizes const& n, F&& f) const {
        f("bit mask", m, shape{n.batch, n.head, n.queries, (n.keys + 7) / 8}, exactly);
    }
};

struct documents {
    tensor_view<std::int32_t const> query_ids, key_ids;

    HEED_HD std::int32_t query_id(place const& at, extent_t i) const { return *detail::broadcast_row(query_ids, at, i); }
    HEED_HD std::int32_t key_id(place const& at, extent_t j) const { return *detail::broadcast_row(key_ids, at, j); }
    HEED_HD bool keep(place const& at, extent_t i, extent_t j) const { return query_id(at, i) == key_id(at, j); }
    // Ranges of ids that do not meet are skipped; a single id on both sides is full.
    HEED_HD tile classify(place const& at, range rows, range cols) const {
        if (rows.size() == 0 || cols.size() == 0) { return tile::skip; }
        auto const [q0, q1] = extremes(query_ids, at, rows);
        auto const [k0, k1] = extremes(key_ids, at, cols);
        if (q1 < k0 || k1 < q0) { return tile::skip; }
        return q0 == q1 && k0 == k1 ? tile::full : tile::partial;
    }
    HEED_HD void pack(place const& at, range rows, range cols, std::uint64_t* words) const {
        for (extent_t j = cols.begin; j < cols.end; ++j) {
            std::int32_t const id = key_id(at, j);
            std::uint64_t word = 0;
            for (extent_t i = rows.begin; i < rows.end; ++i) { word |= static_cast<std::uint64_t>(query_id(at, i) == id) << (i - rows.begin); }
            words[j - cols.begin] = word;
        }
    }
    // The least and the greatest id of some rows. Loads are independent, eight at a time: on a GPU each takes hundreds of cycles to come.
    struct bounds {
        std::int32_t least, greatest;
    };
    HEED_HD static bounds extremes(tensor_view<std::int32_t const> const& ids, place const& at, range rows) {
        std::int32_t const* const first = detail::broadcast_row(ids, at, rows.begin);
        extent_t const step = ids.extent(2) == 1 ? 0 : ids.stride(2), n = rows.size();
        bounds b{*first, *first};
        auto const see = [&](std::int32_t x) {
            b.least = x < b.least ? x : b.least;
            b.greatest = x > b.greatest ? x : b.greatest;
        };
        extent_t i = 0;
        for (; i + 8 <= n; i += 8) {
            std::int32_t x[8];
            for (int u = 0; u < 8; ++u) { x[u] = first[(i + u) * step]; }
            for (int u = 0; u < 8; ++u) { see(x[u]); }
        }
        for (; i < n; ++i) { see(first[i * step]); }
        return b;
    }
    template <class F>
    constexpr void views(call_sizes const& n, F&& f) const {
        f("query document ids", query_ids, shape{n.batch, 1, n.queries, 1});
        f("key document ids", key_ids, shape{n.batch, 1, n.keys, 1});
    }
};

} // namespace heed
