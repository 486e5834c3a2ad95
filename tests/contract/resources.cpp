// SPDX-License-Identifier: BSD-3-Clause
// Sentence: no heap allocation inside an engine; plan.workspace_bytes() is the whole story.
// Sentence: the one-call door makes exactly one allocation of plan.workspace_bytes() and frees it.
#include <support/allocation_counter.hpp>
#include <support/catch.hpp>
#include <support/problem.hpp>
#include <support/team.hpp>

#include <sstream>

using namespace heed_test;

namespace {

// A plan run in a workspace flush against a protected page, at every misalignment that matters, with nothing allocated.
template <class M, class E>
void try_workspace(M const& m, sizes n, E executor, std::uint64_t stream) {
    random_source random(stream);
    problem<float> p(n, random);
    p.run(m);
    tensor<float> expected(n.out());
    expected.copy(p.out.in());
    auto plan = heed::plan<float>(m, n.q(), n.k(), n.v(), heed::cpu{executor});
    for (place where : {place::upper_page, place::lower_page}) {
        for (std::size_t shift : {0u, 1u, 3u, 8u, 63u}) {
            guarded_block const workspace(plan.workspace_bytes(), where, shift);
            p.out.fill(-1);
            std::size_t allocations = 0;
            {
                allocation_scope const scope;
                plan.run(p.q.in(), p.k.in(), p.v.in(), p.out.view(), std::span<std::byte>(workspace.data(), workspace.bytes()), heed::save{p.lse.view()});
                allocations = scope.calls();
            }
            INFO(n << ", shift " << shift);
            CHECK(allocations == 0);
            CHECK(workspace.surroundings_intact());
            CHECK(same_bits(expected, p.out));
            CHECK(p.intact());
        }
    }
}

auto const score = heed::dot{} | heed::inv_sqrt_width{};

} // namespace

TEST_CASE("resources: the counter counts", "[contract]") {
    allocation_scope const scope;
    CHECK(scope.calls() == 0);
    auto const p = std::make_unique<double[]>(3);
    CHECK(p[0] == 0);
    std::size_t const calls = scope.calls(), bytes = scope.bytes();
    CHECK(calls >= 1);
    CHECK(bytes >= 24);
}

TEST_CASE("resources: a plan's run allocates nothing and stays in its workspace", "[contract]") {
    HEED_SEEDED;
    for (sizes n : {sizes{1, 1, 1, 1, 1, 1, 1}, sizes{1, 2, 1, 49, 131, 7, 9}, sizes{2, 2, 2, 200, 300, 33, 65}, sizes{1, 1, 1, 5, 0, 3, 3}, sizes{1, 1, 1, 5, 9, 0, 3}, sizes{1, 1, 1, 5, 9, 3, 0}}) {
        try_workspace(heed::softmax_attention(), n, heed::serial{}, 201);
        try_workspace(heed::softmax_attention(heed::causal_bottom_right{}), n, heed::serial{}, 202);
        try_workspace(heed::softmax_attention(heed::causal_bottom_right{}), n, backwards{3}, 203);
    }
}

TEST_CASE("resources: the same with masks, biases, sinks and strided features", "[contract]") {
    HEED_SEEDED;
    random_source random(204);
    sizes const n{1, 2, 1, 100, 300, 7, 9};
    tensor<std::uint8_t> m(n.pairs());
    tensor<float> b(n.pairs()), slopes(heed::shape{1, 2, 1, 1});
    m.each([&](std::uint8_t& x) { x = random.chance(0.5); });
    b.normal(random);
    slopes.normal(random, 0.1);
    try_workspace(heed::attention{score | heed::softcap{5.0f} | heed::bias{b.view()} | heed::alibi{slopes.view()}, heed::mask{m.view()} & heed::window{50, 90},
                                  heed::softmax_sink{slopes.view()}},
                  n, backwards{4}, 205);
    // features apart and values that are not finite: the selecting path
    problem<float> p(n, random);
    tensor<float> k(n.k(), heed::strides{0, 300 * 7, 1, 300}), v(n.v(), heed::strides{0, 300 * 9, 1, 300});
    k.copy(p.k.in());
    v.copy(p.v.in());
    v(0, 0, 299, 0) = std::numeric_limits<float>::infinity();
    auto plan = heed::plan<float>(heed::softmax_attention(heed::causal_top_left{}), n.q(), n.k(), n.v());
    guarded_block const workspace(plan.workspace_bytes(), place::upper_page);
    allocation_scope const scope;
    plan.run(p.q.in(), k.in(), v.in(), p.out.view(), std::span<std::byte>(workspace.data(), workspace.bytes()));
    std::size_t const allocations = scope.calls();
    CHECK(allocations == 0);
    CHECK(std::isfinite(p.out(0, 0, 99, 0)));
}

TEST_CASE("resources: making and asking a plan allocates nothing", "[contract]") {
    heed::shape const q{2, 4, 100, 64}, k{2, 2, 300, 64};
    allocation_scope const scope;
    auto const plan = heed::plan<float>(heed::softmax_attention(), q, k, k);
    std::size_t const bytes = plan.workspace_bytes();
    std::size_t const allocations = scope.calls();
    CHECK(allocations == 0);
    CHECK(bytes > 0);
}

TEST_CASE("resources: the one-call door makes one allocation of workspace_bytes and frees it", "[contract]") {
    HEED_SEEDED;
    random_source random(206);
    for (sizes n : {sizes{1, 2, 1, 49, 131, 7, 9}, sizes{2, 2, 2, 200, 300, 33, 65}}) {
        problem<float> p(n, random);
        auto const m = heed::softmax_attention(heed::causal_bottom_right{});
        std::size_t const wanted = heed::plan<float>(m, n.q(), n.k(), n.v()).workspace_bytes();
        std::size_t calls = 0, bytes = 0, frees = 0;
        {
            allocation_scope const scope;
            heed::forward(m, p.q.in(), p.k.in(), p.v.in(), p.out.view());
            calls = scope.calls(), bytes = scope.bytes(), frees = scope.frees();
        }
        CHECK(calls == 1);
        CHECK(bytes == wanted);
        CHECK(frees == 1);
    }
}

TEST_CASE("resources: the workspace does not grow with the keys, and grows with the executor's slots", "[contract]") {
    auto const m = heed::softmax_attention();
    auto const bytes = [&](extent_t keys, int threads) {
        return heed::plan<float>(m, heed::shape{1, 8, 1000, 64}, heed::shape{1, 8, keys, 64}, heed::shape{1, 8, keys, 64}, heed::cpu{backwards{threads}}).workspace_bytes();
    };
    CHECK(bytes(100, 1) == bytes(1000000, 1));
    CHECK(bytes(100, 4) > bytes(100, 1));
    CHECK(bytes(100, 4) < 5 * bytes(100, 1));
    CHECK(heed::plan<float>(m, heed::shape{1, 1, 9, 4}, heed::shape{1, 1, 9000, 4}, heed::shape{1, 1, 9000, 4}, heed::reference{}).workspace_bytes() < 1024);
}

TEST_CASE("resources: a plan says what it will do", "[contract]") {
    auto const plan = heed::plan<float>(heed::softmax_attention(), heed::shape{1, 8, 100, 64}, heed::shape{1, 8, 100, 64}, heed::shape{1, 8, 100, 64});
    CHECK(plan.engine() == "cpu.pairwise.forward");
    std::ostringstream s;
    s << plan;
    CHECK_THAT(s.str(), contains("cpu.pairwise.forward"));
    CHECK_THAT(s.str(), contains(std::to_string(plan.workspace_bytes())));
    CHECK_THAT(s.str(), contains(std::to_string(plan.tile_queries())));
    CHECK_THAT(s.str(), contains(std::to_string(plan.tile_keys())));
    auto const masked = heed::plan<double>(heed::softmax_attention(heed::causal_bottom_right{} & heed::window{7}), heed::shape{1, 8, 100, 64}, heed::shape{1, 8, 100, 64}, heed::shape{1, 8, 100, 64});
    CHECK(masked.engine() == "cpu.pairwise.forward");
    auto const slow = heed::plan<float>(heed::softmax_attention(), heed::shape{1, 1, 2, 4}, heed::shape{1, 1, 2, 4}, heed::shape{1, 1, 2, 4}, heed::reference{});
    CHECK(slow.engine() == "reference.pairwise.forward");
}
