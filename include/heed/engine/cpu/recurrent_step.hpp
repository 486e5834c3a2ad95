// SPDX-License-Identifier: BSD-3-Clause
// One token of the recurrent family: the state is read and written once, in place, in whatever memory it lies. A strip of columns of the state goes through registers,
// row after row: decayed, added to, read out. The delta rule reads it once more before, from the nearest cache it still stands in: a few rows' worth of work.
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
    static constexpr int lanes = V::lanes, strip = registers<A> == 32 ? 8 : 4; // vectors of columns
    static constexpr std::string_view name = "recurrent step";

    static std::size_t slot_bytes(problem const& p) {
        arena count(nullptr);
        scratch const s(p, count);
        return count.bytes();
    }
    // State in p.initial, read from and written to p.last: in place where the two are one.
    template <class X>
    static void run(form const& m, problem const& p, X& executor, int slots, std::byte* workspace) {
        std::byte* const base = aligned(workspace);
        std::size_t const bytes = slot_bytes(p);
        detail::for_each_item<A>(executor, slots, p.out.extent(0) * p.heads(), [&](extent_t item, int slot) {
            arena room(base + static_cast<std::size_t>(slot) * bytes);
            scratch s(p, room);
            extent_t const b = item / p.heads(), h = item % p.heads();
            for (extent_t n = 0; n < p.q.length(b); ++n) { token(m, p, {b, h, p.head_of(p.q, h), p.head_of(p.k, h), p.head_of(p.v, h), 0, p.v.extent(3)}, n, s); }
        });
    }

private:
    using head_place = typename rows::head_place;
    static extent_t padded(extent_t n) { return (n + lanes - 1) / lanes * lanes; }

    struct scratch {
        T *q, *k, *a, *u, *o, *beta, *row;
        scratch(problem const& p, arena& room) {
            extent_t const d = padded(p.q.extent(3)), dv = padded(p.v.extent(3));
            q = room.take<T>(d), k = room.take<T>(d), a = room.take<T>(d), u = room.take<T>(dv), o = room.take<T>(dv), beta = room.take<T>(dv), row = room.take<T>(dv);
        }
    };

    static void token(form const& m, problem const& p, head_place const& at, extent_t n, scratch& s) {
        extent_t const width = p.q.extent(3), wide = padded(width), columns = p.v.extent(3), tall = padded(columns);
        rows::read(p.q, at.b, at.qh, n, 1, 0, width, wide, s.q, wide);
        rows::map(m.feature, m.scale, s.q, wide, 1, width);
        rows::read(p.k, at.b, at.kh, n, 1, 0, width, wide, s.k, wide);
        rows::map(m.feature, T(1), s.k, wide, 1, width);
        rows::read(p.v, at.b, at.vh, n, 1, 0, columns, tall, s.u, tall);
        decays(m, at, n, width, wide, s);
        if (m.corrects) {
            rows::read_beta(m, at.b, at.h, n, 1, 0, columns, tall, s.beta, tall);
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
        unpack_rows<A>(s.o, tall, extent_t(1), columns, p.out.row(at.b, at.h, n), p.out.stride(2), p.out.stride(3));
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
    // f(row pointer, c) for the rows of a head's state; rows with gaps between their features go through scratch
    template <bool Write, class Body>
    HEED_INLINE static void each_row(problem const& p, head_place const& at, extent_t width, extent_t columns, scratch& s, Body const& body) {
        tensor_view<T> const& state = p.last.s;
        extent_t const step = state.stride(3);
        for (extent_t c = 0; c < width; ++c) {
            T* const row = state.row(at.b, at.h, c);
            if (step == 1) {
                body(row, c);
                continue;
            }
            for (extent_t e = 0; e < columns; ++e) { s.row[e] = row[e * step]; }
            body(s.row, c);
            if constexpr (Write) {
                for (extent_t e = 0; e < columns; ++e) { row[e * step] = s.row[e]; }
            }
        }
    }
    // columns [0, columns) in strips of W registers; f(W, first column), and the last few by themselves
    template <class Body>
    HEED_INLINE static void each_strip(extent_t columns, Body const& body) {
        extent_t e = 0;
        for (; e + strip * lanes <= columns; e += strip * lanes) { body(std::integral_constant<int, strip>{}, e); }
        for (; e + lanes <= columns; e += lanes) { body(std::integral_constant<int, 1>{}, e); }
        if (e < columns) { body(std::integral_constant<int, 0>{}, e); }
    }
    // u = beta (v - (a k)^T S)
    static void correct(problem const& p, head_place const& at, extent_t width, extent_t columns, scratch& s) {
        each_strip(columns, [&](auto size, extent_t e) HEED_INLINE_LAMBDA {
            constexpr int W = decltype(size)::value == 0 ? 1 : decltype(size)::value;
            constexpr bool part = decltype(size)::value == 0;
            V sum[W];
            static_for<W>([&](auto w) HEED_INLINE_LAMBDA { sum[w] = V(0); });
            each_row<false>(p, at, width, columns, s, [&](T const* row, extent_t c) HEED_INLINE_LAMBDA {
                V const x(s.a[c] * s.k[c]);
                static_for<W>([&](auto w) HEED_INLINE_LAMBDA { sum[w] = fma(part ? load_as<V>(row + e, columns - e) : V::load(row + e + w * lanes), x, sum[w]); });
            });
            static_for<W>([&](auto w) HEED_INLINE_LAMBDA {
                extent_t const to = e + w * lanes;
                ((V::load(s.u + to) - sum[w]) * V::load(s.beta + to)).store(s.u + to);
            });
        });
    }
    // S = a S + k u^T, o = q^T S
    static void update(problem const& p, head_place const& at, extent_t width, extent_t columns, scratch& s) {
        each_strip(columns, [&](auto size, extent_t e) HEED_INLINE_LAMBDA {
            constexpr int W = decltype(size)::value == 0 ? 1 : decltype(size)::value;
            constexpr bool part = decltype(size)::value == 0;
            V sum[W], u[W];
            static_for<W>([&](auto w) HEED_INLINE_LAMBDA { sum[w] = V(0), u[w] = V::load(s.u + e + w * lanes); });
            each_row<true>(p, at, width, columns, s, [&](T* row, extent_t c) HEED_INLINE_LAMBDA {
                V const k(s.k[c]), q(s.q[c]), a(s.a[c]);
                static_for<W>([&](auto w) HEED_INLINE_LAMBDA {
                    V const x = fma(part ? load_as<V>(row + e, columns - e) : V::load(row + e + w * lanes), a, k * u[w]);
                    if constexpr (part) {
                        store_as(row + e, x, columns - e);
                    } else {
                        x.store(row + e + w * lanes);
                    }
                    sum[w] = fma(x, q, sum[w]);
                });
            });
            static_for<W>([&](auto w) HEED_INLINE_LAMBDA { sum[w].store(s.o + e + w * lanes); });
        });
    }
};

} // namespace heed
