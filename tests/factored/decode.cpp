// SPDX-License-Identifier: BSD-3-Clause
// Steps from caches of factors against attention on what they stand for: kinds of cache, orders of contraction, groups, several tokens, windows.
#include "factors.hpp"

#include <heed/front/grouped_decode.hpp>
#include <heed/mechanism/tensor_product.hpp>

using namespace heed_test;

namespace {

auto const causal = heed::tensor_product_attention();

// The last `tokens` of a call's queries against a cache into which its keys went.
template <class T, class E = T>
struct step_call {
    factored_call<T> p;
    tensor<T> out, lse;

    step_call(call_sizes const& n, random_source& random) : p(n, random), out(p.out.shape(), place::upper_page), lse(p.lse.shape()) {}
    template <class Kind>
    heed::factor_cache<E> cache(Kind kind, random_source& random, extent_t room = 0) const {
        call_sizes const& n = p.n;
        auto c = heed::make_factor_cache<E>({n.batch, n.kv_heads, room == 0 ? n.keys : room, n.width, n.value_width, n.rank_k, n.rank_v}, kind);
        for (extent_t at = 0; at < n.keys;) {
            extent_t const count = std::min(n.keys - at, random.integer(1, 90));
            auto const part = [&](factors<T> const& f) {
                auto const cut = [&](heed::tensor_view<T const> x) {
                    return x.extent(2) == 1 && n.keys != 1 ? x : heed::tensor_view<T const>{x.row(0, 0, at), {x.extent(0), x.extent(1), count, x.extent(3)}, x.strides()};
                };
                return heed::factored{cut(f.a.in()), cut(f.b.in())};
            };
            heed::append(c, part(p.k), part(p.v));
            at += count;
        }
        return c;
    }
    template <class C, class Queries, class M, class... Options>
    void run(M const& m, Queries const& q, C& c, Options const&... options) {
        out.fill(std::numeric_limits<T>::quiet_NaN());
        lse.fill(std::numeric_limits<T>::quiet_NaN());
        heed::decode(m, q, c, out.view(), heed::save{lse.view()}, options...);
    }
    std::string differs(double allowed) const {
        verdict const a = compare_close<T>(out.in(), p.out.in(), allowed), b = compare_close<T>(lse.in(), p.lse.in(), allowed);
        return a.good() ? b.text : a.text;
    }
};

template <class T>
void check_step(call_sizes const& n, random_source& random, double allowed) {
    step_call<T> s(n, random);
    s.p.run(causal);
    auto c = s.cache(heed::contiguous{}, random);
    s.run(causal, s.p.q.operand(), c);
    INFO(n << ": " << s.differs(allowed));
    CHECK(s.differs(allowed).empty());
    CHECK(s.out.intact());
    tensor<T> out(s.out.shape()), lse(s.lse.shape());
    out.copy(s.out.in()), lse.copy(s.lse.in());
    s.run(causal, s.p.q.operand(), c, heed::cpu{thread_team{3}});
    CHECK((same_bits(out, s.out) && same_bits(lse, s.lse)));
    auto pages = s.cache(heed::paged{7, n.batch * (n.keys + 6) / 7 + n.batch}, random);
    s.run(causal, s.p.q.operand(), pages, heed::cpu{backwards{}});
    CHECK((same_bits(out, s.out) && same_bits(lse, s.lse)));
    // dense queries
    if constexpr (std::is_same_v<T, float>) {
        tensor<T> q(heed::shape{n.batch, n.heads, n.queries, n.width});
        auto const rows = s.p.q.rows();
        q.each_at([&](T& x, extent_t b, extent_t h, extent_t i, extent_t e) { x = static_cast<T>(rows(b, h, i, e)); });
        s.run(causal, q.in(), c);
        CHECK(s.differs(4 * allowed).empty());
    }
}

} // namespace

TEST_CASE("factored: a step from cached factors is attention on what they stand for", "[factored]") {
    HEED_SEEDED;
    random_source random(941);
    for (call_sizes const& n : {call_sizes{1, 1, 1, 1, 1, 1, 1, 1, 1, 1}, call_sizes{2, 4, 4, 1, 70, 17, 9, 6, 2, 2}, call_sizes{1, 16, 16, 1, 700, 64, 64, 6, 2, 2}, call_sizes{1, 6, 2, 3, 140, 16, 32, 3, 5, 7},
                                call_sizes{3, 33, 11, 1, 129, 8, 24, 40, 1, 3}, call_sizes{1, 60, 60, 2, 1300, 12, 12, 2, 2, 3}, call_sizes{2, 2, 1, 4, 3, 6, 5, 2, 1, 1}, call_sizes{2, 2, 2, 1, 33, 12, 12, 6, 2, 3, true, false}}) {
        check_step<float>(n, random, 2e-5);
    }
}

TEST_CASE("factored: the plan contracts heads or features first, whichever takes fewer multiply-adds; both agree", "[factored]") {
    HEED_SEEDED;
    random_source random(942);
    step_call<float> few({1, 48, 48, 1, 300, 64, 64, 2, 2, 2}, random), many({1, 4, 4, 1, 300, 64, 64, 16, 2, 2}, random);
    for (auto* s : {&few, &many}) {
        auto c = s->cache(heed::contiguous{}, random);
        CHECK(heed::plan_grouped_decode(causal, s->p.q.operand(), c).features_first() == (s == &few));
        s->p.run(causal);
        s->run(causal, s->p.q.operand(), c);
        CHECK(s->differs(2e-5) == "");
    }
}

TEST_CASE("factored: windows over a ring; 16-bit caches; a sequence alone as in a batch", "[factored]") {
    HEED_SEEDED;
    random_source random(943);
    auto const near = heed::tensor_product_attention(heed::causal_bottom_right{} & heed::window{50});
    step_call<float> s({2, 6, 3, 3, 211, 10, 14, 3, 2, 2}, random);
    s.p.run(near);
    auto ring = s.cache(heed::ring{}, random, 52);
    s.run(near, s.p.q.operand(), ring);
    CHECK(s.differs(2e-5) == "");
    CHECK_THROWS_AS(s.run(causal, s.p.q.operand(), ring), heed::shape_error);

    step_call<float, heed::bf16> h({2, 6, 3, 1, 150, 16, 8, 3, 2, 2}, random);
    for (auto* x : {&h.p.k.a, &h.p.k.b, &h.p.v.a, &h.p.v.b}) {
        x->each([](float& e) { e = static_cast<float>(heed::bf16(e)); });
    }
    h.p.run(causal);
    auto c = h.cache(heed::contiguous{}, random);
    h.run(causal, h.p.q.operand(), c);
    CHECK(h.differs(2e-5) == "");

    step_call<float> both({2, 4, 4, 1, 700, 12, 8, 3, 2, 2}, random);
    auto two = both.cache(heed::contiguous{}, random);
    both.run(causal, both.p.q.operand(), two);
    auto view = two.grouped();
    heed::factor_cache_view<float> one = view;
    auto const second = [](auto const& x) { return heed::tensor_view<float>{x.row(1, 0, 0), {1, x.extent(1), x.extent(2), x.extent(3)}, x.strides()}; };
    one.rows.k = second(view.rows.k), one.rows.v = second(view.rows.v), one.rows.lengths = view.rows.lengths.subspan(1);
    auto const last = [](auto const& x) { return heed::tensor_view<float const>{x.row(1, 0, 0), {1, x.extent(1), x.extent(2), x.extent(3)}, x.strides()}; };
    tensor<float> out({1, 4, 1, 8});
    heed::decode(causal, heed::factored{last(both.p.q.a.in()), last(both.p.q.b.in())}, one, out.view());
    out.each_at([&](float& x, extent_t, extent_t hd, extent_t i, extent_t e) { CHECK(x == both.out(1, hd, i, e)); });
}

TEST_CASE("factored: sequences of different lengths, with different numbers of new tokens", "[factored]") {
    HEED_SEEDED;
    random_source random(946);
    std::vector<std::int32_t> const keys{0, 70, 73, 603}, queries{0, 2, 3, 7}; // of three sequences
    heed::ragged_offsets const of_keys(keys), of_queries(queries);
    factored_call<float> p({1, 6, 3, 7, 603, 10, 14, 4, 2, 3}, random);
    auto const packed = [](factors<float> const& f, heed::ragged_offsets const& offsets) { return heed::factored{heed::ragged(f.a.in(), offsets), heed::ragged(f.b.in(), offsets)}; };
    auto c = heed::make_factor_cache<float>({3, 3, 530, 10, 14, 2, 3}, heed::paged{16, 45});
    heed::append(c, packed(p.k, of_keys), packed(p.v, of_keys));
    CHECK((c.length(0) == 70 && c.length(1) == 3 && c.length(2) == 530));
    p.out.fill(std::numeric_limits<float>::quiet_NaN());
    heed::decode(causal, packed(p.q, of_queries), c, heed::ragged(p.out.view(), of_queries));
    tensor<float> expected(p.out.shape());
    for (std::size_t b = 0; b < 3; ++b) {
        auto const cut = [&](auto const& x, std::vector<std::int32_t> const& starts) {
            return std::remove_cvref_t<decltype(x)>{x.row(0, 0, starts[b]), {1, x.extent(1), starts[b + 1] - starts[b], x.extent(3)}, x.strides()};
        };
        auto const part = [&](factors<float> const& f, std::vector<std::int32_t> const& starts) { return heed::factored{cut(f.a.in(), starts), cut(f.b.in(), starts)}; };
        heed::forward(causal, part(p.q, queries), part(p.k, keys), part(p.v, keys), cut(expected.view(), queries));
    }
    auto const found = compare_close<float>(p.out.in(), expected.in(), 2e-5);
    INFO(found.text);
    CHECK(found.good());
}

TEST_CASE("factored: unused slots and keys left out reach no row; a NaN that is seen reaches its rows", "[factored]") {
    HEED_SEEDED;
    random_source random(944);
    step_call<float> s({2, 4, 4, 2, 40, 9, 7, 3, 2, 2}, random);
    auto c = s.cache(heed::contiguous{}, random, 64); // 24 slots that nobody wrote
    auto view = c.grouped();
    for (extent_t b = 0; b < 2; ++b) {
        for (extent_t j = 40; j < 64; ++j) {
            for (extent_t e = 0; e < view.rows.k.extent(3); ++e) { view.rows.k(b, 0, j, e) = std::numeric_limits<float>::quiet_NaN(); }
            for (extent_t e = 0; e < view.rows.v.extent(3); ++e) { view.rows.v(b, 0, j, e) = std::numeric_limits<float>::infinity(); }
        }
    }
    s.p.run(causal);
    s.run(causal, s.p.q.operand(), c);
    CHECK(s.differs(2e-5) == "");
    // the last token: the first query does not see it
    view.rows.v(1, 0, 39, view.rows.v.extent(3) - 1) = std::numeric_limits<float>::quiet_NaN();
    s.run(causal, s.p.q.operand(), c);
    s.out.each_at([&](float& x, extent_t b, extent_t h, extent_t i, extent_t e) {
        bool const hit = b == 1 && i == 1 && e == 6;
        CHECK((hit ? std::isnan(x) : std::fabs(x - s.p.out(b, h, i, e)) < 2e-5f));
    });
    // no key at all
    auto empty = heed::make_factor_cache<float>({2, 4, 8, 9, 7, 2, 2});
    s.run(causal, s.p.q.operand(), empty);
    s.out.each([](float& x) { CHECK(x == 0); });
    s.lse.each([](float& x) { CHECK(x == -std::numeric_limits<float>::infinity()); });
}

TEST_CASE("factored: caches and appends that do not fit are refused", "[factored]") {
    HEED_SEEDED;
    random_source random(945);
    step_call<float> s({1, 2, 2, 1, 5, 4, 3, 2, 2, 2}, random);
    auto small = heed::make_factor_cache<float>({1, 2, 4, 4, 3, 2, 2});
    CHECK_THROWS_AS(heed::append(small, s.p.k.operand(), s.p.v.operand()), heed::shape_error); // no room for 5
    auto other = heed::make_factor_cache<float>({1, 2, 8, 4, 3, 1, 2});
    CHECK_THROWS_AS(heed::append(other, s.p.k.operand(), s.p.v.operand()), heed::shape_error); // another rank
    auto heads = heed::make_factor_cache<float>({1, 3, 8, 4, 3, 2, 2});
    CHECK_THROWS_AS(heed::append(heads, s.p.k.operand(), s.p.v.operand()), heed::shape_error);
    CHECK_THROWS_AS(s.run(causal, s.p.q.operand(), heads), heed::shape_error); // 2 query heads over 3
    CHECK_THROWS_AS(heed::make_factor_cache<float>({1, 0, 8, 4, 3, 2, 2}), heed::shape_error);
    CHECK(small.length(0) == 0);
    CHECK(heed::make_factor_cache<float>({1, 16, 1000, 64, 64, 2, 2}).bytes() == 1000 * 4 * 80 * sizeof(float) + sizeof(extent_t));
}
