// SPDX-License-Identifier: BSD-3-Clause
// Scores, patterns and normalizers of the policy layer in decoding, where lanes run along keys, against forward, where they run along queries.
#include <decode/cached.hpp>

#include <heed/mechanism/proportional.hpp>
#include <heed/mechanism/rectified.hpp>
#include <heed/mechanism/sigmoid.hpp>

using namespace heed_test;

namespace {

struct world {
    random_source random{701};
    step_sizes n{2, 3, 5, 24, 17, {150, 150}};
    step<double> s{n, random};
    own_cache<double, double> cache{n, kind::paged, 32, 200, random};
    tensor<double> bias{{2, 6, 5, 150}}, row{{1, 1, 1, 150}}, per_head{{1, 6, 1, 1}}, table{{1, 6, 41, 1}}, gates{{2, 6, 150, 1}};
    world() {
        cache.fill(s, random, 90);
        for (tensor<double>* t : {&bias, &row, &table, &gates}) { t->normal(random); }
        per_head.normal(random, 0.1);
        bias(1, 4, 3, 77) = -std::numeric_limits<double>::infinity();
    }
    template <class M>
    void same_as_forward(char const* what, M const& m) {
        INFO(what);
        s.decode(m, cache);
        CHECK(differ(s, s.expected_whole(m), 1e-12) == "");
    }
};

auto const dot = heed::dot{} | heed::inv_sqrt_width{};

} // namespace

TEST_CASE("decode: scores with data and without", "[decode]") {
    HEED_SEEDED;
    world w;
    using heed::attention;
    heed::causal_bottom_right const causal{};
    w.same_as_forward("bias", attention{dot | heed::bias{w.bias.in()}, causal});
    w.same_as_forward("row of biases, then softcap", attention{dot | heed::bias{w.row.in()} | heed::softcap{2.0}, causal});
    w.same_as_forward("softcap, alibi", attention{dot | heed::softcap{2.0} | heed::alibi{w.per_head.in()}, heed::window{60}});
    w.same_as_forward("relative bias, gates", attention{dot | heed::relative_bias{w.table.in(), 30} | heed::forgetting{w.gates.in()}, causal});
}

TEST_CASE("decode: patterns that are rules and patterns that are data", "[decode]") {
    HEED_SEEDED;
    world w;
    tensor<std::uint8_t> keep({2, 6, 5, 150}), bits({1, 1, 5, 19});
    tensor<std::int32_t> ids({2, 1, 150, 1}), query_ids({2, 1, 5, 1}), lengths({2, 1, 1, 1});
    keep.each([&](std::uint8_t& x) { x = w.random.chance(0.5); });
    keep.each_at([&](std::uint8_t& x, extent_t b, extent_t h, extent_t i, extent_t) { x = b == 1 && h == 2 && i == 3 ? 0 : x; }); // a row that sees nothing
    bits.each([&](std::uint8_t& x) { x = static_cast<std::uint8_t>(w.random.bits()); });
    ids.each_at([&](std::int32_t& x, extent_t, extent_t, extent_t j, extent_t) { x = static_cast<std::int32_t>(j / 40); });
    query_ids.each([&](std::int32_t& x) { x = static_cast<std::int32_t>(w.random.integer(0, 4)); });
    lengths.each([&](std::int32_t& x) { x = static_cast<std::int32_t>(w.random.integer(0, 150)); });
    std::vector<std::uint64_t> words{1, 3, 5, 9, 25};
    w.same_as_forward("mask", heed::softmax_attention(heed::mask{keep.in()}));
    w.same_as_forward("bits", heed::softmax_attention(heed::bit_mask{bits.in()} & heed::window{100, 3}));
    w.same_as_forward("documents", heed::softmax_attention(heed::documents{query_ids.in(), ids.in()}));
    w.same_as_forward("lengths, causal", heed::softmax_attention(heed::key_lengths{lengths.in()} & heed::causal_bottom_right{}));
    w.same_as_forward("top left", heed::softmax_attention(heed::causal_top_left{}));
    w.same_as_forward("tree in a window", heed::softmax_attention(heed::tree{heed::tensor_view<std::uint64_t const>(words.data(), {1, 1, 5, 1})} & heed::window{50}));
}

TEST_CASE("decode: normalizers whose parts merge", "[decode]") {
    HEED_SEEDED;
    world w;
    w.same_as_forward("sink", heed::attention{dot, heed::causal_bottom_right{}, heed::softmax_sink{w.per_head.in()}});
    w.same_as_forward("sigmoid", heed::sigmoid_attention(heed::causal_bottom_right{}));
    w.same_as_forward("relu over all keys", heed::relu_attention(heed::window{40}));
    w.same_as_forward("mean of the keys seen", heed::mean_attention(heed::window{40}));
}
