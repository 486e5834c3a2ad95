// SPDX-License-Identifier: BSD-3-Clause
// Caches of fewer bytes: a factor that all tokens share is kept once; elements of 16 and 8 bits. Steps from them against attention on what they hold.
#include "factors.hpp"

#include <heed/front/grouped_decode.hpp>
#include <heed/mechanism/latent.hpp>
#include <heed/mechanism/tensor_product.hpp>

using namespace heed_test;

namespace {

auto const causal = heed::tensor_product_attention();

std::string differs(tensor<float> const& got, tensor<float> const& expected, double allowed) { return compare_close<float>(got.in(), expected.in(), allowed).text; }

// Keys and values of `count` tokens from `first` on.
heed::factored<float> part(factors<float> const& f, extent_t first, extent_t count) {
    auto const cut = [&](heed::tensor_view<float const> x) {
        return x.extent(2) == 1 ? x : heed::tensor_view<float const>{x.row(0, 0, first), {x.extent(0), x.extent(1), count, x.extent(3)}, x.strides()};
    };
    return {cut(f.a.in()), cut(f.b.in())};
}

} // namespace

TEST_CASE("factored: a factor that all tokens share is kept once; steps are attention on what it stands for", "[factored]") {
    HEED_SEEDED;
    random_source random(1001);
    using heed::shared_factor;
    for (call_sizes n : {call_sizes{2, 4, 4, 1, 70, 17, 9, 6, 2, 3}, call_sizes{1, 32, 16, 2, 300, 16, 64, 3, 3, 2}, call_sizes{2, 40, 40, 3, 530, 12, 20, 2, 1, 2}, call_sizes{1, 2, 1, 1, 1, 5, 7, 2, 2, 2}}) {
        for (bool const heads : {true, false}) {
            n.constant_a = heads, n.constant_b = !heads;
            factored_call<float> p(n, random);
            p.run(causal);
            tensor<float> out(p.out.shape()), lse(p.lse.shape()), first(p.out.shape());
            auto const run = [&](auto kind, auto const& backend) {
                shared_factor const shared = heads ? shared_factor::heads : shared_factor::features;
                auto c = heed::make_factor_cache<float>({n.batch, n.kv_heads, n.keys, n.width, n.value_width, n.rank_k, n.rank_v, shared, shared}, kind);
                extent_t const half = n.keys / 2;
                if (half > 0) { heed::append(c, part(p.k, 0, half), part(p.v, 0, half)); }
                heed::append(c, part(p.k, half, n.keys - half), part(p.v, half, n.keys - half));
                out.fill(std::numeric_limits<float>::quiet_NaN());
                heed::decode(causal, p.q.operand(), c, out.view(), heed::save{lse.view()}, backend);
                INFO(n << ": " << differs(out, p.out, 2e-5));
                CHECK(differs(out, p.out, 2e-5).empty());
                CHECK(differs(lse, p.lse, 2e-5).empty());
                CHECK(c.grouped().rows.k.extent(3) == n.rank_k * (heads ? n.width : n.kv_heads));
            };
            run(heed::contiguous{}, heed::cpu{});
            first.copy(out.in());
            run(heed::paged{5, n.batch * (n.keys + 4) / 5 + n.batch}, heed::cpu{thread_team{3}});
            CHECK(same_bits(first, out));
        }
    }
    // another factor later, or one for each token, is refused before anything is written
    factored_call<float> p({1, 2, 2, 1, 6, 4, 3, 2, 2, 2, true}, random), q({1, 2, 2, 1, 6, 4, 3, 2, 2, 2, true}, random), each({1, 2, 2, 1, 6, 4, 3, 2, 2, 2}, random);
    auto c = heed::make_factor_cache<float>({1, 2, 12, 4, 3, 2, 2, shared_factor::heads, shared_factor::heads});
    CHECK_THROWS_AS(heed::append(c, each.k.operand(), each.v.operand()), heed::shape_error);
    heed::append(c, p.k.operand(), p.v.operand());
    CHECK_THROWS_AS(heed::append(c, q.k.operand(), p.v.operand()), heed::shape_error);
    CHECK_THROWS_AS(heed::append(c, p.k.operand(), q.v.operand()), heed::shape_error);
    CHECK(c.length(0) == 6);
    CHECK(heed::make_factor_cache<float>({1, 16, 1000, 64, 64, 2, 2, shared_factor::heads, shared_factor::features}).bytes() == 1000 * (128 + 32) * 4 + (32 + 128) * 4 + sizeof(extent_t));
}

namespace {

// A cache of elements E against attention on the numbers that its codes stand for; these against the numbers that went in.
template <class E>
void check_codes(call_sizes const& n, random_source& random, double nearly) {
    factored_call<float> p(n, random);
    for (auto* x : {&p.k.a, &p.v.a}) { x->each([](float& e) { e *= 37; }); }
    for (auto* x : {&p.k.b, &p.v.b}) { x->each([](float& e) { e /= 37; }); } // factors of unlike size
    p.run(causal);
    auto c = heed::make_factor_cache<E>({n.batch, n.kv_heads, n.keys, n.width, n.value_width, n.rank_k, n.rank_v}, heed::paged{7, n.batch * (n.keys + 6) / 7 + n.batch});
    heed::append(c, p.k.operand(), p.v.operand());
    tensor<float> out(p.out.shape()), first(p.out.shape());
    heed::decode(causal, p.q.operand(), c, out.view());
    first.copy(out.in());
    CHECK(compare_close<float>(out.in(), p.out.in(), nearly).good());
    heed::decode(causal, p.q.operand(), c, out.view(), heed::cpu{thread_team{3}});
    CHECK(same_bits(out, first));
    auto const view = c.grouped().rows;
    auto const read_back = [&](factors<float>& f, auto const& rows, heed::tensor_view<float> const& scales) {
        for (extent_t b = 0; b < n.batch; ++b)
            for (extent_t j = 0; j < n.keys; ++j) {
                auto const at = view.locate(b, j);
                float const s = heed::is_byte<E> ? scales(at.entry, 0, at.row, 0) : 1;
                for (extent_t r = 0; r < f.n.rank; ++r) {
                    for (extent_t h = 0; h < f.n.heads; ++h) { f.a(b, h, j, r) = s * static_cast<float>(rows(at.entry, 0, at.row, r * f.n.heads + h)); }
                    for (extent_t e = 0; e < f.n.width; ++e) { f.b(b, r, j, e) = s * static_cast<float>(rows(at.entry, 0, at.row, f.n.rank * f.n.heads + r * f.n.width + e)); }
                }
            }
    };
    read_back(p.k, view.k, view.k_scale), read_back(p.v, view.v, view.v_scale);
    p.run(causal);
    INFO(n << ": " << differs(first, p.out, 2e-5));
    CHECK(differs(first, p.out, 2e-5).empty());
}

} // namespace

TEST_CASE("factored: caches of 16 and 8 bits are the factors that they hold; a rank's factors share a byte's range", "[factored]") {
    HEED_SEEDED;
    random_source random(1002);
    for (call_sizes const& n : {call_sizes{2, 6, 3, 1, 150, 16, 8, 3, 2, 2}, call_sizes{1, 16, 16, 2, 41, 33, 17, 6, 3, 1}}) {
        check_codes<heed::bf16>(n, random, 0.05);
        check_codes<heed::fp16>(n, random, 0.01);
        check_codes<std::int8_t>(n, random, 0.1);
        check_codes<heed::fp8_e4m3>(n, random, 0.5);
    }
    CHECK(heed::make_factor_cache<std::int8_t>({1, 16, 1000, 64, 64, 2, 2}).bytes() == 1000 * (4 * 80 + 2 * sizeof(float)) + sizeof(extent_t));
}

TEST_CASE("latent: caches of bytes are the latents that they hold", "[factored]") {
    HEED_SEEDED;
    random_source random(1003);
    extent_t const B = 2, H = 20, M = 70, w = 24, rope = 9;
    tensor<float> rows({B, 1, M, w + rope}), q({B, H, 2, w + rope}), out({B, H, 2, w}), expected(out.shape());
    rows.normal(random), q.normal(random);
    auto const m = heed::latent_attention(15);
    auto c = heed::make_latent_cache<std::int8_t>({B, 1, M, w + rope, w});
    heed::append(c, rows.in());
    heed::decode(m, q.in(), c, out.view());
    auto const view = c.grouped().rows;
    rows.each_at([&](float& x, extent_t b, extent_t h, extent_t j, extent_t e) {
        float const held = view.k_scale(b, h, j, 0) * static_cast<float>(view.k(b, h, j, e));
        CHECK(std::fabs(held - x) < 0.03);
        x = held;
    });
    heed::forward(m, q.in(), rows.in(), heed::tensor_view<float const>{rows.in().data_handle(), {B, 1, M, w}, rows.in().strides()}, expected.view());
    CHECK(differs(out, expected, 2e-5) == "");
    CHECK(c.bytes() == static_cast<std::size_t>(B * M) * (w + rope + sizeof(float)) + B * sizeof(extent_t));
}
