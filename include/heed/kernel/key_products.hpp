// SPDX-License-Identifier: BSD-3-Clause
// key_products: scores of few queries against many keys that are read once: s[r][j] = reduce_c step(k_j[c], q_r[c]), vectors along features.
//
// A register block holds as many products as a register has lanes, of R rows and lanes / R keys: one widening load of a key serves R rows. The
// lanes of all of them are reduced at once. Keys are rows of any element type, anywhere in memory (a cache's pages); they are widened in registers.
// While they are read, other rows (the values of the same keys) are brought into the second cache, line by line at the same pace, and the keys of the
// block after the next from there into the first. In two steps because the first cache can have few lines under way, fewer than memory needs to
// be read at its full rate: a bf16 cache is decoded at 0.76 of a pure read on a Xeon so, at 0.68 with all asked for straight into the first.
#pragma once

#include <heed/kernel/bytes.hpp>
#include <heed/kernel/lane_reduce.hpp>
#include <heed/kernel/tile_config.hpp>

namespace heed {

// Rows that will be needed after those at hand: `lines` cache lines each; none where rows is null. As many as the keys at hand, or fewer.
struct rows_ahead {
    std::byte const* const* rows = nullptr;
    extent_t lines = 0;
};

template <class Ring, class E, class T, class A>
struct key_products {
    using V = vec<T, A>;
    static constexpr int lanes = V::lanes;

    // Features of a row of q in memory: whole vectors, then the last `width % lanes` right-aligned in one more.
    static constexpr extent_t padded(extent_t width) { return (width + lanes - 1) / lanes * lanes; }
    static constexpr extent_t place_of(extent_t feature, extent_t width) {
        return feature < width / lanes * lanes ? feature : padded(width) - width + feature;
    }

    // k: pointers to `keys` rows, a multiple of lanes, as keys_ahead is; q: rows of padded(width); s: rows of `pitch`. operand: rows as q's, of a ring
    // that has one.
    static void run(E const* const* k, extent_t keys, rows_ahead ahead, extent_t keys_ahead, T const* q, int rows, extent_t width, T* s, extent_t pitch, Ring const& ring = {},
                    T const* operand = nullptr);

private:
    using sum_type = detail::accumulator_of<Ring, V>;
    struct contraction {
        Ring const& ring;
        T const* operand;
        HEED_INLINE sum_type step(sum_type const& acc, V k, V q, extent_t at) const {
            if constexpr (detail::has_operand<Ring>) {
                return ring.step(acc, k, q, V::load(operand + at));
            } else {
                return ring.step(acc, k, q);
            }
        }
    };
    template <class Mask>
    HEED_INLINE static sum_type choose(Mask const& m, sum_type const& a, sum_type const& b) {
        if constexpr (std::is_same_v<sum_type, V>) {
            return select(m, a, b);
        } else {
            return {select(m, a.first, b.first), select(m, a.second, b.second)};
        }
    }
    // Lane l of the result: all lanes of acc[l].
    HEED_INLINE static V total_of(sum_type const (&acc)[lanes], Ring const& ring, extent_t width) {
        if constexpr (std::is_same_v<sum_type, V>) {
            return detail::finish_sum<Ring, V>(ring, reduce_lanes(acc, [](V a, V b) HEED_INLINE_LAMBDA { return Ring::reduce(a, b); }), width);
        } else {
            V first[lanes], second[lanes];
            static_for<lanes>([&](auto x) HEED_INLINE_LAMBDA { first[x] = acc[x].first, second[x] = acc[x].second; });
            sum_type const sum{reduce_lanes(first, [](V a, V b) HEED_INLINE_LAMBDA { return Ring::reduce(sum_type{a, a}, sum_type{b, b}).first; }),
                               reduce_lanes(second, [](V a, V b) HEED_INLINE_LAMBDA { return Ring::reduce(sum_type{a, a}, sum_type{b, b}).second; })};
            return detail::finish_sum<Ring, V>(ring, sum, width);
        }
    }
    static constexpr extent_t per_line = extent_t(line_bytes / sizeof(E)) > lanes ? extent_t(line_bytes / sizeof(E)) : lanes;

    // near: rows of a later block, or of this one.
    template <int R>
    HEED_INLINE static void block(E const* const* HEED_RESTRICT keys, E const* const* HEED_RESTRICT near, rows_ahead const& ahead, extent_t first, T const* HEED_RESTRICT q,
                                  extent_t q_pitch, extent_t width, T* HEED_RESTRICT s, extent_t pitch, contraction const& of) {
        constexpr int K = lanes / R;
        sum_type acc[lanes]; // R rows x K keys
        static_for<lanes>([&](auto x) HEED_INLINE_LAMBDA { acc[x] = Ring::template zero<V>(); });
        E const* k[K];
        static_for<K>([&](auto j) HEED_INLINE_LAMBDA { k[j] = keys[j]; });
        extent_t const whole = width / lanes * lanes;
        extent_t line = 0;
        for (extent_t c0 = 0; c0 < whole; c0 += per_line, ++line) {
            if (line < ahead.lines) {
                static_for<K>([&](auto j) HEED_INLINE_LAMBDA { HEED_PREFETCH_FAR(ahead.rows[first + j] + line * extent_t(line_bytes), 0); });
            }
            static_for<K>([&](auto j) HEED_INLINE_LAMBDA { HEED_PREFETCH(near[j] + c0); });
            extent_t const end = c0 + per_line < whole ? c0 + per_line : whole;
            for (extent_t c = c0; c < end; c += lanes) {
                V x[K];
                static_for<K>([&](auto j) HEED_INLINE_LAMBDA { x[j] = widen<V>(k[j] + c); });
                static_for<R>([&](auto r) HEED_INLINE_LAMBDA {
                    V const y = V::load(q + r * q_pitch + c);
                    static_for<K>([&](auto j) HEED_INLINE_LAMBDA { acc[r * K + j] = of.step(acc[r * K + j], x[j], y, r * q_pitch + c); });
                });
            }
        }
        if (whole < width) {
            auto const valid = mask_from_bits<V>(~std::uint64_t(0) << (lanes - (width - whole)));
            V x[K];
            static_for<K>([&](auto j) HEED_INLINE_LAMBDA { x[j] = widen_end<V>(k[j], width, width - whole); });
            static_for<R>([&](auto r) HEED_INLINE_LAMBDA {
                V const y = V::load(q + r * q_pitch + whole);
                static_for<K>([&](auto j) HEED_INLINE_LAMBDA { acc[r * K + j] = choose(valid, of.step(acc[r * K + j], x[j], y, r * q_pitch + whole), acc[r * K + j]); });
            });
        }
        for (; line < ahead.lines; ++line) {
            static_for<K>([&](auto j) HEED_INLINE_LAMBDA { HEED_PREFETCH_FAR(ahead.rows[first + j] + line * extent_t(line_bytes), 0); });
        }
        V const total = total_of(acc, of.ring, width);
        if constexpr (R == 1) {
            total.store(s);
        } else {
            T lane[lanes];
            total.store(lane);
            static_for<R>([&](auto r) HEED_INLINE_LAMBDA { static_for<K>([&](auto j) HEED_INLINE_LAMBDA { s[r * pitch + j] = lane[r * K + j]; }); });
        }
    }
    template <int R>
    static void strip(E const* const* k, extent_t keys, rows_ahead& ahead, extent_t keys_ahead, T const* q, extent_t q_pitch, extent_t width, T* s, extent_t pitch, contraction const& of) {
        constexpr extent_t K = lanes / R;
        for (extent_t j = 0; j < keys; j += K) {
            extent_t const near = j + 2 * K < keys ? j + 2 * K : j;
            rows_ahead const here{ahead.rows, ahead.rows != nullptr && j < keys_ahead ? ahead.lines : 0}; // whole blocks of both
            block<R>(k + j, k + near, here, j, q, q_pitch, width, s + j, pitch, of);
        }
        ahead.rows = nullptr; // asked for once
    }
};

template <class Ring, class E, class T, class A>
void key_products<Ring, E, T, A>::run(E const* const* k, extent_t keys, rows_ahead ahead, extent_t keys_ahead, T const* q, int rows, extent_t width, T* s, extent_t pitch, Ring const& ring,
                                       T const* operand) {
    extent_t const q_pitch = padded(width);
    int r = 0;
    auto const take = [&](auto size) HEED_INLINE_LAMBDA {
        constexpr int R = decltype(size)::value;
        if constexpr (R <= lanes) {
            while (rows - r >= R) {
                contraction const of{ring, operand == nullptr ? nullptr : operand + r * q_pitch};
                strip<R>(k, keys, ahead, keys_ahead, q + r * q_pitch, q_pitch, width, s + r * pitch, pitch, of);
                r += R;
            }
        }
    };
    take(std::integral_constant<int, 8>{});
    take(std::integral_constant<int, 4>{});
    take(std::integral_constant<int, 2>{});
    take(std::integral_constant<int, 1>{});
}

} // namespace heed
