// SPDX-License-Identifier: BSD-3-Clause
// Random calls for score policies.
#pragma once

#include <support/catch.hpp>
#include <support/problem.hpp>

namespace heed_test {

inline sizes random_score_sizes(random_source& random) {
    sizes n;
    n.queries = random.integer(1, 60);
    n.keys = random.integer(1, 300);
    n.width = random.integer(1, 40);
    n.value_width = random.integer(1, 40);
    n.kv_heads = random.integer(1, 2);
    n.heads = n.kv_heads * random.integer(1, 3);
    n.batch = random.integer(1, 2);
    return n;
}
// Each axis of `full` whole or 1.
inline heed::shape broadcast(heed::shape full, random_source& random) {
    auto const either = [&](extent_t n) { return random.chance(0.5) ? n : 1; };
    heed::shape s;
    s.batch = either(full.batch);
    s.head = either(full.head);
    s.seq = either(full.seq);
    s.feature = either(full.feature);
    return s;
}

// make(problem, exact case, random) returns the score and tells the oracle of it.
template <class T, class Make>
void try_score(int count, std::uint64_t stream, Make make) {
    random_source random(stream);
    for (int i = 0; i < count; ++i) {
        problem<T> p(random_score_sizes(random), random);
        auto c = p.exact();
        auto const score = make(p, c, random);
        auto const found = run_and_compare(p, heed::attention{score}, c);
        INFO(p.n << " " << found.text);
        REQUIRE(found.good());
    }
}
template <class T>
tensor<T> per_head_numbers(extent_t heads, random_source& random, double low, double high) {
    tensor<T> t(heed::shape{1, heads, 1, 1});
    t.each([&](T& x) { x = static_cast<T>(random.uniform(low, high)); });
    return t;
}

// A score of five lines: half the raw score and a wave of the distance.
struct wave {
    template <class V, class Pair>
    V operator()(V raw, Pair const& p) const {
        using heed::math::abs;
        return raw * V(0.5f) + abs(heed::to_value<V>(p.distance()) * V(0.01f) - V(1.0f));
    }
};

} // namespace heed_test
