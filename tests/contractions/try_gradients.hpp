// SPDX-License-Identifier: BSD-3-Clause
// Gradients of q, k and v in double against central differences, through the door. Random inputs are away from ties.
#pragma once

#include <support/catch.hpp>
#include <support/problem.hpp>

#include <heed/policy/normalize/tropical.hpp>
#include <heed/policy/score/contractions.hpp>

namespace heed_test {

struct gradients_of : problem<double> {
    tensor<double> dout, dq, dk, dv, saved;
    gradients_of(sizes s, int kept, random_source& random) : problem<double>(s, random), dout(s.out()), dq(s.q()), dk(s.k()), dv(s.v()), saved(heed::shape{s.batch, s.heads, s.queries, kept}) {
        dout.normal(random);
    }
    template <class M>
    double loss(M const& m) {
        heed::forward(m, q.in(), k.in(), v.in(), out.view());
        double sum = 0;
        dout.each_at([&](double& x, extent_t b, extent_t h, extent_t i, extent_t e) { sum += std::isinf(out(b, h, i, e)) ? 0 : x * out(b, h, i, e); }); // empty rows
        return sum;
    }
    template <class M, class... Options>
    void run(M const& m, Options const&... options) {
        if constexpr (heed::detail::kept_of<std::remove_cvref_t<decltype(m.normalizer)>>() > 0) {
            auto const state = heed::forward(m, q.in(), k.in(), v.in(), out.view(), heed::save{saved.view()});
            heed::backward(m, q.in(), k.in(), v.in(), out.in(), state, dout.in(), dq.view(), dk.view(), dv.view(), options...);
        } else {
            heed::forward(m, q.in(), k.in(), v.in(), out.view());
            heed::backward(m, q.in(), k.in(), v.in(), out.in(), heed::nothing_saved{}, dout.in(), dq.view(), dk.view(), dv.view(), options...);
        }
    }
};

template <class F>
void require_slopes(tensor<double>& x, tensor<double> const& dx, random_source& random, double step, F const& loss) {
    heed::shape const s = x.shape();
    for (int n = 0; n < 12; ++n) {
        extent_t const b = random.integer(0, s.batch - 1), h = random.integer(0, s.head - 1), i = random.integer(0, s.seq - 1), d = random.integer(0, s.feature - 1);
        double const before = x(b, h, i, d);
        x(b, h, i, d) = before + step;
        double const up = loss();
        x(b, h, i, d) = before - step;
        double const down = loss();
        x(b, h, i, d) = before;
        double const slope = (up - down) / (2 * step);
        INFO("(" << b << ", " << h << ", " << i << ", " << d << ") got " << dx(b, h, i, d) << ", difference " << slope);
        REQUIRE(std::fabs(dx(b, h, i, d) - slope) <= 2e-6 * (1 + std::fabs(slope)));
    }
}

// options(sizes) may return further options of backward
template <class M>
void try_gradients(M const& m, double step = 1e-6) {
    constexpr int kept = heed::detail::kept_of<std::remove_cvref_t<decltype(m.normalizer)>>();
    random_source random(41);
    for (sizes n : {sizes{2, 4, 2, 29, 35, 5, 6}, sizes{1, 1, 1, 40, 300, 9, 3}, sizes{1, 2, 1, 30, 20, 4, 4}}) {
        gradients_of p(n, kept, random);
        INFO(n);
        p.run(m);
        auto const loss = [&] { return p.loss(m); };
        require_slopes(p.q, p.dq, random, step, loss);
        require_slopes(p.k, p.dk, random, step, loss);
        require_slopes(p.v, p.dv, random, step, loss);
        REQUIRE((p.dq.intact() && p.dk.intact() && p.dv.intact()));
    }
}

} // namespace heed_test
