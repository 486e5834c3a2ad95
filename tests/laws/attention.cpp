// SPDX-License-Identifier: BSD-3-Clause
// What must hold of attention whatever the numbers are.
#include <support/catch.hpp>

#include <heed/heed.hpp>
#include <heed/kernel/dual.hpp>

#include <rapidcheck.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>
#include <random>
#include <vector>

namespace {

using heed::extent_t;
using tensor = std::vector<float>;

struct sizes {
    extent_t n, m, d, dv;
};
sizes any_sizes() { return {*rc::gen::inRange(1, 120), *rc::gen::inRange(1, 200), *rc::gen::inRange(1, 40), *rc::gen::inRange(1, 40)}; }

tensor normals(extent_t n) {
    std::mt19937 random(*rc::gen::arbitrary<unsigned>());
    std::normal_distribution<float> normal;
    tensor x(static_cast<std::size_t>(n));
    for (float& e : x) { e = normal(random); }
    return x;
}
heed::tensor_view<float> matrix(tensor& x, extent_t rows, extent_t cols) { return {x.data(), {1, 1, rows, cols}}; }

template <class M, class... Options>
tensor run(M const& mechanism, sizes s, tensor& q, tensor& k, tensor& v, Options const&... options) {
    tensor out(static_cast<std::size_t>(s.n * s.dv));
    heed::forward(mechanism, matrix(q, s.n, s.d), matrix(k, s.m, s.d), matrix(v, s.m, s.dv), matrix(out, s.n, s.dv), options...);
    return out;
}
bool near(tensor const& a, tensor const& b, float tolerance = 2e-5f) {
    for (std::size_t i = 0; i < a.size(); ++i) {
        if (!(std::abs(a[i] - b[i]) <= tolerance)) { return false; }
    }
    return a.size() == b.size();
}
bool same_bits(tensor const& a, tensor const& b) { return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0; }

auto const plain = heed::softmax_attention();
auto const score = heed::dot{} | heed::inv_sqrt_width{};

} // namespace

TEST_CASE("laws: order of keys and queries") {
    CHECK(rc::check("permuting keys with their values changes nothing, permuting queries permutes the rows", [] {
        sizes const s = any_sizes();
        tensor q = normals(s.n * s.d), k = normals(s.m * s.d), v = normals(s.m * s.dv), k2(k.size()), v2(v.size()), q2(q.size());
        tensor const out = run(plain, s, q, k, v);
        for (extent_t j = 0; j < s.m; ++j) { // reversal
            std::copy_n(k.begin() + j * s.d, s.d, k2.begin() + (s.m - 1 - j) * s.d);
            std::copy_n(v.begin() + j * s.dv, s.dv, v2.begin() + (s.m - 1 - j) * s.dv);
        }
        RC_ASSERT(near(out, run(plain, s, q, k2, v2)));
        for (extent_t i = 0; i < s.n; ++i) { std::copy_n(q.begin() + i * s.d, s.d, q2.begin() + (s.n - 1 - i) * s.d); }
        tensor const turned = run(plain, s, q2, k, v);
        for (extent_t i = 0; i < s.n; ++i) { RC_ASSERT(std::equal(out.begin() + i * s.dv, out.begin() + (i + 1) * s.dv, turned.begin() + (s.n - 1 - i) * s.dv)); }
    }));
}

TEST_CASE("laws: parts merge to the whole") {
    CHECK(rc::check("keys split anywhere and merged by log-sum-exp", [] {
        sizes const s = any_sizes();
        extent_t const cut = *rc::gen::inRange<extent_t>(0, s.m + 1);
        tensor q = normals(s.n * s.d), k = normals(s.m * s.d), v = normals(s.m * s.dv), la(static_cast<std::size_t>(s.n)), lb(la);
        tensor ka(k.begin(), k.begin() + cut * s.d), kb(k.begin() + cut * s.d, k.end()), va(v.begin(), v.begin() + cut * s.dv), vb(v.begin() + cut * s.dv, v.end());
        tensor const a = run(plain, {s.n, cut, s.d, s.dv}, q, ka, va, heed::save{heed::per_row(la.data(), 1, 1, s.n)});
        tensor const b = run(plain, {s.n, s.m - cut, s.d, s.dv}, q, kb, vb, heed::save{heed::per_row(lb.data(), 1, 1, s.n)});
        tensor merged(a.size());
        for (extent_t i = 0; i < s.n; ++i) {
            auto const r = static_cast<std::size_t>(i);
            float const top = std::max(la[r], lb[r]), wa = std::exp(la[r] - top), wb = std::exp(lb[r] - top);
            for (extent_t e = 0; e < s.dv; ++e) {
                auto const x = static_cast<std::size_t>(i * s.dv + e);
                merged[x] = (wa * a[x] + wb * b[x]) / (wa + wb);
            }
        }
        RC_ASSERT(near(merged, run(plain, s, q, k, v)));
    }));
}

TEST_CASE("laws: causal rows depend on the prefix only") {
    CHECK(rc::check("growing the sequence leaves old rows bitwise equal", [] {
        sizes s = any_sizes();
        s.m = s.n;
        extent_t const more = *rc::gen::inRange<extent_t>(1, 90);
        sizes const t{s.n + more, s.n + more, s.d, s.dv};
        tensor q = normals(t.n * t.d), k = normals(t.m * t.d), v = normals(t.m * t.dv);
        auto const causal = heed::softmax_attention(heed::causal_top_left{});
        tensor const before = run(causal, s, q, k, v), after = run(causal, t, q, k, v);
        RC_ASSERT(same_bits(before, tensor(after.begin(), after.begin() + s.n * s.dv)));
    }));
}

TEST_CASE("laws: patterns that say the same") {
    CHECK(rc::check("wide windows, masks, bits, biases, lengths and prefixes", [] {
        sizes const s = any_sizes();
        tensor q = normals(s.n * s.d), k = normals(s.m * s.d), v = normals(s.m * s.dv);
        tensor const whole = run(plain, s, q, k, v);
        RC_ASSERT(same_bits(whole, run(heed::softmax_attention(heed::window{s.n + s.m, s.n + s.m}), s, q, k, v)));

        extent_t const row = (s.m + 7) / 8;
        std::vector<std::uint8_t> bytes(static_cast<std::size_t>(s.n * s.m)), bits(static_cast<std::size_t>(s.n * row));
        tensor additive(bytes.size());
        std::mt19937 random(*rc::gen::arbitrary<unsigned>());
        for (extent_t i = 0; i < s.n; ++i) {
            for (extent_t j = 0; j < s.m; ++j) {
                bool const keep = random() % 3 != 0;
                bytes[static_cast<std::size_t>(i * s.m + j)] = keep;
                additive[static_cast<std::size_t>(i * s.m + j)] = keep ? 0 : -std::numeric_limits<float>::infinity();
                bits[static_cast<std::size_t>(i * row + j / 8)] = static_cast<std::uint8_t>(bits[static_cast<std::size_t>(i * row + j / 8)] | (keep << (j % 8)));
            }
        }
        tensor const masked = run(heed::softmax_attention(heed::mask{heed::tensor_view{bytes.data(), heed::shape{1, 1, s.n, s.m}}}), s, q, k, v);
        RC_ASSERT(same_bits(masked, run(heed::softmax_attention(heed::bit_mask{heed::tensor_view{bits.data(), heed::shape{1, 1, s.n, row}}}), s, q, k, v)));
        RC_ASSERT(near(masked, run(heed::attention{score | heed::bias{matrix(additive, s.n, s.m)}}, s, q, k, v)));

        std::int32_t const length = *rc::gen::inRange(0, static_cast<int>(s.m) + 1);
        RC_ASSERT(same_bits(run(heed::softmax_attention(heed::key_lengths{heed::per_batch(&length, 1)}), s, q, k, v), run(plain, {s.n, length, s.d, s.dv}, q, k, v)));
        std::int32_t const none = 0;
        RC_ASSERT(same_bits(run(heed::softmax_attention(heed::prefix{heed::per_batch(&none, 1)}), s, q, k, v), run(heed::softmax_attention(heed::causal_bottom_right{}), s, q, k, v)));
    }));
}

TEST_CASE("laws: values") {
    CHECK(rc::check("convex hull, one key, equal keys, an absent sink", [] {
        sizes const s = any_sizes();
        tensor q = normals(s.n * s.d), k = normals(s.m * s.d), v = normals(s.m * s.dv);
        tensor const out = run(plain, s, q, k, v);
        for (extent_t e = 0; e < s.dv; ++e) {
            float low = v[static_cast<std::size_t>(e)], high = low, mean = 0;
            for (extent_t j = 0; j < s.m; ++j) {
                float const x = v[static_cast<std::size_t>(j * s.dv + e)];
                low = std::min(low, x), high = std::max(high, x), mean += x / static_cast<float>(s.m);
            }
            for (extent_t i = 0; i < s.n; ++i) {
                float const o = out[static_cast<std::size_t>(i * s.dv + e)];
                RC_ASSERT(o >= low - 1e-5f && o <= high + 1e-5f);
            }
            tensor same = k;
            for (extent_t j = 1; j < s.m; ++j) { std::copy_n(same.begin(), s.d, same.begin() + j * s.d); }
            RC_ASSERT(std::abs(run(plain, s, q, same, v)[static_cast<std::size_t>(e)] - mean) < 1e-5f);
        }
        tensor const single = run(plain, {s.n, 1, s.d, s.dv}, q, k, v);
        for (extent_t i = 0; i < s.n; ++i) { RC_ASSERT(std::equal(single.begin() + i * s.dv, single.begin() + (i + 1) * s.dv, v.begin())); }
        float const never = -std::numeric_limits<float>::infinity();
        RC_ASSERT(same_bits(out, run(heed::attention{score, heed::full{}, heed::softmax_sink{heed::per_head(&never, 1)}}, s, q, k, v)));
        RC_ASSERT(near(out, run(plain, s, q, k, v, heed::reference{})));
    }));
}

TEST_CASE("laws: classify agrees with keep") {
    auto const agrees = [](auto const& pattern, heed::place const& at, heed::range rows, heed::range cols) {
        bool any = false, all = true;
        for (extent_t i = rows.begin; i < rows.end; ++i) {
            for (extent_t j = cols.begin; j < cols.end; ++j) {
                bool const keep = pattern.keep(at, i, j);
                any = any || keep, all = all && keep;
            }
        }
        heed::tile const verdict = pattern.classify(at, rows, cols);
        return !(verdict == heed::tile::skip && any) && !(verdict == heed::tile::full && !all);
    };
    CHECK(rc::check("on random rectangles", [&] {
        extent_t const n = *rc::gen::inRange(1, 60), m = *rc::gen::inRange(1, 60);
        heed::place const at{0, 0, 0, n, m, 8};
        extent_t const i = *rc::gen::inRange<extent_t>(0, n), j = *rc::gen::inRange<extent_t>(0, m);
        heed::range const rows{i, *rc::gen::inRange<extent_t>(i + 1, n + 1)}, cols{j, *rc::gen::inRange<extent_t>(j + 1, m + 1)};
        std::int32_t const length = *rc::gen::inRange(0, static_cast<int>(m) + 1);
        heed::window const window{*rc::gen::inRange<extent_t>(0, 40), *rc::gen::inRange<extent_t>(0, 40)};
        heed::prefix const prefix{heed::per_batch(&length, 1)};
        heed::key_lengths const lengths{heed::per_batch(&length, 1)};
        RC_ASSERT(agrees(heed::causal_bottom_right{}, at, rows, cols));
        RC_ASSERT(agrees(heed::causal_top_left{}, at, rows, cols));
        RC_ASSERT(agrees(window, at, rows, cols));
        RC_ASSERT(agrees(prefix, at, rows, cols));
        RC_ASSERT(agrees(lengths, at, rows, cols));
        RC_ASSERT(agrees(window & prefix & heed::causal_top_left{}, at, rows, cols));
    }));
}

TEST_CASE("laws: dual numbers give the slope") {
    CHECK(rc::check("of a chain, against central differences", [] {
        double const raw = *rc::gen::inRange(-4000, 4000) * 1e-3, h = 1e-6;
        auto const chain = heed::dot{} | heed::scale{0.7} | heed::softcap{3.0} | heed::scale{1.3} | heed::softcap{5.0};
        heed::detail::probe_pair const pair{};
        double const slope = chain(heed::dual<double>{raw, 1.0}, pair).d;
        double const difference = (chain(raw + h, pair) - chain(raw - h, pair)) / (2 * h);
        RC_ASSERT(std::abs(slope - difference) < 1e-8);
        // the same, in the cap
        double const of_cap = heed::softcap<heed::dual<double>>{{3.0, 1.0}}(heed::dual<double>{raw}, pair).d;
        double const moved = (heed::softcap<double>{3.0 + h}(raw, pair) - heed::softcap<double>{3.0 - h}(raw, pair)) / (2 * h);
        RC_ASSERT(std::abs(of_cap - moved) < 1e-8);
    }));
}
