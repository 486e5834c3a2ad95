// SPDX-License-Identifier: BSD-3-Clause
// Softmax of one query over every prefix: oracle, laws, infinities, gradients.
#include "differences.hpp"

#include <heed/front/aaren.hpp>

#include <support/allocation_counter.hpp>

using namespace heed_test;

namespace {

template <class T>
struct prefixes {
    double scale;
    tensor<T> q, k, v, out, m, u, w, dout, dq, dk, dv;
    prefixes(heed::shape keys, extent_t width, extent_t own_queries, random_source& random)
        : scale(0.8), q({own_queries, keys.head, 1, keys.feature}), k(keys, padded(keys, 3)), v(heed::shape{keys.batch, keys.head, keys.seq, width}), out(v.shape()), m({keys.batch, keys.head, 1, 1}),
          u(m.shape()), w({keys.batch, keys.head, 1, width}), dout(out.shape()), dq(q.shape()), dk(k.shape()), dv(v.shape()) {
        q.normal(random), k.normal(random), v.normal(random), dout.normal(random);
    }
    void run(int threads = 1) { heed::forward(heed::aaren_attention(scale), q.in(), k.in(), v.in(), out.view(), heed::final_prefix{m.view(), u.view(), w.view()}, heed::cpu{thread_team{threads}}); }
    void run_back(int threads = 1) {
        run(threads);
        heed::backward(heed::aaren_attention(scale), q.in(), k.in(), v.in(), out.in(), heed::nothing_saved{}, dout.in(), dq.view(), dk.view(), dv.view(), heed::cpu{thread_team{threads}});
    }
    // every row by itself, in double
    oracle::array exact() const {
        oracle::array o(out.shape());
        for (extent_t b = 0; b < k.shape().batch; ++b)
            for (extent_t h = 0; h < k.shape().head; ++h)
                for (extent_t t = 0; t < k.shape().seq; ++t) {
                    std::vector<double> s(static_cast<std::size_t>(t + 1));
                    double most = -INFINITY, sum = 0;
                    for (extent_t j = 0; j <= t; ++j) {
                        double& x = s[static_cast<std::size_t>(j)];
                        for (extent_t c = 0; c < k.shape().feature; ++c) { x += scale * static_cast<double>(q(q.shape().batch == 1 ? 0 : b, h, 0, c)) * static_cast<double>(k(b, h, j, c)); }
                        most = std::fmax(most, x);
                    }
                    for (double& x : s) { sum += x = std::exp(x - most); }
                    for (extent_t j = 0; j <= t; ++j)
                        for (extent_t e = 0; e < v.shape().feature; ++e) { o(b, h, t, e) += s[static_cast<std::size_t>(j)] / sum * static_cast<double>(v(b, h, j, e)); }
                }
        return o;
    }
    double loss() const { return product(exact(), dout); }
};

} // namespace

TEST_CASE("Every prefix is softmax attention over it", "[recurrent]") {
    HEED_SEEDED;
    random_source random(61);
    for (heed::shape const s : {heed::shape{1, 1, 1, 1}, heed::shape{2, 3, 64, 8}, heed::shape{1, 2, 130, 21}, heed::shape{2, 1, 200, 5}}) {
        for (extent_t const width : {1, 7, 33, 64}) {
            prefixes<double> t(s, width, random.chance(0.5) ? 1 : s.batch, random);
            t.run();
            CHECK(far<double>(t.out.in(), t.exact()) < 1e-13);
            CHECK(t.out.intact());
            prefixes<float> f(s, width, 1, random);
            f.k.each([](float& x) { x *= 20; }); // scores rise by hundreds
            f.run();
            CHECK(far<float>(f.out.in(), f.exact()) < 3e-4);
        }
    }
}

TEST_CASE("Prefixes: a sequence cut in two is the whole; a call with one token is a step", "[recurrent]") {
    HEED_SEEDED;
    random_source random(62);
    prefixes<double> t({1, 2, 150, 6}, 5, 1, random);
    t.run();
    tensor<double> out(t.out.shape()), m(t.m.shape()), u(t.u.shape()), w(t.w.shape());
    for (extent_t const piece : {1, 64, 97}) {
        m.fill(-INFINITY), u.fill(0), w.fill(0);
        for (extent_t first = 0; first < 150; first += piece) {
            auto const part = [&](auto x) { return rows_of(x, first, piece); };
            heed::forward(heed::aaren_attention(t.scale), t.q.in(), part(t.k.in()), part(t.v.in()), part(out.view()), heed::initial_prefix{m.in(), u.in(), w.in()},
                          heed::final_prefix{m.view(), u.view(), w.view()});
        }
        CHECK(far(out, t.out) < 1e-13);
        CHECK((far(m, t.m) < 1e-14 && far(u, t.u) < 1e-13 && far(w, t.w) < 1e-13));
    }
}

TEST_CASE("Prefixes: equal scores give the running mean; keys of -inf are not there; a NaN reaches what comes after", "[recurrent]") {
    random_source random(63);
    prefixes<float> t({1, 1, 300, 4}, 3, 1, random);
    t.k.fill(0.25f);
    t.run();
    double mean = 0;
    for (extent_t n = 0; n < 300; ++n) {
        mean += (static_cast<double>(t.v(0, 0, n, 1)) - mean) / static_cast<double>(n + 1);
        CHECK(t.out(0, 0, n, 1) == approx(mean).margin(1e-6));
    }
    t.q.fill(1);
    for (extent_t const n : {0, 1, 70}) { t.k(0, 0, n, 2) = -INFINITY, t.v(0, 0, n, 0) = NAN; }
    t.run_back();
    CHECK((t.out(0, 0, 0, 0) == 0 && t.out(0, 0, 1, 2) == 0));
    CHECK(t.out(0, 0, 2, 1) == t.v(0, 0, 2, 1));
    bool finite = true;
    t.out.each([&](float& x) { finite = finite && std::isfinite(x); });
    t.dv.each([&](float& x) { finite = finite && std::isfinite(x); });
    t.dk.each([&](float& x) { finite = finite && std::isfinite(x); });
    t.dq.each([&](float& x) { finite = finite && std::isfinite(x); });
    CHECK(finite);
    t.v(0, 0, 100, 1) = NAN;
    t.run();
    CHECK((std::isfinite(t.out(0, 0, 99, 1)) && std::isnan(t.out(0, 0, 100, 1)) && std::isnan(t.out(0, 0, 299, 1)) && std::isfinite(t.out(0, 0, 299, 2))));
    t.k.each_at([](float& x, extent_t, extent_t, extent_t n, extent_t) { x = n % 2 ? 1e30f : -1e30f; });
    t.v.fill(2);
    t.run();
    CHECK(t.out(0, 0, 0, 0) == 2);
    CHECK(t.out(0, 0, 299, 2) == approx(2.0).epsilon(1e-6));
}

TEST_CASE("Prefixes: gradients are those of differences, and do not depend on threads", "[recurrent]") {
    HEED_SEEDED;
    random_source random(64);
    for (extent_t const own : {1, 2}) {
        prefixes<double> t({2, 2, 75, 3}, 5, own, random);
        t.run_back(3);
        tensor<double> const dq = copied(t.dq), dk = copied(t.dk), dv = copied(t.dv);
        t.run_back(1);
        CHECK((same_bits(dq, t.dq) && same_bits(dk, t.dk) && same_bits(dv, t.dv)));
        differences const check([&] { return t.loss(); }, own == 1 ? "one query for all" : "queries of their own", 1e-6, 1e-7);
        check("dq", t.q, dq, 1), check("dk", t.k, dk, 37), check("dv", t.v, dv, 61);
    }
}

TEST_CASE("Prefixes: one allocation, which does not grow with the sequence; wrong shapes are refused", "[recurrent]") {
    random_source random(65);
    prefixes<float> a({1, 1, 10, 8}, 8, 1, random), b({1, 1, 5000, 8}, 8, 1, random);
    auto const bytes = [](prefixes<float>& t) {
        allocation_scope scope;
        heed::forward(heed::aaren_attention(), t.q.in(), t.k.in(), t.v.in(), t.out.view());
        CHECK(scope.calls() == 1);
        return scope.bytes();
    };
    CHECK(bytes(a) == bytes(b));
    CHECK_THROWS_WITH(heed::forward(heed::aaren_attention(), a.k.in(), a.k.in(), a.v.in(), a.out.view()), contains("one query a head"));
    CHECK_THROWS_WITH(heed::forward(heed::aaren_attention(), a.q.in(), a.k.in(), b.v.in(), a.out.view()), contains("v.seq must equal k.seq"));
}
