// SPDX-License-Identifier: BSD-3-Clause
// Attention whose weights are another function of the row's scores than softmax, dense, in double (sums in long double). A weigher sees the scores of
// the keys that the row attends and returns their weights; keys that the relation excludes, or whose score is -infinity, do not exist for it.
//
//   sparsemax   p = max(s - t, 0), sum p = 1: t from the sorted scores, t = (sum of the first n - 1) / n for the greatest n with 1 + n s_(n) > sum of the first n
//   entmax 1.5  p = max(s / 2 - t, 0)^2, sum p = 1: for the first n sorted z = s / 2, t = mean - sqrt((1 - n var) / n); the greatest n with t <= z_(n)
//   top k       softmax over the scores that are at least the k-th greatest
#pragma once

#include "softmax.hpp"

namespace heed_test::oracle {

using real = long double;
using reals = std::vector<real>;
using weigher = std::function<reals(reals const& scores, extent_t keys)>; // keys: M, seen or not

struct rows_result {
    array out, weights, magnitude;    // {B, H, N, Dv}, {B, H, N, M}, {B, H, N, Dv}: sum of |p v|
    array total, seen, largest, widest; // {B, H, N, 1}: sum of |p|; keys attended; the largest magnitude met in scores; the largest |v|
    relation doubtful;                  // {B, H, N, 1}: rows that another rounding of the scores may decide differently
};
using doubt = std::function<bool(reals const& scores)>;

inline rows_result attend(softmax_case const& c, weigher const& weigh, doubt const& doubtful = {}) {
    extent_t const B = c.q.s.batch, H = c.q.s.head, N = c.q.s.seq, M = c.k.s.seq, Dv = c.v.s.feature;
    extent_t const per_key_head = c.k.s.head == 0 ? 1 : H / c.k.s.head;
    heed::shape const rows{B, H, N, 1};
    rows_result r{array({B, H, N, Dv}), array({B, H, N, M}), array({B, H, N, Dv}), array(rows), array(rows), array(rows), array(rows), relation(rows)};
    for (extent_t b = 0; b < B; ++b)
        for (extent_t h = 0; h < H; ++h)
            for (extent_t i = 0; i < N; ++i) {
                auto const met = [&](double x) {
                    if (std::isfinite(x)) { r.largest(b, h, i, 0) = std::max(r.largest(b, h, i, 0), std::fabs(x)); }
                    return x;
                };
                reals s;
                std::vector<extent_t> key;
                for (extent_t j = 0; j < M; ++j) {
                    double const x = pair_score(c, b, h, i, j, met);
                    if (x == -std::numeric_limits<double>::infinity()) { continue; }
                    s.push_back(x);
                    key.push_back(j);
                }
                r.seen(b, h, i, 0) = static_cast<double>(s.size());
                if (s.empty()) { continue; }
                if (doubtful) { r.doubtful(b, h, i, 0) = doubtful(s) ? 1 : 0; }
                reals const p = weigh(s, M);
                reals sum(static_cast<std::size_t>(Dv), 0), magnitude(static_cast<std::size_t>(Dv), 0);
                for (std::size_t n = 0; n < p.size(); ++n) {
                    r.weights(b, h, i, key[n]) = static_cast<double>(p[n]);
                    r.total(b, h, i, 0) += static_cast<double>(std::fabs(p[n]));
                    for (extent_t d = 0; d < Dv; ++d) {
                        real const v = c.v(b, h / per_key_head, key[n], d);
                        sum[static_cast<std::size_t>(d)] += p[n] * v;
                        magnitude[static_cast<std::size_t>(d)] += std::fabs(p[n] * v);
                        r.widest(b, h, i, 0) = std::max(r.widest(b, h, i, 0), static_cast<double>(std::fabs(v)));
                    }
                }
                for (extent_t d = 0; d < Dv; ++d) {
                    r.out(b, h, i, d) = static_cast<double>(sum[static_cast<std::size_t>(d)]);
                    r.magnitude(b, h, i, d) = static_cast<double>(magnitude[static_cast<std::size_t>(d)]);
                }
            }
    return r;
}

// Every pair by itself, undivided or divided by what `divisor` says of (sum, keys seen, keys).
using function = std::function<real(real)>;
using divisor = std::function<real(real sum, real seen, real keys)>;
inline weigher each(function f, divisor by = {}) {
    return [f, by](reals const& s, extent_t keys) {
        reals p;
        real sum = 0;
        for (real x : s) {
            p.push_back(f(x));
            sum += p.back();
        }
        real const d = by ? by(sum, static_cast<real>(s.size()), static_cast<real>(keys)) : 1;
        for (real& x : p) { x /= d; }
        return p;
    };
}
inline real softmax_of(real s, reals const& all, real sink = -std::numeric_limits<real>::infinity()) {
    real sum = std::exp(sink - s);
    for (real x : all) { sum += std::exp(x - s); }
    return 1 / sum;
}

inline reals sorted(reals s) {
    std::sort(s.begin(), s.end(), std::greater<>());
    return s;
}
inline real sparsemax_threshold(reals const& scores) {
    reals s = sorted(scores);
    real const top = s[0];
    for (real& x : s) { x -= top; }
    real sum = 0, t = -1;
    for (std::size_t n = 0; n < s.size(); ++n) {
        sum += s[n];
        real const count = static_cast<real>(n + 1);
        if (1 + count * s[n] > sum) { t = (sum - 1) / count; }
    }
    return t + top;
}
inline reals sparsemax(reals const& s, extent_t) {
    real const t = sparsemax_threshold(s);
    reals p;
    for (real x : s) { p.push_back(std::max<real>(x - t, 0)); }
    return p;
}
// of z = s / 2
inline real entmax15_threshold(reals const& scores) {
    reals z = sorted(scores);
    real const top = z[0] / 2;
    for (real& x : z) { x = x / 2 - top; }
    real sum = 0, squares = 0, t = -1;
    for (std::size_t n = 0; n < z.size(); ++n) {
        sum += z[n];
        squares += z[n] * z[n];
        real const count = static_cast<real>(n + 1), mean = sum / count, inside = (1 - (squares - count * mean * mean)) / count;
        if (inside < 0) { break; }
        real const next = mean - std::sqrt(inside);
        if (next > z[n]) { break; }
        t = next;
    }
    return t + top;
}
inline reals entmax15(reals const& s, extent_t) {
    real const t = entmax15_threshold(s);
    reals p;
    for (real x : s) {
        real const e = std::max<real>(x / 2 - t, 0);
        p.push_back(e * e);
    }
    return p;
}
// The last score kept and the first dropped are this close.
inline doubt near_tie(extent_t k, double gap) {
    return [k, gap](reals const& s) {
        reals const order = sorted(s);
        auto const n = static_cast<std::size_t>(k);
        return n < order.size() && order[n - 1] - order[n] < static_cast<real>(gap) * (1 + std::fabs(order[n]));
    };
}
inline weigher top_k(extent_t k) {
    return [k](reals const& s, extent_t) {
        reals const order = sorted(s);
        real const least = order[std::min(order.size(), static_cast<std::size_t>(k)) - 1];
        reals kept, p;
        for (real x : s) {
            if (x >= least) { kept.push_back(x); }
        }
        for (real x : s) { p.push_back(x >= least ? softmax_of(x, kept) : 0); }
        return p;
    };
}

} // namespace heed_test::oracle
