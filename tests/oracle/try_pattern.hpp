// SPDX-License-Identifier: BSD-3-Clause
// Random calls for patterns.
#pragma once

#include <support/catch.hpp>
#include <support/problem.hpp>

namespace heed_test {

inline sizes random_pattern_sizes(random_source& random) {
    sizes n;
    n.queries = random.integer(1, 70);
    n.keys = random.chance(0.5) ? random.integer(1, 70) : random.integer(1, 400);
    n.width = random.integer(1, 20);
    n.value_width = random.integer(1, 20);
    n.kv_heads = random.integer(1, 2);
    n.heads = n.kv_heads * random.integer(1, 2);
    n.batch = random.integer(1, 3);
    return n;
}

// make(sizes, relation&, random) returns the pattern and tells the oracle of it.
template <class T, class Make>
void try_pattern(int count, std::uint64_t stream, Make make) {
    random_source random(stream);
    for (int i = 0; i < count; ++i) {
        problem<T> p(random_pattern_sizes(random), random);
        auto c = p.exact();
        auto const pattern = make(p.n, c.keep, random);
        auto const found = run_and_compare(p, heed::softmax_attention(pattern), c);
        INFO(p.n << " " << found.text);
        REQUIRE(found.good());
    }
}

// Integers per batch entry, or one for all of them.
struct lengths {
    std::vector<std::int32_t> given;
    std::vector<std::int32_t> each;

    void draw(extent_t batch, extent_t low, extent_t high, random_source& random) {
        given.assign(random.chance(0.3) ? 1 : static_cast<std::size_t>(batch), 0);
        for (auto& x : given) { x = static_cast<std::int32_t>(random.integer(low, high)); }
        each.assign(static_cast<std::size_t>(batch), given[0]);
        if (given.size() > 1) { each = given; }
    }
    heed::tensor_view<std::int32_t const> view() const { return heed::per_batch<std::int32_t const>(given.data(), static_cast<extent_t>(given.size())); }
};

inline tensor<std::uint8_t> flags(heed::shape s, double chance, random_source& random) {
    tensor<std::uint8_t> t(s);
    t.each([&](std::uint8_t& x) { x = random.chance(chance) ? 1 : 0; });
    return t;
}

// The row and the two keys ahead of it, top left; classify never helps.
struct three_ahead {
    template <class I>
    auto keep(heed::place const&, I i, I j) const {
        return (I(0) <= j - i) & (j - i <= I(2));
    }
    heed::tile classify(heed::place const&, heed::range, heed::range) const { return heed::tile::partial; }
};

} // namespace heed_test
