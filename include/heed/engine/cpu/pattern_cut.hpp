// SPDX-License-Identifier: BSD-3-Clause
// A pattern's edge on a tile: segments of a few keys, each with the vectors of queries that attend some of them. Forward and backward cut alike.
#pragma once

#include <heed/kernel/mix_tile.hpp>
#include <heed/policy/pattern/both.hpp>

namespace heed {

template <class P, class T, class A, tile_config C>
struct pattern_cut {
    using V = vec<T, A>;
    using I = index_of<V>;
    static constexpr int lanes = V::lanes;
    static constexpr int most_segments = C.keys + 1;
    // Rules that are data, or written for scalars only, are packed to bits once per tile.
    static constexpr bool packed = PackedPattern<P> || !requires(P const p, place const at, I i) { p.keep(at, i, i); };

    static_assert(C.vecs * lanes <= 64, "heed: a tile's queries must fit the 64 bits of a packed row");

    P const& pattern;
    place const& at;
    range rows;
    int vecs;             // vectors of queries in use
    std::uint64_t* words; // [C.keys], used where packed
    typename I::value_type const* list = nullptr; // the queries, rising, whole vectors of them, where they do not follow each other

    // Segments of a tile, relative to cols.begin; how many. A full tile is one segment. cols never crosses a multiple of C.keys.
    int operator()(range cols, segment* out) const {
        int const n = static_cast<int>(cols.size());
        tile const verdict = pattern.classify(at, rows, cols);
        if (verdict == tile::skip) { return 0; }
        if (verdict == tile::full) {
            out[0] = {0, n, 0, vecs, false};
            return 1;
        }
        if constexpr (packed) { detail::pack_bits(pattern, at, rows, cols, words); }
        int count = 0;
        for (int j = 0; j < n; j += C.group) {
            int const end = j + C.group < n ? j + C.group : n;
            int first = C.vecs, last = 0;
            bool masked = false;
            tile of[C.vecs];
            for (int w = 0; w < vecs; ++w) {
                of[w] = judge(cols, j, end, w);
                if (of[w] == tile::skip) { continue; }
                first = w < first ? w : first;
                last = w + 1;
            }
            if (last == 0) { continue; }
            for (int w = first; w < last; ++w) { masked = masked || of[w] != tile::full; }
            int begin = j, stop = end;
            if constexpr (packed) { // the keys at the ends that nobody attends
                while (words[begin] == 0) { ++begin; }
                while (words[stop - 1] == 0) { --stop; }
            }
            if (count > 0) {
                segment& before = out[count - 1];
                if (before.end == begin && before.first == first && before.last == last && before.masked == masked) {
                    before.end = stop;
                    continue;
                }
            }
            out[count++] = {begin, stop, first, last, masked};
        }
        return count;
    }

    // Which queries i of vector w keep key j of the tile; col is its position. By value of the pattern, so that the compiler sees that
    // storing scores does not change it.
    HEED_INLINE static typename V::mask_type kept(P const& pattern, place const& at, std::uint64_t const* words, int j, int w, I i, I col) {
        if constexpr (packed) {
            return mask_from_bits<V>(words[j] >> (w * lanes));
        } else {
            return mask_cast<V>(pattern.keep(at, i, col));
        }
    }

private:
    // Keys [j, end) of the tile against vector w of queries.
    tile judge(range cols, int j, int end, int w) const {
        range const part = list != nullptr ? range{list[w * lanes], list[(w + 1) * lanes - 1] + 1} : intersect(rows, {rows.begin + w * lanes, rows.begin + (w + 1) * lanes});
        if constexpr (packed) {
            std::uint64_t const all = ((std::uint64_t(1) << part.size()) - 1) << (w * lanes);
            std::uint64_t any_kept = 0, all_kept = all;
            for (int c = j; c < end; ++c) {
                any_kept |= words[c] & all;
                all_kept &= words[c];
            }
            return any_kept == 0 ? tile::skip : all_kept == all ? tile::full : tile::partial;
        } else {
            return pattern.classify(at, part, {cols.begin + j, cols.begin + end});
        }
    }
};

} // namespace heed
