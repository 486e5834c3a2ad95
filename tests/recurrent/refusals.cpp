// SPDX-License-Identifier: BSD-3-Clause
// Wrong calls are refused with a sentence before anything is written.
#include "trial.hpp"

#include <heed/front/recurrent_backward.hpp>
#include <heed/front/step.hpp>
#include <heed/mechanism/delta_rule.hpp>
#include <heed/mechanism/linear.hpp>

using namespace heed_test;

namespace {
template <class F>
std::string refusal(F const& f) {
    try {
        f();
    } catch (heed::shape_error const& e) { return e.what(); }
    return "nothing was refused";
}
} // namespace

TEST_CASE("Shapes, states and memory that do not fit", "[recurrent]") {
    tensor<float> q({1, 4, 5, 3}), k({1, 2, 5, 3}), v({1, 2, 5, 6}), out({1, 4, 5, 6}), s({1, 4, 3, 6}), z({1, 4, 3, 1}), beta({1, 4, 5, 2}), longer({1, 2, 6, 3}), values({1, 2, 6, 6});
    out.fill(7);
    auto const raw = heed::linear_attention_raw();
    auto const sums = heed::linear_attention();
    CHECK_THAT(refusal([&] { heed::forward(raw, q.in(), longer.in(), values.in(), out.view()); }), contains("heed: k has 6 positions and q has 5 positions; k.seq must equal q.seq"));
    CHECK_THAT(refusal([&] { heed::forward(raw, q.in(), k.in(), v.in(), out.view(), heed::final_state{z.view()}); }), contains("final state has 1 features and the state has 6 features"));
    CHECK_THAT(refusal([&] { heed::forward(raw, q.in(), k.in(), v.in(), out.view(), heed::final_state{s.view(), z.view()}); }), contains("final z is given and this mechanism keeps no running sum"));
    CHECK_THAT(refusal([&] { heed::forward(heed::delta_attention(beta.in()), q.in(), k.in(), v.in(), out.view()); }), contains("beta.feature is 2 and the call needs 6"));
    CHECK_THAT(refusal([&] { heed::forward(raw, q.in(), k.in(), v.in(), out.view(), heed::final_state{out.view()}); }), contains("heed: "));
    CHECK_THAT(refusal([&] { heed::step(sums, q.in(), k.in(), v.in(), heed::final_state{s.view()}, out.view()); }), contains("needs its z as well"));
    CHECK_THAT(refusal([&] { heed::step(raw, q.in(), k.in(), v.in(), heed::final_state{heed::tensor_view<float>{}}, out.view()); }), contains("a step needs a state"));
    CHECK_THAT(refusal([&] { heed::backward(raw, q.in(), k.in(), v.in(), out.in(), heed::nothing_saved{}, out.in(), q.view(), heed::tensor_view<float>{}, heed::tensor_view<float>{}); }), contains("dq overlaps q in memory"));
    bool untouched = true;
    out.each([&](float x) { untouched = untouched && x == 7; });
    CHECK(untouched);
}

TEST_CASE("Nothing to do is valid: no tokens, no heads, no features", "[recurrent]") {
    auto const raw = heed::linear_attention_raw();
    tensor<float> none({2, 2, 0, 3}), out({2, 2, 0, 3}), s({2, 2, 3, 3}), s0({2, 2, 3, 3});
    s0.fill(4);
    heed::forward(raw, none.in(), none.in(), none.in(), out.view(), heed::initial_state{s0.in()}, heed::final_state{s.view()});
    CHECK(same_bits(s, s0)); // no token leaves the state
    tensor<float> q({1, 1, 4, 0}), v({1, 1, 4, 3}), o({1, 1, 4, 3});
    v.fill(1), o.fill(9);
    heed::forward(raw, q.in(), q.in(), v.in(), o.view()); // equal scores of 0
    o.each([](float x) { CHECK(x == 0); });
    tensor<float> no_values({1, 1, 4, 0});
    tensor<float> keys({1, 1, 4, 2});
    keys.fill(1);
    heed::forward(raw, keys.in(), keys.in(), no_values.in(), no_values.view());
    auto const all = heed::linear_attention(heed::full{});
    tensor<float> empty({1, 1, 0, 2}), nothing({1, 1, 0, 3});
    o.fill(9);
    tensor<float> queries({1, 1, 4, 2}), dq({1, 1, 4, 2});
    queries.fill(1);
    heed::forward(all, queries.in(), empty.in(), nothing.in(), o.view());
    o.each([](float x) { CHECK(x == 0); });
    heed::backward(all, queries.in(), empty.in(), nothing.in(), o.in(), heed::nothing_saved{}, v.in(), dq.view(), heed::tensor_view<float>{}, heed::tensor_view<float>{});
    dq.each([](float x) { CHECK(x == 0); });
}
