// SPDX-License-Identifier: BSD-3-Clause
// The tensor-core engine against double on the host. Its weights are rounded to 16 bits before they meet the values: errors are parts of the largest result.
#include "gpu_problem.hpp"

using namespace heed_test;

namespace {

char const *const tensor_cores = "cuda.tensor.pairwise.forward", *const split = "cuda.tensor.split.pairwise.forward", *const generic = "cuda.simt.pairwise.forward";
float const inf = std::numeric_limits<float>::infinity();

template <class E, class M>
double norm_error(gpu_problem<E> const& p, M const& m) {
    tensor<double> const q = in_double(p.q), k = in_double(p.k), v = in_double(p.v);
    tensor<double> out(p.n.out());
    heed::forward(m, q.in(), k.in(), v.in(), out.view(), heed::reference{});
    double off = 0, all = 0;
    out.each_at([&](double x, extent_t b, extent_t h, extent_t i, extent_t d) {
        double const e = static_cast<double>(p.out(b, h, i, d)) - x;
        off += e * e;
        all += x * x;
    });
    return std::sqrt(off / all);
}
template <class E, class M>
std::string lse_error(gpu_problem<E> const& p, M const& m) {
    tensor<double> const q = in_double(p.q), k = in_double(p.k), v = in_double(p.v);
    tensor<double> out(p.n.out()), lse(p.n.lse());
    heed::forward(m, q.in(), k.in(), v.in(), out.view(), heed::reference{}, heed::save{lse.view()});
    verdict found;
    lse.each_at([&](double x, extent_t b, extent_t h, extent_t i, extent_t) { found.look("lse", b, h, i, 0, static_cast<double>(p.lse(b, h, i, 0)), x, 4e-6 * (1 + std::fabs(x))); });
    return found.text;
}

} // namespace

TEST_CASE("cuda: causal attention of 16 bits runs on tensor cores at every size") {
    HEED_SEEDED;
    if (!on_sm90()) { return; }
    random_source random(21);
    for (sizes const n : {sizes{2, 4, 2, 130, 257, 64, 64}, sizes{1, 2, 2, 100, 70, 128, 128}, sizes{1, 6, 2, 333, 700, 128, 128}, sizes{1, 2, 1, 65, 513, 192, 128}, sizes{1, 2, 2, 129, 300, 256, 256},
                          sizes{1, 1, 1, 1, 1, 8, 8}, sizes{2, 3, 1, 70, 200, 40, 104}, sizes{1, 160, 160, 70, 70, 64, 64}}) {
        gpu_problem<heed::bf16> p(n, random);
        INFO(n);
        REQUIRE(p.run(on_gpu::causal{}));
        CHECK(p.engine == tensor_cores);
        CHECK(p.against(on_gpu::causal{}, 4e-3) == "");
        CHECK(lse_error(p, on_gpu::causal{}) == "");
    }
}

TEST_CASE("cuda: views that the copy engine cannot read fall to the generic engine") {
    HEED_SEEDED;
    if (!on_sm90()) { return; }
    sizes const n{1, 2, 2, 70, 90, 64, 64};
    auto const engine = [&](auto const& strides_of, std::size_t shift) {
        random_source random(22);
        auto const make = [&](heed::shape s) { return tensor<heed::bf16>(s, strides_of(s), heed_test::place::margin, shift); };
        gpu_problem<heed::bf16> p(n, make(n.q()), make(n.k()), make(n.v()), make(n.out()), random);
        REQUIRE(p.run(on_gpu::causal{}));
        CHECK(p.against(on_gpu::causal{}, 4e-3) == "");
        return p.engine;
    };
    CHECK(engine([](heed::shape s) { return padded(s, 8); }, 0) == tensor_cores);
    CHECK(engine([](heed::shape s) { return padded(s, 3); }, 0) == generic);
    CHECK(engine([](heed::shape s) { return heed::strides{s.head * s.seq * s.feature, s.feature, s.head * s.feature, 1}; }, 0) == tensor_cores); // sequence-major
}

TEST_CASE("cuda: softcap and bias and slopes and mask of bytes and window and sinks ride along on tensor cores") {
    HEED_SEEDED;
    if (!on_sm90()) { return; }
    random_source random(23);
    for (sizes const n : {sizes{2, 4, 2, 150, 210, 48, 64}, sizes{1, 2, 2, 65, 40, 128, 128}}) {
        try_bent(n, random, tensor_cores, 1e-3);
    }
}

TEST_CASE("cuda: tensor cores skip tiles that hold NaN and hide none that is attended") {
    HEED_SEEDED;
    if (!on_sm90()) { return; }
    random_source random(24);
    sizes const n{1, 2, 1, 400, 400, 128, 128};
    gpu_problem<heed::bf16> clean(n, random);
    REQUIRE(clean.run(on_gpu::causal{}));
    random_source again(24);
    gpu_problem<heed::bf16> p(n, again);
    p.v(0, 0, 390, 7) = heed::bf16(std::numeric_limits<float>::quiet_NaN());
    REQUIRE(p.run(on_gpu::causal{}));
    bool before = true, after = true;
    p.out.each_at([&](heed::bf16 x, extent_t b, extent_t h, extent_t i, extent_t d) {
        if (i < 256) { before = before && x.bits == clean.out(b, h, i, d).bits; } // no tile of theirs holds the key
        if (i >= 390) { after = after && std::isnan(static_cast<float>(x)) == (d == 7); }
    });
    CHECK(before);
    CHECK(after);
}

TEST_CASE("cuda: tensor cores give the same bits again") {
    HEED_SEEDED;
    if (!on_sm90()) { return; }
    random_source random(25);
    gpu_problem<heed::bf16> p({2, 40, 8, 700, 700, 64, 64}, random);
    REQUIRE(p.run(on_gpu::causal{}));
    CHECK(p.engine == tensor_cores);
    tensor<heed::bf16> first(p.n.out());
    first.copy(p.out.in());
    REQUIRE(p.run(on_gpu::causal{}));
    CHECK(same_bits(first, p.out));
}

TEST_CASE("cuda: split products keep 2e-6 of fp32 attention at every size and stride and magnitude") {
    HEED_SEEDED;
    if (!on_sm90()) { return; }
    random_source random(26);
    auto const holds = [](gpu_problem<float>& p) {
        INFO(p.n);
        REQUIRE(p.run<heed::split_products>(on_gpu::causal{}));
        CHECK(p.engine == split);
        CHECK(norm_error(p, on_gpu::causal{}) < 2e-6);
        CHECK(lse_error(p, on_gpu::causal{}) == "");
    };
    for (sizes const n : {sizes{2, 4, 2, 130, 257, 64, 64}, sizes{1, 6, 2, 100, 470, 128, 128}, sizes{1, 1, 1, 1, 1, 8, 8}, sizes{2, 3, 1, 70, 200, 37, 101}, sizes{1, 160, 160, 70, 70, 64, 64}}) {
        gpu_problem<float> p(n, random);
        holds(p);
    }
    sizes const n{1, 2, 2, 70, 90, 64, 64};
    auto const apart = [](heed::shape s) { return tensor<float>(s, padded(s, 3), heed_test::place::margin, 1); };
    gpu_problem<float> strided(n, apart(n.q()), apart(n.k()), apart(n.v()), apart(n.out()), random);
    holds(strided);
    // rows of very different sizes, in q and k against each other, beside what no query sees
    gpu_problem<float> p(n, random);
    p.q.each([](float& x) { x *= 0x1p-90f; });
    p.k.each([](float& x) { x *= 0x1p90f; });
    p.k.each_at([](float& x, extent_t, extent_t, extent_t j, extent_t) { x *= j % 3 == 0 ? 0x1p-30f : 1.0f; });
    p.v.each_at([](float& x, extent_t, extent_t, extent_t j, extent_t) { x *= j % 7 == 0 ? 0x1p40f : 0x1p-20f; });
    holds(p);
}

TEST_CASE("cuda: rounded products keep 1e-3 of fp32 attention, bent scores and windows with them") {
    HEED_SEEDED;
    if (!on_sm90()) { return; }
    random_source random(29);
    on_gpu::capped const capped{heed::dot{} | heed::inv_sqrt_width{} | heed::softcap<float>{2.0f}, heed::window{70}};
    for (sizes const n : {sizes{2, 4, 2, 150, 210, 48, 64}, sizes{1, 2, 2, 65, 40, 128, 128}, sizes{1, 3, 1, 200, 333, 99, 70}}) {
        gpu_problem<float> p(n, random);
        INFO(n);
        REQUIRE(p.run<heed::rounded_products>(capped));
        CHECK(p.engine == "cuda.tensor.rounded.pairwise.forward");
        CHECK(norm_error(p, capped) < 1e-3);
    }
}

TEST_CASE("cuda: huge rows that no query of a tile attends do not touch split products") {
    HEED_SEEDED;
    if (!on_sm90()) { return; }
    sizes const n{1, 1, 1, 64, 64, 64, 64};
    random_source random(27), again(27);
    gpu_problem<float> clean(n, random), p(n, again);
    REQUIRE(clean.run<heed::split_products>(on_gpu::causal{}));
    for (extent_t d = 0; d < 64; ++d) {
        p.k(0, 0, 63, d) *= 0x1p100f;
        p.v(0, 0, 63, d) *= 0x1p100f;
    }
    REQUIRE(p.run<heed::split_products>(on_gpu::causal{}));
    bool same = true;
    p.out.each_at([&](float x, extent_t, extent_t, extent_t i, extent_t d) { same = same && (i == 63 || x == clean.out(0, 0, i, d)); });
    CHECK(same);
}

TEST_CASE("cuda: what split products do not serve runs in fp32 on the generic engine") {
    HEED_SEEDED;
    if (!on_sm90()) { return; }
    random_source random(28);
    gpu_problem<float> wide({1, 2, 2, 70, 90, 160, 64}, random);
    REQUIRE(wide.run<heed::split_products>(on_gpu::causal{}));
    CHECK(wide.engine == generic);
    CHECK(norm_error(wide, on_gpu::causal{}) < 1e-6);
}
