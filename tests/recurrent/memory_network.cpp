// SPDX-License-Identifier: BSD-3-Clause
// Memories that are networks: the equations token by token as the oracle, gradients against differences, laws, refusals.
#include "differences.hpp"

#include <heed/front/memory_network.hpp>

using namespace heed_test;

namespace {

enum class which { two_layers, test_time_training, normalised };

// Everything of a call. Width and value width are equal where the memory is trained on v - k.
struct networks {
    which kind;
    extent_t n, d, dv, hidden, chunk;
    tensor<double> q, k, v, theta, alpha, eta, weight, bias, out, dout, dq, dk, dv_, dtheta, dalpha, deta, dweight, dbias;
    tensor<double> w[5], last[5], dw[5], dlast[5]; // first m and s, second m and s, bias

    networks(which of, extent_t tokens, extent_t chunk_of, random_source& random)
        : kind(of), n(tokens), d(5), dv(of == which::two_layers ? 3 : 5), hidden(of == which::two_layers ? 7 : dv), chunk(chunk_of), q({2, 2, n, d}, padded(heed::shape{2, 2, n, d}, 3)), k({2, 2, n, d}), v({2, 2, n, dv}),
          theta({2, 2, n, 1}), alpha({1, 2, n, 1}), eta({2, 1, n, 1}), weight({1, 2, 1, dv}), bias({1, 2, 1, dv}), out(v.shape()), dout(v.shape()), dq(q.shape()), dk(k.shape()), dv_(v.shape()), dtheta(theta.shape()),
          dalpha(alpha.shape()), deta(eta.shape()), dweight(weight.shape()), dbias(bias.shape()) {
        heed::shape const one{2, 2, d, hidden}, two{2, 2, hidden, dv}, row{2, 2, 1, dv}, shapes[] = {one, one, two, two, row};
        for (int i = 0; i < 5; ++i) {
            for (auto* x : {&w[i], &last[i], &dw[i], &dlast[i]}) { *x = tensor<double>(shapes[i]); }
            w[i].normal(random, i == 1 || i == 3 ? 0.1 : 0.6), dlast[i].normal(random);
        }
        q.normal(random), k.normal(random), v.normal(random), dout.normal(random), bias.normal(random, 0.3);
        weight.each([&](double& x) { x = random.uniform(0.5, 1.5); });
        theta.each([&](double& x) { x = random.uniform(0, 0.1); });
        alpha.each([&](double& x) { x = random.uniform(0, 0.3); });
        eta.each([&](double& x) { x = random.uniform(0.2, 0.8); });
    }
    bool deep() const { return kind == which::two_layers; }
    bool momentum() const { return kind != which::test_time_training; }
    template <class F>
    auto with(F const& f) const {
        if (kind == which::two_layers) { return f(heed::titans_network(theta.in(), alpha.in(), eta.in(), hidden, chunk)); }
        if (kind == which::normalised) { return f(heed::titans_normalised(theta.in(), alpha.in(), eta.in(), weight.in(), bias.in(), chunk, 1e-2)); }
        return f(heed::ttt_linear(theta.in(), weight.in(), bias.in(), chunk, 1e-2));
    }
    // Only what the mechanism has.
    template <class U, class Take>
    heed::network_state<U> state(tensor<double>* x, Take const& take) const {
        heed::network_state<U> s{};
        s.first.m = take(x[0]);
        if (momentum()) { s.first.s = take(x[1]); }
        if (deep()) { s.second = {take(x[2]), take(x[3])}; }
        if (!momentum()) { s.bias = take(x[4]); }
        return s;
    }
    heed::network_state<double const> in(tensor<double>* x) const {
        return state<double const>(x, [](tensor<double>& y) { return y.in(); });
    }
    heed::network_state<double> to(tensor<double>* x) const {
        return state<double>(x, [](tensor<double>& y) { return y.view(); });
    }
    void run(int threads = 1) {
        with([&](auto const& m) { heed::forward(m, q.in(), k.in(), v.in(), out.view(), heed::initial_network<double>{in(w)}, heed::final_network<double>{to(last)}, heed::cpu{thread_team{threads}}); });
    }
    void run_back(int threads = 1) {
        heed::network_gradient<double> g{dtheta.view(), {}, {}, {}, {}, to(dw)};
        if (momentum()) { g.alpha = dalpha.view(), g.eta = deta.view(); }
        if (!deep()) { g.weight = dweight.view(), g.bias = dbias.view(); }
        with([&](auto const& m) {
            heed::backward(m, q.in(), k.in(), v.in(), out.in(), heed::nothing_saved{}, dout.in(), dq.view(), dk.view(), dv_.view(), heed::initial_network<double>{in(w)}, g,
                           heed::final_network_gradient<double>{in(dlast)}, heed::cpu{thread_team{threads}});
        });
    }
    double loss() {
        run();
        double sum = 0;
        auto const add = [&](tensor<double> const& x, tensor<double> const& by) { sum += product(oracle::read(x.in()), by); };
        add(out, dout);
        for (int i = 0; i < 5; ++i) {
            if (i % 2 == 0 ? (i == 0 || (i == 2 && deep()) || (i == 4 && !momentum())) : momentum() && (i == 1 || deep())) { add(last[i], dlast[i]); }
        }
        return sum;
    }
};

using numbers = std::vector<double>;
using matrix = std::vector<numbers>;
numbers answer(numbers const& x, matrix const& m) { // M^T x
    numbers y(m[0].size());
    for (std::size_t c = 0; c < x.size(); ++c)
        for (std::size_t e = 0; e < y.size(); ++e) { y[e] += m[c][e] * x[c]; }
    return y;
}
double gelu(double x) { return x * 0.5 * std::erfc(-x / std::sqrt(2.0)); }
double gelu_slope(double x) { return 0.5 * std::erfc(-x / std::sqrt(2.0)) + x * std::exp(-x * x / 2) / std::sqrt(2 * std::acos(-1.0)); }
struct normal_row {
    numbers h;
    double sd;
    normal_row(numbers const& y, double eps) : h(y) {
        double mean = 0, square = 0;
        for (double const x : y) { mean += x / static_cast<double>(y.size()); }
        for (double& x : h) { x -= mean, square += x * x / static_cast<double>(y.size()); }
        sd = std::sqrt(square + eps);
        for (double& x : h) { x /= sd; }
    }
};

// One head, by the equations: the chunk's weights, a gradient a token.
oracle::array exact(networks const& t) {
    oracle::array out(t.out.shape());
    auto const size = [](extent_t x) { return static_cast<std::size_t>(x); };
    for (extent_t b = 0; b < 2; ++b)
        for (extent_t h = 0; h < 2; ++h) {
            auto const read = [&](tensor<double> const& x, extent_t rows, extent_t columns) {
                matrix m(size(rows), numbers(size(columns)));
                for (extent_t r = 0; r < rows; ++r)
                    for (extent_t c = 0; c < columns; ++c) { m[size(r)][size(c)] = x(b, h, r, c); }
                return m;
            };
            auto const row = [&](tensor<double> const& x, extent_t n) {
                numbers y;
                for (extent_t e = 0; e < x.shape().feature; ++e) { y.push_back(x(x.shape().batch == 1 ? 0 : b, h, n, e)); }
                return y;
            };
            matrix w1 = read(t.w[0], t.d, t.hidden), s1 = read(t.w[1], t.d, t.hidden), w2 = read(t.w[2], t.hidden, t.dv), s2 = read(t.w[3], t.hidden, t.dv), start1, start2;
            bool const training = !t.momentum();
            if (training) { w1.push_back(row(t.w[4], 0)), s1 = matrix(w1.size(), numbers(size(t.dv))); }
            if (!t.momentum()) { s1 = matrix(w1.size(), numbers(size(t.dv))); }
            matrix learnt; // of a chunk, without its step
            for (extent_t n = 0; n < t.n; ++n) {
                if (n % t.chunk == 0) { start1 = w1, start2 = w2, learnt = matrix(w1.size(), numbers(size(t.hidden))); }
                numbers key = row(t.k, n), query = row(t.q, n);
                numbers const value = row(t.v, n), weight = row(t.weight, 0), bias = row(t.bias, 0);
                if (training) {
                    for (double& x : query) { x /= std::sqrt(static_cast<double>(t.d)); }
                    key.push_back(1), query.push_back(1);
                }
                double const theta = t.theta(b, h, n, 0), keep = 1 - t.alpha(0, h, n, 0), eta = t.eta(b, 0, n, 0);
                auto const step = [&](matrix& w, matrix& s, numbers const& x, numbers const& by) {
                    for (std::size_t c = 0; c < w.size(); ++c)
                        for (std::size_t e = 0; e < by.size(); ++e) { s[c][e] = eta * s[c][e] - theta * x[c] * by[e], w[c][e] = keep * w[c][e] + s[c][e]; }
                };
                numbers y = answer(key, start1), r;
                if (t.deep()) {
                    numbers a = y, by, below(y.size());
                    for (double& x : a) { x = gelu(x); }
                    numbers const z = answer(a, start2);
                    for (std::size_t e = 0; e < z.size(); ++e) { by.push_back(2 * (z[e] - value[e])); }
                    for (std::size_t c = 0; c < y.size(); ++c)
                        for (std::size_t e = 0; e < z.size(); ++e) { below[c] += start2[c][e] * by[e] * gelu_slope(y[c]); }
                    step(w1, s1, key, below), step(w2, s2, a, by);
                    r = answer(query, w1);
                    for (double& x : r) { x = gelu(x); }
                    r = answer(r, w2);
                } else {
                    normal_row const of(y, 1e-2);
                    double const width = static_cast<double>(t.dv);
                    double sum = 0, product = 0;
                    numbers g;
                    for (std::size_t e = 0; e < y.size(); ++e) {
                        g.push_back(weight[e] * (weight[e] * of.h[e] + bias[e] - value[e] + key[e]));
                        sum += g[e], product += g[e] * of.h[e];
                    }
                    numbers by;
                    for (std::size_t e = 0; e < y.size(); ++e) {
                        by.push_back(training ? (width * g[e] - sum - of.h[e] * product) / (width * of.sd) : 2 * (width * g[e] - (sum + of.h[e] * product) / (width * of.sd)));
                    }
                    if (training) { // the reader's step for all of the chunk so far
                        for (std::size_t c = 0; c < w1.size(); ++c)
                            for (std::size_t e = 0; e < by.size(); ++e) { learnt[c][e] += key[c] * by[e], w1[c][e] = start1[c][e] - theta * learnt[c][e]; }
                    } else {
                        step(w1, s1, key, by);
                    }
                    r = answer(query, w1);
                    normal_row const end(r, 1e-2);
                    for (std::size_t e = 0; e < r.size(); ++e) { r[e] += weight[e] * end.h[e] + bias[e]; }
                }
                for (std::size_t e = 0; e < r.size(); ++e) { out(b, h, n, static_cast<extent_t>(e)) = r[e]; }
            }
        }
    return out;
}

} // namespace

TEST_CASE("Memory networks in chunks are their equations token by token, whatever the threads; chunks with their state are the whole", "[recurrent]") {
    HEED_SEEDED;
    random_source random(111);
    for (which const kind : {which::two_layers, which::test_time_training, which::normalised}) {
        for (extent_t const n : {1, 37}) {
            for (extent_t const chunk : {1, 4, 20}) {
                networks t(kind, n, chunk, random);
                t.theta.each([](double& x) { x *= 0.2; }); // networks that learn from many tokens at once must learn slowly
                t.run(3);
                CAPTURE(static_cast<int>(kind), n, chunk);
                CHECK(far<double>(t.out.in(), exact(t)) < 1e-12);
                CHECK(t.out.intact());
                tensor<double> out = copied(t.out);
                t.run(1);
                CHECK(same_bits(out, t.out));
                if (n == 1 || chunk == 1) { continue; }
                tensor<double> state[5];
                for (int i = 0; i < 5; ++i) { state[i] = copied(t.w[i]); }
                out.fill(0);
                for (extent_t first = 0; first < n; first += chunk) {
                    auto const part = [&](auto x) { return rows_of(x, first, chunk); };
                    t.with([&](auto m) {
                        m.theta = part(m.theta);
                        if (t.momentum()) { m.alpha = part(m.alpha), m.eta = part(m.eta); }
                        heed::forward(m, part(t.q.in()), part(t.k.in()), part(t.v.in()), part(out.view()), heed::initial_network<double>{t.in(state)}, heed::final_network<double>{t.to(state)});
                    });
                }
                CHECK((far(out, t.out) < 1e-12 && far(state[0], t.last[0]) < 1e-12));
            }
        }
    }
}

TEST_CASE("Memory networks: gradients are those of differences, whatever the threads", "[recurrent]") {
    HEED_SEEDED;
    random_source random(112);
    for (which const kind : {which::two_layers, which::test_time_training, which::normalised}) {
        networks t(kind, 11, 4, random);
        t.run(), t.run_back(3);
        tensor<double> const dk = copied(t.dk), dtheta = copied(t.dtheta);
        t.run_back(1);
        CHECK((same_bits(dk, t.dk) && same_bits(dtheta, t.dtheta)));
        differences const check([&] { return t.loss(); }, "network " + std::to_string(static_cast<int>(kind)), 1e-5, 1e-5);
        check("dq", t.q, t.dq, 17), check("dk", t.k, t.dk, 17), check("dv", t.v, t.dv_, 13), check("dtheta", t.theta, t.dtheta, 5), check("dw1", t.w[0], t.dw[0], 7);
        if (t.momentum()) { check("dalpha", t.alpha, t.dalpha, 3), check("deta", t.eta, t.deta, 3), check("ds1", t.w[1], t.dw[1], 7); }
        if (t.deep()) { check("dw2", t.w[2], t.dw[2], 5), check("ds2", t.w[3], t.dw[3], 5); }
        if (!t.momentum()) { check("dbias of the map", t.w[4], t.dw[4], 3); }
        if (!t.deep()) { check("dweight", t.weight, t.dweight, 2), check("dbias", t.bias, t.dbias, 2); }
    }
}

TEST_CASE("Memory networks: a step of 0 reads a fixed network; a NaN reaches its chunk and what comes after; refusals", "[recurrent]") {
    random_source random(113);
    networks t(which::two_layers, 30, 8, random);
    t.v(0, 1, 19, 1) = NAN;
    t.run();
    bool finite = true;
    for (extent_t n = 0; n < 30; ++n) { finite = finite && std::isfinite(t.out(0, 0, n, 0)) && std::isfinite(t.out(1, 1, n, 2)) && (n >= 16 || std::isfinite(t.out(0, 1, n, 1))); }
    CHECK((finite && std::isnan(t.out(0, 1, 19, 1))));
    networks r(which::two_layers, 30, 8, random);
    r.theta.fill(0), r.alpha.fill(0), r.w[1].fill(0), r.w[3].fill(0);
    r.run();
    tensor<double> const out = copied(r.out);
    r.k.each([](double& x) { x = -3 * x; });
    r.run();
    CHECK(far(out, r.out) < 1e-14);
    auto const run = [&](auto const& m, auto const&... options) { heed::forward(m, r.q.in(), r.k.in(), r.v.in(), r.out.view(), options...); };
    CHECK_THROWS_WITH(run(heed::titans_network(r.theta.in(), r.alpha.in(), r.eta.in(), 7, 0)), contains("chunks of 0 tokens"));
    CHECK_THROWS_WITH(run(heed::titans_network(r.theta.in(), r.alpha.in(), r.eta.in(), 0)), contains("hidden width of 0"));
    CHECK_THROWS_WITH(run(heed::titans_network(r.theta.in(), r.alpha.in(), r.eta.in(), 6), heed::initial_network<double>{r.in(r.w)}), contains("initial first.m has 7 features"));
    CHECK_THROWS_WITH(run(heed::ttt_linear(r.theta.in(), r.weight.in(), r.bias.in())), contains("needs as many"));
}

TEST_CASE("The normal distribution, its density and the slopes of gelu", "[recurrent]") {
    double worst = 0, worst_float = 0, slope = 0;
    for (double x = -12; x < 12; x += 0.013) {
        double const exact = 0.5 * std::erfc(-x / std::sqrt(2.0)), density = std::exp(-x * x / 2) / std::sqrt(2 * std::acos(-1.0));
        worst = std::fmax(worst, std::fabs(heed::normal_cdf(x) - exact) / (exact * (1 + x * x)));
        worst_float = std::fmax(worst_float, std::fabs(static_cast<double>(heed::normal_cdf(static_cast<float>(x))) - 0.5 * std::erfc(-static_cast<double>(static_cast<float>(x)) / std::sqrt(2.0))));
        using once = heed::dual<double>;
        auto const twice = heed::gelu_map{}(heed::dual<once>(once(x, 1), once(1)));
        slope = std::fmax(slope, std::fmax(std::fabs(twice.d.v - exact - x * density), std::fabs(twice.d.d - (2 - x * x) * density)));
    }
    CHECK(worst < 4e-16); // the square in the exponent rounds
    CHECK(worst_float < 2e-7);
    CHECK(slope < 1e-14);
    CHECK((heed::normal_cdf(INFINITY) == 1 && heed::normal_cdf(-INFINITY) == 0 && std::isnan(heed::normal_cdf(NAN))));
}
