// SPDX-License-Identifier: BSD-3-Clause
// Laws and the contract: relabelling, known results, threads, isolated nodes, what is not attended, refusals.
#include "edge_oracle.hpp"

#include <support/team.hpp>

#include <limits>
#include <numeric>

using namespace heed_test;

namespace {
auto mechanism(heed::edge_list e) { return heed::graph_transformer_attention<float>(e); }
} // namespace

TEST_CASE("graph: relabelling the nodes relabels the result", "[graph]") {
    HEED_SEEDED;
    random_source random(831);
    edge_call<float> p(any_edges(random, 15, 60), 1, 2, 7, 5, random);
    p.run(mechanism(p.lists.edges()));
    edge_pairs moved = p.pairs;
    for (auto& x : moved.source) { x = static_cast<std::int32_t>(moved.sources - 1 - x); }
    for (auto& x : moved.target) { x = static_cast<std::int32_t>(moved.targets - 1 - x); }
    edge_call<float> r(moved, 1, 2, 7, 5, random);
    auto const mirrored = [](tensor<float>& to, tensor<float> const& from) {
        to.each_at([&](float& x, extent_t b, extent_t h, extent_t n, extent_t e) { x = from(b, h, from.shape().seq - 1 - n, e); });
    };
    mirrored(r.q, p.q);
    mirrored(r.k, p.k);
    mirrored(r.v, p.v);
    mirrored(r.dout, p.dout);
    r.run(mechanism(r.lists.edges()));
    tensor<float> back(p.out.shape()), dk(p.dk.shape());
    mirrored(back, r.out);
    CHECK(same_bits(back, p.out)); // a target's edges keep their order
    mirrored(dk, r.dk);
    CHECK(compare_close<float>(dk.in(), p.dk.in(), 1e-5).good());
}

TEST_CASE("graph: any number of threads gives the same bits, forward and backward", "[graph]") {
    HEED_SEEDED;
    random_source random(832);
    edge_call<float> p(any_edges(random, 600, 3000), 2, 3, 9, 8, random), r = [&] {
        edge_call<float> c(p.pairs, 2, 3, 9, 8, random);
        c.q.copy(p.q.in());
        c.k.copy(p.k.in());
        c.v.copy(p.v.in());
        c.dout.copy(p.dout.in());
        return c;
    }();
    tensor<float> a({1, 3, 1, 9}), da(a.shape()), da2(a.shape());
    a.normal(random);
    auto const m = heed::gatv2_attention<float>(p.lists.edges(), a.in());
    p.run(m, heed::attention_vector_gradient{da.view()});
    thread_team three{3};
    heed::forward(m, r.q.in(), r.k.in(), r.v.in(), r.out.view(), heed::save{r.lse.view()}, heed::cpu{three});
    auto plan = heed::plan_backward(m, r.q.in(), r.k.in(), r.v.in(), r.out.in(), heed::save{r.lse.view()}, r.dout.in(), r.dq.view(), r.dk.view(), r.dv.view(), heed::cpu{three},
                                    heed::attention_vector_gradient{da2.view()});
    CHECK_THROWS_WITH(plan.run({}), heed_test::contains("the workspace has 0 bytes"));
    std::vector<std::byte> memory(plan.workspace_bytes());
    plan.run(memory);
    CHECK((same_bits(p.out, r.out) && same_bits(p.dq, r.dq) && same_bits(p.dk, r.dk) && same_bits(p.dv, r.dv) && same_bits(da, da2)));
}

TEST_CASE("graph: isolated nodes give 0, their log-sum-exp -inf, gradients 0; an empty graph too", "[graph]") {
    random_source random(833);
    for (bool const empty : {false, true}) {
        edge_pairs e{4, 3, {}, {}};
        if (!empty) { e.source = {1, 1}, e.target = {2, 2}; } // twice the same edge
        edge_call<float> p(e, 1, 2, 5, 3, random);
        p.run(mechanism(p.lists.edges()));
        for (extent_t h = 0; h < 2; ++h) {
            CHECK(p.lse(0, h, 0, 0) == -std::numeric_limits<float>::infinity());
            for (extent_t f = 0; f < 3; ++f) {
                CHECK((p.out(0, h, 0, f) == 0 && p.out(0, h, 1, f) == 0));
                CHECK(p.out(0, h, 2, f) == (empty ? 0.f : p.v(0, h, 1, f)));
                CHECK((p.dv(0, h, 0, f) == 0 && p.dv(0, h, 3, f) == 0));
            }
            for (extent_t f = 0; f < 5; ++f) { CHECK((p.dk(0, h, 0, f) == 0 && p.dq(0, h, 0, f) == 0)); }
        }
    }
}

TEST_CASE("graph: NaN of a node reaches its neighbours and nobody else", "[graph]") {
    random_source random(834);
    edge_pairs e{12, 12, {}, {}};
    for (std::int32_t i = 0; i < 12; ++i) {
        for (std::int32_t s = 1; s <= 3; ++s) {
            e.source.push_back((i + s) % 12);
            e.target.push_back(i);
        }
    }
    for (int const where : {0, 1}) {
        edge_call<float> p(e, 1, 1, 10, 9, random);
        (where == 0 ? p.k : p.v)(0, 0, 5, 8) = std::numeric_limits<float>::quiet_NaN();
        p.run(mechanism(p.lists.edges()));
        for (extent_t i = 0; i < 12; ++i) {
            bool const sees = i >= 2 && i <= 4;
            INFO(where << " target " << i);
            CHECK(std::isnan(p.out(0, 0, i, 8)) == sees);
            CHECK(std::isfinite(p.out(0, 0, i, 0)) == (!sees || where == 1));
        }
    }
}

TEST_CASE("graph: an edge scored -inf is absent, whatever its value holds", "[graph]") {
    HEED_SEEDED;
    random_source random(838);
    edge_pairs all = any_edges(random, 12, 120), some{all.sources, all.targets, {}, {}};
    while (all.size() < 40) { all.source.push_back(0), all.target.push_back(static_cast<std::int32_t>(all.size() % all.targets)); }
    extent_t const bad = all.sources; // one more source, of NaN, whose edges are all masked
    ++all.sources, ++some.sources;
    for (std::size_t x = 0; x < all.source.size(); ++x) {
        if (random.chance(0.3) || all.target[x] == 0) { all.source[x] = static_cast<std::int32_t>(bad); } // target 0 sees nothing else
        if (all.source[x] != bad) { some.source.push_back(all.source[x]), some.target.push_back(all.target[x]); }
    }
    edge_call<float> p(all, 1, 2, 1, 9, random), r(some, 1, 2, 1, 9, random);
    for (extent_t h = 0; h < 2; ++h) {
        for (extent_t f = 0; f < 9; ++f) { p.v(0, h, bad, f) = std::numeric_limits<float>::quiet_NaN(); }
    }
    r.q.copy(p.q.in()), r.k.copy(p.k.in()), r.v.copy(p.v.in()), r.dout.copy(p.dout.in());
    tensor<float> e({1, 1, all.size(), 1});
    e.each_at([&](float& x, extent_t, extent_t, extent_t n, extent_t) { x = all.source[static_cast<std::size_t>(n)] == bad ? -std::numeric_limits<float>::infinity() : 0.f; });
    p.run(heed::gat_attention<float>(p.lists.edges(), e.in()));
    r.run(heed::gat_attention<float>(r.lists.edges()));
    CHECK(compare_close<float>(p.out.in(), r.out.in(), 1e-6).good());
    CHECK(compare_close<float>(p.dq.in(), r.dq.in(), 1e-6).good());
    CHECK(compare_close<float>(p.dk.in(), r.dk.in(), 1e-6).good());
    CHECK(compare_close<float>(p.dv.in(), r.dv.in(), 1e-6).good());
    CHECK(p.lse(0, 0, 0, 0) == -std::numeric_limits<float>::infinity());
}

TEST_CASE("graph: results known without computing", "[graph]") {
    HEED_SEEDED;
    random_source random(835);
    edge_call<double> p(any_edges(random, 9, 40), 1, 1, 4, 3, random);
    tensor<double> a({1, 1, 1, 4});
    a.fill(0); // all scores equal: the mean over the neighbours
    p.run(heed::gatv2_attention<double>(p.lists.edges(), a.in()));
    std::vector<double> count(static_cast<std::size_t>(p.pairs.targets));
    tensor<double> mean(p.out.shape());
    mean.fill(0);
    for (std::size_t x = 0; x < p.pairs.source.size(); ++x) {
        ++count[static_cast<std::size_t>(p.pairs.target[x])];
        for (extent_t f = 0; f < 3; ++f) { mean(0, 0, p.pairs.target[x], f) += p.v(0, 0, p.pairs.source[x], f); }
    }
    mean.each_at([&](double& x, extent_t, extent_t, extent_t i, extent_t) { x = count[static_cast<std::size_t>(i)] > 0 ? x / count[static_cast<std::size_t>(i)] : 0; });
    CHECK(compare_close<double>(p.out.in(), mean.in(), 1e-14).good());
    // with slope 1, GATv2 is GAT: the target's share of the score is the same along a row and cancels
    a.normal(random);
    p.run(heed::gatv2_attention<double>(p.lists.edges(), a.in(), 1.0));
    tensor<double> const before = [&] {
        tensor<double> t(p.out.shape());
        t.copy(p.out.in());
        return t;
    }();
    tensor<double> q1({1, 1, p.pairs.targets, 1}), k1({1, 1, p.pairs.sources, 1});
    q1.fill(0);
    k1.each_at([&](double& x, extent_t, extent_t, extent_t j, extent_t) {
        x = 0;
        for (extent_t f = 0; f < 4; ++f) { x += a(0, 0, 0, f) * p.k(0, 0, j, f); }
    });
    heed::forward(heed::gat_attention<double>(p.lists.edges(), 1.0), q1.in(), k1.in(), p.v.in(), p.out.view());
    CHECK(compare_close<double>(p.out.in(), before.in(), 1e-13).good());
}

TEST_CASE("graph: large scores, and memory against protected pages", "[graph]") {
    random_source random(836);
    edge_call<float> p(any_edges(random, 9, 70), 1, 2, 13, 11, random);
    p.k.each([](float& x) { x *= 1e15f; });
    p.q.each([](float& x) { x *= 1e14f; });
    p.run(mechanism(p.lists.edges()));
    bool finite = true;
    p.out.each([&](float& x) { finite = finite && std::isfinite(x); });
    CHECK((finite && p.intact()));
    tensor<float> q({1, 2, p.pairs.targets, 13}, place::upper_page), k({1, 2, p.pairs.sources, 13}, place::upper_page), v({1, 2, p.pairs.sources, 11}, place::upper_page), out({1, 2, p.pairs.targets, 11}, place::upper_page);
    q.copy(p.q.in());
    k.copy(p.k.in());
    v.copy(p.v.in());
    heed::forward(mechanism(p.lists.edges()), q.in(), k.in(), v.in(), out.view());
    CHECK(same_bits(out, p.out));
}

TEST_CASE("graph: what the door refuses", "[graph]") {
    random_source random(837);
    edge_call<float> p(any_edges(random, 9, 40), 1, 2, 4, 3, random);
    auto const m = mechanism(p.lists.edges());
    tensor<float> more({1, 2, p.pairs.targets + 1, 4}), three({1, 3, p.pairs.sources, 4}), values({1, 3, p.pairs.sources, 3});
    CHECK_THROWS_WITH(heed::forward(m, more.in(), p.k.in(), p.v.in(), p.out.view()), heed_test::contains("targets; they must be equal"));
    CHECK_THROWS_WITH(heed::forward(m, p.q.in(), three.in(), values.in(), p.out.view()), heed_test::contains("head"));
    CHECK_THROWS_WITH(heed::forward(m, p.q.in(), p.k.in(), p.v.in(), p.out.view(), heed::save{p.dq.view()}), heed_test::contains("lse has 4 features"));
    CHECK_THROWS_WITH(heed::forward(m, p.q.in(), p.k.in(), p.v.in(), heed::tensor_view<float>(p.v.view().data_handle(), p.out.shape())), heed_test::contains("overlaps v"));
    tensor<float> e({1, 1, p.pairs.size() + 1, 4}), a({1, 2, 1, 3});
    CHECK_THROWS_WITH(heed::forward(heed::graph_transformer_attention<float>(p.lists.edges(), e.in()), p.q.in(), p.k.in(), p.k.in(), p.dq.view()), heed_test::contains("edge data of the score.seq"));
    CHECK_THROWS_WITH(heed::forward(heed::gatv2_attention<float>(p.lists.edges(), a.in()), p.q.in(), p.k.in(), p.v.in(), p.out.view()), heed_test::contains("attention vector.feature is 3"));
    std::vector<std::int64_t> const offsets(static_cast<std::size_t>(p.pairs.targets) + 1, 0);
    heed::edge_list const one_way(offsets, {}, {}, p.pairs.sources);
    CHECK_THROWS_WITH(heed::backward(mechanism(one_way), p.q.in(), p.k.in(), p.v.in(), p.out.in(), heed::save{p.lse.view()}, p.dout.in(), p.dq.view(), p.dk.view(), p.dv.view()), heed_test::contains("by source"));
}
