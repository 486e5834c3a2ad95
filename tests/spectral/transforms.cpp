// SPDX-License-Identifier: BSD-3-Clause
// The transforms against the direct sum in long double and Eigen's FFT: error, order, inverse, limits, the single line, spectra of channels.
#include <support/catch.hpp>
#include <support/random.hpp>

#include <heed/engine/workspace.hpp>
#include <heed/kernel/fft.hpp>

#include <unsupported/Eigen/FFT>

#include <complex>
#include <vector>

using namespace heed_test;
using heed::extent_t;

namespace {

using A = heed::native_arch;
using wide = std::complex<long double>;

// Tables and a slab for n rows.
template <class T>
struct made {
    using transform = heed::fft_transform<T, A>;
    using line_type = heed::fft_line<T, A>;
    static constexpr extent_t row = transform::row_size;
    std::vector<T> table, slab, tile, line_table, line_scratch;
    std::vector<std::int32_t> places;
    std::vector<std::max_align_t> scratch;
    heed::fft_plan<T> plan;
    line_type line;

    explicit made(extent_t n)
        : table(static_cast<std::size_t>(heed::fft_plan<T>::table_size(n)) + 1), slab(static_cast<std::size_t>(n * row)), tile(static_cast<std::size_t>(transform::tile_size(n)) + 1),
          line_table(static_cast<std::size_t>(line_type::table_size(n))), line_scratch(static_cast<std::size_t>(line_type::scratch_size(n))), places(static_cast<std::size_t>(n)),
          scratch(heed::fft_plan<T>::template making_bytes<A>(n) / sizeof(std::max_align_t) + 1) {
        auto* const bytes = reinterpret_cast<std::byte*>(scratch.data());
        plan = heed::fft_plan<T>::template make<A>(n, table.data(), bytes);
        line = line_type::make(plan, line_table.data(), places.data(), bytes);
    }
    transform over() { return {plan, slab.data(), tile.data()}; }
    wide at(extent_t f, extent_t lane) const {
        T const* const p = slab.data() + plan.position(f) * row;
        return {static_cast<long double>(p[lane]), static_cast<long double>(p[row / 2 + lane])};
    }
};

template <class T>
std::vector<T> noise(extent_t count, random_source& random) {
    std::vector<T> x(static_cast<std::size_t>(count));
    for (T& a : x) { a = static_cast<T>(random.normal()); }
    return x;
}

wide root(extent_t k, extent_t n) { return std::polar(1.0L, -2 * 3.14159265358979323846264338327950288L * static_cast<long double>(k % n) / static_cast<long double>(n)); }

// Error of lane 1 over all frequencies (or a sample of them), relative in l2, in units of eps log2 n.
template <class T>
double forward_error(extent_t n, random_source& random) {
    made<T> m(n);
    extent_t const row = made<T>::row;
    auto const x = noise<T>(n * row, random);
    m.over().forward(x.data(), row, n);
    std::vector<wide> roots;
    for (extent_t k = 0; k < n; ++k) { roots.push_back(root(k, n)); }
    long double error = 0, size = 0;
    extent_t const samples = n <= 1024 ? n : 16;
    for (extent_t s = 0; s < samples; ++s) {
        extent_t const f = n <= 1024 ? s : random.integer(0, n - 1);
        REQUIRE(m.plan.frequency(m.plan.position(f)) == f);
        wide sum = 0;
        for (extent_t j = 0; j < n; ++j) {
            T const* const p = x.data() + j * row + 1;
            sum += wide(static_cast<long double>(p[0]), static_cast<long double>(p[row / 2])) * roots[static_cast<std::size_t>(f * j % n)];
        }
        error += std::norm(sum - m.at(f, 1));
        size += std::norm(sum);
    }
    return static_cast<double>(std::sqrt(error / size)) / (static_cast<double>(std::numeric_limits<T>::epsilon()) * std::log2(static_cast<double>(n) + 1));
}

} // namespace

TEST_CASE("a forward transform is the direct sum to 0.6 eps log2 N") {
    HEED_SEEDED;
    random_source random(1);
    for (extent_t const n : {1, 2, 3, 4, 5, 7, 8, 9, 11, 12, 13, 15, 16, 32, 60, 64, 77, 105, 128, 143, 169, 720, 1001, 1024, 4095, 4096, 9216, 65536, 147456}) {
        CAPTURE(n);
        CHECK(forward_error<float>(n, random) <= 0.6);
    }
    for (extent_t const n : {1, 2, 6, 64, 105, 1000, 1001, 4096, 50625, 147456}) {
        CAPTURE(n);
        CHECK(forward_error<double>(n, random) <= 0.6);
    }
}

TEST_CASE("a forward transform agrees with Eigen's") {
    HEED_SEEDED;
    random_source random(2);
    for (extent_t const n : {8, 90, 512, 1155}) {
        made<double> m(n);
        extent_t const row = made<double>::row;
        auto const x = noise<double>(n * row, random);
        m.over().forward(x.data(), row, n);
        std::vector<std::complex<double>> in, out;
        for (extent_t j = 0; j < n; ++j) { in.emplace_back(x[static_cast<std::size_t>(j * row)], x[static_cast<std::size_t>(j * row + row / 2)]); }
        Eigen::FFT<double> eigen;
        eigen.fwd(out, in);
        for (extent_t f = 0; f < n; ++f) {
            wide const a = m.at(f, 0);
            REQUIRE(std::abs(std::complex<double>(a) - out[static_cast<std::size_t>(f)]) <= 1e-12 * std::sqrt(static_cast<double>(n)) * 8);
        }
    }
}

TEST_CASE("the inverse brings back what was transformed, and Parseval's sum stands; in place, from rows of another stride, beyond the second cache") {
    HEED_SEEDED;
    random_source random(3);
    for (extent_t const n : {1, 5, 48, 1001, 4096, 12288, 32768, 147456}) { // the last in sweeps of three passes
        CAPTURE(n);
        made<float> m(n);
        extent_t const row = made<float>::row, apart = row + 3;
        auto const x = noise<float>(n * apart, random);
        std::vector<float> y(x.size(), -7.0f);
        m.over().forward(x.data(), apart, n);
        double before = 0, after = 0;
        for (extent_t j = 0; j < n; ++j) {
            for (extent_t c = 0; c < row; ++c) {
                before += std::pow(static_cast<double>(x[static_cast<std::size_t>(j * apart + c)]), 2);
                after += std::pow(static_cast<double>(m.slab[static_cast<std::size_t>(j * row + c)]), 2);
            }
        }
        CHECK(after / static_cast<double>(n) == approx(before).epsilon(1e-5));
        m.over().inverse(y.data(), apart, n);
        double worst = 0;
        for (extent_t j = 0; j < n; ++j) {
            for (extent_t c = 0; c < row; ++c) {
                auto const at = static_cast<std::size_t>(j * apart + c);
                worst = std::max(worst, std::abs(static_cast<double>(y[at]) / static_cast<double>(n) - static_cast<double>(x[at])));
            }
            for (extent_t c = row; c < apart; ++c) { REQUIRE(y[static_cast<std::size_t>(j * apart + c)] == -7.0f); }
        }
        CHECK(worst <= 1.2e-7 * 2 * std::log2(static_cast<double>(n) + 2));
        m.over().forward(x.data(), apart, n); // again, now in place
        std::vector<float> const first = m.slab;
        for (extent_t j = 0; j < n; ++j) { std::copy_n(x.begin() + j * apart, row, m.slab.begin() + j * row); }
        m.over().forward(m.slab.data(), row, n);
        CHECK(m.slab == first);
    }
}

TEST_CASE("rows beyond the limit are zero where they are read and untouched where they would be written") {
    HEED_SEEDED;
    random_source random(4);
    for (extent_t const n : {8, 60, 4096, 16384, 147456}) {
        for (extent_t const limit : {extent_t(1), n / 3, n - 1}) {
            CAPTURE(n, limit);
            made<float> a(n), b(n);
            extent_t const row = made<float>::row;
            auto x = noise<float>(n * row, random);
            for (extent_t i = limit * row; i < n * row; ++i) { x[static_cast<std::size_t>(i)] = NAN; }
            a.over().forward(x.data(), row, limit);
            for (extent_t i = limit * row; i < n * row; ++i) { x[static_cast<std::size_t>(i)] = 0; }
            b.over().forward(x.data(), row, n);
            CHECK(a.slab == b.slab);
            std::vector<float> y(x.size(), 5.0f), whole(x.size());
            a.over().inverse(y.data(), row, limit);
            b.over().inverse(whole.data(), row, n);
            CHECK(std::equal(y.begin(), y.begin() + limit * row, whole.begin()));
            CHECK(std::all_of(y.begin() + limit * row, y.end(), [](float v) { return v == 5.0f; }));
        }
    }
}

TEST_CASE("a slab of many rows is written past the caches where its lines allow, with the same bits and no more of them") {
    HEED_SEEDED;
    random_source random(7);
    extent_t const n = extent_t(1) << 19, row = made<float>::row, limit = n - 1000;
    made<float> m(n);
    auto const x = noise<float>(n * row, random);
    std::vector<float> first, memory(static_cast<std::size_t>(2 * n * row + 32));
    for (extent_t const shift : {0, 1}) { // numbers beyond a line's begin
        std::fill(memory.begin(), memory.end(), 5.0f);
        float* const slab = reinterpret_cast<float*>(heed::aligned(reinterpret_cast<std::byte*>(memory.data()))) + shift;
        float* const out = slab + n * row;
        made<float>::transform const t{m.plan, slab, m.tile.data()};
        t.forward(x.data(), row, n);
        t.inverse(out, row, limit);
        std::vector<float> const got(out, out + limit * row);
        CHECK(std::all_of(out + limit * row, out + n * row, [](float v) { return v == 5.0f; }));
        CHECK((shift == 0 || got == first));
        first = got;
    }
    for (extent_t j = 0; j < limit * row; j += 1009) { REQUIRE(std::abs(first[static_cast<std::size_t>(j)] / static_cast<float>(n) - x[static_cast<std::size_t>(j)]) <= 5e-6f); }
}

TEST_CASE("a transform of one line is a column of the transform of rows, and comes back") {
    HEED_SEEDED;
    random_source random(5);
    for (extent_t const n : {1, 2, 3, 7, 8, 13, 35, 48, 49, 64, 1000, 1001, 4096}) {
        CAPTURE(n);
        made<float> m(n);
        extent_t const row = made<float>::row;
        auto const x = noise<float>(n, random);
        std::vector<float> rows(static_cast<std::size_t>(n * row), 0.0f), spectrum(static_cast<std::size_t>(2 * n)), back(static_cast<std::size_t>(n));
        for (extent_t j = 0; j < n; ++j) { rows[static_cast<std::size_t>(j * row)] = x[static_cast<std::size_t>(j)]; }
        m.over().forward(rows.data(), row, n);
        m.line.forward(x.data(), spectrum.data(), 1.0f, m.line_scratch.data());
        double worst = 0, back_worst = 0;
        for (extent_t p = 0; p < n; ++p) {
            worst = std::max(worst, static_cast<double>(std::abs(spectrum[static_cast<std::size_t>(2 * p)] - m.slab[static_cast<std::size_t>(p * row)])));
            worst = std::max(worst, static_cast<double>(std::abs(spectrum[static_cast<std::size_t>(2 * p + 1)] - m.slab[static_cast<std::size_t>(p * row + row / 2)])));
        }
        CHECK(worst <= 2e-6 * std::sqrt(static_cast<double>(n)));
        m.line.inverse(spectrum.data(), back.data(), m.line_scratch.data());
        for (std::size_t j = 0; j < x.size(); ++j) { back_worst = std::max(back_worst, static_cast<double>(std::abs(back[j] / static_cast<float>(n) - x[j]))); }
        CHECK(back_worst <= 3e-6);
    }
}

TEST_CASE("moving a signal turns its spectrum") {
    HEED_SEEDED;
    random_source random(6);
    extent_t const n = 360, by = 77;
    made<double> a(n), b(n);
    extent_t const row = made<double>::row;
    auto const x = noise<double>(n * row, random);
    std::vector<double> moved(x.size());
    for (extent_t j = 0; j < n; ++j) { std::copy_n(x.begin() + j * row, row, moved.begin() + (j + by) % n * row); }
    a.over().forward(x.data(), row, n);
    b.over().forward(moved.data(), row, n);
    for (extent_t f = 0; f < n; ++f) { REQUIRE(static_cast<double>(std::abs(a.at(f, 1) * root(f * by, n) - b.at(f, 1))) <= 1e-12); }
}

TEST_CASE("every length has a smooth one within an eighth above it") {
    for (extent_t n = 1; n < 3000; ++n) {
        extent_t const good = heed::fft_good_length(n);
        REQUIRE(good >= n);
        REQUIRE(good <= std::max<extent_t>(8, n + n / 8 + 1));
        REQUIRE(heed::fft_is_smooth(good));
    }
    CHECK_FALSE(heed::fft_is_smooth(17));
    CHECK_FALSE(heed::fft_is_smooth(2 * 4099));
}
