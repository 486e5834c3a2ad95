// SPDX-License-Identifier: BSD-3-Clause
// All 2^32 floats through heed's exp, against double exp; the engines' exp2 on every float of [-126, 0]. On demand:
//
//     cmake --build <build> --target heed_exhaustive_exp
//
// builds and runs one program per instruction set that this machine has. Exit 1 when a bound is broken.
#include <support/ulp.hpp>

#include <heed/config.hpp>
#include <heed/kernel/batch.hpp>
#include <heed/kernel/math.hpp>

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <limits>
#include <thread>
#include <vector>

namespace {

using batch = heed::vec<float, heed::native_arch>;

struct tally {
    double worst = 0;
    float where = 0;
    std::uint64_t inputs = 0, misrounded = 0, beyond_one = 0, nan_lost = 0;

    void add(tally const& o) {
        if (o.worst > worst) {
            worst = o.worst;
            where = o.where;
        }
        inputs += o.inputs;
        misrounded += o.misrounded;
        beyond_one += o.beyond_one;
        nan_lost += o.nan_lost;
    }
    void look(float x, float got, double exact) {
        ++inputs;
        if (std::isnan(x)) {
            nan_lost += !std::isnan(got);
            return;
        }
        // Correct rounding, but for the few doubles that sit within 2^-52 of a rounding boundary.
        misrounded += heed_test::bits_of_float(got) != heed_test::bits_of_float(static_cast<float>(exact));
        double const error = heed_test::ulp_error(got, exact);
        beyond_one += error > 1;
        if (error > worst) {
            worst = error;
            where = x;
        }
    }
};

// f over the floats of bit patterns [first, last], in two threads.
template <class F, class Exact>
tally walk(std::uint64_t first, std::uint64_t last, F f, Exact exact) {
    unsigned const threads = std::thread::hardware_concurrency() > 1 ? std::thread::hardware_concurrency() : 1;
    std::vector<tally> parts(threads);
    std::vector<std::thread> team;
    for (unsigned t = 0; t < threads; ++t) {
        team.emplace_back([&, t] {
            float x[batch::lanes], y[batch::lanes];
            tally mine;
            for (std::uint64_t at = first + std::uint64_t{t} * batch::lanes; at <= last; at += std::uint64_t{threads} * batch::lanes) {
                for (std::uint64_t l = 0; l < batch::lanes; ++l) { x[l] = heed_test::float_of(static_cast<std::uint32_t>(at + l <= last ? at + l : last)); }
                f(batch::load(x)).store(y);
                for (std::uint64_t l = 0; l < batch::lanes && at + l <= last; ++l) { mine.look(x[l], y[l], exact(static_cast<double>(x[l]))); }
            }
            parts[t] = mine;
        });
    }
    tally all;
    for (unsigned t = 0; t < threads; ++t) {
        team[t].join();
        all.add(parts[t]);
    }
    return all;
}

void print(char const* name, tally const& t) {
    std::printf("%-8s %-10s inputs %llu  max ulp %.4f at %.9g  not correctly rounded %llu (%.3f %%)  beyond 1 ulp %llu  NaN lost %llu\n",
                heed::arch_name<heed::native_arch>(), name, static_cast<unsigned long long>(t.inputs), t.worst, static_cast<double>(t.where),
                static_cast<unsigned long long>(t.misrounded), 100.0 * static_cast<double>(t.misrounded) / static_cast<double>(t.inputs),
                static_cast<unsigned long long>(t.beyond_one), static_cast<unsigned long long>(t.nan_lost));
}

} // namespace

int main() {
    tally const e = walk(0, 0xffffffffu, [](batch x) { return exp(x); }, [](double x) { return std::exp(x); });
    print("exp", e);
    tally const e2 = walk(0x80000000u, 0xc2fc0000u, [](batch x) { return fast_exp2(x); }, [](double x) { return std::exp2(x); });
    print("fast_exp2", e2);

    float x[batch::lanes] = {}, y[batch::lanes];
    x[0] = -std::numeric_limits<float>::infinity();
    exp(batch::load(x)).store(y);
    bool exact = y[0] == 0.0f && y[1] == 1.0f;
    fast_exp2(batch::load(x)).store(y);
    exact = exact && y[0] == 0.0f && y[1] == 1.0f;
    std::printf("%-8s exact at 0 and -inf: %s\n", heed::arch_name<heed::native_arch>(), exact ? "yes" : "NO");

    bool const good = e.worst <= 1.0 && e.nan_lost == 0 && e2.worst <= 3.0 && exact;
    std::printf("%-8s %s\n", heed::arch_name<heed::native_arch>(), good ? "within bounds" : "BOUND BROKEN");
    return good ? 0 : 1;
}
