// SPDX-License-Identifier: BSD-3-Clause
// Latent attention: naive and absorbed, prefill and steps, grouped latents, against the oracle on keys and values written out.
#include <oracle/softmax.hpp>
#include <support/catch.hpp>
#include <support/allocation_counter.hpp>
#include <support/problem.hpp>
#include <support/team.hpp>

#include <heed/front/grouped_decode.hpp>
#include <heed/front/latent.hpp>
#include <heed/mechanism/latent.hpp>

using namespace heed_test;

namespace {

struct latent_sizes {
    extent_t batch, heads, groups, queries, keys, latent, nope, rope, value;
    friend std::ostream& operator<<(std::ostream& s, latent_sizes const& n) {
        return s << "B=" << n.batch << " H=" << n.heads << " G=" << n.groups << " N=" << n.queries << " M=" << n.keys << " latent " << n.latent << '+' << n.rope << " nope " << n.nope << " dv=" << n.value;
    }
};

template <class T>
struct latent_call {
    latent_sizes n;
    tensor<T> q, c, r, w_uk, w_uv, rows, absorbed, mixed, out, lse;

    latent_call(latent_sizes s, random_source& random)
        : n(s), q({s.batch, s.heads, s.queries, s.nope + s.rope}), c({s.batch, s.groups, s.keys, s.latent}), r({s.batch, s.groups, s.keys, s.rope}), w_uk({1, s.heads, s.nope, s.latent}),
          w_uv({1, s.heads, s.value, s.latent}), rows({s.batch, s.groups, s.keys, s.latent + s.rope}), absorbed({s.batch, s.heads, s.queries, s.latent + s.rope}),
          mixed({s.batch, s.heads, s.queries, s.latent}), out({s.batch, s.heads, s.queries, s.value}, place::upper_page), lse({s.batch, s.heads, s.queries, 1}) {
        double const unit = 1 / std::sqrt(static_cast<double>(s.latent));
        q.normal(random), c.normal(random), r.normal(random), w_uk.normal(random, unit), w_uv.normal(random, unit);
        rows.each_at([&](T& x, extent_t b, extent_t g, extent_t j, extent_t e) { x = e < s.latent ? c(b, g, j, e) : r(b, g, j, e - s.latent); });
        auto const part = [&](extent_t first, extent_t count) { return heed::detail::features_of(q.in(), first, count); };
        heed::absorb_queries(part(0, s.nope), part(s.nope, s.rope), w_uk.in(), absorbed.view());
    }
    auto mechanism() const { return heed::latent_attention(n.nope + n.rope); }
    oracle::softmax_case exact() const {
        oracle::softmax_case x;
        x.q = oracle::read(q.in());
        x.k = oracle::array({n.batch, n.heads, n.keys, n.nope + n.rope});
        x.v = oracle::array({n.batch, n.heads, n.keys, n.value});
        for (extent_t b = 0; b < n.batch; ++b)
            for (extent_t h = 0; h < n.heads; ++h)
                for (extent_t j = 0; j < n.keys; ++j) {
                    extent_t const g = h / (n.heads / n.groups);
                    for (extent_t e = 0; e < n.nope + n.rope; ++e)
                        for (extent_t m = 0; m < (e < n.nope ? n.latent : 1); ++m) { x.k(b, h, j, e) += e < n.nope ? double(w_uk(0, h, e, m)) * double(c(b, g, j, m)) : double(r(b, g, j, e - n.nope)); }
                    for (extent_t e = 0; e < n.value; ++e)
                        for (extent_t m = 0; m < n.latent; ++m) { x.v(b, h, j, e) += double(w_uv(0, h, e, m)) * double(c(b, g, j, m)); }
                }
        x.scale = 1 / std::sqrt(static_cast<double>(n.nope + n.rope));
        x.keep = oracle::causal_bottom_right({n.batch, n.heads, n.queries, n.keys});
        return x;
    }
    std::string against(oracle::softmax_result const& r_, double allowed) const {
        verdict v;
        for (extent_t b = 0; b < n.batch; ++b)
            for (extent_t h = 0; h < n.heads; ++h)
                for (extent_t i = 0; i < n.queries; ++i) {
                    v.look("lse", b, h, i, 0, double(lse(b, h, i, 0)), r_.lse(b, h, i, 0), 4 * allowed);
                    for (extent_t e = 0; e < n.value; ++e) { v.look("out", b, h, i, e, double(out(b, h, i, e)), r_.out(b, h, i, e), allowed); }
                }
        return v.text;
    }
    void blank() {
        out.fill(std::numeric_limits<T>::quiet_NaN());
        mixed.fill(std::numeric_limits<T>::quiet_NaN());
        lse.fill(std::numeric_limits<T>::quiet_NaN());
    }
};

template <class T>
void check_latent(latent_sizes const& n, random_source& random, double allowed) {
    latent_call<T> p(n, random);
    auto const exact = oracle::softmax(p.exact());
    p.blank();
    heed::latent_forward(p.mechanism(), p.q.in(), p.c.in(), p.r.in(), p.w_uk.in(), p.w_uv.in(), p.out.view(), heed::save{p.lse.view()});
    INFO(n);
    CHECK(p.against(exact, allowed) == "");
    // absorbed: the latent heads are the keys' heads, their first part the values
    p.blank();
    heed::forward(p.mechanism(), p.absorbed.in(), p.rows.in(), heed::detail::features_of(p.rows.in(), 0, n.latent), p.mixed.view(), heed::save{p.lse.view()});
    heed::expand_values(p.mixed.in(), p.w_uv.in(), p.out.view());
    CHECK(p.against(exact, allowed) == "");

    auto const step = [&](auto kind, auto const& backend) {
        auto c = heed::make_latent_cache<T>({n.batch, n.groups, n.keys, n.latent + n.rope, n.latent}, kind);
        for (extent_t at = 0; at < n.keys; at += 50) {
            extent_t const count = std::min<extent_t>(50, n.keys - at);
            heed::append(c, heed::tensor_view<T const>{p.rows.in().row(0, 0, at), {n.batch, n.groups, count, n.latent + n.rope}, p.rows.in().strides()});
        }
        p.blank();
        heed::decode(p.mechanism(), p.absorbed.in(), c, p.mixed.view(), heed::save{p.lse.view()}, backend);
        heed::expand_values(p.mixed.in(), p.w_uv.in(), p.out.view());
        CHECK(p.against(exact, allowed) == "");
        CHECK((p.mixed.intact() && p.lse.intact()));
    };
    step(heed::contiguous{}, heed::cpu{});
    tensor<T> out(p.out.shape()), lse(p.lse.shape());
    out.copy(p.out.in()), lse.copy(p.lse.in());
    step(heed::paged{9, n.batch * (n.keys + 8) / 9 + n.batch}, heed::cpu{thread_team{3}});
    CHECK((same_bits(out, p.out) && same_bits(lse, p.lse)));
}

} // namespace

TEST_CASE("latent: naive and absorbed, prefill and steps, are attention on what the latents stand for", "[factored]") {
    HEED_SEEDED;
    random_source random(961);
    for (latent_sizes const& n : {latent_sizes{1, 1, 1, 1, 1, 1, 1, 1, 1}, latent_sizes{2, 5, 1, 3, 70, 24, 9, 6, 11}, latent_sizes{1, 128, 1, 1, 300, 64, 16, 8, 16}, latent_sizes{2, 12, 2, 2, 33, 17, 7, 4, 5},
                                  latent_sizes{1, 30, 1, 1, 1300, 600, 12, 20, 12}, latent_sizes{1, 2, 1, 5, 3, 8, 4, 2, 4}, latent_sizes{1, 60, 3, 4, 140, 48, 16, 0, 16}}) {
        check_latent<double>(n, random, 1e-12);
        check_latent<float>(n, random, 2e-5);
    }
}

TEST_CASE("latent: maps that select features are multi-head attention with the scale of a head", "[factored]") {
    HEED_SEEDED;
    random_source random(962);
    extent_t const H = 4, d = 8;
    latent_call<double> p({1, H, 1, 20, 30, 2 * H * d, d, 0, d}, random);
    p.w_uk.each_at([&](double& x, extent_t, extent_t h, extent_t e, extent_t m) { x = m == h * d + e; });
    p.w_uv.each_at([&](double& x, extent_t, extent_t h, extent_t e, extent_t m) { x = m == (H + h) * d + e; });
    heed::latent_forward(p.mechanism(), p.q.in(), p.c.in(), p.r.in(), p.w_uk.in(), p.w_uv.in(), p.out.view());
    tensor<double> k({1, H, 30, d}), v(k.shape()), expected(p.out.shape());
    k.each_at([&](double& x, extent_t, extent_t h, extent_t j, extent_t e) { x = p.c(0, 0, j, h * d + e); });
    v.each_at([&](double& x, extent_t, extent_t h, extent_t j, extent_t e) { x = p.c(0, 0, j, (H + h) * d + e); });
    heed::forward(heed::softmax_attention(heed::causal_bottom_right{}), p.q.in(), k.in(), v.in(), expected.view());
    CHECK(compare_close<double>(p.out.in(), expected.in(), 1e-14).good());
}

TEST_CASE("latent: ragged batches, data per head, one allocation", "[factored]") {
    HEED_SEEDED;
    random_source random(964);
    std::vector<std::int32_t> const starts{0, 9, 9, 40}, ends{0, 2, 2, 7};
    heed::ragged_offsets const keys(starts), queries(ends);
    latent_call<float> p({1, 6, 2, 7, 40, 12, 5, 4, 3}, random);
    auto const at = [](auto const& x, heed::ragged_offsets const& o) { return heed::ragged(x, o); };
    tensor<float> slopes({1, 6, 1, 1}), alone(p.out.shape()), mixed(p.mixed.shape()), absorbed(p.absorbed.shape());
    slopes.normal(random);
    auto const m = heed::attention{heed::dot{} | heed::inv_sqrt_width{} | heed::alibi{slopes.in()}, heed::causal_bottom_right{}, heed::softmax{}};
    auto plan = heed::plan_latent_forward(m, at(p.q.in(), queries), at(p.c.in(), keys), at(p.r.in(), keys), p.w_uk.in(), p.w_uv.in());
    CHECK(plan.heads_at_once() == 6);
    guarded_block const workspace(plan.workspace_bytes(), place::upper_page, 3);
    std::size_t calls = 0;
    {
        allocation_scope const scope;
        plan.run(at(p.out.view(), queries), std::span<std::byte>(workspace.data(), workspace.bytes()));
        calls = scope.calls();
    }
    CHECK(calls == 0);
    CHECK(workspace.surroundings_intact());
    auto const cut = [](auto const& x, std::int32_t begin, std::int32_t end) { return std::remove_cvref_t<decltype(x)>{x.row(0, 0, begin), {1, x.extent(1), end - begin, x.extent(3)}, x.strides()}; };
    for (std::size_t b = 0; b < 3; ++b) {
        heed::latent_forward(m, cut(p.q.in(), ends[b], ends[b + 1]), cut(p.c.in(), starts[b], starts[b + 1]), cut(p.r.in(), starts[b], starts[b + 1]), p.w_uk.in(), p.w_uv.in(), cut(alone.view(), ends[b], ends[b + 1]));
    }
    CHECK(same_bits(p.out, alone));
    // the maps of ragged queries and results
    auto const part = [&](extent_t first, extent_t count) { return at(heed::detail::features_of(p.q.in(), first, count), queries); };
    heed::absorb_queries(part(0, 5), part(5, 4), p.w_uk.in(), at(absorbed.view(), queries));
    CHECK(same_bits(absorbed, p.absorbed));
    mixed.normal(random);
    heed::expand_values(mixed.in(), p.w_uv.in(), p.out.view());
    heed::expand_values(at(mixed.in(), queries), p.w_uv.in(), at(alone.view(), queries));
    CHECK(same_bits(p.out, alone));
}

TEST_CASE("latent: what does not fit is refused", "[factored]") {
    HEED_SEEDED;
    random_source random(963);
    latent_call<float> p({1, 4, 1, 2, 5, 6, 3, 2, 3}, random);
    CHECK_THROWS_AS(heed::make_latent_cache<float>({1, 1, 8, 6, 7}), heed::shape_error); // the value is part of the row
    auto c = heed::make_latent_cache<float>({1, 1, 4, 8, 6});
    CHECK_THROWS_AS(heed::append(c, p.rows.in()), heed::shape_error); // no room for 5
    CHECK(c.length(0) == 0);
    CHECK_THROWS_AS(heed::decode(p.mechanism(), p.q.in(), c, p.mixed.view()), heed::shape_error); // not absorbed
    CHECK_THROWS_AS(heed::decode(p.mechanism(), p.absorbed.in(), c, p.out.view()), heed::shape_error);
    CHECK_THROWS_AS(heed::latent_forward(p.mechanism(), p.q.in(), p.c.in(), p.r.in(), p.w_uv.in(), p.w_uk.in(), p.mixed.view()), heed::shape_error);
    CHECK_THROWS_AS(heed::expand_values(p.absorbed.in(), p.w_uv.in(), p.out.view()), heed::shape_error);
    CHECK(heed::make_latent_cache<heed::bf16>({1, 1, 1000, 576, 512}).bytes() == 1000 * 576 * 2 + sizeof(extent_t));
}
