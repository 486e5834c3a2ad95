// SPDX-License-Identifier: BSD-3-Clause
// Sentence: all offsets in 64 bits: element offsets beyond 2^31 and 2^32 in every operand, by sparse mapping.
#include <support/catch.hpp>
#include <support/problem.hpp>

using namespace heed_test;

namespace {

// Strides so large that the far corner of the view lies `far` elements from the near one along one axis.
heed::strides stretched(heed::shape s, int axis, extent_t far) {
    heed::strides st = heed::row_major(s);
    extent_t const step = far / std::max<extent_t>(s[axis] - 1, 1);
    (axis == 0 ? st.batch : axis == 1 ? st.head : axis == 2 ? st.seq : st.feature) = step;
    return st;
}

} // namespace

TEST_CASE("big offsets: every operand, every axis, 2^31 and 2^32 elements and bytes apart, forwards and backwards", "[contract]") {
    HEED_SEEDED;
    random_source random(221);
    sizes const n{2, 2, 2, 5, 7, 4, 4};
    problem<float> p(n, random);
    auto const m = heed::softmax_attention(heed::causal_bottom_right{});
    p.run(m);
    int tried = 0;
    for (extent_t far : {(extent_t(1) << 29) + 12345, (extent_t(1) << 31) + 12345, (extent_t(1) << 32) + 12345}) {
        sparse_range const memory(static_cast<std::size_t>(far + 4096) * 4 + 4096);
        if (!memory) {
            WARN("no address space for " << far << " elements");
            continue;
        }
        float* const base = static_cast<float*>(memory.data());
        for (int axis = 0; axis < 4; ++axis) {
            for (int operand = 0; operand < 5; ++operand) {
                for (bool backwards : {false, true}) {
                    heed::shape const s = operand == 0 ? n.q() : operand == 1 ? n.k() : operand == 2 ? n.v() : operand == 3 ? n.out() : n.lse();
                    if (s[axis] == 1) { continue; }
                    heed::strides st = stretched(s, axis, far);
                    float* origin = base;
                    if (backwards) { // from the far end towards the near one
                        extent_t& step = axis == 0 ? st.batch : axis == 1 ? st.head : axis == 2 ? st.seq : st.feature;
                        origin += step * (s[axis] - 1);
                        step = -step;
                    }
                    heed::tensor_view<float> const view{origin, s, st};
                    auto const source = operand == 0 ? p.q.in() : operand == 1 ? p.k.in() : p.v.in();
                    if (operand < 3) {
                        for (extent_t b = 0; b < s.batch; ++b)
                            for (extent_t h = 0; h < s.head; ++h)
                                for (extent_t i = 0; i < s.seq; ++i)
                                    for (extent_t d = 0; d < s.feature; ++d) { view(b, h, i, d) = source(b, h, i, d); }
                    }
                    tensor<float> out(n.out()), lse(n.lse());
                    heed::tensor_view<float> const to = operand == 3 ? view : out.view(), sums = operand == 4 ? view : lse.view();
                    heed::forward(m, operand == 0 ? view : heed::tensor_view<float const>(p.q.in()), operand == 1 ? view : heed::tensor_view<float const>(p.k.in()),
                                  operand == 2 ? view : heed::tensor_view<float const>(p.v.in()), to, heed::save{sums});
                    INFO("operand " << operand << " axis " << axis << " far " << far << (backwards ? " backwards" : ""));
                    REQUIRE(same_bits<float>(to, p.out.in()));
                    REQUIRE(same_bits<float>(sums, p.lse.in()));
                    ++tried;
                }
            }
        }
    }
    CHECK(tried > 0);
}

TEST_CASE("big offsets: bias and mask", "[contract]") {
    HEED_SEEDED;
    random_source random(222);
    sizes const n{2, 2, 2, 5, 7, 4, 4};
    problem<float> p(n, random);
    tensor<float> b(n.pairs()), out(n.out());
    tensor<std::uint8_t> keep(n.pairs());
    b.normal(random);
    keep.each([&](std::uint8_t& x) { x = random.chance(0.7); });
    auto const score = heed::dot{} | heed::inv_sqrt_width{};
    p.run(heed::attention{score | heed::bias{b.view()}, heed::mask{keep.view()}});
    extent_t const far = (extent_t(1) << 32) + 999;
    sparse_range const floats(static_cast<std::size_t>(far) * 4 + 65536), bytes(static_cast<std::size_t>(far) + 65536);
    if (!floats || !bytes) {
        WARN("no address space");
        return;
    }
    for (int axis = 0; axis < 4; ++axis) {
        heed::strides const st = stretched(n.pairs(), axis, far);
        heed::tensor_view<float> const wide{static_cast<float*>(floats.data()), n.pairs(), st};
        heed::tensor_view<std::uint8_t> const flags{static_cast<std::uint8_t*>(bytes.data()), n.pairs(), st};
        for (extent_t x = 0; x < 2; ++x)
            for (extent_t h = 0; h < 2; ++h)
                for (extent_t i = 0; i < 5; ++i)
                    for (extent_t j = 0; j < 7; ++j) {
                        wide(x, h, i, j) = b(x, h, i, j);
                        flags(x, h, i, j) = keep(x, h, i, j);
                    }
        heed::forward(heed::attention{score | heed::bias{wide}, heed::mask{flags}}, p.q.in(), p.k.in(), p.v.in(), out.view());
        INFO("axis " << axis);
        CHECK(same_bits(out, p.out));
    }
}

TEST_CASE("big offsets: more than 2^32 bytes of queries in one call", "[contract]") {
    HEED_SEEDED;
    random_source random(223);
    // many batch entries whose rows all lie in the same few pages, but for the last
    extent_t const batch = 70000, step = 61681; // 2^32 elements away at the end
    sparse_range const memory(static_cast<std::size_t>(batch * step + 4096) * 4);
    if (!memory) {
        WARN("no address space");
        return;
    }
    sizes const n{batch, 1, 1, 1, 2, 1, 1};
    heed::tensor_view<float> const q{static_cast<float*>(memory.data()), n.q(), {step, 1, 1, 1}};
    for (extent_t b : {extent_t(0), batch / 2, batch - 1}) { q(b, 0, 0, 0) = 1; }
    std::vector<float> k{0, std::log(2.0f)}, v{0, 3}, out(static_cast<std::size_t>(batch));
    heed::forward(heed::softmax_attention(), q, heed::tensor_view<float const>{k.data(), n.k(), {0, 0, 1, 1}}, heed::tensor_view<float const>{v.data(), n.v(), {0, 0, 1, 1}},
                  heed::tensor_view<float>{out.data(), n.out()});
    CHECK(out[0] == approx(2));
    CHECK(out[1] == approx(1.5));
    CHECK(out[static_cast<std::size_t>(batch / 2)] == approx(2));
    CHECK(out[static_cast<std::size_t>(batch - 1)] == approx(2));
}
