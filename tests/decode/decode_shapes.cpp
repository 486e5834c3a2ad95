// SPDX-License-Identifier: BSD-3-Clause
// Decoding against the oracle: odd widths, groups, several new tokens, sequences of different lengths, from no key to several chunks.
#include <decode/cached.hpp>

using namespace heed_test;

namespace {

template <class T>
void against_oracle(step_sizes n, std::uint64_t stream) {
    random_source random(stream);
    step<T> s(n, random);
    own_cache<T, T> cache(n, kind::contiguous, n.longest() + 3, n.longest() + 3, random);
    cache.fill(s, random, n.longest() < 20 ? 7 : n.longest());
    auto const m = heed::softmax_attention(heed::causal_bottom_right{});
    s.decode(m, cache);
    INFO(n);
    error_bound bound;
    bound.width = static_cast<double>(n.width);
    bound.keys_per_tile = static_cast<double>(heed::plan_decode<T>(m, n.q(), cache).tile_keys());
    for (extent_t b = 0; b < n.batch(); ++b) {
        extent_t const len = n.lengths[static_cast<std::size_t>(b)];
        oracle::softmax_case c;
        c.q = oracle::read(first_rows(s.q.in(), b, n.tokens));
        c.k = oracle::read(first_rows(s.k.in(), b, len));
        c.v = oracle::read(first_rows(s.v.in(), b, len));
        c.scale = n.width > 0 ? 1 / std::sqrt(static_cast<double>(n.width)) : 1;
        c.keep = oracle::causal_bottom_right({1, n.kv_heads * n.group, n.tokens, len});
        verdict const v = compare<T>(first_rows(s.out.in(), b, n.tokens), first_rows(s.lse.in(), b, n.tokens), oracle::softmax(c), bound);
        CHECK(v.text == "");
    }
    CHECK(s.out.intact());
    CHECK(s.lse.intact());
    CHECK(cache.intact());
}

} // namespace

TEST_CASE("decode: awkward shapes against the oracle", "[decode]") {
    HEED_SEEDED;
    std::uint64_t stream = 400;
    for (step_sizes const& n : {step_sizes{1, 1, 1, 1, 1, {1}}, step_sizes{2, 4, 1, 64, 64, {100}}, step_sizes{1, 8, 1, 7, 13, {31, 0, 17}}, step_sizes{3, 3, 5, 33, 9, {40, 5, 2}},
                                step_sizes{2, 5, 9, 17, 65, {64, 63, 9}}, step_sizes{1, 1, 3, 3, 40, {200, 16, 15}}, step_sizes{1, 2, 1, 0, 5, {9}}, step_sizes{1, 2, 1, 5, 0, {9}},
                                step_sizes{2, 1, 1, 130, 31, {1, 2, 3, 4, 5}}, step_sizes{1, 7, 2, 5, 5, {1000, 999}}}) {
        against_oracle<float>(n, ++stream);
        against_oracle<double>(n, ++stream);
    }
}

TEST_CASE("decode: several chunks against the oracle", "[decode]") {
    HEED_SEEDED;
    against_oracle<float>({1, 2, 2, 64, 72, {3500, 1, 2047}}, 431);
    against_oracle<float>({1, 1, 1, 300, 5, {4100}}, 432);
    against_oracle<double>({2, 3, 1, 65, 63, {1500, 900}}, 433);
    against_oracle<float>({1, 8, 1, 128, 128, {17379}}, 435); // 32 chunks; a tile more of keys would be cut into 31
}

TEST_CASE("decode: no number of keys is cut into more chunks than there is memory for", "[contract]") {
    using layout = heed::decode_layout<float, float, heed::native_arch>;
    for (extent_t const rows : {1, 4, 8, 60}) {
        for (extent_t const d : {5, 64, 128, 300}) {
            extent_t most = 0;
            for (extent_t keys = 0; keys < 70000; ++keys) {
                most = std::max(most, layout::divide(keys, rows, d, d).count);
                REQUIRE(most <= layout::chunks_up_to(keys, rows, d, d));
            }
        }
    }
}

TEST_CASE("decode: random shapes against the oracle", "[decode]") {
    HEED_SEEDED;
    random_source random(434);
    for (int round = 0; round < 25; ++round) {
        step_sizes n{random.integer(1, 3), random.integer(1, 8), random.integer(1, 9), random.integer(1, 80), random.integer(1, 80), {}};
        for (extent_t b = random.integer(1, 3); b > 0; --b) { n.lengths.push_back(random.integer(0, 300)); }
        against_oracle<float>(n, 1000 + static_cast<std::uint64_t>(round));
    }
}

TEST_CASE("decode: sequences with different numbers of new tokens, each as alone", "[decode]") {
    HEED_SEEDED;
    random_source random(435);
    step_sizes const n{1, 4, 9, 16, 256, {8000, 7900, 6}}; // nine rows of a group are cut into fewer chunks than one
    step<float> s(n, random);
    own_cache<float, float> cache(n, kind::paged, 64, 8000, random);
    cache.fill(s, random, 8000);
    auto const m = heed::softmax_attention(heed::causal_bottom_right{});
    std::vector<std::int32_t> const starts{0, 9, 10, 13};
    heed::ragged_offsets const offsets(std::span<std::int32_t const>(starts.data(), starts.size()));
    tensor<float> q(heed::shape{1, 4, 13, 16}), out(heed::shape{1, 4, 13, 256}, place::upper_page), lse(heed::shape{1, 4, 13, 1});
    q.normal(random);
    for (int threads : {1, 3}) {
        out.fill(0);
        heed::decode(m, heed::ragged(q.in(), offsets), cache, heed::ragged(out.view(), offsets), heed::save{heed::ragged(lse.view(), offsets)}, heed::cpu{backwards{threads}});
        for (extent_t b = 0; b < 3; ++b) {
            extent_t const first = starts[static_cast<std::size_t>(b)], count = starts[static_cast<std::size_t>(b) + 1] - first, len = n.lengths[static_cast<std::size_t>(b)];
            tensor<float> expected(heed::shape{1, 4, count, 256}), expected_lse(heed::shape{1, 4, count, 1});
            auto const part = [&](auto const& t) { return heed::tensor_view<float const>{t.in().row(0, 0, first), {1, 4, count, t.shape().feature}, t.in().strides()}; };
            heed::forward(m, part(q), first_rows(s.k.in(), b, len), first_rows(s.v.in(), b, len), expected.view(), heed::save{expected_lse.view()});
            CHECK(compare_close<float>(part(out), expected.in(), 2e-6).text == "");
            CHECK(compare_close<float>(part(lse), expected_lse.in(), 2e-6).text == "");
        }
    }
    CHECK(out.intact());
}
