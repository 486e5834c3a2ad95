// SPDX-License-Identifier: BSD-3-Clause
// Gradients of every normalizer in double, against central differences of the oracle's own forward, through the door.
#include <support/catch.hpp>
#include <support/problem.hpp>

#include <heed/mechanism/off_by_one.hpp>
#include <heed/mechanism/proportional.hpp>
#include <heed/mechanism/rectified.hpp>
#include <heed/mechanism/sigmoid.hpp>
#include <heed/mechanism/sparse.hpp>

using namespace heed_test;

namespace {

struct gradient_problem : problem<double> {
    tensor<double> dout, dq, dk, dv, saved;
    gradient_problem(sizes s, int kept, random_source& random)
        : problem<double>(s, random), dout(s.out()), dq(s.q()), dk(s.k()), dv(s.v()), saved(heed::shape{s.batch, s.heads, s.queries, kept}) {
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
        if constexpr (heed::detail::kept_of<std::remove_cvref_t<decltype(m.normalizer)>>() > 0) {
            auto const state = heed::forward(m, q.in(), k.in(), v.in(), out.view(), heed::save{saved.view()});
            heed::backward(m, q.in(), k.in(), v.in(), out.in(), state, dout.in(), dq.view(), dk.view(), dv.view(), options...);
        } else {
            heed::forward(m, q.in(), k.in(), v.in(), out.view());
            heed::backward(m, q.in(), k.in(), v.in(), out.in(), heed::nothing_saved{}, dout.in(), dq.view(), dk.view(), dv.view(), options...);
        }
    }
};

// A few elements of x moved both ways.
template <class F>
void require_slopes(tensor<double>& x, tensor<double> const& dx, random_source& random, F const& loss) {
    heed::shape const s = x.shape();
    for (int n = 0; n < 12; ++n) {
        extent_t const b = random.integer(0, s.batch - 1), h = random.integer(0, s.head - 1), i = random.integer(0, s.seq - 1), d = random.integer(0, s.feature - 1);
        double const before = x(b, h, i, d), step = 1e-6;
        x(b, h, i, d) = before + step;
        double const up = loss();
        x(b, h, i, d) = before - step;
        double const down = loss();
        x(b, h, i, d) = before;
        double const slope = (up - down) / (2 * step);
        INFO("(" << b << ", " << h << ", " << i << ", " << d << ") got " << dx(b, h, i, d) << ", difference " << slope);
        REQUIRE(std::fabs(dx(b, h, i, d) - slope) <= 1e-6 * (1 + std::fabs(slope)));
    }
}

template <class M>
void try_gradient(char const* name, M const& m) {
    constexpr int kept = heed::detail::kept_of<std::remove_cvref_t<decltype(m.normalizer)>>();
    random_source random(981);
    for (sizes n : {sizes{2, 4, 2, 29, 35, 5, 6}, sizes{1, 1, 1, 40, 300, 8, 3}, sizes{1, 2, 1, 30, 20, 4, 4}}) {
        gradient_problem p(n, kept, random);
        INFO(name << " " << n);
        p.gradients(m);
        auto const loss = [&] { return p.loss(m); };
        require_slopes(p.q, p.dq, random, loss);
        require_slopes(p.k, p.dk, random, loss);
        require_slopes(p.v, p.dv, random, loss);
        if (n.queries > n.keys) { // the first rows see nothing
            for (extent_t d = 0; d < n.width; ++d) { CHECK(p.dq(0, 0, 0, d) == 0); }
        }
    }
}

auto const causal = heed::causal_bottom_right{};
auto const score = heed::dot{} | heed::inv_sqrt_width{};

} // namespace

TEST_CASE("normalizers: gradients of independent weights", "[gradient]") {
    HEED_SEEDED;
    try_gradient("sigmoid", heed::sigmoid_attention(causal));
    try_gradient("squared relu", heed::squared_relu_attention(causal));
    try_gradient("softplus by sum", heed::proportional_attention(heed::softplus_weight{}, causal));
    try_gradient("elu by sum", heed::proportional_attention(heed::elu_weight{}, causal));
    try_gradient("sigmoid by sum", heed::proportional_attention(heed::sigmoid_weight{}, causal));
    try_gradient("quadratic by sum", heed::proportional_attention(heed::quadratic_weight{}, causal));
}
TEST_CASE("normalizers: gradients of counted and signed weights", "[gradient]") {
    HEED_SEEDED;
    try_gradient("exponential by count", heed::attention{score, causal, heed::pointwise<heed::exponential_weight<float>, heed::by_visible>{{5.0f}, {}}});
    try_gradient("signed by sum", heed::attention{heed::dot{} | heed::scale{0.001} | heed::offset{1.0}, causal, heed::pointwise<heed::linear_weight, heed::by_sum<float>>{}});
    try_gradient("off by one", heed::off_by_one_attention(causal));
}
TEST_CASE("normalizers: gradients through thresholds", "[gradient]") {
    HEED_SEEDED;
    try_gradient("sparsemax", heed::sparsemax_attention(causal));
    try_gradient("entmax", heed::entmax15_attention(causal));
    try_gradient("top k", heed::top_k_attention(6, causal));
}
TEST_CASE("normalizers: gradients of key weights and of an offset", "[gradient]") {
    HEED_SEEDED;
    random_source random(982);
    for (sizes n : {sizes{2, 4, 2, 29, 35, 5, 6}, sizes{1, 2, 2, 9, 300, 4, 3}}) {
        for (bool shared : {false, true}) {
            gradient_problem p(n, 1, random);
            heed::shape const s{shared ? 1 : n.batch, shared ? 1 : n.kv_heads, n.keys, 1};
            tensor<double> w(s), dw(s);
            w.each([&](double& x) { x = std::exp(random.normal()); });
            auto const m = heed::attention{score | heed::weighted_keys{w.in()}, causal};
            p.gradients(m, heed::weighted_keys_gradient{dw.view()});
            require_slopes(w, dw, random, [&] { return p.loss(m); });
            w(0, 0, 3, 0) = 0;
            p.gradients(m, heed::weighted_keys_gradient{dw.view()});
            CHECK(dw(0, 0, 3, 0) == 0);
        }
        gradient_problem p(n, 0, random);
        double b = -1.25, up = 0, down = 0;
        tensor<double> db(heed::shape{1, 1, 1, 1});
        auto const mechanism = [&](double c) { return heed::attention{score | heed::offset{c}, causal, heed::sigmoid{}}; };
        p.gradients(mechanism(b), heed::offset_gradient{db.view()});
        up = p.loss(mechanism(b + 1e-6)), down = p.loss(mechanism(b - 1e-6));
        CHECK(std::fabs(db(0, 0, 0, 0) - (up - down) / 2e-6) < 1e-6 * (1 + std::fabs(db(0, 0, 0, 0))));
    }
}
