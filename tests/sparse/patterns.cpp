// SPDX-License-Identifier: BSD-3-Clause
// Sparse patterns: what keep says against the rule written another way, and what classify, hull and pack say against keep.
#include <laws/agree.hpp>

#include <heed/policy/pattern/blocks.hpp>
#include <heed/policy/pattern/chosen.hpp>
#include <heed/policy/pattern/either.hpp>
#include <heed/policy/pattern/groups.hpp>
#include <heed/policy/pattern/neighbourhood.hpp>
#include <heed/policy/pattern/stripes.hpp>

using namespace heed_test;
using heed::neighbourhood_axis;

namespace {

// Every pattern that needs no grid, with operands for two batch entries and three heads.
struct patterns {
    extent_t size, part, small;
    tensor<std::int32_t> sizes{heed::shape{1, 3, 1, 1}}, shifts{heed::shape{1, 3, 1, 1}};
    extent_t rows, keys;
    tensor<std::uint64_t> bits;

    patterns(rectangle const& r, random_source& random) : size(random.integer(1, 40)), part(random.integer(0, size)), small(random.integer(0, 9)), rows(random.integer(1, 40)), keys(random.integer(1, 40)) {
        sizes.each([&](std::int32_t& x) { x = static_cast<std::int32_t>(random.integer(0, 60)); });
        shifts.each([&](std::int32_t& x) { x = static_cast<std::int32_t>(random.integer(0, 40)); });
        extent_t const blocks = (r.at.keys + keys - 1) / keys;
        bits = tensor<std::uint64_t>(heed::shape{2, 2, (r.at.queries + rows - 1) / rows, (blocks + 63) / 64});
        double const chance = random.pick({0.0, 0.2, 0.9, 1.0});
        bits.each([&](std::uint64_t& x) {
            x = 0;
            for (int b = 0; b < 64; ++b) { x |= static_cast<std::uint64_t>(random.chance(chance)) << b; }
        });
    }
    template <class F>
    void each(F f) const {
        f(heed::strided{size});
        f(heed::fixed{size, part});
        f(heed::dilated_window{small, 1});
        f(heed::dilated_window{small, part + 1});
        f(heed::global_tokens{small});
        f(heed::head_groups{sizes.in(), shifts.in()});
        f(heed::rolled_groups{size, shifts.in()});
        f(heed::block_map{bits.in(), rows, keys, 2});
    }
};

struct grid {
    neighbourhood_axis axis[3];
    extent_t patch[3];
    int axes;
    explicit grid(random_source& random) : axes(static_cast<int>(random.integer(1, 3))) {
        for (int a = 0; a < axes; ++a) {
            neighbourhood_axis& x = axis[a];
            x.length = random.integer(1, axes == 1 ? 150 : axes == 2 ? 14 : 6);
            x.window = random.integer(1, x.length);
            x.stride = random.integer(1, x.window);
            x.dilation = random.integer(1, x.length / x.window);
            x.causal = random.chance(0.3);
            patch[a] = random.integer(1, 5);
        }
    }
    heed::neighbourhood_map map(bool patches) const {
        auto const n = static_cast<std::size_t>(axes);
        return heed::neighbourhood_map(std::span(axis, n), std::span(patch, patches ? n : 0));
    }
    // The rule, point by point, as its authors write it: nothing is shared with the policy.
    bool keeps(extent_t i, extent_t j) const {
        for (int a = axes - 1; a >= 0; --a) {
            neighbourhood_axis const& x = axis[a];
            extent_t const q = i % x.length, k = j % x.length, phase = q % x.dilation;
            i /= x.length, j /= x.length;
            if (k % x.dilation != phase) { return false; }
            extent_t n = 0;
            for (extent_t p = phase; p < x.length; p += x.dilation) { ++n; }
            extent_t const at = q / x.dilation, key = k / x.dilation, left = x.window / 2, right = x.window / 2 - 1 + x.window % 2;
            if (x.causal) {
                extent_t const leader = std::min(at / x.stride * x.stride + x.stride - 1, n - 1);
                if (key < std::max<extent_t>(leader - x.window + 1, 0) || key > at) { return false; }
            } else {
                extent_t const leader = std::min(at / x.stride * x.stride + x.stride / 2, n - 1);
                extent_t start = std::max<extent_t>(leader - left, 0);
                if (leader + right >= n) { start += n - right - leader - 1; }
                if (key < start || key >= start + x.window) { return false; }
            }
        }
        return true;
    }
};

template <class P, class F>
void keeps_as(P const& p, heed::place const& at, F const& rule) {
    for (extent_t i = 0; i < at.queries; ++i)
        for (extent_t j = 0; j < at.keys; ++j) {
            INFO("i=" << i << " j=" << j << " N=" << at.queries << " M=" << at.keys);
            REQUIRE(static_cast<bool>(p.keep(at, i, j)) == rule(i + at.keys - at.queries, j));
        }
}

} // namespace

TEST_CASE("sparse patterns: classify, hull and pack agree with keep", "[sparse][laws]") {
    law("each pattern", [] {
        rectangle const r = draw_rectangle();
        random_source random = draw_source();
        patterns const all(r, random);
        all.each([&](auto const& p) { agree(p, r); });
        all.each([&](auto const& p) { agree(heed::any_pattern(p), r); });
    });
    law("both and either of two patterns", [] {
        rectangle const r = draw_rectangle();
        random_source random = draw_source();
        patterns const all(r, random);
        heed::block_map const blocks{all.bits.in(), all.rows, all.keys, 2};
        all.each([&](auto const& p) {
            agree(p | heed::window{5, 2}, r);
            agree(blocks | p, r);
            agree((p | heed::window{3}) & heed::causal_bottom_right{}, r);
        });
        agree(heed::window{3} | heed::causal_top_left{}, r);
    });
    law("neighbourhoods in any order", [] {
        random_source random = draw_source();
        grid const g(random);
        auto const map = g.map(random.chance(0.7));
        rectangle const r = draw_rectangle(map.bands().points(), map.bands().points());
        agree(heed::neighbourhood{map.bands()}, r);
    });
}

TEST_CASE("sparse patterns: a union keeps what one of the two keeps", "[sparse]") {
    heed::place at;
    at.queries = 20, at.keys = 27;
    heed::window const w{2, 1};
    heed::global_tokens const g{3};
    keeps_as(w | g, at, [&](extent_t i, extent_t j) { return (i - 2 <= j && j <= i + 1) || j < 3 || i < 3; });
    keeps_as((w | g) & heed::causal_bottom_right{}, at, [&](extent_t i, extent_t j) { return j <= i && (i - 2 <= j || j < 3 || i < 3); });
}

TEST_CASE("sparse patterns: the rules", "[sparse]") {
    HEED_SEEDED;
    random_source random(700);
    for (int n = 0; n < 30; ++n) {
        heed::place at;
        at.queries = random.integer(1, 40), at.keys = at.queries + random.integer(0, 20);
        extent_t const s = random.integer(1, 12), c = random.integer(0, s), g = random.integer(1, 9);
        keeps_as(heed::strided{s}, at, [&](extent_t i, extent_t j) { return j <= i && (i < j + s || (i - j) % s == 0); });
        keeps_as(heed::fixed{s, c}, at, [&](extent_t i, extent_t j) { return j <= i && (j / s == i / s || j % s + c >= s); });
        keeps_as(heed::dilated_window{c, g}, at, [&](extent_t i, extent_t j) { return std::abs(i - j) <= c * g && (i - j) % g == 0; });
        std::int32_t const size = static_cast<std::int32_t>(g), shift = static_cast<std::int32_t>(c);
        heed::tensor_view<std::int32_t const> const sizes(&size, {1, 1, 1, 1}), shifts(&shift, {1, 1, 1, 1});
        keeps_as(heed::head_groups{sizes, shifts}, at, [&](extent_t i, extent_t j) { return (i + c) / g == (j + c) / g; });
        auto const rolled = [&](extent_t x) { return ((x - c) % at.keys + at.keys) % at.keys; };
        keeps_as(heed::rolled_groups{g, shifts}, at, [&](extent_t i, extent_t j) { return rolled(i) / g == rolled(j) / g && rolled(j) <= rolled(i); });
    }
}

TEST_CASE("neighbourhood: windows of ten points", "[sparse]") {
    auto const windows = [](neighbourhood_axis axis, std::vector<std::pair<extent_t, extent_t>> const& want) {
        for (extent_t i = 0; i < axis.length; ++i) {
            auto const keys = axis.of(i);
            INFO("point " << i);
            REQUIRE(keys.begin == want[static_cast<std::size_t>(i)].first);
            REQUIRE(keys.begin + keys.count == want[static_cast<std::size_t>(i)].second);
        }
    };
    windows({10, 3, 1, 1, false}, {{0, 3}, {0, 3}, {1, 4}, {2, 5}, {3, 6}, {4, 7}, {5, 8}, {6, 9}, {7, 10}, {7, 10}});
    windows({10, 4, 1, 1, false}, {{0, 4}, {0, 4}, {0, 4}, {1, 5}, {2, 6}, {3, 7}, {4, 8}, {5, 9}, {6, 10}, {6, 10}});
    windows({10, 4, 4, 1, false}, {{0, 4}, {0, 4}, {0, 4}, {0, 4}, {4, 8}, {4, 8}, {4, 8}, {4, 8}, {6, 10}, {6, 10}});
    windows({10, 4, 2, 1, true}, {{0, 1}, {0, 2}, {0, 3}, {0, 4}, {2, 5}, {2, 6}, {4, 7}, {4, 8}, {6, 9}, {6, 10}});
}

TEST_CASE("neighbourhood: the rule on grids of one to three axes", "[sparse]") {
    HEED_SEEDED;
    random_source random(701);
    for (int n = 0; n < 60; ++n) {
        grid const g(random);
        auto const map = g.map(n % 2 == 0);
        heed::neighbourhood const p{map.bands()};
        extent_t const points = map.bands().points();
        auto const order = map.order();
        extent_t pairs = 0;
        std::vector<int> seen(static_cast<std::size_t>(points));
        for (extent_t t = 0; t < points; ++t) {
            ++seen[static_cast<std::size_t>(order(0, 0, t, 0))];
            if (n % 2 != 0) { REQUIRE(order(0, 0, t, 0) == t); } // no patches: the grid's own order
            for (extent_t j = 0; j < points; ++j) {
                bool const kept = p.keep({}, t, j);
                REQUIRE(kept == g.keeps(order(0, 0, t, 0), j));
                pairs += kept;
            }
        }
        REQUIRE(pairs == map.pairs());
        REQUIRE(std::all_of(seen.begin(), seen.end(), [](int x) { return x == 1; }));
    }
}

TEST_CASE("neighbourhood: axes that cannot be are refused", "[sparse]") {
    auto const refused = [](auto const& make, char const* text) { CHECK_THROWS_WITH(make(), contains(text)); };
    refused([] { return heed::neighbourhood_map({{10, 3, 4}}); }, "axis 0 has 10 points, window 3, stride 4");
    refused([] { return heed::neighbourhood_map({{10, 3}, {10, 4, 1, 3}}); }, "axis 1 has 10 points, window 4, stride 1, dilation 3");
    refused([] { return heed::neighbourhood_map({{10, 3}}, {0}); }, "a patch of 0 points along axis 0");
    refused([] { return heed::neighbourhood_map({{10, 3}}, {2, 2}); }, "1 axes and a patch of 2");
}
