// SPDX-License-Identifier: BSD-3-Clause
// Softmax over scores that are no dot products: distances, additive attention.
#include "try_pairs.hpp"

using namespace heed_test;
using oracle::number;

TEST_CASE("contractions: softmax of squared distances and of L1 distances", "[oracle]") {
    HEED_SEEDED;
    auto const gaussian = heed::attention{heed::squared_distance{} | heed::scale{-0.5}, heed::full{}, heed::softmax{}};
    try_pairs<double>(20, gaussian, oracle::everything,
                      [](extent_t h, auto const& q, auto const& k) { return -oracle::summed([](number a, number b) { return (a - b) * (a - b); })(h, q, k) / 2; }, oracle::softmax_sum, 1e-12);
    auto const laplacian = heed::attention{heed::l1_distance{} | heed::scale{-0.5f}, heed::causal_bottom_right{}, heed::softmax{}};
    try_pairs<float>(20, laplacian, oracle::causal_bottom_right,
                     [](extent_t h, auto const& q, auto const& k) { return -oracle::summed([](number a, number b) { return std::fabs(a - b); })(h, q, k) / 2; }, oracle::softmax_sum, 2e-5);
}

namespace {
template <class T, class F>
void try_additive(F f, double tolerance) {
    random_source random(21);
    for (int round = 0; round < 12; ++round) {
        sizes const n = random_sizes(random);
        bool const per_head = random.chance(0.5);
        tensor<T> w({1, per_head ? n.heads : 1, 1, n.width});
        w.normal(random);
        problem<T> p(n, random);
        auto const m = heed::attention{heed::additive{f, w.in()}, heed::causal_bottom_right{}, heed::softmax{}};
        heed::forward(m, p.q.in(), p.k.in(), p.v.in(), p.out.view());
        auto const score = [&](extent_t h, oracle::numbers const& q, oracle::numbers const& k) {
            number sum = 0;
            for (std::size_t c = 0; c < q.size(); ++c) {
                number const x = q[c] + k[c];
                sum += w(0, per_head ? h : 0, 0, static_cast<extent_t>(c)) * (std::is_same_v<F, heed::tanh_activation> ? std::tanh(x) : x > 0 ? x : x * number(0.2f));
            }
            return sum;
        };
        oracle::array const expected = oracle::attend_pairs(
            {oracle::read(p.q.in()), oracle::read(p.k.in()), oracle::read(p.v.in()), oracle::causal_bottom_right(n.pairs()), score, oracle::softmax_sum});
        INFO(n);
        p.out.each_at([&](T& x, extent_t b, extent_t h, extent_t i, extent_t e) { REQUIRE(std::fabs(static_cast<double>(x) - expected(b, h, i, e)) <= tolerance); });
        REQUIRE(p.out.intact());
    }
}
} // namespace
TEST_CASE("contractions: additive attention", "[oracle]") {
    HEED_SEEDED;
    try_additive<float>(heed::tanh_activation{}, 1e-5);
    try_additive<double>(heed::leaky_relu{0.2f}, 1e-12);
}
