// SPDX-License-Identifier: BSD-3-Clause
// Gradients of the factors against the oracle's gradients of the rows, contracted in double; threads; what is refused.
#include "factors.hpp"

#include <support/allocation_counter.hpp>

using namespace heed_test;

namespace {

auto const causal = heed::softmax_attention(heed::causal_bottom_right{});

template <class T>
void look(verdict& found, char const* name, heed::tensor_view<T const> got, oracle::array const& exact, oracle::array const& size, double units) {
    for (extent_t b = 0; b < got.extent(0); ++b)
        for (extent_t h = 0; h < got.extent(1); ++h)
            for (extent_t n = 0; n < got.extent(2); ++n)
                for (extent_t e = 0; e < got.extent(3); ++e) { found.look(name, b, h, n, e, static_cast<double>(got(b, h, n, e)), exact(b, h, n, e), eps<T> * units * size(b, h, n, e)); }
}

using T = double;

void check_call(call_sizes const& n, random_source& random, bool far) {
    factored_call<T> p(n, random, far);
    p.back(causal);
    auto const c = p.exact(true);
    auto const exact = oracle::gradient(c, oracle::read(p.dout.in()), oracle::read(p.dlse.in()));
    double most = 0;
    for (double const s : oracle::softmax(c).largest.x) { most = std::fmax(most, s); }
    double const units = 32 + 16 * most; // rows are rounded sums themselves
    verdict found;
    auto const operand = [&](factors<T> const& f, char const* a, char const* b, oracle::array const& dx, oracle::array const& size) {
        auto const s = f.pulled(dx, size);
        look<T>(found, a, f.da.in(), s.da, s.da_size, units);
        look<T>(found, b, f.db.in(), s.db, s.db_size, units);
    };
    operand(p.q, "da of q", "db of q", exact.dq, exact.dq_magnitude);
    operand(p.k, "da of k", "db of k", exact.dk, exact.dk_magnitude);
    operand(p.v, "da of v", "db of v", exact.dv, exact.dv_magnitude);
    INFO(n << (far ? ", features apart" : "") << ": " << found.text);
    CHECK(found.good());
    CHECK(p.intact());
}

} // namespace

TEST_CASE("factored: gradients of every factor are those of the rows, contracted", "[factored]") {
    HEED_SEEDED;
    random_source random(921);
    for (call_sizes const& n : {call_sizes{1, 1, 1, 1, 1, 1, 1, 1, 1, 1}, call_sizes{2, 4, 4, 33, 50, 17, 9, 6, 2, 3}, call_sizes{1, 6, 2, 70, 61, 16, 8, 3, 5, 1}, call_sizes{2, 2, 2, 21, 40, 12, 12, 6, 2, 3, true, false},
                                call_sizes{2, 2, 1, 13, 30, 10, 5, 2, 4, 4, false, true}, call_sizes{1, 2, 2, 5, 3, 4, 4, 2, 2, 2}, call_sizes{1, 2, 2, 5, 0, 4, 4, 2, 2, 2}}) {
        check_call(n, random, false);
        check_call(n, random, true);
    }
}

TEST_CASE("factored: gradients of turned rows, of dense queries, of some factors only", "[factored]") {
    HEED_SEEDED;
    random_source random(922);
    factored_call<double> p({2, 4, 2, 30, 41, 18, 7, 3, 2, 2}, random);
    heed::rotary const rope{heed::interleaved_pairs{}, heed::geometric{500}};
    auto const q = heed::factored{p.q.a.in(), p.q.b.in(), rope}, k = heed::factored{p.k.a.in(), p.k.b.in(), rope};
    heed::forward(causal, q, k, p.v.operand(), p.out.view(), heed::save{p.lse.view()});
    heed::backward(causal, q, k, p.v.operand(), p.out.in(), heed::save{p.lse.view()}, p.dout.in(), p.q.gradient(), p.k.gradient(), p.v.gradient());
    // b turned by hand, its gradient turned back
    factored_call<double> r = [&] {
        random_source again(1);
        factored_call<double> c(p.n, again);
        c.q.a.copy(p.q.a.in()), c.q.b.copy(p.q.b.in()), c.k.a.copy(p.k.a.in()), c.k.b.copy(p.k.b.in()), c.v.a.copy(p.v.a.in()), c.v.b.copy(p.v.b.in());
        return c;
    }();
    heed::rotary of_queries = rope;
    of_queries.offset = 41 - 30;
    heed::rotate(r.q.b.view(), of_queries);
    heed::rotate(r.k.b.view(), rope);
    r.run(causal);
    heed::backward(causal, r.q.operand(), r.k.operand(), r.v.operand(), r.out.in(), heed::save{r.lse.view()}, p.dout.in(), r.q.gradient(), r.k.gradient(), r.v.gradient());
    std::vector<double> back;
    for (extent_t m = 0; m < 9; ++m) { back.push_back(-rope.frequencies.frequency(m, 18)); }
    heed::rotary backwards{heed::interleaved_pairs{}, heed::listed_frequencies{heed::tensor_view<double const>{back.data(), {1, 1, 1, 9}}}};
    heed::rotate(r.k.db.view(), backwards);
    backwards.offset = of_queries.offset;
    heed::rotate(r.q.db.view(), backwards);
    CHECK(compare_close<double>(p.q.da.in(), r.q.da.in(), 1e-12).good());
    CHECK(compare_close<double>(p.q.db.in(), r.q.db.in(), 1e-12).good());
    CHECK(compare_close<double>(p.k.db.in(), r.k.db.in(), 1e-12).good());
    CHECK(compare_close<double>(p.v.da.in(), r.v.da.in(), 1e-12).good());

    // dense queries: dq is that of the rows; the unwanted are left alone
    tensor<double> queries({2, 4, 30, 18}), dq(queries.shape()), dq2(queries.shape());
    auto const rows = r.q.rows();
    queries.each_at([&](double& x, extent_t b, extent_t h, extent_t n, extent_t e) { x = rows(b, h, n, e); });
    r.v.db.fill(7);
    heed::backward(causal, queries.in(), r.k.operand(), r.v.operand(), r.out.in(), heed::save{r.lse.view()}, p.dout.in(), dq.view(), heed::factored_gradient<double>{}, heed::factored_gradient<double>{r.v.da.view(), {}});
    CHECK(compare_close<double>(p.v.da.in(), r.v.da.in(), 1e-12).good());
    r.v.db.each([](double& x) { CHECK(x == 7); });
    verdict found;
    look<double>(found, "da of q", p.q.da.in(), r.q.pulled(oracle::read(dq.in()), oracle::read(dq.in())).da, oracle::array(p.q.da.shape(), 1), 1e5);
    INFO(found.text);
    CHECK(found.good());
}

TEST_CASE("factored: third order is second order with the outer product of b and c, forward and gradients, turned too", "[factored]") {
    HEED_SEEDED;
    random_source random(925);
    extent_t const B = 2, H = 4, N = 23, R = 3, db = 6, dc = 4, d = db * dc, e = 7;
    heed::rotary const rope{heed::half_pairs{}, heed::geometric{100}};
    for (bool const constant : {false, true}) { // c for all positions
        tensor<double> a({B, H, N, R}), b({B, R, N, db}), c({constant ? 1 : B, R, constant ? 1 : N, dc}), whole({B, R, N, d}), turned({B, R, N, db}), v({B, H, N, e}), out(v.shape()), expected(v.shape()), lse({B, H, N, 1});
        tensor<double> da(a.shape()), dbb(b.shape()), dcc(c.shape()), da2(a.shape()), dwhole(whole.shape()), dout(v.shape()), dv(v.shape()), dv2(v.shape());
        a.normal(random), b.normal(random), c.normal(random), v.normal(random), dout.normal(random);
        auto const c_at = [&](extent_t i, extent_t r, extent_t n, extent_t g) { return c(constant ? 0 : i, r, constant ? 0 : n, g); };
        turned.copy(b.in());
        heed::rotate(turned.view(), rope);
        whole.each_at([&](double& x, extent_t i, extent_t r, extent_t n, extent_t f) { x = turned(i, r, n, f % db) * c_at(i, r, n, f / db); });
        auto const third = heed::third_order{a.in(), b.in(), c.in(), rope};
        auto const second = heed::factored{a.in(), whole.in()};
        auto const saved = heed::forward(causal, third, third, v.in(), out.view(), heed::save{lse.view()});
        heed::forward(causal, second, second, v.in(), expected.view());
        CHECK(compare_close<double>(out.in(), expected.in(), 1e-13).good());

        // keys of third order; the queries' gradient is not wanted
        heed::backward(causal, third, third, v.in(), out.in(), saved, dout.in(), heed::third_order_gradient<double>{}, heed::third_order_gradient{da.view(), dbb.view(), dcc.view()}, dv.view());
        heed::backward(causal, second, second, v.in(), out.in(), saved, dout.in(), heed::factored_gradient<double>{}, heed::factored_gradient{da2.view(), dwhole.view()}, dv2.view());
        CHECK(compare_close<double>(da.in(), da2.in(), 1e-12).good());
        CHECK(compare_close<double>(dv.in(), dv2.in(), 1e-12).good());
        tensor<double> back({B, R, N, db}), c_back(c.shape());
        back.fill(0), c_back.fill(0);
        dwhole.each_at([&](double& x, extent_t i, extent_t r, extent_t n, extent_t f) {
            back(i, r, n, f % db) += x * c_at(i, r, n, f / db);
            c_back(constant ? 0 : i, r, constant ? 0 : n, f / db) += x * turned(i, r, n, f % db);
        });
        std::vector<double> frequencies;
        for (extent_t m = 0; m < db / 2; ++m) { frequencies.push_back(-rope.frequencies.frequency(m, db)); }
        heed::rotate(back.view(), heed::rotary{heed::half_pairs{}, heed::listed_frequencies{heed::tensor_view<double const>{frequencies.data(), {1, 1, 1, db / 2}}}});
        CHECK(compare_close<double>(dbb.in(), back.in(), 1e-11).good());
        CHECK(compare_close<double>(dcc.in(), c_back.in(), 1e-11).good());
    }
}

TEST_CASE("factored: threads change no bit of a gradient; constants are summed in one order", "[factored]") {
    HEED_SEEDED;
    for (int const constant : {0, 1, 2}) {
        random_source random(923), again(923);
        call_sizes const n{2, 4, 2, 150, 300, 24, 16, 6, 2, 2, constant == 1, constant == 2};
        factored_call<float> p(n, random), r(n, again);
        p.back(causal);
        r.back(causal, heed::cpu{thread_team{3}});
        CHECK((same_bits(p.q.da, r.q.da) && same_bits(p.q.db, r.q.db) && same_bits(p.k.da, r.k.da) && same_bits(p.k.db, r.k.db) && same_bits(p.v.da, r.v.da) && same_bits(p.v.db, r.v.db)));
    }
}

TEST_CASE("factored: gradients that do not fit are refused before anything is written", "[factored]") {
    HEED_SEEDED;
    random_source random(924);
    factored_call<double> p({1, 2, 2, 5, 7, 4, 3, 2, 2, 2}, random);
    p.run(causal);
    p.v.da.fill(3);
    auto const refused = [&](auto const& dq, auto const& dv) {
        CHECK_THROWS_AS(heed::backward(causal, p.q.operand(), p.k.operand(), p.v.operand(), p.out.in(), heed::save{p.lse.view()}, p.dout.in(), dq, p.k.gradient(), dv), heed::shape_error);
        p.v.da.each([](double& x) { CHECK(x == 3); });
    };
    tensor<double> small({1, 2, 5, 1});
    refused(heed::factored_gradient<double>{small.view(), {}}, p.v.gradient());
    refused(heed::factored_gradient<double>{p.v.da.view(), {}}, p.v.gradient()); // of another shape, and the same memory
    refused(p.q.gradient(), heed::factored_gradient<double>{p.v.da.view(), {p.v.a.view().data_handle(), p.v.b.shape(), p.v.b.view().strides()}});
}

TEST_CASE("factored: policies with data per head take all heads at once, and get their gradient", "[factored]") {
    HEED_SEEDED;
    random_source random(926);
    factored_call<double> p({2, 6, 3, 20, 31, 8, 5, 3, 2, 2}, random);
    tensor<double> slopes({1, 6, 1, 1}), dslopes(slopes.shape()), wanted(slopes.shape());
    slopes.normal(random);
    auto const m = heed::attention{heed::dot{} | heed::inv_sqrt_width{} | heed::alibi{slopes.in()}, heed::causal_bottom_right{}, heed::softmax{}};
    p.run(m);
    heed::save<double> const saved{p.lse.view()};
    CHECK(heed::plan_backward(m, p.q.operand(), p.k.operand(), p.v.operand(), p.out.in(), saved, p.dout.in(), p.q.gradient(), p.k.gradient(), p.v.gradient()).heads_at_once() == 3);
    heed::backward(m, p.q.operand(), p.k.operand(), p.v.operand(), p.out.in(), saved, p.dout.in(), p.q.gradient(), p.k.gradient(), p.v.gradient(), heed::alibi_gradient{dslopes.view()});
    // the rows written out
    auto const written = [](factors<double> const& f) {
        auto const rows = f.rows();
        tensor<double> x(rows.s);
        x.each_at([&](double& y, extent_t b, extent_t h, extent_t n, extent_t e) { y = rows(b, h, n, e); });
        return x;
    };
    auto const q = written(p.q), k = written(p.k), v = written(p.v);
    tensor<double> dq(q.shape()), dk(k.shape()), dv(v.shape());
    heed::backward(m, q.in(), k.in(), v.in(), p.out.in(), saved, p.dout.in(), dq.view(), dk.view(), dv.view(), heed::alibi_gradient{wanted.view()});
    CHECK(compare_close<double>(dslopes.in(), wanted.in(), 1e-11).good());
    verdict found;
    auto const same = [&](factors<double> const& f, tensor<double> const& d) {
        auto const s = f.pulled(oracle::read(d.in()), oracle::read(d.in()));
        look<double>(found, "da", f.da.in(), s.da, oracle::array(f.da.shape(), 1), 1e5);
        look<double>(found, "db", f.db.in(), s.db, oracle::array(f.db.shape(), 1), 1e5);
    };
    same(p.q, dq), same(p.k, dk), same(p.v, dv);
    INFO(found.text);
    CHECK(found.good());
}

TEST_CASE("factored: a plan of backward allocates nothing and stays in its workspace; the door allocates once", "[factored]") {
    HEED_SEEDED;
    random_source random(927);
    for (call_sizes const& n : {call_sizes{2, 4, 2, 49, 131, 7, 9, 3, 2, 2}, call_sizes{1, 1, 1, 0, 5, 3, 3, 1, 1, 1}, call_sizes{1, 2, 1, 5, 0, 3, 3, 2, 1, 1}, call_sizes{1, 2, 1, 60, 2100, 6, 3, 2, 1, 1}}) {
        factored_call<double> p(n, random);
        p.back(causal);
        tensor<double> db(p.k.db.shape());
        db.copy(p.k.db.in());
        heed::save<double> const saved{p.lse.view()};
        for (int threads : {1, 3}) {
            auto plan = heed::plan_backward(causal, p.q.operand(), p.k.operand(), p.v.operand(), p.out.in(), saved, p.dout.in(), p.q.gradient(), p.k.gradient(), p.v.gradient(), heed::cpu{backwards{threads}}, heed::saved_gradient{p.dlse.in()});
            guarded_block const workspace(plan.workspace_bytes(), place::upper_page, 3);
            allocation_scope const scope;
            plan.run(std::span<std::byte>(workspace.data(), workspace.bytes()));
            std::size_t const calls = scope.calls();
            INFO(n << ", threads " << threads);
            CHECK(calls == 0);
            CHECK(workspace.surroundings_intact());
            CHECK(same_bits(db, p.k.db));
        }
        allocation_scope const scope;
        heed::backward(causal, p.q.operand(), p.k.operand(), p.v.operand(), p.out.in(), saved, p.dout.in(), p.q.gradient(), p.k.gradient(), p.v.gradient());
        std::size_t const calls = scope.calls();
        CHECK(calls == 1);
    }
}
