// SPDX-License-Identifier: BSD-3-Clause
// What needs no kernel of pairs: attention through hash tables (the weights of its definition, dense; laws; steps; gradients of the values), predicted masks.
#include "slopes.hpp"

#include <support/problem.hpp>
#include <support/team.hpp>

#include <heed/front/anna.hpp>
#include <heed/front/predicted_masks.hpp>

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

TEST_CASE("low-rank connectivity: the masks of plain loops, a class token, everything kept", "[sparse][oracle]") {
    HEED_SEEDED;
    random_source random(782);
    for (int count = 0; count < 6; ++count) {
        extent_t const kv = random.integer(1, 2), H = kv * random.integer(1, 2), N = random.integer(2, 30), d = random.integer(1, 6), r = random.integer(1, 7), B = 2;
        tensor<double> q(heed::shape{B, H, N, d}), k(heed::shape{B, kv, N, d}), down(heed::shape{1, 1, N, r}), up(heed::shape{1, 1, N, r});
        q.normal(random), k.normal(random), down.normal(random), up.normal(random, 0.5);
        heed::connectivity<double> m{down.in(), up.in(), random.uniform(0.05, 1), random.integer(1, 8)};
        m.threshold = 0.2;
        auto const bits = heed::select_connections(m, q.in(), k.in());
        thread_team team{3};
        auto const again = heed::select_connections(m, q.in(), k.in(), heed::cpu{team});
        for (extent_t b = 0; b < B; ++b)
            for (extent_t h = 0; h < H; ++h)
                for (extent_t i = 0; i < N; ++i) {
                    std::vector<double> c(static_cast<std::size_t>(r)), row(static_cast<std::size_t>(N));
                    for (std::size_t x = 0; x < c.size(); ++x)
                        for (extent_t j = 0; j < N; ++j)
                            for (extent_t e = 0; e < d; ++e) { c[x] += q(b, h, i, e) * k(b, h / (H / kv), j, e) * down(0, 0, j, extent_t(x)) / std::sqrt(double(H)); }
                    c = softmax_of(c);
                    auto sorted = c;
                    std::sort(sorted.rbegin(), sorted.rend());
                    double const least = sorted[static_cast<std::size_t>(std::min(r, m.coefficients) - 1)];
                    for (extent_t j = 0; j < N; ++j)
                        for (std::size_t x = 0; x < c.size(); ++x) { row[static_cast<std::size_t>(j)] += c[x] >= least && std::abs(up(0, 0, j, extent_t(x))) > 0.2 ? c[x] * std::abs(up(0, 0, j, extent_t(x))) : 0; }
                    auto const kept = static_cast<std::size_t>(std::ceil(m.keep * double(N)));
                    std::size_t counted = 0;
                    double in = INFINITY, out = -INFINITY;
                    for (extent_t j = 0; j < N; ++j) {
                        bool const there = bits.keeps(b, h, i, j);
                        REQUIRE(there == again.keeps(b, h, i, j));
                        counted += there;
                        (there ? in : out) = there ? std::min(in, row[static_cast<std::size_t>(j)]) : std::max(out, row[static_cast<std::size_t>(j)]);
                    }
                    REQUIRE(counted == (i == 0 ? static_cast<std::size_t>(N) : kept));
                    REQUIRE((i == 0 || counted == static_cast<std::size_t>(N) || in >= out - 1e-13));
                }
        m.keep = 1;
        auto const all = heed::select_connections(m, q.in(), k.in());
        for (extent_t j = 0; j < N; ++j) { REQUIRE(all.keeps(1, H - 1, N - 1, j)); }
        m.keep = 0;
        CHECK_THROWS_WITH(heed::select_connections(m, q.in(), k.in()), contains("keeps a part in (0, 1]"));
        CHECK_THROWS_WITH(heed::select_connections(heed::connectivity{down.in(), q.in()}, q.in(), k.in()), contains("the bases up"));
    }
}

TEST_CASE("SpargeAttn's block maps: the filter of plain loops, causal, unlike blocks kept; rows of 8 bits", "[sparse][oracle]") {
    HEED_SEEDED;
    random_source random(783);
    for (int count = 0; count < 8; ++count) {
        extent_t const kv = random.integer(1, 2), H = kv * random.integer(1, 2), M = random.integer(5, 80), N = random.integer(1, M), d = random.integer(2, 6);
        tensor<double> q(heed::shape{1, H, N, d}), k(heed::shape{1, kv, M, d});
        q.normal(random, 0.4, 1), k.normal(random, 0.5, 1); // rows that are rather alike
        heed::sparge const m{random.integer(1, 20), random.integer(1, 12), random.pick({0.2, 0.7}), random.pick({0.3, 0.8}), count % 2 == 1, count % 4 == 2};
        auto const bits = heed::select_sparge(m, q.in(), k.in());
        extent_t const of_q = (N + m.rows - 1) / m.rows, of_k = (M + m.keys - 1) / m.keys;
        INFO("N " << N << " M " << M << " rows " << m.rows << " keys " << m.keys << " theta " << m.theta << " tau " << m.tau);
        for (extent_t h = 0; h < H; ++h) {
            auto const key = [&](extent_t j, extent_t e) {
                double mean = 0;
                for (extent_t x = 0; x < M; ++x) { mean += k(0, h / (H / kv), x, e) / double(M); }
                return k(0, h / (H / kv), j, e) - mean;
            };
            auto const query = [&](extent_t i, extent_t e) { return q(0, h, i, e); };
            auto const mean_of = [&](auto const& x, extent_t first, extent_t end, extent_t e) {
                double sum = 0;
                for (extent_t n = first; n < end; ++n) { sum += x(n, e) / double(end - first); }
                return sum;
            };
            auto const alike = [&](auto const& x, extent_t first, extent_t end) {
                double all = 0;
                for (extent_t a = first; a < end; ++a)
                    for (extent_t c = first; c < end; ++c) {
                        double ac = 0, aa = 0, cc = 0;
                        for (extent_t e = 0; e < d; ++e) { ac += x(a, e) * x(c, e), aa += x(a, e) * x(a, e), cc += x(c, e) * x(c, e); }
                        all += ac / std::sqrt(aa * cc) / double((end - first) * (end - first));
                    }
                return all > m.theta;
            };
            for (extent_t a = 0; a < of_q; ++a) {
                extent_t const q0 = a * m.rows, q1 = std::min(N, q0 + m.rows);
                std::vector<double> s;
                std::vector<bool> there, trusted;
                for (extent_t c = 0; c < of_k; ++c) {
                    extent_t const k0 = c * m.keys, k1 = std::min(M, k0 + m.keys);
                    double x = 0;
                    for (extent_t e = 0; e < d; ++e) { x += mean_of(query, q0, q1, e) * mean_of(key, k0, k1, e) / std::sqrt(double(d)); }
                    there.push_back(!m.causal || k0 <= q1 - 1 + M - N);
                    trusted.push_back(alike(key, k0, k1));
                    s.push_back(there.back() && trusted.back() ? x : -INFINITY);
                }
                auto const p = softmax_of(s);
                std::vector<std::size_t> order(p.size());
                for (std::size_t n = 0; n < order.size(); ++n) { order[n] = n; }
                std::stable_sort(order.begin(), order.end(), [&](std::size_t x, std::size_t y) { return p[x] > p[y]; });
                std::vector<bool> want(p.size());
                double running = 0;
                for (std::size_t n = 0; n < order.size() && p[order[n]] > 0; ++n) {
                    running += p[order[n]];
                    want[order[n]] = n == 0 || running <= m.tau;
                }
                bool const dense = !alike(query, q0, q1);
                for (extent_t c = 0; c < of_k; ++c) {
                    std::size_t const x = static_cast<std::size_t>(c);
                    REQUIRE(bits.keeps(0, h, a, c) == (there[x] && (want[x] || dense || !trusted[x] || (m.keeps_first && c == 0))));
                }
            }
        }
        thread_team team{3};
        auto const dense = heed::select_sparge({m.rows, m.keys, 1}, q.in(), k.in(), heed::cpu{team}); // nothing is alike: every block
        for (extent_t c = 0; c < of_k; ++c) { REQUIRE(dense.keeps(0, H - 1, of_q - 1, c)); }
        auto const rounded = heed::rounded_rows(q.in(), m.rows);
        for (extent_t i = 0; i < N; ++i)
            for (extent_t e = 0; e < d; ++e) {
                double most = 0;
                for (extent_t x = i / m.rows * m.rows; x < std::min(N, (i / m.rows + 1) * m.rows); ++x)
                    for (extent_t y = 0; y < d; ++y) { most = std::max(most, std::abs(q(0, 0, x, y))); }
                REQUIRE(std::abs(rounded.view()(0, 0, i, e) - q(0, 0, i, e)) <= (most / 127 + 1e-7) / 2 + 1e-15);
            }
    }
    tensor<double> x(heed::shape{1, 1, 4, 3});
    x.normal(random);
    CHECK_THROWS_WITH(heed::select_sparge({0, 4}, x.in(), x.in()), contains("sparge{0 rows, 4 keys}"));
}
