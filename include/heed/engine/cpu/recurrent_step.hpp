// SPDX-License-Identifier: BSD-3-Clause
// One token of the recurrent family: the state is read and written once, in place, in whatever memory it lies, from its first row to its last, a few rows at a time, each number decayed,
// added to and read out while it is in a register. The delta rule reads it once before; the second time it comes from a nearer cache.
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
    static constexpr int lanes = V::lanes, strip = 8, together = 4; // registers of a row whose sums stay in registers (with AVX-512 a whole row of 128 floats), rows before they go back
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
        T *q, *k, *a, *u, *o, *beta, *av, *raw;
        scratch(form const& m, problem const& p, arena& room) {
            extent_t const d = padded(m.width(p.q.extent(3))), dv = padded(p.v.extent(3));
            q = room.take<T>(d), k = room.take<T>(d), a = room.take<T>(d), u = room.take<T>(dv), o = room.take<T>(dv), beta = room.take<T>(dv), av = room.take<T>(m.decays == decay_kind::value ? dv : 0), raw = room.take<T>(rows::of_rows ? padded(p.q.extent(3)) : 0);
        }
    };

    static void token(form const& m, problem const& p, head_place const& at, extent_t n, scratch& s) {
        extent_t const width = m.width(p.q.extent(3)), wide = padded(width), columns = p.v.extent(3), tall = padded(columns);
        mapped(m, p.q, at.b, at.qh, n, width, wide, m.scale, s.q, s);
        mapped<true>(m, p.k, at.b, at.kh, n, width, wide, T(1), s.k, s);
        rows::read(p.v, at.b, at.vh, n, 1, 0, columns, tall, s.u, tall);
        decays(m, at, n, width, wide, s);
        if (m.decays == decay_kind::value) {
            rows::read_decays(m, at.b, at.h, n, 1, 0, columns, tall, s.av, tall);
            for (extent_t e = 0; e < tall; e += lanes) { fast_exp2(V::load(s.av + e)).store(s.av + e); }
        }
        rows::read_beta(m, at.b, at.h, n, 1, 0, columns, tall, s.beta, tall);
        if (m.weighs) { rows::multiply(s.beta, s.u, 1, tall, tall); }
        m.decays == decay_kind::value ? update<true>(m, p, at, width, columns, s) : update<false>(m, p, at, width, columns, s);
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
        if (m.decays == decay_kind::none || m.decays == decay_kind::value) {
            for (extent_t c = 0; c < wide; c += lanes) { V(1).store(s.a + c); }
            return;
        }
        rows::read_decays(m, at.b, at.h, n, 1, 0, width, wide, s.a, wide);
        V const one = fast_exp2(V(s.a[0]));
        for (extent_t c = 0; c < wide; c += lanes) { (m.decays == decay_kind::head ? one : fast_exp2(V::load(s.a + c))).store(s.a + c); }
    }
    // body(registers, whether the last is only part of one, first column) over a row of columns, as many registers at a time as sums of them stay in registers
    template <class Body>
    HEED_INLINE static void each_strip(extent_t columns, Body const& body) {
        extent_t e = 0;
        for (; e + strip * lanes <= columns; e += strip * lanes) { body(std::integral_constant<int, strip>{}, std::false_type{}, e); }
        for (; e + 2 * lanes <= columns; e += 2 * lanes) { body(std::integral_constant<int, 2>{}, std::false_type{}, e); }
        for (; e + lanes <= columns; e += lanes) { body(std::integral_constant<int, 1>{}, std::false_type{}, e); }
        if (e < columns) { body(std::integral_constant<int, 1>{}, std::true_type{}, e); }
    }
    // sums[columns] += body(c, parts of row c), a few rows at a time, so that memory is walked in its order and sums go through it seldom. Rows whose features have gaps go through a
    // copy. What lies `ahead` elements on is asked for: by the first cache, or, further away, by the second.
    template <bool Write, class Body>
    HEED_INLINE static void each_row(problem const& p, head_place const& at, extent_t width, extent_t columns, extent_t ahead, bool far, T* sums, Body const& body) {
        tensor_view<T> const& state = p.last.s;
        extent_t const step = state.stride(3), pitch = state.stride(2);
        constexpr int line = static_cast<int>(line_bytes / sizeof(T));
        for (extent_t e = 0; e < columns; e += lanes) { V(0).store(sums + e); }
        T* const first = state.row(at.b, at.h, 0);
        for (extent_t c0 = 0; c0 < width; c0 += together) {
            extent_t const c1 = c0 + together < width ? c0 + together : width;
            for (extent_t c = c0; step == 1 && c < c1; ++c) {
                T const* const next = first + c * pitch + ahead;
                for (extent_t e = 0; e < columns; e += line) {
                    if (far) {
                        HEED_PREFETCH_FAR(next + e, 0);
                    } else {
                        HEED_PREFETCH(next + e);
                    }
                }
            }
            each_strip(columns, [&](auto size, auto part, extent_t e) HEED_INLINE_LAMBDA {
                constexpr int W = decltype(size)::value;
                V sum[W];
                static_for<W>([&](auto w) HEED_INLINE_LAMBDA { sum[w] = V::load(sums + e + w * lanes); });
                for (extent_t c = c0; c < c1; ++c) {
                    T* const row = first + c * pitch + e * step;
                    if (step == 1) {
                        body(size, part, row, c, e, sum);
                        continue;
                    }
                    T copy[W * lanes];
                    extent_t const count = columns - e < W * lanes ? columns - e : extent_t(W * lanes);
                    for (extent_t l = 0; l < count; ++l) { copy[l] = row[l * step]; }
                    body(size, part, copy, c, e, sum);
                    for (extent_t l = 0; Write && l < count; ++l) { row[l * step] = copy[l]; }
                }
                static_for<W>([&](auto w) HEED_INLINE_LAMBDA { sum[w].store(sums + e + w * lanes); });
            });
        }
    }
    // Delta rule: u = beta (v - (a k)^T S). Then S = a S + k u^T, o = q^T S. The delta rule's second pass has the state in the second cache; meanwhile the next head's comes there.
    template <bool Columns>
    static void update(form const& m, problem const& p, head_place const& at, extent_t width, extent_t columns, scratch& s) {
        extent_t const page = extent_t(4096 / sizeof(T));
        if (m.corrects) {
            each_row<false>(p, at, width, columns, page, false, s.o, [&](auto size, auto part, T const* row, extent_t c, extent_t e, auto& sum) HEED_INLINE_LAMBDA {
                V const x(s.a[c] * s.k[c]);
                static_for<decltype(size)::value>([&](auto w) HEED_INLINE_LAMBDA { sum[w] = fma(load<decltype(part)::value>(row + w * lanes, columns - e), x, sum[w]); });
            });
            for (extent_t e = 0; e < columns; e += lanes) { ((V::load(s.u + e) - V::load(s.o + e)) * V::load(s.beta + e)).store(s.u + e); }
        }
        each_row<true>(p, at, width, columns, m.corrects ? p.last.s.stride(1) : page, m.corrects, s.o, [&](auto size, auto part, T* row, extent_t c, extent_t e, auto& sum) HEED_INLINE_LAMBDA {
            constexpr bool Part = decltype(part)::value;
            V const k(s.k[c]), q(s.q[c]), of_row(s.a[c]);
            static_for<decltype(size)::value>([&](auto w) HEED_INLINE_LAMBDA {
                T* const to = row + w * lanes;
                V const a = Columns ? V::load(s.av + e + w * lanes) : of_row;
                V const x = fma(load<Part>(to, columns - e), a, k * V::load(s.u + e + w * lanes));
                if constexpr (Part) {
                    store_as(to, x, columns - e);
                } else {
                    x.store(to);
                }
                sum[w] = fma(x, q, sum[w]);
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
