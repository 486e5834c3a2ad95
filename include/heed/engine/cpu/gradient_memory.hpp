// SPDX-License-Identifier: BSD-3-Clause
// A memory that learns by gradient steps along a head, chunk by chunk, and back. Backward keeps M and S before each chunk and u of every token.
// A chunk of the sequential rule that holds a NaN or an infinity goes token by token; where gradients are frozen for a chunk, one NaN reaches all of it, as it does in backward.
#pragma once

#include <heed/engine/cpu/memory_rows.hpp>

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
class gradient_memory_engine : memory_rows<E, A> {
    using T = compute_t<E>;
    using row = row_ops<T, A>;
    using io = memory_rows<E, A>;
    using io::rows, io::number, io::give, io::copy, io::read_state, io::write_state;
    using chunk = memory_chunk<T, A>;
    using form = gradient_memory<T>;
    using problem = memory_problem<E>;
    using gradients = memory_gradients<E>;

    struct slot {
        extent_t tokens;
        chunk c;
        T *m_before, *s_before, *u; // before each chunk, of every token
        slot(form const& m, problem const& p, bool back, arena& room) : tokens(tokens_of(m)), c(p.k.extent(3), p.v.extent(3), tokens, m.chunk > 0 ? memory_rule::frozen : memory_rule::sequential, back, room) {
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
        return divide(p, d).items();
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
            write_state(s.c.m, s.c.vp, b, h, p.last.m), write_state(s.c.s, s.c.vp, b, h, p.last.s);
        });
    }
    template <class X>
    static void backward(form const& m, problem const& p, gradients const& d, X& executor, int slots, std::byte* workspace) {
        for (auto const* x : {&d.dtheta, &d.dalpha, &d.deta}) { io::zero(*x); }
        each(p, d, m, executor, slots, workspace, true, [&](extent_t b, extent_t h, slot& s) { walk_back(m, p, d, b, h, s); });
    }

private:
    static auto divide(problem const& p, gradients const& d) { return io::divide(p.out.shape(), {&d.dtheta, &d.dalpha, &d.deta}); }
    template <class X, class F>
    static void each(problem const& p, gradients const& d, form const& m, X& executor, int slots, std::byte* workspace, bool back, F const& f) {
        std::byte* const base = aligned(workspace);
        std::size_t const bytes = slot_bytes(m, p, back);
        io::each(divide(p, d), executor, slots, [&](extent_t b, extent_t h, int at) {
            arena room(base + static_cast<std::size_t>(at) * bytes);
            slot s(m, p, back, room);
            f(b, h, s);
        });
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
    static void start(problem const& p, extent_t b, extent_t h, chunk& c) { read_state(p.initial.m, b, h, c.m, c.state_size(), c.vp), read_state(p.initial.s, b, h, c.s, c.state_size(), c.vp); }
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
        read_state(d.last.m, b, h, c.x, size, c.vp), read_state(d.last.s, b, h, c.y, size, c.vp);
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
                io::add_number(d.dtheta, b, h, first + t, c.dtheta[t]), io::add_number(d.dalpha, b, h, first + t, -c.da[t]), io::add_number(d.deta, b, h, first + t, c.deta[t]);
            }
        }
        write_state(c.x, c.vp, b, h, d.initial.m), write_state(c.y, c.vp, b, h, d.initial.s);
    }
};

} // namespace heed
