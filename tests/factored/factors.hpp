// SPDX-License-Identifier: BSD-3-Clause
// Factors of an operand in memory with gaps, and what they stand for, in double from the equation.
#pragma once

#include <oracle/softmax_gradient.hpp>
#include <support/catch.hpp>
#include <support/problem.hpp>
#include <support/team.hpp>

#include <heed/front/factored_backward.hpp>

namespace heed_test {

struct factor_sizes {
    extent_t batch = 1, heads = 1, rows = 1, rank = 1, width = 1;
    bool constant_a = false, constant_b = false; // one for all positions and sequences
};

// How the rows of one operand are made. Strides: position major with gaps, as linear layers write them, or features far apart.
template <class T>
struct factors {
    factor_sizes n;
    tensor<T> a, b, da, db;

    static heed::strides laid(heed::shape s, bool far) {
        extent_t const row = s.feature + 3;
        if (far) { return {s.head * s.seq * s.feature, s.feature * s.seq, 1, s.seq}; }
        return {s.seq * s.head * row, row, s.head * row, 1};
    }
    heed::shape shape_a() const { return {n.constant_a ? 1 : n.batch, n.heads, n.constant_a ? 1 : n.rows, n.rank}; }
    heed::shape shape_b() const { return {n.constant_b ? 1 : n.batch, n.rank, n.constant_b ? 1 : n.rows, n.width}; }
    factors(factor_sizes s, random_source& random, bool far = false)
        : n(s), a(shape_a(), laid(shape_a(), far)), b(shape_b(), laid(shape_b(), far)), da(shape_a(), laid(shape_a(), far)), db(shape_b(), laid(shape_b(), far)) {
        a.normal(random);
        b.normal(random, std::sqrt(static_cast<double>(s.rank))); // so that rows are of size 1
    }
    heed::factored<T> operand() const { return {a.in(), b.in()}; }
    heed::factored_gradient<T> gradient() { return {da.view(), db.view()}; }
    double weight() const { return 1.0 / static_cast<double>(n.rank); }

    oracle::array rows() const {
        oracle::array const x = oracle::read(a.in()), y = oracle::read(b.in());
        oracle::array r({n.batch, n.heads, n.rows, n.width});
        each(r.s, [&](extent_t i, extent_t h, extent_t m, extent_t e, extent_t k) { r(i, h, m, e) += weight() * spread(x, i, h, m, k) * spread(y, i, k, m, e); });
        return r;
    }
    // What gradients of the rows send to the factors, with the sums of magnitudes.
    struct sent {
        oracle::array da, db, da_size, db_size;
    };
    sent pulled(oracle::array const& dx, oracle::array const& size) const {
        oracle::array const x = oracle::read(a.in()), y = oracle::read(b.in());
        sent s{oracle::array(x.s), oracle::array(y.s), oracle::array(x.s), oracle::array(y.s)};
        each(dx.s, [&](extent_t i, extent_t h, extent_t m, extent_t e, extent_t k) {
            double const by = weight(), xv = spread(x, i, h, m, k), yv = spread(y, i, k, m, e);
            at(s.da, i, h, m, k) += by * yv * dx(i, h, m, e), at(s.da_size, i, h, m, k) += by * std::fabs(yv) * size(i, h, m, e);
            at(s.db, i, k, m, e) += by * xv * dx(i, h, m, e), at(s.db_size, i, k, m, e) += by * std::fabs(xv) * size(i, h, m, e);
        });
        return s;
    }
    bool intact() const { return a.intact() && b.intact() && da.intact() && db.intact(); }

private:
    static double& at(oracle::array& x, extent_t i, extent_t h, extent_t m, extent_t e) { return x(x.s.batch == 1 ? 0 : i, h, x.s.seq == 1 ? 0 : m, e); }
    static double spread(oracle::array const& x, extent_t i, extent_t h, extent_t m, extent_t e) { return x(x.s.batch == 1 ? 0 : i, h, x.s.seq == 1 ? 0 : m, e); }
    template <class F>
    void each(heed::shape s, F const& f) const {
        for (extent_t i = 0; i < s.batch; ++i)
            for (extent_t h = 0; h < s.head; ++h)
                for (extent_t m = 0; m < s.seq; ++m)
                    for (extent_t k = 0; k < n.rank; ++k)
                        for (extent_t e = 0; e < s.feature; ++e) { f(i, h, m, e, k); }
    }
};

// One call on factors.
struct call_sizes {
    extent_t batch = 1, heads = 1, kv_heads = 1, queries = 1, keys = 1, width = 1, value_width = 1, rank_q = 1, rank_k = 1, rank_v = 1;
    bool constant_a = false, constant_b = false;
    friend std::ostream& operator<<(std::ostream& s, call_sizes const& n) {
        return s << "B=" << n.batch << " H=" << n.heads << " Hkv=" << n.kv_heads << " N=" << n.queries << " M=" << n.keys << " d=" << n.width << " dv=" << n.value_width << " ranks " << n.rank_q << ' '
                 << n.rank_k << ' ' << n.rank_v << (n.constant_a ? ", constant A" : "") << (n.constant_b ? ", constant B" : "");
    }
};

template <class T>
struct factored_call {
    call_sizes n;
    factors<T> q, k, v;
    tensor<T> out, lse, dout, dlse;

    factored_call(call_sizes s, random_source& random, bool far = false)
        : n(s), q({s.batch, s.heads, s.queries, s.rank_q, s.width}, random, far), k({s.batch, s.kv_heads, s.keys, s.rank_k, s.width, s.constant_a, s.constant_b}, random, far),
          v({s.batch, s.kv_heads, s.keys, s.rank_v, s.value_width, s.constant_a, s.constant_b}, random, far), out(heed::shape{s.batch, s.heads, s.queries, s.value_width}),
          lse(heed::shape{s.batch, s.heads, s.queries, 1}), dout(out.shape()), dlse(lse.shape()) {
        dout.normal(random);
        dlse.normal(random);
    }
    template <class M, class... Options>
    void run(M const& m, Options const&... options) {
        heed::forward(m, q.operand(), k.operand(), v.operand(), out.view(), heed::save{lse.view()}, options...);
    }
    template <class M, class... Options>
    void back(M const& m, Options const&... options) {
        run(m, options...);
        heed::backward(m, q.operand(), k.operand(), v.operand(), out.in(), heed::save{lse.view()}, dout.in(), q.gradient(), k.gradient(), v.gradient(), heed::saved_gradient{dlse.in()}, options...);
    }
    oracle::softmax_case exact(bool causal) const {
        oracle::softmax_case c;
        c.q = q.rows();
        c.k = k.rows();
        c.v = v.rows();
        c.scale = 1 / std::sqrt(static_cast<double>(n.width));
        if (causal) { c.keep = oracle::causal_bottom_right({n.batch, n.heads, n.queries, n.keys}); }
        return c;
    }
    bool intact() const { return q.intact() && k.intact() && v.intact() && out.intact() && lse.intact(); }
};

} // namespace heed_test
