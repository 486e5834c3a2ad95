// SPDX-License-Identifier: BSD-3-Clause
// A call of a spectral mechanism against the dense oracle.
#pragma once

#include <oracle/spectral.hpp>
#include <support/tensor.hpp>
#include <support/tolerance.hpp>

#include <heed/front/attention.hpp>
#include <heed/front/spectral.hpp>
#include <heed/mechanism/circular.hpp>
#include <heed/mechanism/long_convolution.hpp>

#include <cmath>

namespace heed_test {

template <class M>
oracle::spectral_case case_of(M const& m, extent_t rows) {
    oracle::spectral_case c;
    c.circular = M::circular;
    c.reversed = M::reversed;
    if constexpr (!M::circular) { c.shift = m.border.shift; }
    c.how = M::by_prefix ? oracle::weigh::over_prefix : std::is_same_v<decltype(m.normalizer), heed::token_softmax> ? oracle::weigh::over_tokens : oracle::weigh::as_given;
    c.rows = rows;
    return c;
}

inline double root_mean_square(oracle::array const& a) {
    double squares = 0;
    for (double const x : a.x) { squares += std::isfinite(x) ? x * x : 0; }
    return std::sqrt(squares / std::fmax(1, static_cast<double>(a.x.size())));
}

// Error allowed of a transform: a multiple of eps log2 N of the root mean square of the result, or of what could have come out (`size`).
template <class T>
verdict compare_rms(heed::tensor_view<T const> got, oracle::array const& exact, double size = 0, double factor = 3) {
    double const rms = std::fmax(size, root_mean_square(exact));
    double const allowed = factor * eps<T> * (2 + std::log2(static_cast<double>(got.extent(2)) + 1)) * rms;
    verdict v;
    for (extent_t b = 0; b < got.extent(0); ++b)
        for (extent_t h = 0; h < got.extent(1); ++h)
            for (extent_t n = 0; n < got.extent(2); ++n)
                for (extent_t e = 0; e < got.extent(3); ++e) { v.look("out", b, h, n, e, static_cast<double>(got(b, h, n, e)), exact(b, h, n, e), allowed); }
    return v;
}

template <class T>
struct mixing {
    tensor<T> z, v, out;
    mixing(heed::shape zs, heed::shape vs, heed::shape os, random_source& random, place where = place::margin) : z(zs, where), v(vs, where), out(os, where) {
        z.normal(random);
        v.normal(random);
    }
    template <class M>
    oracle::array exact(M const& m) const {
        return oracle::spectral(case_of(m, out.shape().seq), oracle::read(z.in()), oracle::read(v.in()), out.shape());
    }
    template <class M, class... B>
    verdict run(M const& m, B const&... backend) {
        heed::forward(m, z.in(), v.in(), out.view(), backend...);
        double const length = static_cast<double>(z.shape().seq); // of weights: with a softmax they are smaller than their scores
        double const size = std::is_same_v<decltype(m.normalizer), heed::as_given> ? std::sqrt(length) * root_mean_square(oracle::read(z.in())) * root_mean_square(oracle::read(v.in())) : 0;
        verdict result = compare_rms<T>(out.in(), exact(m), size, sizeof(T) == 4 ? 3 : 6);
        if (result.good() && !(z.intact() && v.intact() && out.intact())) { result.text = "memory around the tensors was written"; }
        return result;
    }
};

} // namespace heed_test
