// SPDX-License-Identifier: BSD-3-Clause
// Every mechanism in its forms: chunks, steps, chunks of other sizes, against the oracle token by token and the masked quadratic form; awkward shapes.
#include "trial.hpp"

using namespace heed_test;

namespace {

lengths awkward(random_source& random) {
    lengths n;
    n.batch = random.integer(1, 2);
    n.heads = random.pick({1, 2, 4, 6});
    n.q_heads = n.heads, n.k_heads = n.heads, n.v_heads = n.heads;
    if (random.chance(0.3)) { n.k_heads = 1, n.v_heads = 1; }
    if (random.chance(0.2)) { n.q_heads = 1; }
    if (n.q_heads == 1 && n.k_heads == 1) { n.v_heads = n.heads; }
    n.tokens = random.pick({1, 2, 15, 16, 17, 63, 64, 65, 130, 200});
    n.keys = random.pick({1, 5, 64, 90});
    n.width = random.pick({1, 3, 8, 17, 32, 70});
    n.value_width = random.pick({1, 4, 13, 24, 33, 100});
    return n;
}
// One rounding error per addition of a sum, in the square root of their number, with room: calibrated on AVX2, to be lowered only.
template <class T>
double allowed(lengths const& n, kind k) {
    return (std::is_same_v<T, float> ? 0x1p-23 : 0x1p-52) * (is_delta(k) ? 24 : 8) * (4 + std::sqrt(static_cast<double>(n.tokens + n.keys + n.width)) / 2);
}
template <class T>
void compare_all(kind k, random_source& random) {
    trial<T> t(k, awkward(random), random);
    t.with_states = random.chance(0.7);
    CAPTURE(name_of(k), t.n.batch, t.n.heads, t.n.q_heads, t.n.k_heads, t.n.v_heads, t.n.tokens, t.n.keys, t.n.width, t.n.value_width, t.with_states);
    double const bound = allowed<T>(t.n, k);
    recurrent_result const exact = token_by_token(t);
    run_forward(t);
    CHECK(far<T>(t.out.in(), exact.out) <= bound);
    CHECK(far<T>(t.s1.in(), exact.s) <= bound);
    if (has_z(k)) { CHECK(far<T>(t.z1.in(), exact.z) <= bound); }
    CHECK((t.out.intact() && t.s1.intact() && t.z1.intact() && t.q.intact() && t.v.intact()));
    if (!has_beta(k) && k != kind::value_decay && !t.with_states) { CHECK(far<T>(t.out.in(), quadratic(t)) <= bound); }
    if (is_along(k)) {
        t.out.fill(T(99));
        run_steps(t);
        CHECK(far<T>(t.out.in(), exact.out) <= bound);
        CHECK(far<T>(t.s1.in(), exact.s) <= bound);
        CHECK((t.out.intact() && t.s1.intact() && t.z1.intact()));
    }
}

} // namespace

TEST_CASE("Chunks and steps are the recurrence, token by token, on awkward shapes", "[recurrent]") {
    HEED_SEEDED;
    random_source random(1);
    for (int round = 0; round < 6; ++round) {
        for (kind const k : along) {
            compare_all<double>(k, random);
            compare_all<float>(k, random);
        }
        for (kind const k : {kind::all_keys, kind::first_keys}) {
            compare_all<double>(k, random);
            compare_all<float>(k, random);
        }
    }
}

TEST_CASE("The recurrence is the masked quadratic form", "[recurrent]") {
    HEED_SEEDED;
    random_source random(2);
    for (kind const k : {kind::raw, kind::normalized, kind::retention, kind::head_decay, kind::channel_decay, kind::all_keys, kind::first_keys}) {
        trial<double> t(k, {2, 2, 2, 1, 2, 75, 40, 9, 11}, random);
        t.with_states = false;
        run_forward(t);
        CAPTURE(name_of(k));
        CHECK(far<double>(t.out.in(), quadratic(t)) < 1e-13);
    }
}

TEST_CASE("The size of a chunk is a tuning value", "[recurrent]") {
    HEED_SEEDED;
    random_source random(3);
    for (kind const k : {kind::raw, kind::head_decay, kind::channel_decay, kind::gated_delta, kind::kimi_delta}) {
        trial<double> t(k, {1, 2, 2, 2, 2, 230, 230, 18, 21}, random), other = trial<double>(k, t.n, random);
        run_forward(t);
        for (int const chunk : {16, 100}) {
            oracle::array const expected = oracle::read(t.out.in()), last = oracle::read(t.s1.in());
            run_chunks(t, chunk);
            CAPTURE(name_of(k), chunk);
            CHECK(far<double>(t.out.in(), expected) < 1e-13);
            CHECK(far<double>(t.s1.in(), last) < 1e-13);
        }
    }
}

TEST_CASE("A plan says engine, chunk and bytes", "[recurrent]") {
    random_source random(4);
    trial<float> t(kind::gated_delta, {1, 2, 2, 2, 2, 100, 100, 16, 16}, random);
    CHECK_THAT(plan_of(t), contains("recurrent chunks on "));
    CHECK_THAT(plan_of(t), contains("chunks of 64 tokens, 1 slot, "));
    trial<float> all(kind::all_keys, {1, 2, 2, 2, 2, 100, 100, 16, 16}, random);
    CHECK_THAT(plan_of(all), contains("recurrent sums on "));
}
