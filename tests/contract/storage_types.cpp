// SPDX-License-Identifier: BSD-3-Clause
// Sentence: bf16 / fp16 storage, fp32 accumulation: error at most that of the plain implementation in the same storage type (fp32 inside) plus
// half an output ulp. Here more: where no product takes 16-bit operands, the result is that of float on the widened tensors, rounded once.
// Products of pairs of bf16 run here in floats where the machine has no instruction for them: weights, rounded to bf16, then add 2^-9 of sum p |v|.
// Sentence: the rules on non-finite elements, empty rows and layouts hold for every element type.
#include <support/catch.hpp>
#include <support/problem.hpp>

using namespace heed_test;

namespace {

float const inf = std::numeric_limits<float>::infinity();

// Half the distance between numbers of T at x.
template <class T>
double half_step(double x) {
    int const least = std::is_same_v<T, heed::fp16> ? -14 : -126;
    int const exponent = x == 0 || std::ilogb(x) < least ? least : std::ilogb(x);
    return std::ldexp(1.0, exponent - T::digits);
}

// This machine, with products of pairs of bf16 whether it has them or not.
using pairing = heed::arch<heed::isa::native | heed::isa::bf16_pays>;
template <class T, class A>
constexpr bool pairs = std::is_same_v<T, heed::bf16> && heed::has_bf16_dot<A>;

// The same numbers as T and as float.
template <class T, class A = heed::native_arch>
struct twins {
    sizes n;
    tensor<T> q, k, v, out;
    tensor<float> q32, k32, v32, out32, lse, lse32;

    twins(sizes s, random_source& random, heed::strides sk, heed::strides sv, place where = place::margin)
        : n(s), q(s.q(), where), k(s.k(), sk, where), v(s.v(), sv, where), out(s.out(), where), q32(s.q()), k32(s.k()), v32(s.v()), out32(s.out()), lse(s.lse()), lse32(s.lse()) {
        for (auto* t : {&q, &k, &v}) { t->normal(random); }
        widen();
    }
    twins(sizes s, random_source& random, place where = place::margin) : twins(s, random, heed::row_major(s.k()), heed::row_major(s.v()), where) {}
    void widen() {
        auto const copy = [](tensor<float>& to, tensor<T>& from) {
            to.each_at([&](float& x, extent_t b, extent_t h, extent_t i, extent_t c) { x = static_cast<float>(from(b, h, i, c)); });
        };
        copy(q32, q);
        copy(k32, k);
        copy(v32, v);
    }
    template <class M>
    void run(M const& m) {
        heed::forward<A>(m, q.in(), k.in(), v.in(), out.view(), heed::save{lse.view()});
        heed::forward(m, q32.in(), k32.in(), v32.in(), out32.view(), heed::save{lse32.view()});
    }
    // out is out32 rounded, and the log-sum-exp the same; with 16-bit products, as near as their rounding of weights allows.
    void check() {
        constexpr bool dots = pairs<T, A>;
        extent_t wrong = 0;
        for (extent_t b = 0; b < n.batch; ++b)
            for (extent_t h = 0; h < n.heads; ++h)
                for (extent_t i = 0; i < n.queries; ++i) {
                    for (extent_t e = 0; e < n.value_width; ++e) {
                        float const expected = out32(b, h, i, e), got = static_cast<float>(out(b, h, i, e));
                        bool const near = std::fabs(got - expected) <= 0x1p-6f * (1 + std::fabs(expected));
                        bool const same = T(expected).bits == out(b, h, i, e).bits || (std::isnan(expected) && std::isnan(got));
                        wrong += !(same || (dots && near));
                    }
                    float const x = lse(b, h, i, 0), y = lse32(b, h, i, 0);
                    wrong += !(x == y || (std::isnan(x) && std::isnan(y)) || (dots && std::fabs(x - y) <= 1e-4f * (1 + std::fabs(y))));
                }
        CHECK(wrong == 0);
        CHECK(out.intact());
        CHECK(k.intact());
        CHECK(v.intact());
    }
};

auto const causal = heed::softmax_attention(heed::causal_bottom_right{});

template <class T, class A = heed::native_arch>
void check_shapes() {
    random_source random(301);
    for (sizes const& n : {sizes{1, 1, 1, 1, 1, 1, 1}, sizes{2, 4, 2, 53, 150, 7, 13}, sizes{1, 6, 3, 49, 300, 64, 64}, sizes{1, 1, 1, 200, 129, 33, 8},
                           sizes{1, 2, 1, 5, 3, 96, 1}, sizes{1, 2, 2, 20, 0, 8, 8}, sizes{1, 2, 2, 20, 30, 0, 8}, sizes{1, 1, 1, 9, 9, 3, 0}, sizes{1, 3, 1, 0, 9, 3, 5}}) {
        INFO(n);
        twins<T, A> p(n, random, place::upper_page);
        p.run(causal);
        p.check();
    }
    // features apart, rows backwards, values broadcast over heads
    sizes const n{2, 2, 2, 60, 140, 12, 10};
    twins<T, A> apart(n, random, {n.keys * 24, n.keys * 12, 1, n.keys}, {n.keys * 40, n.keys * 20, -20, 2});
    apart.run(causal);
    apart.check();
}

template <class T, class A = heed::native_arch>
void check_error() {
    random_source random(302);
    for (extent_t width : {16, 64, 128}) {
        twins<T, A> p({1, 2, 1, 64, 400, width, 24}, random);
        p.run(causal);
        oracle::softmax_case c;
        c.q = oracle::read(p.q.in());
        c.k = oracle::read(p.k.in());
        c.v = oracle::read(p.v.in());
        c.scale = 1 / std::sqrt(static_cast<double>(width));
        c.keep = oracle::causal_bottom_right(p.n.pairs());
        auto const exact = oracle::softmax(c);
        error_bound bound = bound_of<float>(causal);
        bound.width = static_cast<double>(width);
        constexpr bool dots = pairs<T, A>;
        double worst = 0;
        for (extent_t h = 0; h < 2; ++h)
            for (extent_t i = 0; i < 64; ++i)
                for (extent_t e = 0; e < 24; ++e) {
                    double const x = exact.out(0, h, i, e), u = eps<float> * units(bound, exact.largest(0, h, i, 0), exact.attended(0, h, i, 0));
                    double const allowed = u * exact.magnitude(0, h, i, e) + half_step<T>(x) + (dots ? 0x1p-9 * exact.magnitude(0, h, i, e) : 0);
                    worst = std::fmax(worst, std::fabs(static_cast<double>(p.out(0, h, i, e)) - x) / allowed);
                }
        INFO("width " << width << ": " << worst << " of what is allowed");
        CHECK(worst <= 1);
        CHECK(worst > (dots ? 0.2 : 0.5)); // half an ulp is met: the result is rounded, and rounded once
    }
}

template <class T, class A = heed::native_arch>
void check_non_finite() {
    random_source random(303);
    sizes const n{1, 2, 1, 70, 200, 6, 9};
    T const nan(std::numeric_limits<float>::quiet_NaN()), infinite(inf);
    auto const sees = [&](extent_t i, extent_t j) { return j <= i + n.keys - n.queries; };
    for (T poison : {nan, infinite, T(-inf)}) {
        for (extent_t j : {0, 127, 131, 150, 199}) {
            twins<T, A> p(n, random);
            p.v(0, 0, j, 4) = poison;
            p.widen();
            p.run(causal);
            p.check();
            bool right = true;
            for (extent_t h = 0; h < 2; ++h)
                for (extent_t i = 0; i < n.queries; ++i)
                    for (extent_t e = 0; e < 9; ++e) { right = right && std::isfinite(static_cast<float>(p.out(0, h, i, e))) == !(e == 4 && sees(i, j)); }
            CHECK(right);
            p.v(0, 0, j, 4) = T(0.0f);
            p.k(0, 0, j, 2) = nan;
            p.widen();
            p.run(causal);
            for (extent_t i = 0; i < n.queries; ++i) { right = right && std::isnan(static_cast<float>(p.out(0, 1, i, 0))) == sees(i, j); }
            CHECK(right);
        }
    }
}

template <class T>
void check_ragged() {
    random_source random(304);
    std::vector<std::int32_t> const starts{0, 5, 5, 90, 101};
    heed::ragged_offsets const offsets(starts);
    twins<T> p({1, 2, 1, 101, 101, 9, 11}, random);
    auto const cut = [&](auto view) { return heed::ragged(view, offsets); };
    heed::forward(causal, cut(p.q.in()), cut(p.k.in()), cut(p.v.in()), cut(p.out.view()), heed::save{cut(p.lse.view())});
    heed::forward(causal, cut(p.q32.in()), cut(p.k32.in()), cut(p.v32.in()), cut(p.out32.view()), heed::save{cut(p.lse32.view())});
    p.check();
}

} // namespace

TEST_CASE("storage types: bf16 in and out is float inside, rounded once", "[contract]") {
    HEED_SEEDED;
    check_shapes<heed::bf16>();
    check_error<heed::bf16>();
}
TEST_CASE("storage types: fp16 in and out is float inside, rounded once", "[contract]") {
    HEED_SEEDED;
    check_shapes<heed::fp16>();
    check_error<heed::fp16>();
}
TEST_CASE("storage types: NaN and Inf reach exactly the rows that attend them", "[contract]") {
    HEED_SEEDED;
    check_non_finite<heed::bf16>();
    check_non_finite<heed::fp16>();
}
TEST_CASE("storage types: bf16 in products of pairs", "[contract]") {
    HEED_SEEDED;
    check_shapes<heed::bf16, pairing>();
    check_error<heed::bf16, pairing>();
    check_non_finite<heed::bf16, pairing>();
    auto const plan = heed::plan<heed::bf16, pairing>(causal, heed::shape{1, 1, 9, 4}, heed::shape{1, 1, 9, 4}, heed::shape{1, 1, 9, 4});
    CHECK(plan.engine() == "cpu.pairwise.forward.bf16");
    auto const other = heed::plan<heed::fp16, pairing>(causal, heed::shape{1, 1, 9, 4}, heed::shape{1, 1, 9, 4}, heed::shape{1, 1, 9, 4});
    CHECK(other.engine() == "cpu.pairwise.forward");
}
TEST_CASE("storage types: a weight of one passes a value unchanged through products of pairs, whatever its place", "[contract]") {
    // window{1}: each query attends its own key
    sizes const n{1, 1, 1, 131, 131, 5, 9};
    HEED_SEEDED;
    random_source random(306);
    twins<heed::bf16, pairing> p(n, random);
    heed::forward<pairing>(heed::softmax_attention(heed::causal_bottom_right{} & heed::window{1}), p.q.in(), p.k.in(), p.v.in(), p.out.view());
    CHECK(same_bits(p.out, p.v));
}
TEST_CASE("storage types: ragged batches", "[contract]") {
    HEED_SEEDED;
    check_ragged<heed::bf16>();
    check_ragged<heed::fp16>();
}
TEST_CASE("storage types: results beyond the largest number are infinite, below the least they are 0", "[contract]") {
    // one key: the value comes back; two equal keys of opposite sign cancel
    heed::shape const one{1, 1, 1, 1}, two{1, 1, 2, 1};
    std::vector<heed::fp16> q{heed::fp16(0.0f)}, k{heed::fp16(0.0f), heed::fp16(0.0f)}, v{heed::fp16(65504.0f), heed::fp16(65504.0f)}, out(1);
    auto const run = [&] {
        heed::forward(heed::softmax_attention(heed::causal_bottom_right{}), heed::tensor_view<heed::fp16 const>{q.data(), one}, heed::tensor_view<heed::fp16 const>{k.data(), two},
                      heed::tensor_view<heed::fp16 const>{v.data(), two}, heed::tensor_view<heed::fp16>{out.data(), one});
        return static_cast<float>(out[0]);
    };
    CHECK(run() == 65504);
    v[1] = heed::fp16(-65504.0f);
    CHECK(run() == 0);
    v = {heed::fp16(0x1p-24f), heed::fp16(0.0f)};
    CHECK(run() == 0); // 2^-25: a tie, to even
    v = {heed::fp16(0x1p-24f), heed::fp16(0x1p-23f)};
    CHECK(run() == 0x1p-23f);
}
TEST_CASE("storage types: the reference engine computes in float too", "[contract]") {
    HEED_SEEDED;
    random_source random(305);
    twins<heed::bf16> p({1, 4, 2, 20, 33, 7, 9}, random);
    heed::forward(causal, p.q.in(), p.k.in(), p.v.in(), p.out.view(), heed::reference{}, heed::save{p.lse.view()});
    heed::forward(causal, p.q32.in(), p.k32.in(), p.v32.in(), p.out32.view(), heed::reference{}, heed::save{p.lse32.view()});
    p.check();
}
