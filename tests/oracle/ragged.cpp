// SPDX-License-Identifier: BSD-3-Clause
// Ragged batches: sequences packed in one row of memory, each compared with the oracle on its own.
#include <support/catch.hpp>
#include <support/problem.hpp>

using namespace heed_test;

namespace {

// The positions [first, first + count) of one packed tensor, as an oracle array of batch 1.
template <class T>
oracle::array slice(tensor<T> const& t, extent_t first, extent_t count) {
    heed::shape s = t.shape();
    s.seq = count;
    oracle::array a(s);
    for (extent_t h = 0; h < s.head; ++h)
        for (extent_t n = 0; n < count; ++n)
            for (extent_t d = 0; d < s.feature; ++d) { a(0, h, n, d) = static_cast<double>(t(0, h, first + n, d)); }
    return a;
}

template <class Offset>
void try_ragged(std::uint64_t stream) {
    random_source random(stream);
    auto const m = heed::softmax_attention(heed::causal_bottom_right{});
    for (int round = 0; round < 25; ++round) {
        extent_t const sequences = random.integer(0, 6), kv = random.integer(1, 2), heads = kv * random.integer(1, 2), d = random.integer(1, 12),
                       dv = random.integer(1, 12);
        std::vector<Offset> q_starts{0}, k_starts{0};
        for (extent_t b = 0; b < sequences; ++b) {
            q_starts.push_back(static_cast<Offset>(q_starts.back() + random.pick({0, 1, 5, 47, 48, 49, 60})));
            k_starts.push_back(static_cast<Offset>(k_starts.back() + random.pick({0, 1, 3, 20, 129, 200})));
        }
        // packed in the order (row, head, feature), with unused rows at the end
        extent_t const q_rows = q_starts.back() + random.integer(0, 3), k_rows = k_starts.back() + random.integer(0, 3);
        auto const rows_first = [](heed::shape s) { return heed::strides{0, s.feature, s.head * s.feature, 1}; };
        heed::shape const qs{1, heads, q_rows, d}, ks{1, kv, k_rows, d}, vs{1, kv, k_rows, dv}, os{1, heads, q_rows, dv}, ls{1, heads, q_rows, 1};
        tensor<float> q(qs, rows_first(qs)), k(ks, rows_first(ks)), v(vs, rows_first(vs)), out(os, rows_first(os)), lse(ls);
        q.normal(random);
        k.normal(random);
        v.normal(random);
        out.fill(-7);
        lse.fill(-7);
        heed::ragged_offsets const qo{std::span<Offset const>(q_starts)}, ko{std::span<Offset const>(k_starts)};
        heed::forward(m, heed::ragged(q.in(), qo), heed::ragged(k.in(), ko), heed::ragged(v.in(), ko), heed::ragged(out.view(), qo),
                      heed::save{heed::ragged(lse.view(), qo)});
        for (extent_t b = 0; b < sequences; ++b) {
            auto const at = static_cast<std::size_t>(b);
            extent_t const n = q_starts[at + 1] - q_starts[at], keys = k_starts[at + 1] - k_starts[at];
            oracle::softmax_case c;
            c.q = slice(q, q_starts[at], n);
            c.k = slice(k, k_starts[at], keys);
            c.v = slice(v, k_starts[at], keys);
            c.scale = 1 / std::sqrt(static_cast<double>(d));
            c.keep = oracle::causal_bottom_right({1, heads, n, keys});
            auto const o = out.in();
            auto const l = lse.in();
            heed::tensor_view<float const> const mine{o.row(0, 0, q_starts[at]), {1, heads, n, dv}, o.strides()};
            heed::tensor_view<float const> const mine_lse{l.row(0, 0, q_starts[at]), {1, heads, n, 1}, l.strides()};
            auto const found = compare<float>(mine, mine_lse, oracle::softmax(c), bound_of<float>(m));
            INFO("sequence " << b << ", " << n << " queries, " << keys << " keys: " << found.text);
            REQUIRE(found.good());
        }
        for (extent_t n = q_starts.back(); n < q_rows; ++n) { REQUIRE(out(0, 0, n, 0) == -7); } // unused rows stay as they were
        REQUIRE((out.intact() && lse.intact()));
    }
}

} // namespace

TEST_CASE("ragged: 32-bit offsets", "[oracle][ragged]") {
    HEED_SEEDED;
    try_ragged<std::int32_t>(91);
}
TEST_CASE("ragged: 64-bit offsets", "[oracle][ragged]") {
    HEED_SEEDED;
    try_ragged<std::int64_t>(92);
}

TEST_CASE("ragged: queries alone or keys alone", "[oracle][ragged]") {
    HEED_SEEDED;
    random_source random(93);
    std::vector<std::int32_t> const starts{0, 3, 3, 60};
    heed::ragged_offsets const offsets{std::span<std::int32_t const>(starts)};
    auto const m = heed::softmax_attention();
    { // three sequences of queries against a dense batch of keys
        tensor<float> q(heed::shape{1, 2, 60, 8}), k(heed::shape{3, 2, 20, 8}), v(heed::shape{3, 2, 20, 5}), out(heed::shape{1, 2, 60, 5});
        q.normal(random);
        k.normal(random);
        v.normal(random);
        heed::forward(m, heed::ragged(q.in(), offsets), k.in(), v.in(), heed::ragged(out.view(), offsets));
        for (std::size_t b = 0; b < 3; ++b) {
            extent_t const n = starts[b + 1] - starts[b];
            tensor<float> alone(heed::shape{1, 2, n, 5});
            extent_t const entry = static_cast<extent_t>(b);
            heed::forward(m, heed::tensor_view<float const>{q.in().row(0, 0, starts[b]), {1, 2, n, 8}, q.in().strides()},
                          heed::tensor_view<float const>{k.in().row(entry, 0, 0), {1, 2, 20, 8}, k.in().strides()},
                          heed::tensor_view<float const>{v.in().row(entry, 0, 0), {1, 2, 20, 5}, v.in().strides()}, alone.view());
            CHECK(same_bits<float>(alone.in(), {out.in().row(0, 0, starts[b]), {1, 2, n, 5}, out.in().strides()}));
        }
    }
    { // a dense batch of queries against ragged keys, one sequence without keys
        tensor<float> q(heed::shape{3, 2, 7, 8}), k(heed::shape{1, 2, 60, 8}), v(heed::shape{1, 2, 60, 5}), out(heed::shape{3, 2, 7, 5});
        q.normal(random);
        k.normal(random);
        v.normal(random);
        heed::forward(m, q.in(), heed::ragged(k.in(), offsets), heed::ragged(v.in(), offsets), out.view());
        for (extent_t n = 0; n < 7; ++n) { CHECK(out(1, 1, n, 0) == 0); }
        oracle::softmax_case c;
        c.q = oracle::read(heed::tensor_view<float const>{q.in().row(2, 0, 0), {1, 2, 7, 8}, q.in().strides()});
        c.k = slice(k, 3, 57);
        c.v = slice(v, 3, 57);
        c.scale = 1 / std::sqrt(8.0);
        auto const found = compare<float>({out.in().row(2, 0, 0), {1, 2, 7, 5}, out.in().strides()}, {}, oracle::softmax(c), bound_of<float>(m));
        INFO(found.text);
        CHECK(found.good());
    }
}
