// SPDX-License-Identifier: BSD-3-Clause
// cosine and sine of angles given in quarter turns, for rotations by products of a position and a frequency.
//
// The product and its reduction are made in double: a float angle of 2^20 radians has lost six bits of its fraction. What is left after the nearest
// whole quarter is taken off, at most 1/2, is exact in double and goes through Taylor's series in T: within 2^-23 in float.
#pragma once

#include <heed/kernel/math.hpp>
#include <heed/kernel/zip.hpp>

namespace heed::detail {

// (-1)^k (pi/2)^(2k + First) / (2k + First)!
template <class T, int N, int First>
struct turn_series {
    T c[N];
    constexpr turn_series() : c{} {
        double term = First == 0 ? 1.0 : 1.5707963267948966192;
        for (int k = 0; k < N; ++k) {
            c[k] = static_cast<T>(term);
            term *= -1.5707963267948966192 * 1.5707963267948966192 / ((2 * k + First + 1) * (2 * k + First + 2));
        }
    }
};
template <class T>
inline constexpr turn_series<T, (sizeof(T) == 4 ? 6 : 10), 0> cosine_series{};
template <class T>
inline constexpr turn_series<T, (sizeof(T) == 4 ? 5 : 9), 1> sine_series{};

// x in [-1/2, 1/2] and quarter in {-2, ..., 2}: cos and sin of (quarter + x) quarter turns.
template <class V>
HEED_INLINE void quarter_turns(V x, V quarter, V& cosine, V& sine) {
    using T = typename V::value_type;
    V const square = x * x;
    V const c = polynomial(square, cosine_series<T>.c), s = x * polynomial(square, sine_series<T>.c);
    auto const half = abs(quarter) > V(1.5), odd = abs(abs(quarter) - V(1)) < V(0.5);
    V const a = select(odd, s, c), b = select(odd, c, s);
    cosine = select(half | (quarter == V(1)), -a, a);
    sine = select(half | (quarter == V(-1)), -b, b);
}

// cosine[m], sine[m] of position * frequency[m] quarter turns, times `amplitude`, for m < count; both arrays are written up to whole registers.
// frequency holds zeros up to there.
template <class A, class T>
void turns(double position, double const* frequency, extent_t count, T amplitude, T* cosine, T* sine) {
    using D = vec<double, A>;
    using V = vec<T, A>;
    for (extent_t m = 0; m < count; m += V::lanes) {
        auto const reduce = [&](double const* f, D& quarter) HEED_INLINE_LAMBDA {
            D const angle = D(position) * D::load(f), whole = nearbyint(angle);
            quarter = whole - D(4) * nearbyint(whole * D(0.25));
            return angle - whole;
        };
        V x, quarter, c, s;
        if constexpr (sizeof(T) == 4) {
            D q0, q1;
            D const x0 = reduce(frequency + m, q0), x1 = reduce(frequency + m + D::lanes, q1);
            x = narrow(x0, x1);
            quarter = narrow(q0, q1);
        } else {
            x = reduce(frequency + m, quarter);
        }
        quarter_turns(x, quarter, c, s);
        (c * V(amplitude)).store(cosine + m);
        (s * V(amplitude)).store(sine + m);
    }
}

} // namespace heed::detail
