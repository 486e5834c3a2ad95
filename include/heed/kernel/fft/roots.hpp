// SPDX-License-Identifier: BSD-3-Clause
// Roots of unity w_n^k = exp(-2 pi i k / n), each within 0.51 ulp of T: two tables of about sqrt(n) roots in long double, whose products are taken in
// double with the rounding errors of both factors (float needs none of them).
// Cost: about 2 sqrt(n) sines and n complex products; memory for the two tables is the caller's.
#pragma once

#include <heed/config.hpp>

#include <cmath>

namespace heed {

namespace detail {

// hi + lo, the sum not rounded
struct twofold {
    double hi, lo;
};
HEED_INLINE twofold split(long double x) {
    double const hi = static_cast<double>(x);
    return {hi, static_cast<double>(x - static_cast<long double>(hi))};
}

// a b - c d (or + with -d), the last bits of the factors included
HEED_INLINE double difference_of_products(twofold a, twofold b, twofold c, twofold d) {
    double const p = a.hi * b.hi, q = c.hi * d.hi;
    double const p_low = std::fma(a.hi, b.hi, -p) + (a.hi * b.lo + a.lo * b.hi), q_low = std::fma(c.hi, d.hi, -q) + (c.hi * d.lo + c.lo * d.hi);
    double const s = p - q, t = s - p; // s + (the rounding of s) = p - q
    return s + (((p - (s - t)) - (q + t)) + (p_low - q_low));
}

} // namespace detail

// exp(-2 pi i k / n): the angle is brought to the first eighth of a turn in integers, so that symmetric roots are equal bit for bit.
HEED_COLD inline void exact_root(extent_t k, extent_t n, detail::twofold& re, detail::twofold& im) {
    constexpr long double tau = 6.283185307179586476925286766559005768L;
    k %= n;
    bool const lower = 2 * k <= n; // the forward root of the first half turn has im <= 0
    extent_t j = lower ? k : n - k;
    bool const left = 4 * j > n;
    extent_t num = left ? n - 2 * j : 2 * j; // angle = pi num / n, num / n in [0, 1/2]
    bool const steep = 4 * num > n;
    long double const angle = steep ? tau / 4 * (static_cast<long double>(n - 2 * num) / static_cast<long double>(n)) : tau / 2 * (static_cast<long double>(num) / static_cast<long double>(n));
    long double c = std::cos(angle), s = std::sin(angle);
    if (steep) {
        long double const t = c;
        c = s;
        s = t;
    }
    re = detail::split(left ? -c : c);
    im = detail::split(lower ? -s : s);
}

template <class A>
class root_table {
    extent_t n_, fine_;
    detail::twofold const* table_; // fine: w^0 ... w^(fine-1), then coarse: w^0, w^fine, ...; re and im in turn

public:
    static extent_t fine_of(extent_t n) {
        extent_t f = 1;
        while (f * f < n) { f *= 2; }
        return f;
    }
    // numbers of type twofold that a table for n takes
    static extent_t size_of(extent_t n) {
        extent_t const f = fine_of(n);
        return 2 * (f + (n + f - 1) / f);
    }
    root_table(extent_t n, detail::twofold* memory) : n_(n), fine_(fine_of(n)), table_(memory) {
        for (extent_t k = 0; k < fine_; ++k) { exact_root(k, n, memory[2 * k], memory[2 * k + 1]); }
        extent_t const coarse = (n + fine_ - 1) / fine_;
        for (extent_t k = 0; k < coarse; ++k) { exact_root(k * fine_, n, memory[2 * (fine_ + k)], memory[2 * (fine_ + k) + 1]); }
    }
    // w_n^k for 0 <= k < n
    template <class T>
    HEED_INLINE void get(extent_t k, T& re, T& im) const {
        detail::twofold const* const a = table_ + 2 * (k % fine_);
        detail::twofold const* const b = table_ + 2 * (fine_ + k / fine_);
        if constexpr (sizeof(T) == 4) {
            re = static_cast<T>(a[0].hi * b[0].hi - a[1].hi * b[1].hi);
            im = static_cast<T>(a[0].hi * b[1].hi + a[1].hi * b[0].hi);
        } else {
            re = static_cast<T>(detail::difference_of_products(a[0], b[0], a[1], b[1]));
            im = static_cast<T>(detail::difference_of_products(a[0], b[1], {-a[1].hi, -a[1].lo}, b[0]));
        }
    }
    extent_t size() const { return n_; }
};

} // namespace heed
