// SPDX-License-Identifier: BSD-3-Clause
// A memory that learns by gradient steps along a head, chunk by chunk, and back. Backward keeps M and S before each chunk and u of every token.
// A chunk of the sequential rule that holds a NaN or an infinity goes token by token; where gradients are frozen for a chunk, one NaN reaches all of it, as it does in backward.
#pragma once

#include <heed/engine/cpu/memory_chunk.hpp>
#include <heed/engine/cpu/parallel.hpp>
#include <heed/family/gradient_memory.hpp>

#include <string_view>

namespace heed {

template <class E>
struct memory_problem {
    using T = compute_t<E>;
    tensor_view<E const> q, k, v; // (B, H, N, d), (B, H, N, d), (B, H, N, dv)
    tensor_view<E> out;           // (B, H, N, dv)
    memory_state<T const> initial = {};
    memory_state<T> last = {};    // may be the memory of initial
};
template <class E>
struct memory_gradients {
    using T = compute_t<E>;
    tensor_view<E const> dout;
    tensor_view<E> dq, dk, dv;            // null: not wanted
    tensor_view<T> dtheta, dalpha, deta;  // shaped as the mechanism's views
    memory_state<T> initial = {};
    memory_state<T const> last = {};      // of the loss by the last state, where it has one
};

template <class E, class A>
class gradient_memory_engine {
    using T = compute_t<E>;
    using V = vec<T, A>;
    using row = row_ops<T, A>;
    using chunk = memory_chunk<T, A>;
    using form = gradient_memory<T>;
    using problem = memory_problem<E>;
    using gradients = memory_gradients<E>;

    struct slot {
        extent_t tokens;
        chunk c;
        T *m_before, *s_before, *u; // before each chunk, of every token
        slot(form const& m, problem const& p, bool back, arena& room) : tokens(tokens_of(m)), c(p.k.extent(3), p.v.extent(3), tokens, m.chunk > 0, back, room) {
            extent_t const chunks = back ? (p.q.extent(2) + tokens - 1) / tokens : 0;
            m_before = room.take<T>(chunks * c.state_size()), s_before = room.take<T>(chunks * c.state_size()), u = room.take<T>(chunks * tokens * c.vp);
        }
    };

public:
    static constexpr std::string_view name = "gradient memory";
    static extent_t tokens_of(form const& m) { return m.chunk > 0 ? m.chunk : 64; }
    static std::size_t slot_bytes(form const& m, problem const& p, bool back) {
        arena count(nullptr);
        slot const s(m, p, back, count);
        return count.bytes();
    }
    // Heads, or, backward, all heads and batch entries that a gradient is summed over.
    static extent_t items(problem const& p, gradients const& d) {
        return p.out.extent(0) * p.out.extent(1) == 0 ? 0 : (shared(d, 0) ? 1 : p.out.extent(0)) * (shared(d, 1) ? 1 : p.out.extent(1));
    }

    template <class X>
    static void forward(form const& m, problem const& p, X& executor, int slots, std::byte* workspace) {
        each(p, gradients{}, m, executor, slots, workspace, false, [&](extent_t b, extent_t h, slot& s) {
            start(p, b, h, s.c);
            extent_t const n = p.q.length(b);
            for (extent_t first = 0; first < n; first += s.tokens) {
                extent_t const len = n - first < s.tokens ? n - first : s.tokens;
                if (read(m, p, b, h, first, len, s.c) || m.chunk > 0) {
                    one(p, b, h, first, len, s.c);
                    continue;
                }
                for (extent_t t = 0; t < len; ++t) {
                    read(m, p, b, h, first + t, 1, s.c);
                    one(p, b, h, first + t, 1, s.c);
                }
            }
            write_state(s.c.m, s.c.s, b, h, p.last, s.c);
        });
    }
    template <class X>
    static void backward(form const& m, problem const& p, gradients const& d, X& executor, int slots, std::byte* workspace) {
        for (auto const* x : {&d.dtheta, &d.dalpha, &d.deta}) { zero(*x); }
        each(p, d, m, executor, slots, workspace, true, [&](extent_t b, extent_t h, slot& s) { walk_back(m, p, d, b, h, s); });
    }

private:
    static bool shared(gradients const& d, int axis) {
        for (auto const* x : {&d.dtheta, &d.dalpha, &d.deta}) {
            if (x->data_handle() != nullptr && x->extent(axis) == 1) { return true; }
        }
        return false;
    }
    template <class X, class F>
    static void each(problem const& p, gradients const& d, form const& m, X& executor, int slots, std::byte* workspace, bool back, F const& f) {
        std::byte* const base = aligned(workspace);
        std::size_t const bytes = slot_bytes(m, p, back);
        bool const batches = shared(d, 0), heads = shared(d, 1);
        extent_t const across = heads ? 1 : p.out.extent(1);
        detail::for_each_item<A>(executor, slots, items(p, d), [&](extent_t item, int at) {
            arena room(base + static_cast<std::size_t>(at) * bytes);
            slot s(m, p, back, room);
            extent_t const b0 = batches ? 0 : item / across, b1 = batches ? p.out.extent(0) : b0 + 1, h0 = heads ? 0 : item % across, h1 = heads ? p.out.extent(1) : h0 + 1;
            for (extent_t b = b0; b < b1; ++b) {
                for (extent_t h = h0; h < h1; ++h) { f(b, h, s); }
            }
        });
    }
    static void zero(tensor_view<T> const& x) {
        if (x.data_handle() == nullptr) { return; }
        for (extent_t b = 0; b < x.extent(0); ++b) {
            for (extent_t h = 0; h < x.extent(1); ++h) {
                for (extent_t n = 0; n < x.length(b); ++n) { x(b, h, n, 0) = T(0); }
            }
        }
    }
    static bool rows(tensor_view<E const> const& x, extent_t b, extent_t h, extent_t first, extent_t len, T* to, extent_t pitch) {
        pack_rows<A>(x.row(b, h, first), x.stride(2), x.stride(3), len, x.extent(3), to, pitch);
        V poison(0);
        for (extent_t t = 0; t < len; ++t) {
            for (extent_t e = x.extent(3); e < pitch; ++e) { to[t * pitch + e] = T(0); }
            for (extent_t e = 0; e < pitch; e += V::lanes) { poison = fma(V::load(to + t * pitch + e), V(0), poison); }
        }
        return all(poison == V(0));
    }
    // The element of a view whose extents of 1 stand for all.
    template <class U>
    static U& number(tensor_view<U> const& x, extent_t b, extent_t h, extent_t n) {
        return *x.row(x.extent(0) == 1 && !x.is_ragged() ? 0 : b, x.extent(1) == 1 ? 0 : h, x.extent(2) == 1 ? 0 : n);
    }
    static bool read(form const& m, problem const& p, extent_t b, extent_t h, extent_t first, extent_t len, chunk& c) {
        bool finite = rows(p.q, b, h, first, len, c.q, c.dp);
        finite &= rows(p.k, b, h, first, len, c.k, c.dp);
        finite &= rows(p.v, b, h, first, len, c.u, c.vp);
        if (m.scale != 1) { row::scale(c.q, static_cast<T>(m.scale), len * c.dp); }
        T poison(0);
        for (extent_t t = 0; t < len; ++t) {
            c.theta[t] = number(m.theta, b, h, first + t), c.a[t] = T(1) - number(m.alpha, b, h, first + t), c.eta[t] = number(m.eta, b, h, first + t);
            poison += (c.theta[t] + c.a[t] + c.eta[t]) * T(0);
        }
        return finite && poison == T(0);
    }
    static void one(problem const& p, extent_t b, extent_t h, extent_t first, extent_t len, chunk& c) {
        c.tables(len, false);
        c.solve(len);
        c.read(len);
        c.advance(len);
        unpack_rows<A>(c.o, c.vp, len, p.out.extent(3), p.out.row(b, h, first), p.out.stride(2), p.out.stride(3));
    }
    template <class U>
    static void read_state(tensor_view<U> const& from, extent_t b, extent_t h, T* to, chunk const& c) {
        row::clear(to, c.state_size());
        if (from.data_handle() == nullptr) { return; }
        for (extent_t r = 0; r < from.extent(2); ++r) { row::read(from.row(b, h, r), from.stride(3), from.extent(3), to + r * c.vp); }
    }
    static void start(problem const& p, extent_t b, extent_t h, chunk& c) { read_state(p.initial.m, b, h, c.m, c), read_state(p.initial.s, b, h, c.s, c); }
    static void write_state(T const* m, T const* s, extent_t b, extent_t h, memory_state<T> const& to, chunk const& c) {
        for (auto const& [x, from] : {std::pair(&to.m, m), std::pair(&to.s, s)}) {
            for (extent_t r = 0; x->data_handle() != nullptr && r < x->extent(2); ++r) { row::write(from + r * c.vp, x->row(b, h, r), x->stride(3), x->extent(3)); }
        }
    }
    static void copy(T const* from, T* to, extent_t n) {
        for (extent_t i = 0; i < n; i += V::lanes) { V::load(from + i).store(to + i); }
    }
    static void walk_back(form const& m, problem const& p, gradients const& d, extent_t b, extent_t h, slot& s) {
        chunk& c = s.c;
        extent_t const n = p.q.length(b), chunks = (n + s.tokens - 1) / s.tokens, size = c.state_size();
        auto const length = [&](extent_t i) { return n - i * s.tokens < s.tokens ? n - i * s.tokens : s.tokens; };
        start(p, b, h, c);
        for (extent_t i = 0; i < chunks; ++i) {
            copy(c.m, s.m_before + i * size, size), copy(c.s, s.s_before + i * size, size);
            read(m, p, b, h, i * s.tokens, length(i), c);
            c.tables(length(i), true);
            c.solve(length(i));
            copy(c.u, s.u + i * s.tokens * c.vp, length(i) * c.vp);
            c.advance(length(i), true);
        }
        read_state(d.last.m, b, h, c.x, c), read_state(d.last.s, b, h, c.y, c);
        for (extent_t i = chunks - 1; i >= 0; --i) {
            extent_t const first = i * s.tokens, len = length(i);
            copy(s.m_before + i * size, c.m, size), copy(s.s_before + i * size, c.s, size);
            read(m, p, b, h, first, len, c);
            copy(s.u + first * c.vp, c.u, len * c.vp);
            rows(d.dout, b, h, first, len, c.dout, c.vp);
            c.tables(len, true);
            c.backward(len);
            if (m.scale != 1) { row::scale(c.dq, static_cast<T>(m.scale), len * c.dp); }
            give(d.dq, c.dq, c.dp, b, h, first, len), give(d.dk, c.dk, c.dp, b, h, first, len), give(d.dv, c.h, c.vp, b, h, first, len);
            for (extent_t t = 0; t < len; ++t) {
                if (d.dtheta.data_handle() != nullptr) { number(d.dtheta, b, h, first + t) += c.dtheta[t]; }
                if (d.dalpha.data_handle() != nullptr) { number(d.dalpha, b, h, first + t) -= c.da[t]; }
                if (d.deta.data_handle() != nullptr) { number(d.deta, b, h, first + t) += c.deta[t]; }
            }
        }
        write_state(c.x, c.y, b, h, d.initial, c);
    }
    static void give(tensor_view<E> const& to, T const* from, extent_t pitch, extent_t b, extent_t h, extent_t first, extent_t len) {
        if (to.data_handle() != nullptr) { unpack_rows<A>(from, pitch, len, to.extent(3), to.row(b, h, first), to.stride(2), to.stride(3)); }
    }
};

} // namespace heed
