// SPDX-License-Identifier: BSD-3-Clause
// Output gates, shaped and differential attention: against sums written from their equations, and their laws.
#include <oracle/rows.hpp>
#include <support/catch.hpp>
#include <support/problem.hpp>
#include <support/team.hpp>

#include <heed/mechanism/differential.hpp>
#include <heed/mechanism/gated.hpp>
#include <heed/mechanism/proportional.hpp>
#include <heed/mechanism/shaped.hpp>

using namespace heed_test;

namespace {

sizes draw_mixture_sizes(random_source& random) {
    sizes n;
    n.queries = random.integer(1, 60);
    n.keys = random.integer(1, 200);
    n.width = random.integer(1, 20);
    n.value_width = random.integer(1, 40);
    n.kv_heads = random.integer(1, 2);
    n.heads = n.kv_heads * random.integer(1, 3);
    n.batch = random.integer(1, 2);
    return n;
}
template <class T>
tensor<T> numbers(heed::shape s, random_source& random) {
    tensor<T> t(s);
    t.normal(random);
    return t;
}
// Greatest difference to expected(b, h, i, e), relative to 1.
template <class T, class F>
double distance(tensor<T> const& out, F const& expected) {
    double worst = 0;
    heed::shape const s = out.shape();
    for (extent_t b = 0; b < s.batch; ++b)
        for (extent_t h = 0; h < s.head; ++h)
            for (extent_t i = 0; i < s.seq; ++i)
                for (extent_t e = 0; e < s.feature; ++e) {
                    double const x = expected(b, h, i, e), d = std::fabs(static_cast<double>(out(b, h, i, e)) - x) / (1 + std::fabs(x));
                    worst = d <= worst ? worst : std::isnan(d) ? 1e9 : d;
                }
    return worst;
}
// The same call on another executor and into padded rows.
template <class M, class T>
void require_same_elsewhere(M const& m, problem<T> const& p) {
    tensor<T> other(p.n.out(), padded(p.n.out(), 3));
    heed::forward(m, p.q.in(), p.k.in(), p.v.in(), other.view(), heed::cpu{thread_team{3}});
    REQUIRE(same_bits<T>(other.in(), p.out.in()));
}
template <class T>
constexpr double allowed = std::is_same_v<T, float> ? 1e-5 : 1e-13;

template <class T>
void try_gates() {
    random_source random(991);
    for (int n = 0; n < 12; ++n) {
        problem<T> p(draw_mixture_sizes(random), random);
        heed::shape s = p.n.out();
        if (n % 3 == 1) { s.feature = 1; }
        if (n % 3 == 2) { s.batch = s.head = 1; }
        auto gate = numbers<T>(s, random);
        auto c = p.exact();
        c.keep = oracle::causal_bottom_right(p.n.pairs());
        auto const r = oracle::softmax(c);
        auto const m = heed::gated_attention(gate.in(), heed::causal_bottom_right{});
        heed::forward(m, p.q.in(), p.k.in(), p.v.in(), p.out.view());
        auto const g = oracle::read(gate.in());
        INFO(p.n);
        REQUIRE(distance(p.out, [&](extent_t b, extent_t h, extent_t i, extent_t e) { return r.out(b, h, i, e) / (1 + std::exp(-g.spread(b, h, i, e))); }) < allowed<T>);
        REQUIRE(p.intact());
        require_same_elsewhere(m, p);
    }
}
template <class T>
void try_shaped(double tolerance) {
    random_source random(992);
    for (int n = 0; n < 16; ++n) {
        problem<T> p(draw_mixture_sizes(random), random);
        auto const alpha = numbers<T>({1, p.n.heads, 1, 1}, random), beta = numbers<T>({1, p.n.heads, 1, 1}, random), gamma = numbers<T>({1, 1, 1, 1}, random);
        heed::window const pattern = n % 2 ? heed::window(random.integer(0, 30), random.integer(-2, 9)) : heed::window(1000, 0);
        auto c = p.exact();
        c.keep = oracle::band(p.n.pairs(), pattern.left, pattern.right);
        auto const r = oracle::softmax(c);
        auto const mean = oracle::attend(c, oracle::each([](oracle::real) { return oracle::real(1); }, [](oracle::real, oracle::real seen, oracle::real) { return seen; }));
        auto const m = heed::shaped_attention(alpha.in(), beta.in(), gamma.in(), pattern);
        heed::forward(m, p.q.in(), p.k.in(), p.v.in(), p.out.view());
        INFO(p.n << " window " << pattern.left << " " << pattern.right);
        REQUIRE(distance(p.out, [&](extent_t b, extent_t h, extent_t i, extent_t e) {
                    extent_t const own = i + p.n.keys - p.n.queries;
                    double const v = own < 0 ? 0 : static_cast<double>(p.v(b, h / (p.n.heads / p.n.kv_heads), own, e));
                    return static_cast<double>(alpha(0, h, 0, 0)) * v + static_cast<double>(beta(0, h, 0, 0)) * r.out(b, h, i, e) - static_cast<double>(gamma(0, 0, 0, 0)) * mean.out(b, h, i, e);
                }) < tolerance);
        require_same_elsewhere(m, p);
    }
}
template <class T>
void try_differential() {
    random_source random(993);
    for (int n = 0; n < 12; ++n) {
        problem<T> p(draw_mixture_sizes(random), random), second(p.n, random);
        auto const lambda = numbers<T>({1, p.n.heads, 1, 1}, random);
        auto const exact = [&](problem<T> const& x) {
            auto c = x.exact();
            c.v = oracle::read(p.v.in());
            c.keep = oracle::causal_bottom_right(p.n.pairs());
            return oracle::softmax(c).out;
        };
        auto const a = exact(p), b = exact(second);
        auto const m = heed::differential_attention(lambda.in(), second.q.in(), second.k.in(), heed::causal_bottom_right{});
        heed::forward(m, p.q.in(), p.k.in(), p.v.in(), p.out.view());
        INFO(p.n);
        REQUIRE(distance(p.out, [&](extent_t x, extent_t h, extent_t i, extent_t e) { return a(x, h, i, e) - static_cast<double>(lambda(0, h, 0, 0)) * b(x, h, i, e); }) < allowed<T>);
        require_same_elsewhere(m, p);
    }
}

} // namespace

TEST_CASE("mixtures: output gates", "[oracle]") {
    HEED_SEEDED;
    try_gates<float>();
    try_gates<double>();
}
TEST_CASE("mixtures: shaped attention", "[oracle]") {
    HEED_SEEDED;
    try_shaped<float>(1e-5);
    try_shaped<double>(1e-13);
}
TEST_CASE("mixtures: differential attention", "[oracle]") {
    HEED_SEEDED;
    try_differential<float>();
    try_differential<double>();
}

TEST_CASE("mixtures: laws", "[laws]") {
    HEED_SEEDED;
    random_source random(994);
    auto const causal = heed::causal_bottom_right{};
    for (int n = 0; n < 8; ++n) {
        problem<float> p(draw_mixture_sizes(random), random), plain = copied(p);
        INFO(p.n);
        plain.run(heed::softmax_attention(causal));
        auto const run = [&](auto const& m) { heed::forward(m, p.q.in(), p.k.in(), p.v.in(), p.out.view()); };
        // gates of 0 halve exactly, large ones change nothing
        tensor<float> gate(p.n.out());
        gate.fill(0);
        run(heed::gated_attention(gate.in(), causal));
        CHECK(distance(p.out, [&](extent_t b, extent_t h, extent_t i, extent_t e) { return static_cast<double>(plain.out(b, h, i, e) / 2); }) == 0);
        gate.fill(200);
        run(heed::gated_attention(gate.in(), causal));
        CHECK(distance(p.out, [&](extent_t b, extent_t h, extent_t i, extent_t e) { return static_cast<double>(plain.out(b, h, i, e)); }) == 0);
        // alpha = gamma = 0, beta = 1: softmax; equal scores and all three 1: the values themselves
        float const zero = 0, one = 1;
        heed::tensor_view<float const> const none{&zero, {1, 1, 1, 1}}, all{&one, {1, 1, 1, 1}};
        run(heed::shaped_attention(none, all, none, causal));
        CHECK(distance(p.out, [&](extent_t b, extent_t h, extent_t i, extent_t e) { return static_cast<double>(plain.out(b, h, i, e)); }) == 0);
        p.q.fill(0);
        run(heed::shaped_attention(all, all, all, causal));
        CHECK(distance(p.out, [&](extent_t b, extent_t h, extent_t i, extent_t e) {
                  extent_t const own = i + p.n.keys - p.n.queries;
                  return own < 0 ? 0.0 : static_cast<double>(p.v(b, h / (p.n.heads / p.n.kv_heads), own, e));
              }) < 3e-6);
        // lambda = 0
        p.q.copy(plain.q.in());
        run(heed::differential_attention(none, p.q.in(), p.k.in(), causal));
        CHECK(distance(p.out, [&](extent_t b, extent_t h, extent_t i, extent_t e) { return static_cast<double>(plain.out(b, h, i, e)); }) == 0);
        run(heed::differential_attention(all, p.q.in(), p.k.in(), causal)); // a - a
        CHECK(distance(p.out, [](extent_t, extent_t, extent_t, extent_t) { return 0.0; }) == 0);
    }
}

TEST_CASE("mixtures: NaN reaches the rows that see it; what leaves a window is gone", "[contract]") {
    HEED_SEEDED;
    random_source random(995);
    problem<float> p({1, 1, 1, 90, 90, 4, 5}, random);
    p.v(0, 0, 30, 2) = std::numeric_limits<float>::quiet_NaN();
    float const one = 1;
    heed::tensor_view<float const> const all{&one, {1, 1, 1, 1}};
    heed::forward(heed::shaped_attention(all, all, all, heed::window(10, 0)), p.q.in(), p.k.in(), p.v.in(), p.out.view());
    for (extent_t i = 0; i < 90; ++i) { CHECK(std::isnan(p.out(0, 0, i, 2)) == (30 <= i && i <= 40)); }
}

TEST_CASE("mixtures: what does not fit is refused, with nothing written", "[contract]") {
    random_source random(996);
    problem<float> p({1, 4, 2, 5, 9, 4, 4}, random);
    p.out.fill(3);
    tensor<float> gate(heed::shape{1, 4, 6, 4}), q2(heed::shape{1, 4, 4, 4});
    auto const refuses = [&](auto const& m) {
        CHECK_THROWS_AS(heed::forward(m, p.q.in(), p.k.in(), p.v.in(), p.out.view()), heed::shape_error);
        CHECK(p.out(0, 3, 4, 3) == 3);
    };
    refuses(heed::gated_attention(gate.in()));
    refuses(heed::gated_attention(p.out.in())); // the gate is the output
    float const one = 1;
    refuses(heed::differential_attention(heed::tensor_view<float const>{&one, {1, 1, 1, 1}}, q2.in(), p.k.in()));
    refuses(heed::shaped_attention(gate.in(), gate.in(), gate.in()));
}
