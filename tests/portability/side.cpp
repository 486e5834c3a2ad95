// SPDX-License-Identifier: BSD-3-Clause
// Compiled twice, as namespace HEED_SIDE, with different architecture flags.
#include "side.hpp"

#include <heed/heed.hpp>
#include <heed/mechanism/softmax.hpp>

#include <cstdint>

namespace heed_test::HEED_SIDE {
namespace {

template <class Mechanism>
std::vector<float> run(Mechanism const& mechanism, problem const& p) {
    std::vector<float> out(static_cast<std::size_t>(p.heads * p.queries * p.value_width));
    heed::forward(mechanism, heed::tensor_view{p.q.data(), heed::shape{1, p.heads, p.queries, p.width}},
                  heed::tensor_view{p.k.data(), heed::shape{1, p.kv_heads, p.keys, p.width}},
                  heed::tensor_view{p.v.data(), heed::shape{1, p.kv_heads, p.keys, p.value_width}},
                  heed::tensor_view{out.data(), heed::shape{1, p.heads, p.queries, p.value_width}});
    return out;
}

template <class T>
type_layout layout(char const* name, T const&) {
    return {name, sizeof(T), alignof(T)};
}

auto composed_mechanism(problem const& p) {
    return heed::attention{heed::dot{} | heed::inv_sqrt_width{} | heed::softcap{4.f} |
                               heed::alibi{heed::per_head(p.slopes.data(), heed::extent_t{p.heads})},
                           heed::causal_bottom_right{} & heed::window{9}, heed::softmax{}};
}

} // namespace

std::string arch() { return heed::arch_name<heed::native_arch>(); }

std::vector<float> plain_softmax(problem const& p) { return run(heed::softmax_attention(), p); }

std::vector<float> composed(problem const& p) { return run(composed_mechanism(p), p); }

std::vector<type_layout> layouts() {
    static float data[1] = {};
    static std::int32_t lengths[1] = {};
    static std::uint8_t bits[1] = {};
    heed::shape const s{1, 1, 1, 1};
    heed::tensor_view const view{data, s};
    heed::tensor_view const integers{lengths, s};
    auto const plan = heed::plan<float>(heed::softmax_attention(), s, s, s);
    return {layout("shape", s),
            layout("strides", heed::strides{}),
            layout("tensor_view", view),
            layout("dot", heed::dot{}),
            layout("scale", heed::scale{1.f}),
            layout("inv_sqrt_width", heed::inv_sqrt_width{}),
            layout("softcap", heed::softcap{1.f}),
            layout("bias", heed::bias{view}),
            layout("alibi", heed::alibi{view}),
            layout("relative_bias", heed::relative_bias{view, 0}),
            layout("forgetting", heed::forgetting{view}),
            layout("full", heed::full{}),
            layout("causal_top_left", heed::causal_top_left{}),
            layout("causal_bottom_right", heed::causal_bottom_right{}),
            layout("window", heed::window{1}),
            layout("prefix", heed::prefix{integers}),
            layout("key_lengths", heed::key_lengths{integers}),
            layout("documents", heed::documents{integers, integers}),
            layout("mask", heed::mask{heed::tensor_view{bits, s}}),
            layout("softmax", heed::softmax{}),
            layout("softmax_sink", heed::softmax_sink{view}),
            layout("serial", heed::serial{}),
            layout("save", heed::save{view}),
            layout("cpu", heed::cpu{heed::serial{}}),
            layout("softmax_attention", heed::softmax_attention()),
            layout("plan", plan)};
}

} // namespace heed_test::HEED_SIDE
