// SPDX-License-Identifier: BSD-3-Clause
// Scores other than dot products and values gathered by other sums, dense, in long double, from the equations. A score sees the two rows; a gathering
// sees the scores and one feature of the values of the keys that the row attends.
#pragma once

#include "relations.hpp"

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <vector>

namespace heed_test::oracle {

using number = long double;
using numbers = std::vector<number>;

struct pair_case {
    array q, k, v;  // {B, H, N, d}, {B, Hkv, M, d}, {B, Hkv, M, dv}
    relation keep;  // {B, H, N, M}
    std::function<number(extent_t head, numbers const& q, numbers const& k)> score;
    std::function<number(numbers const& scores, numbers const& values)> gather;
};

inline numbers row_of(array const& x, extent_t b, extent_t h, extent_t n) {
    numbers r;
    for (extent_t c = 0; c < x.s.feature; ++c) { r.push_back(x(b, h, n, c)); }
    return r;
}

inline array attend_pairs(pair_case const& c) {
    extent_t const B = c.q.s.batch, H = c.q.s.head, N = c.q.s.seq, M = c.k.s.seq, Dv = c.v.s.feature, group = c.k.s.head == 0 ? 1 : H / c.k.s.head;
    array out({B, H, N, Dv});
    for (extent_t b = 0; b < B; ++b)
        for (extent_t h = 0; h < H; ++h)
            for (extent_t i = 0; i < N; ++i) {
                numbers s;
                std::vector<extent_t> key;
                for (extent_t j = 0; j < M; ++j) {
                    if (c.keep(b, h, i, j) == 0) { continue; }
                    s.push_back(c.score(h, row_of(c.q, b, h, i), row_of(c.k, b, h / group, j)));
                    key.push_back(j);
                }
                for (extent_t e = 0; e < Dv; ++e) {
                    numbers v;
                    for (extent_t j : key) { v.push_back(c.v(b, h / group, j, e)); }
                    out(b, h, i, e) = static_cast<double>(c.gather(s, v));
                }
            }
    return out;
}

// sum over features of f(q_c, k_c)
template <class F>
auto summed(F f) {
    return [f](extent_t, numbers const& q, numbers const& k) {
        number sum = 0;
        for (std::size_t c = 0; c < q.size(); ++c) { sum += f(q[c], k[c]); }
        return sum;
    };
}
inline number greatest_sum(extent_t, numbers const& q, numbers const& k) {
    number top = -std::numeric_limits<number>::infinity();
    for (std::size_t c = 0; c < q.size(); ++c) { top = std::max(top, q[c] + k[c]); }
    return top;
}
inline number least_sum(extent_t, numbers const& q, numbers const& k) {
    number low = std::numeric_limits<number>::infinity();
    for (std::size_t c = 0; c < q.size(); ++c) { low = std::min(low, q[c] + k[c]); }
    return low;
}
// minus Hilbert's projective metric, symmetric and one-sided
inline number hilbert_score(extent_t, numbers const& q, numbers const& k) {
    number most = 0;
    for (std::size_t a = 0; a < q.size(); ++a)
        for (std::size_t b = 0; b < q.size(); ++b) { most = std::max(most, (q[a] - k[a]) - (q[b] - k[b])); }
    return -most;
}
inline number one_sided_score(extent_t, numbers const& q, numbers const& k) {
    number total = 0;
    for (std::size_t a = 0; a < q.size(); ++a) {
        number most = 0;
        for (std::size_t b = 0; b < q.size(); ++b) { most = std::max(most, (q[a] - k[a]) - (q[b] - k[b])); }
        total += most;
    }
    return -total;
}

inline number softmax_sum(numbers const& s, numbers const& v) {
    if (s.empty()) { return 0; }
    number const top = *std::max_element(s.begin(), s.end());
    number sum = 0, mass = 0;
    for (std::size_t j = 0; j < s.size(); ++j) {
        number const p = std::exp(s[j] - top);
        mass += p;
        sum += p * v[j];
    }
    return sum / mass;
}
inline number greatest(numbers const& s, numbers const& v) {
    number top = -std::numeric_limits<number>::infinity();
    for (std::size_t j = 0; j < s.size(); ++j) { top = std::max(top, s[j] + v[j]); }
    return top;
}
inline number least(numbers const& s, numbers const& v) {
    number low = std::numeric_limits<number>::infinity();
    for (std::size_t j = 0; j < s.size(); ++j) { low = std::min(low, s[j] + v[j]); }
    return low;
}

} // namespace heed_test::oracle
