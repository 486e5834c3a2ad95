// SPDX-License-Identifier: BSD-3-Clause
// Which lengths have a fast transform, how they fall into radices, and what a transform of a length costs.
#pragma once

#include <heed/config.hpp>

namespace heed {

inline constexpr int fft_most_levels = 40;

// The radices of a length, the first pass's first; none if it has a prime factor beyond 13.
struct fft_factors {
    int count = 0;
    int radix[fft_most_levels] = {};
};

// Eights first, a last leaf of 4 or 8 where there is one: it has no roots.
HEED_INLINE fft_factors fft_factorise(extent_t n) {
    fft_factors f;
    constexpr int odd[] = {13, 11, 7, 5, 3};
    for (int const r : odd) {
        for (; n % r == 0 && n > 1; n /= r) { f.radix[f.count++] = r; }
    }
    int twos = 0;
    for (; n % 2 == 0 && n > 1; n /= 2) { ++twos; }
    if (n != 1) { return {}; }
    // 8 ... 8 with one 2 or two 4s making up the rest
    int eights = twos / 3, rest = twos % 3;
    if (rest == 1 && eights > 0) {
        --eights;
        f.radix[f.count++] = 4;
        f.radix[f.count++] = 4;
    } else if (rest != 0) {
        f.radix[f.count++] = 1 << rest;
    }
    for (int i = 0; i < eights; ++i) { f.radix[f.count++] = 8; }
    if (f.count == 0) { f.radix[f.count++] = 1; }
    return f;
}
HEED_INLINE bool fft_is_smooth(extent_t n) { return n > 0 && fft_factorise(n).count > 0; }

// Cost of one transform, in about the time of one row through one pass of radix 8.
HEED_INLINE double fft_cost(extent_t n) {
    fft_factors const f = fft_factorise(n);
    double per_row = 0.4;
    for (int i = 0; i < f.count; ++i) {
        int const r = f.radix[i];
        per_row += r == 8 ? 1.0 : r == 4 ? 0.75 : r == 2 ? 0.6 : r == 3 ? 0.75 : r == 5 ? 1.0 : r == 7 ? 1.25 : r == 11 ? 1.9 : r == 13 ? 2.2 : 0.0;
    }
    return per_row * static_cast<double>(n);
}

// The cheapest smooth length from `least` up: within an eighth above it there always is one.
HEED_INLINE extent_t fft_good_length(extent_t least) {
    extent_t best = 0;
    double cost = 0;
    extent_t const last = least < 8 ? 8 : least + least / 8 + 1;
    // numbers 2^a 3^b 5^c 7^d 11^e with e <= 1, walked directly: their count is small
    for (extent_t e = 1; e <= 11; e += 10)
        for (extent_t d = e; d <= last; d *= 7)
            for (extent_t c = d; c <= last; c *= 5)
                for (extent_t b = c; b <= last; b *= 3)
                    for (extent_t a = b; a <= last; a *= 2) {
                        if (a < least) { continue; }
                        double const x = fft_cost(a);
                        if (best == 0 || x < cost) { best = a, cost = x; }
                    }
    return best;
}

} // namespace heed
