// SPDX-License-Identifier: BSD-3-Clause
// What must hold of every normalizer whatever the numbers are.
#include "try_rows.hpp"

#include <heed/mechanism/proportional.hpp>
#include <heed/mechanism/sigmoid.hpp>
#include <heed/mechanism/sparse.hpp>

using namespace heed_test;

namespace {

template <class M>
tensor<float> result(M const& m, problem<float> const& p) {
    tensor<float> out(p.n.out());
    heed::forward(m, p.q.in(), p.k.in(), p.v.in(), out.view());
    return out;
}
problem<float> ones(sizes n, random_source& random) {
    problem<float> p(n, random);
    p.v.fill(1);
    return p;
}
template <class M>
bool all_near(tensor<float> const& t, float value, float allowed, M const& what) {
    INFO(what);
    bool good = true;
    auto const v = t.in();
    for (extent_t b = 0; b < v.extent(0); ++b)
        for (extent_t h = 0; h < v.extent(1); ++h)
            for (extent_t n = 0; n < v.extent(2); ++n)
                for (extent_t d = 0; d < v.extent(3); ++d) { good = good && std::fabs(v(b, h, n, d) - value) <= allowed; }
    return good;
}
auto const score = heed::dot{} | heed::inv_sqrt_width{};

} // namespace

TEST_CASE("normalizers: rows that sum to 1, and one key", "[laws]") {
    HEED_SEEDED;
    random_source random(971);
    for (int i = 0; i < 8; ++i) {
        sizes n = random_row_sizes(random);
        n.keys = std::max<extent_t>(n.keys, n.queries); // every row sees a key
        problem<float> const p = ones(n, random);
        auto const causal = heed::causal_bottom_right{};
        CHECK(all_near(result(heed::sparsemax_attention(causal), p), 1, 2e-6f, n));
        CHECK(all_near(result(heed::entmax15_attention(causal), p), 1, 2e-6f, n));
        CHECK(all_near(result(heed::top_k_attention(4, causal), p), 1, 2e-6f, n));
        CHECK(all_near(result(heed::proportional_attention(heed::softplus_weight{}, causal), p), 1, 2e-6f, n));
        CHECK(all_near(result(heed::mean_attention(causal), p), 1, 2e-6f, n));
        n.keys = 1;
        problem<float> const single(n, random);
        auto const value = [&](tensor<float> const& out) {
            bool same = true;
            for (extent_t b = 0; b < n.batch; ++b)
                for (extent_t h = 0; h < n.heads; ++h)
                    for (extent_t q = 0; q < n.queries; ++q)
                        for (extent_t e = 0; e < n.value_width; ++e) { same = same && out(b, h, q, e) == single.v(b, h / (n.heads / n.kv_heads), 0, e); }
            return same;
        };
        CHECK(value(result(heed::sparsemax_attention(), single)));
        CHECK(value(result(heed::entmax15_attention(), single)));
        CHECK(value(result(heed::top_k_attention(3), single)));
    }
}

TEST_CASE("normalizers: a constant on all scores of a row changes nothing", "[laws]") {
    HEED_SEEDED;
    random_source random(972);
    for (int i = 0; i < 8; ++i) {
        problem<float> const p(random_row_sizes(random), random);
        // exact in float: nothing is rounded on the way, so that the result may not move at all
        float const c = static_cast<float>(random.pick({-2.0, 4.0, 0.5}));
        auto const coarse = [](float& x) { x = std::round(x * 4) / 4; };
        problem<float> q = copied(p);
        q.q.each(coarse);
        q.k.each(coarse);
        auto const same = [&](auto const& normalizer) {
            auto const plain = result(heed::attention{heed::dot{} | heed::scale{0.25f}, heed::full{}, normalizer}, q);
            auto const moved = result(heed::attention{heed::dot{} | heed::scale{0.25f} | heed::offset{c}, heed::full{}, normalizer}, q);
            return same_bits(plain, moved);
        };
        CHECK(same(heed::sparsemax{}));
        CHECK(same(heed::entmax15{}));
    }
}

TEST_CASE("normalizers: top k of everything is softmax", "[laws]") {
    HEED_SEEDED;
    random_source random(973);
    for (int i = 0; i < 10; ++i) {
        problem<float> p(random_row_sizes(random), random);
        auto const causal = heed::causal_bottom_right{};
        auto const soft = result(heed::softmax_attention(causal), p), top = result(heed::top_k_attention(p.n.keys + 1, causal), p);
        INFO(p.n);
        CHECK(compare_close<float>(soft.in(), top.in(), 1e-6).text == "");
        if (p.n.keys <= heed::forward_plan<decltype(heed::softmax_attention()), float, heed::cpu<>>::tile_keys()) { CHECK(same_bits(soft, top)); } // one tile
    }
}

TEST_CASE("normalizers: parts of the keys merge to the whole where the normalizer says so", "[laws]") {
    HEED_SEEDED;
    static_assert(heed::MergeableNormalizer<heed::sigmoid> && heed::MergeableNormalizer<heed::pointwise<heed::elu_weight, heed::by_sum<float>>>);
    static_assert(!heed::MergeableNormalizer<heed::sparsemax> && !heed::MergeableNormalizer<heed::entmax15> && !heed::MergeableNormalizer<heed::top_k_softmax>);
    static_assert(!heed::MergeableNormalizer<heed::pointwise<heed::linear_weight, heed::by_sum<float>>>);
    random_source random(974);
    auto const check = [&](auto const& m, bool adds, float allowed) {
        for (int i = 0; i < 6; ++i) {
            sizes n = random_row_sizes(random);
            n.keys = random.integer(1, 300);
            problem<float> const p(n, random);
            extent_t const cut = random.integer(0, n.keys);
            auto const part = [&](extent_t begin, extent_t end) {
                sizes s = n;
                s.keys = end - begin;
                problem<float> x(s, random);
                x.q.copy(p.q.in());
                x.k.each_at([&](float& e, extent_t b, extent_t h, extent_t j, extent_t d) { e = p.k(b, h, begin + j, d); });
                x.v.each_at([&](float& e, extent_t b, extent_t h, extent_t j, extent_t d) { e = p.v(b, h, begin + j, d); });
                return x;
            };
            problem<float> a = part(0, cut), b = part(cut, n.keys), whole = copied(p);
            tensor<float> merged(n.out());
            if constexpr (heed::detail::kept_of<std::remove_cvref_t<decltype(m.normalizer)>>() > 0) {
                a.run(m), b.run(m), whole.run(m);
                heed::merge(m, heed::partial{a.out.in(), heed::save{a.lse.in()}}, heed::partial{b.out.in(), heed::save{b.lse.in()}}, heed::partial{merged.view()});
            } else {
                for (auto* x : {&a, &b, &whole}) { heed::forward(m, x->q.in(), x->k.in(), x->v.in(), x->out.view()); }
                heed::merge(m, heed::partial{a.out.in()}, heed::partial{b.out.in()}, heed::partial{merged.view()});
            }
            INFO(n << " cut at " << cut << " adds " << adds);
            CHECK(compare_close<float>(merged.in(), whole.out.in(), allowed).text == "");
        }
    };
    check(heed::attention{score | heed::offset{-2.0f}, heed::full{}, heed::sigmoid{}}, true, 1e-5f);
    check(heed::proportional_attention(heed::elu_weight{}), false, 3e-6f);
    check(heed::mean_attention(), false, 3e-6f);
    check(heed::attention{score, heed::full{}, heed::pointwise<heed::relu_weight, heed::by_keys>{}}, false, 3e-6f);
}
