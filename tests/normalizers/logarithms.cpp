// SPDX-License-Identifier: BSD-3-Clause
// log and log1p_unit in registers, against long double.
#include <support/catch.hpp>
#include <support/random.hpp>
#include <support/ulp.hpp>

#include <heed/kernel/math.hpp>

#include <cmath>
#include <limits>

using namespace heed_test;

namespace {

template <class T, class F>
T one(F const& f, T x) {
    using V = heed::vec<T, heed::native_arch>;
    T lane[V::lanes];
    f(V(x)).store(lane);
    return lane[0];
}
template <class T>
T log_of(T x) {
    return one<T>([](auto v) { return log(v); }, x);
}
template <class T>
T log1p_of(T x) {
    return one<T>([](auto v) { return log1p_unit(v); }, x);
}
// error in units of the last place of the exact value
template <class T>
double error(T got, long double exact) {
    int exponent = 0;
    std::frexp(exact, &exponent);
    return static_cast<double>(std::fabs(static_cast<long double>(got) - exact) / std::ldexp(1.0L, exponent - std::numeric_limits<T>::digits));
}

template <class T>
void check() {
    random_source random(951);
    double worst = 0, worst_unit = 0;
    int const low = std::numeric_limits<T>::min_exponent - 20, high = std::numeric_limits<T>::max_exponent - 1;
    for (int n = 0; n < 200000; ++n) {
        T const x = static_cast<T>(std::ldexp(1 + random.uniform(), static_cast<int>(random.integer(low, high))));
        T const near = static_cast<T>(1 + std::ldexp(random.uniform(-1, 1), -static_cast<int>(random.integer(1, 20))));
        for (T const y : {x, near}) {
            if (y > 0 && y != 1) { worst = std::max(worst, error(log_of(y), std::log(static_cast<long double>(y)))); }
        }
        T const unit = static_cast<T>(std::ldexp(random.uniform(), -static_cast<int>(random.integer(0, 60))));
        if (unit > 0) { worst_unit = std::max(worst_unit, error(log1p_of(unit), std::log1p(static_cast<long double>(unit)))); }
    }
    INFO("log " << worst << " ulp, log1p_unit " << worst_unit << " ulp");
    CHECK(worst <= 3);
    CHECK(worst_unit <= 3);
    T const inf = std::numeric_limits<T>::infinity();
    CHECK(log_of(T(1)) == 0);
    CHECK(log_of(T(0)) == -inf);
    CHECK(log_of(inf) == inf);
    CHECK(std::isnan(log_of(T(-1))));
    CHECK(std::isnan(log_of(-inf)));
    CHECK(std::isnan(log_of(std::numeric_limits<T>::quiet_NaN())));
    CHECK(error(log_of(std::numeric_limits<T>::denorm_min()), std::log(static_cast<long double>(std::numeric_limits<T>::denorm_min()))) <= 3);
    CHECK(error(log_of(std::numeric_limits<T>::max()), std::log(static_cast<long double>(std::numeric_limits<T>::max()))) <= 3);
    CHECK(log1p_of(T(0)) == 0);
    CHECK(error(log1p_of(T(1)), std::log(2.0L)) <= 3);
    CHECK(std::isnan(log1p_of(std::numeric_limits<T>::quiet_NaN())));
}

} // namespace

TEST_CASE("logarithms: within 3 ulp, exact where they promise it", "[contract]") {
    HEED_SEEDED;
    check<float>();
    check<double>();
}
