// SPDX-License-Identifier: BSD-3-Clause
// Attention on factors against dense attention on what they stand for, and the limits that are multi-head, grouped and multi-query attention.
#include "factors.hpp"

using namespace heed_test;

namespace {

auto const causal = heed::softmax_attention(heed::causal_bottom_right{});

template <class T>
void check_call(call_sizes const& n, random_source& random, bool far) {
    factored_call<T> p(n, random, far);
    p.run(causal);
    error_bound bound;
    bound.c0 = 8; // rows are rounded sums
    bound.c1 = 8;
    bound.width = static_cast<double>(n.width);
    auto const exact = p.exact(true);
    auto r = oracle::softmax(exact);
    // a row of v is a sum over the rank, whose terms may be larger than it
    oracle::softmax_case sizes = exact;
    for (double& x : sizes.v.x) { x = std::fabs(x) + 1; }
    r.magnitude = oracle::softmax(sizes).magnitude;
    verdict const found = compare<T>(p.out.in(), p.lse.in(), r, bound);
    INFO(n << (far ? ", features apart" : "") << ": " << found.text);
    CHECK(found.good());
    CHECK(p.intact());
}

// R = H and A = H times the unit vectors: rows of head h are those of b's rank h; R = G and A_g = G on the heads of group g.
template <class T>
void check_limit(extent_t heads, extent_t rank) {
    random_source random(910);
    extent_t const N = 53, M = 70, d = 17, e = 9;
    tensor<T> q({2, heads, N, d}), k({2, rank, M, d}), v({2, rank, M, e}), out({2, heads, N, e}), expected(out.shape()), lse({2, heads, N, 1}), lse2(lse.shape()), a({1, heads, 1, rank});
    q.normal(random), k.normal(random), v.normal(random);
    a.each_at([&](T& x, extent_t, extent_t h, extent_t, extent_t r) { x = h / (heads / rank) == r ? static_cast<T>(rank) : T(0); });
    heed::forward(causal, q.in(), heed::factored{a.in(), k.in()}, heed::factored{a.in(), v.in()}, out.view(), heed::save{lse.view()});
    heed::forward(causal, q.in(), k.in(), v.in(), expected.view(), heed::save{lse2.view()});
    INFO(heads << " heads, rank " << rank);
    CHECK(same_bits(out, expected));
    CHECK(same_bits(lse, lse2));
}

} // namespace

TEST_CASE("factored: attention on factors is attention on their products, all sizes, ranks and strides", "[factored]") {
    HEED_SEEDED;
    random_source random(901);
    for (call_sizes const& n : {call_sizes{1, 1, 1, 1, 1, 1, 1, 1, 1, 1}, call_sizes{2, 4, 4, 53, 70, 17, 9, 6, 2, 2}, call_sizes{1, 6, 2, 130, 140, 64, 32, 3, 5, 7}, call_sizes{1, 3, 1, 20, 11, 8, 24, 4, 1, 1},
                                call_sizes{2, 2, 2, 33, 200, 12, 12, 6, 2, 3, true, false}, call_sizes{2, 2, 1, 33, 90, 40, 5, 2, 4, 4, false, true}, call_sizes{1, 2, 2, 9, 21, 6, 3, 70, 65, 66}}) {
        check_call<float>(n, random, false);
        check_call<float>(n, random, true);
        check_call<double>(n, random, false);
    }
}

TEST_CASE("factored: the limits of the rank are multi-head, grouped and multi-query attention, bit by bit", "[factored]") {
    HEED_SEEDED;
    for (extent_t const heads : {1, 2, 6, 12}) {
        for (extent_t const rank : {extent_t(1), extent_t(2), extent_t(3), heads}) {
            if (heads % rank != 0) { continue; }
            check_limit<float>(heads, rank);
            check_limit<double>(heads, rank);
        }
    }
}

TEST_CASE("factored: threads change no bit, and the memory of a call depends on no length", "[factored]") {
    HEED_SEEDED;
    random_source random(902);
    factored_call<float> p({2, 4, 2, 150, 170, 24, 16, 6, 2, 2}, random);
    p.run(causal);
    tensor<float> out(p.out.shape()), lse(p.lse.shape());
    out.copy(p.out.in());
    lse.copy(p.lse.in());
    p.run(causal, heed::cpu{thread_team{3}});
    CHECK(same_bits(out, p.out));
    CHECK(same_bits(lse, p.lse));

    auto const bytes = [](extent_t n) { // nothing is read
        float x = 0;
        heed::factored const f{heed::tensor_view<float const>{&x, {1, 16, n, 2}, {}}, heed::tensor_view<float const>{&x, {1, 2, n, 64}, {}}};
        return heed::plan(heed::with_load(causal, heed::load{f, f, f}), f.shape(), f.shape(), f.shape()).workspace_bytes();
    };
    CHECK(bytes(4096) == bytes(1 << 20));
}

TEST_CASE("factored: rows are turned after they are made, which is turning b; both layouts of pairs, dense queries too", "[factored]") {
    HEED_SEEDED;
    random_source random(903);
    auto const check = [&](auto const& rope) {
        factored_call<double> p({2, 4, 2, 40, 61, 18, 7, 3, 2, 2}, random);
        auto const q = heed::factored{p.q.a.in(), p.q.b.in(), rope}, k = heed::factored{p.k.a.in(), p.k.b.in(), rope};
        heed::forward(causal, q, k, p.v.operand(), p.out.view());
        tensor<double> loaded(p.out.shape()), queries({2, 4, 40, 18});
        loaded.copy(p.out.in());
        auto const rows = p.q.rows();
        queries.each_at([&](double& x, extent_t b, extent_t h, extent_t n, extent_t e) { x = rows(b, h, n, e); });
        // what a cache keeps: b turned before
        heed::rotate(p.k.b.view(), rope);
        auto of_queries = rope;
        of_queries.offset += 61 - 40; // the last query sits at the last key
        heed::rotate(p.q.b.view(), of_queries);
        p.run(causal);
        CHECK(compare_close<double>(p.out.in(), loaded.in(), 1e-13).good());
        heed::rotate(queries.view(), of_queries);
        heed::forward(causal, queries.in(), p.k.operand(), p.v.operand(), p.out.view());
        CHECK(compare_close<double>(p.out.in(), loaded.in(), 1e-13).good());
    };
    check(heed::rotary{heed::half_pairs{}, heed::geometric{10000}});
    check(heed::rotary{heed::interleaved_pairs{}, heed::geometric{500000}});
}

TEST_CASE("factored: ragged batches, 16-bit factors, a factor of the caller's", "[factored]") {
    HEED_SEEDED;
    random_source random(904);
    std::vector<std::int32_t> const starts{0, 9, 9, 40};
    heed::ragged_offsets const offsets(starts);
    factored_call<float> p({1, 2, 2, 40, 40, 16, 8, 3, 2, 2}, random);
    auto const packed = [&](factors<float> const& f) { return heed::factored{heed::ragged(f.a.in(), offsets), heed::ragged(f.b.in(), offsets)}; };
    heed::forward(causal, packed(p.q), packed(p.k), packed(p.v), heed::ragged(p.out.view(), offsets));
    tensor<float> all(p.out.shape());
    all.copy(p.out.in());
    for (extent_t const begin : {0, 9}) {
        extent_t const count = begin == 0 ? 9 : 31;
        auto const part = [&](factors<float> const& f) {
            auto const cut = [&](heed::tensor_view<float const> x) { return heed::tensor_view<float const>{x.row(0, 0, begin), {1, x.extent(1), count, x.extent(3)}, x.strides()}; };
            return heed::factored{cut(f.a.in()), cut(f.b.in())};
        };
        heed::forward(causal, part(p.q), part(p.k), part(p.v), heed::tensor_view<float>{p.out.view().row(0, 0, begin), {1, 2, count, 8}, p.out.view().strides()});
    }
    CHECK(same_bits(all, p.out));

    // halves are the floats they stand for, rounded once at the end
    auto const half = [&](tensor<float>& x) {
        tensor<heed::bf16> y(x.shape());
        y.each_at([&](heed::bf16& e, extent_t b, extent_t h, extent_t n, extent_t c) { e = heed::bf16(x(b, h, n, c)); });
        x.each_at([&](float& e, extent_t b, extent_t h, extent_t n, extent_t c) { e = static_cast<float>(y(b, h, n, c)); });
        return y;
    };
    auto const qa = half(p.q.a), qb = half(p.q.b), ka = half(p.k.a), kb = half(p.k.b), va = half(p.v.a), vb = half(p.v.b);
    tensor<heed::bf16> out(p.out.shape());
    heed::forward(causal, heed::factored{qa.in(), qb.in()}, heed::factored{ka.in(), kb.in()}, heed::factored{va.in(), vb.in()}, out.view());
    p.run(causal);
    bool rounded = true;
    p.out.each_at([&](float& x, extent_t b, extent_t h, extent_t n, extent_t e) { rounded = rounded && heed::bf16(x).bits == out(b, h, n, e).bits; });
    CHECK(rounded);

    auto twice = p.v.operand();
    twice.factor = 2 * p.v.weight();
    all.copy(p.out.in());
    heed::forward(causal, p.q.operand(), p.k.operand(), twice, p.out.view());
    all.each([](float& x) { x *= 2; });
    CHECK(same_bits(all, p.out));
}

TEST_CASE("factored: what does not fit is refused before anything is written; empty calls are right", "[factored]") {
    HEED_SEEDED;
    random_source random(905);
    factored_call<float> p({1, 2, 2, 5, 7, 4, 3, 2, 2, 2}, random);
    p.out.fill(-1);
    auto const refused = [&](auto const& q, auto const& k, auto const& v) {
        CHECK_THROWS_AS(heed::forward(causal, q, k, v, p.out.view()), heed::shape_error);
        bool untouched = true;
        p.out.each([&](float& x) { untouched = untouched && x == -1; });
        CHECK(untouched);
    };
    factors<float> const three({1, 2, 7, 3, 4}, random), wide({1, 2, 7, 2, 5}, random), heads({1, 3, 7, 2, 4}, random), rows({1, 2, 6, 2, 4}, random);
    refused(p.q.operand(), heed::factored{p.k.a.in(), three.b.in()}, p.v.operand()); // ranks differ
    refused(p.q.operand(), wide.operand(), p.v.operand());
    refused(p.q.operand(), heads.operand(), p.v.operand());
    refused(p.q.operand(), heed::factored{p.k.a.in(), rows.b.in()}, p.v.operand());
    CHECK_THROWS_AS(heed::forward(causal, p.q.operand(), p.k.operand(), heed::factored{heed::tensor_view<float const>(p.out.in()), p.v.b.in()}, p.out.view()), heed::shape_error);

    // no key: 0 and -inf; no query: nothing
    factored_call<float> none({1, 2, 2, 5, 0, 4, 3, 2, 2, 2}, random);
    none.run(causal);
    none.out.each([](float& x) { CHECK(x == 0); });
    none.lse.each([](float& x) { CHECK(x == -std::numeric_limits<float>::infinity()); });
    factored_call<float>({1, 2, 2, 0, 5, 4, 3, 2, 2, 2}, random).run(causal);
}
