// SPDX-License-Identifier: BSD-3-Clause
// Gradients by the generic engine of the GPU against the oracle, and against the CPU's engine where no oracle is.
#include "gpu_problem.hpp"

#include <oracle/relations.hpp>
#include <oracle/softmax_gradient.hpp>

#include <heed/front/backward.hpp>

using namespace heed_test;

namespace {

char const *const tensor_cores = "cuda.tensor.pairwise.backward", *const generic = "cuda.simt.pairwise.backward";
float const inf = std::numeric_limits<float>::infinity();

template <class E>
struct gradients_on_gpu {
    gpu_problem<E> p;
    tensor<E> dout, dq, dk, dv;
    tensor<float> dlse;
    std::string described{}, engine{};

    gradients_on_gpu(sizes n, random_source& random) : p(n, random), dout(n.out()), dq(n.q()), dk(n.k()), dv(n.v()), dlse(n.lse()) {
        dout.normal(random);
        dlse.normal(random);
    }
    // Forward, then backward; true if nothing else was written.
    template <class M>
    bool run(M const& m, bool with_dlse, bool in_order = false) {
        if (!p.run(m)) { return false; }
        device_tensor<E> const q(p.q), k(p.k), v(p.v), out(p.out), up(dout), of_q(dq), of_k(dk), of_v(dv);
        device_tensor<float> const lse(p.lse), of_lse(dlse);
        device_stream const stream;
        described = backward_on_gpu<M, E>(m, q.in(), k.in(), v.in(), out.in(), lse.view(), up.in(), with_dlse ? of_lse.in() : heed::tensor_view<float const>{}, of_q.view(), of_k.view(), of_v.view(), stream, in_order);
        engine = described.substr(0, described.find(','));
        stream.wait();
        return of_q.back(dq) && of_k.back(dk) && of_v.back(dv) && dq.intact() && dk.intact() && dv.intact();
    }
    oracle::softmax_case exact() const {
        oracle::softmax_case c;
        c.q = oracle::read(p.q.in());
        c.k = oracle::read(p.k.in());
        c.v = oracle::read(p.v.in());
        c.scale = p.n.width > 0 ? 1 / std::sqrt(static_cast<double>(p.n.width)) : 1;
        return c;
    }
    // unit: allowed error as a part of the sum of magnitudes
    std::string against(oracle::softmax_gradient const& g, double unit) const {
        verdict found;
        auto const look = [&](char const* what, tensor<E> const& got, oracle::array const& exact, oracle::array const& magnitude) {
            heed::shape const s = got.shape();
            for (extent_t b = 0; b < s.batch; ++b)
                for (extent_t h = 0; h < s.head; ++h)
                    for (extent_t i = 0; i < s.seq; ++i)
                        for (extent_t d = 0; d < s.feature; ++d) { found.look(what, b, h, i, d, static_cast<double>(got(b, h, i, d)), exact(b, h, i, d), unit * (magnitude(b, h, i, d) + 1e-3)); }
        };
        look("dq", dq, g.dq, g.dq_magnitude);
        look("dk", dk, g.dk, g.dk_magnitude);
        look("dv", dv, g.dv, g.dv_magnitude);
        return found.text;
    }
};

} // namespace

TEST_CASE("cuda backward: causal softmax of every size and grouping") {
    HEED_SEEDED;
    random_source random(21);
    for (sizes const n : {sizes{1, 1, 1, 1, 1, 1, 1}, sizes{2, 4, 2, 65, 130, 64, 64}, sizes{1, 3, 1, 100, 70, 20, 150}, sizes{1, 2, 2, 70, 64, 140, 8}, sizes{1, 2, 1, 9, 300, 32, 40}}) {
        for (bool const with_dlse : {false, true}) {
            gradients_on_gpu<float> p(n, random);
            INFO(n);
            REQUIRE(p.run(on_gpu::causal{}, with_dlse));
            CHECK(p.engine == generic);
            oracle::softmax_case c = p.exact();
            c.keep = oracle::causal_bottom_right(n.pairs());
            CHECK(p.against(oracle::gradient(c, oracle::read(p.dout.in()), with_dlse ? oracle::read(p.dlse.in()) : oracle::array{}), 4e-6) == "");
        }
    }
}

TEST_CASE("cuda backward: no queries give zeros and the same call gives the same bits") {
    HEED_SEEDED;
    random_source random(22);
    gradients_on_gpu<float> none({1, 2, 1, 0, 70, 8, 8}, random);
    REQUIRE(none.run(on_gpu::causal{}, false));
    bool zeros = true;
    none.dk.each([&](float x) { zeros = zeros && x == 0; });
    none.dv.each([&](float x) { zeros = zeros && x == 0; });
    CHECK(zeros);
    gradients_on_gpu<float> p({1, 4, 2, 130, 200, 40, 64}, random);
    REQUIRE(p.run(on_gpu::causal{}, false));
    tensor<float> dq(p.dq.shape()), dk(p.dk.shape());
    dq.copy(p.dq.in());
    dk.copy(p.dk.in());
    REQUIRE(p.run(on_gpu::causal{}, false));
    CHECK(same_bits(dq, p.dq));
    CHECK(same_bits(dk, p.dk));
}

TEST_CASE("cuda backward: what is masked reaches no gradient") {
    HEED_SEEDED;
    sizes const n{1, 2, 1, 100, 100, 32, 48};
    auto const with = [&](float bad, int where) {
        random_source random(23);
        gradients_on_gpu<float> p(n, random);
        if (where == 1) { p.p.k(0, 0, 60, 7) = bad; }
        if (where == 2) { p.p.v(0, 0, 60, 7) = bad; }
        if (where == 3) { p.dout(0, 0, 40, 7) = bad; }
        REQUIRE(p.run(on_gpu::causal{}, false));
        return p;
    };
    auto const clean = with(0, 0);
    for (int where : {1, 2, 3}) {
        auto const p = with(std::nanf(""), where);
        bool rows = true, keys = true;
        for (extent_t i = 0; i < n.queries; ++i)
            for (extent_t d = 0; d < n.width; ++d) {
                if (where < 3 ? i < 60 : i != 40) { rows = rows && p.dq(0, 0, i, d) == clean.dq(0, 0, i, d); }
                if (where == 3 && i > 40) { keys = keys && p.dk(0, 0, i, d) == clean.dk(0, 0, i, d) && p.dv(0, 0, i, d) == clean.dv(0, 0, i, d); }
            }
        CHECK(rows);
        CHECK(keys);
    }
}

TEST_CASE("cuda backward: causal attention of 16 bits runs on tensor cores at every size") {
    HEED_SEEDED;
    if (!on_sm90()) { return; }
    random_source random(26);
    for (sizes const n : {sizes{1, 2, 2, 128, 128, 128, 128}, sizes{2, 4, 2, 130, 257, 64, 64}, sizes{1, 6, 2, 333, 100, 128, 96}, sizes{1, 3, 1, 70, 200, 40, 104}, sizes{1, 1, 1, 1, 1, 8, 8},
                          sizes{1, 160, 160, 65, 70, 64, 64}}) {
        for (bool const with_dlse : {false, true}) {
            gradients_on_gpu<heed::bf16> p(n, random);
            INFO(n);
            REQUIRE(p.run(on_gpu::causal{}, with_dlse));
            CHECK(p.engine == tensor_cores);
            oracle::softmax_case c = p.exact();
            c.keep = oracle::causal_bottom_right(n.pairs());
            CHECK(p.against(oracle::gradient(c, oracle::read(p.dout.in()), with_dlse ? oracle::read(p.dlse.in()) : oracle::array{}), 0x1p-7) == "");
        }
    }
}

TEST_CASE("cuda backward: tensor cores that sum in a fixed order give the same bits again") {
    HEED_SEEDED;
    if (!on_sm90()) { return; }
    random_source random(27);
    // more tiles of keys than multiprocessors; grouped heads; rows without keys
    for (sizes const n : {sizes{1, 1, 1, 40, 20000, 64, 64}, sizes{2, 4, 2, 900, 700, 128, 128}, sizes{1, 2, 1, 500, 1100, 256, 192}}) {
        gradients_on_gpu<heed::bf16> p(n, random);
        INFO(n);
        REQUIRE(p.run(on_gpu::causal{}, true, true));
        CHECK(p.engine == tensor_cores);
        CHECK(p.described.find("fixed order") != std::string::npos);
        tensor<heed::bf16> dq(p.dq.shape()), dk(p.dk.shape()), dv(p.dv.shape());
        dq.copy(p.dq.in());
        dk.copy(p.dk.in());
        dv.copy(p.dv.in());
        for (int again = 0; again < 3; ++again) {
            REQUIRE(p.run(on_gpu::causal{}, true, true));
            CHECK(same_bits(dq, p.dq));
            CHECK(same_bits(dk, p.dk));
            CHECK(same_bits(dv, p.dv));
        }
        oracle::softmax_case c = p.exact();
        c.keep = oracle::causal_bottom_right(n.pairs());
        CHECK(p.against(oracle::gradient(c, oracle::read(p.dout.in()), oracle::read(p.dlse.in())), 0x1p-7) == "");
    }
}

TEST_CASE("cuda backward: softcap and bias and slopes and mask and window and sinks ride along in 16 bits") {
    HEED_SEEDED;
    random_source random(24);
    extent_t const width = GENERATE(44, 48); // the copy engine reads rows of whole 16-byte words
    sizes const n{2, 4, 2, 90, 150, width, 64};
    gradients_on_gpu<heed::fp16> p(n, random);
    tensor<float> bias({1, n.heads, n.queries, n.keys}), slopes({1, n.heads, 1, 1}), sinks({1, n.heads, 1, 1});
    bias.normal(random);
    bias.each([&](float& x) { x = random.chance(0.1) ? -inf : x; });
    slopes.fill(0.03f);
    sinks.normal(random);
    tensor<std::uint8_t> mask({n.batch, 1, n.queries, n.keys});
    mask.each([&](std::uint8_t& x) { x = random.chance(0.8) ? 1 : 0; });
    device_tensor<float> const dbias(bias), dslopes(slopes), dsinks(sinks);
    device_tensor<std::uint8_t> const dmask(mask);
    on_gpu::bent const m{heed::dot{} | heed::inv_sqrt_width{} | heed::softcap<float>{2.0f} | heed::bias<float>{dbias.in()} | heed::alibi<float>{dslopes.in()},
                         heed::mask<std::uint8_t>{dmask.in()} & heed::window{70}, heed::softmax_sink<float>{dsinks.in()}};
    REQUIRE(p.run(m, false));
    CHECK(p.engine == (width == 48 && on_sm90() ? tensor_cores : generic));
    oracle::softmax_case c = p.exact();
    c.cap_before = 2;
    c.bias = oracle::read(bias.in());
    c.slopes = oracle::read(slopes.in());
    c.sinks = oracle::read(sinks.in());
    extent_t const shift = n.keys - n.queries;
    c.keep = oracle::relate(n.pairs(), [&](extent_t b, extent_t, extent_t i, extent_t j) { return mask(b, 0, i, j) != 0 && j <= i + shift && j > i + shift - 70; });
    CHECK(p.against(oracle::gradient(c, oracle::read(p.dout.in())), 0x1p-10) == "");
}

TEST_CASE("cuda backward: thresholds have a centre of their own") {
    HEED_SEEDED;
    random_source random(25);
    sizes const n{1, 2, 1, 100, 170, 20, 36};
    gradients_on_gpu<float> p(n, random);
    on_gpu::sparse const m{{}, heed::window{90}};
    REQUIRE(p.run(m, false));
    CHECK(p.engine == generic);
    tensor<float> dq(n.q()), dk(n.k()), dv(n.v());
    heed::backward(m, p.p.q.in(), p.p.k.in(), p.p.v.in(), p.p.out.in(), heed::save{p.p.lse.view()}, p.dout.in(), dq.view(), dk.view(), dv.view());
    double worst = 0, largest = 0;
    auto const compare_with = [&](tensor<float> const& got, tensor<float>& want) {
        want.each_at([&](float x, extent_t b, extent_t h, extent_t i, extent_t d) {
            worst = std::fmax(worst, std::fabs(static_cast<double>(got(b, h, i, d)) - static_cast<double>(x)));
            largest = std::fmax(largest, std::fabs(static_cast<double>(x)));
        });
    };
    compare_with(p.dq, dq);
    compare_with(p.dk, dk);
    compare_with(p.dv, dv);
    CHECK(largest > 0.1);
    CHECK(worst < 2e-5 * largest);
}
