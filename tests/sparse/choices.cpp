// SPDX-License-Identifier: BSD-3-Clause
// Regions that choose regions, clusters and heads that pick tokens, searches among anchors: plain loops over the choice, central differences, laws, refusals.
#include "slopes.hpp"

#include <gradient/problem.hpp>
#include <support/team.hpp>

#include <heed/front/clusters.hpp>
#include <heed/front/mosa.hpp>
#include <heed/front/regions.hpp>
#include <heed/front/superlinear.hpp>

using namespace heed_test;

namespace {

sizes some_sizes(random_source& random, extent_t points) {
    extent_t const kv = random.integer(1, 2);
    return {random.integer(1, 2), kv * random.integer(1, 2), kv, points, points, random.integer(1, 9), random.integer(1, 9)};
}
// One row of softmax attention over the listed keys.
template <class P>
std::vector<double> row_of(P const& p, extent_t b, extent_t h, extent_t i, std::vector<extent_t> const& keys, double factor) {
    extent_t const g = h / (p.n.heads / p.n.kv_heads);
    std::vector<double> s, out(static_cast<std::size_t>(p.n.value_width));
    for (extent_t const j : keys) {
        double sum = 0;
        for (extent_t e = 0; j >= 0 && e < p.n.width; ++e) { sum += p.q(b, h, i, e) * p.k(b, g, j, e); }
        s.push_back(factor * sum);
    }
    s = softmax_of(s);
    for (std::size_t n = 0; n < keys.size(); ++n)
        for (extent_t e = 0; keys[n] >= 0 && e < p.n.value_width; ++e) { out[static_cast<std::size_t>(e)] += s[n] * p.v(b, g, keys[n], e); }
    return out;
}
// Gradients of a door against its own differences, and its bits on other threads.
template <class M, class... Options>
void try_gradients(M const& m, gradient_problem<double>& p, random_source& random, Options const&... options) {
    auto const saved = heed::forward(m, p.q.in(), p.k.in(), p.v.in(), p.out.view());
    heed::backward(m, p.q.in(), p.k.in(), p.v.in(), p.out.in(), saved, p.dout.in(), p.dq.view(), p.dk.view(), p.dv.view(), options...);
    auto const loss = [&] {
        tensor<double> y(p.n.out());
        heed::forward(m, p.q.in(), p.k.in(), p.v.in(), y.view());
        return dot(y, p.dout);
    };
    REQUIRE(slope_error(loss, p.q, p.dq, random, 1e-7) < 1e-6);
    REQUIRE(slope_error(loss, p.k, p.dk, random, 1e-7) < 1e-6);
    REQUIRE(slope_error(loss, p.v, p.dv, random) < 1e-7);
    thread_team team{3};
    tensor<double> out(p.n.out()), dk(p.n.k());
    auto const again = heed::forward(m, p.q.in(), p.k.in(), p.v.in(), out.view(), heed::cpu{team});
    heed::backward(m, p.q.in(), p.k.in(), p.v.in(), out.in(), again, p.dout.in(), heed::tensor_view<double>(p.dq.view()), dk.view(), p.dv.view(), heed::cpu{team});
    REQUIRE((same_bits(out, p.out) && same_bits(dk, p.dk) && p.intact()));
}

} // namespace

TEST_CASE("regions: the choice and the rows of plain loops, both borders, gradients", "[sparse][oracle]") {
    HEED_SEEDED;
    random_source random(770);
    for (int count = 0; count < 6; ++count) {
        heed::bi_level_regions<double> m{random.integer(1, 9), random.integer(1, 9), random.integer(1, 4), random.integer(1, 4), 1};
        m.top = random.integer(1, std::min<extent_t>(4, m.regions()));
        m.outside = count % 2 == 0 ? heed::border::masked : heed::border::zeros;
        gradient_problem<double> p(some_sizes(random, m.height * m.width), random);
        INFO(p.n << " map " << m.height << " x " << m.width << " regions of " << m.region_height << " x " << m.region_width << " top " << m.top);
        auto const saved = heed::forward(m, p.q.in(), p.k.in(), p.v.in(), p.out.view());
        auto const region_of = [&](extent_t point) { return point / m.width / m.region_height * m.across() + point % m.width / m.region_width; };
        extent_t const R = m.regions(), N = p.n.queries, group = p.n.heads / p.n.kv_heads;
        for (extent_t b = 0; b < p.n.batch; ++b) {
            auto const mean = [&](auto const& x, extent_t h, extent_t r, extent_t e) {
                double sum = 0, points = 0;
                for (extent_t j = 0; j < N; ++j) {
                    if (region_of(j) == r) { sum += x(b, h, j, e), ++points; }
                }
                return sum / points;
            };
            std::vector<std::vector<extent_t>> chosen;
            for (extent_t r = 0; r < R; ++r) {
                std::vector<std::pair<double, extent_t>> score;
                for (extent_t c = 0; c < R; ++c) {
                    double sum = 0;
                    for (extent_t h = 0; h < p.n.heads; ++h)
                        for (extent_t e = 0; e < p.n.width; ++e) { sum += mean(p.q, h, r, e) * mean(p.k, h / group, c, e); }
                    score.push_back({-sum, c});
                }
                std::sort(score.begin(), score.end());
                chosen.emplace_back();
                for (extent_t n = 0; n < m.top; ++n) {
                    chosen.back().push_back(score[static_cast<std::size_t>(n)].second);
                    REQUIRE(saved.choice.lists()(b, 0, r, n) == chosen.back().back());
                }
            }
            for (extent_t h = 0; h < p.n.heads; ++h)
                for (extent_t i = 0; i < N; ++i) {
                    std::vector<extent_t> keys;
                    for (extent_t const c : chosen[static_cast<std::size_t>(region_of(i))]) {
                        extent_t there = 0;
                        for (extent_t j = 0; j < N; ++j) {
                            if (region_of(j) == c) { keys.push_back(j), ++there; }
                        }
                        for (; m.outside == heed::border::zeros && there < m.size(); ++there) { keys.push_back(-1); }
                    }
                    auto const want = row_of(p, b, h, i, keys, 1 / std::sqrt(double(p.n.heads * p.n.width)));
                    for (extent_t e = 0; e < p.n.value_width; ++e) { REQUIRE(std::abs(p.out(b, h, i, e) - want[static_cast<std::size_t>(e)]) < 1e-12); }
                }
        }
        try_gradients(m, p, random);
    }
    gradient_problem<double> p({1, 2, 2, 12, 12, 3, 3}, random);
    auto const refused = [&](heed::bi_level_regions<double> const& m, char const* why) { CHECK_THROWS_WITH(heed::forward(m, p.q.in(), p.k.in(), p.v.in(), p.out.view()), contains(why)); };
    refused({3, 4, 2, 2, 5}, "a region chooses 5 of 4 regions");
    refused({3, 5, 2, 2, 1}, "a map of 3 x 5 points");
    refused({3, 4, 0, 2, 1}, "regions of 0 x 2 points");
    tensor<double> dense(p.n.out());
    heed::forward(heed::bi_level_regions<double>{3, 4, 2, 2, 4}, p.q.in(), p.k.in(), p.v.in(), p.out.view()); // every region chosen
    heed::full const all;
    heed::forward(heed::chosen_attention(heed::any_pattern(all), 1 / std::sqrt(6.0)), p.q.in(), p.k.in(), p.v.in(), dense.view());
    CHECK(largest_difference(p.out, dense) < 1e-13);
}

TEST_CASE("clusters: plain loops over the tokens they take, memories, tokens alone, gradients", "[sparse][oracle]") {
    HEED_SEEDED;
    random_source random(771);
    for (int count = 0; count < 6; ++count) {
        sizes n = some_sizes(random, random.integer(4, 40));
        extent_t const C = random.integer(1, 4), w = random.integer(1, n.queries), memories = count % 3 == 1 ? 2 : 0;
        bool const shared = count % 3 == 2, causal = count % 2 == 1 || shared;
        gradient_problem<double> p(n, random);
        tensor<double> means(heed::shape{1, n.heads, C, n.width}), mk(heed::shape{1, n.heads * C, memories, n.width}), mv(heed::shape{1, n.heads * C, memories, n.value_width}), dmk(mk.shape()), dmv(mv.shape());
        means.normal(random), mk.normal(random), mv.normal(random);
        auto taken = heed::take_clusters(heed::unit_rows(p.q.in()).view(), heed::unit_rows(p.k.in()).view(), means.in(), w);
        if (shared) { taken.keys = taken.queries; }
        heed::clusters<double> m{taken, causal, 1e-2, shared};
        if (memories > 0) { m.memory_keys = mk.in(), m.memory_values = mv.in(); }
        heed::forward(m, p.q.in(), p.k.in(), p.v.in(), p.out.view());
        INFO(n << " clusters " << C << " window " << w << " memories " << memories << " shared " << shared);
        tensor<double> want(n.out());
        want.fill(0);
        for (extent_t b = 0; b < n.batch; ++b)
            for (extent_t h = 0; h < n.heads; ++h) {
                std::vector<int> picks(static_cast<std::size_t>(n.queries));
                for (extent_t c = 0; c < C; ++c) {
                    // the window is the best tokens of the product with the mean
                    double least = INFINITY, most_left = -INFINITY;
                    for (extent_t i = 0; i < n.queries; ++i) {
                        double s = 0, squares = 0;
                        for (extent_t e = 0; e < n.width; ++e) { s += means(0, h, c, e) * p.q(b, h, i, e), squares += p.q(b, h, i, e) * p.q(b, h, i, e); }
                        s /= std::sqrt(squares);
                        bool in = false;
                        for (extent_t x = 0; x < w; ++x) { in = in || taken.queries.at()(b, h * C + c, x, 0) == i; }
                        (in ? least : most_left) = in ? std::min(least, s) : std::max(most_left, s);
                    }
                    REQUIRE(least >= most_left - 1e-12);
                    for (extent_t x = 0; x < w; ++x) {
                        extent_t const i = taken.queries.at()(b, h * C + c, x, 0), g = h / (n.heads / n.kv_heads);
                        std::vector<double> s;
                        std::vector<std::vector<double>> value;
                        auto const take = [&](auto const& key, auto const& of_value) {
                            double sum = 0;
                            std::vector<double> row;
                            for (extent_t e = 0; e < n.width; ++e) { sum += p.q(b, h, i, e) * key(e); }
                            for (extent_t e = 0; e < n.value_width; ++e) { row.push_back(of_value(e)); }
                            s.push_back(sum / std::sqrt(double(n.width))), value.push_back(row);
                        };
                        for (extent_t y = 0; y < memories; ++y) { take([&](extent_t e) { return mk(0, h * C + c, y, e); }, [&](extent_t e) { return mv(0, h * C + c, y, e); }); }
                        auto const token = [&](extent_t j) { take([&](extent_t e) { return p.k(b, g, j, e); }, [&](extent_t e) { return p.v(b, g, j, e); }); };
                        for (extent_t y = 0; y < w; ++y) {
                            extent_t const j = taken.keys.at()(b, h * C + c, y, 0);
                            if (!causal || j < i || (j == i && !shared)) { token(j); }
                        }
                        if (shared && s.empty()) { token(i); }
                        auto const weight = softmax_of(s);
                        for (std::size_t y = 0; y < weight.size(); ++y)
                            for (extent_t e = 0; e < n.value_width; ++e) { want(b, h, i, e) += weight[y] * value[y][static_cast<std::size_t>(e)]; }
                        ++picks[static_cast<std::size_t>(i)];
                    }
                }
                for (extent_t i = 0; i < n.queries; ++i)
                    for (extent_t e = 0; e < n.value_width; ++e) { want(b, h, i, e) /= picks[static_cast<std::size_t>(i)] + 1e-2; }
            }
        REQUIRE(largest_difference(p.out, want) < 1e-12);
        try_gradients(m, p, random, heed::cluster_memory_gradients{memories > 0 ? dmk.view() : heed::tensor_view<double>(), memories > 0 ? dmv.view() : heed::tensor_view<double>()});
        if (memories == 0) { continue; }
        auto const loss = [&] {
            tensor<double> y(n.out());
            heed::forward(m, p.q.in(), p.k.in(), p.v.in(), y.view());
            return dot(y, p.dout);
        };
        REQUIRE((slope_error(loss, mk, dmk, random) < 1e-7 && slope_error(loss, mv, dmv, random) < 1e-7));
    }
    gradient_problem<double> p({1, 2, 1, 9, 9, 4, 3}, random);
    tensor<double> means(heed::shape{1, 2, 1, 4}), dense(p.n.out());
    means.normal(random);
    auto const all = heed::take_clusters(p.q.in(), p.k.in(), means.in(), 9);
    heed::forward(heed::clusters<double>{all, true, 0}, p.q.in(), p.k.in(), p.v.in(), p.out.view()); // one cluster of everything
    heed::causal_bottom_right const causal;
    heed::forward(heed::chosen_attention(heed::any_pattern(causal), 0.5), p.q.in(), p.k.in(), p.v.in(), dense.view());
    CHECK(largest_difference(p.out, dense) < 1e-13);
    CHECK_THROWS_WITH(heed::take_clusters(p.q.in(), p.k.in(), means.in(), 10), contains("picks 10 of 9 tokens"));
    CHECK_THROWS_WITH(heed::take_clusters(p.k.in(), p.k.in(), means.in(), 2), contains("means of clusters for 2 heads and q of 1"));
    gradient_problem<double> few({1, 2, 1, 5, 5, 4, 3}, random);
    CHECK_THROWS_WITH(heed::forward(heed::clusters<double>{all}, few.q.in(), few.k.in(), few.v.in(), few.out.view()), contains("took token 8 of 5"));
}

TEST_CASE("means of clusters move towards their tokens", "[sparse]") {
    HEED_SEEDED;
    random_source random(772);
    extent_t const H = 2, C = 3, d = 4, N = 25;
    tensor<double> x(heed::shape{1, H, N, d}), first(heed::shape{1, H, C, d});
    x.normal(random), first.normal(random);
    for (auto const rule : {heed::mean_rule::counted, heed::mean_rule::unit}) {
        heed::cluster_means<double> means(H, C, d);
        means.set(first.in());
        means.update(x.in(), 0.9, rule);
        for (extent_t h = 0; h < H; ++h) {
            std::vector<std::vector<double>> sum(3, std::vector<double>(4));
            std::vector<double> count(3);
            for (extent_t i = 0; i < N; ++i) {
                std::vector<double> s(3);
                for (extent_t c = 0; c < C; ++c)
                    for (extent_t e = 0; e < d; ++e) { s[static_cast<std::size_t>(c)] += first(0, h, c, e) * x(0, h, i, e); }
                auto const best = static_cast<std::size_t>(std::max_element(s.begin(), s.end()) - s.begin());
                ++count[best];
                for (extent_t e = 0; e < d; ++e) { sum[best][static_cast<std::size_t>(e)] += x(0, h, i, e); }
            }
            for (std::size_t c = 0; c < 3; ++c) {
                double squares = 0;
                std::vector<double> want(4);
                for (std::size_t e = 0; e < 4; ++e) {
                    double const old = first(0, h, extent_t(c), extent_t(e));
                    want[e] = count[c] == 0 ? old : rule == heed::mean_rule::counted ? (0.9 * old + 0.1 * sum[c][e]) / (0.9 + 0.1 * count[c] + 1e-5) : 0.9 * old + 0.1 * sum[c][e] / count[c];
                    squares += want[e] * want[e];
                }
                for (std::size_t e = 0; e < 4; ++e) { CHECK(means.view()(0, h, extent_t(c), extent_t(e)) == approx(want[e] / (rule == heed::mean_rule::unit && count[c] > 0 ? std::sqrt(squares) : 1)).margin(1e-13)); }
            }
        }
    }
    CHECK_THROWS_WITH(heed::cluster_means<double>(2, 4, 4).set(first.in()), contains("the means"));
}

TEST_CASE("heads that pick tokens: rows times their weights, in the order of time, gradients of all", "[sparse][oracle]") {
    HEED_SEEDED;
    random_source random(773);
    for (int count = 0; count < 4; ++count) {
        extent_t const E = random.integer(1, 3), N = random.integer(5, 40), w = random.integer(1, N);
        sizes const n{random.integer(1, 2), E, E, w, w, random.integer(1, 8), random.integer(1, 8)};
        gradient_problem<double> p(n, random);
        tensor<double> r(heed::shape{n.batch, 1, E, N}), dr(r.shape());
        r.each([&](double& x) { x = random.uniform(0.1, 0.9); });
        auto const picked = heed::pick_tokens(r.in(), w);
        heed::mosa const m{picked, r.in()};
        heed::forward(m, p.q.in(), p.k.in(), p.v.in(), p.out.view());
        for (extent_t b = 0; b < n.batch; ++b)
            for (extent_t h = 0; h < E; ++h)
                for (extent_t i = 0; i < w; ++i) {
                    std::vector<extent_t> keys;
                    for (extent_t j = 0; j < w; ++j) {
                        if (picked.at()(b, h, j, 0) <= picked.at()(b, h, i, 0)) { keys.push_back(j); }
                    }
                    auto const want = row_of(p, b, h, i, keys, 1 / std::sqrt(double(n.width)));
                    for (extent_t e = 0; e < n.value_width; ++e) { REQUIRE(std::abs(p.out(b, h, i, e) - r(b, 0, h, picked.at()(b, h, i, 0)) * want[static_cast<std::size_t>(e)]) < 1e-12); }
                }
        try_gradients(m, p, random, heed::pick_weight_gradient{dr.view()});
        auto const loss = [&] {
            tensor<double> y(n.out());
            heed::forward(m, p.q.in(), p.k.in(), p.v.in(), y.view());
            return dot(y, p.dout);
        };
        REQUIRE(slope_error(loss, r, dr, random, 1e-7) < 1e-6);
    }
    gradient_problem<double> p({1, 2, 2, 3, 3, 4, 3}, random);
    tensor<double> r(heed::shape{1, 1, 2, 6}), few(heed::shape{1, 1, 3, 6});
    r.normal(random);
    auto const picked = heed::pick_tokens(r.in(), 4), three = heed::pick_tokens(r.in(), 3);
    CHECK_THROWS_WITH(heed::forward(heed::mosa{picked, r.in()}, p.q.in(), p.k.in(), p.v.in(), p.out.view()), contains("2 heads and 4 places; q has 1, 2 and 3"));
    CHECK_THROWS_WITH(heed::forward(heed::mosa{three, few.in()}, p.q.in(), p.k.in(), p.v.in(), p.out.view()), contains("tokens were picked by 2 in 1"));
}

TEST_CASE("powers and roots of integers are exact", "[sparse]") {
    for (extent_t i = 0; i < 3000; ++i) {
        REQUIRE(heed::exact_power(i, {1, 2}) == i * i);
        REQUIRE(heed::exact_power(i, {1, 1}) == i);
        extent_t const n = heed::exact_power(i, {2, 3}); // n^2 <= i^3 < (n + 1)^2
        REQUIRE((n * n <= i * i * i && (n + 1) * (n + 1) > i * i * i));
        extent_t const root = heed::ceil_root(i);
        REQUIRE((root * root >= i && (root == 0 || (root - 1) * (root - 1) < i)));
    }
    CHECK(heed::exact_power(1000, {11, 20}) == 284803); // 1000^(20/11) = 284803.58...
}

TEST_CASE("superlinear attention: anchors, spans and gates of plain loops, gradients, nothing of the future", "[sparse][oracle]") {
    HEED_SEEDED;
    random_source random(774);
    for (int count = 0; count < 6; ++count) {
        extent_t const kv = random.integer(1, 2), M = random.integer(1, 90);
        sizes const n{random.integer(1, 2), kv * random.integer(1, 2), kv, random.integer(1, M), M, random.integer(1, 20), random.integer(1, 9)};
        gradient_problem<double> p(n, random);
        tensor<double> search(n.q()), dsearch(n.q());
        search.normal(random, 0.3);
        heed::superlinear<double> m{search.in(), random.integer(0, 3), random.integer(1, 3), random.integer(1, 3), random.integer(0, 1)};
        auto const saved = heed::forward(m, p.q.in(), p.k.in(), p.v.in(), p.out.view());
        extent_t const window = (m.near + 1) * (m.near + 1) - 1, shift = M - n.queries, group = n.heads / kv;
        INFO(n << " near " << m.near << " top " << m.top << " back " << m.back << " ahead " << m.ahead);
        for (extent_t b = 0; b < n.batch; ++b)
            for (extent_t h = 0; h < n.heads; ++h)
                for (extent_t i = 0; i < n.queries; ++i) {
                    extent_t const t = i + shift;
                    std::vector<std::pair<double, extent_t>> found;
                    for (extent_t x = m.near + 1; x * x - 1 <= t; ++x) {
                        double s = 0;
                        for (extent_t e = 0; e < n.width; ++e) { s += search(b, h, i, e) * p.k(b, h / group, t - (x * x - 1), e); }
                        found.push_back({s, t - (x * x - 1)});
                    }
                    std::stable_sort(found.begin(), found.end(), [](auto const& x, auto const& y) { return x.first > y.first; });
                    found.resize(std::min(found.size(), static_cast<std::size_t>(m.top)));
                    std::vector<double> score, want(static_cast<std::size_t>(n.value_width));
                    for (auto const& [s, a] : found) { score.push_back(s); }
                    auto const gate = softmax_of(score);
                    for (std::size_t x = 0; x < std::max<std::size_t>(1, found.size()); ++x) {
                        std::vector<extent_t> keys;
                        for (extent_t j = 0; j <= t; ++j) {
                            bool const in_span = x < found.size() && j >= found[x].second - heed::ceil_root(m.back * m.back * (t + 1)) && j <= found[x].second + heed::ceil_root(m.ahead * m.ahead * (t + 1)) && j <= t - window;
                            if (in_span || j > t - window) { keys.push_back(j); }
                        }
                        auto const row = row_of(p, b, h, i, keys, 1 / std::sqrt(double(n.width)));
                        for (std::size_t e = 0; e < want.size(); ++e) { want[e] += (found.empty() ? 1 : gate[x]) * row[e]; }
                        if (x < found.size()) { REQUIRE(saved.anchors()(b, h, i, extent_t(x)) == found[x].second); }
                    }
                    for (extent_t e = 0; e < n.value_width; ++e) { REQUIRE(std::abs(p.out(b, h, i, e) - want[static_cast<std::size_t>(e)]) < 1e-12); }
                }
        try_gradients(m, p, random, heed::search_gradient{dsearch.view()});
        auto const loss = [&] {
            tensor<double> y(n.out());
            heed::forward(m, p.q.in(), p.k.in(), p.v.in(), y.view());
            return dot(y, p.dout);
        };
        REQUIRE(slope_error(loss, search, dsearch, random, 1e-7) < 1e-6);
        extent_t const cut = random.integer(0, M - 1);
        tensor<double> later(n.out());
        p.k.each_at([&](double& x, extent_t, extent_t, extent_t j, extent_t) { x = j > cut ? 1e3 : x; });
        p.v.each_at([&](double& x, extent_t, extent_t, extent_t j, extent_t) { x = j > cut ? NAN : x; });
        heed::forward(m, p.q.in(), p.k.in(), p.v.in(), later.view());
        later.each_at([&](double& x, extent_t b, extent_t h, extent_t i, extent_t e) { REQUIRE((i + shift > cut || x == p.out(b, h, i, e))); });
    }
    gradient_problem<double> p({1, 2, 1, 15, 15, 4, 3}, random);
    tensor<double> search(p.n.q()), dense(p.n.out());
    search.normal(random);
    heed::forward(heed::superlinear<double>{search.in(), 3, 2}, p.q.in(), p.k.in(), p.v.in(), p.out.view()); // a window of 15
    heed::causal_bottom_right const causal;
    heed::forward(heed::chosen_attention(heed::any_pattern(causal), 0.5), p.q.in(), p.k.in(), p.v.in(), dense.view());
    CHECK(largest_difference(p.out, dense) < 1e-14);
    CHECK_THROWS_WITH(heed::forward(heed::superlinear<double>{search.in(), 3, 0}, p.q.in(), p.k.in(), p.v.in(), p.out.view()), contains("superlinear{near 3, top 0"));
    tensor<double> narrow(heed::shape{1, 2, 15, 3});
    CHECK_THROWS_WITH(heed::forward(heed::superlinear<double>{narrow.in()}, p.q.in(), p.k.in(), p.v.in(), p.out.view()), contains("the search queries"));
}
