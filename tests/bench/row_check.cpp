// SPDX-License-Identifier: BSD-3-Clause
// The checker must notice: it is fed right results, made here from the definition, and wrong ones.
#include <support/catch.hpp>

#include <timing/operands.hpp>
#include <timing/pair_count.hpp>
#include <timing/row_check.hpp>

#include <cmath>
#include <limits>
#include <vector>

using namespace heed::bench;

namespace {

template <class T>
void attend(problem const& p, operands<T> const& o) {
    std::vector<double> weight(static_cast<std::size_t>(p.keys));
    for (std::int64_t unit = 0; unit < p.batch * p.heads; ++unit) {
        auto const head = unit % p.heads, kv = unit / p.heads * p.kv_heads + head / (p.heads / p.kv_heads);
        for (std::int64_t i = 0; i < p.queries; ++i) {
            double total = 0;
            for (std::int64_t j = 0; j < p.keys; ++j) {
                double s = 0;
                for (std::int64_t c = 0; c < p.dim; ++c) {
                    s += static_cast<double>(o.q[(unit * p.queries + i) * p.dim + c]) * static_cast<double>(o.k[(kv * p.keys + j) * p.dim + c]);
                }
                s /= std::sqrt(static_cast<double>(p.dim));
                if (p.softcap != 0) { s = p.softcap * std::tanh(s / p.softcap); }
                if (p.alibi) { s -= static_cast<double>(o.slopes[head]) * std::abs(static_cast<double>(i + p.keys - p.queries - j)); }
                if (p.bias == bias_kind::row) { s += static_cast<double>(o.bias[j]); }
                if (p.bias == bias_kind::full) { s += static_cast<double>(o.bias[(head * p.queries + i) * p.keys + j]); }
                total += weight[static_cast<std::size_t>(j)] = attends(p, i, j) ? std::exp(s) : 0;
            }
            for (std::int64_t e = 0; e < p.dim_v; ++e) {
                double sum = 0;
                for (std::int64_t j = 0; j < p.keys; ++j) {
                    sum += weight[static_cast<std::size_t>(j)] * static_cast<double>(o.v[(kv * p.keys + j) * p.dim_v + e]);
                }
                o.out[(unit * p.queries + i) * p.dim_v + e] = static_cast<T>(total == 0 ? 0.0 : sum / total);
            }
        }
    }
}

problem small() {
    problem p;
    p.batch = 2;
    p.heads = 4;
    p.kv_heads = 2;
    p.queries = 9;
    p.keys = 7;
    p.dim = 5;
    p.dim_v = 3;
    return p;
}

template <class T>
void check_right_and_wrong(problem p) {
    p.dtype = std::is_same_v<T, float> ? element::f32 : std::is_same_v<T, double> ? element::f64 : std::is_same_v<T, heed::bf16> ? element::bf16 : element::f16;
    INFO(name_of(p));
    operand_store store(11);
    store.reserve(p);
    auto const o = store.of<T>(p);
    auto const size = p.batch * p.heads * p.queries * p.dim_v;
    poison(p, o);
    CHECK(check_rows(p, o, 1) != "");
    attend(p, o);
    CHECK(check_rows(p, o, 1) == "");

    o.out[size - 1] = static_cast<T>(static_cast<double>(o.out[size - 1]) + (sizeof(T) == 2 ? 0.1 : 1e-3)); // the last row is always sampled
    CHECK_THAT(check_rows(p, o, 1), heed_test::contains("row batch 1, head 3, query 8, feature 2"));
    attend(p, o);
    for (std::int64_t i = 0; i < size; ++i) { // a row never written is found wherever it is
        auto const kept = o.out[i];
        o.out[i] = static_cast<T>(std::numeric_limits<heed::compute_t<T>>::quiet_NaN());
        CHECK(check_rows(p, o, 1) != "");
        o.out[i] = kept;
    }
}

} // namespace

TEST_CASE("row check: right passes, wrong and unwritten fail, for every mask and score") {
    for (auto const mask : {mask_kind::full, mask_kind::causal, mask_kind::window, mask_kind::document}) {
        auto p = small();
        p.mask = mask;
        p.window = 3;
        p.documents = 3;
        check_right_and_wrong<float>(p);
        check_right_and_wrong<double>(p);
    }
    check_right_and_wrong<heed::bf16>(small());
    check_right_and_wrong<heed::fp16>(small());
    for (int stage = 0; stage < 4; ++stage) {
        auto p = small();
        p.softcap = stage == 0 ? 1.5 : 0;
        p.alibi = stage == 1;
        p.bias = stage == 2 ? bias_kind::row : stage == 3 ? bias_kind::full : bias_kind::none;
        check_right_and_wrong<float>(p);
    }
}

TEST_CASE("row check: a query without keys must be exactly zero") {
    auto p = small();
    p.mask = mask_kind::causal; // more queries than keys: the first two see nothing
    operand_store store(3);
    store.reserve(p);
    auto const o = store.of<float>(p);
    attend(p, o);
    REQUIRE(o.out[0] == 0);
    o.out[0] = 1e-30f;
    CHECK_THAT(check_rows(p, o, 1), heed_test::contains("head 0, query 0, feature 0"));
}

TEST_CASE("inputs: normal, and the same for the same seed") {
    std::vector<float> a(100001), b(100001), c(100001);
    fill_normal(std::span(a), 1, 0);
    fill_normal(std::span(b), 1, 0);
    fill_normal(std::span(c), 1, 1);
    CHECK(a == b);
    CHECK(a != c);
    double sum = 0, squares = 0, fourth = 0;
    for (float const x : a) { sum += x, squares += double{x} * x, fourth += double{x} * x * x * x; }
    auto const n = static_cast<double>(a.size());
    CHECK(std::abs(sum / n) < 0.02);
    CHECK(squares / n == heed_test::approx(1).epsilon(0.02));
    CHECK(fourth / n == heed_test::approx(3).epsilon(0.06));
}
