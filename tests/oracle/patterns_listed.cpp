// SPDX-License-Identifier: BSD-3-Clause
// Patterns that are data, combinations, and a user's own, against the oracle's dense relations.
#include <oracle/try_pattern.hpp>

using namespace heed_test;

TEST_CASE("patterns: documents, packed and in any order", "[oracle][patterns]") {
    HEED_SEEDED;
    tensor<std::int32_t> queries, keys;
    try_pattern<float>(40, 58, [&](sizes n, auto& keep, auto& random) {
        extent_t const batch = random.chance(0.5) ? n.batch : 1;
        queries = tensor<std::int32_t>(heed::shape{batch, 1, n.queries, 1});
        keys = tensor<std::int32_t>(heed::shape{batch, 1, n.keys, 1});
        bool const packed = random.chance(0.6);
        auto const fill = [&](tensor<std::int32_t>& t, extent_t length) {
            t.each_at([&](std::int32_t& x, extent_t, extent_t, extent_t i, extent_t) {
                x = static_cast<std::int32_t>(packed ? i * 4 / length : random.integer(-1, 3));
            });
        };
        fill(queries, n.queries);
        fill(keys, n.keys);
        keep = oracle::documents(n.pairs(), oracle::read(queries.in()), oracle::read(keys.in()));
        return heed::documents{queries.view(), keys.view()};
    });
}

TEST_CASE("patterns: boolean masks of any broadcast shape", "[oracle][patterns]") {
    HEED_SEEDED;
    tensor<std::uint8_t> m;
    try_pattern<float>(40, 59, [&](sizes n, auto& keep, auto& random) {
        auto const either = [&](extent_t x) { return random.chance(0.6) ? x : 1; };
        heed::shape s = n.pairs();
        s.batch = either(s.batch), s.head = either(s.head), s.seq = either(s.seq), s.feature = either(s.feature);
        m = flags(s, random.pick({0.02, 0.3, 0.9}), random);
        keep = oracle::listed(n.pairs(), oracle::read(m.in()));
        return heed::mask{m.view()};
    });
}

TEST_CASE("patterns: a mask keeps wherever it is not zero", "[oracle][patterns]") {
    HEED_SEEDED;
    tensor<std::uint8_t> m;
    try_pattern<float>(5, 60, [&](sizes n, auto& keep, auto& random) {
        m = tensor<std::uint8_t>(n.pairs());
        m.each([&](std::uint8_t& x) { x = static_cast<std::uint8_t>(random.pick({0, 1, 2, 128, 255})); });
        keep = oracle::listed(n.pairs(), oracle::read(m.in()));
        return heed::mask{m.view()};
    });
}

TEST_CASE("patterns: bit masks", "[oracle][patterns]") {
    HEED_SEEDED;
    tensor<std::uint8_t> bits;
    try_pattern<float>(30, 61, [&](sizes n, auto& keep, auto& random) {
        heed::shape s = n.pairs();
        s.batch = random.chance(0.6) ? s.batch : 1;
        s.head = random.chance(0.6) ? s.head : 1;
        s.seq = random.chance(0.6) ? s.seq : 1;
        auto const m = flags(s, random.pick({0.02, 0.3, 0.9}), random);
        keep = oracle::listed(n.pairs(), oracle::read(m.in()));
        s.feature = (s.feature + 7) / 8;
        bits = tensor<std::uint8_t>(s);
        bits.each_at([&](std::uint8_t& x, extent_t b, extent_t h, extent_t i, extent_t byte) {
            x = 0;
            for (extent_t bit = 0; bit < 8; ++bit) {
                // bits behind the last key are set: they must not matter
                bool const on = byte * 8 + bit >= n.keys || m(b, h, i, byte * 8 + bit) != 0;
                x = static_cast<std::uint8_t>(x | (on ? 1 << bit : 0));
            }
        });
        return heed::bit_mask{bits.view()};
    });
}

TEST_CASE("patterns: combined", "[oracle][patterns]") {
    HEED_SEEDED;
    lengths lens;
    tensor<std::uint8_t> m;
    try_pattern<float>(20, 62, [&](sizes n, auto& keep, auto& random) {
        extent_t const w = random.integer(1, 60);
        keep = oracle::both(oracle::causal_bottom_right(n.pairs()), oracle::band(n.pairs(), w, w));
        return heed::causal_bottom_right{} & heed::window{w, w};
    });
    try_pattern<float>(20, 63, [&](sizes n, auto& keep, auto& random) {
        lens.draw(n.batch, 0, n.keys, random);
        m = flags({1, n.heads, n.queries, n.keys}, 0.5, random);
        keep = oracle::both(oracle::both(oracle::causal_top_left(n.pairs()), oracle::key_lengths(n.pairs(), lens.each)),
                            oracle::listed(n.pairs(), oracle::read(m.in())));
        return heed::causal_top_left{} & heed::key_lengths{lens.view()} & heed::mask{m.view()};
    });
    tensor<std::uint8_t> m2;
    try_pattern<float>(10, 64, [&](sizes n, auto& keep, auto& random) {
        m = flags(n.pairs(), 0.7, random);
        m2 = flags({1, 1, n.queries, n.keys}, 0.7, random);
        keep = oracle::both(oracle::listed(n.pairs(), oracle::read(m.in())), oracle::listed(n.pairs(), oracle::read(m2.in())));
        return heed::mask{m.view()} & heed::mask{m2.view()};
    });
}

TEST_CASE("patterns: a user's own", "[oracle][patterns]") {
    HEED_SEEDED;
    try_pattern<float>(20, 65, [&](sizes n, auto& keep, auto&) {
        keep = oracle::relate(n.pairs(), [](extent_t, extent_t, extent_t i, extent_t j) { return i <= j && j <= i + 2; });
        return three_ahead{};
    });
}
