// SPDX-License-Identifier: BSD-3-Clause
// a | b: pairs that one of two patterns keeps, or both. A tile is full if either fills it and skipped if both skip it.
#pragma once

#include <heed/policy/pattern/both.hpp>

namespace heed {

template <class A, class B>
struct either {
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
        return in_a | in_b;
    }
    HEED_HD tile classify(place const& at, range rows, range cols) const {
        tile const in_a = a.classify(at, rows, cols);
        if (in_a == tile::full) { return in_a; }
        tile const in_b = b.classify(at, rows, cols);
        return in_b == tile::full || in_a == in_b ? in_b : tile::partial;
    }
    HEED_HD range hull(place const& at, range rows) const {
        range const x = detail::hull_of(a, at, rows), y = detail::hull_of(b, at, rows);
        if (x.size() == 0 || y.size() == 0) { return x.size() == 0 ? y : x; }
        return {x.begin < y.begin ? x.begin : y.begin, x.end > y.end ? x.end : y.end};
    }
    HEED_HD void pack(place const& at, range rows, range cols, std::uint64_t* words) const
        requires(PackedPattern<A> || PackedPattern<B>)
    {
        constexpr extent_t strip = 64; // as in both
        std::uint64_t other[strip];
        for (extent_t j = cols.begin; j < cols.end; j += strip) {
            range const part{j, j + strip < cols.end ? j + strip : cols.end};
            std::uint64_t* w = words + (j - cols.begin);
            detail::pack_bits(a, at, rows, part, w);
            detail::pack_bits(b, at, rows, part, other);
            for (extent_t c = 0; c < part.size(); ++c) { w[c] |= other[c]; }
        }
    }
    template <class Sizes, class F>
    constexpr void views(Sizes const& sizes, F&& f) const {
        if constexpr (requires { a.views(sizes, f); }) { a.views(sizes, f); }
        if constexpr (requires { b.views(sizes, f); }) { b.views(sizes, f); }
    }
};
template <class A, class B>
either(A, B) -> either<A, B>;

template <Pattern A, Pattern B>
HEED_HD constexpr either<A, B> operator|(A const& a, B const& b) {
    return {a, b};
}

} // namespace heed
