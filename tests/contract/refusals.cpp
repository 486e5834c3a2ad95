// SPDX-License-Identifier: BSD-3-Clause
// Sentence: wrong shapes throw shape_error naming the argument, the axis, both numbers and the rule, before anything is written.
// Sentence: zero strides on an output are refused. Sentence: index lists are validated with the position named.
#include <support/catch.hpp>
#include <support/problem.hpp>

#include <functional>

using namespace heed_test;

namespace {

struct shapes {
    heed::shape q{2, 4, 9, 8}, k{2, 2, 11, 8}, v{2, 2, 11, 6}, out{2, 4, 9, 6}, lse{2, 4, 9, 1};
};

// The refusal's text, or "" if the call went through. Either way the outputs must not be touched by a refused call.
template <class M>
std::string refusal(shapes const& s, M const& m) {
    tensor<float> q(s.q), k(s.k), v(s.v), out(s.out), lse(s.lse);
    q.fill(1);
    k.fill(1);
    v.fill(1);
    auto const before_out = out.bytes(), before_lse = lse.bytes();
    std::string text, reference_text;
    try {
        heed::forward(m, q.in(), k.in(), v.in(), out.view(), heed::save{lse.view()});
    } catch (heed::shape_error const& e) {
        text = e.what();
        CHECK(out.bytes() == before_out);
        CHECK(lse.bytes() == before_lse);
        CHECK((out.intact() && lse.intact()));
    }
    try { // whatever the backend
        heed::forward(m, q.in(), k.in(), v.in(), out.view(), heed::reference{}, heed::save{lse.view()});
    } catch (heed::shape_error const& e) { reference_text = e.what(); }
    CHECK(text == reference_text);
    return text;
}
std::string refusal(shapes const& s) { return refusal(s, heed::softmax_attention()); }

void check_sentence(std::string const& text, std::initializer_list<char const*> parts) {
    INFO(text);
    CHECK(text.rfind("heed: ", 0) == 0);
    for (char const* part : parts) { CHECK_THAT(text, contains(part)); }
}

template <class F>
std::string refused(F f) {
    try {
        f();
    } catch (heed::shape_error const& e) { return e.what(); }
    return "";
}

} // namespace

TEST_CASE("refusals: the right shapes are taken", "[contract]") { CHECK(refusal({}) == ""); }

TEST_CASE("refusals: every rule on shapes names argument, axis, both numbers and the rule", "[contract]") {
    shapes s;
    s.k.batch = s.v.batch = 3;
    check_sentence(refusal(s), {"k has 3 batch", "q has 2 batch", "k.batch must equal q.batch"});
    s = {};
    s.v.batch = 5;
    check_sentence(refusal(s), {"v has 5 batch", "k has 2 batch", "v.batch must equal k.batch"});
    s = {};
    s.k.head = s.v.head = 3;
    check_sentence(refusal(s), {"q has 4 heads", "k has 3 heads", "q.head must be a multiple of k.head"});
    s = {};
    s.k.head = s.v.head = 8;
    check_sentence(refusal(s), {"q has 4 heads", "k has 8 heads", "multiple of k.head"});
    s = {};
    s.k.head = s.v.head = 0;
    check_sentence(refusal(s), {"q has 4 heads", "k has 0 heads", "multiple of k.head"});
    s = {};
    s.v.head = 1;
    check_sentence(refusal(s), {"v has 1 heads", "k has 2 heads", "v.head must equal k.head"});
    s = {};
    s.k.feature = 7;
    check_sentence(refusal(s), {"k has 7 features", "q has 8 features", "k.feature must equal q.feature"});
    s = {};
    s.v.seq = 12;
    check_sentence(refusal(s), {"v has 12 positions", "k has 11 positions", "v.seq must equal k.seq"});
    s = {};
    s.out.batch = 1;
    check_sentence(refusal(s), {"out has 1 batch", "q has 2 batch", "out.batch must equal q.batch"});
    s = {};
    s.out.head = 2;
    check_sentence(refusal(s), {"out has 2 heads", "q has 4 heads", "out.head must equal q.head"});
    s = {};
    s.out.seq = 10;
    check_sentence(refusal(s), {"out has 10 positions", "q has 9 positions", "out.seq must equal q.seq"});
    s = {};
    s.out.feature = 8;
    check_sentence(refusal(s), {"out has 8 features", "v has 6 features", "out.feature must equal v.feature"});
    s = {};
    s.lse.batch = 1;
    check_sentence(refusal(s), {"lse has 1 batch", "q has 2 batch", "lse.batch must equal q.batch"});
    s = {};
    s.lse.head = 1;
    check_sentence(refusal(s), {"lse has 1 heads", "q has 4 heads", "lse.head must equal q.head"});
    s = {};
    s.lse.seq = 8;
    check_sentence(refusal(s), {"lse has 8 positions", "q has 9 positions", "lse.seq must equal q.seq"});
    s = {};
    s.lse.feature = 2;
    check_sentence(refusal(s), {"lse has 2 features", "lse.feature", "1"});
}

TEST_CASE("refusals: no extent may be negative, however the others are", "[contract]") {
    std::vector<float> memory(1000, 1);
    heed::tensor_view<float const> const q{memory.data(), {1, 1, 3, 2}}, k{memory.data(), {1, 1, 3, 2}};
    std::vector<float> result(100, -5);
    heed::tensor_view<float> const out{result.data(), {1, 1, 3, 2}};
    auto const m = heed::softmax_attention();
    check_sentence(refused([&] { heed::forward(m, heed::tensor_view<float const>{memory.data(), {1, 1, -3, 2}}, k, k, out); }), {"q.seq", "-3", "negative"});
    check_sentence(refused([&] { heed::forward(m, q, heed::tensor_view<float const>{memory.data(), {1, 1, 3, -2}}, k, out); }), {"k.feature", "-2", "negative"});
    check_sentence(refused([&] { heed::forward(m, q, k, heed::tensor_view<float const>{memory.data(), {-1, 1, 3, 2}}, out); }), {"v.batch", "-1", "negative"});
    check_sentence(refused([&] { heed::forward(m, q, k, k, heed::tensor_view<float>{result.data(), {1, -1, 3, 2}}); }), {"out.head", "-1", "negative"});
    for (float x : result) { CHECK(x == -5); }
}

TEST_CASE("refusals: a null pointer with a shape", "[contract]") {
    std::vector<float> memory(100, 1), result(100, -5);
    heed::tensor_view<float const> const x{memory.data(), {1, 1, 3, 2}}, none{nullptr, {1, 1, 3, 2}};
    heed::tensor_view<float> const out{result.data(), {1, 1, 3, 2}}, no_out{nullptr, {1, 1, 3, 2}}, no_lse{nullptr, {1, 1, 3, 1}};
    auto const m = heed::softmax_attention();
    check_sentence(refused([&] { heed::forward(m, none, x, x, out); }), {"q", "null"});
    check_sentence(refused([&] { heed::forward(m, x, none, x, out); }), {"k", "null"});
    check_sentence(refused([&] { heed::forward(m, x, x, none, out); }), {"v", "null"});
    check_sentence(refused([&] { heed::forward(m, x, x, x, no_out); }), {"out", "null"});
    check_sentence(refused([&] { heed::forward(m, x, x, x, out, heed::save{no_lse}); }), {"lse", "null"});
    for (float y : result) { CHECK(y == -5); }
}

TEST_CASE("refusals: a sequence longer than the library counts", "[contract]") {
    std::vector<float> memory(8, 1), result(8, -5);
    extent_t const n = (extent_t(1) << 30) + 1;
    heed::tensor_view<float const> const x{memory.data(), {1, 1, 1, 2}}, far{memory.data(), {1, 1, n, 2}, {0, 0, 0, 1}};
    heed::tensor_view<float> const out{result.data(), {1, 1, 1, 2}};
    check_sentence(refused([&] { heed::forward(heed::softmax_attention(), x, far, far, out); }), {"k has 1073741825 positions", "1073741824"});
    CHECK(result[0] == -5);
}

TEST_CASE("refusals: zero strides on outputs", "[contract]") {
    random_source random(151);
    sizes const n{2, 3, 3, 4, 5, 6, 7};
    problem<float> p(n, random);
    auto const m = heed::softmax_attention();
    heed::strides const dense = heed::row_major(n.out());
    char const* const names[] = {"out.batch", "out.head", "out.seq", "out.feature"};
    extent_t const extents[] = {2, 3, 4, 7};
    for (int r = 0; r < 4; ++r) {
        heed::strides st = dense;
        (r == 0 ? st.batch : r == 1 ? st.head : r == 2 ? st.seq : st.feature) = 0;
        p.out.fill(-5);
        check_sentence(refused([&] { heed::forward(m, p.q.in(), p.k.in(), p.v.in(), heed::tensor_view<float>{p.out.view().data_handle(), n.out(), st}); }),
                       {names[r], "stride 0", std::to_string(extents[r]).c_str()});
        p.out.each([](float x) { CHECK(x == -5); });
    }
    heed::strides st = heed::row_major(n.lse());
    st.head = 0;
    check_sentence(refused([&] { heed::forward(m, p.q.in(), p.k.in(), p.v.in(), p.out.view(), heed::save{heed::tensor_view<float>{p.lse.view().data_handle(), n.lse(), st}}); }),
                   {"lse.head", "stride 0"});
    p.out.each([](float x) { CHECK(x == -5); });
    // an axis of one position may have any stride
    tensor<float> one(heed::shape{2, 3, 1, 7});
    tensor<float> q(heed::shape{2, 3, 1, 6});
    q.normal(random);
    heed::tensor_view<float> const flat{one.view().data_handle(), {2, 3, 1, 7}, {21, 7, 0, 1}};
    CHECK(refused([&] { heed::forward(m, q.in(), p.k.in(), p.v.in(), flat); }) == "");
}

TEST_CASE("refusals: views of policies", "[contract]") {
    shapes const s;
    auto const score = heed::dot{} | heed::inv_sqrt_width{};
    std::vector<float> numbers(100000, 0.5f);
    std::vector<std::uint8_t> flags(100000, 1);
    std::vector<std::int32_t> ints(1000, 1);
    auto const floats = [&](heed::shape x) { return heed::tensor_view<float const>{numbers.data(), x}; };
    auto const bytes = [&](heed::shape x) { return heed::tensor_view<std::uint8_t const>{flags.data(), x}; };
    auto const integers = [&](heed::shape x) { return heed::tensor_view<std::int32_t const>{ints.data(), x}; };

    CHECK(refusal(s, heed::attention{score | heed::bias{floats({2, 4, 9, 11})}}) == "");
    check_sentence(refusal(s, heed::attention{score | heed::bias{floats({3, 4, 9, 11})}}), {"bias.batch is 3", "2"});
    check_sentence(refusal(s, heed::attention{score | heed::bias{floats({2, 2, 9, 11})}}), {"bias.head is 2", "4"});
    check_sentence(refusal(s, heed::attention{score | heed::bias{floats({2, 4, 8, 11})}}), {"bias.seq is 8", "9"});
    check_sentence(refusal(s, heed::attention{score | heed::bias{floats({2, 4, 9, 10})}}), {"bias.feature is 10", "11"});
    check_sentence(refusal(s, heed::attention{score | heed::alibi{floats({1, 3, 1, 1})}}), {"alibi slopes.head is 3", "4"});
    check_sentence(refusal(s, heed::attention{score | heed::alibi{floats({1, 4, 2, 1})}}), {"alibi slopes.seq is 2", "1"});
    check_sentence(refusal(s, heed::attention{score | heed::relative_bias{floats({1, 2, 5, 1}), 2}}), {"relative bias.head is 2", "4"});
    check_sentence(refusal(s, heed::attention{score | heed::relative_bias{floats({1, 4, 5, 2}), 2}}), {"relative bias.feature is 2", "1"});
    check_sentence(refusal(s, heed::attention{score, heed::mask{bytes({2, 4, 7, 11})}}), {"mask.seq is 7", "9"});
    check_sentence(refusal(s, heed::attention{score, heed::bit_mask{bytes({2, 4, 9, 3})}}), {"bit mask.feature is 3", "2"});
    check_sentence(refusal(s, heed::attention{score, heed::documents{integers({1, 1, 8, 1}), integers({1, 1, 11, 1})}}), {"query document ids.seq is 8", "9"});
    check_sentence(refusal(s, heed::attention{score, heed::documents{integers({1, 1, 9, 1}), integers({1, 1, 9, 1})}}), {"key document ids.seq is 9", "11"});
    check_sentence(refusal(s, heed::attention{score, heed::key_lengths{integers({3, 1, 1, 1})}}), {"key lengths.batch is 3", "2"});
    check_sentence(refusal(s, heed::attention{score, heed::prefix{integers({3, 1, 1, 1})}}), {"prefix lengths.batch is 3", "2"});
    check_sentence(refusal(s, heed::attention{score, heed::full{}, heed::softmax_sink{floats({1, 3, 1, 1})}}), {"sinks.head is 3", "4"});
    // inside a combination as well
    check_sentence(refusal(s, heed::attention{score, heed::causal_top_left{} & heed::mask{bytes({2, 4, 7, 11})}}), {"mask.seq is 7", "9"});
}

TEST_CASE("refusals: ragged offsets are validated once, the position named", "[contract]") {
    auto const check32 = [](std::vector<std::int32_t> const& x) { return refused([&] { heed::ragged_offsets{std::span<std::int32_t const>(x)}; }); };
    auto const check64 = [](std::vector<std::int64_t> const& x) { return refused([&] { heed::ragged_offsets{std::span<std::int64_t const>(x)}; }); };
    CHECK(check32({0}) == "");
    CHECK(check32({0, 0, 4, 4, 9}) == "");
    CHECK(check64({0, 5000000000}) == "");
    check_sentence(check32({}), {"offsets", "empty"});
    check_sentence(check32({1, 2}), {"1", "position 0"});
    check_sentence(check32({-1, 2}), {"-1", "position 0"});
    check_sentence(check32({0, 5, 4, 9}), {"5", "4", "position 2"});
    check_sentence(check64({0, 5, 9, 8}), {"9", "8", "position 3"});

    std::vector<std::int32_t> const starts{0, 3, 10};
    heed::ragged_offsets const o{std::span<std::int32_t const>(starts)};
    std::vector<float> memory(100);
    check_sentence(refused([&] { heed::ragged(heed::tensor_view<float>{memory.data(), {1, 1, 9, 2}}, o); }), {"10", "position 2", "9 rows"});
    check_sentence(refused([&] { heed::ragged(heed::tensor_view<float>{memory.data(), {2, 1, 10, 2}}, o); }), {"batch 2"});
}

TEST_CASE("refusals: ragged arguments must be cut at the same places", "[contract]") {
    std::vector<std::int32_t> const a{0, 3, 10}, b{0, 4, 10}, c{0, 3, 7, 10};
    heed::ragged_offsets const oa{std::span<std::int32_t const>(a)}, ob{std::span<std::int32_t const>(b)}, oc{std::span<std::int32_t const>(c)};
    std::vector<float> x(1000, 1), y(1000, -5);
    auto const in = [&](heed::ragged_offsets const& o) { return heed::ragged(heed::tensor_view<float const>{x.data(), {1, 1, 10, 2}}, o); };
    auto const out = [&](heed::ragged_offsets const& o) { return heed::ragged(heed::tensor_view<float>{y.data(), {1, 1, 10, 2}}, o); };
    auto const m = heed::softmax_attention();
    CHECK(refused([&] { heed::forward(m, in(oa), in(ob), in(ob), out(oa)); }) == "");
    std::fill(y.begin(), y.end(), -5.0f);
    check_sentence(refused([&] { heed::forward(m, in(oa), in(oc), in(oc), out(oa)); }), {"k has 3 batch", "q has 2 batch"});
    // the longest sequences of a and b differ by their lengths: 7 and 6
    CHECK(refused([&] { heed::forward(m, in(oa), in(oa), in(oa), out(ob)); }) != "");
    CHECK(refused([&] { heed::forward(m, in(oa), in(oa), in(ob), out(oa)); }) != "");
    std::vector<std::int32_t> const d{0, 7, 10};
    heed::ragged_offsets const od{std::span<std::int32_t const>(d)};
    check_sentence(refused([&] { heed::forward(m, in(oa), in(oa), in(oa), out(od)); }), {"out", "q", "position 1", "3", "7"});
    check_sentence(refused([&] { heed::forward(m, in(oa), in(oa), in(od), out(oa)); }), {"k", "v", "position 1", "3", "7"});
    heed::tensor_view<float> const dense{y.data(), {2, 1, 7, 2}};
    check_sentence(refused([&] { heed::forward(m, in(oa), in(oa), in(oa), dense); }), {"q is ragged", "out is not"});
    for (float v : y) { CHECK(v == -5); }
}

TEST_CASE("refusals: a plan refuses other shapes and a workspace that is too small", "[contract]") {
    random_source random(152);
    problem<float> p({1, 2, 2, 9, 11, 4, 4}, random), other({1, 2, 2, 9, 12, 4, 4}, random);
    auto plan = heed::plan<float>(heed::softmax_attention(), p.n.q(), p.n.k(), p.n.v());
    std::vector<std::byte> workspace(plan.workspace_bytes());
    p.out.fill(-5);
    other.out.fill(-5);
    CHECK_THAT(refused([&] { plan.run(other.q.in(), other.k.in(), other.v.in(), other.out.view(), workspace); }), contains("other shapes"));
    std::string const small = refused([&] { plan.run(p.q.in(), p.k.in(), p.v.in(), p.out.view(), std::span<std::byte>(workspace).first(workspace.size() - 1)); });
    check_sentence(small, {"workspace", std::to_string(workspace.size()).c_str(), std::to_string(workspace.size() - 1).c_str()});
    p.out.each([](float x) { CHECK(x == -5); });
    other.out.each([](float x) { CHECK(x == -5); });
    CHECK(refused([&] { plan.run(p.q.in(), p.k.in(), p.v.in(), p.out.view(), workspace); }) == "");
    // shapes are refused when the plan is made
    check_sentence(refused([&] { heed::plan<float>(heed::softmax_attention(), p.n.q(), heed::shape{1, 2, 11, 5}, p.n.v()); }), {"k has 5 features", "q has 4 features"});
}
