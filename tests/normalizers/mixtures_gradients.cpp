// SPDX-License-Identifier: BSD-3-Clause
// Gradients of mixtures in double, against central differences: inputs, coefficients, second queries and keys.
#include <support/catch.hpp>
#include <support/problem.hpp>
#include <support/team.hpp>

#include <heed/mechanism/differential.hpp>
#include <heed/mechanism/gated.hpp>
#include <heed/mechanism/proportional.hpp>
#include <heed/mechanism/shaped.hpp>
#include <heed/mechanism/sigmoid.hpp>

using namespace heed_test;

namespace {

using numbers = tensor<double>;
numbers like(heed::shape s) { return numbers(s); }
numbers normal(heed::shape s, random_source& random) {
    numbers t(s);
    t.normal(random);
    return t;
}

struct call : problem<double> {
    numbers dout, dq, dk, dv, first, second, lse_first, lse_second;
    call(sizes s, random_source& random)
        : problem<double>(s, random), dout(s.out()), dq(s.q()), dk(s.k()), dv(s.v()), first(s.out()), second(s.out()), lse_first(s.lse()), lse_second(s.lse()) {
        dout.normal(random);
    }
    template <class M>
    double loss(M const& m) {
        heed::forward(m, q.in(), k.in(), v.in(), out.view());
        double sum = 0;
        dout.each_at([&](double& x, extent_t b, extent_t h, extent_t i, extent_t e) { sum += x * out(b, h, i, e); });
        return sum;
    }
    template <class M, class... Options>
    void gradients(M const& m, Options const&... options) {
        auto const state = [&] {
            if constexpr (heed::detail::attentions_of<M> == 1) {
                return heed::forward(m, q.in(), k.in(), v.in(), out.view(), heed::save_terms(heed::saved_term{first.view(), lse_first.view()}));
            } else {
                return heed::forward(m, q.in(), k.in(), v.in(), out.view(),
                                     heed::save_terms(heed::saved_term{first.view(), lse_first.view()}, heed::saved_term{second.view(), lse_second.view()}));
            }
        }();
        heed::backward(m, q.in(), k.in(), v.in(), out.in(), state, dout.in(), dq.view(), dk.view(), dv.view(), options...);
    }
};
template <class M>
void require_slopes(call& c, M const& m, numbers& x, numbers const& dx, random_source& random, char const* name) {
    heed::shape const s = x.shape();
    for (int n = 0; n < 10; ++n) {
        extent_t const b = random.integer(0, s.batch - 1), h = random.integer(0, s.head - 1), i = random.integer(0, s.seq - 1), d = random.integer(0, s.feature - 1);
        double const before = x(b, h, i, d), step = 1e-6;
        x(b, h, i, d) = before + step;
        double const up = c.loss(m);
        x(b, h, i, d) = before - step;
        double const down = c.loss(m), slope = (up - down) / (2 * step);
        x(b, h, i, d) = before;
        INFO(name << "(" << b << ", " << h << ", " << i << ", " << d << ") got " << dx(b, h, i, d) << ", difference " << slope);
        REQUIRE(std::fabs(dx(b, h, i, d) - slope) <= 1e-6 * (1 + std::fabs(slope)));
    }
}
template <class M>
void require_inputs(call& c, M const& m, random_source& random) {
    require_slopes(c, m, c.q, c.dq, random, "dq");
    require_slopes(c, m, c.k, c.dk, random, "dk");
    require_slopes(c, m, c.v, c.dv, random, "dv");
}

std::vector<sizes> const shapes{{2, 4, 2, 29, 35, 5, 6}, {1, 2, 1, 40, 25, 4, 9}, {1, 3, 3, 31, 150, 3, 4}};

} // namespace

TEST_CASE("mixtures: gradients of gates", "[gradient]") {
    HEED_SEEDED;
    random_source random(1001);
    for (sizes const& n : shapes) {
        for (bool per_row : {false, true}) {
            INFO(n << (per_row ? " one per row" : ""));
            call c(n, random);
            heed::shape s = n.out();
            s.feature = per_row ? 1 : s.feature;
            numbers gate = normal(s, random), dgate = like(s);
            auto const m = heed::gated_attention(gate.in(), heed::causal_bottom_right{});
            c.gradients(m, heed::gate_gradient{dgate.view()});
            require_inputs(c, m, random);
            require_slopes(c, m, gate, dgate, random, "dgate");
        }
    }
}
TEST_CASE("mixtures: gradients of shaped attention", "[gradient]") {
    HEED_SEEDED;
    random_source random(1002);
    auto const check = [&](sizes const& n, auto const& pattern) {
        INFO(n);
        call c(n, random);
        heed::shape const s{1, n.heads, 1, 1};
        numbers alpha = normal(s, random), beta = normal(s, random), gamma = normal({1, 1, 1, 1}, random), da = like(s), db = like(s), dc = like({1, 1, 1, 1});
        auto const m = heed::shaped_attention(alpha.in(), beta.in(), gamma.in(), pattern);
        c.gradients(m, heed::head_factor_gradient{da.view()}, heed::head_factor_gradient{db.view()}, heed::head_factor_gradient{dc.view()});
        require_inputs(c, m, random);
        require_slopes(c, m, alpha, da, random, "dalpha");
        require_slopes(c, m, beta, db, random, "dbeta");
        require_slopes(c, m, gamma, dc, random, "dgamma");
    };
    for (sizes const& n : shapes) {
        check(n, heed::window(1000, 0));
        check(n, heed::window(7, 3));
    }
}
TEST_CASE("mixtures: gradients of differential attention, on any executor", "[gradient]") {
    HEED_SEEDED;
    random_source random(1003);
    for (sizes const& n : shapes) {
        INFO(n);
        call c(n, random);
        numbers q = normal(n.q(), random), k = normal(n.k(), random), lambda = normal({1, n.heads, 1, 1}, random), dq = like(n.q()), dk = like(n.k()), dlambda = like({1, n.heads, 1, 1});
        auto const m = heed::differential_attention(lambda.in(), q.in(), k.in(), heed::causal_bottom_right{});
        c.gradients(m, heed::head_factor_gradient{dlambda.view()}, heed::also_gradient{dq.view(), dk.view()});
        require_inputs(c, m, random);
        require_slopes(c, m, q, dq, random, "second dq");
        require_slopes(c, m, k, dk, random, "second dk");
        require_slopes(c, m, lambda, dlambda, random, "dlambda");
        call other(n, random);
        other.q.copy(c.q.in()), other.k.copy(c.k.in()), other.v.copy(c.v.in()), other.dout.copy(c.dout.in());
        other.gradients(m, heed::cpu{thread_team{3}});
        CHECK(same_bits<double>(other.dq.in(), c.dq.in()));
        CHECK(same_bits<double>(other.dk.in(), c.dk.in()));
        CHECK(same_bits<double>(other.dv.in(), c.dv.in()));
    }
}
TEST_CASE("mixtures: two attentions of the same queries and keys", "[gradient]") {
    HEED_SEEDED;
    random_source random(1004);
    sizes const n = shapes[0];
    call c(n, random);
    numbers a = normal({1, n.heads, 1, 1}, random), b = normal(n.out(), random), da = like({1, n.heads, 1, 1}), db = like(n.out());
    auto const m = weigh(heed::head_factor{a.in()}, heed::softmax_attention()) + weigh(heed::sigmoid_gate{b.in()}, heed::proportional_attention(heed::softplus_weight{}, heed::causal_bottom_right{}));
    c.gradients(m, heed::gate_gradient{db.view()}, heed::head_factor_gradient{da.view()});
    require_inputs(c, m, random);
    require_slopes(c, m, a, da, random, "da");
    require_slopes(c, m, b, db, random, "db");
}
