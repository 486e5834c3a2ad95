// SPDX-License-Identifier: BSD-3-Clause
// Attention whose keys are made before it is one softmax: block plus halo with relative logits, and Combiner's summaries. Dense oracles, central differences, laws.
#include "slopes.hpp"

#include <laws/agree.hpp>
#include <support/problem.hpp>
#include <support/team.hpp>

#include <heed/front/combiner.hpp>
#include <heed/front/halo.hpp>
#include <heed/policy/pattern/spans.hpp>

using namespace heed_test;

namespace {

struct trial {
    sizes n;
    tensor<double> q, k, v, out, dout, dq, dk, dv;
    trial(sizes s, random_source& random)
        : n(s), q(n.q(), heed::strides(padded(n.q(), 2))), k(n.k()), v(n.v(), heed::strides(padded(n.v(), 3))), out(n.out(), heed::strides(padded(n.out(), 1))), dout(n.out()), dq(n.q()), dk(n.k()), dv(n.v()) {
        q.normal(random), k.normal(random), v.normal(random), dout.normal(random);
    }
    bool intact() const { return q.intact() && k.intact() && v.intact() && out.intact() && dq.intact() && dk.intact() && dv.intact(); }
    double product(extent_t b, extent_t h, extent_t i, extent_t j) const {
        double sum = 0;
        for (extent_t e = 0; e < n.width; ++e) { sum += q(b, h, i, e) * k(b, h / (n.heads / n.kv_heads), j, e); }
        return sum;
    }
    template <class F>
    void each_row(F const& f) const {
        for (extent_t b = 0; b < n.batch; ++b)
            for (extent_t h = 0; h < n.heads; ++h)
                for (extent_t i = 0; i < n.queries; ++i) { f(b, h, i); }
    }
};
sizes some_sizes(random_source& random, extent_t points) {
    extent_t const kv = random.integer(1, 2);
    return {random.integer(1, 2), kv * random.integer(1, 2), kv, points, points, random.integer(1, 9), random.integer(1, 9)};
}

void halo_oracle(heed::halo<double> const& m, trial const& t, tensor<double>& out) {
    extent_t const side = m.side(), H = m.height, W = m.width;
    double const factor = m.factor == 0 ? 1 / std::sqrt(double(t.n.width)) : m.factor;
    t.each_row([&](extent_t b, extent_t h, extent_t i) {
        extent_t const y = i / W, x = i % W, top = y / m.block * m.block, left = x / m.block * m.block;
        std::vector<double> s;
        std::vector<extent_t> key;
        for (extent_t n = 0; n < side * side; ++n) {
            extent_t const ky = n / side, kx = n % side, Y = top - m.reach + ky, X = left - m.reach + kx;
            bool const in = Y >= 0 && Y < H && X >= 0 && X < W;
            double score = in ? factor * t.product(b, h, i, Y * W + X) : 0;
            for (extent_t e = 0; m.has_tables() && e < t.n.width; ++e) {
                extent_t const th = m.rows.extent(1) == 1 ? 0 : h;
                score += m.relative * t.q(b, h, i, e) * (m.rows(0, th, side - 1 + ky - (y - top), e) + m.columns(0, th, side - 1 + kx - (x - left), e));
            }
            s.push_back(!in && m.outside == heed::border::masked ? -INFINITY : score);
            key.push_back(in ? Y * W + X : -1);
        }
        auto const p = softmax_of(s);
        for (extent_t e = 0; e < t.n.value_width; ++e) {
            double sum = 0;
            for (std::size_t n = 0; n < p.size(); ++n) { sum += key[n] < 0 ? 0 : p[n] * t.v(b, h / (t.n.heads / t.n.kv_heads), key[n], e); }
            out(b, h, i, e) = sum;
        }
    });
}

// Combiner by its definition; blocks [first, end) that token i sees besides the tokens it sees.
template <class Tokens, class Blocks>
void combiner_oracle(trial const& t, Tokens const& tokens, Blocks const& blocks, tensor<double>& out) {
    double const factor = 1 / std::sqrt(double(t.n.width));
    extent_t const group = t.n.heads / t.n.kv_heads;
    t.each_row([&](extent_t b, extent_t h, extent_t i) {
        std::vector<double> s;
        std::vector<std::vector<double>> value;
        for (extent_t const j : tokens(i)) {
            s.push_back(factor * t.product(b, h, i, j));
            std::vector<double> row;
            for (extent_t e = 0; e < t.n.value_width; ++e) { row.push_back(t.v(b, h / group, j, e)); }
            value.push_back(row);
        }
        for (auto const& [first, end] : blocks(i)) {
            std::vector<double> q(static_cast<std::size_t>(t.n.width), -INFINITY), k = q, inner, row(static_cast<std::size_t>(t.n.value_width));
            for (extent_t j = first; j < end; ++j)
                for (std::size_t e = 0; e < q.size(); ++e) {
                    q[e] = std::max(q[e], t.q(b, h, j, extent_t(e)));
                    k[e] = std::max(k[e], t.k(b, h / group, j, extent_t(e)));
                }
            double own = 0;
            for (std::size_t e = 0; e < q.size(); ++e) { own += t.q(b, h, i, extent_t(e)) * k[e]; }
            for (extent_t j = first; j < end; ++j) {
                double x = 0;
                for (std::size_t e = 0; e < q.size(); ++e) { x += q[e] * t.k(b, h / group, j, extent_t(e)); }
                inner.push_back(factor * x);
            }
            auto const p = softmax_of(inner);
            for (std::size_t e = 0; e < row.size(); ++e)
                for (extent_t j = first; j < end; ++j) { row[e] += p[static_cast<std::size_t>(j - first)] * t.v(b, h / group, j, extent_t(e)); }
            s.push_back(factor * own);
            value.push_back(row);
        }
        auto const p = softmax_of(s);
        for (extent_t e = 0; e < t.n.value_width; ++e) {
            out(b, h, i, e) = 0;
            for (std::size_t n = 0; n < p.size(); ++n) { out(b, h, i, e) += p[n] * value[n][static_cast<std::size_t>(e)]; }
        }
    });
}
using spans = std::vector<std::pair<extent_t, extent_t>>;

} // namespace

TEST_CASE("block plus halo: the dense oracle, gradients of everything, and threads", "[sparse][oracle]") {
    HEED_SEEDED;
    random_source random(750);
    for (int count = 0; count < 8; ++count) {
        heed::halo<double> m{random.integer(1, 11), random.integer(1, 11), random.integer(1, 4), random.integer(0, 3)};
        trial t(some_sizes(random, m.height * m.width), random);
        heed::shape const table{1, random.chance(0.5) ? 1 : t.n.heads, 2 * m.side() - 1, t.n.width};
        tensor<double> rows(table), columns(table), drows(table), dcolumns(table), want(t.n.out());
        rows.normal(random), columns.normal(random);
        m.outside = count % 2 == 0 ? heed::border::zeros : heed::border::masked;
        if (count % 4 != 3) { m.rows = rows.in(), m.columns = columns.in(), m.relative = random.pick({1.0, 0.3}); }
        auto const saved = heed::forward(m, t.q.in(), t.k.in(), t.v.in(), t.out.view());
        halo_oracle(m, t, want);
        INFO(t.n << " map " << m.height << " x " << m.width << " block " << m.block << " reach " << m.reach);
        REQUIRE(largest_difference(t.out, want) < 1e-12);
        heed::backward(m, t.q.in(), t.k.in(), t.v.in(), t.out.in(), saved, t.dout.in(), t.dq.view(), t.dk.view(), t.dv.view(),
                       m.has_tables() ? heed::halo_table_gradients{drows.view(), dcolumns.view()} : heed::halo_table_gradients<double>{});
        auto const loss = [&] {
            tensor<double> y(t.n.out());
            heed::forward(m, t.q.in(), t.k.in(), t.v.in(), y.view());
            return dot(y, t.dout);
        };
        REQUIRE(slope_error(loss, t.q, t.dq, random) < 1e-7);
        REQUIRE(slope_error(loss, t.k, t.dk, random) < 1e-7);
        REQUIRE(slope_error(loss, t.v, t.dv, random) < 1e-7);
        if (m.has_tables()) {
            REQUIRE(slope_error(loss, rows, drows, random) < 1e-7);
            REQUIRE(slope_error(loss, columns, dcolumns, random) < 1e-7);
        }
        thread_team team{3};
        trial u(t.n, random);
        u.q.copy(t.q.in()), u.k.copy(t.k.in()), u.v.copy(t.v.in()), u.dout.copy(t.dout.in());
        auto const again = heed::forward(m, u.q.in(), u.k.in(), u.v.in(), u.out.view(), heed::cpu{team});
        heed::backward(m, u.q.in(), u.k.in(), u.v.in(), u.out.in(), again, u.dout.in(), u.dq.view(), u.dk.view(), u.dv.view(), heed::cpu{team});
        REQUIRE((same_bits(t.out, u.out) && same_bits(t.dq, u.dq) && same_bits(t.dk, u.dk) && same_bits(t.dv, u.dv) && t.intact() && u.intact()));
    }
}

TEST_CASE("block plus halo: one block is attention to the map; what it refuses", "[sparse][laws]") {
    HEED_SEEDED;
    random_source random(751);
    trial t({1, 2, 1, 30, 30, 4, 5}, random);
    tensor<double> dense(t.n.out()), table(heed::shape{1, 1, 11, 4});
    heed::forward(heed::halo<double>{5, 6, 6, 0, {}, {}, heed::border::masked}, t.q.in(), t.k.in(), t.v.in(), t.out.view());
    heed::full const all;
    heed::forward(heed::chosen_attention(heed::any_pattern(all), 0.5), t.q.in(), t.k.in(), t.v.in(), dense.view());
    CHECK(largest_difference(t.out, dense) < 1e-14);
    auto const refused = [&](heed::halo<double> const& m, char const* why) { CHECK_THROWS_WITH(heed::forward(m, t.q.in(), t.k.in(), t.v.in(), t.out.view()), contains(why)); };
    refused({5, 7, 2, 1}, "a map of 5 x 7 points");
    refused({5, 6, 0, 1}, "halo{height 5, width 6, block 0, reach 1}");
    refused({5, 6, 2, -1}, "reach at least 0");
    refused({5, 6, 2, 1, table.in(), table.in()}, "the relative rows");
}

TEST_CASE("halo windows and summaries: classify and pack agree with keep", "[sparse][laws]") {
    law("halo windows, segments, siblings", [] {
        heed::halo_window const w{draw(1, 12), draw(1, 12), draw(1, 5), draw(0, 4), draw(0, 1) == 0 ? heed::border::zeros : heed::border::masked};
        rectangle in = draw_rectangle(w.block * w.block, w.side() * w.side());
        in.at.batch = draw(0, 20);
        agree(w, in);
        extent_t const tokens = draw(1, 90), size = draw(1, 20);
        heed::segment_summaries const fixed{tokens, size};
        agree(fixed, draw_rectangle(tokens, fixed.keys()));
        heed::sibling_summaries const logarithmic{tokens};
        agree(logarithmic, draw_rectangle(tokens, logarithmic.keys()));
        agree(heed::own_segment{size}, draw_rectangle((tokens + size - 1) / size, tokens));
        rectangle const r = draw_rectangle();
        std::vector<std::int32_t> span;
        for (extent_t i = 0; i < r.at.queries; ++i) {
            extent_t const end = draw(0, std::max<extent_t>(0, i + r.at.shift() + 1));
            span.push_back(static_cast<std::int32_t>(draw(0, end))), span.push_back(static_cast<std::int32_t>(end));
        }
        agree(heed::span_or_window{{span.data(), {1, 1, r.at.queries, 2}}, draw(0, 40)}, r);
    });
}

TEST_CASE("Combiner: both forms against their definition, and gradients", "[sparse][oracle]") {
    HEED_SEEDED;
    random_source random(752);
    for (int count = 0; count < 8; ++count) {
        extent_t const N = random.integer(1, 90), size = random.integer(1, 24);
        bool const fixed = count % 2 == 0;
        trial t(some_sizes(random, N), random);
        tensor<double> want(t.n.out());
        heed::combiner const m{fixed ? size : 0};
        combiner_oracle(
            t,
            [&](extent_t i) {
                std::vector<extent_t> seen;
                for (extent_t j = fixed ? i / size * size : i; j <= i; ++j) { seen.push_back(j); }
                return seen;
            },
            [&](extent_t i) {
                spans seen;
                for (extent_t r = 0; fixed && r < i / size; ++r) { seen.push_back({r * size, (r + 1) * size}); }
                for (extent_t end = i, bit = 1; !fixed && end > 0; bit *= 2) {
                    if (end & bit) { seen.push_back({end - bit, end}), end -= bit; }
                }
                return seen;
            },
            want);
        auto const saved = heed::forward(m, t.q.in(), t.k.in(), t.v.in(), t.out.view());
        INFO(t.n << " segment " << m.segment);
        REQUIRE(largest_difference(t.out, want) < 1e-12);
        heed::backward(m, t.q.in(), t.k.in(), t.v.in(), t.out.in(), saved, t.dout.in(), t.dq.view(), t.dk.view(), t.dv.view());
        auto const loss = [&] {
            tensor<double> y(t.n.out());
            heed::forward(m, t.q.in(), t.k.in(), t.v.in(), y.view());
            return dot(y, t.dout);
        };
        REQUIRE(slope_error(loss, t.q, t.dq, random, 1e-6) < 1e-6);
        REQUIRE(slope_error(loss, t.k, t.dk, random, 1e-6) < 1e-6);
        REQUIRE(slope_error(loss, t.v, t.dv, random, 1e-6) < 1e-6);
        thread_team team{3};
        tensor<double> threads(t.n.out());
        heed::forward(m, t.q.in(), t.k.in(), t.v.in(), threads.view(), heed::cpu{team});
        REQUIRE((largest_difference(threads, t.out) == 0 && t.intact()));
    }
}

TEST_CASE("Combiner: one segment and segments of one are causal attention, a summary is one logit, and the future does not matter", "[sparse][laws]") {
    HEED_SEEDED;
    random_source random(753);
    trial t({1, 2, 1, 37, 37, 5, 4}, random);
    tensor<double> causal(t.n.out());
    heed::causal_bottom_right const before;
    heed::forward(heed::chosen_attention(heed::any_pattern(before), heed::inv_sqrt<double>(5)), t.q.in(), t.k.in(), t.v.in(), causal.view());
    for (extent_t const size : {1, 37, 50}) {
        heed::forward(heed::combiner{size}, t.q.in(), t.k.in(), t.v.in(), t.out.view());
        CHECK(largest_difference(t.out, causal) < 1e-13);
    }
    for (extent_t const size : {0, 6}) {
        heed::forward(heed::combiner{size}, t.q.in(), t.k.in(), t.v.in(), t.out.view());
        trial later(t.n, random);
        auto const spoiled = [&](tensor<double>& to, tensor<double> const& from) { to.each_at([&](double& x, extent_t b, extent_t h, extent_t j, extent_t e) { x = j > 19 ? random.normal() * 9 : from(b, h, j, e); }); };
        spoiled(later.q, t.q), spoiled(later.k, t.k), spoiled(later.v, t.v);
        heed::forward(heed::combiner{size}, later.q.in(), later.k.in(), later.v.in(), later.out.view());
        t.each_row([&](extent_t b, extent_t h, extent_t i) {
            for (extent_t e = 0; i <= 19 && e < t.n.value_width; ++e) { REQUIRE(std::abs(t.out(b, h, i, e) - later.out(b, h, i, e)) < 1e-13); }
        });
    }
    trial four({1, 1, 1, 4, 4, 1, 1}, random);
    four.q.fill(0), four.k.fill(0);
    four.v.each_at([](double& x, extent_t, extent_t, extent_t j, extent_t) { x = j == 0 ? 1 : 0; });
    heed::forward(heed::combiner{2}, four.q.in(), four.k.in(), four.v.in(), four.out.view());
    CHECK(four.out(0, 0, 3, 0) == approx(1.0 / 6));
    CHECK_THROWS_WITH(heed::forward(heed::combiner{-1}, four.q.in(), four.k.in(), four.v.in(), four.out.view()), contains("combiner{segment -1}"));
}
