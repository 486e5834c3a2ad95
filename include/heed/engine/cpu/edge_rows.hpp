// SPDX-License-Identifier: BSD-3-Clause
// Rows of node and edge data for the engines of attention along edges, and scores of a block of edges: as many at once as a register has lanes, vectors along
// features, the lanes of all sums reduced together. Rows whose features lie apart are copied first.
#pragma once

#include <heed/engine/edge_problem.hpp>
#include <heed/kernel/key_products.hpp>
#include <heed/kernel/lane_reduce.hpp>

namespace heed {

template <class T, class A>
struct edge_rows {
    using V = vec<T, A>;
    static constexpr int lanes = V::lanes;
    static constexpr extent_t chunk = 32; // edges of a row at a time: their keys and values stay in near caches

    HEED_INLINE static extent_t entry(extent_t extents, extent_t i) { return extents == 1 ? 0 : i; }

    // Pointers to rows (b, 0, index(x)) for x < n; the last one again in what is left of a register's worth.
    template <class Index>
    static void bases(tensor_view<T const> const& v, extent_t b, Index const& index, extent_t n, T const** to) {
        T const* const first = v.row(entry(v.extent(0), b), 0, 0);
        extent_t const step = v.extent(2) == 1 ? 0 : v.stride(2);
        for (extent_t x = 0; x < n; ++x) { to[x] = first + index(x) * step; }
        for (extent_t x = n; x % lanes != 0; ++x) { to[x] = to[n - 1]; }
    }
    // The rows of head h from those bases; scratch: room for n rows, used where features lie apart.
    static void point(tensor_view<T const> const& v, extent_t h, T const* const* base, extent_t n, T* scratch, T const** to) {
        extent_t const d = v.extent(3), offset = v.extent(1) == 1 ? 0 : h * v.stride(1), all = (n + lanes - 1) / lanes * lanes;
        for (extent_t x = 0; x < all; ++x) { to[x] = base[x] + offset; }
        if (v.stride(3) == 1 || d <= 1) { return; }
        for (extent_t x = 0; x < n; ++x) {
            for (extent_t e = 0; e < d; ++e) { scratch[x * d + e] = to[x][e * v.stride(3)]; }
            to[x] = scratch + x * d;
        }
        for (extent_t x = n; x < all; ++x) { to[x] = to[n - 1]; }
    }
    // Asks for head h of n rows: called head after head, requests keep pace with the arithmetic and take the place of what was just read.
    static void expect(tensor_view<T const> const& v, extent_t h, T const* const* base, extent_t n) {
        extent_t const d = v.extent(3), per_line = extent_t(line_bytes / sizeof(T)), offset = v.extent(1) == 1 ? 0 : h * v.stride(1);
        if (v.stride(3) != 1) { return; }
        for (extent_t x = 0; x < n; ++x) {
            for (extent_t e = 0; e < d; e += per_line) { HEED_PREFETCH(base[x] + offset + e); }
        }
    }

    // Rows that will be needed next: a head of `count` rows, which whole registers of scores ask for; the others at once.
    struct coming {
        T const* const* base = nullptr;
        extent_t count = 0, offset = 0;
    };
    static coming rows_to_come(tensor_view<T const> const& v, extent_t h, T const* const* base, extent_t next, extent_t n) {
        if (v.stride(3) != 1 || v.extent(3) < lanes) { return {}; }
        extent_t const all = (n + lanes - 1) / lanes * lanes;
        if (next > all) { expect(v, h, base + all, next - all); }
        return {base, next, v.extent(1) == 1 ? 0 : h * v.stride(1)};
    }
    // The same as bytes, for sums of n rows; asked: room for `next` pointers.
    static rows_ahead lines_to_come(tensor_view<T const> const& v, extent_t h, T const* const* base, extent_t next, extent_t n, std::byte const** asked) {
        if (next == 0 || v.stride(3) != 1) { return {}; }
        extent_t const offset = v.extent(1) == 1 ? 0 : h * v.stride(1);
        for (extent_t x = 0; x < next; ++x) { asked[x] = reinterpret_cast<std::byte const*>(base[x] + offset); }
        if (next > n) { expect(v, h, base + n, next - n); }
        return {asked, (v.extent(3) * extent_t(sizeof(T)) + extent_t(line_bytes) - 1) / extent_t(line_bytes)};
    }

    // raw[x] = sum over `width` features of term(q, k[x], e[x], a) for x < n, k and e whole registers of pointers.
    // Meanwhile the coming rows are asked for, a line beside each row: a burst of requests would wait for itself.
    template <class X>
    static void scores(X const& term, T const* q, T const* const* k, T const* const* e, T const* a, extent_t width, extent_t n, T* raw, coming next = {}) {
        for (extent_t x = 0; x < n; x += lanes) {
            bool const asks = x < next.count;
            T const* const* const ahead = asks ? next.base + x : k + x; // the own rows are near already
            extent_t const offset = asks ? next.offset : 0;
            T const *row[lanes], *edge[lanes];
            static_for<lanes>([&](auto l) HEED_INLINE_LAMBDA {
                row[l] = k[x + l];
                if constexpr (detail::reads_edges<X>) { edge[l] = e[x + l]; }
            });
            V sum[lanes];
            static_for<lanes>([&](auto l) HEED_INLINE_LAMBDA { sum[l] = V(0); });
            extent_t f = 0;
            for (; f + lanes <= width; f += lanes) {
                V const of_q = V::load(q + f), of_a = load_if<detail::reads_vector<X>>(a, f);
                static_for<lanes>([&](auto l) HEED_INLINE_LAMBDA {
                    if constexpr (std::is_same_v<X, edge::product>) {
                        sum[l] = fma(of_q, V::load(row[l] + f), sum[l]);
                    } else {
                        sum[l] = sum[l] + detail::edge_term(term, of_q, V::load(row[l] + f), load_if<detail::reads_edges<X>>(edge[l], f), of_a);
                    }
                    if (extent_t(lanes * sizeof(T)) >= extent_t(line_bytes) || f % extent_t(line_bytes / sizeof(T)) == 0) { HEED_PREFETCH(ahead[l] + offset + f); }
                });
            }
            V total = reduce_lanes(sum, [](V u, V w) HEED_INLINE_LAMBDA { return u + w; });
            if (f < width) {
                T rest[lanes];
                for (int l = 0; l < lanes; ++l) {
                    T s(0);
                    for (extent_t g = f; g < width; ++g) { s += detail::edge_term(term, q[g], row[l][g], at_if<detail::reads_edges<X>>(edge[l], g), at_if<detail::reads_vector<X>>(a, g)); }
                    rest[l] = s;
                }
                total = total + V::load(rest);
            }
            total.store(raw + x);
        }
    }

    // Lane l: sum over `width` features of term(q[l], k[l], e[l], a[l]). Meanwhile as many features of ask[l] are asked for, a line beside each product: a burst of
    // requests would wait for itself.
    template <class X>
    HEED_INLINE static V sums_of(X const& term, T const* const (&q)[lanes], T const* const (&k)[lanes], T const* const (&e)[lanes], T const* const (&a)[lanes], extent_t width,
                                T const* const (&ask)[lanes]) {
        constexpr bool edges = detail::reads_edges<X>, vector = detail::reads_vector<X>;
        V sum[lanes];
        static_for<lanes>([&](auto l) HEED_INLINE_LAMBDA { sum[l] = V(0); });
        auto const add = [&](auto l, extent_t f) HEED_INLINE_LAMBDA {
            if (extent_t(lanes * sizeof(T)) >= extent_t(line_bytes) || f % extent_t(line_bytes / sizeof(T)) == 0) { HEED_PREFETCH(ask[l] + f); }
            if constexpr (std::is_same_v<X, edge::product>) {
                sum[l] = fma(V::load(q[l] + f), V::load(k[l] + f), sum[l]);
            } else {
                sum[l] = sum[l] + detail::edge_term(term, V::load(q[l] + f), V::load(k[l] + f), load_if<edges>(e[l], f), load_if<vector>(a[l], f));
            }
        };
        extent_t f = 0;
        for (; f + 2 * lanes <= width; f += 2 * lanes) { // pointers once for two
            static_for<lanes>([&](auto l) HEED_INLINE_LAMBDA { add(l, f), add(l, f + lanes); });
        }
        if (f + lanes <= width) {
            static_for<lanes>([&](auto l) HEED_INLINE_LAMBDA { add(l, f); });
            f += lanes;
        }
        V total = reduce_lanes(sum, [](V u, V w) HEED_INLINE_LAMBDA { return u + w; });
        if (f < width) {
            T rest[lanes];
            for (int l = 0; l < lanes; ++l) {
                T s(0);
                for (extent_t g = f; g < width; ++g) { s += detail::edge_term(term, q[l][g], k[l][g], at_if<edges>(e[l], g), at_if<vector>(a[l], g)); }
                rest[l] = s;
            }
            total = total + V::load(rest);
        }
        return total;
    }

    template <bool Read>
    HEED_INLINE static V load_if(T const* p, extent_t f) {
        if constexpr (Read) { return V::load(p + f); }
        return V(0);
    }
    template <bool Read>
    HEED_INLINE static T at_if(T const* p, extent_t f) {
        if constexpr (Read) { return p[f]; }
        return T(0);
    }

    // to[f] += g slope by operand Which, for `width` features.
    template <int Which, class X>
    static void add_slopes(X const& term, T g, T const* q, T const* k, T const* e, T const* a, extent_t width, T* to) {
        extent_t f = 0;
        V const by(g);
        for (; f + lanes <= width; f += lanes) {
            V const s = detail::edge_slope<Which>(term, V::load(q + f), V::load(k + f), load_if<detail::reads_edges<X>>(e, f), load_if<detail::reads_vector<X>>(a, f));
            fma(by, s, V::load(to + f)).store(to + f);
        }
        for (; f < width; ++f) { to[f] += g * detail::edge_slope<Which>(term, q[f], k[f], at_if<detail::reads_edges<X>>(e, f), at_if<detail::reads_vector<X>>(a, f)); }
    }
    static T dot_rows(T const* x, T const* y, extent_t width) {
        V sum(0);
        extent_t f = 0;
        for (; f + lanes <= width; f += lanes) { sum = fma(V::load(x + f), V::load(y + f), sum); }
        T lane[lanes], total(0);
        sum.store(lane);
        for (T const one : lane) { total += one; }
        for (; f < width; ++f) { total += x[f] * y[f]; }
        return total;
    }
    static void read(tensor_view<T const> const& from, extent_t b, extent_t h, extent_t i, T* to) {
        T const* const row = from.row(b, h, i);
        if (from.stride(3) == 1) {
            for (extent_t e = 0; e < from.extent(3); ++e) { to[e] = row[e]; }
        } else {
            for (extent_t e = 0; e < from.extent(3); ++e) { to[e] = row[e * from.stride(3)]; }
        }
    }
    HEED_INLINE static void clear(T* x, extent_t n) {
        for (extent_t e = 0; e < n; ++e) { x[e] = T(0); }
    }
    static void write(T const* from, tensor_view<T> const& to, extent_t b, extent_t h, extent_t i) {
        T* const row = to.row(b, h, i);
        for (extent_t e = 0; e < to.extent(3); ++e) { row[e * to.stride(3)] = from[e]; }
    }

    HEED_INLINE static T first(V x) {
        T lane[lanes];
        x.store(lane);
        return lane[0];
    }
};

} // namespace heed
