// SPDX-License-Identifier: BSD-3-Clause
// What policies see of a pair, of a tile and of a row on the device: a value is a float.
#pragma once

#include <heed/kernel/cuda/simt_tile.cuh>
#include <heed/policy/pattern/both.hpp>
#include <heed/policy/score/bias.hpp>
#include <heed/policy/score/dot.hpp>

#include <cstring>

namespace heed::detail {

// A pair as score policies see it; the elements of its tables were loaded before.
template <int Slot = 0>
struct device_pair {
    place const& at;
    extent_t i, j;
    float const* tables;
    HEED_DEVICE extent_t distance() const { return i + at.shift() - j; }
    template <class View>
    HEED_DEVICE float load(View const&) const {
        return tables[Slot];
    }
    template <int N>
    HEED_DEVICE device_pair<Slot + N> after() const {
        return {at, i, j, tables};
    }
};

// A warp judges 32 tiles at once, one a lane: what a verdict costs (ids of documents, rings of a sphere) is waited for once.
struct verdicts {
    unsigned some, partial; // bit n: tile n is not skipped; may be cut

    // judge(begin) is the verdict on the tile that begins there.
    template <class F>
    HEED_DEVICE static verdicts of(extent_t first, F const& judge) {
        tile const v = judge(first + extent_t(threadIdx.x % 32) * simt_tile::keys);
        return {__ballot_sync(0xffffffffu, v != tile::skip), __ballot_sync(0xffffffffu, v == tile::partial)};
    }
};

// Where the pairs of a tile stand: the thread's rows are queries and its columns keys, or, turned, the other way round.
struct tile_place {
    extent_t query, key; // of the tile's first pair
    bool turned = false;
    HEED_DEVICE extent_t i(int r, int s) const { return query + (turned ? simt_tile::col(s) : simt_tile::row(r)); }
    HEED_DEVICE extent_t j(int r, int s) const { return key + (turned ? simt_tile::row(r) : simt_tile::col(s)); }
};

// Pairs of this thread that exist: bit 4 r + s. rows, cols: the queries and keys that count.
template <class P>
HEED_DEVICE unsigned kept_pairs(P const& pattern, place const& at, range rows, range cols, tile_place const& where, bool partial) {
    if (!partial && rows.size() == simt_tile::queries && cols.size() == simt_tile::keys) { return 0xffffffffu; }
    unsigned bits = 0;
#pragma unroll 1
    for (int r = 0; r < simt_tile::rows; ++r) {
#pragma unroll
        for (int s = 0; s < simt_tile::cols; ++s) {
            extent_t const i = where.i(r, s), j = where.j(r, s);
            bool kept = i >= rows.begin && i < rows.end && j >= cols.begin && j < cols.end;
            if (partial && kept) { kept = pattern.keep(at, i, j); }
            bits |= kept ? 1u << (simt_tile::cols * r + s) : 0u;
        }
    }
    return bits;
}

// The elements of a chain's tables at one pair.
template <class S>
struct pair_tables {
    static constexpr int count = tables_of<S>;
    float of[count == 0 ? 1 : count];

    HEED_DEVICE pair_tables(S const& score, place const& at, extent_t i, extent_t j) {
        for_each_table(score, [&](int slot, auto const& table) { of[slot] = static_cast<float>(table_element(table, at, i, j)); });
    }
    HEED_DEVICE bool masked() const {
        bool found = false;
#pragma unroll
        for (int t = 0; t < count; ++t) { found = found || of[t] == -math::inf<float>(); }
        return found;
    }
};

// Score of a pair from its contraction, times the normalizer's unit; -inf where a table says so.
template <class S>
HEED_DEVICE float bent_score(S const& score, place const& at, extent_t i, extent_t j, float raw, float unit) {
    pair_tables<S> const tables(score, at, i, j);
    float const s = after_leading(score, raw, device_pair<>{at, i, j, tables.of}) * unit;
    return tables.masked() ? -math::inf<float>() : s;
}

// All scores of a row, shared by the threads of half a warp, for normalizers that need them together.
struct device_scores {
    float const* s;
    extent_t count;

    template <class X>
    HEED_DEVICE X fold(X const empty) const {
        X sum = empty;
        for (extent_t j = simt_tile::tx(); j < count; j += simt_tile::lanes) { sum.add(s[j]); }
#pragma unroll
        for (int by = simt_tile::lanes / 2; by > 0; by /= 2) {
            sum.join(moved(sum, [by](unsigned mask, unsigned x) { return __shfl_xor_sync(mask, x, by, simt_tile::lanes); }));
        }
        return moved(sum, [](unsigned mask, unsigned x) { return __shfl_sync(mask, x, 0, simt_tile::lanes); });
    }

private:
    template <class X, class F>
    HEED_DEVICE static X moved(X const& x, F const& shuffle) {
        static_assert(sizeof(X) % 4 == 0 && std::is_trivially_copyable_v<X>, "heed: a fold over scores is a trivially copyable struct of values");
        unsigned const mask = 0xffffu << (threadIdx.x & 16u); // the halves of a warp may stop at different steps
        unsigned words[sizeof(X) / 4];
        std::memcpy(words, &x, sizeof x);
#pragma unroll
        for (unsigned& w : words) { w = shuffle(mask, w); }
        X y = x;
        std::memcpy(&y, words, sizeof y);
        return y;
    }
};

} // namespace heed::detail
