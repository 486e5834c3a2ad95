// SPDX-License-Identifier: BSD-3-Clause
// Sentence: bitwise equal results across runs, thread counts, executors and batch composition.
#include <support/catch.hpp>
#include <support/problem.hpp>
#include <support/team.hpp>

#if defined(HEED_HAS_OPENMP)
#include <heed/executor/openmp.hpp>
#endif
#if defined(HEED_HAS_TBB)
#include <heed/executor/tbb.hpp>
#endif

using namespace heed_test;

namespace {

auto const causal = heed::softmax_attention(heed::causal_bottom_right{});

// Results of one call under several executors, all against the calling thread's.
template <class M>
struct comparison {
    M const& m;
    problem<float>& p;
    tensor<float> out, lse;

    comparison(M const& mechanism, problem<float>& x) : m(mechanism), p(x), out(x.n.out()), lse(x.n.lse()) {
        p.run(m);
        out.copy(p.out.in());
        lse.copy(p.lse.in());
    }
    template <class E>
    bool same(E executor) {
        p.out.fill(-1);
        p.lse.fill(-1);
        p.run(m, heed::cpu{executor});
        return same_bits(out, p.out) && same_bits(lse, p.lse);
    }
};

template <class M>
void try_executors(M const& m, sizes n, std::uint64_t stream) {
    random_source random(stream);
    problem<float> p(n, random);
    comparison<M> c(m, p);
    INFO(n);
    CHECK(c.same(heed::serial{}));
    for (int threads = 1; threads <= 8; ++threads) {
        INFO(threads << " threads");
        CHECK(c.same(thread_team{threads}));
#if defined(HEED_HAS_OPENMP)
        CHECK(c.same(heed::openmp{threads}));
#endif
#if defined(HEED_HAS_TBB)
        CHECK(c.same(heed::tbb{threads}));
#endif
    }
    for (int claimed : {2, 5, 64}) { CHECK(c.same(backwards{claimed})); }
    CHECK(c.same(minimal{}));
}

} // namespace

TEST_CASE("determinism: executors and thread counts, causal", "[contract]") {
    HEED_SEEDED;
    try_executors(causal, {2, 3, 1, 333, 333, 20, 12}, 191);
    try_executors(causal, {1, 1, 1, 1000, 1000, 4, 4}, 192);
    try_executors(causal, {1, 1, 1, 3, 500, 4, 4}, 193); // fewer items than threads
}

TEST_CASE("determinism: executors and thread counts, masked, biased, with sinks", "[contract]") {
    HEED_SEEDED;
    random_source random(194);
    sizes const n{2, 2, 1, 150, 300, 12, 9};
    tensor<std::uint8_t> m(n.pairs());
    tensor<float> b(heed::shape{1, 2, 150, 300}), sinks(heed::shape{1, 2, 1, 1});
    m.each([&](std::uint8_t& x) { x = random.chance(0.3); });
    b.normal(random);
    sinks.normal(random);
    try_executors(heed::attention{heed::dot{} | heed::inv_sqrt_width{} | heed::softcap{4.0f} | heed::bias{b.view()}, heed::mask{m.view()}, heed::softmax_sink{sinks.view()}}, n, 195);
}

TEST_CASE("determinism: run after run", "[contract]") {
    HEED_SEEDED;
    random_source random(196);
    problem<float> p({2, 4, 2, 150, 300, 33, 17}, random);
    comparison<std::remove_const_t<decltype(causal)>> c(causal, p);
    for (int i = 0; i < 20; ++i) { CHECK(c.same(heed::serial{})); }
    for (int i = 0; i < 10; ++i) { CHECK(c.same(thread_team{3})); }
}

TEST_CASE("determinism: what the workspace held before does not matter", "[contract]") {
    HEED_SEEDED;
    random_source random(197);
    problem<float> p({1, 2, 2, 130, 300, 33, 17}, random);
    auto plan = heed::plan<float>(causal, p.n.q(), p.n.k(), p.n.v());
    tensor<float> first(p.n.out());
    std::vector<std::byte> workspace(plan.workspace_bytes());
    for (int fill : {0x00, 0xff, 0x7f, 0x5a}) {
        std::fill(workspace.begin(), workspace.end(), static_cast<std::byte>(fill));
        plan.run(p.q.in(), p.k.in(), p.v.in(), p.out.view(), workspace);
        if (fill == 0) { first.copy(p.out.in()); }
        CHECK(same_bits(first, p.out));
    }
}

TEST_CASE("determinism: a batch entry alone equals the same entry in a batch", "[contract]") {
    HEED_SEEDED;
    random_source random(198);
    for (int round = 0; round < 10; ++round) {
        sizes const n{4, 4, 2, random.integer(1, 200), random.integer(1, 300), random.integer(1, 20), random.integer(1, 20)};
        problem<float> p(n, random);
        p.run(causal, heed::cpu{thread_team{2}});
        for (extent_t b = 0; b < n.batch; ++b) {
            for (extent_t g = 0; g < n.kv_heads; ++g) { // one key head and its two query heads
                sizes one = n;
                one.batch = one.kv_heads = 1;
                one.heads = 2;
                tensor<float> out(one.out());
                auto const part = [&](heed::tensor_view<float const> v, extent_t head, heed::shape s) { return heed::tensor_view<float const>{v.row(b, head, 0), s, v.strides()}; };
                heed::forward(causal, part(p.q.in(), 2 * g, one.q()), part(p.k.in(), g, one.k()), part(p.v.in(), g, one.v()), out.view());
                REQUIRE(same_bits<float>(out.in(), part(p.out.in(), 2 * g, one.out())));
            }
        }
    }
}

TEST_CASE("determinism: a query alone equals the same query among others", "[contract]") {
    HEED_SEEDED;
    random_source random(199);
    auto const full = heed::softmax_attention();
    problem<float> p({1, 1, 1, 130, 300, 12, 9}, random);
    p.run(full);
    for (extent_t i = 0; i < 130; ++i) {
        tensor<float> out(heed::shape{1, 1, 1, 9});
        heed::forward(full, heed::tensor_view<float const>{p.q.in().row(0, 0, i), {1, 1, 1, 12}}, p.k.in(), p.v.in(), out.view());
        REQUIRE(same_bits<float>(out.in(), {p.out.in().row(0, 0, i), {1, 1, 1, 9}}));
    }
}

TEST_CASE("determinism: eight callers at once on shared inputs", "[contract]") {
    HEED_SEEDED;
    random_source random(200);
    problem<float> p({1, 2, 2, 100, 200, 12, 9}, random);
    p.run(causal);
    std::vector<tensor<float>> outs;
    for (int t = 0; t < 8; ++t) { outs.emplace_back(p.n.out()); }
    std::vector<std::thread> callers;
    for (auto& out : outs) {
        callers.emplace_back([&p, &out] {
            for (int i = 0; i < 5; ++i) { heed::forward(causal, p.q.in(), p.k.in(), p.v.in(), out.view()); }
        });
    }
    for (auto& t : callers) { t.join(); }
    for (auto& out : outs) { CHECK(same_bits(out, p.out)); }
}
