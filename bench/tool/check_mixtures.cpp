// SPDX-License-Identifier: BSD-3-Clause
// Differential and gated attention: given tensors, and as the layers around them. Axis letters: B batch, H heads, G key/value heads, N queries, M keys,
// d and e widths, D the model's width.
#include "case_file.hpp"
#include "failure.hpp"
#include "layers.hpp"

#include <heed/heed.hpp>

#include <array>
#include <cmath>

namespace heed::tool {

namespace {

template <class T>
window all_keys(tensor_view<T const> const& q, tensor_view<T const> const& k, bool causal) {
    extent_t const all = q.extent(2) + k.extent(2);
    return {all, causal ? 0 : all};
}
// What forward saves of one attention.
template <class T>
saved_term<T> room_for_term(case_io<T>& io, shape out) {
    return {{io.scratch(out.size()), out}, {io.scratch(out.batch * out.head * out.seq), {out.batch, out.head, out.seq, 1}}};
}

struct diff_core {
    template <class T>
    static void run(case_io<T>& io) {
        auto const q1 = io.reals("q1", "BHNd"), q2 = io.reals("q2", "BHNd"), k1 = io.reals("k1", "BHMd"), k2 = io.reals("k2", "BHMd");
        auto const v_in = io.reals("v", "BHMe"), lam = io.reals("lam", "H");
        shape const sq{io['B'], io['H'], io['N'], io['d']}, sk{io['B'], io['H'], io['M'], io['d']}, so{io['B'], io['H'], io['N'], io['e']};
        tensor_view<T const> const q(q1.data, sq), k(k1.data, sk), v(v_in.data, {io['B'], io['H'], io['M'], io['e']});
        tensor_view<T> const out(io.make("out", "BHNe"), so);
        auto const m = differential_attention(per_head(lam.data, io['H']), tensor_view<T const>(q2.data, sq), tensor_view<T const>(k2.data, sk), all_keys(q, k, false));
        auto const saved = forward(m, q, k, v, out, save_terms(room_for_term(io, so), room_for_term(io, so)));
        if (!io.wants("dq1")) { return; }
        auto const dout = io.reals("dout", "BHNe");
        auto const gradient = [&](std::string_view name, std::string_view axes, shape s) { return tensor_view<T>(io.make(name, axes), s); };
        backward(m, q, k, v, out, saved, tensor_view<T const>(dout.data, so), gradient("dq1", "BHNd", sq), gradient("dk1", "BHMd", sk), gradient("dv", "BHMe", v.shape()),
                 head_factor_gradient{gradient("dlam", "H", {1, io['H'], 1, 1})}, also_gradient{gradient("dq2", "BHNd", sq), gradient("dk2", "BHMd", sk)});
    }
};

// Query heads 2h and 2h + 1 of 2H are the pair of head h; with R = H / G, head i of 2H takes key head i / R of 2G, head h value head h / R.
struct diff_layer {
    template <class T>
    static void run(case_io<T>& io) {
        auto const x = io.reals("x", "BND");
        auto const B = io['B'], N = io['N'], D = io['D'], H = io.source().integer("heads", 1, 1 << 20), G = io.source().integer("kv_heads", 1, 1 << 20);
        if (H % G || D % (4 * H)) { throw bad_tensor(io.source().path(), "x", "has a width that the heads do not divide into pairs of even width, or heads that kv_heads does not divide"); }
        auto const d = D / (2 * H), R = H / G;
        io.set('d', d, "the width of x and its heads");
        io.set('r', d / 2, "half the width of a head");
        io.set('e', 2 * d, "twice the width of a head");
        io.set('K', 2 * G * d, "the key/value heads");
        auto const wq = io.reals("q_proj.weight", "DD"), wk = io.reals("k_proj.weight", "KD"), wv = io.reals("v_proj.weight", "KD"), wo = io.reals("out_proj.weight", "DD");
        auto const cosines = io.reals("cos", "Nr"), sines = io.reals("sin", "Nr"), sub_norm = io.reals("subln.weight", "e");
        auto const exponential = [&](std::string_view a, std::string_view b) {
            auto const left = io.reals(a, "d"), right = io.reals(b, "d");
            double product = 0;
            for (extent_t c = 0; c < d; ++c) { product += static_cast<double>(left.data[c]) * static_cast<double>(right.data[c]); }
            return std::exp(product);
        };
        double const start = 0.8 - 0.6 * std::exp(-0.3 * io.source().number("depth"));
        T* const lambda = io.scratch(1);
        lambda[0] = static_cast<T>(exponential("lambda_q1", "lambda_k1") - exponential("lambda_q2", "lambda_k2") + start);

        tape<T> t(io, io.wants("dx"));
        traced<T> const input = t.copy(x.data, B * N * D), rows_q = linear(t, input, B * N, wq), rows_k = linear(t, input, B * N, wk), rows_v = linear(t, input, B * N, wv);
        shape const s{B, H, N, d}, sv{B, H, N, 2 * d};
        auto const turned = [&](traced<T> rows, extent_t row_width, auto const& column) {
            return rotate_by_tables<interleaved_pairs>(t, split_heads(t, rows, row_width, s, column), B * H, N, d, cosines.data, sines.data, d / 2);
        };
        auto const q1 = turned(rows_q, D, [=](extent_t h) { return 2 * h * d; }), q2 = turned(rows_q, D, [=](extent_t h) { return (2 * h + 1) * d; });
        auto const k1 = turned(rows_k, 2 * G * d, [=](extent_t h) { return 2 * h / R * d; }), k2 = turned(rows_k, 2 * G * d, [=](extent_t h) { return (2 * h + 1) / R * d; });
        auto const v = split_heads(t, rows_v, 2 * G * d, sv, [=](extent_t h) { return h / R * 2 * d; });
        traced<T> const mixed = t.room(sv.size());
        auto const in = [](traced<T> const& value, shape of) { return tensor_view<T const>(value.x, of); };
        auto const d_of = [](traced<T> const& value, shape of) { return tensor_view<T>(value.d, of); };
        auto const m = differential_attention(tensor_view<T const>(lambda, {1, 1, 1, 1}), in(q2, s), in(k2, s), all_keys(in(q1, s), in(k1, s), true));
        auto const saved = forward(m, in(q1, s), in(k1, s), in(v, sv), sequence_major(mixed.x, sv), save_terms(room_for_term(io, sv), room_for_term(io, sv)));
        t.back([=] {
            backward(m, in(q1, s), in(k1, s), in(v, sv), sequence_major(mixed.x, sv), saved, sequence_major<T const>(mixed.d, sv), d_of(q1, s), d_of(k1, s), d_of(v, sv), also_gradient{d_of(q2, s), d_of(k2, s)});
        });
        T* const weight = io.scratch(2 * d); // the norm's, times what is left of lambda
        for (extent_t c = 0; c < 2 * d; ++c) { weight[c] = sub_norm.data[c] * static_cast<T>(1 - start); }
        give(t, linear(t, norm<false>(t, mixed, B * N * H, 2 * d, weight, static_cast<T const*>(nullptr), 1e-5), B * N, wo), "BND", B * N * D);
        give_gradient(t, input, "dx", "BND", B * N * D);
    }
};

struct gated_core {
    template <class T>
    static void run(case_io<T>& io) {
        auto const q_in = io.reals("q", "BHNd"), k_in = io.reals("k", "BHMd"), v_in = io.reals("v", "BHMe"), gate = io.reals("gate", "BHNe");
        shape const so{io['B'], io['H'], io['N'], io['e']};
        tensor_view<T const> const q(q_in.data, {io['B'], io['H'], io['N'], io['d']}), k(k_in.data, {io['B'], io['H'], io['M'], io['d']}), v(v_in.data, {io['B'], io['H'], io['M'], io['e']});
        tensor_view<T> const out(io.make("out", "BHNe"), so);
        auto const m = gated_attention(tensor_view<T const>(gate.data, so), all_keys(q, k, false));
        auto const saved = forward(m, q, k, v, out, save_terms(room_for_term(io, so)));
        if (!io.wants("dq")) { return; }
        auto const dout = io.reals("dout", "BHNe");
        backward(m, q, k, v, out, saved, tensor_view<T const>(dout.data, so), tensor_view<T>(io.make("dq", "BHNd"), q.shape()), tensor_view<T>(io.make("dk", "BHMd"), k.shape()),
                 tensor_view<T>(io.make("dv", "BHMe"), v.shape()), gate_gradient{tensor_view<T>(io.make("dgate", "BHNe"), so)});
    }
};

// Rows of q_proj, for each key head: the queries of its R heads, then their gates, one per feature or one per head.
template <bool PerFeature>
struct gated_layer {
    template <class T>
    static void run(case_io<T>& io) {
        auto const x = io.reals("x", "BND");
        constexpr std::int64_t most = 1 << 20;
        auto const B = io['B'], N = io['N'], D = io['D'], H = io.source().integer("heads", 1, most), G = io.source().integer("kv_heads", 1, most), d = io.source().integer("head_dim", 1, most);
        if (H % G || d % 2) { throw bad_file(io.source().path(), "metadata \"heads\" must be a multiple of \"kv_heads\" and \"head_dim\" even"); }
        extent_t const R = H / G, gates = PerFeature ? d : 1, block = R * (d + gates);
        io.set('d', d, "metadata head_dim");
        io.set('Q', G * block, "the heads and their gates");
        io.set('K', G * d, "the key/value heads");
        io.set('O', H * d, "the heads");
        auto const wq = io.reals("q_proj.weight", "QD"), wk = io.reals("k_proj.weight", "KD"), wv = io.reals("v_proj.weight", "KD"), wo = io.reals("o_proj.weight", "DO");
        auto const cosines = io.reals("cos", "Nd"), sines = io.reals("sin", "Nd"), q_norm = io.reals("q_norm.weight", "d"), k_norm = io.reals("k_norm.weight", "d");
        double const eps = io.source().number("eps");
        tape<T> t(io, io.wants("dx"));
        traced<T> const input = t.copy(x.data, B * N * D), rows_q = linear(t, input, B * N, wq), rows_k = linear(t, input, B * N, wk), rows_v = linear(t, input, B * N, wv);
        auto const turned = [&](traced<T> rows, extent_t row_width, extent_t heads, T const* weight, auto const& column) {
            traced<T> const split = split_heads(t, rows, row_width, shape{B, heads, N, d}, column);
            return rotate_by_tables<half_pairs>(t, norm<false>(t, split, B * heads * N, d, weight, static_cast<T const*>(nullptr), eps), B * heads, N, d, cosines.data, sines.data, d);
        };
        traced<T> const q = turned(rows_q, G * block, H, q_norm.data, [=](extent_t h) { return h / R * block + h % R * d; });
        traced<T> const k = turned(rows_k, G * d, G, k_norm.data, [=](extent_t h) { return h * d; });
        shape const sg{B, H, N, gates}, sq{B, H, N, d}, sk{B, G, N, d};
        traced<T> const gate = split_heads(t, rows_q, G * block, sg, [=](extent_t h) { return h / R * block + R * d + h % R * gates; }), mixed = t.room(sq.size());
        tensor_view<T const> const q_in(q.x, sq), k_in(k.x, sk), v_in = sequence_major<T const>(rows_v.x, sk);
        auto const m = gated_attention(tensor_view<T const>(gate.x, sg), all_keys(q_in, k_in, true));
        auto const saved = forward(m, q_in, k_in, v_in, sequence_major(mixed.x, sq), save_terms(room_for_term(io, sq)));
        t.back([=] {
            backward(m, q_in, k_in, v_in, sequence_major(mixed.x, sq), saved, sequence_major<T const>(mixed.d, sq), tensor_view<T>(q.d, sq), tensor_view<T>(k.d, sk), sequence_major(rows_v.d, sk),
                     gate_gradient{tensor_view<T>(gate.d, sg)});
        });
        give(t, linear(t, mixed, B * N, wo), "BND", B * N * D);
        give_gradient(t, input, "dx", "BND", B * N * D);
    }
};

constexpr std::array mixture_cases{
    wire<diff_core>("diff_core"),
    wire<diff_layer>("diff_transformer"),
    wire<diff_layer>("diff_transformer_gqa"),
    wire<gated_layer<true>>("gated_attention_elementwise"),
    wire<gated_layer<false>>("gated_attention_headwise"),
    wire<gated_core>("gated_core"),
};
check_registration const registration("other", mixture_cases);

} // namespace

} // namespace heed::tool
