// SPDX-License-Identifier: BSD-3-Clause
// One call: q, k, v, room for the results, its run through a door and its comparison with the oracle.
#pragma once

#include <oracle/softmax.hpp>
#include <support/tensor.hpp>
#include <support/tolerance.hpp>

#include <heed/heed.hpp>

#include <ostream>

namespace heed_test {

struct sizes {
    extent_t batch = 1, heads = 1, kv_heads = 1, queries = 1, keys = 1, width = 1, value_width = 1;

    heed::shape q() const { return {batch, heads, queries, width}; }
    heed::shape k() const { return {batch, kv_heads, keys, width}; }
    heed::shape v() const { return {batch, kv_heads, keys, value_width}; }
    heed::shape out() const { return {batch, heads, queries, value_width}; }
    heed::shape lse() const { return {batch, heads, queries, 1}; }
    heed::shape pairs() const { return {batch, heads, queries, keys}; }

    friend std::ostream& operator<<(std::ostream& s, sizes const& n) {
        return s << "B=" << n.batch << " H=" << n.heads << " Hkv=" << n.kv_heads << " N=" << n.queries << " M=" << n.keys << " d=" << n.width
                 << " dv=" << n.value_width;
    }
};

template <class T>
struct problem {
    sizes n;
    tensor<T> q, k, v, out, lse;

    problem(sizes s, random_source& random, place where = place::margin)
        : n(s), q(s.q(), where), k(s.k(), where), v(s.v(), where), out(s.out(), where), lse(s.lse(), where) {
        q.normal(random);
        k.normal(random);
        v.normal(random);
    }
    template <class M, class... Options>
    void run(M const& m, Options const&... options) {
        heed::forward(m, q.in(), k.in(), v.in(), out.view(), heed::save{lse.view()}, options...);
    }
    oracle::softmax_case exact(double scale) const {
        oracle::softmax_case c;
        c.q = oracle::read(q.in());
        c.k = oracle::read(k.in());
        c.v = oracle::read(v.in());
        c.scale = scale;
        return c;
    }
    oracle::softmax_case exact() const { return exact(n.width > 0 ? 1 / std::sqrt(static_cast<double>(n.width)) : 1); }

    verdict against(oracle::softmax_case const& c, error_bound bound = {}) const {
        bound.width = static_cast<double>(n.width);
        return compare<T>(out.in(), lse.in(), oracle::softmax(c), bound);
    }
    // Nothing but the elements of out and lse was written.
    bool intact() const { return q.intact() && k.intact() && v.intact() && out.intact() && lse.intact(); }
};

// The same inputs in memory of their own.
template <class T>
problem<T> copied(problem<T> const& p) {
    random_source none;
    problem<T> c(p.n, none);
    c.q.copy(p.q.in());
    c.k.copy(p.k.in());
    c.v.copy(p.v.in());
    return c;
}

// The bound of a mechanism on the CPU: its tile of keys comes from its plan.
template <class T, class M>
error_bound bound_of(M const&) {
    error_bound c;
    c.keys_per_tile = static_cast<double>(heed::forward_plan<M, T, heed::cpu<>>::tile_keys());
    return c;
}

// Runs, compares, and looks at the margins. The verdict's text is empty when all is well.
template <class T, class M>
verdict run_and_compare(problem<T>& p, M const& m, oracle::softmax_case const& c) {
    p.run(m);
    verdict v = p.against(c, bound_of<T>(m));
    if (v.good() && !p.intact()) { v.text = "memory around the tensors was written"; }
    return v;
}

} // namespace heed_test
