// SPDX-License-Identifier: BSD-3-Clause
// Attention through hash tables: the weights of its definition, dense; laws; steps; gradients of the values.
#include "slopes.hpp"

#include <support/problem.hpp>
#include <support/team.hpp>

#include <heed/front/anna.hpp>

using namespace heed_test;

namespace {

double product(auto const& x, auto const& y, extent_t d) {
    double sum = 0;
    for (extent_t e = 0; e < d; ++e) { sum += x(e) * y(e); }
    return sum;
}

} // namespace

TEST_CASE("hash tables: averages over the keys of the bucket, their gradient, steps, threads", "[sparse][oracle]") {
    HEED_SEEDED;
    random_source random(780);
    for (int count = 0; count < 10; ++count) {
        extent_t const kv = random.integer(1, 2), M = random.integer(1, 60);
        bool const causal = count % 2 == 1;
        sizes const n{random.integer(1, 2), kv * random.integer(1, 3), kv, count % 4 == 1 ? M : random.integer(1, M), M, random.integer(1, 6), random.integer(1, 6)};
        problem<double> p(n, random);
        extent_t const tables = random.integer(1, 4), bits = random.integer(0, 5), group = n.heads / kv;
        heed::lsh_planes<double> const planes(static_cast<std::uint64_t>(count), tables, bits, n.width);
        heed::anna const m{planes.view(), tables, causal};
        auto const saved = heed::forward(m, p.q.in(), p.k.in(), p.v.in(), p.out.view());
        INFO(n << " tables " << tables << " bits " << bits << " causal " << causal);
        auto const together = [&](extent_t b, extent_t h, extent_t i, extent_t j) { // tables in which all signs agree
            extent_t met = 0;
            for (extent_t u = 0; u < tables; ++u) {
                bool same = true;
                for (extent_t z = u * bits; z < (u + 1) * bits; ++z) {
                    auto const plane = [&](extent_t e) { return planes.view()(0, 0, z, e); };
                    same = same && (product(plane, [&](extent_t e) { return p.q(b, h, i, e); }, n.width) > 0) == (product(plane, [&](extent_t e) { return p.k(b, h / group, j, e); }, n.width) > 0);
                }
                met += same;
            }
            return causal && j > i + M - n.queries ? 0 : met;
        };
        tensor<double> dout(n.out()), dq(n.q()), dk(n.k()), dv(n.v()), want_dv(n.v());
        dout.normal(random), want_dv.fill(0);
        for (extent_t b = 0; b < n.batch; ++b)
            for (extent_t h = 0; h < n.heads; ++h)
                for (extent_t i = 0; i < n.queries; ++i) {
                    extent_t met = 0;
                    for (extent_t j = 0; j < M; ++j) { met += together(b, h, i, j); }
                    REQUIRE(saved.counts()(b, h, i, 0) == double(met));
                    for (extent_t e = 0; e < n.value_width; ++e) {
                        double sum = 0;
                        for (extent_t j = 0; j < M && met > 0; ++j) {
                            double const w = double(together(b, h, i, j)) / double(met);
                            sum += w * p.v(b, h / group, j, e);
                            want_dv(b, h / group, j, e) += w * dout(b, h, i, e);
                        }
                        REQUIRE(std::abs(p.out(b, h, i, e) - sum) < 1e-13);
                    }
                }
        heed::backward(m, p.q.in(), p.k.in(), p.v.in(), p.out.in(), saved, dout.in(), dq.view(), dk.view(), dv.view());
        REQUIRE(largest_difference(dv, want_dv) < 1e-13);
        dq.each([](double& x) { REQUIRE(x == 0); });
        thread_team team{3};
        tensor<double> threads(n.out()), again(n.v());
        auto const other = heed::forward(m, p.q.in(), p.k.in(), p.v.in(), threads.view(), heed::cpu{team});
        heed::backward(m, p.q.in(), p.k.in(), p.v.in(), p.out.in(), other, dout.in(), heed::tensor_view<double>(), heed::tensor_view<double>(), again.view(), heed::cpu{team});
        REQUIRE((same_bits(threads, p.out) && same_bits(again, dv) && p.intact()));
        if (bits == 0 && !causal) {
            for (extent_t e = 0; e < n.value_width; ++e) { // one bucket: the mean
                double mean = 0;
                for (extent_t j = 0; j < M; ++j) { mean += p.v(0, 0, j, e) / double(M); }
                REQUIRE(p.out(0, 0, 0, e) == approx(mean).margin(1e-13));
            }
        }
        if (!causal || n.queries != M) { continue; }
        heed::anna_buckets<double> state(n.batch, kv, n.value_width, tables);
        auto const rows = [](tensor<double> const& x, extent_t at, extent_t length) { return heed::tensor_view<double const>(x.in().row(0, 0, at), {x.shape().batch, x.shape().head, length, x.shape().feature}, x.in().strides()); };
        for (extent_t at = 0; at < M;) {
            extent_t const length = std::min(M - at, random.integer(1, 7));
            tensor<double> out(heed::shape{n.batch, n.heads, length, n.value_width});
            heed::step(m, rows(p.q, at, length), rows(p.k, at, length), rows(p.v, at, length), state, out.view());
            out.each_at([&](double& x, extent_t b, extent_t h, extent_t i, extent_t e) { REQUIRE(std::abs(x - p.out(b, h, at + i, e)) < 1e-13); });
            at += length;
        }
    }
}

TEST_CASE("hash tables: the same functions twice change nothing; what is refused", "[sparse][laws]") {
    HEED_SEEDED;
    random_source random(781);
    sizes const n{1, 2, 1, 20, 30, 4, 3};
    problem<double> p(n, random), q = copied(p);
    heed::lsh_planes<double> const once(7, 2, 3, 4);
    tensor<double> twice(heed::shape{1, 1, 12, 4});
    twice.each_at([&](double& x, extent_t, extent_t, extent_t r, extent_t e) { x = once.view()(0, 0, r % 6, e); });
    heed::forward(heed::anna{once.view(), 2}, p.q.in(), p.k.in(), p.v.in(), p.out.view());
    heed::forward(heed::anna{twice.in(), 4}, q.q.in(), q.k.in(), q.v.in(), q.out.view());
    CHECK(largest_difference(p.out, q.out) < 1e-14);
    CHECK_THROWS_WITH(heed::forward(heed::anna{once.view(), 4}, p.q.in(), p.k.in(), p.v.in(), p.out.view()), contains("6 planes of 4 features for 4 hash tables"));
    heed::lsh_planes<double> const narrow(7, 2, 3, 5);
    CHECK_THROWS_WITH(heed::forward(heed::anna{narrow.view(), 2}, p.q.in(), p.k.in(), p.v.in(), p.out.view()), contains("of vectors of 4"));
    heed::anna_buckets<double> state(1, 1, 3, 2);
    CHECK_THROWS_WITH(heed::step(heed::anna{once.view(), 2}, p.q.in(), p.k.in(), p.v.in(), state, p.out.view()), contains("is causal"));
}
