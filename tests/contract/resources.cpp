// SPDX-License-Identifier: BSD-3-Clause
// Sentences: bitwise equal results across runs, thread counts, executors and batch composition; no heap allocation inside an engine, workspace_bytes
// is the whole story, the one-call door makes one allocation; not one byte is read or written outside the views; all offsets in 64 bits;
// rounding mode and denormal flags respected as found.
#include <support/allocation_counter.hpp>
#include <support/catch.hpp>
#include <support/memory.hpp>
#include <support/team.hpp>

#include <heed/heed.hpp>

#include <array>
#include <cfenv>
#include <cmath>
#include <cstring>
#include <random>
#include <vector>

using namespace heed_test;
using heed::extent_t;

namespace {

auto const causal = heed::softmax_attention(heed::causal_bottom_right{} & heed::window{150});

std::vector<float> normals(extent_t n, unsigned seed) {
    std::mt19937 random(seed);
    std::normal_distribution<float> normal;
    std::vector<float> x(static_cast<std::size_t>(n));
    for (float& e : x) { e = normal(random); }
    return x;
}
bool same_bits(std::vector<float> const& a, std::vector<float> const& b) { return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0; }

struct inputs {
    heed::shape q, kv;
    std::vector<float> qd = normals(q.size(), 1), kd = normals(kv.size(), 2), vd = normals(kv.size(), 3);
    inputs(heed::shape a, heed::shape b) : q(a), kv(b) {}
    template <class... Options>
    std::vector<float> run(Options const&... options) {
        std::vector<float> out(static_cast<std::size_t>(q.size()));
        heed::forward(causal, heed::tensor_view{qd.data(), q}, heed::tensor_view{kd.data(), kv}, heed::tensor_view{vd.data(), kv}, heed::tensor_view{out.data(), q}, options...);
        return out;
    }
};

} // namespace

TEST_CASE("determinism: thread counts and executors give the same bits") {
    inputs x({2, 4, 333, 40}, {2, 2, 401, 40});
    std::vector<float> const one = x.run();
    CHECK(same_bits(one, x.run()));
    for (int threads = 1; threads <= 8; ++threads) {
        INFO(threads << " threads");
        CHECK(same_bits(one, x.run(heed::cpu{thread_team{threads}})));
    }
    CHECK(same_bits(one, x.run(heed::cpu{backwards{5}})));
}

TEST_CASE("determinism: an entry alone equals the same entry in a batch") {
    inputs x({3, 4, 97, 33}, {3, 2, 211, 33});
    std::vector<float> const all = x.run();
    for (extent_t b = 0; b < 3; ++b) {
        auto const part = [&](std::vector<float>& d, heed::shape s) { return heed::tensor_view<float>{d.data() + b * s.size() / 3, {1, s.head, s.seq, s.feature}}; };
        std::vector<float> alone(all.size() / 3);
        heed::forward(causal, part(x.qd, x.q), part(x.kd, x.kv), part(x.vd, x.kv), heed::tensor_view{alone.data(), heed::shape{1, 4, 97, 33}});
        CHECK(std::memcmp(alone.data(), all.data() + b * x.q.size() / 3, alone.size() * sizeof(float)) == 0);
    }
}

TEST_CASE("memory: a plan allocates nothing and stays in its workspace, the door allocates once") {
    inputs x({1, 3, 130, 24}, {1, 3, 260, 24});
    std::vector<float> out(x.qd.size());
    heed::tensor_view q{x.qd.data(), x.q}, k{x.kd.data(), x.kv}, v{x.vd.data(), x.kv}, o{out.data(), x.q};
    auto plan = heed::plan<float>(causal, x.q, x.kv, x.kv, heed::cpu{backwards{3}});
    for (std::size_t shift : {0, 1, 60}) {
        guarded_block const workspace(plan.workspace_bytes(), place::upper_page, shift);
        allocation_scope const scope;
        plan.run(q, k, v, o, std::span<std::byte>(workspace.data(), workspace.bytes()));
        std::size_t const calls = scope.calls();
        CHECK(calls == 0);
        CHECK(workspace.surroundings_intact());
        CHECK(same_bits(out, x.run()));
    }
    allocation_scope const scope;
    heed::forward(causal, q, k, v, o);
    std::size_t const calls = scope.calls();
    CHECK(calls == 1);
}

TEST_CASE("memory: nothing outside the views is read or written") {
    for (place where : {place::upper_page, place::lower_page, place::margin}) {
        for (auto [n, m, d, dv] : {std::array<extent_t, 4>{1, 1, 1, 1}, {5, 3, 7, 9}, {17, 131, 15, 31}, {49, 127, 33, 6}, {97, 260, 64, 65}}) {
            INFO(n << " x " << m << ", " << d << " / " << dv);
            auto const fill = [&](guarded_block const& b, unsigned seed) {
                float* p = reinterpret_cast<float*>(b.data());
                std::vector<float> const x = normals(static_cast<extent_t>(b.bytes() / sizeof(float)), seed);
                std::memcpy(p, x.data(), b.bytes());
                return p;
            };
            auto const bytes = [](extent_t count) { return static_cast<std::size_t>(count) * sizeof(float); };
            guarded_block const q(bytes(n * d), where), k(bytes(m * d), where), v(bytes(m * dv), where), o(bytes(n * dv), where), l(bytes(n), where);
            heed::forward(causal, heed::tensor_view{fill(q, 1), heed::shape{1, 1, n, d}}, heed::tensor_view{fill(k, 2), heed::shape{1, 1, m, d}},
                          heed::tensor_view{fill(v, 3), heed::shape{1, 1, m, dv}}, heed::tensor_view{reinterpret_cast<float*>(o.data()), heed::shape{1, 1, n, dv}},
                          heed::save{heed::per_row(reinterpret_cast<float*>(l.data()), 1, 1, n)});
            for (auto const* b : {&q, &k, &v, &o, &l}) { CHECK(b->surroundings_intact()); }
            float const* out = reinterpret_cast<float const*>(o.data());
            bool finite = true;
            for (extent_t i = 0; i < n * dv; ++i) { finite = finite && std::isfinite(out[i]); }
            CHECK(finite); // every element written
        }
    }
}

TEST_CASE("offsets: strides beyond 2^31 and 2^32 elements") {
    extent_t const H = 3, N = 20, D = 8, far = (extent_t(1) << 31) + 1024; // head 2 lies beyond 2^32 elements
    sparse_range const range(static_cast<std::size_t>(2 * far + N * D + 4096) * sizeof(float));
    REQUIRE(static_cast<bool>(range));
    float* const base = static_cast<float*>(range.data());
    heed::shape const s{1, H, N, D};
    std::vector<float> near = normals(s.size(), 4), out_near(near.size()), out(near.size());
    heed::tensor_view<float> const dense{near.data(), s}, sparse{base, s, {0, far, D, 1}};
    for (extent_t h = 0; h < H; ++h)
        for (extent_t i = 0; i < N * D; ++i) { base[h * far + i] = near[static_cast<std::size_t>(h * N * D + i)]; }
    heed::forward(causal, dense, dense, dense, heed::tensor_view{out_near.data(), s});
    heed::forward(causal, sparse, sparse, sparse, heed::tensor_view{out.data(), s});
    CHECK(same_bits(out, out_near));
}

TEST_CASE("environment: the rounding mode is left as found") {
    inputs x({1, 1, 30, 16}, {1, 1, 40, 16});
    std::fesetround(FE_UPWARD);
    x.run();
    int const mode = std::fegetround();
    std::fesetround(FE_TONEAREST);
    CHECK(mode == FE_UPWARD);
}
