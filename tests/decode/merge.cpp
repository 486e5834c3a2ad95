// SPDX-License-Identifier: BSD-3-Clause
// Partial results: split equals whole for every split and order, empty parts are neutral, bases are types, a cascade is a merge.
#include <laws/law.hpp>
#include <support/allocation_counter.hpp>
#include <support/catch.hpp>
#include <support/problem.hpp>
#include <support/team.hpp>

#include <heed/front/merge.hpp>

using namespace heed_test;

namespace {

// A result of its own memory: out and natural log-sum-exp.
template <class T>
struct result {
    tensor<T> out, lse;
    result(heed::shape o, place where = place::margin) : out(o, where), lse(heed::shape{o.batch, o.head, o.seq, 1}, where) {}
    auto view() { return heed::partial{out.view(), heed::save{lse.view()}}; }
};

// The part of a problem that sees keys [begin, end).
template <class T, class M>
result<T> part_of(problem<T> const& p, M const& m, extent_t begin, extent_t end) {
    result<T> r(p.n.out());
    heed::forward(m, p.q.in(), rows(p.k.in(), begin, end - begin), rows(p.v.in(), begin, end - begin), r.out.view(), heed::save{r.lse.view()});
    return r;
}

template <class T>
std::string differ(result<T> const& a, result<T> const& b, double allowed) {
    verdict const out = compare_close<T>(a.out.in(), b.out.in(), allowed), lse = compare_close<T>(a.lse.in(), b.lse.in(), allowed);
    return out.good() ? lse.text : out.text;
}

} // namespace

TEST_CASE("merge: any split and any order give the whole", "[laws]") {
    law("split equals whole, merged as a list, left to right, right to left", [] {
        random_source random = draw_source();
        sizes n = draw_sizes();
        problem<double> p(n, random);
        auto const m = heed::softmax_attention();
        result<double> const whole = part_of(p, m, 0, n.keys);
        std::vector<extent_t> cuts{0};
        for (extent_t c = draw(0, 6); c > 0; --c) { cuts.push_back(draw(0, n.keys)); } // empty parts too
        cuts.push_back(n.keys);
        std::sort(cuts.begin(), cuts.end());
        std::size_t const parts = cuts.size() - 1;

        tensor<double> outs(heed::shape{static_cast<extent_t>(parts) * n.batch, n.heads, n.queries, n.value_width}),
            lses(heed::shape{static_cast<extent_t>(parts) * n.batch, n.heads, n.queries, 1});
        auto const order = permutation(static_cast<extent_t>(parts), random);
        auto const at = [&](tensor<double>& t, extent_t width, std::size_t s) {
            return heed::tensor_view<double>{t.view().row(static_cast<extent_t>(s) * n.batch, 0, 0), {n.batch, n.heads, n.queries, width}};
        };
        for (std::size_t s = 0; s < parts; ++s) {
            std::size_t const o = static_cast<std::size_t>(order[s]);
            result<double> const r = part_of(p, m, cuts[o], cuts[o + 1]);
            auto out = at(outs, n.value_width, s), lse = at(lses, 1, s);
            for (extent_t i = 0; i < out.shape().size(); ++i) { out.data_handle()[i] = r.out.view().data_handle()[i]; }
            for (extent_t i = 0; i < lse.shape().size(); ++i) { lse.data_handle()[i] = r.lse.view().data_handle()[i]; }
        }
        auto const part = [&](std::size_t s) { return heed::partial{at(outs, n.value_width, s), heed::save{at(lses, 1, s)}}; };
        extent_t const rows_of_part = n.batch * n.heads * n.queries;

        result<double> list(n.out());
        heed::merge(m, heed::partials{part(0), static_cast<extent_t>(parts), rows_of_part * n.value_width, rows_of_part}, list.view());
        std::string const in_a_list = differ(list, whole, 1e-13);
        if (!in_a_list.empty()) { RC_FAIL(in_a_list); }

        for (bool from_left : {true, false}) {
            result<double> sum(n.out());
            heed::merge(m, heed::partials{part(from_left ? 0 : parts - 1), 1, 0, 0}, sum.view());
            for (std::size_t s = 1; s < parts; ++s) {
                result<double> next(n.out());
                auto const p_s = part(from_left ? s : parts - 1 - s);
                if (from_left) {
                    heed::merge(m.normalizer, sum.view(), p_s, next.view());
                } else {
                    heed::merge(m.normalizer, p_s, sum.view(), next.view());
                }
                sum = std::move(next);
            }
            std::string const in_pairs = differ(sum, whole, 1e-13);
            if (!in_pairs.empty()) { RC_FAIL(in_pairs); }
        }
        if (!list.out.intact() || !list.lse.intact()) { RC_FAIL("memory around the result was written"); }
    });
}

TEST_CASE("merge: commutative up to rounding, and an empty part changes no bit", "[laws]") {
    HEED_SEEDED;
    random_source random(301);
    for (extent_t width : {0, 1, 7, 8, 31, 64, 129}) {
        heed::shape const s{2, 3, 5, width};
        result<float> a(s), b(s), ab(s), ba(s), nothing(s), same(s);
        for (result<float>* r : {&a, &b}) {
            r->out.normal(random);
            r->lse.normal(random, 20);
        }
        nothing.lse.fill(-std::numeric_limits<float>::infinity()); // out stays NaN: it must not be read
        heed::merge(heed::softmax{}, a.view(), b.view(), ab.view());
        heed::merge(heed::softmax{}, b.view(), a.view(), ba.view());
        CHECK(differ(ab, ba, 1e-6).empty());
        heed::merge(heed::softmax{}, a.view(), nothing.view(), same.view());
        CHECK(differ(same, a, 0).empty());
        heed::merge(heed::softmax{}, nothing.view(), a.view(), same.view());
        CHECK(differ(same, a, 0).empty());
        heed::merge(heed::softmax{}, nothing.view(), nothing.view(), same.view());
        bool zero = true, none = true;
        same.out.each([&](float x) { zero = zero && x == 0; });
        same.lse.each([&](float x) { none = none && x == -std::numeric_limits<float>::infinity(); });
        CHECK(zero);
        CHECK(none);
    }
}

TEST_CASE("merge: strided views, base 2, many parts, every executor", "[laws]") {
    HEED_SEEDED;
    random_source random(302);
    extent_t const parts = 300; // more than the engine weighs at once
    heed::shape const s{2, 2, 40, 19};
    result<double> list({parts * 2, 2, 40, 19}), natural(s);
    list.out.normal(random);
    list.lse.normal(random, 30);
    auto const part = [&](auto& t, extent_t width, extent_t k) { return heed::tensor_view<double>{t.view().row(k * 2, 0, 0), {2, 2, 40, width}}; };
    auto const first = heed::partial{part(list.out, 19, 0), heed::save{part(list.lse, 1, 0)}};
    heed::merge(heed::softmax{}, heed::partials{first, parts, 2 * 2 * 40 * 19, 2 * 2 * 40}, natural.view());

    // against the definition, in long double
    double worst = 0;
    for (extent_t b = 0; b < 2; ++b)
        for (extent_t h = 0; h < 2; ++h)
            for (extent_t i = 0; i < 40; ++i) {
                long double mass = 0, value = 0;
                for (extent_t k = 0; k < parts; ++k) {
                    long double const w = std::exp(static_cast<long double>(list.lse(k * 2 + b, h, i, 0)));
                    mass += w;
                    value += w * static_cast<long double>(list.out(k * 2 + b, h, i, 7));
                }
                worst = std::max(worst, static_cast<double>(std::fabs(value / mass - static_cast<long double>(natural.out(b, h, i, 7)))));
                worst = std::max(worst, static_cast<double>(std::fabs(std::log(mass) - static_cast<long double>(natural.lse(b, h, i, 0)))) / 100);
            }
    CHECK(worst < 1e-13);

    // features apart, batch and head swapped in memory, numbers of base 2
    tensor<double> out(s, heed::strides{19 * 40, 19 * 40 * 2, 1, 40}), lse2(heed::shape{2, 2, 40, 1}, heed::strides{40, 80, 1, 1});
    result<double> two(s);
    tensor<double> a2(heed::shape{2, 2, 40, 1}), b2(heed::shape{2, 2, 40, 1});
    a2.each_at([&](double& x, extent_t b, extent_t h, extent_t i, extent_t) { x = list.lse(b, h, i, 0) * heed::math::log2e; });
    b2.each_at([&](double& x, extent_t b, extent_t h, extent_t i, extent_t) { x = list.lse(2 + b, h, i, 0) * heed::math::log2e; });
    heed::merge(heed::softmax{}, heed::partials{first, 2, 2 * 2 * 40 * 19, 2 * 2 * 40}, two.view());
    heed::merge(heed::softmax{}, heed::partial{part(list.out, 19, 0), heed::save_log2{a2.view()}}, heed::partial{part(list.out, 19, 1), heed::save_log2{b2.view()}},
                heed::partial{out.view(), heed::save_log2{lse2.view()}});
    CHECK(compare_close<double>(out.in(), two.out.in(), 1e-13).text == "");
    lse2.each([](double& x) { x *= heed::math::ln2; });
    CHECK(compare_close<double>(lse2.in(), two.lse.in(), 1e-12).text == "");
    CHECK(out.intact());

    for (int threads : {2, 3, 8}) {
        result<double> again(s);
        heed::merge(heed::softmax{}, heed::partials{first, parts, 2 * 2 * 40 * 19, 2 * 2 * 40}, again.view(), heed::cpu{thread_team{threads}});
        CHECK(same_bits(again.out, natural.out));
        CHECK(same_bits(again.lse, natural.lse));
    }
    allocation_scope const scope;
    heed::merge(heed::softmax{}, heed::partials{first, parts, 2 * 2 * 40 * 19, 2 * 2 * 40}, natural.view());
    std::size_t const calls = scope.calls();
    CHECK(calls == 0);
}

TEST_CASE("merge: a cascade: one prefix of keys for all sequences, then the suffix of each, with and without a sink", "[laws]") {
    HEED_SEEDED;
    random_source random(303);
    extent_t const B = 3, H = 4, N = 2, P = 37, S = 11, d = 9, dv = 13;
    tensor<double> q(heed::shape{B, H, N, d}), k_prefix(heed::shape{1, 2, P, d}), v_prefix(heed::shape{1, 2, P, dv}), k(heed::shape{B, 2, P + S, d}), v(heed::shape{B, 2, P + S, dv});
    for (tensor<double>* t : {&q, &k_prefix, &k}) { t->normal(random); }
    for (tensor<double>* t : {&v_prefix, &v}) { t->normal(random); }
    k.each_at([&](double& x, extent_t, extent_t h, extent_t j, extent_t c) { x = j < P ? k_prefix(0, h, j, c) : x; });
    v.each_at([&](double& x, extent_t, extent_t h, extent_t j, extent_t c) { x = j < P ? v_prefix(0, h, j, c) : x; });

    result<double> whole({B, H, N, dv}), prefix({B, H, N, dv}), suffix({B, H, N, dv}), joined({B, H, N, dv});
    heed::forward(heed::softmax_attention(heed::causal_bottom_right{}), q.in(), k.in(), v.in(), whole.out.view(), heed::save{whole.lse.view()});
    // the prefix is read by every sequence: batch stride 0
    heed::tensor_view<double const> const shared_k{k_prefix.view().data_handle(), {B, 2, P, d}, {0, P * d, d, 1}};
    heed::tensor_view<double const> const shared_v{v_prefix.view().data_handle(), {B, 2, P, dv}, {0, P * dv, dv, 1}};
    heed::forward(heed::softmax_attention(), q.in(), shared_k, shared_v, prefix.out.view(), heed::save{prefix.lse.view()});
    heed::forward(heed::softmax_attention(heed::causal_bottom_right{}), q.in(), rows(k.in(), P, S), rows(v.in(), P, S), suffix.out.view(), heed::save{suffix.lse.view()});
    heed::merge(heed::softmax{}, prefix.view(), suffix.view(), joined.view());
    CHECK(differ(joined, whole, 1e-13) == "");

    tensor<double> sinks(heed::shape{1, H, 1, 1});
    sinks.normal(random);
    heed::softmax_sink const sink{sinks.view()};
    heed::forward(heed::attention{heed::dot{} | heed::inv_sqrt_width{}, heed::causal_bottom_right{}, sink}, q.in(), k.in(), v.in(), whole.out.view(), heed::save{whole.lse.view()});
    heed::merge(sink, prefix.view(), suffix.view(), joined.view());
    CHECK(differ(joined, whole, 1e-13) == "");
}

TEST_CASE("merge: what does not fit is refused by a sentence, and nothing is written", "[contract]") {
    heed::shape const s{1, 2, 3, 4};
    result<float> a(s), b(s), into(s), wide({1, 2, 3, 5}), long_({1, 2, 4, 4});
    for (result<float>* r : {&a, &b, &wide, &long_}) {
        r->out.fill(1);
        r->lse.fill(0);
    }
    auto const before = into.out.bytes();
    CHECK_THROWS_WITH(heed::merge(heed::softmax{}, a.view(), wide.view(), into.view()), contains("a part's out has 5 features"));
    CHECK_THROWS_WITH(heed::merge(heed::softmax{}, long_.view(), b.view(), into.view()), contains("4 positions"));
    CHECK_THROWS_WITH(heed::merge(heed::softmax{}, a.view(), into.view(), into.view()), contains("overlaps"));
    CHECK_THROWS_WITH(heed::merge(heed::softmax{}, heed::partial{a.out.view()}, heed::partial{b.out.view()}, into.view()), contains("log-sum-exp"));
    CHECK(into.out.bytes() == before);
}
