// SPDX-License-Identifier: BSD-3-Clause
// Rows of a factored operand for a few of its heads, and gradients of such rows contracted into the factors:
//
//   da[b, h, n, r] = w sum_g c_r[g] dx_g[b, h, n] . b[b, r, n]      db[b, r, n] += w a[b, h, n, r] sum_g c_r[g] dx_g[b, h, n]
//   dc[b, r, n, g] += w a[b, h, n, r] dx_g[b, h, n] . b[b, r, n]     w = 1/R, dx_g run g of dx, turned back where rows are rotated; one run and c = 1 without c
//
// db and dc add up over the heads in the order of the calls, positions apart; a factor whose extents of 1 stand for many positions or sequences is summed on
// one thread, in their order. So no bit depends on threads.
#pragma once

#include <heed/engine/cpu/parallel.hpp>
#include <heed/kernel/row_reduce.hpp>
#include <heed/policy/load/factored.hpp>

namespace heed {

template <class X, class A>
struct factored_rows {
    using T = typename X::element_type;
    X const& f;
    // Positions of the queries are counted from the end of the keys; null for k and v.
    tensor_view<T const> const* keys = nullptr;

    static constexpr extent_t block = 32; // rows of an item

    // x {B, heads, N, d}: rows of heads first, first + 1, ...
    template <class E>
    void make(tensor_view<T> const& x, extent_t first, E& executor, int slots) const {
        each_block(x, executor, slots, [&](extent_t b, range rows) {
            place const at = place_of(x, b);
            for (extent_t h = 0; h < x.extent(1); ++h) { f.template rows<A>(operand{at, first + h, shift(at)}, rows, tensor_view<T const>{}, x.row(b, h, rows.begin), x.stride(2)); }
        });
    }
    template <class G>
    static void clear(G const& gradient) {
        gradient.each([](char const*, tensor_view<T> const& d) {
            if (d.data_handle() == nullptr) { return; }
            for (extent_t b = 0; b < d.extent(0); ++b) {
                for (extent_t h = 0; h < d.extent(1); ++h) {
                    for (extent_t n = 0; n < d.length(b); ++n) {
                        for (extent_t e = 0; e < d.extent(3); ++e) { d(b, h, n, e) = T(0); }
                    }
                }
            }
        });
    }
    // Adds what dx {B, heads, N, d}, contiguous rows, sends to the factors of heads first, first + 1, ...; dx is overwritten where rows are rotated.
    template <class G, class E>
    void contract(tensor_view<T> const& dx, extent_t first, G const& g, E& executor, int slots) const {
        T const by = static_cast<T>(f.weight());
        extent_t const width = f.b.extent(3), rank = f.rank(), runs = f.runs(), step = detail::rank_stride(f.b);
        each_block(dx, executor, slots, [&](extent_t b, range rows) {
            place const at = place_of(dx, b);
            for (extent_t h = 0; h < dx.extent(1); ++h) { f.template turn<A>(operand{at, first + h, shift(at)}, rows, dx.row(b, h, rows.begin), dx.stride(2), -1.0); }
        });
        auto const a_of = [&](extent_t b, extent_t h, extent_t n, extent_t r) { return by * detail::shared_row(f.a, b, first + h, n)[r * f.a.stride(3)]; };
        auto const dot = [&](T const* row, extent_t run, T const* b_row) { return row_dot<A>(row + run * width, extent_t(1), b_row, f.b.stride(3), width); };
        // each(b, h, n, r): what one row sends to rank r
        auto const for_all = [&](tensor_view<T> const& d, auto const& each) {
            if (d.data_handle() == nullptr) { return; }
            each_block(dx, executor, shared(d, dx) ? 1 : slots, [&](extent_t b, range rows) {
                for (extent_t n = rows.begin; n < rows.end; ++n) {
                    for (extent_t h = 0; h < dx.extent(1); ++h) {
                        for (extent_t r = 0; r < rank; ++r) { each(b, h, n, r); }
                    }
                }
            });
        };
        for_all(g.da, [&](extent_t b, extent_t h, extent_t n, extent_t r) {
            T const* const row = detail::shared_row(f.b, b, 0, n) + r * step;
            T sum(0);
            for (extent_t run = 0; run < runs; ++run) { sum += f.template coefficient<T>(b, r, n, run) * dot(dx.row(b, h, n), run, row); }
            detail::shared_row(g.da, b, first + h, n)[r * g.da.stride(3)] += by * sum;
        });
        for_all(g.db, [&](extent_t b, extent_t h, extent_t n, extent_t r) {
            for (extent_t run = 0; run < runs; ++run) {
                add(dx.row(b, h, n) + run * width, a_of(b, h, n, r) * f.template coefficient<T>(b, r, n, run), detail::shared_row(g.db, b, r, n), g.db.stride(3), width);
            }
        });
        if constexpr (requires { g.dc; }) {
            for_all(g.dc, [&](extent_t b, extent_t h, extent_t n, extent_t r) {
                T const* const row = detail::shared_row(f.b, b, 0, n) + r * step;
                T* const to = detail::shared_row(g.dc, b, r, n);
                for (extent_t run = 0; run < runs; ++run) { to[run * g.dc.stride(3)] += a_of(b, h, n, r) * dot(dx.row(b, h, n), run, row); }
            });
        }
    }

private:
    template <class E, class F>
    static void each_block(tensor_view<T> const& x, E& executor, int slots, F const& body) {
        extent_t const blocks = (x.extent(2) + block - 1) / block, items = x.extent(0) * blocks;
        detail::for_each_item<A>(executor, items < slots ? static_cast<int>(items) : slots, items, [&](extent_t item, int) noexcept {
            extent_t const b = item / blocks, n = item % blocks * block;
            range const rows = intersect({n, n + block}, {0, x.length(b)});
            if (rows.size() > 0) { body(b, rows); }
        });
    }
    place place_of(tensor_view<T> const& x, extent_t b) const { return {b, 0, 0, x.length(b), keys == nullptr ? x.length(b) : keys->length(b), x.extent(3)}; }
    extent_t shift(place const& at) const { return keys == nullptr ? 0 : at.shift(); }
    // Several rows of x meet in one row of d.
    static bool shared(tensor_view<T> const& d, tensor_view<T> const& x) {
        return (d.extent(0) == 1 && !d.is_ragged() && x.extent(0) > 1) || (detail::one_row(d) && x.extent(2) > 1);
    }
    // y += c x
    static void add(T const* x, T c, T* y, extent_t step, extent_t n) {
        using V = vec<T, A>;
        extent_t e = 0;
        if (step == 1) {
            for (; e + V::lanes <= n; e += V::lanes) { fma(V::load(x + e), V(c), V::load(y + e)).store(y + e); }
        }
        for (; e < n; ++e) { y[e * step] += c * x[e]; }
    }
};

} // namespace heed
