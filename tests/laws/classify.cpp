// SPDX-License-Identifier: BSD-3-Clause
// What a pattern says of a rectangle agrees with what it says of the pairs in it.
#include "law.hpp"

using namespace heed_test;

namespace {

struct rectangle {
    heed::place at;
    heed::range rows, cols;
};
rectangle draw_rectangle() {
    rectangle r;
    r.at.batch = draw(0, 1);
    r.at.head = draw(0, 2);
    r.at.queries = draw(1, 150);
    r.at.keys = draw(1, 150);
    r.rows.begin = draw(0, r.at.queries - 1);
    r.rows.end = draw(r.rows.begin + 1, std::min(r.at.queries, r.rows.begin + 64));
    r.cols.begin = draw(0, r.at.keys - 1);
    r.cols.end = draw(r.cols.begin + 1, r.at.keys);
    RC_LOG() << "N=" << r.at.queries << " M=" << r.at.keys << " rows " << r.rows.begin << ".." << r.rows.end << " columns " << r.cols.begin << ".."
             << r.cols.end << '\n';
    return r;
}

template <class P>
void agree(P const& p, rectangle const& r) {
    heed::tile const verdict = p.classify(r.at, r.rows, r.cols);
    for (extent_t i = r.rows.begin; i < r.rows.end; ++i)
        for (extent_t j = r.cols.begin; j < r.cols.end; ++j) {
            bool const kept = static_cast<bool>(p.keep(r.at, i, j));
            RC_ASSERT(!(verdict == heed::tile::skip && kept));
            RC_ASSERT(!(verdict == heed::tile::full && !kept));
            if constexpr (requires { p.hull(r.at, r.rows); }) {
                heed::range const hull = p.hull(r.at, r.rows);
                RC_ASSERT(!kept || (hull.begin <= j && j < hull.end));
            }
        }
    if constexpr (heed::PackedPattern<P>) {
        std::vector<std::uint64_t> words(static_cast<std::size_t>(r.cols.size()));
        p.pack(r.at, r.rows, r.cols, words.data());
        for (extent_t i = r.rows.begin; i < r.rows.end; ++i)
            for (extent_t j = r.cols.begin; j < r.cols.end; ++j) {
                bool const bit = ((words[static_cast<std::size_t>(j - r.cols.begin)] >> (i - r.rows.begin)) & 1) != 0;
                RC_ASSERT(bit == static_cast<bool>(p.keep(r.at, i, j)));
            }
    }
}

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
