// SPDX-License-Identifier: BSD-3-Clause
// Sentence: bf16 and fp16 widen exactly, round to nearest even, keep infinities, denormals and NaN; registers of every instruction set that is
// built do the same, and partial loads and stores touch nothing beyond. Against a definition by exponents, not by bits.
#include <support/catch.hpp>
#include <support/memory.hpp>
#include <support/random.hpp>
#include <support/ulp.hpp>

#include <heed/kernel/half.hpp>

#include <cfenv>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

using namespace heed_test;

namespace {

struct format {
    int exponent_bits, fraction_bits;
    int bias() const { return (1 << (exponent_bits - 1)) - 1; }
};
template <class T>
constexpr format format_of = std::is_same_v<T, heed::bf16> ? format{8, 7} : format{5, 10};

// The number that a pattern stands for.
double value_of(format f, unsigned h) {
    unsigned const fraction = h & ((1u << f.fraction_bits) - 1u), exponent = (h >> f.fraction_bits) & ((1u << f.exponent_bits) - 1u);
    double const sign = (h >> 15) != 0 ? -1 : 1;
    if (exponent == (1u << f.exponent_bits) - 1u) { return fraction != 0 ? std::numeric_limits<double>::quiet_NaN() : sign * std::numeric_limits<double>::infinity(); }
    if (exponent == 0) { return sign * std::ldexp(static_cast<double>(fraction), 1 - f.bias() - f.fraction_bits); }
    return sign * std::ldexp(1 + std::ldexp(static_cast<double>(fraction), -f.fraction_bits), static_cast<int>(exponent) - f.bias());
}
// x rounded to a multiple of the format's step at x.
double rounded(format f, double x) {
    if (!std::isfinite(x) || x == 0) { return x; }
    int const least = 1 - f.bias();
    int const exponent = std::ilogb(x) < least ? least : std::ilogb(x);
    double const step = std::ldexp(1.0, exponent - f.fraction_bits);
    double const r = std::nearbyint(x / step) * step;
    double const beyond = std::ldexp(1.0, f.bias() + 1);
    return std::fabs(r) >= beyond ? std::copysign(std::numeric_limits<double>::infinity(), x) : r;
}

bool same_number(double a, double b) { return std::isnan(a) ? std::isnan(b) : a == b && std::signbit(a) == std::signbit(b); }

// All numbers of the format, what lies halfway between neighbours, and the floats beside both; beyond the largest; floats from everywhere.
std::vector<float> samples(format f) {
    std::vector<float> x;
    for (unsigned h = 0; h < 0x8000u; ++h) {
        double const a = value_of(f, h), b = value_of(f, h + 1);
        if (!std::isfinite(a)) { break; }
        double const half = std::isfinite(b) ? a + (b - a) / 2 : a + std::ldexp(1.0, f.bias() - f.fraction_bits - 1);
        for (double c : {a, half}) {
            float const at = static_cast<float>(c); // exact: half a step of bf16's denormal numbers is still a float
            for (float y : {at, std::nextafter(at, 0.0f), std::nextafter(at, std::numeric_limits<float>::infinity())}) {
                x.push_back(y);
                x.push_back(-y);
            }
        }
    }
    for (std::uint64_t bits = 0; bits <= 0xffffffffu; bits += 40009) { x.push_back(float_of(static_cast<std::uint32_t>(bits))); }
    for (std::uint32_t bits : {0x7f800000u, 0x7f800001u, 0x7fffffffu, 0x7fc00000u, 0x7fa00000u, 0x7f7fffffu, 0x7f80ffffu}) {
        x.push_back(float_of(bits));
        x.push_back(float_of(bits | 0x80000000u));
    }
    x.resize((x.size() + 63) / 64 * 64, 0.0f);
    return x;
}

template <class T>
T half_of(unsigned bits) {
    T h;
    h.bits = static_cast<std::uint16_t>(bits);
    return h;
}

template <class T>
void check_scalars() {
    format const f = format_of<T>;
    int wrong = 0;
    for (unsigned h = 0; h < 0x10000u; ++h) {
        T const x = half_of<T>(h);
        wrong += !same_number(static_cast<double>(static_cast<float>(x)), value_of(f, h));
        wrong += !same_number(static_cast<double>(x), value_of(f, h));
        // there and back: the same bits, NaN made quiet
        unsigned const quiet = std::isnan(value_of(f, h)) ? h | (1u << (f.fraction_bits - 1)) : h;
        wrong += T(static_cast<float>(x)).bits != quiet;
    }
    CHECK(wrong == 0);
    for (float x : samples(f)) {
        if (!same_number(static_cast<double>(T(x)), rounded(f, static_cast<double>(x))) || std::signbit(static_cast<float>(T(x))) != std::signbit(x)) {
            ++wrong;
            CAPTURE(x, T(x).bits);
            CHECK(false);
            if (wrong > 10) { return; }
        }
    }
    // From double once, not by way of float: halfway between two numbers, and a hair more than a float can tell.
    random_source random(71);
    for (int k = 0; k < 20000; ++k) {
        unsigned const h = static_cast<unsigned>(random.integer(0, 0x7fff));
        double const a = value_of(f, h), b = value_of(f, h + 1);
        if (!std::isfinite(a) || !std::isfinite(b)) { continue; }
        for (double c : {a + (b - a) / 2, std::nextafter(a + (b - a) / 2, 0.0), std::nextafter(a + (b - a) / 2, 1e300), random.normal(), random.normal() * 1e-5, random.normal() * 1e39}) {
            wrong += !same_number(static_cast<double>(T(c)), rounded(f, c));
            wrong += !same_number(static_cast<double>(T(-c)), rounded(f, -c));
        }
    }
    CHECK(wrong == 0);
}

// Registers of one instruction set against the scalars, bit by bit.
template <class T, class A>
void check_registers(char const* name) {
    INFO(name);
    using V = heed::vec<float, A>;
    constexpr int L = V::lanes;
    int wrong = 0;
    for (unsigned h = 0; h < 0x10000u; h += L) {
        T halves[L], back[L];
        float wide[L];
        for (unsigned l = 0; l < unsigned(L); ++l) { halves[l] = half_of<T>(h + l); }
        V const x = heed::load_as<V>(halves);
        x.store(wide);
        heed::store_as(back, x);
        for (int l = 0; l < L; ++l) {
            wrong += !same_number(static_cast<double>(wide[l]), static_cast<double>(halves[l]));
            wrong += back[l].bits != T(wide[l]).bits;
        }
    }
    CHECK(wrong == 0);
    auto const x = samples(format_of<T>);
    for (std::size_t i = 0; i < x.size(); i += L) {
        T halves[L];
        heed::store_as(halves, V::load(x.data() + i));
        for (std::size_t l = 0; l < std::size_t(L); ++l) { wrong += halves[l].bits != T(x[i + l]).bits; }
    }
    CHECK(wrong == 0);
    for (auto where : {place::upper_page, place::lower_page}) {
        for (int n = 0; n <= L; ++n) {
            guarded_block block(static_cast<std::size_t>(n) * sizeof(T), where);
            T* const p = reinterpret_cast<T*>(block.data());
            float wide[L];
            for (int l = 0; l < L; ++l) { wide[l] = static_cast<float>(l + 1); }
            heed::store_as(p, V::load(wide), n);
            heed::load_as<V>(p, n).store(wide);
            for (int l = 0; l < L; ++l) { wrong += wide[l] != (l < n ? static_cast<float>(l + 1) : 0.0f); }
            wrong += !block.surroundings_intact();
        }
    }
    CHECK(wrong == 0);
}
template <class T, unsigned Features>
void check_registers_if_built(char const* name) {
    if constexpr ((heed::isa::native & Features) == Features) { check_registers<T, heed::arch<Features>>(name); }
}
template <class T>
void check_all_registers() {
    using namespace heed;
    check_registers<T, native_arch>("native");
    check_registers_if_built<T, isa::sse2>("sse2");
    check_registers_if_built<T, isa::sse2 | isa::sse4_2 | isa::avx>("avx");
    check_registers_if_built<T, isa::sse2 | isa::sse4_2 | isa::avx | isa::fma | isa::avx2>("avx2");
    check_registers_if_built<T, isa::sse2 | isa::sse4_2 | isa::avx | isa::fma | isa::avx2 | isa::f16c>("avx2 + f16c");
    check_registers_if_built<T, isa::neon64>("neon");
}

} // namespace

TEST_CASE("storage types: bf16 widens exactly and rounds to nearest even", "[contract]") {
    HEED_SEEDED;
    check_scalars<heed::bf16>();
}
TEST_CASE("storage types: fp16 widens exactly and rounds to nearest even", "[contract]") {
    HEED_SEEDED;
    check_scalars<heed::fp16>();
}
TEST_CASE("storage types: registers of bf16 give the scalars' bits", "[contract]") { check_all_registers<heed::bf16>(); }
TEST_CASE("storage types: registers of fp16 give the scalars' bits", "[contract]") { check_all_registers<heed::fp16>(); }

TEST_CASE("storage types: floats and doubles load and store as they are, in part too", "[contract]") {
    using V = heed::vec<double, heed::native_arch>;
    guarded_block block(3 * sizeof(double), place::upper_page);
    double* const p = reinterpret_cast<double*>(block.data());
    for (int n = 0; n <= (V::lanes < 3 ? V::lanes : 3); ++n) {
        heed::store_as(p, V(2.5), n);
        double wide[V::lanes];
        heed::load_as<V>(p, n).store(wide);
        for (int l = 0; l < V::lanes; ++l) { CHECK(wide[l] == (l < n ? 2.5 : 0.0)); }
    }
    CHECK(block.surroundings_intact());
    STATIC_REQUIRE(std::is_same_v<heed::compute_t<heed::bf16>, float>);
    STATIC_REQUIRE(std::is_same_v<heed::compute_t<heed::fp16 const>, float>);
    STATIC_REQUIRE(std::is_same_v<heed::compute_t<float>, float>);
    STATIC_REQUIRE(std::is_same_v<heed::compute_t<double>, double>);
}

#if defined(__x86_64__)
TEST_CASE("storage types: the rounding mode does not matter", "[contract]") {
    using V = heed::vec<float, heed::native_arch>;
    auto const x = samples(format_of<heed::fp16>);
    std::vector<std::uint16_t> expected(x.size());
    for (std::size_t i = 0; i < x.size(); ++i) { expected[i] = heed::fp16(x[i]).bits; }
    for (int mode : {FE_UPWARD, FE_DOWNWARD, FE_TOWARDZERO}) {
        int wrong = 0;
        std::fesetround(mode);
        for (std::size_t i = 0; i < x.size(); i += V::lanes) {
            heed::fp16 halves[V::lanes];
            heed::store_as(halves, V::load(x.data() + i));
            for (std::size_t l = 0; l < std::size_t(V::lanes); ++l) { wrong += halves[l].bits != expected[i + l]; }
        }
        std::fesetround(FE_TONEAREST);
        CHECK(wrong == 0);
    }
}
#endif
