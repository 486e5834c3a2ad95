// SPDX-License-Identifier: BSD-3-Clause
// How decoding is divided: keys into tiles, tiles into chunks. Both depend on widths, element types and a sequence's own length alone, never on
// threads or on the other sequences, so that its result is the same bits in any company.
#pragma once

#include <heed/kernel/batch.hpp>

namespace heed {

template <class K, class V, class A>
struct decode_layout {
    static constexpr int most_keys = 128;                            // of a tile
    static constexpr extent_t step = 16;                             // tiles are its multiples: whole registers of every type
    static constexpr extent_t tile_bytes = extent_t(16) << 10;        // of keys: how far ahead rows are asked for; 8 and 32 KiB are 1 % slower
    static constexpr extent_t chunk_bytes = extent_t(512) << 10;     // of keys and values, at least
    static constexpr extent_t chunk_numbers = extent_t(1) << 15;     // partial results kept of one KV head, at most, if that is 8 chunks or more

    static constexpr extent_t rounded(extent_t x, extent_t to) { return (x + to - 1) / to * to; }

    static constexpr extent_t tile_keys(extent_t d) {
        extent_t const row = (d < 1 ? 1 : d) * extent_t(sizeof(K)), fit = tile_bytes / row / step * step;
        return fit < step ? step : fit > most_keys ? most_keys : fit;
    }
    static constexpr extent_t least_chunk(extent_t d, extent_t dv) {
        extent_t const row = d * extent_t(sizeof(K)) + dv * extent_t(sizeof(V)), tile = tile_keys(d);
        return rounded(chunk_bytes / (row < 1 ? 1 : row) + 1, tile);
    }
    // rows: query rows that share a KV head
    static constexpr extent_t most_chunks(extent_t rows, extent_t dv) {
        extent_t const fit = chunk_numbers / ((rows < 1 ? 1 : rows) * (dv < 1 ? 1 : dv));
        return fit < 8 ? 8 : fit > 64 ? 64 : fit;
    }

    // Chunks of `keys` keys, the first of which stands at a multiple of a tile.
    struct division {
        extent_t chunk, count;
    };
    static constexpr division divide(extent_t keys, extent_t rows, extent_t d, extent_t dv) {
        extent_t const tile = tile_keys(d), most = most_chunks(rows, dv), fair = rounded((keys + most - 1) / most, tile), least = least_chunk(d, dv);
        extent_t const chunk = fair > least ? fair : least, count = (keys + chunk - 1) / chunk;
        return {chunk, count < 1 ? 1 : count};
    }
    // Chunks of any number of keys up to `keys`: fewer keys may be cut into more, since chunks are whole tiles.
    static constexpr extent_t chunks_up_to(extent_t keys, extent_t rows, extent_t d, extent_t dv) {
        extent_t const most = most_chunks(rows, dv), least = least_chunk(d, dv), count = (keys + least - 1) / least;
        return count < 1 ? 1 : count < most ? count : most;
    }
};

} // namespace heed
