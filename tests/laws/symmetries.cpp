// SPDX-License-Identifier: BSD-3-Clause
// Orders, heads, batches, parts of the keys, and what is known of a mean.
#include "law.hpp"

using namespace heed_test;

namespace {

auto const attend = heed::softmax_attention();

problem<float> attended(problem<float> p) {
    p.run(attend);
    return p;
}

} // namespace

TEST_CASE("laws: orders of keys and of queries", "[laws]") {
    law("keys and values in another order leave the result as it is", [] {
        problem<float> p = attended(draw_problem());
        random_source random = draw_source();
        auto const order = permutation(p.n.keys, random);
        auto const other = attended(problem_of(p.q.in(), reordered(p.k.in(), order).in(), reordered(p.v.in(), order).in()));
        require_close(other.out, p.out, out_bound(attend, p));
        require_close(other.lse, p.lse, log_bound(attend, p));
    });
    law("queries in another order give the results in that order", [] {
        problem<float> p = attended(draw_problem());
        random_source random = draw_source();
        auto const order = permutation(p.n.queries, random);
        auto const other = attended(problem_of(reordered(p.q.in(), order).in(), p.k.in(), p.v.in()));
        require_same(other.out, reordered(p.out.in(), order));
        require_same(other.lse, reordered(p.lse.in(), order));
    });
}

TEST_CASE("laws: batch entries and heads", "[laws]") {
    law("a batch entry does not know the others", [] {
        problem<float> p = attended(draw_problem());
        extent_t const b = draw(0, p.n.batch - 1);
        auto const alone = attended(problem_of(entry(p.q.in(), b), entry(p.k.in(), b), entry(p.v.in(), b)));
        require_same(alone.out.in(), entry(p.out.in(), b));
        require_same(alone.lse.in(), entry(p.lse.in(), b));
    });
    law("a head does not know the others", [] {
        problem<float> p = attended(draw_problem());
        extent_t const h = draw(0, p.n.heads - 1), g = h / (p.n.heads / p.n.kv_heads);
        auto const alone = attended(problem_of(head(p.q.in(), h), head(p.k.in(), g), head(p.v.in(), g)));
        require_same(alone.out.in(), head(p.out.in(), h));
        require_same(alone.lse.in(), head(p.lse.in(), h));
    });
    law("grouped heads are repeated heads", [] {
        problem<float> p = attended(draw_problem());
        extent_t const group = p.n.heads / p.n.kv_heads;
        auto const repeated = [&](tensor<float> const& t) {
            heed::shape s = t.shape();
            s.head = p.n.heads;
            tensor<float> r(s);
            r.each_at([&](float& x, extent_t b, extent_t h, extent_t n, extent_t d) { x = t(b, h / group, n, d); });
            return r;
        };
        require_same(attended(problem_of(p.q.in(), repeated(p.k).in(), repeated(p.v).in())), p);
    });
}

TEST_CASE("laws: parts", "[laws]") {
    law("two parts of the keys, merged by their log-sum-exp, are the whole", [] {
        problem<float> p = attended(draw_problem());
        extent_t const cut = draw(0, p.n.keys), rest = p.n.keys - cut;
        auto const a = attended(problem_of(p.q.in(), rows(p.k.in(), 0, cut), rows(p.v.in(), 0, cut)));
        auto const b = attended(problem_of(p.q.in(), rows(p.k.in(), cut, rest), rows(p.v.in(), cut, rest)));
        tensor<float> out(p.out.shape()), lse(p.lse.shape());
        auto const merged = [&](extent_t e, extent_t h, extent_t i) {
            double const x = static_cast<double>(a.lse(e, h, i, 0)), y = static_cast<double>(b.lse(e, h, i, 0)), top = std::max(x, y);
            return top + std::log(std::exp(x - top) + std::exp(y - top));
        };
        lse.each_at([&](float& x, extent_t e, extent_t h, extent_t i, extent_t) { x = static_cast<float>(merged(e, h, i)); });
        out.each_at([&](float& x, extent_t e, extent_t h, extent_t i, extent_t d) {
            double const whole = merged(e, h, i);
            x = static_cast<float>(std::exp(static_cast<double>(a.lse(e, h, i, 0)) - whole) * static_cast<double>(a.out(e, h, i, d)) +
                                   std::exp(static_cast<double>(b.lse(e, h, i, 0)) - whole) * static_cast<double>(b.out(e, h, i, d)));
        });
        // the parts' logarithms count as scores, twice
        require_close(out, p.out, 3 * out_bound(attend, p, std::log(150.0)));
        require_close(lse, p.lse, 2 * log_bound(attend, p, std::log(150.0)));
    });
    law("causal rows stay as they are when the sequence grows", [] {
        auto const m = heed::softmax_attention(heed::causal_top_left{});
        sizes n = draw_sizes();
        n.keys = n.queries;
        problem<float> p = draw_problem(n);
        p.run(m);
        extent_t const few = draw(1, n.queries);
        problem<float> begin = problem_of(rows(p.q.in(), 0, few), rows(p.k.in(), 0, few), rows(p.v.in(), 0, few));
        begin.run(m);
        require_same(begin.out.in(), rows(p.out.in(), 0, few));
        require_same(begin.lse.in(), rows(p.lse.in(), 0, few));
    });
    law("a ragged batch is a loop of calls", [] {
        extent_t const heads = draw(1, 2), group = draw(1, 2), d = draw(1, 30), dv = draw(1, 30);
        std::vector<std::int32_t> q_starts{0}, k_starts{0};
        for (extent_t count = draw(1, 5); count > 0; --count) {
            q_starts.push_back(q_starts.back() + static_cast<std::int32_t>(draw(0, 90)));
            k_starts.push_back(k_starts.back() + static_cast<std::int32_t>(draw(0, 90)));
        }
        problem<float> p = draw_problem({1, heads * group, heads, q_starts.back() + 1, k_starts.back() + 1, d, dv});
        heed::ragged_offsets const qo{std::span<std::int32_t const>(q_starts)}, ko{std::span<std::int32_t const>(k_starts)};
        heed::forward(attend, heed::ragged(p.q.in(), qo), heed::ragged(p.k.in(), ko), heed::ragged(p.v.in(), ko), heed::ragged(p.out.view(), qo),
                      heed::save{heed::ragged(p.lse.view(), qo)});
        for (std::size_t b = 0; b + 1 < q_starts.size(); ++b) {
            extent_t const n = q_starts[b + 1] - q_starts[b], keys = k_starts[b + 1] - k_starts[b];
            auto const alone = attended(problem_of(rows(p.q.in(), q_starts[b], n), rows(p.k.in(), k_starts[b], keys), rows(p.v.in(), k_starts[b], keys)));
            require_same(alone.out.in(), rows(p.out.in(), q_starts[b], n));
            require_same(alone.lse.in(), rows(p.lse.in(), q_starts[b], n));
        }
    });
}

TEST_CASE("laws: a mean of values", "[laws]") {
    law("the result lies between the least and the greatest value", [] {
        problem<float> p = attended(draw_problem());
        extent_t const group = p.n.heads / p.n.kv_heads;
        double const slack = out_bound(attend, p);
        p.out.each_at([&](float& x, extent_t b, extent_t h, extent_t, extent_t d) {
            float low = p.v(b, h / group, 0, d), high = low;
            for (extent_t j = 1; j < p.n.keys; ++j) {
                low = std::min(low, p.v(b, h / group, j, d));
                high = std::max(high, p.v(b, h / group, j, d));
            }
            RC_ASSERT(static_cast<double>(x) >= static_cast<double>(low) - slack);
            RC_ASSERT(static_cast<double>(x) <= static_cast<double>(high) + slack);
        });
    });
    law("one key gives its value", [] {
        sizes n = draw_sizes();
        n.keys = 1;
        problem<float> p = attended(draw_problem(n));
        tensor<float> value(p.out.shape());
        value.each_at([&](float& x, extent_t b, extent_t h, extent_t, extent_t d) { x = p.v(b, h / (n.heads / n.kv_heads), 0, d); });
        require_same(p.out, value);
    });
    law("equal keys give the mean of the values", [] {
        problem<float> p = draw_problem();
        p.k.each_at([&](float& x, extent_t b, extent_t h, extent_t j, extent_t d) { x = j == 0 ? x : p.k(b, h, 0, d); });
        p.run(attend);
        tensor<float> mean(p.out.shape());
        mean.each_at([&](float& x, extent_t b, extent_t h, extent_t, extent_t d) {
            double sum = 0;
            for (extent_t j = 0; j < p.n.keys; ++j) { sum += static_cast<double>(p.v(b, h / (p.n.heads / p.n.kv_heads), j, d)); }
            x = static_cast<float>(sum / static_cast<double>(p.n.keys));
        });
        require_close(p.out, mean, out_bound(attend, p));
    });
    law("the result is linear in the values", [] {
        problem<float> a = attended(draw_problem());
        problem<float> b = same_inputs(a), sum = same_inputs(a);
        random_source random = draw_source();
        b.v.normal(random, 3);
        double const x = random.uniform(-4, 4), y = random.uniform(-4, 4);
        auto const combine = [&](tensor<float>& to, tensor<float> const& s, tensor<float> const& t) {
            to.each_at([&](float& z, extent_t e, extent_t h, extent_t n, extent_t d) {
                z = static_cast<float>(x * static_cast<double>(s(e, h, n, d)) + y * static_cast<double>(t(e, h, n, d)));
            });
        };
        b.run(attend);
        combine(sum.v, a.v, b.v);
        sum.run(attend);
        tensor<float> expected(sum.out.shape());
        combine(expected, a.out, b.out);
        require_close(sum.out, expected, std::fabs(x) * out_bound(attend, a) + std::fabs(y) * out_bound(attend, b));
    });
}

TEST_CASE("laws: two backends, one result", "[laws]") {
    law("the reference agrees with the CPU", [] {
        auto const m = heed::softmax_attention(heed::causal_top_left{});
        problem<float> p = draw_problem();
        problem<float> slow = same_inputs(p);
        p.run(m);
        slow.run(m, heed::reference{});
        require_close(p.out, slow.out, out_bound(m, p));
        require_close(p.lse, slow.lse, log_bound(m, p));
    });
}
