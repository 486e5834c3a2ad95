// SPDX-License-Identifier: BSD-3-Clause
// dq, dk, dv of softmax attention against the oracle, and the oracle against central differences of the double engine.
#include "problem.hpp"

using namespace heed_test;

namespace {

template <class T, class M, class Keep>
double try_shapes(int count, std::uint64_t stream, M const& m, Keep keep) {
    random_source random(stream);
    double worst = 0;
    for (int i = 0; i < count; ++i) {
        gradient_problem<T> p(random_sizes(random), random);
        p.back(m);
        auto c = p.exact();
        c.keep = keep(p.n.pairs());
        auto const found = against(p, c);
        INFO(p.n << " " << found.text);
        REQUIRE(found.good());
        worst = std::fmax(worst, found.worst);
    }
    return worst;
}

} // namespace

TEST_CASE("gradients: random shapes, full", "[gradient]") {
    HEED_SEEDED;
    CHECK(try_shapes<float>(40, 401, heed::softmax_attention(), oracle::everything) > 0.001);
    CHECK(try_shapes<double>(15, 402, heed::softmax_attention(), oracle::everything) > 0.001);
}
TEST_CASE("gradients: random shapes, causal", "[gradient]") {
    HEED_SEEDED;
    try_shapes<float>(40, 403, heed::softmax_attention(heed::causal_bottom_right{}), oracle::causal_bottom_right);
    try_shapes<float>(15, 404, heed::softmax_attention(heed::causal_top_left{}), oracle::causal_top_left);
    try_shapes<double>(10, 405, heed::softmax_attention(heed::causal_bottom_right{}), oracle::causal_bottom_right);
}
TEST_CASE("gradients: random shapes, window", "[gradient]") {
    HEED_SEEDED;
    try_shapes<float>(30, 406, heed::softmax_attention(heed::window{30, 20}), [](heed::shape s) { return oracle::band(s, 30, 20); });
}
TEST_CASE("gradients: a listed mask", "[gradient]") {
    HEED_SEEDED;
    random_source random(407);
    for (int i = 0; i < 10; ++i) {
        gradient_problem<float> p(random_sizes(random), random);
        tensor<std::uint8_t> m(p.n.pairs());
        m.each([&](std::uint8_t& x) { x = random.chance(0.3); });
        p.back(heed::softmax_attention(heed::mask{m.view()}));
        auto c = p.exact();
        c.keep = oracle::listed(p.n.pairs(), oracle::read(m.in()));
        auto const found = against(p, c);
        INFO(p.n << " " << found.text);
        REQUIRE(found.good());
    }
}

TEST_CASE("gradients: fast widths and several splits of the keys", "[gradient]") {
    HEED_SEEDED;
    random_source random(408);
    for (sizes n : {sizes{1, 1, 1, 100, 2300, 64, 64}, sizes{1, 2, 1, 70, 1100, 128, 64}, sizes{1, 1, 1, 50, 5000, 96, 32}, sizes{1, 1, 1, 30, 600, 192, 128}, sizes{1, 1, 1, 30, 600, 256, 256}, sizes{1, 1, 1, 49, 130, 80, 112}}) {
        gradient_problem<float> p(n, random);
        p.back(heed::softmax_attention());
        auto const found = against(p, p.exact());
        INFO(p.n << " " << found.text);
        CHECK(found.good());
    }
}

TEST_CASE("gradients: rows and features apart, broadcast inputs, gradients in gaps", "[gradient]") {
    HEED_SEEDED;
    random_source random(409);
    for (int round = 0; round < 8; ++round) {
        sizes const n{2, 4, 2, random.integer(1, 60), random.integer(1, 300), random.integer(1, 40), random.integer(1, 40)};
        gradient_problem<float> p(n, random);
        auto const m = heed::softmax_attention(heed::causal_bottom_right{});
        p.back(m);
        auto const apart = [](heed::shape s) { return heed::strides{s.head * s.seq * s.feature, s.seq * s.feature, 1, s.seq}; };
        tensor<float> q(n.q(), apart(n.q())), k(n.k(), apart(n.k())), v(n.v(), padded(n.v(), 3)), out(n.out(), apart(n.out())), dout(n.out(), apart(n.out())), dq(n.q(), padded(n.q(), 2)),
            dk(n.k(), apart(n.k())), dv(n.v(), padded(n.v(), 1));
        q.copy(p.q.in());
        k.copy(p.k.in());
        v.copy(p.v.in());
        out.copy(p.out.in());
        dout.copy(p.dout.in());
        heed::backward(m, q.in(), k.in(), v.in(), out.in(), heed::save{p.lse.view()}, dout.in(), dq.view(), dk.view(), dv.view(), heed::saved_gradient{p.dlse.in()});
        INFO(n);
        CHECK(compare_close<float>(dq.in(), p.dq.in(), 1e-4).good());
        CHECK(compare_close<float>(dk.in(), p.dk.in(), 1e-4).good());
        CHECK(compare_close<float>(dv.in(), p.dv.in(), 1e-4).good());
        CHECK((dq.intact() && dk.intact() && dv.intact()));
    }
}

TEST_CASE("gradients: ragged sequences equal each by itself, bit by bit", "[gradient]") {
    HEED_SEEDED;
    random_source random(410);
    std::vector<std::int32_t> const q_at{0, 5, 5, 60, 130}, k_at{0, 9, 30, 30, 400};
    heed::ragged_offsets const qo{std::span<std::int32_t const>(q_at)}, ko{std::span<std::int32_t const>(k_at)};
    gradient_problem<float> p({1, 4, 2, 130, 400, 17, 20}, random);
    auto const m = heed::softmax_attention(heed::causal_bottom_right{});
    auto const cut_q = [&](auto v) { return heed::ragged(v, qo); };
    auto const cut_k = [&](auto v) { return heed::ragged(v, ko); };
    auto const saved = heed::forward(m, cut_q(p.q.in()), cut_k(p.k.in()), cut_k(p.v.in()), cut_q(p.out.view()), heed::save{cut_q(p.lse.view())});
    heed::backward(m, cut_q(p.q.in()), cut_k(p.k.in()), cut_k(p.v.in()), cut_q(p.out.in()), saved, cut_q(p.dout.in()), cut_q(p.dq.view()), cut_k(p.dk.view()), cut_k(p.dv.view()));
    for (std::size_t s = 0; s + 1 < q_at.size(); ++s) {
        extent_t const n = q_at[s + 1] - q_at[s], k = k_at[s + 1] - k_at[s];
        auto const part = [](auto v, extent_t first, extent_t rows) { return decltype(v){v.row(0, 0, first), {1, v.extent(1), rows, v.extent(3)}, v.strides()}; };
        sizes const one{1, 4, 2, n, k, 17, 20};
        tensor<float> dq(one.q()), dk(one.k()), dv(one.v());
        heed::backward(m, part(p.q.in(), q_at[s], n), part(p.k.in(), k_at[s], k), part(p.v.in(), k_at[s], k), part(p.out.in(), q_at[s], n), heed::save{part(p.lse.view(), q_at[s], n)},
                       part(p.dout.in(), q_at[s], n), dq.view(), dk.view(), dv.view());
        INFO("sequence " << s);
        CHECK(same_bits<float>(dq.in(), part(p.dq.in(), q_at[s], n)));
        CHECK(same_bits<float>(dk.in(), part(p.dk.in(), k_at[s], k)));
        CHECK(same_bits<float>(dv.in(), part(p.dv.in(), k_at[s], k)));
    }
}

TEST_CASE("gradients: only those that are wanted", "[gradient]") {
    HEED_SEEDED;
    random_source random(411);
    gradient_problem<float> p({1, 2, 1, 40, 200, 16, 24}, random);
    auto const m = heed::softmax_attention();
    p.back(m);
    tensor<float> dq(p.n.q()), dv(p.n.v());
    heed::tensor_view<float> const none{};
    heed::backward(m, p.q.in(), p.k.in(), p.v.in(), p.out.in(), heed::save{p.lse.view()}, p.dout.in(), dq.view(), none, none, heed::saved_gradient{p.dlse.in()});
    heed::backward(m, p.q.in(), p.k.in(), p.v.in(), p.out.in(), heed::save{p.lse.view()}, p.dout.in(), none, none, dv.view(), heed::saved_gradient{p.dlse.in()});
    CHECK(same_bits(dq, p.dq));
    CHECK(same_bits(dv, p.dv));
}

TEST_CASE("gradients: a log-sum-exp saved in base 2 gives the same", "[gradient]") {
    HEED_SEEDED;
    random_source random(412);
    gradient_problem<double> p({1, 2, 1, 40, 200, 16, 24}, random);
    auto const m = heed::softmax_attention();
    p.back(m);
    tensor<double> lse2(p.n.lse()), dlse2(p.n.lse()), dq(p.n.q()), dk(p.n.k()), dv(p.n.v());
    auto const saved = heed::forward(m, p.q.in(), p.k.in(), p.v.in(), p.out.view(), heed::save_log2{lse2.view()});
    dlse2.each_at([&](double& x, extent_t b, extent_t h, extent_t i, extent_t) { x = p.dlse(b, h, i, 0) * heed::math::ln2; }); // the same loss
    heed::backward(m, p.q.in(), p.k.in(), p.v.in(), p.out.in(), saved, p.dout.in(), dq.view(), dk.view(), dv.view(), heed::saved_gradient{dlse2.in()});
    CHECK(compare_close<double>(dq.in(), p.dq.in(), 1e-12).good());
    CHECK(compare_close<double>(dk.in(), p.dk.in(), 1e-12).good());
    CHECK(compare_close<double>(dv.in(), p.dv.in(), 1e-12).good());
}

TEST_CASE("gradients: the double engine against central differences", "[gradient]") {
    HEED_SEEDED;
    random_source random(413);
    for (int round = 0; round < 4; ++round) {
        gradient_problem<double> p({1, 4, 2, random.integer(1, 30), random.integer(1, 200), random.integer(1, 20), random.integer(1, 20)}, random);
        auto const m = heed::softmax_attention(heed::causal_bottom_right{});
        p.back(m);
        auto const loss = [&] {
            p.run(m);
            double sum = 0;
            p.out.each_at([&](double& x, extent_t b, extent_t h, extent_t i, extent_t e) { sum += x * p.dout(b, h, i, e); });
            p.lse.each_at([&](double& x, extent_t b, extent_t h, extent_t i, extent_t) { sum += std::isfinite(x) ? x * p.dlse(b, h, i, 0) : 0; });
            return sum;
        };
        auto const try_element = [&](tensor<double>& t, tensor<double>& d) {
            extent_t const b = 0, h = random.integer(0, t.shape().head - 1), n = random.integer(0, t.shape().seq - 1), f = random.integer(0, t.shape().feature - 1);
            double const before = t(b, h, n, f), step = 1e-4;
            auto const at = [&](double x) {
                t(b, h, n, f) = x;
                return loss();
            };
            // fourth order
            double const difference = (8 * (at(before + step) - at(before - step)) - (at(before + 2 * step) - at(before - 2 * step))) / (12 * step);
            t(b, h, n, f) = before;
            INFO(p.n << " at " << h << " " << n << " " << f);
            CHECK(std::fabs(difference - d(b, h, n, f)) <= 1e-6 * std::fmax(1, std::fabs(difference)));
        };
        for (int i = 0; i < 6; ++i) {
            try_element(p.q, p.dq);
            try_element(p.k, p.dk);
            try_element(p.v, p.dv);
        }
    }
}

// Sentence: gradients in fp32 have at most twice the error of the plain implementation in fp32.
TEST_CASE("gradients: no worse than twice the plain fp32 computation", "[gradient]") {
    HEED_SEEDED;
    random_source random(414);
    for (sizes n : {sizes{1, 1, 1, 200, 200, 64, 64}, sizes{1, 1, 1, 100, 1500, 32, 48}, sizes{1, 1, 1, 300, 40, 128, 16}}) {
        gradient_problem<float> p(n, random);
        p.dlse.fill(0);
        p.back(heed::softmax_attention());
        auto const c = p.exact();
        auto const exact = oracle::gradient(c, oracle::read(p.dout.in()));
        // plain: whole rows, one float at a time
        auto const at = [](extent_t a, extent_t b, extent_t width) { return static_cast<std::size_t>(a * width + b); };
        extent_t const N = n.queries, M = n.keys, D = n.width, E = n.value_width;
        std::vector<float> P(static_cast<std::size_t>(N * M)), dq(static_cast<std::size_t>(N * D)), dk(static_cast<std::size_t>(M * D)), dv(static_cast<std::size_t>(M * E));
        float const scale = 1 / std::sqrt(static_cast<float>(D));
        for (extent_t i = 0; i < N; ++i) {
            float top = -std::numeric_limits<float>::infinity(), sum = 0, centre = 0;
            for (extent_t j = 0; j < M; ++j) {
                float s = 0;
                for (extent_t d = 0; d < D; ++d) { s += p.q(0, 0, i, d) * p.k(0, 0, j, d); }
                P[at(i, j, M)] = s * scale;
                top = std::max(top, s * scale);
            }
            for (extent_t j = 0; j < M; ++j) { sum += P[at(i, j, M)] = std::exp(P[at(i, j, M)] - top); }
            for (extent_t j = 0; j < M; ++j) { P[at(i, j, M)] /= sum; }
            for (extent_t e = 0; e < E; ++e) {
                float o = 0;
                for (extent_t j = 0; j < M; ++j) { o += P[at(i, j, M)] * p.v(0, 0, j, e); }
                centre += o * p.dout(0, 0, i, e);
            }
            for (extent_t j = 0; j < M; ++j) {
                float dp = 0;
                for (extent_t e = 0; e < E; ++e) {
                    dp += p.dout(0, 0, i, e) * p.v(0, 0, j, e);
                    dv[at(j, e, E)] += P[at(i, j, M)] * p.dout(0, 0, i, e);
                }
                float const ds = P[at(i, j, M)] * (dp - centre) * scale;
                for (extent_t d = 0; d < D; ++d) {
                    dq[at(i, d, D)] += ds * p.k(0, 0, j, d);
                    dk[at(j, d, D)] += ds * p.q(0, 0, i, d);
                }
            }
        }
        auto const worse = [&](tensor<float> const& ours, std::vector<float> const& plain, oracle::array const& truth) {
            double mine = 0, theirs = 0;
            for (extent_t r = 0; r < ours.shape().seq; ++r)
                for (extent_t f = 0; f < ours.shape().feature; ++f) {
                    mine = std::fmax(mine, std::fabs(static_cast<double>(ours(0, 0, r, f)) - truth(0, 0, r, f)));
                    theirs = std::fmax(theirs, std::fabs(static_cast<double>(plain[at(r, f, ours.shape().feature)]) - truth(0, 0, r, f)));
                }
            INFO(n << ": " << mine << " and plain " << theirs);
            CHECK(mine > 0);
            CHECK(mine <= 2 * theirs);
        };
        worse(p.dq, dq, exact.dq);
        worse(p.dk, dk, exact.dk);
        worse(p.dv, dv, exact.dv);
    }
}
