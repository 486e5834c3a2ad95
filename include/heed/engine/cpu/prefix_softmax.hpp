// SPDX-License-Identifier: BSD-3-Clause
// Softmax over every prefix with one query a head (mechanism/aaren.hpp), forward and back, tile by tile of 64 tokens.
//
//   forward   r_t = u_(t-1) e^(m_(t-1) - m_t) / u_t,  p_t = e^(s_t - m_t) / u_t,  r_t + p_t = 1:   out_t = r_t out_(t-1) + p_t v_t
//   backward  G_t = do_t + r_(t+1) G_(t+1),  h_t = do_t.out_t + r_(t+1) h_(t+1):   dv_t = p_t G_t,  ds_t = p_t (G_t.v_t - h_t)
//
// All factors are in [0, 1]. Inside a tile the recurrence starts from zero and the state before it is added with its own factor, so that rounding grows with the tile
// and with the number of tiles, not with the sequence. Columns of values go four registers at a time along all tokens of a tile. Backward keeps r and p, two numbers a token.
#pragma once

#include <heed/engine/cpu/parallel.hpp>
#include <heed/engine/workspace.hpp>
#include <heed/family/prefix.hpp>
#include <heed/kernel/pack.hpp>
#include <heed/kernel/row_dots.hpp>
#include <heed/kernel/row_ops.hpp>

#include <string_view>

namespace heed {

template <class E>
struct prefix_problem {
    using T = compute_t<E>;
    tensor_view<E const> q, k, v; // (B|1, H, 1, d), (B, H, N, d), (B, H, N, dv)
    tensor_view<E> out;           // (B, H, N, dv)
    prefix_state<T const> initial = {};
    prefix_state<T> last = {};    // may be the memory of initial
};
template <class E>
struct prefix_gradients {
    tensor_view<E const> dout;
    tensor_view<E> dq, dk, dv; // null: not wanted
};

template <class E, class A>
class prefix_softmax_engine {
    using T = compute_t<E>;
    using V = vec<T, A>;
    using row = row_ops<T, A>;
    static constexpr int lanes = V::lanes;
    static constexpr extent_t tokens = 64;
    using problem = prefix_problem<E>;
    using gradients = prefix_gradients<E>;

    struct scratch {
        extent_t dp, vp;
        T *q, *k, *v, *o, *s, *fall, *p, *r, *a; // rows of a tile; per token: scores, and what prefix() makes
        T *state;                                // the last row of out
        T *dout, *g, *dq, *part, *dots, *along, *all_p, *all_r;
        scratch(problem const& x, bool back, arena& room) : dp(row::padded(x.k.extent(3))), vp(row::padded(x.v.extent(3))) {
            auto const take = [&](extent_t n, bool wanted = true) { return wanted ? room.take<T>(n) : nullptr; };
            q = take(dp), k = take(tokens * dp), v = take(tokens * vp), o = take(tokens * vp), state = take(vp);
            for (T** to : {&s, &fall, &p, &r, &a}) { *to = take(tokens); }
            dout = take(tokens * vp, back), g = take(vp, back), dq = take(dp, back), part = take(dp, back), dots = take(tokens * lanes, back), along = take(tokens, back);
            all_p = take(x.k.extent(2), back), all_r = take(x.k.extent(2), back);
        }
    };
    struct running {
        T m = -math::inf<T>(), u = T(0);
    };

public:
    static constexpr std::string_view name = "prefix softmax";

    static std::size_t slot_bytes(problem const& p, bool back) {
        arena count(nullptr);
        scratch const s(p, back, count);
        return count.bytes();
    }
    static extent_t items(problem const& p, bool back) { return back && p.q.extent(0) == 1 ? p.out.extent(1) : p.out.extent(0) * p.out.extent(1); }

    template <class X>
    static void forward(problem const& p, T scale, X& executor, int slots, std::byte* workspace) {
        std::size_t const bytes = slot_bytes(p, false);
        std::byte* const base = aligned(workspace);
        detail::for_each_item<A>(executor, slots, items(p, false), [&](extent_t item, int slot) {
            arena room(base + static_cast<std::size_t>(slot) * bytes);
            scratch s(p, false, room);
            extent_t const b = item / p.out.extent(1), h = item % p.out.extent(1), n = p.k.length(b);
            read_query(p, b, h, scale, s);
            running now = start(p, b, h, s);
            for (extent_t first = 0; first < n; first += tokens) {
                extent_t const len = n - first < tokens ? n - first : tokens;
                prefix(p, b, h, first, len, now, s);
                read_rows(p.v, b, h, first, len, s.v, s.vp);
                for (extent_t t = 0; t < len; ++t) {
                    if (s.s[t] == -math::inf<T>()) { row::clear(s.v + t * s.vp, s.vp); }
                }
                mix(len, s);
                unpack_rows<A>(s.o, s.vp, len, p.out.extent(3), p.out.row(b, h, first), p.out.stride(2), p.out.stride(3));
            }
            if (!p.last.given()) { return; }
            p.last.m(b, h, 0, 0) = now.m, p.last.u(b, h, 0, 0) = now.u;
            for (extent_t e = 0; e < p.out.extent(3); ++e) { p.last.w(b, h, 0, e) = s.state[e] * now.u; }
        });
    }

    template <class X>
    static void backward(problem const& p, gradients const& d, T scale, X& executor, int slots, std::byte* workspace) {
        std::size_t const bytes = slot_bytes(p, true);
        std::byte* const base = aligned(workspace);
        bool const shared = p.q.extent(0) == 1;
        detail::for_each_item<A>(executor, slots, items(p, true), [&](extent_t item, int slot) {
            arena room(base + static_cast<std::size_t>(slot) * bytes);
            scratch s(p, true, room);
            extent_t const h = item % p.out.extent(1), b0 = shared ? 0 : item / p.out.extent(1), b1 = shared ? p.out.extent(0) : b0 + 1;
            row::clear(s.dq, s.dp);
            for (extent_t b = b0; b < b1; ++b) { walk_back(p, d, scale, b, h, s); }
            if (d.dq.data_handle() != nullptr && b1 > b0) {
                row::scale(s.dq, scale, s.dp);
                row::write(s.dq, d.dq.row(shared ? 0 : b0, h, 0), d.dq.stride(3), p.q.extent(3));
            }
        });
    }

private:
    static void read_rows(tensor_view<E const> const& x, extent_t b, extent_t h, extent_t first, extent_t len, T* to, extent_t pitch) {
        pack_rows<A>(x.row(b, h, first), x.stride(2), x.stride(3), len, x.extent(3), to, pitch);
        for (extent_t t = 0; t < len; ++t) {
            for (extent_t e = x.extent(3); e < pitch; ++e) { to[t * pitch + e] = T(0); }
        }
    }
    static void read_query(problem const& p, extent_t b, extent_t h, T scale, scratch& s) {
        row::read(p.q.row(p.q.extent(0) == 1 ? 0 : b, h, 0), p.q.stride(3), p.q.extent(3), s.q);
        row::scale(s.q, scale, s.dp);
    }
    static running start(problem const& p, extent_t b, extent_t h, scratch& s) {
        running now;
        row::clear(s.state, s.vp);
        if (!p.initial.given()) { return now; }
        now.m = p.initial.m(b, h, 0, 0), now.u = p.initial.u(b, h, 0, 0);
        for (extent_t e = 0; now.u != T(0) && e < p.out.extent(3); ++e) { s.state[e] = p.initial.w(b, h, 0, e) / now.u; }
        return now;
    }
    // Scores of a tile and, from them, p, r, and a, the product of r since the tile's start.
    static void prefix(problem const& p, extent_t b, extent_t h, extent_t first, extent_t len, running& now, scratch& s) {
        read_rows(p.k, b, h, first, len, s.k, s.dp);
        row_dots<A>(s.k, s.dp, len, T(1), s.q, s.dp, s.s);
        for (extent_t t = 0; t < tokens; ++t) { // of -inf and -inf the difference is taken as 0 for what was, -inf for what comes
            if (t >= len) {
                s.fall[t] = s.p[t] = T(0);
                continue;
            }
            T const most = s.s[t] > now.m ? s.s[t] : now.m;
            s.fall[t] = now.m == most ? T(0) : now.m - most;
            s.p[t] = s.s[t] == -math::inf<T>() ? s.s[t] : s.s[t] - most;
            now.m = most;
        }
        for (extent_t t = 0; t < tokens; t += lanes) {
            exp(V::load(s.fall + t)).store(s.fall + t);
            exp(V::load(s.p + t)).store(s.p + t);
        }
        T product(1);
        for (extent_t t = 0; t < len; ++t) {
            T const old = now.u * s.fall[t];
            now.u = old + s.p[t];
            T const by = now.u == T(0) ? T(0) : T(1) / now.u;
            s.p[t] *= by;
            s.r[t] = now.u == T(0) ? T(1) : old * by;
            s.a[t] = product *= s.r[t];
        }
    }
    template <class F>
    HEED_INLINE static void strips(extent_t width, F const& f) {
        extent_t c = 0;
        for (; c + 4 * lanes <= width; c += 4 * lanes) { f(std::integral_constant<int, 4>{}, c); }
        for (; c < width; c += lanes) { f(std::integral_constant<int, 1>{}, c); }
    }
    static void mix(extent_t len, scratch& s) {
        strips(s.vp, [&](auto size, extent_t c) HEED_INLINE_LAMBDA {
            constexpr int W = decltype(size)::value;
            V before[W], y[W];
            static_for<W>([&](auto w) HEED_INLINE_LAMBDA { before[w] = V::load(s.state + c + w * lanes), y[w] = V(0); });
            for (extent_t t = 0; t < len; ++t) {
                V const r(s.r[t]), p(s.p[t]), a(s.a[t]);
                static_for<W>([&](auto w) HEED_INLINE_LAMBDA {
                    y[w] = fma(r, y[w], p * V::load(s.v + t * s.vp + c + w * lanes));
                    fma(a, before[w], y[w]).store(s.o + t * s.vp + c + w * lanes);
                });
            }
            V const a(s.a[len - 1]);
            static_for<W>([&](auto w) HEED_INLINE_LAMBDA { fma(a, before[w], y[w]).store(s.state + c + w * lanes); });
        });
    }

    static void walk_back(problem const& p, gradients const& d, T scale, extent_t b, extent_t h, scratch& s) {
        extent_t const n = p.k.length(b), tiles = (n + tokens - 1) / tokens;
        read_query(p, b, h, scale, s);
        running now = start(p, b, h, s);
        auto const length = [&](extent_t i) { return n - i * tokens < tokens ? n - i * tokens : tokens; };
        for (extent_t i = 0; i < tiles; ++i) {
            prefix(p, b, h, i * tokens, length(i), now, s);
            for (extent_t t = 0; t < length(i); ++t) { s.all_p[i * tokens + t] = s.p[t], s.all_r[i * tokens + t] = s.r[t]; }
        }
        row::clear(s.g, s.vp);
        T later(0), h_sum(0); // r of the token after the tile's last, h of it
        for (extent_t i = tiles - 1; i >= 0; --i) {
            extent_t const first = i * tokens, len = length(i);
            T const *const all_p = s.all_p + first, *const all_r = s.all_r + first;
            read_rows(p.v, b, h, first, len, s.v, s.vp);
            read_rows(d.dout, b, h, first, len, s.dout, s.vp);
            pack_rows<A>(p.out.row(b, h, first), p.out.stride(2), p.out.stride(3), len, p.out.extent(3), s.o, s.vp);
            for (extent_t t = 0; t < len; ++t) {
                for (extent_t e = p.out.extent(3); e < s.vp; ++e) { s.o[t * s.vp + e] = T(0); }
                if (all_p[t] == T(0)) { row::clear(s.v + t * s.vp, s.vp); }
            }
            sum_back(len, all_p, all_r, later, s); // dots: G.v and do.out; v becomes dv
            for (extent_t t = len - 1; t >= 0; --t) {
                h_sum = s.along[t] + later * h_sum;
                later = all_r[t];
                s.along[t] = all_p[t] == T(0) ? T(0) : all_p[t] * (s.p[t] - h_sum);
            }
            write_back(p, d, b, h, first, len, s);
        }
    }
    static void sum_back(extent_t len, T const* all_p, T const* all_r, T later, scratch& s) {
        for (extent_t i = 0; i < len * lanes; i += lanes) { V(0).store(s.dots + i); }
        strips(s.vp, [&](auto size, extent_t c) HEED_INLINE_LAMBDA {
            constexpr int W = decltype(size)::value;
            V g[W];
            static_for<W>([&](auto w) HEED_INLINE_LAMBDA { g[w] = V::load(s.g + c + w * lanes); });
            for (extent_t t = len - 1; t >= 0; --t) {
                V const r(t + 1 < len ? all_r[t + 1] : later), p(all_p[t]);
                V sum = V::load(s.dots + t * lanes);
                static_for<W>([&](auto w) HEED_INLINE_LAMBDA {
                    extent_t const at = t * s.vp + c + w * lanes;
                    g[w] = fma(r, g[w], V::load(s.dout + at));
                    sum = fma(g[w], V::load(s.v + at), sum);
                    (all_p[t] == T(0) ? V(0) : p * g[w]).store(s.v + at);
                });
                sum.store(s.dots + t * lanes);
            }
            static_for<W>([&](auto w) HEED_INLINE_LAMBDA { g[w].store(s.g + c + w * lanes); });
        });
        for (extent_t t = 0; t < len; ++t) {
            V sum(0);
            for (extent_t c = 0; c < s.vp; c += lanes) { sum = fma(V::load(s.dout + t * s.vp + c), V::load(s.o + t * s.vp + c), sum); }
            s.p[t] = lanes_sum(V::load(s.dots + t * lanes)), s.along[t] = lanes_sum(sum);
        }
    }
    static T lanes_sum(V x) {
        T part[lanes], sum(0);
        x.store(part);
        for (int l = 0; l < lanes; ++l) { sum += part[l]; }
        return sum;
    }
    static void write_back(problem const& p, gradients const& d, extent_t b, extent_t h, extent_t first, extent_t len, scratch& s) {
        if (d.dv.data_handle() != nullptr) { unpack_rows<A>(s.v, s.vp, len, p.v.extent(3), d.dv.row(b, h, first), d.dv.stride(2), d.dv.stride(3)); }
        if (d.dq.data_handle() != nullptr) {
            read_rows(p.k, b, h, first, len, s.k, s.dp);
            row::clear(s.part, s.dp);
            for (extent_t t = 0; t < len; ++t) {
                if (s.along[t] != T(0)) { row::add(s.k + t * s.dp, s.along[t], s.part, s.dp); }
            }
            row::add(s.part, T(1), s.dq, s.dp);
        }
        if (d.dk.data_handle() == nullptr) { return; }
        for (extent_t t = 0; t < len; ++t) {
            for (extent_t e = 0; e < s.dp; e += lanes) { (V(s.along[t]) * V::load(s.q + e)).store(s.k + t * s.dp + e); }
        }
        unpack_rows<A>(s.k, s.dp, len, p.k.extent(3), d.dk.row(b, h, first), d.dk.stride(2), d.dk.stride(3));
    }
};

} // namespace heed
