// SPDX-License-Identifier: BSD-3-Clause
// Seeded random numbers. The seed of a test case is printed with every failure, as the line that repeats it:
//
//     HEED_SEED=123 <binary> "<test case>"
//
// Unset, the seed is fixed, so that two runs of the same sources agree; HEED_SEED=random takes a new one.
#pragma once

#include <support/catch.hpp>

#include <heed/view/tensor_view.hpp>

#include <cstdint>
#include <cstdlib>
#include <initializer_list>
#include <random>
#include <string>
#include <vector>

namespace heed_test {

inline std::uint64_t seed() {
    static std::uint64_t const value = [] {
        char const* text = std::getenv("HEED_SEED");
        if (text == nullptr || *text == '\0') { return std::uint64_t{20260801}; }
        if (std::string(text) == "random") { return static_cast<std::uint64_t>(std::random_device{}()); }
        return static_cast<std::uint64_t>(std::strtoull(text, nullptr, 10));
    }();
    return value;
}

inline std::string repeat_line() {
    return "repeat with: HEED_SEED=" + std::to_string(seed()) + " <this binary> \"" + Catch::getResultCapture().getCurrentTestName() + "\"";
}

// Splitmix64: small, fast, the same on every machine (the standard's distributions are not).
class random_source {
    std::uint64_t state_;

public:
    explicit random_source(std::uint64_t stream = 0) : state_(seed() * 0x9e3779b97f4a7c15u + stream) {}

    std::uint64_t bits() {
        std::uint64_t z = (state_ += 0x9e3779b97f4a7c15u);
        z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
        z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
        return z ^ (z >> 31);
    }
    double uniform() { return static_cast<double>(bits() >> 11) * 0x1p-53; } // [0, 1)
    double uniform(double low, double high) { return low + (high - low) * uniform(); }
    double normal() { // sum of twelve: mean 0, variance 1, within [-6, 6]
        double sum = -6;
        for (int i = 0; i < 12; ++i) { sum += uniform(); }
        return sum;
    }
    heed::extent_t integer(heed::extent_t low, heed::extent_t high) { // both included
        return low + static_cast<heed::extent_t>(bits() % static_cast<std::uint64_t>(high - low + 1));
    }
    bool chance(double p) { return uniform() < p; }
    template <class T>
    T pick(std::initializer_list<T> from) {
        return from.begin()[integer(0, static_cast<heed::extent_t>(from.size()) - 1)];
    }
    template <class T>
    T const& pick(std::vector<T> const& from) {
        return from[static_cast<std::size_t>(integer(0, static_cast<heed::extent_t>(from.size()) - 1))];
    }
};

// Normal numbers in every element of a view.
template <class T>
void fill_normal(heed::tensor_view<T> v, random_source& random, double deviation = 1, double mean = 0) {
    for (heed::extent_t b = 0; b < v.extent(0); ++b)
        for (heed::extent_t h = 0; h < v.extent(1); ++h)
            for (heed::extent_t n = 0; n < v.extent(2); ++n)
                for (heed::extent_t d = 0; d < v.extent(3); ++d) { v(b, h, n, d) = static_cast<T>(mean + deviation * random.normal()); }
}

} // namespace heed_test

// Prints the line that repeats the test case, if it fails.
#define HEED_SEEDED INFO(heed_test::repeat_line())
