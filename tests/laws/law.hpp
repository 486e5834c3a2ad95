// SPDX-License-Identifier: BSD-3-Clause
// A law is a property over random calls. The seed is the one of support/random.hpp, unless RC_PARAMS names another; a failure
// prints the smallest call found and the RC_PARAMS that repeat it.
#pragma once

#include <support/catch.hpp>
#include <support/problem.hpp>

#include <rapidcheck.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <numeric>
#include <string>
#include <vector>

namespace heed_test {

template <class F>
void law(char const* text, F const& holds) {
    setenv("RC_PARAMS", ("seed=" + std::to_string(seed())).c_str(), 0); // read once, at the first check
    INFO(repeat_line());
    REQUIRE(rc::check(text, holds));
}

inline extent_t draw(extent_t low, extent_t high) { return *rc::gen::inRange<extent_t>(low, high + 1); } // both included
inline random_source draw_source() { return random_source(*rc::gen::noShrink(rc::gen::arbitrary<std::uint64_t>())); }
inline sizes draw_sizes() {
    sizes n;
    n.batch = draw(1, 2);
    n.kv_heads = draw(1, 2);
    n.heads = n.kv_heads * draw(1, 3);
    n.queries = draw(1, 150);
    n.keys = draw(1, 150);
    n.width = draw(1, 40);
    n.value_width = draw(1, 40);
    RC_LOG() << n << '\n';
    return n;
}
inline problem<float> draw_problem(sizes n) {
    random_source random = draw_source();
    return {n, random};
}
inline problem<float> draw_problem() { return draw_problem(draw_sizes()); }

// The same numbers in memory of their own.
inline tensor<float> copy_of(heed::tensor_view<float const> from) {
    tensor<float> t(from.shape());
    t.copy(from);
    return t;
}
inline problem<float> problem_of(heed::tensor_view<float const> q, heed::tensor_view<float const> k, heed::tensor_view<float const> v) {
    random_source unused;
    problem<float> p(sizes{q.extent(0), q.extent(1), k.extent(1), q.extent(2), k.extent(2), q.extent(3), v.extent(3)}, unused);
    p.q.copy(q);
    p.k.copy(k);
    p.v.copy(v);
    return p;
}
inline problem<float> same_inputs(problem<float> const& p) { return problem_of(p.q.in(), p.k.in(), p.v.in()); }

// One batch entry, one head, or a run of positions.
template <class T>
heed::tensor_view<T> entry(heed::tensor_view<T> t, extent_t b) {
    return {t.row(b, 0, 0), {1, t.extent(1), t.extent(2), t.extent(3)}, t.strides()};
}
template <class T>
heed::tensor_view<T> head(heed::tensor_view<T> t, extent_t h) {
    return {t.row(0, h, 0), {t.extent(0), 1, t.extent(2), t.extent(3)}, t.strides()};
}
template <class T>
heed::tensor_view<T> rows(heed::tensor_view<T> t, extent_t first, extent_t count) {
    return {t.row(0, 0, first), {t.extent(0), t.extent(1), count, t.extent(3)}, t.strides()};
}

inline std::vector<extent_t> permutation(extent_t n, random_source& random) {
    std::vector<extent_t> order(static_cast<std::size_t>(n));
    std::iota(order.begin(), order.end(), extent_t{0});
    for (extent_t i = n - 1; i > 0; --i) { std::swap(order[static_cast<std::size_t>(i)], order[static_cast<std::size_t>(random.integer(0, i))]); }
    return order;
}
// Row i of the result is row order[i].
inline tensor<float> reordered(heed::tensor_view<float const> from, std::vector<extent_t> const& order) {
    tensor<float> t(from.shape());
    t.each_at([&](float& x, extent_t b, extent_t h, extent_t i, extent_t d) { x = from(b, h, order[static_cast<std::size_t>(i)], d); });
    return t;
}

inline double longest_row(heed::tensor_view<float const> t) {
    double longest = 0;
    for (extent_t b = 0; b < t.extent(0); ++b)
        for (extent_t h = 0; h < t.extent(1); ++h)
            for (extent_t n = 0; n < t.extent(2); ++n) {
                double sum = 0;
                for (extent_t d = 0; d < t.extent(3); ++d) { sum += std::pow(static_cast<double>(t(b, h, n, d)), 2); }
                longest = std::max(longest, std::sqrt(sum));
            }
    return longest;
}
inline double largest(heed::tensor_view<float const> t) {
    double top = 0;
    for (double x : oracle::read(t).x) { top = std::max(top, std::fabs(x)); }
    return top;
}
// No score of dot | inv_sqrt_width is larger.
inline double score_bound(problem<float> const& p) { return longest_row(p.q.in()) * longest_row(p.k.in()) / std::sqrt(static_cast<double>(p.n.width)); }

// How far two results may be apart that are equal without rounding: both within the bound of support/tolerance.hpp. `added` bounds
// what the score adds to the products.
template <class M>
double log_bound(M const& m, problem<float> const& p, double added = 0) {
    error_bound c = bound_of<float>(m);
    c.width = static_cast<double>(p.n.width);
    return 2 * eps<float> * units(c, score_bound(p) + added, static_cast<double>(p.n.keys));
}
template <class M>
double out_bound(M const& m, problem<float> const& p, double added = 0) {
    return log_bound(m, p, added) * largest(p.v.in());
}

inline void require_close(heed::tensor_view<float const> a, heed::tensor_view<float const> b, double allowed) {
    verdict const found = compare_close<float>(a, b, allowed);
    if (!found.good()) { RC_FAIL(found.text); }
}
inline void require_close(tensor<float> const& a, tensor<float> const& b, double allowed) { require_close(a.in(), b.in(), allowed); }
inline void require_same(heed::tensor_view<float const> a, heed::tensor_view<float const> b) {
    if (same_bits<float>(a, b)) { return; }
    verdict const found = compare_close<float>(a, b, 0);
    RC_FAIL(found.good() ? std::string("signs of zero or NaN differ") : found.text);
}
inline void require_same(tensor<float> const& a, tensor<float> const& b) { require_same(a.in(), b.in()); }
inline void require_same(problem<float> const& a, problem<float> const& b) {
    require_same(a.out, b.out);
    require_same(a.lse, b.lse);
}

} // namespace heed_test
