// SPDX-License-Identifier: BSD-3-Clause
// What circular mixing is compared with: one weight vector for all channels, values and result token-major, the filter transformed in each call.
// eigen: Eigen's FFT, channel by channel. fftw: FFTW, where the build found it; transposes are in the time, or strided plans, whichever is faster here.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

namespace heed::bench {

struct mixing_opponent {
    std::string what;
    std::function<void(float const* w, float const* v, float* out)> run;
};

mixing_opponent eigen_mixing(std::int64_t n, std::int64_t channels);
bool has_fftw();
mixing_opponent fftw_mixing(std::int64_t n, std::int64_t channels); // plans: patient up to 4096, measured beyond

} // namespace heed::bench
