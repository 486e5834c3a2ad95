// SPDX-License-Identifier: BSD-3-Clause
// The flows of flow attention (mechanism/flow.hpp): from rows of q and k the factor of every row of out, g, and the weight of every key, w; and from gradients by those what is to
// be added to the gradients by q and k. One head at a time, O((N + M) d), a few numbers a token.
//
// Backward keeps I, O, C, D of every token; the causal one in addition the four sums before every tile of 64 tokens, from which those inside are made anew. Sums over a tile start at
// zero and are added once.
#pragma once

#include <heed/engine/workspace.hpp>
#include <heed/family/flow.hpp>
#include <heed/kernel/dual.hpp>
#include <heed/kernel/lane_reduce.hpp>
#include <heed/kernel/pack.hpp>
#include <heed/kernel/row_ops.hpp>

namespace heed {

template <class F, class E, class A>
class flow_rows {
    using T = compute_t<E>;
    using V = vec<T, A>;
    using row = row_ops<T, A>;
    static constexpr int lanes = V::lanes;
    static constexpr extent_t tokens = 64;

public:
    // Of a head: rows of the views, and numbers one behind the other.
    struct head {
        tensor_view<E const> q, k;
        extent_t b, h, queries, keys;
    };
    struct flows {
        T *g, *w; // factor of a row, weight of a key
    };

private:
    F f_;
    T eps_;
    bool causal_;
    extent_t d_, dp_;
    T *eps_row_, *x_, *y_;                   // eps where there are features; a tile of rows of q and of k, mapped
    T *base_, *part_, *now_;                 // four sums: before the tile, inside it, both
    T *in_, *out_, *c_, *e_;                 // I, O, C, D of all tokens
    T *din_, *dout_, *dc_, *de_;             // their gradients
    T *checkpoints_, *inside_, *back_, *dx_, *dy_; // sums before tiles, after every token of one; reverse sums; gradients of a tile

public:
    flow_rows(F const& f, double eps, bool causal, extent_t d, extent_t queries, extent_t keys, bool backward, arena& room) : f_(f), eps_(static_cast<T>(eps)), causal_(causal), d_(d), dp_(row::padded(d)) {
        auto const take = [&](extent_t n, bool wanted = true) { return wanted ? room.take<T>(n) : nullptr; };
        eps_row_ = take(dp_), x_ = take(tokens * dp_), y_ = take(tokens * dp_), base_ = take(4 * dp_), part_ = take(4 * dp_), now_ = take(4 * dp_);
        bool const all = backward || !causal;
        in_ = take(queries, all), out_ = take(keys, all), c_ = take(queries, backward), e_ = take(keys, all);
        din_ = take(queries, backward), dout_ = take(keys, backward), dc_ = take(queries, backward), de_ = take(keys, backward);
        checkpoints_ = take((keys + tokens - 1) / tokens * 4 * dp_, backward && causal), inside_ = take(tokens * 4 * dp_, backward && causal);
        back_ = take(4 * dp_, backward), dx_ = take(tokens * dp_, backward), dy_ = take(tokens * dp_, backward);
        if (eps_row_ == nullptr) { return; }
        for (extent_t e = 0; e < dp_; ++e) { eps_row_[e] = e < d ? eps_ : T(0); }
    }

    void forward(head const& x, flows const& to, flow_state<T const> const& from, flow_state<T> const& last) {
        if (causal_) {
            along(x, to, from, last, false);
        } else {
            across(x, to, false);
        }
    }
    // dg, dw: gradients by factor and weight; dq, dk are added to where given.
    void backward(head const& x, flows const& made, flows const& by, flow_state<T const> const& from, tensor_view<E> const& dq, tensor_view<E> const& dk) {
        if (causal_) {
            along(x, made, from, {}, true);
            if (x.keys > 0) { along_back(x, made, by, from, dq, dk); }
        } else {
            across(x, made, true);
            across_back(x, made, by, dq, dk);
        }
    }

private:
    HEED_INLINE static T total(V x) {
        T p[lanes], sum(0);
        x.store(p);
        for (int l = 0; l < lanes; ++l) { sum += p[l]; }
        return sum;
    }
    HEED_INLINE static typename V::mask_type before(extent_t first, extent_t limit) { return mask_cast<V>(iota(first, std::type_identity<index_of<V>>{}) < index_of<V>(limit)); }
    void read(tensor_view<E const> const& x, extent_t b, extent_t h, extent_t first, extent_t len, T* to) const {
        pack_rows<A>(x.row(b, h, first), x.stride(2), x.stride(3), len, d_, to, dp_);
        for (extent_t t = 0; t < len; ++t) {
            T* const r = to + t * dp_;
            for (extent_t e = d_; e < dp_; ++e) { r[e] = T(0); }
            for (extent_t e = 0; e < dp_; e += lanes) {
                V const y = f_(V::load(r + e));
                (e + lanes <= d_ ? y : select(before(e, d_), y, V(0))).store(r + e);
            }
        }
    }
    // (x + e).(s + e)
    T flow_of(T const* x, T const* s) const {
        V sum(0);
        for (extent_t e = 0; e < dp_; e += lanes) {
            V const small = V::load(eps_row_ + e);
            sum = fma(V::load(x + e) + small, V::load(s + e) + small, sum);
        }
        return total(sum);
    }
    T dot(T const* x, T const* s) const {
        V sum(0);
        for (extent_t e = 0; e < dp_; e += lanes) { sum = fma(V::load(x + e), V::load(s + e), sum); }
        return total(sum);
    }
    // s += c (x + e)
    void add_shifted(T const* x, T c, T* s) const {
        for (extent_t e = 0; e < dp_; e += lanes) { fma(V(c), V::load(x + e) + V::load(eps_row_ + e), V::load(s + e)).store(s + e); }
    }
    HEED_INLINE T sigmoid(T x) const {
        T p[lanes];
        (V(1) / (V(1) + exp(V(-x)))).store(p);
        return p[0];
    }
    HEED_INLINE T exp_of(T x) const {
        T p[lanes];
        exp(V(x)).store(p);
        return p[0];
    }
    static T clamp(T x) { return x > T(1) ? T(1) : x < T(-1) ? T(-1) : x; } // NaN stays
    static bool inside(T x) { return !(x > T(1) || x < T(-1)); }

    // f(first, len) over tiles; each(rows of a view, f(row, n)); sum(view, f(row, n), to): f adds to a part
    template <class G>
    static void tiles(extent_t n, G const& g) {
        for (extent_t first = 0; first < n; first += tokens) { g(first, n - first < tokens ? n - first : tokens); }
    }
    template <class G>
    void each(tensor_view<E const> const& x, head const& at, extent_t n, G const& g) {
        tiles(n, [&](extent_t first, extent_t len) {
            read(x, at.b, at.h, first, len, x_);
            for (extent_t t = 0; t < len; ++t) { g(x_ + t * dp_, first + t); }
        });
    }
    template <class G>
    void sum(tensor_view<E const> const& x, head const& at, extent_t n, T* to, G const& g) {
        row::clear(to, dp_);
        tiles(n, [&](extent_t first, extent_t len) {
            read(x, at.b, at.h, first, len, x_);
            row::clear(y_, dp_);
            for (extent_t t = 0; t < len; ++t) { g(x_ + t * dp_, first + t, y_); }
            row::add(y_, T(1), to, dp_);
        });
    }
    T *sum_k() const { return base_; }
    T *sum_q() const { return base_ + dp_; }
    T *sum_ko() const { return base_ + 2 * dp_; }
    T *sum_qi() const { return base_ + 3 * dp_; }

    void across(head const& x, flows const& to, bool keep) {
        auto const plain = [&](T const* r, extent_t, T* s) { row::add(r, T(1), s, dp_); };
        sum(x.q, x, x.queries, sum_q(), plain), sum(x.k, x, x.keys, sum_k(), plain);
        sum(x.q, x, x.queries, sum_qi(), [&](T const* r, extent_t i, T* s) { row::add(r, in_[i] = T(1) / flow_of(r, sum_k()), s, dp_); });
        sum(x.k, x, x.keys, sum_ko(), [&](T const* r, extent_t j, T* s) { row::add(r, out_[j] = T(1) / flow_of(r, sum_q()), s, dp_); });
        T const ratio = static_cast<T>(static_cast<double>(x.queries) / static_cast<double>(x.keys < 1 ? 1 : x.keys));
        each(x.q, x, x.queries, [&](T const* r, extent_t i) {
            T const c = flow_of(r, sum_ko());
            if (keep) { c_[i] = c; }
            to.g[i] = sigmoid(c * ratio) * in_[i];
        });
        double all = 0;
        each(x.k, x, x.keys, [&](T const* r, extent_t j) {
            e_[j] = flow_of(r, sum_qi());
            all += static_cast<double>(to.w[j] = exp_of(clamp(e_[j])));
        });
        T const by = static_cast<T>(static_cast<double>(x.keys) / all);
        for (extent_t j = 0; j < x.keys; ++j) { to.w[j] *= by; }
    }
    // What a gradient of a tile's mapped rows is of the rows themselves, added to those in memory.
    void give(tensor_view<E const> const& x, tensor_view<E> const& to, head const& at, extent_t first, extent_t len, T* d) const {
        if (to.data_handle() == nullptr) { return; }
        T* const raw = now_; // a row and more
        for (extent_t t = 0; t < len; ++t) {
            row::read(x.row(at.b, at.h, first + t), x.stride(3), d_, raw);
            E* const gradient = to.row(at.b, at.h, first + t);
            row::read(gradient, to.stride(3), d_, raw + dp_);
            for (extent_t e = 0; e < dp_; e += lanes) { fma(V::load(d + t * dp_ + e), f_(dual<V>(V::load(raw + e), V(1))).d, V::load(raw + dp_ + e)).store(raw + dp_ + e); }
            row::write(raw + dp_, gradient, to.stride(3), d_);
        }
    }
    // dx += c (s + e) + a x'
    void two(T* dx, T c, T const* s, T a, T const* other) const {
        for (extent_t e = 0; e < dp_; e += lanes) {
            fma(V(c), V::load(s + e) + V::load(eps_row_ + e), fma(V(a), V::load(other + e), V::load(dx + e))).store(dx + e);
        }
    }
    void across_back(head const& x, flows const& made, flows const& by, tensor_view<E> const& dq, tensor_view<E> const& dk) {
        T const ratio = static_cast<T>(static_cast<double>(x.queries) / static_cast<double>(x.keys < 1 ? 1 : x.keys));
        for (extent_t i = 0; i < x.queries; ++i) {
            T const s = sigmoid(c_[i] * ratio);
            dc_[i] = by.g[i] * in_[i] * s * (T(1) - s) * ratio, din_[i] = by.g[i] * s;
        }
        double mean = 0;
        for (extent_t j = 0; j < x.keys; ++j) { mean += static_cast<double>(by.w[j]) * static_cast<double>(made.w[j]); }
        T const off = static_cast<T>(mean / static_cast<double>(x.keys < 1 ? 1 : x.keys));
        for (extent_t j = 0; j < x.keys; ++j) { de_[j] = inside(e_[j]) ? made.w[j] * (by.w[j] - off) : T(0); }
        T *const dks = back_, *const dqs = back_ + dp_, *const dko = back_ + 2 * dp_, *const dqi = back_ + 3 * dp_;
        sum(x.q, x, x.queries, dko, [&](T const* r, extent_t i, T* s) { add_shifted(r, dc_[i], s); });
        sum(x.k, x, x.keys, dqi, [&](T const* r, extent_t j, T* s) { add_shifted(r, de_[j], s); });
        sum(x.q, x, x.queries, dks, [&](T const* r, extent_t i, T* s) { add_shifted(r, din_[i] = -(din_[i] + dot(r, dqi)) * in_[i] * in_[i], s); });
        sum(x.k, x, x.keys, dqs, [&](T const* r, extent_t j, T* s) { add_shifted(r, dout_[j] = -dot(r, dko) * out_[j] * out_[j], s); });
        auto const rows = [&](tensor_view<E const> const& of, tensor_view<E> const& to, extent_t n, T const* by_flow, T const* sum_flow, T const* one, T const* sum_one, T const* by_one, T const* sum_all, T const* all) {
            tiles(n, [&](extent_t first, extent_t len) {
                for (extent_t t = 0; t < len; ++t) {
                    T* const d = dx_ + t * dp_;
                    for (extent_t e = 0; e < dp_; e += lanes) { V::load(all + e).store(d + e); }
                    two(d, by_flow[first + t], sum_flow, one[first + t], sum_one);
                    two(d, by_one[first + t], sum_all, T(0), sum_one);
                }
                give(of, to, x, first, len, dx_);
            });
        };
        rows(x.q, dq, x.queries, dc_, sum_ko(), in_, dqi, din_, sum_k(), dqs);
        rows(x.k, dk, x.keys, de_, sum_qi(), out_, dko, dout_, sum_q(), dks);
    }

    // Sums before the tile and inside it into now_, quarter i.
    T* now(int i) const {
        T* const to = now_ + i * dp_;
        for (extent_t e = 0; e < dp_; e += lanes) { (V::load(base_ + i * dp_ + e) + V::load(part_ + i * dp_ + e)).store(to + e); }
        return to;
    }
    void along(head const& x, flows const& to, flow_state<T const> const& from, flow_state<T> const& last, bool keep) {
        for (int i = 0; i < 4; ++i) {
            row::clear(base_ + i * dp_, dp_);
            for (extent_t e = 0; from.given() && e < d_; ++e) { base_[i * dp_ + e] = from.sums(x.b, x.h, i, e); }
        }
        double seen = tokens_before(x, from), all = from.given() ? static_cast<double>(from.counts(x.b, x.h, 1, 0)) : 0;
        tiles(x.keys, [&](extent_t first, extent_t len) {
            read(x.q, x.b, x.h, first, len, x_), read(x.k, x.b, x.h, first, len, y_);
            if (keep) {
                for (extent_t e = 0; e < 4 * dp_; ++e) { checkpoints_[first / tokens * 4 * dp_ + e] = base_[e]; }
            }
            for (extent_t e = 0; e < 4 * dp_; e += lanes) { V(0).store(part_ + e); }
            for (extent_t t = 0; t < len; ++t) {
                T const *const q = x_ + t * dp_, *const k = y_ + t * dp_;
                seen += 1;
                T const n = static_cast<T>(seen);
                row::add(k, T(1), part_, dp_), row::add(q, T(1), part_ + dp_, dp_);
                T const in = n / flow_of(q, now(0)), out = n / flow_of(k, now(1));
                row::add(k, out, part_ + 2 * dp_, dp_), row::add(q, in, part_ + 3 * dp_, dp_);
                T const c = flow_of(q, now(2)) / n, e = flow_of(k, now(3)) / n, weight = exp_of(clamp(e));
                all += static_cast<double>(weight);
                to.g[first + t] = sigmoid(c) * in / n;
                to.w[first + t] = static_cast<T>(seen * static_cast<double>(weight) / all);
                if (keep) { in_[first + t] = in, out_[first + t] = out, c_[first + t] = c, e_[first + t] = e; }
            }
            for (int i = 0; i < 4; ++i) { row::add(part_ + i * dp_, T(1), base_ + i * dp_, dp_); }
        });
        if (!last.given()) { return; }
        for (int i = 0; i < 4; ++i) {
            for (extent_t e = 0; e < d_; ++e) { last.sums(x.b, x.h, i, e) = base_[i * dp_ + e]; }
        }
        last.counts(x.b, x.h, 0, 0) = static_cast<T>(seen), last.counts(x.b, x.h, 1, 0) = static_cast<T>(all);
    }
    static double tokens_before(head const& x, flow_state<T const> const& from) { return from.given() ? static_cast<double>(from.counts(x.b, x.h, 0, 0)) : 0; }
    void along_back(head const& x, flows const& made, flows const& by, flow_state<T const> const& from, tensor_view<E> const& dq, tensor_view<E> const& dk) {
        // the softmax over prefixes: w_t = t e^D_t / E_t
        double later = 0, all = from.given() ? static_cast<double>(from.counts(x.b, x.h, 1, 0)) : 0;
        T const seen = static_cast<T>(tokens_before(x, from));
        for (extent_t j = 0; j < x.keys; ++j) { all += static_cast<double>(exp_of(clamp(e_[j]))); }
        for (extent_t j = x.keys - 1; j >= 0; --j) {
            double const weight = static_cast<double>(exp_of(clamp(e_[j]))), along = static_cast<double>(by.w[j]) * static_cast<double>(made.w[j]);
            later += along / all;
            de_[j] = inside(e_[j]) ? static_cast<T>(along - weight * later) : T(0);
            all -= weight;
        }
        for (int i = 0; i < 4; ++i) { row::clear(back_ + i * dp_, dp_); }
        for (extent_t first = (x.keys - 1) / tokens * tokens; first >= 0; first -= tokens) {
            extent_t const len = x.keys - first < tokens ? x.keys - first : tokens;
            read(x.q, x.b, x.h, first, len, x_), read(x.k, x.b, x.h, first, len, y_);
            sums_inside(first, len);
            for (extent_t t = len - 1; t >= 0; --t) { token_back(first + t, seen + static_cast<T>(first + t + 1), x_ + t * dp_, y_ + t * dp_, inside_ + t * 4 * dp_, by.g[first + t], dx_ + t * dp_, dy_ + t * dp_); }
            give(x.q, dq, x, first, len, dx_), give(x.k, dk, x, first, len, dy_);
        }
    }
    void sums_inside(extent_t first, extent_t len) {
        for (extent_t e = 0; e < 4 * dp_; e += lanes) { V::load(checkpoints_ + first / tokens * 4 * dp_ + e).store(base_ + e), V(0).store(part_ + e); }
        for (extent_t t = 0; t < len; ++t) {
            T const *const q = x_ + t * dp_, *const k = y_ + t * dp_;
            row::add(k, T(1), part_, dp_), row::add(q, T(1), part_ + dp_, dp_), row::add(k, out_[first + t], part_ + 2 * dp_, dp_), row::add(q, in_[first + t], part_ + 3 * dp_, dp_);
            for (extent_t e = 0; e < 4 * dp_; e += lanes) { (V::load(base_ + e) + V::load(part_ + e)).store(inside_ + t * 4 * dp_ + e); }
        }
    }
    // Token n, the t-th of all; s: the four sums after it; reverse sums in back_
    void token_back(extent_t n, T t, T const* q, T const* k, T const* s, T by_g, T* dx, T* dy) {
        T const in = in_[n], out = out_[n], sig = sigmoid(c_[n]);
        T const dc = by_g * in / t * sig * (T(1) - sig) / t, de = de_[n] / t;
        T *const dks = back_, *const dqs = back_ + dp_, *const dko = back_ + 2 * dp_, *const dqi = back_ + 3 * dp_;
        add_shifted(q, dc, dko), add_shifted(k, de, dqi);
        T const din = by_g * sig / t + dot(q, dqi), dout = dot(k, dko);
        T const da = -din * in * in / t, db = -dout * out * out / t;
        add_shifted(q, da, dks), add_shifted(k, db, dqs);
        for (extent_t e = 0; e < dp_; e += lanes) { V::load(dqs + e).store(dx + e), V::load(dks + e).store(dy + e); }
        two(dx, dc, s + 2 * dp_, in, dqi), two(dx, da, s, T(0), dqi);
        two(dy, de, s + 3 * dp_, out, dko), two(dy, db, s + dp_, T(0), dko);
    }
};

} // namespace heed
