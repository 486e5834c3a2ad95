// SPDX-License-Identifier: BSD-3-Clause
// What the engines of memories that learn have in common: rows and numbers of a head in and out, states, and how heads are cut into items: a head each, or, where a gradient of broadcast data sums over
// heads or batch entries, all of those.
#pragma once

#include <heed/engine/cpu/memory_chunk.hpp>
#include <heed/engine/cpu/parallel.hpp>
#include <heed/family/gradient_memory.hpp>

#include <initializer_list>

namespace heed {

template <class E, class A>
struct memory_rows {
    using T = compute_t<E>;
    using V = vec<T, A>;
    using row = row_ops<T, A>;
    using chunk = memory_chunk<T, A>;

    struct division {
        extent_t batches, heads, batch_step, head_step; // items, and what each covers
        extent_t items() const { return batches * heads; }
    };
    static division divide(shape const& out, std::initializer_list<tensor_view<T> const*> broadcast) {
        bool batches = false, heads = false;
        for (auto const* x : broadcast) {
            if (x->data_handle() != nullptr) { batches = batches || x->extent(0) == 1, heads = heads || x->extent(1) == 1; }
        }
        if (out.batch * out.head == 0) { return {0, 0, 1, 1}; }
        return {batches ? 1 : out.batch, heads ? 1 : out.head, batches ? out.batch : 1, heads ? out.head : 1};
    }
    // f(b, h, place of a slot), heads of an item one after another
    template <class X, class F>
    static void each(division const& n, X& executor, int slots, F const& f) {
        detail::for_each_item<A>(executor, slots, n.items(), [&](extent_t item, int at) {
            extent_t const b0 = item / n.heads * n.batch_step, h0 = item % n.heads * n.head_step;
            for (extent_t b = b0; b < b0 + n.batch_step; ++b) {
                for (extent_t h = h0; h < h0 + n.head_step; ++h) { f(b, h, at); }
            }
        });
    }
    static void zero(tensor_view<T> const& x) {
        if (x.data_handle() == nullptr) { return; }
        for (extent_t b = 0; b < x.extent(0); ++b) {
            for (extent_t h = 0; h < x.extent(1); ++h) {
                for (extent_t n = 0; n < x.length(b); ++n) {
                    for (extent_t e = 0; e < x.extent(3); ++e) { x(b, h, n, e) = T(0); }
                }
            }
        }
    }
    // to[t][e] = row first + t of x, zeros up to the pitch. Returns true if all is finite.
    static bool rows(tensor_view<E const> const& x, extent_t b, extent_t h, extent_t first, extent_t len, T* to, extent_t pitch) {
        pack_rows<A>(x.row(b, h, first), x.stride(2), x.stride(3), len, x.extent(3), to, pitch);
        V poison(0);
        for (extent_t t = 0; t < len; ++t) {
            for (extent_t e = x.extent(3); e < pitch; ++e) { to[t * pitch + e] = T(0); }
            for (extent_t e = 0; e < pitch; e += V::lanes) { poison = fma(V::load(to + t * pitch + e), V(0), poison); }
        }
        return all(poison == V(0));
    }
    // The row of a view whose extents of 1 stand for all.
    template <class U>
    static U* spread(tensor_view<U> const& x, extent_t b, extent_t h, extent_t n) {
        return x.row(x.extent(0) == 1 && !x.is_ragged() ? 0 : b, x.extent(1) == 1 ? 0 : h, x.extent(2) == 1 ? 0 : n);
    }
    template <class U>
    static U& number(tensor_view<U> const& x, extent_t b, extent_t h, extent_t n) {
        return *spread(x, b, h, n);
    }
    static void add_number(tensor_view<T> const& to, extent_t b, extent_t h, extent_t n, T by) {
        if (to.data_handle() != nullptr) { number(to, b, h, n) += by; }
    }
    static void give(tensor_view<E> const& to, T const* from, extent_t pitch, extent_t b, extent_t h, extent_t first, extent_t len) {
        if (to.data_handle() != nullptr) { unpack_rows<A>(from, pitch, len, to.extent(3), to.row(b, h, first), to.stride(2), to.stride(3)); }
    }
    // Null views are zeros; `to` has `size` numbers.
    template <class U>
    static void read_state(tensor_view<U> const& from, extent_t b, extent_t h, T* to, extent_t size, extent_t pitch) {
        row::clear(to, size);
        if (from.data_handle() == nullptr) { return; }
        for (extent_t r = 0; r < from.extent(2); ++r) { row::read(from.row(b, h, r), from.stride(3), from.extent(3), to + r * pitch); }
    }
    static void write_state(T const* from, extent_t pitch, extent_t b, extent_t h, tensor_view<T> const& to) {
        for (extent_t r = 0; to.data_handle() != nullptr && r < to.extent(2); ++r) { row::write(from + r * pitch, to.row(b, h, r), to.stride(3), to.extent(3)); }
    }
    static void copy(T const* from, T* to, extent_t n) {
        for (extent_t i = 0; i < n; i += V::lanes) { V::load(from + i).store(to + i); }
    }
};

} // namespace heed
