// SPDX-License-Identifier: BSD-3-Clause
// Sentence: rounding mode and denormal flags are respected as found.
#include <support/catch.hpp>
#include <support/problem.hpp>

#include <cfenv>
#if defined(__SSE2__)
#include <immintrin.h>
#endif

using namespace heed_test;

namespace {

struct restore_environment {
    std::fenv_t saved;
    restore_environment() { std::fegetenv(&saved); }
    ~restore_environment() { std::fesetenv(&saved); }
};

} // namespace

TEST_CASE("environment: the rounding mode is left as found, and results stay right", "[contract]") {
    HEED_SEEDED;
    random_source random(211);
    problem<float> p({1, 2, 2, 60, 170, 12, 9}, random);
    auto const m = heed::softmax_attention(heed::causal_bottom_right{});
    auto c = p.exact();
    c.keep = oracle::causal_bottom_right(p.n.pairs());
    auto const exact = oracle::softmax(c);
    for (int mode : {FE_TONEAREST, FE_UPWARD, FE_DOWNWARD, FE_TOWARDZERO}) {
        int after = 0;
        {
            restore_environment const guard;
            std::fesetround(mode);
            p.run(m);
            after = std::fegetround();
        }
        CHECK(after == mode);
        // directed rounding adds up: the linear form of the bound
        error_bound bound = bound_of<float>(m);
        bound.width = 12;
        bound.c2 = mode == FE_TONEAREST ? bound.c2 : 4 * std::sqrt(bound.keys_per_tile);
        auto const found = compare<float>(p.out.in(), p.lse.in(), exact, bound);
        INFO("mode " << mode << " " << found.text);
        CHECK(found.good());
    }
}

#if defined(__SSE2__)
TEST_CASE("environment: the control register is left as found", "[contract]") {
    HEED_SEEDED;
    random_source random(212);
    problem<float> p({1, 1, 1, 60, 170, 12, 9}, random);
    unsigned const found = _mm_getcsr();
    for (unsigned control : {0x1f80u, 0x1f80u | 0x8000u, 0x1f80u | 0x0040u, 0x1f80u | 0x8040u}) { // plain, flush to zero, denormals are zero, both
        _mm_setcsr(control);
        p.run(heed::softmax_attention());
        unsigned const after = _mm_getcsr() & ~0x3fu; // without the sticky flags
        _mm_setcsr(found);
        CHECK(after == control);
    }
}

TEST_CASE("environment: denormal values pass unless the caller flushes them", "[contract]") {
    // one key: the value comes back as it is
    float const tiny = std::numeric_limits<float>::denorm_min() * 1000;
    std::vector<float> q{1}, v{tiny}, out{5};
    heed::shape const s{1, 1, 1, 1};
    heed::forward(heed::softmax_attention(), heed::tensor_view<float const>{q.data(), s}, heed::tensor_view<float const>{q.data(), s}, heed::tensor_view<float const>{v.data(), s},
                  heed::tensor_view<float>{out.data(), s});
    CHECK(out[0] == tiny);
    unsigned const found = _mm_getcsr();
    _mm_setcsr(found | 0x8040u);
    heed::forward(heed::softmax_attention(), heed::tensor_view<float const>{q.data(), s}, heed::tensor_view<float const>{q.data(), s}, heed::tensor_view<float const>{v.data(), s},
                  heed::tensor_view<float>{out.data(), s});
    _mm_setcsr(found);
    CHECK(out[0] == 0);
}
#endif
