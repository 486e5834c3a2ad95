// SPDX-License-Identifier: BSD-3-Clause
// product_tile against sums written out, every mode and reach, sizes around its blocks; a column is the same whatever stands beside it.
#include "trial.hpp"

#include <heed/kernel/product_tile.hpp>

using namespace heed_test;

namespace {
template <class T>
void check_products(random_source& random) {
    using product = heed::product_tile<T, heed::native_arch>;
    using heed::put, heed::reach;
    for (int round = 0; round < 60; ++round) {
        extent_t const m = random.integer(1, 40), k = random.integer(0, 30), n = product::lanes * random.integer(1, 7);
        auto const count = [](extent_t c) { return static_cast<std::size_t>(c); };
        std::vector<T> a(count(40 * 40)), b(count(40 * n)), c(count(m * n)), factor(count(m));
        for (auto* x : {&a, &b, &c, &factor}) {
            for (T& y : *x) { y = static_cast<T>(random.uniform(-1, 1)); }
        }
        put const mode = random.pick({put::write, put::add, put::subtract, put::scale_add});
        reach const r = random.pick({reach::all, reach::lower, reach::upper, reach::columns});
        bool const turned = random.chance(0.5);
        extent_t const am = turned ? 1 : 40, ak = turned ? 40 : 1;
        auto const at = [&](extent_t i, extent_t j) -> T& { return a[count(i * am + j * ak)]; };
        for (extent_t i = 0; i < m; ++i) {
            for (extent_t j = 0; j < k; ++j) {
                if ((r == reach::lower && j > i) || (r == reach::upper && j < i)) { at(i, j) = T(0); }
            }
        }
        std::vector<T> const before = c;
        product::run(m, n, k, a.data(), am, ak, b.data(), n, c.data(), n, mode, r, factor.data());
        double worst = 0;
        for (extent_t i = 0; i < m; ++i) {
            for (extent_t e = 0; e < (r == reach::columns ? std::min(n, i + 1) : n); ++e) {
                double sum = 0;
                for (extent_t j = 0; j < k; ++j) { sum += static_cast<double>(at(i, j)) * static_cast<double>(b[count(j * n + e)]); }
                double const was = static_cast<double>(before[count(i * n + e)]);
                double const want = mode == put::write ? sum : mode == put::add ? was + sum : mode == put::subtract ? was - sum : was * static_cast<double>(factor[count(i)]) + sum;
                worst = std::fmax(worst, std::fabs(want - static_cast<double>(c[count(i * n + e)])));
            }
        }
        CAPTURE(m, n, k, static_cast<int>(mode), static_cast<int>(r), turned);
        CHECK(worst <= (sizeof(T) == 4 ? 4e-6 : 1e-14));
    }
}
} // namespace

TEST_CASE("Products of small tiles, written out", "[recurrent]") {
    HEED_SEEDED;
    random_source random(31);
    check_products<float>(random);
    check_products<double>(random);
}
