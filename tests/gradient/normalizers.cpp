// SPDX-License-Identifier: BSD-3-Clause
// Backward of every normalizer against central differences of its own forward in double, and of every storage type against float on the widened
// tensors: what a gradient of narrow tensors adds is one rounding.
#include "problem.hpp"

using namespace heed_test;

namespace {

auto const inner = heed::dot{} | heed::inv_sqrt_width{};

// L = sum out . dout; three random elements of each of q, k, v.
template <class M>
void try_differences(M const& m, sizes n, std::uint64_t stream) {
    random_source random(stream);
    constexpr int kept = heed::detail::kept_of<decltype(M::normalizer)>();
    gradient_problem<double> p(n, random);
    heed::shape numbers = n.lse();
    numbers.feature = kept == 0 ? 1 : kept;
    tensor<double> saved(numbers);
    auto const forward = [&] {
        if constexpr (kept == 0) {
            heed::forward(m, p.q.in(), p.k.in(), p.v.in(), p.out.view());
            return heed::nothing_saved{};
        } else {
            return heed::forward(m, p.q.in(), p.k.in(), p.v.in(), p.out.view(), heed::save{saved.view()});
        }
    };
    auto const loss = [&] {
        forward();
        double sum = 0;
        p.out.each_at([&](double& x, extent_t b, extent_t h, extent_t i, extent_t e) { sum += x * p.dout(b, h, i, e); });
        return sum;
    };
    auto const state = forward();
    heed::backward(m, p.q.in(), p.k.in(), p.v.in(), p.out.in(), state, p.dout.in(), p.dq.view(), p.dk.view(), p.dv.view());
    auto const try_element = [&](tensor<double>& t, tensor<double>& d) {
        extent_t const h = random.integer(0, t.shape().head - 1), r = random.integer(0, t.shape().seq - 1), f = random.integer(0, t.shape().feature - 1);
        double const before = t(0, h, r, f), got = d(0, h, r, f);
        double best = std::numeric_limits<double>::infinity();
        for (double step : {1e-5, 1e-6}) { // a second step where the first stands across a kink
            t(0, h, r, f) = before + step;
            double const above = loss();
            t(0, h, r, f) = before - step;
            double const difference = (above - loss()) / (2 * step);
            best = std::fmin(best, std::fabs(difference - got) / std::fmax(1, std::fabs(difference)));
        }
        t(0, h, r, f) = before;
        INFO(n << " at " << h << " " << r << " " << f);
        CHECK(best <= 1e-6);
    };
    for (int i = 0; i < 3; ++i) {
        try_element(p.q, p.dq);
        try_element(p.k, p.dk);
        try_element(p.v, p.dv);
    }
}
template <class N>
void try_normalizer(N const& normalizer, std::uint64_t stream) {
    try_differences(heed::attention{inner, heed::causal_bottom_right{}, normalizer}, {1, 4, 2, 41, 170, 9, 7}, stream);
    try_differences(heed::attention{inner, heed::causal_bottom_right{}, normalizer}, {1, 2, 2, 50, 30, 5, 6}, stream + 1); // rows without keys
}

} // namespace

TEST_CASE("gradients of normalizers: independent weights", "[gradient]") {
    HEED_SEEDED;
    try_normalizer(heed::pointwise{heed::sigmoid_weight{}}, 451);
    try_normalizer(heed::pointwise{heed::softplus_weight{}}, 453);
    try_normalizer(heed::pointwise{heed::squared_relu_weight{}, heed::by_keys{}}, 455);
    try_normalizer(heed::pointwise{heed::exponential_weight{30.0}, heed::by_visible{}}, 457);
}
TEST_CASE("gradients of normalizers: weights divided by their sum", "[gradient]") {
    HEED_SEEDED;
    try_normalizer(heed::pointwise{heed::elu_weight{}, heed::by_sum{1e-8}}, 461);
    try_normalizer(heed::pointwise{heed::quadratic_weight{}, heed::by_sum{0.0}}, 463);
    try_normalizer(heed::pointwise{heed::relu_weight{}, heed::by_sum{1e-3}}, 465);
}
TEST_CASE("gradients of normalizers: sparse weights", "[gradient]") {
    HEED_SEEDED;
    try_normalizer(heed::sparsemax{}, 471);
    try_normalizer(heed::entmax15{}, 473);
    try_normalizer(heed::top_k_softmax{5}, 475);
}
TEST_CASE("gradients of normalizers: softmax with a constant more in its sum", "[gradient]") {
    HEED_SEEDED;
    try_normalizer(heed::softmax_off_by_one{}, 481);
    try_normalizer(heed::softmax_constant_sink{0.7}, 483);
}

namespace {

// Narrow tensors against float on what they hold.
template <class E>
void try_storage(sizes n, std::uint64_t stream) {
    random_source random(stream);
    gradient_problem<float> wide(n, random);
    tensor<E> q(n.q()), k(n.k()), v(n.v()), out(n.out()), dout(n.out()), dq(n.q()), dk(n.k()), dv(n.v());
    auto const narrow = [](tensor<E>& to, tensor<float>& from) {
        to.each_at([&](E& x, extent_t b, extent_t h, extent_t i, extent_t f) {
            x = static_cast<E>(from(b, h, i, f));
            from(b, h, i, f) = static_cast<float>(x);
        });
    };
    narrow(q, wide.q);
    narrow(k, wide.k);
    narrow(v, wide.v);
    narrow(dout, wide.dout);
    auto const m = heed::softmax_attention(heed::causal_bottom_right{});
    auto const saved = heed::forward(m, q.in(), k.in(), v.in(), out.view(), heed::save{wide.lse.view()});
    heed::backward(m, q.in(), k.in(), v.in(), out.in(), saved, dout.in(), dq.view(), dk.view(), dv.view());
    wide.out.each_at([&](float& x, extent_t b, extent_t h, extent_t i, extent_t f) { x = static_cast<float>(out(b, h, i, f)); });
    heed::backward(m, wide.q.in(), wide.k.in(), wide.v.in(), wide.out.in(), saved, wide.dout.in(), wide.dq.view(), wide.dk.view(), wide.dv.view());
    auto const rounded = [&](char const* name, tensor<E>& got, tensor<float>& expected) {
        bool same = true;
        got.each_at([&](E& x, extent_t b, extent_t h, extent_t i, extent_t f) {
            E const want = static_cast<E>(expected(b, h, i, f));
            same = same && std::memcmp(&x, &want, sizeof(E)) == 0;
        });
        INFO(n << " " << name);
        CHECK(same);
        CHECK(got.intact());
    };
    rounded("dq", dq, wide.dq);
    rounded("dk", dk, wide.dk);
    rounded("dv", dv, wide.dv);
}

} // namespace

TEST_CASE("gradients of bf16 and fp16 tensors are those of float, rounded once", "[gradient]") {
    HEED_SEEDED;
    for (sizes n : {sizes{1, 2, 1, 49, 131, 7, 9}, sizes{1, 1, 1, 30, 1100, 64, 32}, sizes{2, 2, 2, 20, 9, 33, 16}}) {
        try_storage<heed::bf16>(n, 491);
        try_storage<heed::fp16>(n, 492);
    }
}
