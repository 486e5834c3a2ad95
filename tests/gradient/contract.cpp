// SPDX-License-Identifier: BSD-3-Clause
// The contract's sentences for backward: empty rows, non-finite elements, determinism, memory, refusals.
#include "problem.hpp"

#include <support/allocation_counter.hpp>
#include <support/team.hpp>

using namespace heed_test;

namespace {

float const inf = std::numeric_limits<float>::infinity(), nan_ = std::numeric_limits<float>::quiet_NaN();
auto const causal = heed::softmax_attention(heed::causal_bottom_right{});

} // namespace

TEST_CASE("backward: rows without keys give and take nothing", "[gradient][contract]") {
    HEED_SEEDED;
    random_source random(441);
    gradient_problem<float> p({1, 2, 1, 60, 40, 9, 7}, random); // the first 20 queries see no key
    p.back(causal);
    for (extent_t i = 0; i < 20; ++i) {
        for (extent_t d = 0; d < 9; ++d) { CHECK(p.dq(0, 1, i, d) == 0); }
    }
    gradient_problem<float> none({1, 2, 1, 6, 0, 9, 7}, random);
    none.back(causal);
    for (extent_t i = 0; i < 6; ++i) { CHECK(none.dq(0, 0, i, 0) == 0); }
    gradient_problem<float> unasked({1, 2, 1, 0, 6, 9, 7}, random);
    unasked.back(causal);
    for (extent_t j = 0; j < 6; ++j) { CHECK((unasked.dk(0, 0, j, 0) == 0 && unasked.dv(0, 0, j, 0) == 0)); }
}

// Its weight is 1 whatever the score: out = v, and dO.v - dO.out must cancel to the last bit.
TEST_CASE("backward: a single key takes nothing from q and k", "[gradient][contract]") {
    HEED_SEEDED;
    random_source random(442);
    for (extent_t dv : {1, 7, 64, 130, 300}) {
        gradient_problem<float> p({1, 2, 1, 30, 1, 9, dv}, random);
        p.dlse.fill(0);
        p.back(heed::softmax_attention());
        INFO("dv " << dv);
        for (extent_t d = 0; d < 9; ++d) {
            CHECK(p.dk(0, 0, 0, d) == 0);
            for (extent_t i = 0; i < 30; ++i) { CHECK(p.dq(0, 1, i, d) == 0); }
        }
        CHECK(p.dv(0, 0, 0, 0) != 0);
    }
}

// One poisoned element of q, k, v or dout: a gradient may change only where a pair connects it.
TEST_CASE("backward: NaN and Inf behind a mask reach nothing", "[gradient][contract]") {
    HEED_SEEDED;
    random_source random(442);
    sizes const n{1, 2, 1, 70, 150, 6, 5};
    extent_t const shift = n.keys - n.queries;
    gradient_problem<float> p(n, random);
    auto const m = heed::softmax_attention(heed::window{20, 3});
    auto const keep = [&](extent_t i, extent_t j) { return i + shift - 20 <= j && j <= i + shift + 3; };
    p.back(m);
    tensor<float> dq(n.q()), dk(n.k()), dv(n.v());
    dq.copy(p.dq.in());
    dk.copy(p.dk.in());
    dv.copy(p.dv.in());
    for (float poison : {nan_, inf}) {
        for (int round = 0; round < 24; ++round) {
            int const where = round % 4; // q, dout: a query; k, v: a key
            bool const query = where < 2;
            extent_t const h = query ? random.integer(0, 1) : 0, row = random.integer(0, query ? n.queries - 1 : n.keys - 1);
            tensor<float>& t = where == 0 ? p.q : where == 1 ? p.dout : where == 2 ? p.k : p.v;
            float const before = t(0, h, row, 2);
            t(0, h, row, 2) = poison;
            p.back(m);
            t(0, h, row, 2) = before;
            bool clean = true, reached = false;
            for (extent_t i = 0; i < n.queries; ++i)
                for (extent_t qh = 0; qh < 2; ++qh) {
                    // a query is touched if it is the poisoned one or sees the poisoned key
                    bool const touched = query ? qh == h && i == row : keep(i, row);
                    for (extent_t d = 0; d < n.width; ++d) {
                        clean = clean && (touched || std::memcmp(&p.dq(0, qh, i, d), &dq(0, qh, i, d), sizeof(float)) == 0 || std::fabs(p.dq(0, qh, i, d) - dq(0, qh, i, d)) <= 1e-5f);
                        reached = reached || std::isnan(p.dq(0, qh, i, d));
                    }
                }
            for (extent_t j = 0; j < n.keys; ++j) {
                bool touched = false; // a key is touched if some touched query sees it
                for (extent_t i = 0; i < n.queries; ++i) { touched = touched || (keep(i, j) && (query ? i == row : keep(i, row))); }
                for (extent_t d = 0; d < n.width; ++d) { clean = clean && (touched || std::fabs(p.dk(0, 0, j, d) - dk(0, 0, j, d)) <= 1e-5f); }
                for (extent_t d = 0; d < n.value_width; ++d) { clean = clean && (touched || std::fabs(p.dv(0, 0, j, d) - dv(0, 0, j, d)) <= 1e-5f); }
            }
            INFO(poison << " in tensor " << where << " head " << h << " row " << row);
            REQUIRE(clean);
            bool attended = query;
            for (extent_t i = 0; i < n.queries && !query; ++i) { attended = attended || keep(i, row); }
            if (std::isnan(poison) && attended) { REQUIRE(reached); }
        }
    }
}

TEST_CASE("backward: unused keys change no bit", "[gradient][contract]") {
    HEED_SEEDED;
    random_source random(443);
    std::int32_t const length = 131;
    gradient_problem<float> p({1, 2, 1, 70, 300, 8, 8}, random);
    auto const m = heed::softmax_attention(heed::key_lengths{heed::per_batch<std::int32_t const>(&length, 1)});
    p.back(m);
    tensor<float> dq(p.n.q());
    dq.copy(p.dq.in());
    for (float poison : {nan_, inf}) {
        for (extent_t j = length; j < 300; ++j) {
            for (extent_t d = 0; d < 8; ++d) { p.k(0, 0, j, d) = p.v(0, 0, j, d) = poison; }
        }
        p.back(m);
        CHECK(compare_close<float>(p.dq.in(), dq.in(), 1e-6).good());
        for (extent_t j = length; j < 300; ++j) { CHECK((p.dk(0, 0, j, 3) == 0 && p.dv(0, 0, j, 3) == 0)); }
        for (extent_t j = 0; j < length; ++j) { CHECK(std::isfinite(p.dk(0, 0, j, 3))); }
    }
}

TEST_CASE("backward: equal bits for every number of threads and every batch", "[gradient][contract]") {
    HEED_SEEDED;
    random_source random(444);
    tensor<float> slopes(heed::shape{1, 4, 1, 1}), dslopes(slopes.shape()), expected_slopes(slopes.shape()), b(heed::shape{1, 1, 200, 1500}), db(b.shape()), expected_bias(b.shape());
    slopes.normal(random, 0.1);
    b.normal(random);
    auto const m = heed::attention{heed::dot{} | heed::inv_sqrt_width{} | heed::bias{b.view()} | heed::alibi{slopes.view()}, heed::causal_bottom_right{}};
    gradient_problem<float> p({2, 4, 2, 200, 1500, 12, 9}, random);
    auto const all = [&](auto executor) { p.back(m, heed::cpu{executor}, heed::alibi_gradient{dslopes.view()}, heed::bias_gradient{db.view()}); };
    all(heed::serial{});
    tensor<float> dq(p.n.q()), dk(p.n.k()), dv(p.n.v());
    dq.copy(p.dq.in());
    dk.copy(p.dk.in());
    dv.copy(p.dv.in());
    expected_slopes.copy(dslopes.in());
    expected_bias.copy(db.in());
    for (int threads = 1; threads <= 8; ++threads) {
        all(thread_team{threads});
        INFO(threads << " threads");
        CHECK((same_bits(dq, p.dq) && same_bits(dk, p.dk) && same_bits(dv, p.dv)));
        CHECK((same_bits(expected_slopes, dslopes) && same_bits(expected_bias, db)));
    }
    all(backwards{64});
    CHECK((same_bits(dq, p.dq) && same_bits(dk, p.dk) && same_bits(dv, p.dv)));
    // without shared data: wide and narrow walks
    gradient_problem<float> alone({1, 1, 1, 150, 2100, 12, 9}, random);
    alone.back(causal);
    tensor<float> one(alone.n.q());
    one.copy(alone.dq.in());
    for (int threads : {2, 3, 8}) {
        alone.back(causal, heed::cpu{thread_team{threads}});
        CHECK(same_bits(one, alone.dq));
    }
}

TEST_CASE("backward: a plan allocates nothing and stays in its workspace; the door allocates once", "[gradient][contract]") {
    HEED_SEEDED;
    random_source random(445);
    for (sizes n : {sizes{1, 2, 1, 49, 131, 7, 9}, sizes{1, 1, 1, 70, 2100, 16, 8}, sizes{1, 1, 1, 5, 0, 3, 3}, sizes{1, 1, 1, 0, 5, 3, 3}, sizes{1, 1, 1, 5, 9, 0, 3}, sizes{1, 1, 1, 5, 9, 3, 0}}) {
        for (int threads : {1, 3}) {
            gradient_problem<float> p(n, random);
            p.back(causal);
            tensor<float> dk(n.k());
            dk.copy(p.dk.in());
            heed::save<float> const saved{p.lse.view()};
            using backend = heed::cpu<backwards>;
            heed::backward_plan<std::remove_const_t<decltype(causal)>, float, backend> plan(causal, p.q.in(), p.k.in(), p.v.in(), p.out.in(), saved, p.dout.in(), p.dq.view(), p.dk.view(), p.dv.view(), backend{backwards{threads}}, heed::saved_gradient{p.dlse.in()});
            for (place where : {place::upper_page, place::lower_page}) {
                guarded_block const workspace(plan.workspace_bytes(), where, 3);
                std::size_t calls = 0;
                {
                    allocation_scope const scope;
                    plan.run(std::span<std::byte>(workspace.data(), workspace.bytes()));
                    calls = scope.calls();
                }
                INFO(n << " " << threads);
                CHECK(calls == 0);
                CHECK(workspace.surroundings_intact());
                CHECK(p.intact());
                CHECK(same_bits(dk, p.dk));
            }
        }
    }
    gradient_problem<float> p({1, 2, 1, 49, 131, 7, 9}, random);
    p.run(causal);
    allocation_scope const scope;
    heed::backward(causal, p.q.in(), p.k.in(), p.v.in(), p.out.in(), heed::save{p.lse.view()}, p.dout.in(), p.dq.view(), p.dk.view(), p.dv.view());
    std::size_t const calls = scope.calls();
    CHECK(calls == 1);
}

TEST_CASE("backward: tensors against protected pages", "[gradient][contract]") {
    HEED_SEEDED;
    random_source random(446);
    for (place where : {place::upper_page, place::lower_page}) {
        for (sizes n : {sizes{1, 2, 1, 49, 131, 7, 9}, sizes{1, 1, 1, 26, 300, 64, 32}, sizes{1, 1, 1, 1, 1, 1, 1}}) {
            gradient_problem<float> p(n, random, where);
            p.back(causal);
            auto c = p.exact();
            c.keep = oracle::causal_bottom_right(n.pairs());
            auto const found = against(p, c);
            INFO(n << " " << found.text);
            CHECK(found.good());
        }
    }
}

TEST_CASE("backward: wrong shapes and overlapping outputs are refused", "[gradient][contract]") {
    random_source random(447);
    gradient_problem<float> p({1, 2, 1, 10, 12, 4, 5}, random);
    p.run(causal);
    auto const call = [&](auto dout, auto dq, auto dk, auto dv) { heed::backward(causal, p.q.in(), p.k.in(), p.v.in(), p.out.in(), heed::save{p.lse.view()}, dout, dq, dk, dv); };
    heed::tensor_view<float> const short_dq{p.dq.view().data_handle(), {1, 2, 9, 4}};
    CHECK_THROWS_AS(call(p.dout.in(), short_dq, p.dk.view(), p.dv.view()), heed::shape_error);
    heed::tensor_view<float const> const narrow{p.dout.in().data_handle(), {1, 2, 10, 4}};
    CHECK_THROWS_AS(call(narrow, p.dq.view(), p.dk.view(), p.dv.view()), heed::shape_error);
    CHECK_THROWS_AS(call(p.dout.in(), p.q.view(), p.dk.view(), p.dv.view()), heed::shape_error);                                                            // dq onto q
    heed::tensor_view<float> const same{p.dk.view().data_handle(), {1, 1, 12, 4}};
    CHECK_THROWS_AS(call(p.dout.in(), p.dq.view(), p.dk.view(), heed::tensor_view<float>(same.data_handle(), {1, 1, 12, 5})), heed::shape_error); // dv onto dk
    heed::tensor_view<float> const collapsed{p.dk.view().data_handle(), {1, 1, 12, 4}, {0, 0, 0, 1}};
    CHECK_THROWS_AS(call(p.dout.in(), p.dq.view(), collapsed, p.dv.view()), heed::shape_error);
    CHECK_NOTHROW(call(p.dout.in(), p.dq.view(), p.dk.view(), p.dv.view()));
    // gradients of packed qkv may interleave
    std::vector<float> packed(10 * 3 * 4);
    auto const third = [&](int which) { return heed::tensor_view<float>{packed.data() + which * 4, {1, 1, 10, 4}, {120, 120, 12, 1}}; };
    std::vector<float> qkv(packed.size(), 0.5f), out(40), lse(10), dout(40, 1.0f);
    auto const input = [&](int which) { return heed::tensor_view<float const>{qkv.data() + which * 4, {1, 1, 10, 4}, {120, 120, 12, 1}}; };
    heed::tensor_view<float> const o{out.data(), {1, 1, 10, 4}}, l{lse.data(), {1, 1, 10, 1}};
    auto const saved = heed::forward(causal, input(0), input(1), input(2), o, heed::save{l});
    CHECK_NOTHROW(heed::backward(causal, input(0), input(1), input(2), o, saved, heed::tensor_view<float const>{dout.data(), {1, 1, 10, 4}}, third(0), third(1), third(2)));
}
