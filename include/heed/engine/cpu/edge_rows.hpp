// SPDX-License-Identifier: BSD-3-Clause
// Rows of node and edge data for the engines of attention along edges, and scores of a block of edges: as many at once as a register has lanes, vectors along
// features, the lanes of all sums reduced together. Rows whose features lie apart are copied first.
#pragma once

#include <heed/engine/edge_problem.hpp>
#include <heed/kernel/lane_reduce.hpp>

namespace heed {

template <class T, class A>
struct edge_rows {
    using V = vec<T, A>;
    static constexpr int lanes = V::lanes;
    static constexpr extent_t chunk = 32; // edges of a row at a time: their keys and values stay in near caches

    HEED_INLINE static extent_t entry(extent_t extents, extent_t i) { return extents == 1 ? 0 : i; }

    // Pointers to rows (b, 0, index(x)) for x < n.
    template <class Index>
    static void bases(tensor_view<T const> const& v, extent_t b, Index const& index, extent_t n, T const** to) {
        T const* const first = v.row(entry(v.extent(0), b), 0, 0);
        extent_t const step = v.extent(2) == 1 ? 0 : v.stride(2);
        for (extent_t x = 0; x < n; ++x) { to[x] = first + index(x) * step; }
    }
    // The rows of head h from those bases; scratch: room for n rows, used where features lie apart.
    static void point(tensor_view<T const> const& v, extent_t h, T const* const* base, extent_t n, T* scratch, T const** to) {
        extent_t const d = v.extent(3), offset = v.extent(1) == 1 ? 0 : h * v.stride(1);
        for (extent_t x = 0; x < n; ++x) { to[x] = base[x] + offset; }
        if (v.stride(3) == 1 || d <= 1) { return; }
        for (extent_t x = 0; x < n; ++x) {
            for (extent_t e = 0; e < d; ++e) { scratch[x * d + e] = to[x][e * v.stride(3)]; }
            to[x] = scratch + x * d;
        }
    }
    // Asks for head h's share of n rows, whole rows one after another: called head after head, requests keep pace with the arithmetic, and rows come as
    // runs of memory where the heads of a node stand side by side.
    static void expect(tensor_view<T const> const& v, extent_t h, T const* const* base, extent_t n) {
        extent_t const d = v.extent(3), heads = v.extent(1), per_line = extent_t(line_bytes / sizeof(T)), end = n * (h + 1) / heads;
        if (v.stride(3) != 1) { return; }
        bool const run = v.stride(1) == d;
        extent_t const runs = run ? 1 : heads, length = run ? heads * d : d;
        for (extent_t x = n * h / heads; x < end; ++x) {
            for (extent_t r = 0; r < runs; ++r) {
                for (extent_t e = 0; e < length; e += per_line) { HEED_PREFETCH(base[x] + r * v.stride(1) + e); }
            }
        }
    }

    // raw[x] = sum over `width` features of term(q, k[x], e[x], a) for x < n; the last lanes repeat the last edge.
    template <class X>
    static void scores(X const& term, T const* q, T const* const* k, T const* const* e, T const* a, extent_t width, extent_t n, T* raw) {
        for (extent_t x = 0; x < n; x += lanes) {
            T const *row[lanes], *edge[lanes];
            static_for<lanes>([&](auto l) HEED_INLINE_LAMBDA {
                extent_t const at = x + l < n ? x + l : n - 1;
                row[l] = k[at];
                if constexpr (detail::reads_edges<X>) { edge[l] = e[at]; }
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
    // Lanes of a register joined: the greatest, or the sum, in every lane.
    HEED_INLINE static T greatest(V x) {
        T lane[lanes], top;
        x.store(lane);
        top = lane[0];
        for (T const one : lane) { top = one > top || one != one ? one : top; }
        return top;
    }
    HEED_INLINE static T total(V x) {
        T lane[lanes], sum(0);
        x.store(lane);
        for (T const one : lane) { sum += one; }
        return sum;
    }
};

} // namespace heed
