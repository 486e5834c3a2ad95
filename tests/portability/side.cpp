// SPDX-License-Identifier: BSD-3-Clause
// Compiled twice, as namespace HEED_SIDE, with different architecture flags.
#include "side.hpp"

#include <heed/heed.hpp>
#include <heed/mechanism/softmax.hpp>

#include <array>
#include <cstdint>
#include <span>

namespace heed_test {

// A user's stage, one type in both objects: it notes how wide the registers are that the engine hands it.
struct width_probe {
    std::size_t* bytes;
    template <class V, class Pair>
    V operator()(V raw, Pair const&) const {
        if (sizeof(V) > *bytes) { *bytes = sizeof(V); }
        return raw;
    }
};

} // namespace heed_test

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

std::size_t vector_bytes(problem const& p) {
    std::size_t bytes = 0;
    run(heed::attention{heed::dot{} | width_probe{&bytes}}, p);
    return bytes;
}

// Executor of a user, one type in both objects.
struct backwards {
    template <class F>
    void bulk(int n, F&& f) const {
        for (int i = n - 1; i >= 0; --i) { f(i); }
    }
};

// In double, on equal shapes (B = 1, H heads, N rows): plans, executors, saved sums, ragged batches, patterns that are data, the scalar
// engine.
std::vector<double> many_doors(problem const& p) {
    heed::extent_t const n = p.queries;
    heed::shape const s{1, p.heads, n, p.width}, rows{1, p.heads, n, 1};
    std::vector<double> const q(p.q.begin(), p.q.end()), k(q.rbegin(), q.rend()), v(q);
    std::vector<double> all, out(q.size()), lse(static_cast<std::size_t>(p.heads * n));
    heed::tensor_view const qv{q.data(), s}, kv{k.data(), s}, vv{v.data(), s};
    heed::tensor_view const ov{out.data(), s};
    auto const keep = [&] {
        all.insert(all.end(), out.begin(), out.end());
        all.insert(all.end(), lse.begin(), lse.end());
    };

    std::array<std::int32_t, 3> const starts{0, 11, static_cast<std::int32_t>(n)};
    std::vector<std::int32_t> documents(static_cast<std::size_t>(n));
    for (std::size_t i = 0; i < documents.size(); ++i) { documents[i] = static_cast<std::int32_t>(i / 10); }
    std::array<std::int32_t, 1> const length{static_cast<std::int32_t>(n - 5)};
    std::vector<std::uint8_t> kept(static_cast<std::size_t>(n * n));
    for (std::size_t i = 0; i < kept.size(); ++i) { kept[i] = i % 3 != 0; }
    std::vector<double> const table(static_cast<std::size_t>(n * n), 0.25);

    heed::save const saved{heed::per_row(lse.data(), 1, heed::extent_t{p.heads}, n)};
    heed::forward(heed::softmax_attention(heed::causal_bottom_right{}), qv, kv, vv, ov, heed::cpu{backwards{}}, saved);
    keep();
    heed::forward(heed::softmax_attention(), qv, kv, vv, ov, heed::reference{}, heed::save_log2{saved.lse});
    keep();
    auto plan = heed::plan<double>(heed::softmax_attention(heed::prefix{heed::per_batch(length.data(), 1)}), s, s, s);
    std::vector<std::byte> workspace(plan.workspace_bytes());
    plan.run(qv, kv, vv, ov, std::span(workspace));
    keep();
    heed::ragged_offsets const offsets{std::span<std::int32_t const>(starts)};
    heed::forward(heed::softmax_attention(), heed::ragged(qv, offsets), heed::ragged(kv, offsets), heed::ragged(vv, offsets),
                  heed::ragged(ov, offsets));
    keep();
    heed::tensor_view const ids{documents.data(), heed::shape{1, 1, n, 1}};
    heed::forward(heed::softmax_attention(heed::documents{ids, ids} & heed::key_lengths{heed::per_batch(length.data(), 1)}), qv, kv, vv,
                  ov);
    keep();
    heed::forward(heed::attention{heed::dot{} | heed::scale{0.25} | heed::bias{heed::tensor_view{table.data(), heed::shape{1, 1, n, n}}},
                                  heed::mask{heed::tensor_view{kept.data(), heed::shape{1, 1, n, n}}}},
                  qv, kv, vv, ov);
    keep();
    try {
        heed::forward(heed::softmax_attention(), qv, kv, vv, heed::tensor_view{out.data(), rows});
    } catch (heed::shape_error const& e) { all.push_back(static_cast<double>(std::string(e.what()).size())); }
    return all;
}

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
