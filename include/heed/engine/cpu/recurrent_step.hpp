// SPDX-License-Identifier: BSD-3-Clause
// One token of the recurrent family: the state is read and written once, in place, in whatever memory it lies, from its first row to its last, a few rows at a
// time, each number decayed, added to and read out while it is in a register. The delta rule reads it once before; the second time it comes from a nearer cache.
#pragma once

#include <heed/engine/cpu/parallel.hpp>
#include <heed/engine/cpu/recurrent_rows.hpp>

#include <string_view>

namespace heed {

template <class F, class E, class A>
struct recurrent_step {
    using T = compute_t<E>;
    using V = vec<T, A>;
    using rows = recurrent_rows<F, E, A>;
    using form = recurrent_form<F, T>;
    using problem = recurrent_problem<E>;
    static constexpr int lanes = V::lanes, together = 1; // rows of the state: with more of them at once, their lines come in an order that prefetching likes less
    static constexpr std::string_view name = "recurrent step";

    static std::size_t slot_bytes(form const& m, problem const& p) {
        arena count(nullptr);
        scratch const s(m, p, count);
        return count.bytes();
    }
    // State in p.initial, read from and written to p.last: in place where the two are one.
    template <class X>
    static void run(form const& m, problem const& p, X& executor, int slots, std::byte* workspace) {
        std::byte* const base = aligned(workspace);
        std::size_t const bytes = slot_bytes(m, p);
        detail::for_each_item<A>(executor, slots, p.out.extent(0) * p.heads(), [&](extent_t item, int slot) {
            arena room(base + static_cast<std::size_t>(slot) * bytes);
            scratch s(m, p, room);
            extent_t const b = item / p.heads(), h = item % p.heads();
            for (extent_t n = 0; n < p.q.length(b); ++n) { token(m, p, {b, h, p.head_of(p.q, h), p.head_of(p.k, h), p.head_of(p.v, h), 0, p.v.extent(3)}, n, s); }
        });
    }

private:
    using head_place = typename rows::head_place;
    static extent_t padded(extent_t n) { return (n + lanes - 1) / lanes * lanes; }

    struct scratch {
        T *q, *k, *a, *u, *o, *beta, *row, *raw;
        scratch(form const& m, problem const& p, arena& room) {
            extent_t const d = padded(m.width(p.q.extent(3))), dv = padded(p.v.extent(3));
            q = room.take<T>(d), k = room.take<T>(d), a = room.take<T>(d), u = room.take<T>(dv), o = room.take<T>(dv), beta = room.take<T>(dv), row = room.take<T>(together * dv), raw = room.take<T>(rows::of_rows ? padded(p.q.extent(3)) : 0);
        }
    };

    static void token(form const& m, problem const& p, head_place const& at, extent_t n, scratch& s) {
        extent_t const width = m.width(p.q.extent(3)), wide = padded(width), columns = p.v.extent(3), tall = padded(columns);
        mapped(m, p.q, at.b, at.qh, n, width, wide, m.scale, s.q, s);
        mapped<true>(m, p.k, at.b, at.kh, n, width, wide, T(1), s.k, s);
        rows::read(p.v, at.b, at.vh, n, 1, 0, columns, tall, s.u, tall);
        decays(m, at, n, width, wide, s);
        rows::read_beta(m, at.b, at.h, n, 1, 0, columns, tall, s.beta, tall);
        if (m.weighs) { rows::multiply(s.beta, s.u, 1, tall, tall); }
        if (m.corrects) {
            correct(p, at, width, columns, s);
        }
        update(p, at, width, columns, s);
        if (m.normalized) {
            T sum(0);
            for (extent_t c = 0; c < width; ++c) {
                T& z = p.last.z(at.b, at.h, c, 0);
                z = z * s.a[c] + s.k[c];
                sum += s.q[c] * z;
            }
            T const by = T(1) / (sum + m.eps);
            for (extent_t e = 0; e < tall; e += lanes) { (V::load(s.o + e) * V(by)).store(s.o + e); }
        }
        if (m.has_factor()) { scale_in_place<A>(s.o, tall, rows::factor(m, at.b, at.h, n)); }
        unpack_rows<A>(s.o, tall, extent_t(1), columns, p.out.row(at.b, at.h, n), p.out.stride(2), p.out.stride(3));
    }
    template <bool Keys = false>
    static void mapped(form const& m, tensor_view<E const> const& x, extent_t b, extent_t h, extent_t n, extent_t width, extent_t wide, T scale, T* y, scratch& s) {
        extent_t const d = x.extent(3);
        if constexpr (rows::of_rows) {
            rows::read(x, b, h, n, 1, 0, d, padded(d), s.raw, padded(d));
            T shared(0);
            if constexpr (Keys && maps_keys_apart<F>) { shared = m.feature.known_peak(); }
            rows::template map_row<Keys>(m.feature, s.raw, d, shared, y);
            for (extent_t e = 0; e < wide; ++e) { y[e] = e < width ? y[e] * scale : T(0); }
        } else {
            rows::read(x, b, h, n, 1, 0, d, wide, y, wide);
            rows::map(m.feature, scale, y, wide, 1, d);
        }
    }
    static void decays(form const& m, head_place const& at, extent_t n, extent_t width, extent_t wide, scratch& s) {
        if (m.decays == decay_kind::none) {
            for (extent_t c = 0; c < wide; c += lanes) { V(1).store(s.a + c); }
            return;
        }
        rows::read_decays(m, at.b, at.h, n, 1, width, wide, s.a, wide);
        V const one = fast_exp2(V(s.a[0]));
        for (extent_t c = 0; c < wide; c += lanes) { (m.decays == decay_kind::head ? one : fast_exp2(V::load(s.a + c))).store(s.a + c); }
    }
    // body(rows, first, count) for a few rows of a head's state at a time; rows with gaps between their features go through scratch
    template <bool Write, class Body>
    HEED_INLINE static void each_rows(problem const& p, head_place const& at, extent_t width, extent_t columns, scratch& s, Body const& body) {
        tensor_view<T> const& state = p.last.s;
        extent_t const step = state.stride(3), pitch = padded(columns);
        auto const some = [&](auto size, extent_t c) HEED_INLINE_LAMBDA {
            constexpr int R = decltype(size)::value;
            T* row[R];
            for (int r = 0; r < R; ++r) { row[r] = state.row(at.b, at.h, c + r); }
            if (step == 1) {
                body(size, row, state.stride(2), c);
                return;
            }
            T* copy[R];
            for (int r = 0; r < R; ++r) {
                copy[r] = s.row + r * pitch;
                for (extent_t e = 0; e < columns; ++e) { copy[r][e] = row[r][e * step]; }
            }
            body(size, copy, extent_t(0), c);
            for (int r = 0; Write && r < R; ++r) {
                for (extent_t e = 0; e < columns; ++e) { row[r][e * step] = copy[r][e]; }
            }
        };
        extent_t c = 0;
        for (; c + together <= width; c += together) { some(std::integral_constant<int, together>{}, c); }
        for (; c < width; ++c) { some(std::integral_constant<int, 1>{}, c); }
    }
    // what is asked for in advance: about a page
    static constexpr extent_t rows_ahead(extent_t columns) { return extent_t(4096 / sizeof(T)) / (columns > 0 ? columns : 1) + 1; }
    // f(registers, first column, how many numbers of the last) over a row of columns: a line at a time, then registers, then what is left
    template <class Body>
    HEED_INLINE static void each_line(extent_t columns, Body const& body) {
        constexpr int line = static_cast<int>(line_bytes / sizeof(T)) / lanes;
        extent_t e = 0;
        for (; e + line * lanes <= columns; e += line * lanes) { body(std::integral_constant<int, line>{}, std::false_type{}, e); }
        for (; e + lanes <= columns; e += lanes) { body(std::integral_constant<int, 1>{}, std::false_type{}, e); }
        if (e < columns) { body(std::integral_constant<int, 1>{}, std::true_type{}, e); }
    }
    // u = beta (v - (a k)^T S)
    static void correct(problem const& p, head_place const& at, extent_t width, extent_t columns, scratch& s) {
        each_rows<false>(p, at, width, columns, s, [&](auto size, auto const& row, extent_t stride, extent_t c) HEED_INLINE_LAMBDA {
            constexpr int R = decltype(size)::value;
            extent_t const ahead = rows_ahead(columns);
            V x[R];
            static_for<R>([&](auto r) HEED_INLINE_LAMBDA { x[r] = V(-s.a[c + r] * s.k[c + r]); });
            each_line(columns, [&](auto count, auto part, extent_t e) HEED_INLINE_LAMBDA {
                static_for<R>([&](auto r) HEED_INLINE_LAMBDA { HEED_PREFETCH(row[r] + ahead * stride + e); });
                static_for<decltype(count)::value>([&](auto w) HEED_INLINE_LAMBDA {
                    extent_t const to = e + w * lanes;
                    V sum = V::load(s.u + to);
                    static_for<R>([&](auto r) HEED_INLINE_LAMBDA { sum = fma(load<decltype(part)::value>(row[r] + to, columns - to), x[r], sum); });
                    sum.store(s.u + to);
                });
            });
        });
        for (extent_t e = 0; e < columns; e += lanes) { (V::load(s.u + e) * V::load(s.beta + e)).store(s.u + e); }
    }
    // S = a S + k u^T, o = q^T S
    static void update(problem const& p, head_place const& at, extent_t width, extent_t columns, scratch& s) {
        for (extent_t e = 0; e < columns; e += lanes) { V(0).store(s.o + e); }
        each_rows<true>(p, at, width, columns, s, [&](auto size, auto const& row, extent_t stride, extent_t c) HEED_INLINE_LAMBDA {
            constexpr int R = decltype(size)::value;
            extent_t const ahead = rows_ahead(columns);
            V k[R], q[R], a[R];
            static_for<R>([&](auto r) HEED_INLINE_LAMBDA { k[r] = V(s.k[c + r]), q[r] = V(s.q[c + r]), a[r] = V(s.a[c + r]); });
            each_line(columns, [&](auto count, auto part, extent_t e) HEED_INLINE_LAMBDA {
                static_for<R>([&](auto r) HEED_INLINE_LAMBDA { HEED_PREFETCH(row[r] + ahead * stride + e); });
                static_for<decltype(count)::value>([&](auto w) HEED_INLINE_LAMBDA {
                    extent_t const to = e + w * lanes;
                    V const u = V::load(s.u + to);
                    V sum = V::load(s.o + to);
                    static_for<R>([&](auto r) HEED_INLINE_LAMBDA {
                        V const x = fma(load<decltype(part)::value>(row[r] + to, columns - to), a[r], k[r] * u);
                        if constexpr (decltype(part)::value) {
                            store_as(row[r] + to, x, columns - to);
                        } else {
                            x.store(row[r] + to);
                        }
                        sum = fma(x, q[r], sum);
                    });
                    sum.store(s.o + to);
                });
            });
        });
    }
    template <bool Part>
    HEED_INLINE static V load(T const* from, extent_t left) {
        if constexpr (Part) {
            return load_as<V>(from, left);
        } else {
            (void)left;
            return V::load(from);
        }
    }
};

} // namespace heed
