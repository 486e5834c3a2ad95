// SPDX-License-Identifier: BSD-3-Clause
// The Hyena operator and the gate of oversized kernels against direct sums: every order, both sets of taps, ragged batches, gradients, strides, threads, steps.
#include <oracle/array.hpp>
#include <support/team.hpp>
#include <support/tensor.hpp>
#include <support/tolerance.hpp>

#include <heed/front/hyena.hpp>
#include <heed/front/parc.hpp>

#include <cmath>
#include <numbers>

using namespace heed_test;
using arrays = std::vector<oracle::array>;

namespace {

// {v, x, filters, skip}; lengths: of each sequence
oracle::array hyena_sums(arrays const& a, bool centred, std::vector<extent_t> const& lengths) {
    oracle::array const &x = a[1], &h = a[2], &b = a[3];
    oracle::array v = a[0];
    for (extent_t m = x.s.head - 1; m >= 0; --m)
        for (extent_t s = 0; s < v.s.batch; ++s)
            for (extent_t c = 0; c < v.s.feature; ++c) {
                extent_t const n = lengths[static_cast<std::size_t>(s)], own = centred ? n / 2 : 0;
                std::vector<double> u;
                for (extent_t i = 0; i < n; ++i) { u.push_back(v(s, 0, i, c) * x(s, m, i, c)); }
                for (extent_t i = 0; i < n; ++i) {
                    double sum = m == 0 ? u[static_cast<std::size_t>(i)] : b(0, m - 1, 0, c) * u[static_cast<std::size_t>(i)];
                    for (extent_t j = 0; m > 0 && j < n; ++j) {
                        extent_t const t = i + own - j;
                        if (t >= 0 && t < std::min(n, h.s.seq)) { sum += h(0, m - 1, t, h.s.feature == 1 ? 0 : c) * u[static_cast<std::size_t>(j)]; }
                    }
                    v(s, 0, i, c) = sum;
                }
            }
    return v;
}

// {a, b, down, across, added}; no down: none given
oracle::array gate_sums(arrays const& x) {
    heed::shape const s = x[0].s;
    oracle::array c = x[4], gated = x[1], down = x[1];
    for (double& g : gated.x) { g = g / 2 * (1 + std::erf(g / std::numbers::sqrt2)); }
    for (extent_t b = 0; b < s.batch; ++b)
        for (extent_t y = 0; y < s.head; ++y)
            for (extent_t i = 0; i < s.seq; ++i)
                for (extent_t e = 0; e < s.feature; ++e) {
                    double sum = 0;
                    for (extent_t r = 0; r < s.head; ++r) { sum += x[2].given() ? x[2](0, 0, r - y + s.head - 1, e) * gated(b, r, i, e) : 0; }
                    down(b, y, i, e) = x[2].given() ? sum : gated(b, y, i, e);
                }
    for (extent_t b = 0; b < s.batch; ++b)
        for (extent_t y = 0; y < s.head; ++y)
            for (extent_t i = 0; i < s.seq; ++i)
                for (extent_t e = 0; e < s.feature; ++e) {
                    for (extent_t j = 0; j < s.seq; ++j) { c(b, y, i, e) += x[3](0, 0, j - i + s.seq - 1, e) * down(b, y, j, e); }
                    c(b, y, i, e) *= x[0](b, y, i, e);
                }
    return c;
}

// The gradients of sum(sums(at) dout) along random directions, one array at a time, against differences of the sums.
template <class F>
void check_gradients(arrays const& at, arrays const& got, oracle::array const& dout, F const& sums, random_source& random) {
    for (std::size_t which = 0; which < at.size(); ++which) {
        if (!at[which].given()) { continue; }
        oracle::array direction(at[which].s);
        double along = 0;
        for (std::size_t i = 0; i < direction.x.size(); ++i) {
            direction.x[i] = random.normal();
            along += direction.x[i] * got[which].x[i];
        }
        auto const loss = [&](double h) {
            arrays moved = at;
            for (std::size_t i = 0; i < direction.x.size(); ++i) { moved[which].x[i] += h * direction.x[i]; }
            auto const out = sums(moved);
            double sum = 0;
            for (std::size_t i = 0; i < out.x.size(); ++i) { sum += out.x[i] * dout.x[i]; }
            return sum;
        };
        double const h = 1e-4, expected = (8 * (loss(h) - loss(-h)) - (loss(2 * h) - loss(-2 * h))) / (12 * h);
        CAPTURE(which);
        CHECK(std::abs(along - expected) <= 1e-7 * std::max(1.0, std::abs(expected)));
    }
}

template <class T>
void compare(heed::tensor_view<T const> got, oracle::array const& exact, double factor) {
    double size = 1;
    for (double const x : exact.x) { size = std::max(size, std::abs(x)); }
    verdict v;
    for (extent_t b = 0; b < got.extent(0); ++b)
        for (extent_t h = 0; h < got.extent(1); ++h)
            for (extent_t n = 0; n < got.length(b); ++n)
                for (extent_t e = 0; e < got.extent(3); ++e) { v.look("out", b, h, n, e, static_cast<double>(got(b, h, n, e)), exact(b, h, n, e), factor * static_cast<double>(std::numeric_limits<T>::epsilon()) * size); }
    CHECK(v.text == "");
}

template <class T>
struct operands {
    tensor<T> v, x, filters, skip, out, dout, dv, dx, dfilters, dskip;
    operands(extent_t batch, extent_t order, extent_t n, extent_t taps, extent_t d, random_source& random, extent_t filter_width = 0)
        : v({batch, 1, n, d}, {n * d * (order + 1), n * d, d, 1}), x({batch, order, n, d}), filters({1, order - 1, taps, filter_width == 0 ? d : filter_width}), skip({1, order - 1, 1, d}), out({batch, 1, n, d}),
          dout({batch, 1, n, d}), dv({batch, 1, n, d}, {n * d, n * d, 1, n}), dx({batch, order, n, d}), dfilters(filters.shape()), dskip(skip.shape()) {
        for (auto* t : {&v, &x, &skip, &dout}) { t->normal(random); }
        filters.normal(random, 1 / std::sqrt(static_cast<double>(n)));
    }
    arrays all() const { return {oracle::read(v.in()), oracle::read(x.in()), oracle::read(filters.in()), oracle::read(skip.in())}; }
    arrays gradients() const { return {oracle::read(dv.in()), oracle::read(dx.in()), oracle::read(dfilters.in()), oracle::read(dskip.in())}; }
    heed::hyena_gradient<T> to() { return {dfilters.view(), dskip.view()}; }
    bool intact() const { return out.intact() && dv.intact() && dx.intact() && dfilters.intact() && dskip.intact(); }
};

template <class M>
void try_hyena(M const& make, bool centred, random_source& random) {
    for (extent_t const order : {1, 2, 4}) {
        for (extent_t const n : {1, 2, 7, 37, 127}) {
            for (extent_t const width : {0, 1}) {
                CAPTURE(centred, order, n, width);
                operands<double> o(2, order, n, width == 0 ? n : n + 5, 3, random, width);
                std::vector<extent_t> const lengths{n, n};
                auto const m = make(o.filters.in(), o.skip.in());
                heed::forward(m, o.v.in(), o.x.in(), o.out.view());
                compare<double>(o.out.in(), hyena_sums(o.all(), centred, lengths), 200);
                heed::backward(m, o.v.in(), o.x.in(), o.out.in(), o.dout.in(), o.dv.view(), o.dx.view(), o.to());
                check_gradients(o.all(), o.gradients(), oracle::read(o.dout.in()), [&](arrays const& a) { return hyena_sums(a, centred, lengths); }, random);
                CHECK(o.intact());
            }
        }
    }
}
auto const causal = [](auto filters, auto skip) { return heed::hyena(filters, skip); };
auto const centred = [](auto filters, auto skip) { return heed::centred_hyena(filters, skip); };

} // namespace

TEST_CASE("the Hyena operator of every order, causal and centred, forward and backward") {
    HEED_SEEDED;
    random_source random(51);
    try_hyena(causal, false, random);
    try_hyena(centred, true, random);
}

TEST_CASE("a filter that is 1 at its token's own tap gives (1 + b) v x_1 x_0; a causal row reads no later one") {
    HEED_SEEDED;
    random_source random(52);
    operands<float> o(1, 2, 21, 21, 5, random);
    o.filters.each_at([](float& x, extent_t, extent_t, extent_t t, extent_t) { x = t == 10 ? 1.0f : 0.0f; });
    heed::forward(heed::centred_hyena(o.filters.in(), o.skip.in()), o.v.in(), o.x.in(), o.out.view());
    o.out.each_at([&](float& y, extent_t, extent_t, extent_t i, extent_t c) { REQUIRE(y == approx((1 + o.skip(0, 0, 0, c)) * o.v(0, 0, i, c) * o.x(0, 1, i, c) * o.x(0, 0, i, c)).margin(2e-6)); });
    heed::forward(heed::hyena(o.filters.in()), o.v.in(), o.x.in(), o.out.view()); // no skip: ten tokens back
    o.out.each_at([&](float& y, extent_t, extent_t, extent_t i, extent_t c) { REQUIRE(y == approx(i < 10 ? 0.0f : o.v(0, 0, i - 10, c) * o.x(0, 1, i - 10, c) * o.x(0, 0, i, c)).margin(2e-6)); });
}

TEST_CASE("a ragged batch of the centred operator is its sequences one by one, each with its own shift") {
    HEED_SEEDED;
    random_source random(53);
    std::vector<extent_t> const starts{0, 9, 9, 50, 51}, lengths{9, 0, 41, 1};
    extent_t const rows = 51, d = 4, order = 3;
    operands<double> o(1, order, rows, 41, d, random);
    auto const cut = [&](auto view) { return heed::ragged(view, heed::ragged_offsets(std::span<std::int64_t const>(starts))); };
    auto const m = heed::centred_hyena(o.filters.in(), o.skip.in());
    heed::forward(m, cut(o.v.in()), cut(o.x.in()), cut(o.out.view()));
    heed::backward(m, cut(o.v.in()), cut(o.x.in()), cut(o.out.in()), cut(o.dout.in()), cut(o.dv.view()), cut(o.dx.view()), o.to());
    auto const sums = [&](arrays const& a) { // of the packed rows
        oracle::array out(a[0].s);
        for (std::size_t s = 0; s < lengths.size(); ++s) {
            heed::shape const vs{1, 1, lengths[s], d}, xs{1, order, lengths[s], d};
            arrays part{oracle::array(vs), oracle::array(xs), a[2], a[3]};
            for (extent_t i = 0; i < lengths[s]; ++i)
                for (extent_t c = 0; c < d; ++c) {
                    part[0](0, 0, i, c) = a[0](0, 0, starts[s] + i, c);
                    for (extent_t h = 0; h < order; ++h) { part[1](0, h, i, c) = a[1](0, h, starts[s] + i, c); }
                }
            auto const y = hyena_sums(part, true, {lengths[s]});
            for (extent_t i = 0; i < lengths[s]; ++i)
                for (extent_t c = 0; c < d; ++c) { out(0, 0, starts[s] + i, c) = y(0, 0, i, c); }
        }
        return out;
    };
    compare<double>(o.out.in(), sums(o.all()), 200);
    check_gradients(o.all(), o.gradients(), oracle::read(o.dout.in()), sums, random);
}

TEST_CASE("the causal operator token by token; the same bits for any number of threads") {
    HEED_SEEDED;
    random_source random(54);
    operands<float> o(2, 3, 150, 99, 21, random), other(2, 3, 150, 99, 21, random);
    auto const m = heed::hyena(o.filters.in(), o.skip.in());
    auto stream = heed::make_stream(m, o.v.shape());
    for (extent_t at = 0, n = 1; at < 150; at += n, n = std::min<extent_t>(n + 1, 150 - at)) {
        auto const part = [&](auto view) {
            heed::shape s = view.shape();
            s.seq = n;
            return heed::tensor_view(view.row(0, 0, at), s, view.strides());
        };
        heed::step(stream, part(o.v.in()), part(o.x.in()), part(o.out.view()));
    }
    compare<float>(o.out.in(), hyena_sums(o.all(), false, {150, 150}), 40);
    CHECK_THROWS_WITH(heed::step(stream, o.v.in(), o.x.in(), o.out.view()), contains("150 more tokens after 150"));
    heed::forward(m, o.v.in(), o.x.in(), o.out.view());
    heed::backward(m, o.v.in(), o.x.in(), o.out.in(), o.dout.in(), o.dv.view(), o.dx.view(), o.to());
    heed::forward(m, o.v.in(), o.x.in(), other.out.view(), heed::cpu{thread_team{3}});
    heed::backward(m, o.v.in(), o.x.in(), o.out.in(), o.dout.in(), other.dv.view(), other.dx.view(), other.to(), heed::cpu{thread_team{3}});
    CHECK((same_bits(o.out, other.out) && same_bits(o.dv, other.dv) && same_bits(o.dx, other.dx) && same_bits(o.dfilters, other.dfilters) && same_bits(o.dskip, other.dskip)));
}

TEST_CASE("the gate of oversized kernels in one and two dimensions, forward and backward") {
    HEED_SEEDED;
    random_source random(55);
    for (extent_t const rows : {1, 3, 8}) {
        for (extent_t const columns : {1, 2, 13, 64}) {
            for (bool const image : {true, false}) {
                CAPTURE(rows, columns, image);
                heed::shape const s{2, rows, columns, 3};
                heed::strides const half{rows * columns * 6, columns * 6, 6, 1}; // a and b are halves of one projection
                tensor<double> both({2, rows, columns, 6}), down(image ? heed::shape{1, 1, 2 * rows - 1, 3} : heed::shape{}), across({1, 1, 2 * columns - 1, 3}), added(s), out(s), dout(s), dboth({2, rows, columns, 6}),
                    ddown(down.shape()), dacross(across.shape()), dadded(s);
                for (auto* t : {&both, &down, &across, &added, &dout}) { t->normal(random); }
                auto const part = [&](auto view, extent_t which) { return heed::tensor_view(view.data_handle() + 3 * which, s, half); };
                auto const none = heed::tensor_view<double const>();
                auto const m = heed::parc(image ? down.in() : none, across.in(), added.in());
                heed::forward(m, part(both.in(), 0), part(both.in(), 1), out.view());
                arrays const at{oracle::read(part(both.in(), 0)), oracle::read(part(both.in(), 1)), oracle::read(down.in()), oracle::read(across.in()), oracle::read(added.in())};
                compare<double>(out.in(), gate_sums(at), 100);
                heed::oversized_gate_gradient<double> const to{image ? ddown.view() : heed::tensor_view<double>(), dacross.view(), dadded.view()};
                heed::backward(m, part(both.in(), 0), part(both.in(), 1), out.in(), dout.in(), part(dboth.view(), 0), part(dboth.view(), 1), to);
                arrays const got{oracle::read(part(dboth.in(), 0)), oracle::read(part(dboth.in(), 1)), oracle::read(ddown.in()), oracle::read(dacross.in()), oracle::read(dadded.in())};
                check_gradients(at, got, oracle::read(dout.in()), gate_sums, random);
                CHECK((out.intact() && dboth.intact() && ddown.intact() && dacross.intact() && dadded.intact()));
            }
        }
    }
}

TEST_CASE("what operators refuse") {
    random_source random(56);
    operands<float> o(1, 3, 8, 8, 4, random), less(1, 2, 8, 8, 4, random);
    CHECK_THROWS_WITH(heed::forward(heed::hyena(less.filters.in()), o.v.in(), o.x.in(), o.out.view()), contains("x has 3 heads and there are 1 filters"));
    CHECK_THROWS_WITH(heed::forward(heed::hyena(o.filters.in(), less.skip.in()), o.v.in(), o.x.in(), o.out.view()), contains("skip"));
    CHECK_THROWS_WITH(heed::forward(heed::hyena(o.filters.in()), o.x.in(), o.x.in(), o.out.view()), contains("v has 3 heads"));
    CHECK_THROWS_WITH(heed::forward(heed::hyena(o.filters.in()), o.v.in(), o.x.in(), o.v.view()), contains("overlaps"));
    tensor<float> image({1, 3, 5, 2}), other({1, 3, 5, 2}), out({1, 3, 5, 2}), kernel({1, 1, 9, 2});
    CHECK_THROWS_WITH(heed::forward(heed::parc(kernel.in(), kernel.in()), image.in(), other.in(), out.view()), contains("down has 9 taps and there are 3 rows"));
    CHECK_THROWS_WITH(heed::forward(heed::parc(kernel.in()), image.in(), other.in(), image.view()), contains("overlaps"));
}
