// SPDX-License-Identifier: BSD-3-Clause
#include "spectral_opponents.hpp"

#include "stopwatch.hpp"

#include <unsupported/Eigen/FFT>

#if defined(HEED_BENCH_FFTW)
#include <fftw3.h>
#endif

#include <algorithm>
#include <complex>
#include <vector>

namespace heed::bench {

namespace {

// to [columns, rows] from [rows, columns], 16 x 16 numbers at a time
void transpose(float const* from, float* to, std::int64_t rows, std::int64_t columns) {
    for (std::int64_t r = 0; r < rows; r += 16)
        for (std::int64_t c = 0; c < columns; c += 16)
            for (std::int64_t i = c; i < std::min(c + 16, columns); ++i)
                for (std::int64_t j = r; j < std::min(r + 16, rows); ++j) to[i * rows + j] = from[j * columns + i];
}

} // namespace

mixing_opponent eigen_mixing(std::int64_t n, std::int64_t channels) {
    struct state {
        Eigen::FFT<float> fft;
        std::vector<float> columns, back, weights;
        std::vector<std::complex<float>> filter, spectrum;
    };
    auto const s = std::make_shared<state>();
    s->fft.SetFlag(Eigen::FFT<float>::HalfSpectrum);
    s->columns.resize(static_cast<std::size_t>(n * channels));
    s->back.resize(static_cast<std::size_t>(n));
    return {"Eigen's FFT, transposes included", [=](float const* w, float const* v, float* out) {
                s->weights.assign(w, w + n);
                s->fft.fwd(s->filter, s->weights);
                transpose(v, s->columns.data(), n, channels);
                s->spectrum.resize(s->filter.size());
                for (std::int64_t c = 0; c < channels; ++c) {
                    s->fft.fwd(s->spectrum.data(), s->columns.data() + c * n, static_cast<int>(n));
                    for (std::size_t f = 0; f < s->filter.size(); ++f) s->spectrum[f] *= s->filter[f];
                    s->fft.inv(s->columns.data() + c * n, s->spectrum.data(), static_cast<int>(n));
                }
                transpose(s->columns.data(), out, channels, n);
            }};
}

#if defined(HEED_BENCH_FFTW)

bool has_fftw() { return true; }

namespace {

struct fftw_state {
    std::int64_t n, channels, half;
    float *columns, *weights;
    fftwf_complex *spectra, *filter;
    // by transposes of ours, along the rows as they lie, or from rows to columns and back within its own plans: the fastest is taken
    enum class layout { transposed, rows, mixed } how = layout::transposed;
    fftwf_plan filter_plan, forward, inverse, strided_forward, strided_inverse, mixed_forward, mixed_inverse;

    fftw_state(std::int64_t length, std::int64_t count) : n(length), channels(count), half(length / 2 + 1) {
        auto const numbers = [](std::int64_t k) { return static_cast<std::size_t>(k); };
        columns = fftwf_alloc_real(numbers(n * channels)), weights = fftwf_alloc_real(numbers(n));
        spectra = fftwf_alloc_complex(numbers(half * channels)), filter = fftwf_alloc_complex(numbers(half));
        unsigned const effort = n <= 4096 ? FFTW_PATIENT : FFTW_MEASURE;
        fftwf_set_timelimit(30);
        int const size = static_cast<int>(n), many = static_cast<int>(channels), spectrum = static_cast<int>(half);
        filter_plan = fftwf_plan_dft_r2c_1d(size, weights, filter, effort);
        forward = fftwf_plan_many_dft_r2c(1, &size, many, columns, nullptr, 1, size, spectra, nullptr, 1, spectrum, effort);
        inverse = fftwf_plan_many_dft_c2r(1, &size, many, spectra, nullptr, 1, spectrum, columns, nullptr, 1, size, effort);
        strided_forward = fftwf_plan_many_dft_r2c(1, &size, many, columns, nullptr, many, 1, spectra, nullptr, many, 1, effort);
        strided_inverse = fftwf_plan_many_dft_c2r(1, &size, many, spectra, nullptr, many, 1, columns, nullptr, many, 1, effort);
        mixed_forward = fftwf_plan_many_dft_r2c(1, &size, many, columns, nullptr, many, 1, spectra, nullptr, 1, spectrum, effort);
        mixed_inverse = fftwf_plan_many_dft_c2r(1, &size, many, spectra, nullptr, 1, spectrum, columns, nullptr, many, 1, effort);
        std::fill_n(columns, n * channels, 0.0f);
        std::vector<float> v(numbers(n * channels), 1.0f), out(v.size());
        double best = 0;
        layout fastest = how;
        for (layout const each : {layout::transposed, layout::rows, layout::mixed}) {
            how = each;
            run(v.data(), v.data(), out.data());
            for (int i = 0; i < 5; ++i) {
                double const start = seconds_now(1);
                run(v.data(), v.data(), out.data());
                double const took = seconds_now(1) - start;
                if (best == 0 || took < best) best = took, fastest = each;
            }
        }
        how = fastest;
    }
    fftw_state(fftw_state const&) = delete;
    fftw_state& operator=(fftw_state const&) = delete;
    ~fftw_state() {
        for (auto* p : {filter_plan, forward, inverse, strided_forward, strided_inverse, mixed_forward, mixed_inverse}) fftwf_destroy_plan(p);
        fftwf_free(columns), fftwf_free(weights), fftwf_free(spectra), fftwf_free(filter);
    }
    void run(float const* w, float const* v, float* out) {
        std::copy_n(w, n, weights);
        fftwf_execute(filter_plan);
        auto* const x = reinterpret_cast<std::complex<float>*>(spectra);
        float const scale = 1 / static_cast<float>(n);
        auto const factor = [&](std::int64_t f) { return std::complex<float>(filter[f][0] * scale, filter[f][1] * scale); };
        auto const times = [](std::complex<float> a, std::complex<float> b) { return std::complex<float>(a.real() * b.real() - a.imag() * b.imag(), a.real() * b.imag() + a.imag() * b.real()); };
        if (how == layout::rows) {
            fftwf_execute_dft_r2c(strided_forward, const_cast<float*>(v), spectra);
            for (std::int64_t f = 0; f < half; ++f)
                for (std::int64_t c = 0; c < channels; ++c) x[f * channels + c] = times(x[f * channels + c], factor(f));
            fftwf_execute_dft_c2r(strided_inverse, spectra, out);
            return;
        }
        if (how == layout::mixed) {
            fftwf_execute_dft_r2c(mixed_forward, const_cast<float*>(v), spectra);
        } else {
            transpose(v, columns, n, channels);
            fftwf_execute(forward);
        }
        for (std::int64_t c = 0; c < channels; ++c)
            for (std::int64_t f = 0; f < half; ++f) x[c * half + f] = times(x[c * half + f], factor(f));
        if (how == layout::mixed) {
            fftwf_execute_dft_c2r(mixed_inverse, spectra, out);
            return;
        }
        fftwf_execute(inverse);
        transpose(columns, out, channels, n);
    }
};

} // namespace

mixing_opponent fftw_mixing(std::int64_t n, std::int64_t channels) {
    auto const s = std::make_shared<fftw_state>(n, channels);
    static constexpr char const* ways[] = {", transposes included", ", strided plans", ", rows to columns within its plans"};
    return {std::string(fftwf_version) + ways[static_cast<int>(s->how)], [s](float const* w, float const* v, float* out) { s->run(w, v, out); }};
}

#else

bool has_fftw() { return false; }
mixing_opponent fftw_mixing(std::int64_t, std::int64_t) { return {}; }

#endif

} // namespace heed::bench
