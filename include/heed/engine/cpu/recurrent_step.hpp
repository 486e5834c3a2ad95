// SPDX-License-Identifier: BSD-3-Clause
// One token of the recurrent family: the state is read and written once, in place, in whatever memory it lies, from its first row to its last, a few rows at a time, each number decayed,
// added to and read out while it is in a register. The delta rule reads it once before, row by row beside the rows that the head before it writes: what comes from far and what goes back there share the
// time, and the second reading is from a nearer cache.
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
    static constexpr int lanes = V::lanes, together = 4; // rows before sums go back
    static constexpr int strip = 8, pair_strip = registers<A> == 32 ? 8 : 4; // registers of a row whose sums stay in registers (with AVX-512 a whole row of 128 floats); of two rows of two heads
    static constexpr std::string_view name = "recurrent step";

    static std::size_t slot_bytes(form const& m, problem const& p) {
        arena count(nullptr);
        scratch const one(m, p, count), other(m, p, count);
        return count.bytes();
    }
    // State in p.initial, read from and written to p.last: in place where the two are one.
    template <class X>
    static void run(form const& m, problem const& p, X& executor, int slots, std::byte* workspace) {
        std::byte* const base = aligned(workspace);
        std::size_t const bytes = slot_bytes(m, p);
        extent_t const heads = p.out.extent(0) * p.heads(), run_of = heads / (4 * slots) < 1 ? 1 : heads / (4 * slots); // heads one after another, for their states to follow each other
        detail::for_each_item<A>(executor, slots, (heads + run_of - 1) / run_of, [&](extent_t item, int slot) {
            arena room(base + static_cast<std::size_t>(slot) * bytes);
            scratch both[2] = {scratch(m, p, room), scratch(m, p, room)};
            extent_t const end = (item + 1) * run_of < heads ? (item + 1) * run_of : heads;
            extent_t head = item * run_of - 1, left = 0, n = 0;
            auto const next = [&](scratch& s) { // the next token of this head, or the first of the next that has one
                for (++n; left == 0 && ++head < end; n = 0) { left = p.q.length(head / p.heads()); }
                if (head >= end) { return false; }
                --left;
                extent_t const b = head / p.heads(), h = head % p.heads();
                s.at = {b, h, p.head_of(p.q, h), p.head_of(p.k, h), p.head_of(p.v, h), 0, p.v.extent(3)};
                s.n = n;
                read(m, p, s);
                return true;
            };
            bool more = next(both[0]), seen = false;
            for (int now = 0; more; now = 1 - now) {
                scratch &s = both[now], &then = both[1 - now];
                more = next(then);
                bool const pair = more && m.corrects && p.last.s.stride(3) == 1 && then.n == 0;
                m.decays == decay_kind::value ? update<true>(m, p, seen, s, pair ? &then : nullptr) : update<false>(m, p, seen, s, pair ? &then : nullptr);
                seen = pair;
                write(m, p, s);
            }
        });
    }

private:
    using head_place = typename rows::head_place;
    static extent_t padded(extent_t n) { return (n + lanes - 1) / lanes * lanes; }

    struct scratch {
        head_place at = {};
        extent_t n = 0;
        T *q, *k, *a, *u, *o, *beta, *av, *raw;
        scratch(form const& m, problem const& p, arena& room) {
            extent_t const d = padded(m.width(p.q.extent(3))), dv = padded(p.v.extent(3));
            q = room.take<T>(d), k = room.take<T>(d), a = room.take<T>(d), u = room.take<T>(dv), o = room.take<T>(dv), beta = room.take<T>(dv), av = room.take<T>(m.decays == decay_kind::value ? dv : 0), raw = room.take<T>(rows::of_rows ? padded(p.q.extent(3)) : 0);
        }
    };

    // A token of a head, all but the state.
    static void read(form const& m, problem const& p, scratch& s) {
        extent_t const width = m.width(p.q.extent(3)), wide = padded(width), columns = p.v.extent(3), tall = padded(columns), n = s.n;
        head_place const& at = s.at;
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
    }
    static void write(form const& m, problem const& p, scratch& s) {
        extent_t const width = m.width(p.q.extent(3)), columns = p.v.extent(3), tall = padded(columns);
        head_place const& at = s.at;
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
        if (m.has_factor()) { scale_in_place<A>(s.o, tall, rows::factor(m, at.b, at.h, s.n)); }
        unpack_rows<A>(s.o, tall, extent_t(1), columns, p.out.row(at.b, at.h, s.n), p.out.stride(2), p.out.stride(3));
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
    template <int Strip, class Body>
    HEED_INLINE static void each_strip(extent_t columns, Body const& body) {
        extent_t e = 0;
        for (; e + Strip * lanes <= columns; e += Strip * lanes) { body(std::integral_constant<int, Strip>{}, std::false_type{}, e); }
        for (; e + 2 * lanes <= columns; e += 2 * lanes) { body(std::integral_constant<int, 2>{}, std::false_type{}, e); }
        for (; e + lanes <= columns; e += lanes) { body(std::integral_constant<int, 1>{}, std::false_type{}, e); }
        if (e < columns) { body(std::integral_constant<int, 1>{}, std::true_type{}, e); }
    }
    // f(size, part, c0, c1, e) for rows [c0, c1) of a strip: all of them where one strip is a row, else a few at a time, so that memory is walked in its order and sums go through it seldom.
    template <int Strip, class Rows>
    HEED_INLINE static void each_row(extent_t width, extent_t columns, Rows const& f) {
        extent_t const group = columns == Strip * lanes ? width : extent_t(together);
        for (extent_t c0 = 0; c0 < width; c0 += group) {
            extent_t const c1 = c0 + group < width ? c0 + group : width;
            each_strip<Strip>(columns, [&](auto size, auto part, extent_t e) HEED_INLINE_LAMBDA { f(size, part, c0, c1, e); });
        }
    }
    // What lies a page on is asked for.
    template <int W>
    HEED_INLINE static void ask(T const* row) {
        constexpr int line = static_cast<int>(line_bytes / sizeof(T));
        for (int e = 0; e < W * lanes; e += line) { HEED_PREFETCH(row + extent_t(4096 / sizeof(T)) + e); }
    }
    template <int W>
    HEED_INLINE static void load_sums(T const* from, V (&sum)[W]) {
        static_for<W>([&](auto w) HEED_INLINE_LAMBDA { sum[w] = V::load(from + w * lanes); });
    }
    template <int W>
    HEED_INLINE static void store_sums(V const (&sum)[W], T* to) {
        static_for<W>([&](auto w) HEED_INLINE_LAMBDA { sum[w].store(to + w * lanes); });
    }
    // f(row, c) for rows of a strip; those whose features have gaps go through a copy.
    template <int W, bool Write, class Row>
    HEED_INLINE static void rows_of_strip(T* first, extent_t pitch, extent_t step, extent_t left, extent_t c0, extent_t c1, Row const& f) {
        for (extent_t c = c0; c < c1; ++c) {
            T* const row = first + c * pitch;
            if (step == 1) {
                f(row, c);
                continue;
            }
            T copy[W * lanes] = {};
            extent_t const count = left < W * lanes ? left : extent_t(W * lanes);
            for (extent_t l = 0; l < count; ++l) { copy[l] = row[l * step]; }
            f(copy, c);
            for (extent_t l = 0; Write && l < count; ++l) { row[l * step] = copy[l]; }
        }
    }
    // sum += (a k)_c row, what the state answers to the key
    template <int W, bool Part>
    HEED_INLINE static void look(T const* row, extent_t left, scratch const& s, extent_t c, V (&sum)[W]) {
        V const x(s.a[c] * s.k[c]);
        static_for<W>([&](auto w) HEED_INLINE_LAMBDA { sum[w] = fma(load<Part>(row + w * lanes, left), x, sum[w]); });
    }
    // row = a row + k_c u, sum += q_c row
    template <bool Columns, int W, bool Part>
    HEED_INLINE static void advance(T* row, extent_t left, scratch const& s, extent_t c, extent_t e, V const (&u)[W], V (&sum)[W]) {
        V const k(s.k[c]), q(s.q[c]), of_row(s.a[c]);
        static_for<W>([&](auto w) HEED_INLINE_LAMBDA {
            T* const to = row + w * lanes;
            V const a = Columns ? V::load(s.av + e + w * lanes) : of_row;
            V const x = fma(load<Part>(to, left), a, k * u[w]);
            if constexpr (Part) {
                store_as(to, x, left);
            } else {
                x.store(to);
            }
            sum[w] = fma(x, q, sum[w]);
        });
    }
    // Delta rule: u = beta (v - (a k)^T S), seen before or now. Then S = a S + k u^T, o = q^T S; beside it, what the state of `then` answers to its key, into its o.
    template <bool Columns>
    static void update(form const& m, problem const& p, bool seen, scratch& s, scratch* then) {
        extent_t const width = m.width(p.q.extent(3)), columns = p.v.extent(3), step = p.last.s.stride(3), pitch = p.last.s.stride(2);
        T* const state = p.last.s.row(s.at.b, s.at.h, 0);
        auto const clear = [&](T* sums) {
            for (extent_t e = 0; e < columns; e += lanes) { V(0).store(sums + e); }
        };
        if (m.corrects && !seen) {
            clear(s.o);
            each_row<strip>(width, columns, [&](auto size, auto part, extent_t c0, extent_t c1, extent_t e) HEED_INLINE_LAMBDA {
                constexpr int W = decltype(size)::value;
                V sum[W];
                load_sums(s.o + e, sum);
                rows_of_strip<W, false>(state + e * step, pitch, step, columns - e, c0, c1, [&](T const* row, extent_t c) HEED_INLINE_LAMBDA {
                    ask<W>(row);
                    look<W, decltype(part)::value>(row, columns - e, s, c, sum);
                });
                store_sums(sum, s.o + e);
            });
        }
        if (m.corrects) {
            for (extent_t e = 0; e < columns; e += lanes) { ((V::load(s.u + e) - V::load(s.o + e)) * V::load(s.beta + e)).store(s.u + e); }
        }
        clear(s.o);
        if (then == nullptr) {
            each_row<strip>(width, columns, [&](auto size, auto part, extent_t c0, extent_t c1, extent_t e) HEED_INLINE_LAMBDA {
                constexpr int W = decltype(size)::value;
                V sum[W], u[W];
                load_sums(s.o + e, sum), load_sums(s.u + e, u);
                rows_of_strip<W, true>(state + e * step, pitch, step, columns - e, c0, c1, [&](T* row, extent_t c) HEED_INLINE_LAMBDA {
                    if (!m.corrects) { ask<W>(row); }
                    advance<Columns, W, decltype(part)::value>(row, columns - e, s, c, e, u, sum);
                });
                store_sums(sum, s.o + e);
            });
            return;
        }
        T const* const other = p.last.s.row(then->at.b, then->at.h, 0);
        clear(then->o);
        each_row<pair_strip>(width, columns, [&](auto size, auto part, extent_t c0, extent_t c1, extent_t e) HEED_INLINE_LAMBDA {
            constexpr int W = decltype(size)::value;
            V sum[W], answer[W], u[W];
            load_sums(s.o + e, sum), load_sums(then->o + e, answer), load_sums(s.u + e, u);
            for (extent_t c = c0; c < c1; ++c) {
                ask<W>(other + c * pitch + e);
                look<W, decltype(part)::value>(other + c * pitch + e, columns - e, *then, c, answer);
                advance<Columns, W, decltype(part)::value>(state + c * pitch + e, columns - e, s, c, e, u, sum);
            }
            store_sums(sum, s.o + e), store_sums(answer, then->o + e);
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
