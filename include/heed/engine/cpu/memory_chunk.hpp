// SPDX-License-Identifier: BSD-3-Clause
// One chunk of a memory that learns by gradient steps (mechanism/gradient_memory.hpp), forward and backward. M, S: before the chunk; u_t = v_t - M^T k_t, what the memory gets wrong.
//
//   n_tj = eta_t n_(t-1)j, n_jj = 2 theta_j        G_tj = a_t G_(t-1)j + n_tj, a = 1 - alpha: what token j counts for at token t in S and in M
//   B_t, f_t, c_t                                  the same of M and S from before: B_t = a_t B_(t-1), c_t = eta_t c_(t-1), f_t = a_t f_(t-1) + c_t
//   u_t = v_t - B_(t-1) M^T k_t - f_(t-1) S^T k_t - sum_(j < t) G_(t-1)j (k_t.k_j) u_j     by forward substitution; or v_t - M^T k_t where gradients are frozen
//   o_t = B_t M^T q_t + f_t S^T q_t + sum_(j <= t) G_tj (q_t.k_j) u_j
//   M <- B M + f S + sum_j G_j k_j u_j^T           S <- c S + sum_j n_j k_j u_j^T, all of the last token
//
// Where u comes from elsewhere (`given`), it is only read and learnt from. Steps of the reader: G_tj = theta_t, no momentum and nothing forgotten (S is not used).
// Backward turns every product around and runs the recurrences of G, n, B, f, c from the last token to the first for the gradients of a, eta and theta.
#pragma once

#include <heed/engine/workspace.hpp>
#include <heed/kernel/decay_block.hpp>
#include <heed/kernel/pack.hpp>
#include <heed/kernel/product_tile.hpp>
#include <heed/kernel/row_ops.hpp>

namespace heed {

enum class memory_rule { sequential, frozen, given, given_by_reader };

template <class T, class A>
class memory_chunk {
    using V = vec<T, A>;
    using row = row_ops<T, A>;
    using product = product_tile<T, A>;
    static constexpr int lanes = V::lanes;

    extent_t d_, dv_, tokens_;
    bool frozen_, given_, reader_;

public:
    extent_t dp, vp, cp, tall, wide; // row pitches; dv and d in whole registers
    T *q, *k, *u, *o;                // rows: queries, keys, values and then u, results
    T *theta, *a, *eta;              // a number a token
    T *m, *s;                        // [wide][vp]
    T *dout, *dq, *dk, *h, *x, *y, *dtheta, *da, *deta; // backward: h the gradients by values, x and y those by M and S after the chunk, then before it
private:
    T *g_, *n_, *keep_, *moment_, *carry_; // G [tokens][cp]; n of the last token, or of all; B, f, c
    T *weights_, *below_, *scaled_, *turned_, *ones_;
    T *dg_, *db_, *qk_, *kk_, *state_turned_, *u_turned_, *more_, *gcarry_, *ncarry_;

public:
    memory_chunk(extent_t d, extent_t dv, extent_t tokens, memory_rule rule, bool backward, arena& room)
        : d_(d), dv_(dv), tokens_(tokens), frozen_(rule != memory_rule::sequential), given_(rule >= memory_rule::given), reader_(rule == memory_rule::given_by_reader), dp(row::padded(d)), vp(row::padded(dv)), cp(row::padded(tokens)), tall(vp), wide(dp) {
        auto const take = [&](extent_t n, bool wanted = true) { return wanted ? room.take<T>(n) : nullptr; };
        extent_t const rows_k = tokens * dp, rows_v = tokens * vp, pairs = tokens * cp, state = wide * vp;
        q = take(rows_k), k = take(rows_k), u = take(rows_v), o = take(rows_v), m = take(state), s = take(state), scaled_ = take(rows_k), turned_ = take(wide * cp), weights_ = take(pairs);
        for (T** to : {&theta, &a, &eta, &keep_, &moment_, &carry_}) { *to = take(tokens); }
        g_ = take(pairs), n_ = take(backward ? pairs : cp), below_ = take(pairs, !frozen_), ones_ = take(rows_v, !frozen_);
        for (extent_t i = 0; ones_ != nullptr && i < rows_v; i += lanes) { V(1).store(ones_ + i); }
        dout = take(rows_v, backward), dq = take(rows_k, backward), dk = take(rows_k, backward), h = take(rows_v, backward), x = take(state, backward), y = take(state, backward);
        for (T** to : {&dtheta, &da, &deta}) { *to = take(tokens, backward); }
        dg_ = take(pairs, backward), db_ = take(pairs, backward && !frozen_), qk_ = take(pairs, backward), kk_ = take(pairs, backward && !frozen_), state_turned_ = take(tall * dp, backward);
        u_turned_ = take(tall * cp, backward), more_ = take(rows_v, backward), gcarry_ = take(cp, backward), ncarry_ = take(cp, backward);
    }
    extent_t state_size() const { return wide * vp; }
    extent_t width() const { return d_; }

    // G and, of all tokens or the last, n.
    void tables(extent_t len, bool all) {
        if (reader_) {
            for (extent_t t = 0; t < len; ++t) {
                for (extent_t j = 0; j < cp; j += lanes) { inside(j, t + 1, V(theta[t])).store(g_ + t * cp + j); }
                keep_[t] = T(1), moment_[t] = T(0), carry_[t] = T(0);
            }
            return;
        }
        T before_b(1), before_f(0), before_c(1);
        T* const sum = g_;
        for (extent_t t = 0; t < len; ++t) {
            T *const n = n_ + (all ? t * cp : 0), *const g = sum + t * cp;
            T const *const n_before = all && t > 0 ? n - cp : n, *const g_before = t > 0 ? g - cp : g;
            for (extent_t j = 0; j < cp; j += lanes) {
                V const was = t > 0 ? V::load(n_before + j) * V(eta[t]) : V(0), old = t > 0 ? V::load(g_before + j) * V(a[t]) : V(0);
                was.store(n + j);
                (old + was).store(g + j);
            }
            n[t] = 2 * theta[t], g[t] = 2 * theta[t];
            keep_[t] = before_b *= a[t];
            carry_[t] = before_c *= eta[t];
            moment_[t] = before_f = a[t] * before_f + before_c;
        }
    }
    T last_n(extent_t len, extent_t j, bool all) const { return reader_ ? T(0) : n_[(all ? (len - 1) * cp : 0) + j]; }

    // u from values, in place.
    void solve(extent_t len) {
        pack_transposed<A>(k, dp, extent_t(1), len, d_, turned_, cp, row::padded(len));
        if (given_) { return; }
        read_state(k, len, u, put::subtract, true);
        if (frozen_) { return; }
        product::run(len, row::padded(len), d_, k, dp, 1, turned_, cp, below_, cp, put::write);
        for (extent_t t = 0; t < len; ++t) {
            for (extent_t j = 0; j < row::padded(len); j += lanes) { (t > 0 ? inside(j, t, V::load(below_ + t * cp + j) * V::load(g_ + (t - 1) * cp + j)) : V(0)).store(below_ + t * cp + j); }
        }
        for (extent_t i = 0; i < len; i += substitute_rows) {
            extent_t const rows = len - i < substitute_rows ? len - i : extent_t(substitute_rows);
            if (i > 0) { product::run(rows, tall, i, below_ + i * cp, cp, 1, u, vp, u + i * vp, vp, put::subtract); }
            T* const none = nullptr;
            substitute<A>(below_ + i * cp + i, cp, rows, static_cast<T const*>(ones_ + i * vp), vp, tall, u + i * vp, none);
        }
    }
    void read(extent_t len) {
        scores(len);
        clear(o, len);
        read_state(q, len, o, put::add, false);
        product::run(len, tall, len, weights_, cp, 1, u, vp, o, vp, put::add, reach::lower);
    }
    void advance(extent_t len, bool all = false) {
        if (reader_) {
            scale_rows(len, [&](extent_t) { return theta[len - 1]; });
            product::run(d_, tall, len, scaled_, 1, dp, u, vp, m, vp, put::add);
            return;
        }
        T const b = keep_[len - 1], f = moment_[len - 1], c = carry_[len - 1];
        for (extent_t i = 0; i < wide * vp; i += lanes) {
            V const old = V::load(s + i);
            fma(V(b), V::load(m + i), V(f) * old).store(m + i);
            (V(c) * old).store(s + i);
        }
        scale_rows(len, [&](extent_t j) { return g_[(len - 1) * cp + j]; });
        product::run(d_, tall, len, scaled_, 1, dp, u, vp, m, vp, put::add);
        scale_rows(len, [&](extent_t j) { return last_n(len, j, all); });
        product::run(d_, tall, len, scaled_, 1, dp, u, vp, s, vp, put::add);
    }

    // After tables(len, true), with M and S of the chunk's start, u, dout, and x, y of its end.
    void backward(extent_t len) {
        pack_transposed<A>(k, dp, extent_t(1), len, d_, turned_, cp, row::padded(len));
        scores(len);
        product::run(len, row::padded(len), d_, q, dp, 1, turned_, cp, qk_, cp, put::write);
        if (!frozen_) {
            product::run(len, row::padded(len), d_, k, dp, 1, turned_, cp, kk_, cp, put::write);
            for (extent_t t = 0; t < len; ++t) {
                for (extent_t j = 0; j < row::padded(len); j += lanes) { (t > 0 ? inside(j, t, V::load(kk_ + t * cp + j) * V::load(g_ + (t - 1) * cp + j)) : V(0)).store(below_ + t * cp + j); }
            }
        }
        // h, and what the ends say of G and n of the last token
        product::run(len, tall, d_, k, dp, 1, x, vp, h, vp, put::write);    // k X
        product::run(len, tall, d_, k, dp, 1, y, vp, more_, vp, put::write); // k Y
        for (extent_t j = 0; j < len; ++j) {
            gcarry_[j] = dot(h + j * vp, u + j * vp, tall), ncarry_[j] = dot(more_ + j * vp, u + j * vp, tall);
            V const g(g_[(len - 1) * cp + j]), n(last_n(len, j, true));
            for (extent_t e = j * vp; e < j * vp + tall; e += lanes) { fma(g, V::load(h + e), n * V::load(more_ + e)).store(h + e); }
        }
        product::run(len, tall, len, weights_, 1, cp, dout, vp, h, vp, put::add, reach::upper);
        if (!frozen_) {
            for (extent_t i = (len - 1) / substitute_rows * substitute_rows; i >= 0; i -= substitute_rows) {
                extent_t const rows = len - i < substitute_rows ? len - i : extent_t(substitute_rows), done = i + rows;
                if (done < len) { product::run(rows, tall, len - done, below_ + done * cp + i, 1, cp, h + done * vp, vp, h + i * vp, vp, put::subtract); }
                substitute_back<A>(below_ + i * cp + i, cp, rows, static_cast<T const*>(ones_), vp, tall, h + i * vp);
            }
        }
        // pairs: dA = do u^T, dB = -h u^T
        pack_transposed<A>(u, vp, extent_t(1), len, dv_, u_turned_, cp, row::padded(len));
        product::run(len, row::padded(len), dv_, dout, vp, 1, u_turned_, cp, dg_, cp, put::write);
        if (!frozen_) { product::run(len, row::padded(len), dv_, h, vp, 1, u_turned_, cp, db_, cp, put::write); }
        // rows: of the ends
        end_keys(len, x, [&](extent_t j) { return g_[(len - 1) * cp + j]; }, put::write);
        end_keys(len, y, [&](extent_t j) { return last_n(len, j, true); }, put::add);
        T const last_c = inner(y, s);
        states_back(len, inner(x, m), inner(x, s));
        pairs_back(len);
        scalars_back(len, last_c);
        ends_back(len);
    }

private:
    HEED_INLINE static V inside(extent_t first, extent_t limit, V value) {
        if (first + lanes <= limit) { return value; }
        return select(mask_cast<V>(iota(first, std::type_identity<index_of<V>>{}) < index_of<V>(limit)), value, V(0));
    }
    static T total(V lanes_of) {
        T part[lanes], sum(0);
        lanes_of.store(part);
        for (int l = 0; l < lanes; ++l) { sum += part[l]; }
        return sum;
    }
    static T dot(T const* one, T const* other, extent_t n) {
        V sum(0);
        for (extent_t e = 0; e < n; e += lanes) { sum = fma(V::load(one + e), V::load(other + e), sum); }
        return total(sum);
    }
    T inner(T const* one, T const* other) const { return dot(one, other, wide * vp); }
    void clear(T* rows, extent_t len) const { row::clear(rows, len * vp); }
    // scaled_ = rows times a number each
    template <class F>
    void scale_of(T const* rows, extent_t len, F const& by) {
        for (extent_t t = 0; t < len; ++t) {
            V const factor(by(t));
            for (extent_t e = t * dp; e < t * dp + wide; e += lanes) { (V::load(rows + e) * factor).store(scaled_ + e); }
        }
    }
    template <class F>
    void scale_rows(extent_t len, F const& by) {
        scale_of(k, len, by);
    }
    T of_m(extent_t t, bool before) const { return !before ? keep_[t] : frozen_ || t == 0 ? T(1) : keep_[t - 1]; }
    T of_s(extent_t t, bool before) const { return !before ? moment_[t] : frozen_ || t == 0 ? T(0) : moment_[t - 1]; }
    // to (+, -) = what M and S, as they have decayed by token t (or before it), answer to the rows
    void read_state(T const* rows, extent_t len, T* to, put mode, bool before) {
        scale_of(rows, len, [&](extent_t t) { return of_m(t, before); });
        product::run(len, tall, d_, scaled_, dp, 1, m, vp, to, vp, mode);
        if (before && frozen_) { return; }
        scale_of(rows, len, [&](extent_t t) { return of_s(t, before); });
        product::run(len, tall, d_, scaled_, dp, 1, s, vp, to, vp, mode);
    }
    void scores(extent_t len) {
        product::run(len, row::padded(len), d_, q, dp, 1, turned_, cp, weights_, cp, put::write);
        for (extent_t t = 0; t < len; ++t) {
            for (extent_t j = 0; j < row::padded(len); j += lanes) { inside(j, t + 1, V::load(weights_ + t * cp + j) * V::load(g_ + t * cp + j)).store(weights_ + t * cp + j); }
        }
    }
    // dk (+)= by_j (X u_j)
    template <class F>
    void end_keys(extent_t len, T const* of, F const& by, put mode) {
        pack_transposed<A>(of, vp, extent_t(1), d_, dv_, state_turned_, dp, wide);
        product::run(len, wide, dv_, u, vp, 1, state_turned_, dp, scaled_, dp, put::write);
        for (extent_t j = 0; j < len; ++j) {
            V const w(by(j));
            for (extent_t e = j * dp; e < j * dp + wide; e += lanes) {
                V const z = w * V::load(scaled_ + e);
                (mode == put::write ? z : V::load(dk + e) + z).store(dk + e);
            }
        }
    }
    // dq, dk through M and S; the gradients of B and f into da, deta for now: what they multiply, token by token
    void states_back(extent_t len, T last_b, T last_f) {
        row::clear(dq, len * dp);
        for (extent_t t = 0; t < len; ++t) { da[t] = deta[t] = T(0); }
        for (bool const momentum : {false, true}) {
            pack_transposed<A>(momentum ? s : m, vp, extent_t(1), d_, dv_, state_turned_, dp, wide);
            T* const to = momentum ? deta : da;
            product::run(len, wide, dv_, dout, vp, 1, state_turned_, dp, scaled_, dp, put::write);
            for (extent_t t = 0; t < len; ++t) {
                to[t] += dot(scaled_ + t * dp, q + t * dp, wide);
                row::add(scaled_ + t * dp, momentum ? of_s(t, false) : of_m(t, false), dq + t * dp, wide);
            }
            if (given_ || (momentum && frozen_)) { continue; }
            product::run(len, wide, dv_, h, vp, 1, state_turned_, dp, scaled_, dp, put::write);
            for (extent_t t = 0; t < len; ++t) {
                if (t > 0 && !frozen_) { to[t - 1] -= dot(scaled_ + t * dp, k + t * dp, wide); }
                row::add(scaled_ + t * dp, -(momentum ? of_s(t, true) : of_m(t, true)), dk + t * dp, wide);
            }
        }
        da[len - 1] += last_b, deta[len - 1] += last_f;
    }
    // dq, dk through the pairs; dg_ becomes the gradient by G
    void pairs_back(extent_t len) {
        extent_t const end = row::padded(len);
        auto const through = [&](T* d, T const* products, T const* rows, T* later, bool strict, bool negative) {
            for (extent_t t = 0; t < len; ++t) {
                extent_t const kept = t + 1 - (strict ? 1 : 0);
                T const* const g = g_ + (strict ? t - 1 : t) * cp;
                for (extent_t j = 0; j < end; j += lanes) {
                    V const by = kept == 0 ? V(0) : inside(j, kept, V::load(d + t * cp + j)) * V(negative ? T(-1) : T(1));
                    (by * V::load(products + t * cp + j)).store(d + t * cp + j);
                    (kept == 0 ? V(0) : inside(j, kept, by * V::load(g + j))).store(weights_ + t * cp + j);
                }
            }
            product::run(len, wide, len, weights_, cp, 1, k, dp, later, dp, put::add, reach::lower);
            product::run(len, wide, len, weights_, 1, cp, rows, dp, dk, dp, put::add, reach::upper);
        };
        through(dg_, qk_, q, dq, false, false);
        if (frozen_) { return; }
        through(db_, kk_, k, dk, true, true);
        for (extent_t t = 0; t + 1 < len; ++t) {
            for (extent_t j = 0; j < end; j += lanes) { (V::load(dg_ + t * cp + j) + V::load(db_ + (t + 1) * cp + j)).store(dg_ + t * cp + j); }
        }
    }
    // The recurrences of G, n, B, f, c backwards.
    void scalars_back(extent_t len, T last_c) {
        if (reader_) {
            for (extent_t t = 0; t < len; ++t) {
                V sum(0);
                for (extent_t j = 0; j < row::padded(len); j += lanes) { sum = sum + inside(j, t + 1, t == len - 1 ? V::load(dg_ + t * cp + j) + V::load(gcarry_ + j) : V::load(dg_ + t * cp + j)); }
                dtheta[t] = total(sum), da[t] = T(0), deta[t] = T(0);
            }
            return;
        }
        T carry_b(0), carry_f(0), carry_c = last_c;
        for (extent_t t = len - 1; t >= 0; --t) {
            V sum_a(0), sum_e(0);
            for (extent_t j = 0; j < row::padded(len); j += lanes) {
                // inside: tokens that came before or are this one; the sums are of those before
                V const g = inside(j, t + 1, V::load(dg_ + t * cp + j) + V::load(gcarry_ + j)), n = inside(j, t + 1, V::load(ncarry_ + j) + g);
                if (t > 0) {
                    sum_a = sum_a + inside(j, t, g * V::load(g_ + (t - 1) * cp + j));
                    sum_e = sum_e + inside(j, t, n * V::load(n_ + (t - 1) * cp + j));
                }
                (g * V(a[t])).store(gcarry_ + j);
                n.store(weights_ + j);
                (n * V(eta[t])).store(ncarry_ + j);
            }
            dtheta[t] = 2 * weights_[t];
            T const b = da[t] + carry_b, f = deta[t] + carry_f, c = carry_c + f;
            T const old_b = t > 0 ? keep_[t - 1] : T(1), old_f = t > 0 ? moment_[t - 1] : T(0), old_c = t > 0 ? carry_[t - 1] : T(1);
            da[t] = total(sum_a) + b * old_b + f * old_f;
            deta[t] = total(sum_e) + c * old_c;
            carry_b = a[t] * b, carry_f = a[t] * f, carry_c = eta[t] * c;
        }
    }
    // X and Y of the chunk's start.
    void ends_back(extent_t len) {
        T const b = keep_[len - 1], f = moment_[len - 1], c = carry_[len - 1];
        for (extent_t i = 0; i < wide * vp; i += lanes) {
            V const end = V::load(x + i);
            fma(V(f), end, V(c) * V::load(y + i)).store(y + i);
            (V(b) * end).store(x + i);
        }
        auto const add = [&](T const* rows, T const* by, T* to, bool momentum, bool before, put mode) {
            scale_of(rows, len, [&](extent_t t) { return momentum ? of_s(t, before) : of_m(t, before); });
            product::run(d_, tall, len, scaled_, 1, dp, by, vp, to, vp, mode);
        };
        add(q, dout, x, false, false, put::add), add(q, dout, y, true, false, put::add);
        if (!given_) { add(k, h, x, false, true, put::subtract); }
        if (!frozen_) { add(k, h, y, true, true, put::subtract); }
    }
};

} // namespace heed
