// SPDX-License-Identifier: BSD-3-Clause
// New factors into the rows of a cache: [A (rank x heads) | B (rank x width)], converted to the cache's elements, or coded with one scale a row; a factor that
// all tokens share is written once, beside the rows.
//
// Before coding the factors of a rank are balanced, A_r g and B_r / g with g = sqrt(max |B_r| / max |A_r|): only their product matters, and now one scale
// serves both.
#pragma once

#include <heed/engine/cpu/cache_append.hpp>
#include <heed/policy/load/factored.hpp>
#include <heed/view/grouped_cache.hpp>

#include <cmath>

namespace heed {

template <class A>
struct factor_append {
    // One row of a cache, of keys or of values.
    template <class E>
    struct target {
        tensor_view<E> rows;
        tensor_view<float> scale;
        shared_factor shared;
    };
    template <class E, class T>
    static void write_row(factored<T> const& f, extent_t b, extent_t i, target<E> const& to, extent_t entry, extent_t row) {
        using C = compute_t<T>;
        T const *const fa = detail::shared_row(f.a, b, 0, i), *const fb = detail::shared_row(f.b, b, 0, i);
        extent_t const heads = f.a.extent(1), rank = f.rank(), width = f.b.extent(3), head_step = f.a.extent(1) == 1 ? 0 : f.a.stride(1), rank_step = detail::rank_stride(f.b);
        auto const a_of = [&](extent_t r, extent_t h) HEED_INLINE_LAMBDA { return static_cast<C>(fa[h * head_step + r * f.a.stride(3)]); };
        auto const b_of = [&](extent_t r, extent_t e) HEED_INLINE_LAMBDA { return static_cast<C>(fb[r * rank_step + e * f.b.stride(3)]); };
        bool const with_a = to.shared != shared_factor::heads, with_b = to.shared != shared_factor::features;
        // put(position, number) for every number of the row, in one pass and with the ranks balanced
        auto const each = [&](bool balanced, auto const& put) {
            extent_t at = 0, second = with_a ? rank * heads : 0;
            for (extent_t r = 0; r < rank; ++r) {
                C g(1);
                if (balanced && with_a && with_b) {
                    C most_a(0), most_b(0);
                    for (extent_t h = 0; h < heads; ++h) { most_a = std::fmax(most_a, std::fabs(a_of(r, h))); }
                    for (extent_t e = 0; e < width; ++e) { most_b = std::fmax(most_b, std::fabs(b_of(r, e))); }
                    C const ratio = std::sqrt(most_b) / std::sqrt(most_a);
                    g = ratio > C(0) && ratio < math::inf<C>() ? ratio : C(1);
                }
                for (extent_t h = 0; with_a && h < heads; ++h) { put(at++, a_of(r, h) * g); }
                for (extent_t e = 0; with_b && e < width; ++e) { put(second++, b_of(r, e) / g); }
            }
        };
        E* const out = to.rows.row(entry, 0, row);
        if constexpr (is_byte<E>) {
            float& s = to.scale(to.scale.extent(0) == 1 ? 0 : entry, 0, to.scale.extent(2) == 1 ? 0 : row, 0);
            if (to.scale.extent(2) != 1 || to.rows.extent(2) == 1) {
                float top = 0, odd = 0;
                each(true, [&](extent_t, C x) { top = std::fmax(top, std::fabs(static_cast<float>(x))), odd += static_cast<float>(x) * 0.0f; });
                s = odd == 0.0f ? top / largest_code<E> : odd + std::bit_cast<float>(0x7fc00000u);
            }
            each(true, [&](extent_t at, C x) {
                float const one = static_cast<float>(x);
                store_codes(&one, extent_t(1), extent_t(1), s, out + at, extent_t(1));
            });
        } else {
            each(false, [&](extent_t at, C x) { out[at] = static_cast<E>(static_cast<compute_t<E>>(x)); });
        }
    }
    // The shared factor of an operand, [rank][heads] or [rank][width]: f(position, number).
    template <class T, class F>
    static void each_shared(factored<T> const& x, shared_factor shared, F const& f) {
        using C = compute_t<T>;
        bool const heads = shared == shared_factor::heads;
        extent_t const count = heads ? x.a.extent(1) : x.b.extent(3);
        for (extent_t r = 0; r < x.rank(); ++r) {
            for (extent_t e = 0; e < count; ++e) { f(r * count + e, static_cast<C>(heads ? x.a(0, e, 0, r) : x.b(0, x.b.extent(1) == 1 ? 0 : r, 0, e))); }
        }
    }
    // Behind the last token of sequence b; the caller adds to its length. Of more rows than a ring has, the last are written.
    template <class K, class V, class S, class U>
    static void run(factor_cache_view<K, V> const& c, factored<S> const& k, factored<U> const& v, extent_t b, extent_t count) {
        extent_t const rows = c.rows.k.extent(2), begin = c.rows.kind == cache_kind::ring && count > rows ? count - rows : 0, before = c.rows.lengths[static_cast<std::size_t>(b)];
        target<K> const to_k{c.rows.k, c.rows.k_scale, c.of.shared_k};
        target<V> const to_v{c.rows.v, c.rows.v_scale, c.of.shared_v};
        for (extent_t i = begin; i < count; ++i) {
            auto const where = c.rows.locate(b, before + i);
            write_row(k, b, i, to_k, where.entry, where.row);
            write_row(v, b, i, to_v, where.entry, where.row);
        }
    }
};

} // namespace heed
