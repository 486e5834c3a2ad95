// SPDX-License-Identifier: BSD-3-Clause
// Distances in units in the last place of a float, against a value known in double.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>

namespace heed_test {

inline float float_of(std::uint32_t bits) {
    float x;
    std::memcpy(&x, &bits, sizeof x);
    return x;
}
inline std::uint32_t bits_of_float(float x) {
    std::uint32_t bits;
    std::memcpy(&bits, &x, sizeof bits);
    return bits;
}

// The spacing of floats at |x|, down to the spacing of subnormal numbers.
inline double float_spacing(double x) {
    int exponent = 0;
    std::frexp(x, &exponent);
    exponent = exponent < -125 ? -125 : exponent > 128 ? 128 : exponent;
    return std::ldexp(1.0, exponent - 24);
}

// |got - exact| in ulp; infinite when one is NaN and the other is not. A true value that rounds to infinity wants infinity
// or the largest float (half a step below it).
inline double ulp_error(float got, double exact) {
    double const inf = std::numeric_limits<double>::infinity();
    if (std::isnan(exact) || std::isnan(got)) { return std::isnan(exact) && std::isnan(got) ? 0 : inf; }
    if (std::isinf(static_cast<float>(exact))) {
        if (std::isinf(got)) { return std::signbit(got) == std::signbit(static_cast<float>(exact)) ? 0 : inf; }
        return got == std::numeric_limits<float>::max() && exact > 0 && exact < 0x1p128 + 0x1p104 ? 1 : inf;
    }
    if (std::isinf(got)) { return exact >= std::numeric_limits<float>::max() ? 1 : inf; }
    return std::fabs(static_cast<double>(got) - exact) / float_spacing(exact);
}

} // namespace heed_test
