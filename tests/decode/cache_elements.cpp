// SPDX-License-Identifier: BSD-3-Clause
// Caches of other elements: decoding equals forward on the values that the cache holds; quantisation rounds correctly; what is not a number stays visible
// where it is attended and nowhere else.
#include <decode/cached.hpp>

#include <bit>

using namespace heed_test;

namespace {

constexpr double inf = std::numeric_limits<double>::infinity();
auto const causal = heed::softmax_attention(heed::causal_bottom_right{});

template <class E>
float value_of(E code, float scale) {
    return static_cast<float>(code) * (heed::is_byte<E> ? scale : 1.0f);
}

// What the cache holds, as floats in place of the step's keys and values; the largest error, relative to the largest element of its row.
template <class K, class V>
double read_back(own_cache<K, V> const& c, step<float>& s, bool per_head) {
    double worst = 0;
    auto const one = [&](auto const& from, tensor<float> const& scale, tensor<float>& to) {
        auto const exact = to.in();
        tensor<float> held(to.shape());
        held.fill(0);
        for (extent_t b = 0; b < s.n.batch(); ++b)
            for (extent_t h = 0; h < s.n.kv_heads; ++h)
                for (extent_t j = 0; j < s.n.lengths[static_cast<std::size_t>(b)]; ++j) {
                    auto const at = c.view().locate(b, j);
                    double top = 0;
                    for (extent_t e = 0; e < to.shape().feature; ++e) { top = std::max(top, std::fabs(static_cast<double>(exact(b, h, j, e)))); }
                    for (extent_t e = 0; e < to.shape().feature; ++e) {
                        held(b, h, j, e) = value_of(from(at.entry, h, at.row, e), per_head ? scale(0, h, 0, 0) : scale(at.entry, h, at.row, 0));
                        worst = std::max(worst, std::fabs(static_cast<double>(held(b, h, j, e) - exact(b, h, j, e))) / top);
                    }
                }
        to.copy(held.in());
    };
    one(c.k, c.k_scale, s.k);
    one(c.v, c.v_scale, s.v);
    return worst;
}

template <class K, class V>
void try_elements(double rounding, bool per_head, std::uint64_t stream) {
    random_source random(stream);
    for (step_sizes const& n : {step_sizes{2, 4, 1, 64, 40, {300, 0, 33}}, step_sizes{1, 3, 2, 37, 11, {70}}, step_sizes{1, 1, 2, 5, 3, {18, 2}}}) {
        step<float> s(n, random);
        own_cache<K, V> pages(n, kind::paged, 16, 300, random, per_head);
        pages.fill(s, random, 60);
        CHECK(pages.intact());
        step<float> held = s;
        double const error = read_back(pages, held, per_head);
        CHECK(error <= rounding);
        CHECK(error > rounding / 8);
        s.decode(causal, pages);
        INFO(n);
        CHECK(differ(s, held.expected(causal), 4e-6) == "");
    }
}

} // namespace

TEST_CASE("cache: 16-bit and one-byte elements, of keys and values apart", "[decode]") {
    HEED_SEEDED;
    try_elements<heed::bf16, heed::bf16>(0x1p-8, false, 601);
    try_elements<heed::fp16, float>(0x1p-11, false, 602);
    try_elements<std::int8_t, std::int8_t>(0.5 / 127 * 1.0001, false, 603);
    try_elements<std::int8_t, heed::fp8_e4m3>(0x1p-4, false, 604);
    try_elements<heed::fp8_e4m3, heed::bf16>(0x1p-4, false, 605);
}

TEST_CASE("cache: one scale per head", "[decode]") {
    HEED_SEEDED;
    try_elements<std::int8_t, heed::fp8_e4m3>(0.2, true, 606);
}

TEST_CASE("cache: queries and results in 16 bits", "[decode]") {
    HEED_SEEDED;
    random_source random(607);
    step_sizes const n{2, 2, 1, 32, 24, {90, 7}};
    step<float> s(n, random);
    s.q.each([](float& x) { x = static_cast<float>(heed::bf16(x)); });
    own_cache<std::int8_t, std::int8_t> c(n, kind::contiguous, 90, 90, random);
    c.fill(s, random, 90);
    s.decode(causal, c);
    tensor<heed::bf16> q(n.q()), out(n.out());
    q.each_at([&](heed::bf16& x, extent_t b, extent_t h, extent_t i, extent_t e) { x = heed::bf16(s.q(b, h, i, e)); });
    heed::decode(causal, q.in(), c, out.view());
    bool same_rounding = true;
    out.each_at([&](heed::bf16& x, extent_t b, extent_t h, extent_t i, extent_t e) { same_rounding = same_rounding && x.bits == heed::bf16(s.out(b, h, i, e)).bits; });
    CHECK(same_rounding);
}

TEST_CASE("cache: e4m3 is rounded to the nearest code, ties to even, and every code is read as its value", "[decode]") {
    std::vector<double> values;
    for (int code = 0; code < 127; ++code) {
        int const e = code >> 3, m = code & 7;
        values.push_back(e == 0 ? std::ldexp(m, -9) : std::ldexp(8 + m, e - 10));
    }
    CHECK(values.back() == 448);
    using V = heed::vec<float, heed::native_arch>;
    for (int first = 0; first < 256; first += V::lanes) {
        heed::fp8_e4m3 codes[V::lanes];
        float wide[V::lanes];
        for (int l = 0; l < V::lanes; ++l) { codes[l].bits = static_cast<std::uint8_t>(first + l); }
        heed::widen<V>(codes).store(wide);
        for (int l = 0; l < V::lanes; ++l) {
            int const low = (first + l) & 127;
            double const expected = low == 127 ? std::nan("") : (first + l > 127 ? -1 : 1) * values[static_cast<std::size_t>(low)];
            float const scalar = static_cast<float>(codes[l]);
            bool const right = low == 127 ? std::isnan(wide[l]) && std::isnan(scalar) : static_cast<double>(wide[l]) * 256 == expected && static_cast<double>(scalar) == expected;
            CHECK(right);
            if (low != 127) { CHECK(heed::fp8_e4m3(static_cast<float>(expected)).bits == first + l); }
        }
    }
    for (std::size_t code = 0; code + 1 < values.size(); ++code) {
        float const middle = static_cast<float>((values[code] + values[code + 1]) / 2);
        std::uint8_t const even = static_cast<std::uint8_t>(code % 2 == 0 ? code : code + 1);
        bool const nearest = heed::fp8_e4m3(middle).bits == even && heed::fp8_e4m3(std::nextafter(middle, 0.0f)).bits == code &&
                             heed::fp8_e4m3(std::nextafter(middle, 1e9f)).bits == code + 1;
        CHECK(nearest);
    }
    CHECK(heed::fp8_e4m3(1e30f).bits == 0x7e);
    CHECK(heed::fp8_e4m3(-1e30f).bits == 0xfe);
    CHECK(heed::fp8_e4m3(464.0f).bits == 0x7e);
    CHECK((heed::fp8_e4m3(std::nanf("")).bits & 0x7f) == 0x7f);
    CHECK(heed::fp8_e4m3(-0.0f).bits == 0x80);
}

TEST_CASE("cache: NaN stays in the rows that attend it", "[contract]") {
    HEED_SEEDED;
    random_source random(608);
    // one-byte rows that are not finite
    step_sizes const n{2, 2, 1, 16, 16, {40, 40}};
    step<float> s(n, random);
    s.k(0, 1, 7, 3) = std::numeric_limits<float>::quiet_NaN();
    s.v(1, 0, 9, 2) = std::numeric_limits<float>::infinity();
    own_cache<std::int8_t, std::int8_t> c(n, kind::contiguous, 41, 41, random);
    c.fill(s, random, 40);
    s.decode(causal, c);
    s.out.each_at([&](float& x, extent_t b, extent_t h, extent_t, extent_t) { CHECK(std::isnan(x) == ((b == 0 && h >= 2) || (b == 1 && h < 2))); });

    // values that some of the new tokens leave out: of a tree, and beyond a causal edge
    step_sizes const t{1, 3, 4, 24, 21, {67}};
    step<float> drafted(t, random);
    std::vector<std::int32_t> const parents{-1, 0, 0, 2};
    std::vector<std::uint64_t> bits(4);
    heed::ancestors_of(parents, bits);
    CHECK(bits == std::vector<std::uint64_t>{1, 3, 5, 13});
    heed::tree const tree{heed::tensor_view<std::uint64_t const>(bits.data(), {1, 1, 4, 1})};
    auto const m = heed::softmax_attention(tree);
    step<float> clean = drafted;
    own_cache<float, float> without(t, kind::paged, 5, 70, random), with(t, kind::paged, 5, 70, random);
    without.fill(clean, random, 70);
    clean.decode(m, without);
    CHECK(differ(clean, clean.expected(m), 2e-6) == "");
    for (int what = 0; what < 3; ++what) {
        step<float> dirty = drafted;
        (what == 0 ? dirty.v : dirty.k)(0, 0, 67 - 4 + 1, 2) = what == 2 ? static_cast<float>(inf) : std::numeric_limits<float>::quiet_NaN(); // new token 1: only row 1 sees it
        own_cache<float, float> again(t, kind::paged, 5, 70, random);
        again.fill(dirty, random, 70);
        dirty.decode(m, again);
        bool right = true;
        dirty.out.each_at([&](float& x, extent_t, extent_t h, extent_t i, extent_t e) {
            bool const same_number = std::bit_cast<std::uint32_t>(x) == std::bit_cast<std::uint32_t>(clean.out(0, h, i, e));
            right = right && (i == 1 ? (what == 0 ? std::isnan(x) == (e == 2) : what == 1 ? std::isnan(x) : true) : same_number);
        });
        CHECK(right);
    }
    CHECK_THROWS_WITH(heed::ancestors_of(std::vector<std::int32_t>{-1, 1}, bits), contains("parent of tree node 1 is 1"));
}
