// SPDX-License-Identifier: BSD-3-Clause
// Random calls for normalizers, against their oracle. A window whose ends are drawn stands for every band: full, causal, with rows that see nothing.
#pragma once

#include <oracle/rows.hpp>
#include <support/catch.hpp>
#include <support/problem.hpp>
#include <support/team.hpp>

namespace heed_test {

inline sizes random_row_sizes(random_source& random) {
    sizes n;
    n.queries = random.integer(1, 60);
    n.keys = random.chance(0.2) ? random.integer(0, 12) : random.integer(1, 400);
    n.width = random.integer(1, 40);
    n.value_width = random.integer(1, 40);
    n.kv_heads = random.integer(1, 2);
    n.heads = n.kv_heads * random.integer(1, 3);
    n.batch = random.integer(1, 2);
    return n;
}
inline heed::window random_window(sizes const& n, random_source& random) {
    extent_t const all = n.queries + n.keys;
    switch (random.integer(0, 3)) {
    case 0: return {all, all};
    case 1: return {all, 0};
    case 2: return {random.integer(0, 40), random.integer(0, 40)};
    default: return {random.integer(-3, 200), random.integer(-3, 3)};
    }
}

// How a weight answers to an error of its score, beyond its own size: the sum of |f'| / D over the keys of a row.
using answer = std::function<double(oracle::rows_result const&, extent_t b, extent_t h, extent_t i, extent_t keys)>;
inline double support(oracle::rows_result const& r, extent_t b, extent_t h, extent_t i, extent_t keys) {
    double count = 0;
    for (extent_t j = 0; j < keys; ++j) { count += r.weights(b, h, i, j) > 0; }
    return count;
}

template <class T>
verdict compare_rows(heed::tensor_view<T const> out, oracle::rows_result const& exact, error_bound const& bound, extent_t keys, answer const& slack = {}) {
    verdict v;
    for (extent_t b = 0; b < out.extent(0); ++b)
        for (extent_t h = 0; h < out.extent(1); ++h)
            for (extent_t n = 0; n < out.extent(2); ++n) {
                if (exact.doubtful(b, h, n, 0) != 0) { continue; }
                double const u = eps<T> * units(bound, exact.largest(b, h, n, 0), exact.seen(b, h, n, 0));
                double const more = slack ? slack(exact, b, h, n, keys) * exact.widest(b, h, n, 0) : 0;
                for (extent_t d = 0; d < out.extent(3); ++d) {
                    v.look("out", b, h, n, d, static_cast<double>(out(b, h, n, d)), exact.out(b, h, n, d), u * (exact.magnitude(b, h, n, d) + more));
                }
            }
    return v;
}

// make(pattern, problem) gives the mechanism; exact what its weights are; bend (optional) what its score adds.
template <class T, class Make>
void try_rows(int count, std::uint64_t stream, Make make, oracle::weigher const& exact, answer const& slack = {}, std::function<double(double, extent_t keys)> bend = {},
              oracle::doubt const& doubtful = {}) {
    random_source random(stream);
    for (int i = 0; i < count; ++i) {
        sizes const n = random_row_sizes(random);
        problem<T> p(n, random);
        auto const pattern = random_window(n, random);
        auto const m = make(pattern);
        auto c = p.exact();
        c.keep = oracle::band(n.pairs(), pattern.left, pattern.right);
        if (bend) {
            c.bend = [=](double s, extent_t, extent_t) { return bend(s, n.keys); };
        }
        oracle::rows_result const r = oracle::attend(c, exact, doubtful);
        REQUIRE(std::count(r.doubtful.x.begin(), r.doubtful.x.end(), 1) <= static_cast<extent_t>(r.doubtful.x.size()) / 20 + 1);
        error_bound bound = bound_of<T>(m);
        bound.width = static_cast<double>(n.width);
        heed::forward(m, p.q.in(), p.k.in(), p.v.in(), p.out.view());
        auto found = compare_rows<T>(p.out.in(), r, bound, n.keys, slack);
        INFO(n << " left=" << pattern.left << " right=" << pattern.right << " " << found.text);
        REQUIRE(found.good());
        REQUIRE(p.intact());
        if (i % 4 != 0) { continue; }
        // Any executor, and strided tensors, to the bit; the scalar engine within its bound.
        extent_t const rows = n.keys + 1; // features of v one behind the other, each over all positions
        tensor<T> other(n.out(), padded(n.out(), 3)), k(n.k(), padded(n.k(), 5));
        tensor<T> v(n.v(), heed::strides{n.kv_heads * rows * n.value_width, rows * n.value_width, 1, rows});
        k.copy(p.k.in());
        v.copy(p.v.in());
        heed::forward(m, p.q.in(), k.in(), v.in(), other.view(), heed::cpu{thread_team{3}});
        REQUIRE(same_bits<T>(other.in(), p.out.in()));
        bound.keys_per_tile = 1;
        heed::forward(m, p.q.in(), p.k.in(), p.v.in(), p.out.view(), heed::reference{});
        found = compare_rows<T>(p.out.in(), r, bound, n.keys, slack);
        INFO("reference: " << found.text);
        REQUIRE(found.good());
    }
}

} // namespace heed_test
