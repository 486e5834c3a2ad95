// SPDX-License-Identifier: BSD-3-Clause
// One mechanism on random sizes, odd ones among them, against the oracle.
#pragma once

#include <oracle/contractions.hpp>
#include <support/catch.hpp>
#include <support/problem.hpp>

#include <heed/policy/normalize/tropical.hpp>
#include <heed/policy/score/contractions.hpp>

namespace heed_test {

inline sizes random_sizes(random_source& random) {
    extent_t const kv = random.integer(1, 2), group = random.integer(1, 3);
    sizes n{random.integer(1, 2), kv * group, kv, random.integer(1, 60), random.integer(1, 150), random.integer(1, 20), random.integer(1, 20)};
    if (random.chance(0.3)) { n.keys = random.integer(120, 300); }
    return n;
}

// `tolerance` is of the largest magnitude of scores and values; `keep` builds the relation for a shape.
template <class T, class M, class Keep, class Score, class Gather>
void try_pairs(int rounds, M const& mechanism, Keep const& keep, Score const& score, Gather const& gather, double tolerance, std::uint64_t stream = 7) {
    random_source random(stream);
    for (int round = 0; round < rounds; ++round) {
        sizes const n = random_sizes(random);
        INFO(n);
        problem<T> p(n, random);
        heed::forward(mechanism, p.q.in(), p.k.in(), p.v.in(), p.out.view());
        oracle::pair_case const c{oracle::read(p.q.in()), oracle::read(p.k.in()), oracle::read(p.v.in()), keep(n.pairs()), score, gather};
        oracle::array const expected = oracle::attend_pairs(c);
        verdict v;
        for (extent_t b = 0; b < n.batch; ++b)
            for (extent_t h = 0; h < n.heads; ++h)
                for (extent_t i = 0; i < n.queries; ++i)
                    for (extent_t e = 0; e < n.value_width; ++e) { v.look("out", b, h, i, e, static_cast<double>(p.out(b, h, i, e)), expected(b, h, i, e), tolerance); }
        REQUIRE(v.text == "");
        REQUIRE(p.out.intact());
    }
}

} // namespace heed_test
