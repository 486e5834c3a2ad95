// SPDX-License-Identifier: BSD-3-Clause
// The error a result may have, random inputs:
//
//   |out - exact|  <=  eps (c0 + c1 w max|score| + c2 (sqrt T + sqrt(n / T))) sum p |v|
//   |lse - exact|  <=  eps (c0 + c1 w max|score| + c2 (sqrt T + sqrt(n / T)))
//
// eps is 2^-23 (2^-52 in double), n the number of keys, T the keys of a tile. A score is a sum of d products, one after another: its
// partial sums count as scores, and w = max(1, sqrt(d) / 8) is the growth of their rounding. The constants were calibrated once, on
// AVX2 and SSE2; they may only shrink.
#pragma once

#include <oracle/softmax.hpp>

#include <cmath>
#include <limits>
#include <sstream>
#include <string>
#include <type_traits>

namespace heed_test {

struct error_bound {
    double c0 = 2, c1 = 4, c2 = 1;
    double keys_per_tile = 256;
    double width = 64;
};

template <class T>
constexpr double eps = static_cast<double>(std::numeric_limits<T>::epsilon());

inline double units(error_bound const& c, double largest_score, double keys) {
    double const w = std::fmax(1, std::sqrt(c.width) / 8);
    return c.c0 + c.c1 * w * largest_score + c.c2 * (std::sqrt(c.keys_per_tile) + std::sqrt(keys / c.keys_per_tile));
}

// What a comparison found. `worst` is the largest error as a fraction of what is allowed; `text` is empty when all is well.
struct verdict {
    double worst = 0;
    std::string text{};
    bool good() const { return text.empty(); }

    void look(char const* what, extent_t b, extent_t h, extent_t n, extent_t d, double got, double expected, double allowed) {
        if (std::isnan(got) && std::isnan(expected)) { return; }
        if (got == expected) { return; } // equal infinities too
        double const error = std::fabs(got - expected);
        bool const fine = error <= allowed; // false with NaN
        double const fraction = std::isfinite(error) && allowed > 0 ? error / allowed : std::numeric_limits<double>::infinity();
        if (fine) {
            worst = fraction > worst ? fraction : worst;
            return;
        }
        if (good() || fraction > worst) {
            worst = fraction > worst ? fraction : worst;
            std::ostringstream s;
            s.precision(9);
            s << what << "(" << b << ", " << h << ", " << n << ", " << d << ") is " << got << ", expected " << expected << ", error " << error
              << ", allowed " << allowed;
            text = s.str();
        }
    }
};

// Results against the oracle. An empty lse view is not looked at.
template <class T>
verdict compare(heed::tensor_view<T const> out, heed::tensor_view<T const> lse, oracle::softmax_result const& exact, error_bound const& c = {}) {
    using U = std::remove_cv_t<T>;
    verdict v;
    if (!(out.shape() == exact.out.s)) {
        v.text = "out has another shape than the oracle's result";
        return v;
    }
    for (extent_t b = 0; b < out.extent(0); ++b)
        for (extent_t h = 0; h < out.extent(1); ++h)
            for (extent_t n = 0; n < out.extent(2); ++n) {
                double const u = eps<U> * units(c, exact.largest(b, h, n, 0), exact.attended(b, h, n, 0));
                for (extent_t d = 0; d < out.extent(3); ++d) {
                    v.look("out", b, h, n, d, static_cast<double>(out(b, h, n, d)), exact.out(b, h, n, d), u * exact.magnitude(b, h, n, d));
                }
                if (lse.shape().size() > 0) { v.look("lse", b, h, n, 0, static_cast<double>(lse(b, h, n, 0)), exact.lse(b, h, n, 0), u); }
            }
    return v;
}

// Two results of the library against each other, each within its bound.
template <class T>
verdict compare_close(heed::tensor_view<T const> a, heed::tensor_view<T const> b, double allowed) {
    verdict v;
    if (!(a.shape() == b.shape())) {
        v.text = "shapes differ";
        return v;
    }
    for (extent_t i = 0; i < a.extent(0); ++i)
        for (extent_t h = 0; h < a.extent(1); ++h)
            for (extent_t n = 0; n < a.extent(2); ++n)
                for (extent_t d = 0; d < a.extent(3); ++d) {
                    v.look("value", i, h, n, d, static_cast<double>(a(i, h, n, d)), static_cast<double>(b(i, h, n, d)), allowed);
                }
    return v;
}

} // namespace heed_test
