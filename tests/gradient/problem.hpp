// SPDX-License-Identifier: BSD-3-Clause
// One backward call: forward, gradients through the door, comparison with the oracle's.
//
//   |gradient - exact| <= eps (c0 + c1 max|score|) (sum of magnitudes), calibrated once on AVX2; the constants may only shrink
#pragma once

#include <oracle/softmax_gradient.hpp>
#include <support/catch.hpp>
#include <support/problem.hpp>

namespace heed_test {

template <class T>
struct gradient_problem : problem<T> {
    tensor<T> dout, dlse, dq, dk, dv;

    gradient_problem(sizes s, random_source& random, place where = place::margin)
        : problem<T>(s, random, where), dout(s.out(), where), dlse(s.lse(), where), dq(s.q(), where), dk(s.k(), where), dv(s.v(), where) {
        dout.normal(random);
        dlse.normal(random);
    }
    // Forward and backward; gradients of the log-sum-exp take part.
    template <class M, class... Options>
    void back(M const& m, Options const&... options) {
        this->run(m);
        heed::backward(m, this->q.in(), this->k.in(), this->v.in(), this->out.in(), heed::save{this->lse.view()}, dout.in(), dq.view(), dk.view(), dv.view(), heed::saved_gradient{dlse.in()},
                       options...);
    }
    bool intact() const { return problem<T>::intact() && dout.intact() && dlse.intact() && dq.intact() && dk.intact() && dv.intact(); }
};

struct gradient_bound {
    double c0 = 16, c1 = 4;
};

template <class T>
void look_at(verdict& found, char const* name, heed::tensor_view<T const> got, oracle::array const& exact, oracle::array const& magnitude, double units) {
    for (extent_t b = 0; b < got.extent(0); ++b)
        for (extent_t h = 0; h < got.extent(1); ++h)
            for (extent_t n = 0; n < got.extent(2); ++n)
                for (extent_t d = 0; d < got.extent(3); ++d) {
                    found.look(name, b, h, n, d, static_cast<double>(got(b, h, n, d)), exact(b, h, n, d), eps<T> * units * magnitude(b, h, n, d));
                }
}

inline double units_of(oracle::softmax_case const& c, gradient_bound bound = {}) {
    double most = 0;
    for (double const s : oracle::softmax(c).largest.x) { most = std::fmax(most, s); }
    return bound.c0 + bound.c1 * most;
}

template <class T>
verdict against(gradient_problem<T> const& p, oracle::softmax_case const& c, oracle::softmax_gradient const& exact) {
    verdict found;
    double const units = units_of(c);
    look_at(found, "dq", p.dq.in(), exact.dq, exact.dq_magnitude, units);
    look_at(found, "dk", p.dk.in(), exact.dk, exact.dk_magnitude, units);
    look_at(found, "dv", p.dv.in(), exact.dv, exact.dv_magnitude, units);
    if (found.good() && !p.intact()) { found.text = "memory around the tensors was written"; }
    return found;
}
template <class T>
verdict against(gradient_problem<T> const& p, oracle::softmax_case const& c) {
    return against(p, c, oracle::gradient(c, oracle::read(p.dout.in()), oracle::read(p.dlse.in())));
}

inline sizes random_sizes(random_source& random) {
    sizes n;
    n.queries = random.integer(0, 120);
    n.keys = random.integer(0, 700);
    n.width = random.integer(0, 70);
    n.value_width = random.integer(0, 70);
    n.kv_heads = random.integer(1, 2);
    n.heads = n.kv_heads * random.integer(1, 3);
    n.batch = random.integer(1, 2);
    return n;
}

} // namespace heed_test
