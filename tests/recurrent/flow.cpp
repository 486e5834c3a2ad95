// SPDX-License-Identifier: BSD-3-Clause
// Flow attention: its equations written out over all pairs, laws, gradients.
#include "differences.hpp"

#include <heed/front/flow.hpp>

using namespace heed_test;

namespace {

double const eps = 1e-6;
double sigmoid(double x) { return 1 / (1 + std::exp(-x)); }

struct flows {
    tensor<double> q, k, v, out, dout, dq, dk, dv;
    flows(extent_t n, extent_t m, extent_t d, extent_t width, random_source& random)
        : q({2, 2, n, d}), k({2, 2, m, d}, padded(heed::shape{2, 2, m, d}, 3)), v({2, 2, m, width}), out({2, 2, n, width}), dout(out.shape()), dq(q.shape()), dk(k.shape()), dv(v.shape()) {
        q.normal(random), k.normal(random), v.normal(random), dout.normal(random);
        q.each([](double& x) { x *= 1.5; });
    }
    template <class P>
    void run(P order, int threads = 1) {
        heed::forward(heed::flow_attention(order), q.in(), k.in(), v.in(), out.view(), heed::cpu{thread_team{threads}});
    }
    template <class P>
    void run_back(P order, int threads = 1) {
        run(order, threads);
        heed::backward(heed::flow_attention(order), q.in(), k.in(), v.in(), out.in(), heed::nothing_saved{}, dout.in(), dq.view(), dk.view(), dv.view(), heed::cpu{thread_team{threads}});
    }
    // From the equations, every sum over its tokens anew: sums of rows i with end(i) as the first that is left out.
    oracle::array exact(bool causal, double& loss) const {
        extent_t const N = q.shape().seq, M = k.shape().seq, d = q.shape().feature;
        oracle::array o(out.shape());
        loss = 0;
        for (extent_t b = 0; b < 2; ++b)
            for (extent_t h = 0; h < 2; ++h) {
                auto const f = [&](tensor<double> const& x, extent_t n, extent_t c) { return sigmoid(x(b, h, n, c)); };
                auto const flow = [&](tensor<double> const& x, extent_t n, tensor<double> const& y, extent_t end, auto const& by) { // (f(x) + e).(sum of by f(y) + e)
                    double sum = 0;
                    for (extent_t c = 0; c < d; ++c) {
                        double s = eps;
                        for (extent_t j = 0; j < end; ++j) { s += by(j) * f(y, j, c); }
                        sum += (f(x, n, c) + eps) * s;
                    }
                    return sum;
                };
                auto const size = [](extent_t n) { return static_cast<std::size_t>(n); };
                auto const one = [](extent_t) { return 1.0; };
                std::vector<double> in(size(N)), outgoing(size(M)), g(size(N)), e(size(M));
                auto const t = [&](extent_t n) { return causal ? static_cast<double>(n + 1) : 1.0; };
                for (extent_t i = 0; i < N; ++i) { in[size(i)] = t(i) / flow(q, i, k, causal ? i + 1 : M, one); }
                for (extent_t j = 0; j < M; ++j) { outgoing[size(j)] = t(j) / flow(k, j, q, causal ? j + 1 : N, one); }
                for (extent_t i = 0; i < N; ++i) {
                    double const c = flow(q, i, k, causal ? i + 1 : M, [&](extent_t j) { return outgoing[size(j)]; }) / t(i);
                    g[size(i)] = sigmoid(causal ? c : c * static_cast<double>(N) / static_cast<double>(M)) * in[size(i)] / t(i);
                }
                for (extent_t j = 0; j < M; ++j) {
                    double const x = flow(k, j, q, causal ? j + 1 : N, [&](extent_t i) { return in[size(i)]; }) / t(j);
                    e[size(j)] = std::exp(x > 1 ? 1 : x < -1 ? -1 : x);
                }
                auto const weight = [&](extent_t j) {
                    double sum = 0;
                    for (extent_t l = 0; l < (causal ? j + 1 : M); ++l) { sum += e[size(l)]; }
                    return (causal ? t(j) : static_cast<double>(M)) * e[size(j)] / sum;
                };
                std::vector<double> w(size(M));
                for (extent_t j = 0; j < M; ++j) { w[size(j)] = weight(j); }
                for (extent_t i = 0; i < N; ++i)
                    for (extent_t j = 0; j < (causal ? i + 1 : M); ++j) {
                        double a = 0;
                        for (extent_t c = 0; c < d; ++c) { a += f(q, i, c) * f(k, j, c); }
                        for (extent_t x = 0; x < v.shape().feature; ++x) { o(b, h, i, x) += g[size(i)] * a * w[size(j)] * v(b, h, j, x); }
                    }
                for (extent_t i = 0; i < N; ++i)
                    for (extent_t x = 0; x < v.shape().feature; ++x) { loss += o(b, h, i, x) * dout(b, h, i, x); }
            }
        return o;
    }
};

template <class P>
void check_gradients(P order, extent_t n, extent_t m, random_source& random) {
    bool const causal = !std::is_same_v<P, heed::full>;
    flows t(n, m, 3, 2, random);
    t.run_back(order);
    double loss;
    CHECK(far<double>(t.out.in(), t.exact(causal, loss)) < 1e-12);
    auto const again = [&] { return static_cast<void>(t.exact(causal, loss)), loss; };
    differences const check(again, causal ? "causal" : "full", 1e-6, 1e-8);
    check("dq", t.q, t.dq, 47), check("dk", t.k, t.dk, 47), check("dv", t.v, t.dv, 61);
}

} // namespace

TEST_CASE("Flow attention is its equations; gradients are those of differences", "[recurrent]") {
    HEED_SEEDED;
    random_source random(71);
    check_gradients(heed::full{}, 20, 75, random);
    check_gradients(heed::full{}, 70, 1, random);
    check_gradients(heed::causal_bottom_right{}, 75, 75, random);
    check_gradients(heed::causal_bottom_right{}, 1, 1, random);
}

TEST_CASE("Flow attention of equal tokens is sigmoid(1) times the mean of the values; threads change nothing", "[recurrent]") {
    HEED_SEEDED;
    random_source random(72);
    flows t(90, 90, 9, 5, random);
    t.q.each_at([](double& x, extent_t, extent_t, extent_t, extent_t e) { x = 0.1 * static_cast<double>(e); });
    t.k.each_at([](double& x, extent_t, extent_t, extent_t, extent_t e) { x = 0.1 * static_cast<double>(e); });
    t.run(heed::full{});
    double mean = 0;
    for (extent_t j = 0; j < 90; ++j) { mean += t.v(1, 0, j, 3) / 90; }
    for (extent_t i = 0; i < 90; ++i) { CHECK(t.out(1, 0, i, 3) == approx(sigmoid(1) * mean).margin(1e-5)); }
    t.run(heed::causal_bottom_right{});
    CHECK(t.out(0, 1, 0, 2) == approx(sigmoid(1) * t.v(0, 1, 0, 2)).epsilon(1e-5));
    t.q.normal(random), t.k.normal(random);
    t.run_back(heed::causal_bottom_right{});
    tensor<double> const out = copied(t.out), dk = copied(t.dk);
    t.run_back(heed::causal_bottom_right{}, 5);
    CHECK((same_bits(out, t.out) && same_bits(dk, t.dk)));
}

TEST_CASE("Flow attention: a sequence cut in pieces, the state passed on in place, is the whole", "[recurrent]") {
    HEED_SEEDED;
    random_source random(73);
    flows t(150, 150, 5, 4, random);
    t.run(heed::causal_bottom_right{});
    tensor<double> s({2, 2, 5, 4}), sums({2, 2, 4, 5}), counts({2, 2, 2, 1}), out(t.out.shape());
    heed::flow_state<double> const state{s.view(), sums.view(), counts.view()};
    for (extent_t const piece : {1, 64, 101}) {
        s.fill(0), sums.fill(0), counts.fill(0), out.fill(0);
        for (extent_t first = 0; first < 150; first += piece) {
            auto const part = [&](auto x) { return rows_of(x, first, piece); };
            heed::forward(heed::flow_attention(heed::causal_bottom_right{}), part(t.q.in()), part(t.k.in()), part(t.v.in()), part(out.view()),
                          heed::initial_flow<double>{{s.in(), sums.in(), counts.in()}}, heed::final_flow{state});
        }
        CHECK(far(out, t.out) < 1e-12);
    }
    CHECK_THROWS_WITH(heed::forward(heed::flow_attention(), t.q.in(), t.k.in(), t.v.in(), out.view(), heed::final_flow{state}), contains("only the causal order has"));
}
