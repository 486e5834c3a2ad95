// SPDX-License-Identifier: BSD-3-Clause
// Elements that are not finite, one by one and wherever nobody looks.
#pragma once

#include <support/catch.hpp>
#include <support/problem.hpp>

namespace heed_test {

inline float const inf = std::numeric_limits<float>::infinity();
inline float const not_a_number = std::numeric_limits<float>::quiet_NaN();
inline auto const score = heed::dot{} | heed::inv_sqrt_width{};

enum class victim { q, k, v };

// One poisoned element; rows and columns that change must be exactly those that attend it, all others keep their bits.
template <class M, class Keep>
void poison_one(M const& m, Keep keep, sizes n, std::uint64_t stream) {
    random_source random(stream);
    problem<float> p(n, random);
    p.run(m);
    tensor<float> const clean_out = [&] {
        tensor<float> t(n.out());
        t.copy(p.out.in());
        return t;
    }();
    tensor<float> clean_lse(n.lse());
    clean_lse.copy(p.lse.in());
    extent_t const group = n.heads / n.kv_heads;
    for (float poison : {not_a_number, inf, -inf}) {
        for (victim where : {victim::q, victim::k, victim::v}) {
            for (int round = 0; round < 12; ++round) {
                extent_t const b = random.integer(0, n.batch - 1);
                extent_t const h = random.integer(0, where == victim::q ? n.heads - 1 : n.kv_heads - 1);
                extent_t const row = random.integer(0, where == victim::q ? n.queries - 1 : n.keys - 1);
                extent_t const d = random.integer(0, where == victim::v ? n.value_width - 1 : n.width - 1);
                tensor<float>& t = where == victim::q ? p.q : where == victim::k ? p.k : p.v;
                float const before = t(b, h, row, d);
                t(b, h, row, d) = poison;
                p.out.fill(-1);
                p.run(m);
                t(b, h, row, d) = before;
                bool exactly = true;
                for (extent_t ob = 0; ob < n.batch; ++ob)
                    for (extent_t oh = 0; oh < n.heads; ++oh)
                        for (extent_t i = 0; i < n.queries; ++i) {
                            bool sees = ob == b && (where == victim::q ? oh == h && i == row : oh / group == h && keep(i, row));
                            if (where == victim::q && sees) {
                                sees = false; // a query that attends nothing is not asked
                                for (extent_t j = 0; j < n.keys; ++j) { sees = sees || keep(i, j); }
                            }
                            for (extent_t e = 0; e < n.value_width; ++e) {
                                float const got = p.out(ob, oh, i, e), clean = clean_out(ob, oh, i, e);
                                if (!sees) {
                                    exactly = exactly && std::memcmp(&got, &clean, sizeof got) == 0;
                                } else if (where == victim::v && e != d) { // another feature: the sum may run in another order
                                    exactly = exactly && std::fabs(got - clean) <= 1e-5f;
                                } else if (std::isnan(poison)) {
                                    exactly = exactly && std::isnan(got);
                                } else if (where == victim::v) {
                                    exactly = exactly && (got == poison || std::isnan(got)); // a weight may be 0
                                }
                            }
                            if (!sees || where == victim::v) {
                                float const got = p.lse(ob, oh, i, 0), clean = clean_lse(ob, oh, i, 0);
                                exactly = exactly && std::memcmp(&got, &clean, sizeof got) == 0;
                            } else if (std::isnan(poison)) {
                                exactly = exactly && std::isnan(p.lse(ob, oh, i, 0));
                            }
                        }
                INFO(n << ", " << poison << " in " << (where == victim::q ? "q" : where == victim::k ? "k" : "v") << "(" << b << ", " << h << ", " << row << ", " << d << ")");
                REQUIRE(exactly);
            }
        }
    }
}

// Everything that no row attends is filled with `poison`; nothing may change.
template <class M, class Keep>
void poison_all_masked(M const& m, Keep keep, sizes n, std::uint64_t stream) {
    random_source random(stream);
    problem<float> p(n, random);
    p.run(m);
    tensor<float> clean(n.out());
    clean.copy(p.out.in());
    for (float poison : {not_a_number, inf, -inf}) {
        bool any = false;
        for (extent_t j = 0; j < n.keys; ++j) {
            bool attended = false;
            for (extent_t i = 0; i < n.queries; ++i) { attended = attended || keep(i, j); }
            if (attended) { continue; }
            any = true;
            for (extent_t b = 0; b < n.batch; ++b)
                for (extent_t h = 0; h < n.kv_heads; ++h) {
                    for (extent_t d = 0; d < n.width; ++d) { p.k(b, h, j, d) = poison; }
                    for (extent_t d = 0; d < n.value_width; ++d) { p.v(b, h, j, d) = poison; }
                }
        }
        REQUIRE(any);
        p.run(m);
        INFO(n << " poison " << poison);
        REQUIRE(same_bits(clean, p.out));
    }
}

} // namespace heed_test
