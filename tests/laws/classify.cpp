// SPDX-License-Identifier: BSD-3-Clause
// What a pattern says of a rectangle agrees with what it says of the pairs in it.
#include "agree.hpp"

using namespace heed_test;

namespace {

// Every pattern, with operands for two batch entries and three heads.
struct patterns {
    tensor<std::int32_t> lengths{heed::shape{2, 1, 1, 1}}, query_ids, key_ids;
    tensor<std::uint8_t> bytes, bits;
    extent_t left, right;

    patterns(rectangle const& r, random_source& random)
        : query_ids(heed::shape{2, 1, r.at.queries, 1}), key_ids(heed::shape{1, 1, r.at.keys, 1}), bytes(heed::shape{2, 3, r.at.queries, r.at.keys}),
          bits(heed::shape{2, 1, r.at.queries, (r.at.keys + 7) / 8}), left(random.integer(-5, 60)), right(random.integer(-5, 60)) {
        lengths.each([&](std::int32_t& x) { x = static_cast<std::int32_t>(random.integer(0, r.at.keys)); });
        bool const packed = random.chance(0.7);
        auto const number = [&](std::int32_t& x, extent_t, extent_t, extent_t i, extent_t) {
            x = static_cast<std::int32_t>(packed ? i / 40 : random.integer(0, 2));
        };
        query_ids.each_at(number);
        key_ids.each_at(number);
        bytes.each([&](std::uint8_t& x) { x = random.chance(0.5) ? 1 : 0; });
        bits.each([&](std::uint8_t& x) { x = static_cast<std::uint8_t>(random.bits()); });
    }
    template <class F>
    void each(F f) const {
        f(heed::full{});
        f(heed::causal_top_left{});
        f(heed::causal_bottom_right{});
        f(heed::window{left, right});
        f(heed::window{right + 6});
        f(heed::key_lengths{lengths.in()});
        f(heed::prefix{lengths.in()});
        f(heed::documents{query_ids.in(), key_ids.in()});
        f(heed::mask{bytes.in()});
        f(heed::bit_mask{bits.in()});
    }
};

} // namespace

TEST_CASE("laws: classify, hull and pack agree with keep", "[laws]") {
    law("each pattern", [] {
        rectangle const r = draw_rectangle();
        random_source random = draw_source();
        patterns const all(r, random);
        all.each([&](auto const& p) { agree(p, r); });
    });
    law("two patterns", [] {
        rectangle const r = draw_rectangle();
        random_source random = draw_source();
        patterns const all(r, random);
        all.each([&](auto const& p) {
            agree(p & heed::causal_bottom_right{}, r);
            agree(heed::documents{all.query_ids.in(), all.key_ids.in()} & p, r);
        });
    });
    law("three patterns", [] {
        rectangle const r = draw_rectangle();
        random_source random = draw_source();
        patterns const all(r, random);
        all.each([&](auto const& p) { agree(heed::window{all.left, all.right} & heed::prefix{all.lengths.in()} & p, r); });
    });
}
