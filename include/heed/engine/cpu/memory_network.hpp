// SPDX-License-Identifier: BSD-3-Clause
// Memories that are networks (mechanism/memory_network.hpp) along a head, chunk by chunk, and back. A token's gradient by the weights of a layer has rank one, so every layer is a memory_chunk whose u is
// given: keys x, u what the layer above asks for. Of two layers, W1 and W2 at the chunk's start:
//
//   keys     z = k W1, a = f(z), y = a W2      u2 = what the goal learns from y      u1 = (u2 W2^T) f'(z)
//   queries  p = W1 of the token, read by q    r = W2 of the token, read by f(p)     out = the goal's reading of r
//
// Backward keeps the weights before each chunk and makes everything inside it anew: through the reading, then through u1, u2 and the keys to the weights at the chunk's start. A bias is a row more of W1,
// and one a feature of keys and queries. One NaN reaches all of its chunk.
#pragma once

#include <heed/engine/cpu/memory_goals.hpp>
#include <heed/engine/cpu/memory_rows.hpp>
#include <heed/family/memory_network.hpp>
#include <heed/kernel/dual.hpp>

#include <string_view>

namespace heed {

template <class E>
struct network_problem {
    using T = compute_t<E>;
    tensor_view<E const> q, k, v; // (B, H, N, d), (B, H, N, d), (B, H, N, dv)
    tensor_view<E> out;           // (B, H, N, dv)
    network_state<T const> initial = {};
    network_state<T> last = {};
};
template <class E>
struct network_gradients {
    using T = compute_t<E>;
    tensor_view<E const> dout;
    tensor_view<E> dq, dk, dv;
    tensor_view<T> dtheta, dalpha, deta, dweight, dbias; // the last two: of normalised_residual
    network_state<T> initial = {};
    network_state<T const> last = {};
};

template <class E, class A, class Network, class Goal>
class memory_network_engine : memory_rows<E, A> {
    using T = compute_t<E>;
    using V = vec<T, A>;
    using row = row_ops<T, A>;
    using product = product_tile<T, A>;
    using io = memory_rows<E, A>;
    using io::rows, io::number, io::give, io::copy, io::read_state, io::write_state;
    using chunk = memory_chunk<T, A>;
    using form = memory_network<T, Network, Goal>;
    using problem = network_problem<E>;
    using gradients = network_gradients<E>;
    static constexpr int lanes = V::lanes;
    static constexpr bool deep = Network::deep;

    struct slot {
        extent_t d, dv, inner, tokens; // widths of keys, values and the first layer's answer
        chunk first, second;           // second: of two layers
        chunk& top;
        T *z, *r, *y;                  // first layer's answers to keys; what the second asks of it; answers to keys
        T *dz, *dy, *asked, *values, *turned; // backward: by z, by y, by r; values and then gradients by them
        T *weight, *bias, *dweight, *dbias, *line, *other; // of the goal
        T* before[4];                  // W1, its momentum, W2, its momentum before each chunk
        slot(form const& m, problem const& p, bool back, arena& room)
            : d(p.k.extent(3)), dv(p.v.extent(3)), inner(hidden(m, dv)), tokens(m.chunk), first(d + (m.network.bias ? 1 : 0), inner, tokens, rule(m), back, room), second(deep ? inner : 0, deep ? dv : 0, deep ? tokens : 0, rule(m), back, room),
              top(deep ? second : first) {
            auto const take = [&](extent_t n, bool wanted) { return wanted ? room.take<T>(n) : nullptr; };
            extent_t const chunks = back ? (p.q.extent(2) + tokens - 1) / tokens : 0, rows_v = tokens * top.vp, rows_z = tokens * first.vp;
            z = take(rows_z, deep), r = take(rows_z, deep), y = take(rows_v, true), dz = take(rows_z, deep && back), asked = take(rows_z, deep && back), dy = take(rows_v, back), values = take(2 * rows_v, back);
            extent_t const one = first.tall * first.dp, two = second.tall * second.dp;
            turned = take(one > two ? one : two, back || deep);
            for (T** x : {&weight, &bias, &line, &other}) { *x = take(top.vp, Goal::normalises); }
            for (T** x : {&dweight, &dbias}) { *x = take(top.vp, Goal::normalises && back); }
            for (int i = 0; i < 4; ++i) { before[i] = take(chunks * (i < 2 ? first : second).state_size(), back && (i < 2 || deep)); }
        }
        static memory_rule rule(form const& m) { return m.steps_of_reader() ? memory_rule::given_by_reader : memory_rule::given; }
        static extent_t hidden(form const& m, extent_t dv) {
            if constexpr (deep) { return m.network.hidden; }
            return dv;
        }
    };

public:
    static constexpr std::string_view name = "memory network";
    static std::size_t slot_bytes(form const& m, problem const& p, bool back) {
        arena count(nullptr);
        slot const s(m, p, back, count);
        return count.bytes();
    }
    static extent_t items(problem const& p, gradients const& d) { return divide(p, d).items(); }

    template <class X>
    static void forward(form const& m, problem const& p, X& executor, int slots, std::byte* workspace) {
        each(p, gradients{}, m, executor, slots, workspace, false, [&](extent_t b, extent_t h, slot& s) {
            start(m, p, b, h, s);
            for (extent_t first = 0, n = p.q.length(b); first < n; first += s.tokens) {
                extent_t const len = n - first < s.tokens ? n - first : s.tokens;
                learn(m, p, b, h, first, len, s, false);
                answer(m, len, s, true);
                if constexpr (Goal::normalises) {
                    for (extent_t t = 0; t < len; ++t) { goal_rows(m, s).read(s.top.o + t * s.top.vp); }
                }
                unpack_rows<A>(s.top.o, s.top.vp, len, s.dv, p.out.row(b, h, first), p.out.stride(2), p.out.stride(3));
                advance(len, s, false);
            }
            write(p.last, b, h, s.first.m, s.first.s, s.second.m, s.second.s, s);
        });
    }
    template <class X>
    static void backward(form const& m, problem const& p, gradients const& d, X& executor, int slots, std::byte* workspace) {
        for (auto const* x : {&d.dtheta, &d.dalpha, &d.deta, &d.dweight, &d.dbias}) { io::zero(*x); }
        each(p, d, m, executor, slots, workspace, true, [&](extent_t b, extent_t h, slot& s) { walk_back(m, p, d, b, h, s); });
    }

private:
    static auto divide(problem const& p, gradients const& d) { return io::divide(p.out.shape(), {&d.dtheta, &d.dalpha, &d.deta, &d.dweight, &d.dbias}); }
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
    static void start(form const& m, problem const& p, extent_t b, extent_t h, slot& s) {
        read(p.initial, b, h, s.first.m, s.first.s, s.second.m, s.second.s, s);
        if constexpr (Goal::normalises) {
            for (auto const& [view, to] : {std::pair(&m.goal.weight, s.weight), std::pair(&m.goal.bias, s.bias)}) { row::read(io::spread(*view, b, h, 0), view->stride(3), s.dv, to); }
        }
        (void)m;
    }
    template <class U>
    static void read(network_state<U> const& from, extent_t b, extent_t h, T* m1, T* s1, T* m2, T* s2, slot& s) {
        read_state(from.first.m, b, h, m1, s.first.state_size(), s.first.vp), read_state(from.first.s, b, h, s1, s.first.state_size(), s.first.vp);
        if (from.bias.data_handle() != nullptr) { row::read(from.bias.row(b, h, 0), from.bias.stride(3), s.dv, m1 + s.d * s.first.vp); }
        if constexpr (deep) { read_state(from.second.m, b, h, m2, s.second.state_size(), s.second.vp), read_state(from.second.s, b, h, s2, s.second.state_size(), s.second.vp); }
    }
    static void write(network_state<T> const& to, extent_t b, extent_t h, T const* m1, T const* s1, T const* m2, T const* s2, slot& s) {
        write_state(m1, s.first.vp, b, h, to.first.m), write_state(s1, s.first.vp, b, h, to.first.s);
        if (to.bias.data_handle() != nullptr) { row::write(m1 + s.d * s.first.vp, to.bias.row(b, h, 0), to.bias.stride(3), s.dv); }
        if constexpr (deep) { write_state(m2, s.second.vp, b, h, to.second.m), write_state(s2, s.second.vp, b, h, to.second.s); }
    }
    static auto goal_rows(form const& m, slot& s) { return residual_rows<T, A>{s.dv, static_cast<T>(m.goal.eps), m.goal.unbracketed, s.weight, s.bias, s.line, s.other}; }
    // to[i] = g(i) over rows of the first layer's answers, zeros behind the width
    template <class F>
    static void map(slot const& s, extent_t len, T* to, F const& g) {
        for (extent_t t = 0; t < len; ++t) {
            T* const line = to + t * s.first.vp;
            for (extent_t e = 0; e < s.first.vp; e += lanes) { g(t * s.first.vp + e).store(line + e); }
            for (extent_t e = s.inner; e < s.first.vp; ++e) { line[e] = T(0); }
        }
    }
    // Everything up to u of a chunk's tokens.
    static void learn(form const& m, problem const& p, extent_t b, extent_t h, extent_t first, extent_t len, slot& s, bool all) {
        chunk &c = s.first, &top = s.top;
        rows(p.q, b, h, first, len, c.q, c.dp), rows(p.k, b, h, first, len, c.k, c.dp), rows(p.v, b, h, first, len, top.u, top.vp);
        if (m.scale != 1) { row::scale(c.q, static_cast<T>(m.scale), len * c.dp); }
        for (extent_t t = 0; t < len; ++t) {
            if (m.network.bias) { c.q[t * c.dp + s.d] = c.k[t * c.dp + s.d] = T(1); }
            c.theta[t] = number(m.theta, b, h, first + t);
            c.a[t] = m.steps_of_reader() ? T(1) : T(1) - number(m.alpha, b, h, first + t), c.eta[t] = m.steps_of_reader() ? T(0) : number(m.eta, b, h, first + t);
            if constexpr (deep) { top.theta[t] = c.theta[t], top.a[t] = c.a[t], top.eta[t] = c.eta[t]; }
        }
        answer_keys(m, len, s);
        for (extent_t t = 0; t < len; ++t) {
            T *const u = top.u + t * top.vp, *const y = s.y + t * top.vp;
            if constexpr (Goal::normalises) {
                goal_rows(m, s).learn(y, c.k + t * c.dp, u, u);
            } else {
                row::add(y, T(-1), u, top.vp);
            }
        }
        if constexpr (deep) {
            pack_transposed<A>(top.m, top.vp, extent_t(1), s.inner, s.dv, s.turned, top.dp, top.wide);
            product::run(len, top.wide, s.dv, top.u, top.vp, 1, s.turned, top.dp, s.r, c.vp, put::write);
            map(s, len, c.u, [&](extent_t i) HEED_INLINE_LAMBDA { return V::load(s.r + i) * m.network.f(dual<V>(V::load(s.z + i), V(1))).d; });
        }
        c.tables(len, all), c.solve(len);
        if constexpr (deep) { top.tables(len, all), top.solve(len); }
    }
    // z, f(z) and y
    static void answer_keys(form const& m, extent_t len, slot& s) {
        chunk &c = s.first, &top = s.top;
        if constexpr (deep) {
            product::run(len, c.tall, s.d, c.k, c.dp, 1, c.m, c.vp, s.z, c.vp, put::write);
            map(s, len, top.k, [&](extent_t i) HEED_INLINE_LAMBDA { return m.network.f(V::load(s.z + i)); });
        }
        (void)m, (void)c;
        product::run(len, top.tall, top.width(), top.k, top.dp, 1, top.m, top.vp, s.y, top.vp, put::write);
    }
    // r, or what the last layer is asked alone
    static void answer(form const& m, extent_t len, slot& s, bool to_the_end) {
        s.first.read(len);
        if constexpr (deep) {
            map(s, len, s.second.q, [&](extent_t i) HEED_INLINE_LAMBDA { return m.network.f(V::load(s.first.o + i)); });
            if (to_the_end) { s.second.read(len); }
        }
        (void)m, (void)to_the_end;
    }
    static void advance(extent_t len, slot& s, bool all) {
        s.first.advance(len, all);
        if constexpr (deep) { s.second.advance(len, all); }
    }

    static void walk_back(form const& m, problem const& p, gradients const& d, extent_t b, extent_t h, slot& s) {
        extent_t const n = p.q.length(b), chunks = (n + s.tokens - 1) / s.tokens, one = s.first.state_size(), two = s.second.state_size();
        auto const length = [&](extent_t i) { return n - i * s.tokens < s.tokens ? n - i * s.tokens : s.tokens; };
        start(m, p, b, h, s);
        for (extent_t i = 0; i < chunks; ++i) {
            copy(s.first.m, s.before[0] + i * one, one), copy(s.first.s, s.before[1] + i * one, one);
            if constexpr (deep) { copy(s.second.m, s.before[2] + i * two, two), copy(s.second.s, s.before[3] + i * two, two); }
            learn(m, p, b, h, i * s.tokens, length(i), s, true);
            advance(length(i), s, true);
        }
        read(d.last, b, h, s.first.x, s.first.y, s.second.x, s.second.y, s);
        if constexpr (Goal::normalises) { row::clear(s.dweight, s.top.vp), row::clear(s.dbias, s.top.vp); }
        for (extent_t i = chunks - 1; i >= 0; --i) {
            extent_t const first = i * s.tokens, len = length(i);
            copy(s.before[0] + i * one, s.first.m, one), copy(s.before[1] + i * one, s.first.s, one);
            if constexpr (deep) { copy(s.before[2] + i * two, s.second.m, two), copy(s.before[3] + i * two, s.second.s, two); }
            learn(m, p, b, h, first, len, s, true);
            chunk_back(m, p, d, b, h, first, len, s);
        }
        if constexpr (Goal::normalises) {
            for (auto const& [view, from] : {std::pair(&d.dweight, s.dweight), std::pair(&d.dbias, s.dbias)}) {
                for (extent_t e = 0; view->data_handle() != nullptr && e < s.dv; ++e) { io::spread(*view, b, h, 0)[e * view->stride(3)] += from[e]; }
            }
        }
        write(d.initial, b, h, s.first.x, s.first.y, s.second.x, s.second.y, s);
    }
    static void chunk_back(form const& m, problem const& p, gradients const& d, extent_t b, extent_t h, extent_t first, extent_t len, slot& s) {
        chunk &c = s.first, &top = s.top;
        answer(m, len, s, Goal::normalises);
        rows(d.dout, b, h, first, len, top.dout, top.vp);
        if constexpr (Goal::normalises) {
            for (extent_t t = 0; t < len; ++t) { goal_rows(m, s).read_back(top.o + t * top.vp, top.dout + t * top.vp, s.dweight, s.dbias); }
        }
        // reading and learning, u given: x, y become those of the chunk's start, h is by u
        top.backward(len);
        if constexpr (deep) {
            map(s, len, c.dout, [&](extent_t i) HEED_INLINE_LAMBDA { return V::load(top.dq + i) * m.network.f(dual<V>(V::load(c.o + i), V(1))).d; });
            c.backward(len);
            // u1 = r f'(z), r = u2 W2^T
            map(s, len, s.asked, [&](extent_t i) HEED_INLINE_LAMBDA { return V::load(c.h + i) * m.network.f(dual<V>(V::load(s.z + i), V(1))).d; });
            map(s, len, s.dz, [&](extent_t i) HEED_INLINE_LAMBDA {
                using D = dual<V>;
                return V::load(c.h + i) * V::load(s.r + i) * m.network.f(dual<D>(D(V::load(s.z + i), V(1)), D(V(1)))).d.d;
            });
            product::run(len, top.tall, s.inner, s.asked, c.vp, 1, top.m, top.vp, top.h, top.vp, put::add);
            product::run(s.inner, top.tall, len, s.asked, 1, c.vp, top.u, top.vp, top.x, top.vp, put::add);
        }
        // what the goal learns from y
        T* const dv = s.values + s.tokens * top.vp;
        if constexpr (Goal::normalises) {
            rows(p.v, b, h, first, len, s.values, top.vp);
            row::clear(s.dy, len * top.vp), row::clear(dv, len * top.vp);
            for (extent_t t = 0; t < len; ++t) {
                extent_t const at = t * top.vp;
                goal_rows(m, s).learn_back(s.y + at, c.k + t * c.dp, s.values + at, top.u + at, top.h + at, s.dy + at, c.dk + t * c.dp, dv + at, s.dweight, s.dbias);
            }
        } else {
            copy(top.h, dv, len * top.vp);
            for (extent_t i = 0; i < len * top.vp; i += lanes) { (-V::load(top.h + i)).store(s.dy + i); }
        }
        // keys through the weights of the start
        through(top, s.dy, top.vp, len, s);
        if constexpr (deep) {
            map(s, len, s.dz, [&](extent_t i) HEED_INLINE_LAMBDA { return fma(V::load(top.dk + i), m.network.f(dual<V>(V::load(s.z + i), V(1))).d, V::load(s.dz + i)); });
            through(c, s.dz, c.vp, len, s);
        }
        if (m.scale != 1) { row::scale(c.dq, static_cast<T>(m.scale), len * c.dp); }
        give(d.dq, c.dq, c.dp, b, h, first, len), give(d.dk, c.dk, c.dp, b, h, first, len), give(d.dv, dv, top.vp, b, h, first, len);
        for (extent_t t = 0; t < len; ++t) {
            T theta = c.dtheta[t], a = c.da[t], eta = c.deta[t];
            if constexpr (deep) { theta += top.dtheta[t], a += top.da[t], eta += top.deta[t]; }
            io::add_number(d.dtheta, b, h, first + t, theta), io::add_number(d.dalpha, b, h, first + t, -a), io::add_number(d.deta, b, h, first + t, eta);
        }
    }
    // Of k M, d its gradient: into those of M and k.
    static void through(chunk& c, T const* d, extent_t pitch, extent_t len, slot& s) {
        product::run(c.width(), c.tall, len, c.k, 1, c.dp, d, pitch, c.x, c.vp, put::add);
        pack_transposed<A>(c.m, c.vp, extent_t(1), c.width(), c.tall, s.turned, c.dp, c.wide);
        product::run(len, c.wide, c.tall, d, pitch, 1, s.turned, c.dp, c.dk, c.dp, put::add);
    }
};

} // namespace heed
