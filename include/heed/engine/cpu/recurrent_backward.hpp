// SPDX-License-Identifier: BSD-3-Clause
// Backward of the recurrent family: once along a head for the states before each chunk, which are kept, and once back, chunk by chunk, with everything inside a
// chunk made anew; the rows of the next chunk, and those that gradients go to, are asked for in between its products. What grows with the sequence is one state a chunk and slot, and for the delta rule the rows that its solution comes from and
// the triangle B of the chunk: three quarters as much again at d = 128.
//
// An item is a batch entry and the heads that share rows of q, k or v; or, where a gradient of broadcast data sums over batch entries or heads, all of those: one
// thread adds up what belongs together, in one order.
#pragma once

#include <heed/engine/cpu/recurrent_forward.hpp>

namespace heed {

template <class F, class E, class A, int Chunk = 64>
struct recurrent_backward {
    using T = compute_t<E>;
    using V = vec<T, A>;
    using rows = recurrent_rows<F, E, A>;
    using chunk = recurrent_chunk<T, A>;
    using problem = recurrent_problem<E>;
    using gradients = recurrent_gradients<E>;
    using form = recurrent_form<F, T>;
    static constexpr extent_t tokens = Chunk;

    static constexpr std::string_view name(bool causal) { return causal ? "recurrent chunks backward" : "recurrent sums backward"; }

    struct division {
        extent_t batches, batch_step, heads, head_step; // items, and what each covers
        extent_t items() const { return batches * heads; }
    };
    static division divide(problem const& p, gradients const& d) {
        extent_t const h = p.heads();
        extent_t groups = gcd(gcd(p.q.extent(1), p.k.extent(1)), p.v.extent(1));
        bool all_batches = false;
        for (auto const* x : {&d.log_decay, &d.beta, &d.factor}) {
            if (x->data_handle() == nullptr) { continue; }
            all_batches = all_batches || x->extent(0) == 1;
            groups = x->extent(1) == 1 ? 1 : groups;
        }
        if (p.out.extent(0) * h == 0) { return {0, 1, 0, 1}; }
        return {all_batches ? 1 : p.out.extent(0), all_batches ? p.out.extent(0) : 1, groups, h / groups};
    }
    static std::size_t slot_bytes(form const& m, problem const& p) {
        arena count(nullptr);
        slot const s(m, p, count);
        return count.bytes();
    }

    template <class X>
    static void run(form const& m, problem const& p, gradients const& d, X& executor, division const& n, int slots, std::byte* workspace) {
        std::byte* const base = aligned(workspace);
        std::size_t const bytes = slot_bytes(m, p);
        clear(d.log_decay), clear(d.beta), clear(d.factor);
        detail::for_each_item<A>(executor, slots, n.items(), [&](extent_t item, int at) {
            arena room(base + static_cast<std::size_t>(at) * bytes);
            slot s(m, p, room);
            extent_t const b0 = item / n.heads * n.batch_step, h0 = item % n.heads * n.head_step;
            for (extent_t b = b0; b < b0 + n.batch_step; ++b) {
                for (extent_t h = h0; h < h0 + n.head_step; ++h) { walk(m, p, d, {b, h, p.head_of(p.q, h), p.head_of(p.k, h), p.head_of(p.v, h), 0, p.v.extent(3)}, s); }
            }
        });
    }

private:
    using head_place = typename rows::head_place;

    struct slot {
        chunk c;
        T *states, *residuals;      // before each chunk and after the last, turned; what the delta rule multiplies with beta, rows of values
        T *triangles, *below;         // B of each chunk, and of a token
        T *before, *after, *residual; // more of them for chunks that go token by token
        slot(form const& m, problem const& p, arena& room) : c(recurrent_forward<F, E, A, Chunk>::sizes(m, p.q.extent(3), p.v.extent(3)), true, m.causal, room) {
            extent_t const chunks = m.causal ? (p.q.extent(2) + tokens - 1) / tokens : 0;
            states = room.take<T>(m.causal ? (chunks + 1) * c.turned_size() : 0);
            residuals = room.take<T>(m.corrects ? chunks * tokens * c.vp : 0);
            triangles = room.take<T>(m.corrects ? chunks * tokens * c.cp : 0), below = c.below;
            residual = room.take<T>(m.corrects ? c.vp : 0);
            before = room.take<T>(m.causal ? c.turned_size() : 0);
            after = room.take<T>(m.causal ? c.turned_size() : 0);
        }
    };
    static extent_t gcd(extent_t a, extent_t b) { return b == 0 ? a : gcd(b, a % b); }
    static void clear(tensor_view<T> const& x) {
        if (x.data_handle() == nullptr) { return; }
        for (extent_t b = 0; b < x.extent(0); ++b) {
            for (extent_t h = 0; h < x.extent(1); ++h) {
                for (extent_t n = 0; n < x.length(b); ++n) {
                    for (extent_t e = 0; e < x.extent(3); ++e) { x(b, h, n, e) = T(0); }
                }
            }
        }
    }

    static void walk(form const& m, problem const& p, gradients const& d, head_place const& at, slot& s) {
        chunk& c = s.c;
        extent_t const width = m.width(p.q.extent(3));
        c.clear_state(c.state);
        rows::read_state(p.initial, at.b, at.h, width, 0, at.columns, c.state, c.vp);
        rows::share_keys(m, p.k, at.b, at.kh, m.causal ? p.k.length(at.b) : m.keys(p.at(at.b, at.h)), c);
        if (m.causal) {
            along(m, p, d, at, s);
        } else {
            c.clear_state(c.x);
            rows::read_state(d.last, at.b, at.h, width, 0, at.columns, c.x, c.vp);
            sums(m, p, d, at, c);
        }
        if constexpr (looks_at_keys<F>) { // one key's peak counts for all
            if (c.shared_from >= 0 && d.dk.data_handle() != nullptr) {
                rows::read(p.k, at.b, at.kh, c.shared_from, 1, 0, p.k.extent(3), rows::padded(p.k.extent(3)), c.raw, c.rp);
                m.feature.template peak_back<A>(c.raw, p.k.extent(3), c.dshared, c.draw);
                give<true>(c.draw, c.rp, d.dk, p.heads(), at, at.kh, c.shared_from, 1, p.k.extent(3));
            }
        }
        rows::write_state(m.causal ? c.state : c.x, c.vp, at.b, at.h, width, 0, at.columns, d.initial);
    }

    static void along(form const& m, problem const& p, gradients const& d, head_place const& at, slot& s) {
        chunk& c = s.c;
        extent_t const n = p.q.length(at.b), chunks = (n + tokens - 1) / tokens;
        auto const length = [&](extent_t i) { return n - i * tokens < tokens ? n - i * tokens : tokens; };
        auto const ask_keys = [&](extent_t i) {
            ask(p.k, at.b, at.kh, i * tokens, length(i), false, c), ask(p.v, at.b, at.vh, i * tokens, length(i), false, c);
        };
        c.turn(c.state, s.states);
        for (extent_t i = 0; i < chunks; ++i) {
            T* const next = s.states + (i + 1) * c.turned_size();
            bool const finite = rows::read_keys(m, p, at, i * tokens, length(i), c);
            c.coming.clear();
            if (i + 1 < chunks) {
                if (m.corrects) { c.coming.add(s.residuals + (i + 1) * tokens * c.vp, c.vp, c.vp, tokens, true), c.coming.add(s.triangles + (i + 1) * tokens * c.cp, c.cp, tokens, tokens, true); }
                ask_keys(i + 1);
                c.coming.add(next + c.turned_size(), c.qp, c.qp, c.tall, true);
            }
            if (finite) {
                c.below = s.triangles + (m.corrects ? i * tokens * c.cp : 0);
                step(length(i), s.residuals + (m.corrects ? i * tokens * c.vp : 0), c);
                c.below = s.below;
            } else {
                for (extent_t t = 0; t < length(i); ++t) { token(m, p, at, i * tokens + t, s.residual, c); }
            }
            c.turn(c.state, next);
        }
        extent_t const width = m.width(p.q.extent(3));
        c.clear_state(c.state);
        rows::read_state(d.last, at.b, at.h, width, 0, at.columns, c.state, c.vp);
        c.turn(c.state, c.x_turned);
        for (extent_t i = chunks - 1; i >= 0; --i) {
            T* const first = s.states + i * c.turned_size();
            c.coming.clear();
            ask(d.dq, at.b, at.qh, i * tokens, length(i), true, c), ask(d.dk, at.b, at.kh, i * tokens, length(i), true, c), ask(d.dv, at.b, at.vh, i * tokens, length(i), true, c);
            if (i > 0) {
                ask_keys(i - 1), ask(p.q, at.b, at.qh, (i - 1) * tokens, tokens, false, c), ask(d.dout, at.b, at.h, (i - 1) * tokens, tokens, false, c);
                c.coming.add(first - c.turned_size(), c.qp, c.qp, c.tall, false);
                if (m.corrects) { c.coming.add(s.residuals + (i - 1) * tokens * c.vp, c.vp, c.vp, tokens, false), c.coming.add(s.triangles + (i - 1) * tokens * c.cp, c.cp, tokens, tokens, false); }
            }
            c.state_turned = first;
            c.below = s.triangles + (m.corrects ? i * tokens * c.cp : 0);
            if (piece(m, p, d, at, i * tokens, length(i), first + c.turned_size(), s.residuals + (m.corrects ? i * tokens * c.vp : 0), true, c)) { continue; }
            c.below = s.below;
            for (extent_t t = length(i) - 1; t >= 0; --t) { // NaN or infinity somewhere: nothing of it may reach what stands before
                c.turn_back(first, c.state);
                for (extent_t r = 0; r < t; ++r) { token(m, p, at, i * tokens + r, s.residual, c); }
                c.turn(c.state, s.before);
                token(m, p, at, i * tokens + t, s.residual, c);
                c.turn(c.state, s.after);
                c.state_turned = s.before;
                piece(m, p, d, at, i * tokens + t, 1, s.after, s.residual, false, c);
            }
        }
        c.turn_back(c.x_turned, c.state);
    }
    // Rows that are needed soon.
    template <class U>
    static void ask(tensor_view<U> const& x, extent_t b, extent_t h, extent_t first, extent_t len, bool write, chunk& c) {
        if (x.data_handle() != nullptr && x.stride(3) == 1) { c.coming.add(x.row(b, h, first), x.stride(2), x.extent(3), len, write); }
    }
    static void step(extent_t len, T* residual, chunk& c) {
        c.prepare(len, false);
        c.solve(len, residual);
        c.advance(len);
    }
    static void token(form const& m, problem const& p, head_place const& at, extent_t n, T* residual, chunk& c) {
        rows::read_keys(m, p, at, n, 1, c);
        step(1, residual, c);
    }
    // Tokens [first, first + len), the state before them in place. Returns false, and does nothing, if all must be finite and is not.
    static bool piece(form const& m, problem const& p, gradients const& d, head_place const& at, extent_t first, extent_t len, T const* after, T const* residual, bool finite_only, chunk& c) {
        bool finite = rows::read_keys(m, p, at, first, len, c);
        finite &= rows::read_queries(m, p, at, first, len, c);
        finite &= rows::read(d.dout, at.b, at.h, first, len, 0, at.columns, c.tall, c.dout, c.vp);
        finite &= factor_back(m, p, d, at, first, len, !finite_only || finite, finite_only, c);
        if (finite_only && !finite) { return false; }
        if (m.decays == decay_kind::value) { rows::read(p.out, at.b, at.h, first, len, 0, at.columns, c.tall, c.o, c.vp); }
        c.prepare(len, true, true);
        if (m.normalized) {
            for (extent_t t = 0; t < len; ++t) { divide_back(m, p, at, first + t, t, c.denominator(t, at.columns), c); }
        }
        c.backward(len, after, residual);
        write_queries(m, p, d, at, first, len, c);
        write_keys(m, p, d, at, first, len, c);
        return true;
    }
    // Gradients of the factors of rows, where they are to be given and will not come `again`; dout becomes that of what they multiply. Returns true if that is finite.
    static bool factor_back(form const& m, problem const& p, gradients const& d, head_place const& at, extent_t first, extent_t len, bool give_them, bool again, chunk& c) {
        if (!m.has_factor()) { return true; }
        V poison(0);
        T along[tokens];
        for (extent_t t = 0; t < len; ++t) {
            T const by = rows::factor(m, at.b, at.h, first + t);
            T* const row = c.dout + t * c.vp;
            E const* const out = p.out.row(at.b, at.h, first + t);
            along[t] = T(0);
            for (extent_t e = 0; e < at.columns; ++e) { along[t] += row[e] * static_cast<T>(out[e * p.out.stride(3)]); }
            along[t] *= m.factor_is_logarithm ? T(-1) : T(1) / by;
            for (extent_t e = 0; e < c.tall; e += V::lanes) {
                V const y = V::load(row + e) * V(by);
                poison = fma(y, V(0), poison);
                y.store(row + e);
            }
        }
        bool const finite = all(poison == V(0));
        if (give_them && (finite || !again)) { add(d.factor, at, first, len, along, 1, 1); }
        return finite;
    }
    // The gradient of a quotient: by the numerators, and by the denominator in the column of ones.
    static void divide_back(form const& m, problem const& p, head_place const& at, extent_t n, extent_t t, T sum, chunk& c) {
        T const by = T(1) / (sum + m.eps);
        T* const row = c.dout + t * c.vp;
        T along = T(0);
        E const* const out = p.out.row(at.b, at.h, n);
        for (extent_t e = 0; e < at.columns; ++e) {
            along += row[e] * static_cast<T>(out[e * p.out.stride(3)]);
            row[e] *= by;
        }
        row[at.columns] = -along * by;
    }

    static void sums(form const& m, problem const& p, gradients const& d, head_place const& at, chunk& c) {
        place const whole = p.at(at.b, at.h);
        extent_t const keys = m.keys(whole);
        rows::sum_keys(m, p, at, keys, tokens, c);
        c.turn(c.state, c.state_turned);
        bool const nothing = keys == 0 && !p.initial.given();
        for (extent_t first = 0; first < whole.queries; first += tokens) {
            extent_t const len = whole.queries - first < tokens ? whole.queries - first : tokens;
            rows::read_queries(m, p, at, first, len, c);
            rows::read(d.dout, at.b, at.h, first, len, 0, at.columns, c.tall, c.dout, c.vp);
            factor_back(m, p, d, at, first, len, true, false, c);
            if (m.normalized) {
                c.read_state_only(len);
                for (extent_t t = 0; t < len; ++t) { divide_back(m, p, at, first + t, t, nothing ? math::inf<T>() : c.o[t * c.vp + at.columns], c); }
            }
            c.backward_of_queries(len);
            write_queries(m, p, d, at, first, len, c);
        }
        if (m.over_positions) { c.means_back(at.columns); }
        c.turn(c.x, c.x_turned);
        for (extent_t first = 0; first < whole.keys; first += tokens) {
            extent_t const len = whole.keys - first < tokens ? whole.keys - first : tokens, kept = keys - first < len ? keys - first : len;
            if (kept > 0) {
                rows::read_keys(m, p, at, first, kept, c);
                c.backward_of_keys(kept);
                write_keys(m, p, d, at, first, kept, c);
            }
            extent_t const from = kept > 0 ? kept : 0; // keys that nobody sees, whatever they hold
            chunk::clear(c.h, len - from, c.vp, c.tall);
            for (extent_t t = from; t < len; ++t) {
                for (extent_t e = 0; d.dk.data_handle() != nullptr && e < p.k.extent(3) && at.h % (p.heads() / d.dk.extent(1)) == 0; ++e) { d.dk(at.b, at.kh, first + t, e) = E(T(0)); }
            }
            if (d.dv.data_handle() != nullptr) { give(c.h, c.vp, d.dv, p.heads(), at, at.vh, first + from, len - from, at.columns); }
        }
    }

    // rows into a gradient: written by the first head that has these rows, added to by the others
    template <bool Add = false>
    static void give(T* from, extent_t pitch, tensor_view<E> const& to, extent_t heads, head_place const& at, extent_t h, extent_t first, extent_t len, extent_t width) {
        if (Add || at.h % (heads / to.extent(1)) != 0) {
            for (extent_t t = 0; t < len; ++t) {
                E const* const row = to.row(at.b, h, first + t);
                for (extent_t e = 0; e < width; ++e) { from[t * pitch + e] += static_cast<T>(row[e * to.stride(3)]); }
            }
        }
        unpack_rows<A>(from, pitch, len, width, to.row(at.b, h, first), to.stride(2), to.stride(3));
    }
    static void write_queries(form const& m, problem const& p, gradients const& d, head_place const& at, extent_t first, extent_t len, chunk& c) {
        if (d.dq.data_handle() == nullptr) { return; }
        extent_t pitch;
        T* const rows_of = rows::pull_back(m, p.q, at.b, at.qh, first, len, m.scale, c.q, c.dq, pitch, c);
        give(rows_of, pitch, d.dq, p.heads(), at, at.qh, first, len, p.q.extent(3));
    }
    static void write_keys(form const& m, problem const& p, gradients const& d, head_place const& at, extent_t first, extent_t len, chunk& c) {
        extent_t const width = m.width(p.k.extent(3));
        if (d.dk.data_handle() != nullptr) {
            extent_t pitch;
            if (m.over_positions) { // the exponential of a key is its own derivative; the peak cancels
                chunk::multiply(c.k, c.dk, len, c.qp, c.wide);
                give(c.dk, c.qp, d.dk, p.heads(), at, at.kh, first, len, width);
            } else {
                T* const rows_of = rows::template pull_back<true>(m, p.k, at.b, at.kh, first, len, T(1), c.k, c.dk, pitch, c);
                give(rows_of, pitch, d.dk, p.heads(), at, at.kh, first, len, p.k.extent(3));
            }
        }
        if (m.weighs) { // c.h is by the weighted values
            rows::read(p.v, at.b, at.vh, first, len, 0, at.columns, c.tall, c.dbeta, c.vp);
            chunk::multiply(c.h, c.dbeta, len, c.vp, c.tall);
            chunk::multiply(c.beta, c.h, len, c.vp, c.tall);
        }
        if (d.dv.data_handle() != nullptr) { give(c.h, c.vp, d.dv, p.heads(), at, at.vh, first, len, at.columns); }
        if (m.decays != decay_kind::none) { add(d.log_decay, at, first, len, c.dg, m.decays == decay_kind::head ? 1 : c.dp, m.decays == decay_kind::head ? 1 : m.decays == decay_kind::value ? at.columns : width); }
        if (m.has_beta()) { add(d.beta, at, first, len, c.dbeta, c.vp, at.columns); }
    }
    // Gradients of data whose extents of 1 stand for all: summed over those.
    static void add(tensor_view<T> const& to, head_place const& at, extent_t first, extent_t len, T const* from, extent_t pitch, extent_t width) {
        if (to.data_handle() == nullptr) { return; }
        extent_t const step = to.extent(3) == 1 ? 0 : to.stride(3);
        for (extent_t t = 0; t < len; ++t) {
            T* const row = rows::spread(to, at.b, at.h, first + t);
            if (step == 0) { // rows are padded with zeros
                *row += width == 1 ? from[t * pitch] : rows::sum(from + t * pitch, width);
                continue;
            }
            for (extent_t e = 0; e < width; ++e) { row[e * step] += from[t * pitch + e]; }
        }
    }
};

} // namespace heed
