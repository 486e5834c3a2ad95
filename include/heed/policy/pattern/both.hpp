// SPDX-License-Identifier: BSD-3-Clause
// a & b: pairs that both patterns keep. A tile is skipped if either skips it and full if both are.
#pragma once

#include <heed/policy/concepts.hpp>

namespace heed {

namespace detail {

// Keys outside the hull are kept by no row of `rows`.
template <class P>
HEED_HD range hull_of(P const& p, place const& at, range rows) {
    range const all{0, at.keys};
    if constexpr (requires { p.hull(at, rows); }) {
        return intersect(all, p.hull(at, rows));
    } else {
        return all;
    }
}

// No row of `rows` keeps a key in [from, next). Walks that only look at tiles one by one need no such promise.
template <class P>
HEED_HD extent_t next_of(P const& p, place const& at, range rows, extent_t from) {
    if constexpr (requires { p.next(at, rows, from); }) {
        return p.next(at, rows, from);
    } else {
        return from;
    }
}

// The pairs of a tile as bits, for any pattern.
template <class P>
HEED_HD void pack_bits(P const& p, place const& at, range rows, range cols, std::uint64_t* words) {
    tile const verdict = p.classify(at, rows, cols);
    if (verdict == tile::partial) {
        if constexpr (PackedPattern<P>) {
            p.pack(at, rows, cols, words);
        } else {
            for (extent_t j = cols.begin; j < cols.end; ++j) {
                std::uint64_t word = 0;
                for (extent_t i = rows.begin; i < rows.end; ++i) { word |= static_cast<std::uint64_t>(p.keep(at, i, j)) << (i - rows.begin); }
                words[j - cols.begin] = word;
            }
        }
    } else {
        for (extent_t j = 0; j < cols.size(); ++j) { words[j] = verdict == tile::full ? ~std::uint64_t(0) : 0; }
    }
}

} // namespace detail

template <class A, class B>
struct both {
    A a;
    B b;

    template <class I>
        requires requires(A const x, B const y, place const at, I i) {
            x.keep(at, i, i);
            y.keep(at, i, i);
        }
    HEED_HD auto keep(place const& at, I i, I j) const {
        auto const in_a = a.keep(at, i, j);
        auto const in_b = b.keep(at, i, j);
        return in_a & in_b;
    }
    HEED_HD tile classify(place const& at, range rows, range cols) const { return both_tiles(a.classify(at, rows, cols), b.classify(at, rows, cols)); }
    HEED_HD range hull(place const& at, range rows) const { return intersect(detail::hull_of(a, at, rows), detail::hull_of(b, at, rows)); }
    HEED_HD extent_t next(place const& at, range rows, extent_t from) const {
        extent_t const x = detail::next_of(a, at, rows, from), y = detail::next_of(b, at, rows, from);
        return x > y ? x : y;
    }
    HEED_HD void pack(place const& at, range rows, range cols, std::uint64_t* words) const
        requires(PackedPattern<A> || PackedPattern<B>)
    {
        // in strips, so that the second operand needs no memory of its own
        constexpr extent_t strip = 64;
        std::uint64_t other[strip];
        for (extent_t j = cols.begin; j < cols.end; j += strip) {
            range const part{j, j + strip < cols.end ? j + strip : cols.end};
            std::uint64_t* w = words + (j - cols.begin);
            detail::pack_bits(a, at, rows, part, w);
            detail::pack_bits(b, at, rows, part, other);
            for (extent_t c = 0; c < part.size(); ++c) { w[c] &= other[c]; }
        }
    }
    template <class Sizes, class F>
    constexpr void views(Sizes const& sizes, F&& f) const {
        if constexpr (requires { a.views(sizes, f); }) { a.views(sizes, f); }
        if constexpr (requires { b.views(sizes, f); }) { b.views(sizes, f); }
    }
};
template <class A, class B>
both(A, B) -> both<A, B>;

template <Pattern A, Pattern B>
HEED_HD constexpr both<A, B> operator&(A const& a, B const& b) {
    return {a, b};
}

} // namespace heed
