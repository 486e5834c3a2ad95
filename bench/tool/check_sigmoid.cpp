// SPDX-License-Identifier: BSD-3-Clause
// Sigmoid attention: given tensors, and as the layer around it. Axis letters: B batch, H heads, N queries, M keys, d and e widths, D the model's width.
#include "case_file.hpp"
#include "failure.hpp"
#include "layers.hpp"

#include <heed/heed.hpp>

#include <array>
#include <cmath>

namespace heed::tool {

namespace {

template <class T>
struct sigmoid_call {
    tensor_view<T const> q, k, v;
    tensor_view<T> out;
    T bias;
    bool causal;

    window pattern() const {
        extent_t const all = q.extent(2) + k.extent(2);
        return {all, causal ? 0 : all};
    }
    auto score() const { return dot{} | inv_sqrt_width{}; }
};

struct sigmoid_core {
    template <class T>
    static void run(case_io<T>& io) {
        auto const q = io.reals("q", "BHNd"), k = io.reals("k", "BHMd"), v = io.reals("v", "BHMe");
        auto const B = io['B'], H = io['H'], N = io['N'], M = io['M'], d = io['d'], e = io['e'];
        sigmoid_call<T> const c{{q.data, {B, H, N, d}},
                                {k.data, {B, H, M, d}},
                                {v.data, {B, H, M, e}},
                                {io.make("out", "BHNe"), {B, H, N, e}},
                                static_cast<T>(io.source().number("bias")),
                                io.source().flag("causal")};
        attention const m{c.score() | offset{c.bias}, c.pattern(), sigmoid{}};
        forward(m, c.q, c.k, c.v, c.out);
        if (!io.wants("dq") && !io.wants("dk") && !io.wants("dv")) { return; }
        auto const dout = io.reals("dout", "BHNe");
        backward(m, c.q, c.k, c.v, c.out, nothing_saved{}, tensor_view<T const>(dout.data, c.out.shape()), tensor_view<T>(io.make("dq", "BHNd"), c.q.shape()),
                 tensor_view<T>(io.make("dk", "BHMd"), c.k.shape()), tensor_view<T>(io.make("dv", "BHMe"), c.v.shape()));
    }
};

template <bool Causal, bool Alibi>
struct sigmoid_module {
    template <class T>
    static void run(case_io<T>& io) {
        auto const x = io.reals("x", "BND"), proj = io.reals("proj.weight", "DD");
        auto const B = io['B'], N = io['N'], D = io['D'], H = io.source().integer("heads", 1, 1 << 20);
        io.set('T', 3 * D, "three times the width of x");
        io.set('u', 1, "one number");
        auto const qkv = io.reals("qkv.weight", "TD"), bias = io.reals("attn_bias", "u");
        if (D % H) { throw bad_tensor(io.source().path(), "x", "has a width that its heads do not divide"); }
        tape<T> t(io, io.wants("dx"));
        traced<T> const input = t.copy(x.data, B * N * D), rows = linear(t, input, B * N, qkv), mixed = t.room(B * N * D);
        shape const s{B, H, N, D / H};
        strides const at{N * 3 * D, D / H, 3 * D, 1};
        sigmoid_call<T> const c{{rows.x, s, at}, {rows.x + D, s, at}, {rows.x + 2 * D, s, at}, sequence_major(mixed.x, s), bias.data[0], Causal};
        auto const attend = [&](auto const& m) {
            forward(m, c.q, c.k, c.v, c.out);
            t.back([=] {
                backward(m, c.q, c.k, c.v, c.out, nothing_saved{}, sequence_major<T const>(mixed.d, s), tensor_view<T>(rows.d, s, at), tensor_view<T>(rows.d + D, s, at),
                         tensor_view<T>(rows.d + 2 * D, s, at));
            });
        };
        if constexpr (Alibi) {
            io.set('H', H, "metadata heads");
            attend(attention{c.score() | alibi{per_head(io.reals("slopes", "H").data, H)} | offset{c.bias}, c.pattern(), sigmoid{}});
        } else {
            attend(attention{c.score() | offset{c.bias}, c.pattern(), sigmoid{}});
        }
        give(t, linear(t, mixed, B * N, proj), "BND", B * N * D);
        give_gradient(t, input, "dx", "BND", B * N * D);
    }
};

constexpr std::array sigmoid_cases{
    wire<sigmoid_core>("sigmoid_core"),
    wire<sigmoid_module<false, false>>("sigmoid_module"),
    wire<sigmoid_module<true, false>>("sigmoid_module_causal"),
    wire<sigmoid_module<true, true>>("sigmoid_module_causal_alibi"),
};
check_registration const registration("other", sigmoid_cases);

} // namespace

} // namespace heed::tool
