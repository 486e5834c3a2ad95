// SPDX-License-Identifier: BSD-3-Clause
// Rows of normalised_residual (policy/update/memory_goal.hpp): what a memory learns from a token, its answer, and both backwards. Rows are whole registers, zeros behind the width.
//
//   h = (y - mean) r, r = (var + eps)^-1/2      g = w (w h + b - t), t = v - k      u = a (n g - c (sum g + h sum g h)), c = 1, a = -r / n; or c = r / n, a = -1
#pragma once

#include <heed/kernel/math.hpp>
#include <heed/kernel/row_ops.hpp>

namespace heed {

template <class T, class A>
struct residual_rows {
    using V = vec<T, A>;
    static constexpr int lanes = V::lanes;

    extent_t n;
    T eps;
    bool unbracketed;
    T const *w, *b; // weight, bias
    T *h, *g;       // scratch, a row each

    // u from y
    void learn(T const* y, T const* k, T const* v, T* u) const {
        sums const of = parts(y, k, v);
        pair const by = factors(of.r);
        each([&](extent_t e, V one) HEED_INLINE_LAMBDA { inside(e, V(by.a) * (V(T(n)) * one - V(by.c) * fma(V::load(h + e), V(of.product), V(of.g)))).store(u + e); });
    }
    // By u: dy is added to, dv and dk are; dw, db too.
    void learn_back(T const* y, T const* k, T const* v, T const* u, T const* du, T* dy, T* dk, T* dv, T* dw, T* db) const {
        sums const of = parts(y, k, v);
        pair const by = factors(of.r);
        V p_sum(0), p_h(0), by_a(0);
        each([&](extent_t e, V) HEED_INLINE_LAMBDA {
            V const p = V(by.a) * V::load(du + e);
            p_sum = p_sum + p, p_h = fma(p, V::load(h + e), p_h), by_a = fma(V::load(du + e), V::load(u + e), by_a);
        });
        T const s = total(p_sum), sh = total(p_h);
        T by_r = unbracketed ? -(s * of.g + sh * of.product) / T(n) : total(by_a) / of.r;
        V dot(0), mean(0);
        each([&](extent_t e, V one) HEED_INLINE_LAMBDA {
            V const x = V::load(h + e), weight = V::load(w + e), p = V(by.a) * V::load(du + e), t = V::load(v + e) - V::load(k + e);
            V const dg = V(T(n)) * p - V(by.c) * fma(x, V(sh), V(s)), dt = -(dg * weight);
            fma(dg, V(2) * weight * x + V::load(b + e) - t, V::load(dw + e)).store(dw + e);
            (V::load(db + e) - dt).store(db + e);
            (V::load(dv + e) + dt).store(dv + e);
            (V::load(dk + e) - dt).store(dk + e);
            V const dh = fma(dg * weight, weight, V(-by.c) * fma(p, V(of.product), one * V(sh)));
            dot = fma(dh, x, dot);
            dh.store(g + e);
        });
        by_r += total(dot) / of.r;
        normalise_back(of.r, by_r, dy);
    }
    // o = r + LN(r), in place
    void read(T* o) const {
        normalise(o);
        for (extent_t e = 0; e < n; e += lanes) { (V::load(o + e) + fma(V::load(w + e), V::load(h + e), V::load(b + e))).store(o + e); }
    }
    // d by the output becomes that by the answer y
    void read_back(T const* y, T* d, T* dw, T* db) const {
        T const r = normalise(y);
        V dot(0);
        for (extent_t e = 0; e < n; e += lanes) {
            V const x = V::load(h + e), of = V::load(d + e), dh = of * V::load(w + e);
            fma(of, x, V::load(dw + e)).store(dw + e);
            (V::load(db + e) + of).store(db + e);
            dot = fma(dh, x, dot);
            dh.store(g + e);
        }
        normalise_back(r, total(dot) / r, d);
    }

private:
    struct sums {
        T g, product, r;
    };
    struct pair {
        T a, c;
    };
    pair factors(T r) const { return unbracketed ? pair{T(-1), r / T(n)} : pair{-r / T(n), T(1)}; }
    HEED_INLINE V inside(extent_t e, V x) const {
        return e + lanes <= n ? x : select(mask_cast<V>(iota(e, std::type_identity<index_of<V>>{}) < index_of<V>(n)), x, V(0));
    }
    static T total(V x) {
        T part[lanes], sum(0);
        x.store(part);
        for (int l = 0; l < lanes; ++l) { sum += part[l]; }
        return sum;
    }
    // f(offset, g there)
    template <class F>
    HEED_INLINE void each(F const& f) const {
        for (extent_t e = 0; e < n; e += lanes) { f(e, V::load(g + e)); }
    }
    T normalise(T const* y) const {
        V sum(0), square(0);
        for (extent_t e = 0; e < n; e += lanes) { sum = sum + V::load(y + e); }
        V const mean(total(sum) / T(n));
        for (extent_t e = 0; e < n; e += lanes) {
            V const x = inside(e, V::load(y + e) - mean);
            square = fma(x, x, square);
            x.store(h + e);
        }
        T const r = T(1) / math::sqrt(total(square) / T(n) + eps);
        for (extent_t e = 0; e < n; e += lanes) { (V::load(h + e) * V(r)).store(h + e); }
        return r;
    }
    sums parts(T const* y, T const* k, T const* v) const {
        T const r = normalise(y);
        V sum(0), product(0);
        for (extent_t e = 0; e < n; e += lanes) {
            V const x = V::load(h + e), weight = V::load(w + e), of = weight * (fma(weight, x, V::load(b + e)) - (V::load(v + e) - V::load(k + e)));
            of.store(g + e);
            sum = sum + of, product = fma(of, x, product);
        }
        return {total(sum), total(product), r};
    }
    // g holds the gradient by h; dy += that by y
    void normalise_back(T r, T by_r, T* dy) const {
        V mean(0);
        V const square(-r * r * by_r / T(n)); // yc = h / r
        for (extent_t e = 0; e < n; e += lanes) {
            V const x = fma(V::load(h + e), square, V::load(g + e) * V(r));
            mean = mean + x;
            x.store(g + e);
        }
        V const by(total(mean) / T(n));
        for (extent_t e = 0; e < n; e += lanes) { (V::load(dy + e) + inside(e, V::load(g + e) - by)).store(dy + e); }
    }
};

} // namespace heed
