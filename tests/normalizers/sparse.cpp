// SPDX-License-Identifier: BSD-3-Clause
// Sparsemax, entmax and top-k against the sorted oracle, by their optimality conditions, on rows made to be hard, and the memory they ask for.
#include "sparse.hpp"

#include <numeric>

using namespace heed_test;

TEST_CASE("normalizers: sparsemax", "[oracle]") {
    HEED_SEEDED;
    try_sparsemax<float>(40);
}
TEST_CASE("normalizers: entmax 1.5", "[oracle]") {
    HEED_SEEDED;
    try_entmax<float>(40);
}
TEST_CASE("normalizers: top k", "[oracle]") {
    HEED_SEEDED;
    try_top_k<float>(12);
}

namespace {

// Weights of rows whose scores are given: q = 1, k = score, v = identity.
template <class T, class N>
std::vector<std::vector<double>> weights_of(N const& normalizer, std::vector<double> const& scores, extent_t copies = 5) {
    extent_t const M = static_cast<extent_t>(scores.size());
    tensor<T> q(heed::shape{1, 1, copies, 1}), k(heed::shape{1, 1, M, 1}), v(heed::shape{1, 1, M, M}), out(heed::shape{1, 1, copies, M});
    q.fill(T(1));
    k.each_at([&](T& x, extent_t, extent_t, extent_t j, extent_t) { x = static_cast<T>(scores[static_cast<std::size_t>(j)]); });
    v.each_at([](T& x, extent_t, extent_t, extent_t j, extent_t e) { x = T(j == e); });
    heed::forward(heed::attention{heed::dot{}, heed::full{}, normalizer}, q.in(), k.in(), v.in(), out.view());
    std::vector<std::vector<double>> rows(static_cast<std::size_t>(copies));
    out.each_at([&](T& x, extent_t, extent_t, extent_t i, extent_t) { rows[static_cast<std::size_t>(i)].push_back(static_cast<double>(x)); });
    return rows;
}
std::vector<std::vector<double>> hard_rows() {
    random_source random(931);
    std::vector<std::vector<double>> rows;
    rows.push_back(std::vector<double>(700, 0.0));   // all equal
    rows.push_back(std::vector<double>(333, -5e5));
    std::vector<double> halving, steps, near, wide, tiny;
    for (int j = 0; j < 60; ++j) { halving.push_back(-std::exp2(-j)); }   // gaps of every size: many steps of Newton
    for (int j = 0; j < 500; ++j) { steps.push_back(-0.002 * (j * 37 % 500)); }
    for (int j = 0; j < 400; ++j) { near.push_back(1 + 1e-6 * random.uniform()); }
    for (int j = 0; j < 200; ++j) { wide.push_back(std::exp2(100 * random.uniform()) * (random.chance(0.5) ? 1 : -1)); }
    for (int j = 0; j < 200; ++j) { tiny.push_back(1e-30 * random.normal()); }
    for (auto const* row : {&halving, &steps, &near, &wide, &tiny}) { rows.push_back(*row); }
    rows.push_back({3.5});
    return rows;
}

} // namespace

TEST_CASE("normalizers: sparsemax is the projection onto the simplex", "[laws]") {
    HEED_SEEDED;
    for (auto const& s : hard_rows()) {
        auto const rows = weights_of<double>(heed::sparsemax{}, s);
        oracle::reals exact(s.begin(), s.end());
        double const t = static_cast<double>(oracle::sparsemax_threshold(exact)), top = *std::max_element(s.begin(), s.end());
        for (auto const& p : rows) {
            double const sum = std::accumulate(p.begin(), p.end(), 0.0);
            CHECK(std::fabs(sum - 1) < 1e-13);
            // the conditions of the projection: p - s is one number -t on the support and at least that outside; p >= 0
            double const slack = 1e-13 * std::max(1.0, std::fabs(top));
            bool optimal = true;
            std::size_t wrong = 0;
            for (std::size_t j = 0; j < p.size(); ++j) {
                optimal = optimal && p[j] >= 0 && (p[j] > 0 ? std::fabs(p[j] - s[j] + t) <= slack : s[j] - t <= slack);
                if (!optimal) { wrong = j; break; }
            }
            INFO("of " << p.size() << " scores up to " << top << ", weight " << wrong << " is " << p[wrong] << ", score " << s[wrong] << ", threshold " << t);
            CHECK(optimal);
        }
    }
}
TEST_CASE("normalizers: entmax sums to 1 and ends where it should", "[laws]") {
    HEED_SEEDED;
    for (auto const& s : hard_rows()) {
        oracle::reals const exact(s.begin(), s.end()), expected = oracle::entmax15(exact, 0);
        for (auto const& p : weights_of<double>(heed::entmax15{}, s)) {
            CHECK(std::fabs(std::accumulate(p.begin(), p.end(), 0.0) - 1) < 1e-13);
            double worst = 0;
            for (std::size_t j = 0; j < p.size(); ++j) { worst = std::max(worst, std::fabs(p[j] - static_cast<double>(expected[j]))); }
            CHECK(worst < 2e-13 * std::max(1.0, std::fabs(*std::max_element(s.begin(), s.end()))));
        }
    }
}
TEST_CASE("normalizers: float rows sum to 1 too", "[laws]") {
    HEED_SEEDED;
    for (auto const& s : hard_rows()) {
        for (auto const& rows : {weights_of<float>(heed::sparsemax{}, s), weights_of<float>(heed::entmax15{}, s), weights_of<float>(heed::top_k_softmax{7}, s)}) {
            for (auto const& p : rows) { CHECK(std::fabs(std::accumulate(p.begin(), p.end(), 0.0) - 1) < 2e-6); }
        }
    }
}
TEST_CASE("normalizers: top k keeps k, and what ties with the last", "[laws]") {
    HEED_SEEDED;
    auto const kept = [](std::vector<double> const& s, extent_t k) {
        auto const rows = weights_of<float>(heed::top_k_softmax{k}, s);
        std::vector<std::size_t> at;
        for (std::size_t j = 0; j < s.size(); ++j) {
            if (rows[0][j] > 0) { at.push_back(j); }
        }
        return at;
    };
    CHECK(kept({0.5, 2, 1, 2, -1}, 1) == std::vector<std::size_t>{1, 3});
    CHECK(kept({0.5, 2, 1, 2, -1}, 2) == std::vector<std::size_t>{1, 3});
    CHECK(kept({0.5, 2, 1, 2, -1}, 3) == std::vector<std::size_t>{1, 2, 3});
    CHECK(kept({0.5, 2, 1, 2, -1}, 9).size() == 5);
    CHECK(kept(std::vector<double>(300, 0.25), 4).size() == 300);
    random_source random(933);
    for (int n = 0; n < 20; ++n) {
        std::vector<double> s;
        for (int j = 0; j < 900; ++j) { s.push_back(static_cast<double>(static_cast<float>(3 * random.normal()))); }
        extent_t const k = random.integer(1, 300);
        std::vector<double> order = s;
        std::sort(order.begin(), order.end(), std::greater<>());
        double const least = order[static_cast<std::size_t>(k - 1)];
        auto const at = kept(s, k);
        CHECK(at.size() >= static_cast<std::size_t>(k));
        for (std::size_t j : at) { CHECK(s[j] >= least); }
    }
}

TEST_CASE("normalizers: rows are kept for a tile of queries, not for all", "[contract]") {
    using heed::shape;
    auto const m = heed::sparsemax_attention();
    auto const bytes = [&](extent_t N, extent_t M) { return heed::plan(m, shape{1, 1, N, 64}, shape{1, 1, M, 64}, shape{1, 1, M, 64}).workspace_bytes(); };
    CHECK(bytes(4096, 1024) == bytes(64, 1024));
    auto const per_key = static_cast<double>(bytes(64, 8192) - bytes(64, 4096)) / 4096;
    CHECK(per_key == static_cast<double>(heed::forward_plan<std::remove_const_t<decltype(m)>, float, heed::cpu<>>::tile_queries()) * sizeof(float));
}
