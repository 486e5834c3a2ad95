// SPDX-License-Identifier: BSD-3-Clause
// Rows of a factored operand for a few of its heads, and gradients of such rows contracted into the factors:
//
//   da[b, h, n, r] = w dx[b, h, n] . b[b, r, n]      db[b, r, n] += w a[b, h, n, r] dx[b, h, n]      w = 1/R, dx turned back where rows are rotated
//
// db adds up over the heads in the order of the calls, positions apart; a factor whose extents of 1 stand for many positions or sequences is summed on one
// thread, in their order. So no bit depends on threads.
#pragma once

#include <heed/engine/cpu/parallel.hpp>
#include <heed/kernel/row_reduce.hpp>
#include <heed/policy/load/factored.hpp>

namespace heed {

// Where gradients of a factored operand go: each in the shape of its factor; a null view is not wanted.
template <class T>
struct factored_gradient {
    tensor_view<T> da, db;
};
template <class T>
factored_gradient(tensor_view<T>, tensor_view<T>) -> factored_gradient<T>;

template <class T, class Then, class A>
struct factored_rows {
    factored<T, Then> const& f;
    // Positions of the queries are counted from the end of the keys; null for k and v.
    tensor_view<T const> const* keys = nullptr;

    static constexpr extent_t block = 32; // rows of an item

    // x {B, heads, N, d}: rows of heads first, first + 1, ...
    template <class E>
    void make(tensor_view<T> const& x, extent_t first, E& executor, int slots) const {
        each_block(x, executor, slots, [&](extent_t b, range rows) {
            for (extent_t h = 0; h < x.extent(1); ++h) {
                place const at = place_of(x, b);
                f.template rows<A>(operand{at, first + h, shift(at)}, rows, tensor_view<T const>{}, x.row(b, h, rows.begin), x.stride(2));
            }
        });
    }
    void clear(factored_gradient<T> const& g) const {
        for (tensor_view<T> const& d : {g.da, g.db}) {
            if (d.data_handle() == nullptr) { continue; }
            for (extent_t b = 0; b < d.extent(0); ++b) {
                for (extent_t h = 0; h < d.extent(1); ++h) {
                    for (extent_t n = 0; n < d.length(b); ++n) {
                        for (extent_t e = 0; e < d.extent(3); ++e) { d(b, h, n, e) = T(0); }
                    }
                }
            }
        }
    }
    // Adds what dx {B, heads, N, d}, contiguous rows, sends to the factors of heads first, first + 1, ...; dx is overwritten where rows are rotated.
    template <class E>
    void contract(tensor_view<T> const& dx, extent_t first, factored_gradient<T> const& g, E& executor, int slots) const {
        T const by = static_cast<T>(f.weight());
        extent_t const width = dx.extent(3), rank = f.rank();
        if constexpr (!is_plain<Then>) {
            each_block(dx, executor, slots, [&](extent_t b, range rows) {
                place const at = place_of(dx, b);
                for (extent_t h = 0; h < dx.extent(1); ++h) { f.then.template pull_back<A>(operand{at, first + h, shift(at)}, rows, width, dx.row(b, h, rows.begin), dx.stride(2)); }
            });
        }
        if (g.da.data_handle() != nullptr) {
            each_block(dx, executor, shared(g.da, dx) ? 1 : slots, [&](extent_t b, range rows) {
                for (extent_t h = 0; h < dx.extent(1); ++h) {
                    for (extent_t n = rows.begin; n < rows.end; ++n) {
                        T const* const row = factored<T, Then>::entry(f.b, b, 0, n);
                        T* const to = entry(g.da, b, first + h, n);
                        for (extent_t r = 0; r < rank; ++r) { to[r * g.da.stride(3)] += by * row_dot<A>(dx.row(b, h, n), extent_t(1), row + r * f.rank_stride(), f.b.stride(3), width); }
                    }
                }
            });
        }
        if (g.db.data_handle() != nullptr) {
            each_block(dx, executor, shared(g.db, dx) ? 1 : slots, [&](extent_t b, range rows) {
                for (extent_t n = rows.begin; n < rows.end; ++n) {
                    for (extent_t r = 0; r < rank; ++r) {
                        T* const to = entry(g.db, b, r, n);
                        for (extent_t h = 0; h < dx.extent(1); ++h) {
                            add(dx.row(b, h, n), by * factored<T, Then>::entry(f.a, b, first + h, n)[r * f.a.stride(3)], to, g.db.stride(3), width);
                        }
                    }
                }
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
        return (d.extent(0) == 1 && !d.is_ragged() && x.extent(0) > 1) || (d.extent(2) == 1 && !d.is_ragged() && x.extent(2) > 1);
    }
    static T* entry(tensor_view<T> const& d, extent_t batch, extent_t head, extent_t n) {
        return d.row(d.extent(0) == 1 && !d.is_ragged() ? 0 : batch, d.extent(1) == 1 ? 0 : head, d.extent(2) == 1 && !d.is_ragged() ? 0 : n);
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
