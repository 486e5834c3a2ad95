// SPDX-License-Identifier: BSD-3-Clause
// The generic engine of the GPU against the oracle, against the engine that walks pair by pair, and against itself.
#include "gpu_problem.hpp"

#include <oracle/relations.hpp>

using namespace heed_test;

namespace {

char const* const generic = "cuda.simt.pairwise.forward";
float const inf = std::numeric_limits<float>::infinity();

oracle::softmax_case causal_case(gpu_problem<float> const& p) {
    oracle::softmax_case c;
    c.q = oracle::read(p.q.in());
    c.k = oracle::read(p.k.in());
    c.v = oracle::read(p.v.in());
    c.scale = p.n.width > 0 ? 1 / std::sqrt(static_cast<double>(p.n.width)) : 1;
    c.keep = oracle::causal_bottom_right(p.n.pairs());
    return c;
}
std::string softmax_error(gpu_problem<float> const& p) {
    error_bound bound;
    bound.width = static_cast<double>(p.n.width);
    bound.keys_per_tile = 64;
    return compare<float>(p.out.in(), p.lse.in(), oracle::softmax(causal_case(p)), bound).text;
}

heed::strides features_apart(heed::shape s) { return {s.head * s.seq * s.feature, s.seq * s.feature, 1, s.seq}; }
heed::strides reversed(heed::shape s) {
    heed::strides const t = heed::row_major(s);
    return {t.batch, -t.head, -t.seq, -1};
}

} // namespace

TEST_CASE("cuda: causal softmax of every size keeps the error bound of the contract") {
    HEED_SEEDED;
    random_source random(1);
    for (sizes const n : {sizes{1, 1, 1, 1, 1, 1, 1}, sizes{2, 3, 3, 65, 65, 64, 64}, sizes{1, 4, 2, 130, 257, 80, 33}, sizes{1, 2, 1, 64, 64, 3, 130}, sizes{2, 2, 2, 100, 70, 129, 300},
                          sizes{1, 1, 1, 70, 200, 300, 5}, sizes{1, 2, 2, 5, 4100, 32, 64}, sizes{1, 1, 1, 33, 64, 0, 8}, sizes{1, 1, 1, 9, 40, 8, 0}}) {
        gpu_problem<float> p(n, random);
        INFO(n);
        REQUIRE(p.run(on_gpu::causal{}));
        CHECK(p.engine == generic);
        CHECK(softmax_error(p) == "");
    }
}

TEST_CASE("cuda: nothing to do writes nothing and no keys write zeros") {
    HEED_SEEDED;
    random_source random(2);
    gpu_problem<float> none({1, 2, 2, 0, 40, 8, 8}, random);
    CHECK(none.run(on_gpu::causal{}));
    gpu_problem<float> empty({1, 2, 2, 40, 0, 8, 8}, random);
    REQUIRE(empty.run(on_gpu::causal{}));
    bool zeros = true;
    empty.out.each([&](float x) { zeros = zeros && x == 0; });
    empty.lse.each([&](float x) { zeros = zeros && x == -inf; });
    CHECK(zeros);
}

TEST_CASE("cuda: strides change no bit") {
    HEED_SEEDED;
    sizes const n{2, 4, 2, 77, 150, 40, 72};
    auto const with = [&](auto const& strides_of, std::size_t shift) {
        random_source random(3);
        auto const make = [&](heed::shape s) { return tensor<float>(s, strides_of(s), heed_test::place::margin, shift); };
        gpu_problem<float> p(n, make(n.q()), make(n.k()), make(n.v()), make(n.out()), random);
        REQUIRE(p.run(on_gpu::causal{}));
        return p;
    };
    auto const plain = with(heed::row_major, 0);
    CHECK(softmax_error(plain) == "");
    for (auto const& other : {with([](heed::shape s) { return padded(s, 3); }, 0), with(features_apart, 0), with(reversed, 0), with([](heed::shape s) { return padded(s, 4); }, 0),
                              with(heed::row_major, 4)}) {
        CHECK(same_bits(plain.out, other.out));
        CHECK(same_bits(plain.lse, other.lse));
    }
}

TEST_CASE("cuda: what is masked reaches nothing and what is attended hides no NaN") {
    HEED_SEEDED;
    random_source random(4);
    sizes const n{1, 2, 1, 100, 100, 32, 48};
    gpu_problem<float> clean(n, random);
    REQUIRE(clean.run(on_gpu::causal{}));
    for (float const bad : {inf, std::numeric_limits<float>::quiet_NaN()}) {
        for (bool const in_key : {true, false}) {
            random_source again(4);
            gpu_problem<float> p(n, again);
            (in_key ? p.k : p.v)(0, 0, 60, 7) = bad;
            REQUIRE(p.run(on_gpu::causal{}));
            bool before = true, after = true;
            p.out.each_at([&](float x, extent_t b, extent_t h, extent_t i, extent_t d) {
                if (i < 60) { before = before && x == clean.out(b, h, i, d); }
                if (i >= 60 && in_key && std::isnan(bad)) { after = after && std::isnan(x); }
                if (i >= 60 && !in_key) { after = after && (d == 7 ? !std::isfinite(x) && std::isnan(x) == std::isnan(bad) : x == clean.out(b, h, i, d)); }
            });
            CHECK(before);
            CHECK(after);
        }
    }
}

TEST_CASE("cuda: the same call gives the same bits and may be captured") {
    HEED_SEEDED;
    random_source random(5);
    sizes const n{1, 2, 2, 140, 333, 64, 64};
    gpu_problem<float> p(n, random);
    REQUIRE(p.run(on_gpu::causal{}));
    tensor<float> first(n.out());
    first.copy(p.out.in());
    p.out.fill(1);
    device_tensor<float> const q(p.q), k(p.k), v(p.v), out(p.out), lse(p.lse);
    device_stream const stream;
    cudaGraph_t graph = nullptr;
    cudaGraphExec_t ready = nullptr;
    on_device(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal));
    forward_on_gpu<on_gpu::causal, float>({}, q.in(), k.in(), v.in(), out.view(), lse.view(), stream);
    on_device(cudaStreamEndCapture(stream, &graph));
    on_device(cudaGraphInstantiate(&ready, graph, 0));
    for (int times = 0; times < 2; ++times) {
        on_device(cudaGraphLaunch(ready, stream));
        stream.wait();
        REQUIRE(out.back(p.out));
        CHECK(same_bits(first, p.out));
    }
    cudaGraphExecDestroy(ready);
    cudaGraphDestroy(graph);
}

TEST_CASE("cuda: ragged batches are their sequences one by one") {
    HEED_SEEDED;
    random_source random(6);
    std::vector<std::int32_t> const q_starts{0, 70, 70, 71, 200}, k_starts{0, 65, 70, 140, 300};
    gpu_problem<float> p({1, 2, 1, 200, 300, 24, 40}, random);
    device_tensor<float> const q(p.q), k(p.k), v(p.v), out(p.out), lse(p.lse);
    device_stream const stream;
    heed::ragged_offsets const rows{std::span<std::int32_t const>(q_starts)}, keys{std::span<std::int32_t const>(k_starts)};
    forward_on_gpu<on_gpu::causal, float>({}, heed::ragged(q.in(), rows), heed::ragged(k.in(), keys), heed::ragged(v.in(), keys), heed::ragged(out.view(), rows), heed::ragged(lse.view(), rows), stream);
    stream.wait();
    REQUIRE((out.back(p.out) && lse.back(p.lse)));
    for (std::size_t b = 0; b + 1 < q_starts.size(); ++b) {
        extent_t const n0 = q_starts[b], m0 = k_starts[b], N = q_starts[b + 1] - n0, M = k_starts[b + 1] - m0;
        random_source none;
        gpu_problem<float> one({1, 2, 1, N, M, 24, 40}, none);
        one.q.each_at([&](float& x, extent_t, extent_t h, extent_t i, extent_t d) { x = p.q(0, h, n0 + i, d); });
        one.k.each_at([&](float& x, extent_t, extent_t h, extent_t i, extent_t d) { x = p.k(0, h, m0 + i, d); });
        one.v.each_at([&](float& x, extent_t, extent_t h, extent_t i, extent_t d) { x = p.v(0, h, m0 + i, d); });
        one.out.each_at([&](float& x, extent_t, extent_t h, extent_t i, extent_t d) { x = p.out(0, h, n0 + i, d); });
        one.lse.each_at([&](float& x, extent_t, extent_t h, extent_t i, extent_t d) { x = p.lse(0, h, n0 + i, d); });
        INFO("sequence " << b);
        CHECK(softmax_error(one) == "");
    }
}

TEST_CASE("cuda: 16 bits in and out are float inside") {
    HEED_SEEDED;
    random_source random(7);
    for (sizes const n : {sizes{2, 4, 2, 130, 190, 60, 64}, sizes{1, 2, 2, 7, 65, 20, 150}}) { // rows that the copy engine cannot read
        gpu_problem<heed::bf16> p(n, random);
        INFO(n);
        REQUIRE(p.run(on_gpu::causal{}));
        CHECK(p.engine == generic);
        CHECK(p.against(on_gpu::causal{}, 4e-6) == "");
    }
}

TEST_CASE("cuda: softcap and bias and slopes and mask of bytes and window and sinks ride along") {
    HEED_SEEDED;
    random_source random(8);
    for (sizes const n : {sizes{2, 4, 2, 150, 210, 44, 64}, sizes{1, 2, 2, 65, 40, 12, 8}}) {
        try_bent(n, random, generic, 4e-6);
    }
}

TEST_CASE("cuda: max-plus attention is exact and loses no NaN") {
    HEED_SEEDED;
    random_source random(9);
    for (sizes const n : {sizes{1, 2, 1, 130, 150, 64, 64}, sizes{2, 1, 1, 65, 7, 5, 131}, sizes{1, 1, 1, 3, 3, 0, 2}}) {
        gpu_problem<float> p(n, random);
        if (n.width > 0) { p.k(0, 0, 2, 1) = inf; }
        tensor<float> exact(n.out());
        heed::forward(on_gpu::max_plus{}, p.q.in(), p.k.in(), p.v.in(), exact.view(), heed::reference{});
        INFO(n);
        REQUIRE(p.run(on_gpu::max_plus{}));
        CHECK(p.engine == generic);
        CHECK(same_bits(exact, p.out));
    }
    gpu_problem<float> p({1, 1, 1, 70, 130, 16, 16}, random);
    p.q(0, 0, 3, 5) = std::nanf("");
    p.v(0, 0, 100, 2) = std::nanf("");
    REQUIRE(p.run(on_gpu::max_plus{}));
    bool right = true;
    p.out.each_at([&](float x, extent_t, extent_t, extent_t i, extent_t d) { right = right && std::isnan(x) == (i == 3 || d == 2); });
    CHECK(right);
}

TEST_CASE("cuda: tropical attention and additive scores and thresholds and counts") {
    HEED_SEEDED;
    random_source random(10);
    sizes const n{2, 4, 2, 100, 170, 20, 36};
    {
        gpu_problem<float> p(n, random);
        REQUIRE(p.run(on_gpu::tropical{}));
        CHECK(p.engine == generic);
        CHECK(p.against(on_gpu::tropical{}, 2e-6) == "");
    }
    {
        gpu_problem<float> p(n, random);
        on_gpu::sparse const m{{}, heed::window{90}};
        REQUIRE(p.run(m));
        CHECK(p.engine == generic);
        CHECK(p.against(m, 1e-5) == "");
    }
    {
        gpu_problem<heed::bf16> p(n, random);
        tensor<float> w({1, n.heads, 1, n.width});
        w.normal(random);
        tensor<std::int32_t> lengths({n.batch, 1, 1, 1});
        lengths(0, 0, 0, 0) = 77;
        lengths(1, 0, 0, 0) = 0;
        device_tensor<float> const dw(w);
        device_tensor<std::int32_t> const dlengths(lengths);
        auto const mech = [](auto const& weights, auto const& l) { return on_gpu::neural{heed::additive<heed::tanh_activation, float>{{}, weights}, heed::key_lengths{l}}; };
        REQUIRE(p.run(mech(dw.in(), dlengths.in())));
        CHECK(p.engine == generic);
        CHECK(p.against(mech(w.in(), lengths.in()), 1e-5) == "");
    }
    {
        gpu_problem<float> p(n, random);
        tensor<std::int32_t> rows({n.batch, 1, n.queries, 1}), keys({1, 1, n.keys, 1});
        rows.each_at([&](std::int32_t& x, extent_t, extent_t, extent_t i, extent_t) { x = static_cast<std::int32_t>(i / 40); });
        keys.each_at([&](std::int32_t& x, extent_t, extent_t, extent_t j, extent_t) { x = static_cast<std::int32_t>(j / 90); });
        device_tensor<std::int32_t> const drows(rows), dkeys(keys);
        auto const mech = [](auto const& r, auto const& k) {
            return on_gpu::counted{heed::squared_distance{} | heed::scale{-0.05f}, heed::documents{r, k}, {heed::exponential_weight<float>{20.0f}, {}}};
        };
        REQUIRE(p.run(mech(drows.in(), dkeys.in())));
        CHECK(p.engine == generic);
        CHECK(p.against(mech(rows.in(), keys.in()), 1e-5) == "");
    }
}

TEST_CASE("cuda: a wrong shape is refused before anything is written") {
    HEED_SEEDED;
    random_source random(11);
    gpu_problem<float> p({1, 2, 2, 8, 8, 8, 8}, random);
    device_tensor<float> const q(p.q), k(p.k), v(p.v), out(p.out);
    device_stream const stream;
    heed::tensor_view<float> const wrong{out.view().data_handle(), {1, 2, 7, 8}};
    CHECK_THROWS_AS((forward_on_gpu<on_gpu::causal, float>({}, q.in(), k.in(), v.in(), wrong, {}, stream)), heed::shape_error);
    CHECK_THROWS_AS((forward_on_gpu<on_gpu::causal, float>({}, q.in(), k.in(), v.in(), q.view(), {}, stream)), heed::shape_error);
}
