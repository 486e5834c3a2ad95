// SPDX-License-Identifier: BSD-3-Clause
// Gradients of softmax over scores that are no dot products: against central differences, float against double, masks and what is not finite.
#include "try_gradients.hpp"

#include <support/team.hpp>

using namespace heed_test;

TEST_CASE("contractions: gradients of softmax over distances and ranges against central differences", "[gradient]") {
    HEED_SEEDED;
    try_gradients(heed::attention{heed::squared_distance{} | heed::scale{-0.5}, heed::causal_bottom_right{}, heed::softmax{}});
    try_gradients(heed::attention{heed::l1_distance{} | heed::scale{-0.5}, heed::full{}, heed::softmax{}}, 1e-7);
    try_gradients(heed::attention{heed::hilbert{}, heed::window(50, 2), heed::softmax{}}, 1e-7);
}

namespace {

// Additive attention: gradients of the weights of its features as well; threads change no bit.
template <class F>
void try_additive(F f, std::uint64_t stream) {
    random_source random(stream);
    for (sizes n : {sizes{2, 4, 2, 29, 35, 5, 6}, sizes{1, 2, 1, 60, 700, 9, 3}}) {
        bool const per_head = n.batch == 2;
        tensor<double> w({1, per_head ? n.heads : 1, 1, n.width}), dw(w.shape()), other(w.shape());
        w.normal(random);
        heed::attention const m{heed::additive{f, w.in()}, heed::causal_bottom_right{}, heed::softmax{}};
        gradients_of p(n, 1, random);
        p.run(m, heed::feature_weights_gradient{dw.view()});
        auto const loss = [&] { return p.loss(m); };
        INFO(n);
        require_slopes(w, dw, random, 1e-6, loss);
        require_slopes(p.q, p.dq, random, 1e-6, loss);
        require_slopes(p.k, p.dk, random, 1e-6, loss);
        tensor<double> dk(n.k());
        dk.copy(p.dk.in());
        thread_team const threads{3};
        p.run(m, heed::feature_weights_gradient{other.view()}, heed::cpu{threads});
        CHECK(same_bits(dw, other));
        CHECK(same_bits(dk, p.dk));
        p.run(m); // not wanted: the rest is the same
        CHECK(same_bits(dk, p.dk));
    }
}

} // namespace

TEST_CASE("contractions: gradients of additive attention and of its weights", "[gradient]") {
    HEED_SEEDED;
    try_additive(heed::tanh_activation{}, 45);
}

TEST_CASE("contractions: gradients in float are those in double", "[gradient]") {
    HEED_SEEDED;
    random_source random(46);
    auto const with = [](auto factor) { return heed::attention{heed::squared_distance{} | heed::scale{factor}, heed::causal_bottom_right{}, heed::softmax{}}; };
    auto const m = with(-0.25f);
    for (int round = 0; round < 12; ++round) {
        sizes const n{1, 2, 1, random.integer(1, 70), random.integer(70, 200), random.integer(0, 40), random.integer(1, 9)};
        gradients_of exact(n, 1, random);
        exact.run(with(-0.25));
        problem<float> p(n, random);
        tensor<float> dout(n.out()), dq(n.q()), dk(n.k()), dv(n.v());
        auto const rounded = [](tensor<float>& to, tensor<double>& from) { to.each_at([&](float& x, extent_t b, extent_t h, extent_t i, extent_t c) { x = static_cast<float>(from(b, h, i, c)); }); };
        rounded(p.q, exact.q), rounded(p.k, exact.k), rounded(p.v, exact.v), rounded(dout, exact.dout);
        p.run(m);
        heed::backward(m, p.q.in(), p.k.in(), p.v.in(), p.out.in(), heed::save{p.lse.view()}, dout.in(), dq.view(), dk.view(), dv.view());
        auto const near = [](tensor<float> const& got, tensor<double>& want) {
            want.each_at([&](double& x, extent_t b, extent_t h, extent_t i, extent_t c) { REQUIRE(std::fabs(static_cast<double>(got(b, h, i, c)) - x) <= 3e-4 * (1 + std::fabs(x))); });
        };
        INFO(n);
        near(dq, exact.dq), near(dk, exact.dk), near(dv, exact.dv);
        REQUIRE((dq.intact() && dk.intact() && dv.intact()));
    }
}

TEST_CASE("contractions: what is not finite and masked sends nothing back", "[contract]") {
    HEED_SEEDED;
    random_source random(47);
    double const nan = std::numeric_limits<double>::quiet_NaN();
    auto const try_masked = [&](auto const& m) {
        sizes const n{1, 1, 1, 40, 60, 7, 5};
        gradients_of p(n, 1, random), other(n, 1, random);
        other.q.copy(p.q.in()), other.k.copy(p.k.in()), other.v.copy(p.v.in()), other.dout.copy(p.dout.in());
        p.run(m);
        other.q(0, 0, 39, 1) = nan, other.v(0, 0, 59, 2) = nan; // the last query and the last key, which it alone sees
        other.run(m);
        for (extent_t i = 0; i < 39; ++i) {
            for (extent_t c = 0; c < n.width; ++c) { REQUIRE(std::fabs(other.dq(0, 0, i, c) - p.dq(0, 0, i, c)) <= 1e-13); }
        }
        for (extent_t c = 0; c < n.width; ++c) { REQUIRE(std::isnan(other.dk(0, 0, 3, c))); } // seen by the last query
    };
    try_masked(heed::attention{heed::squared_distance{} | heed::scale{-0.5}, heed::causal_bottom_right{}, heed::softmax{}});
}
