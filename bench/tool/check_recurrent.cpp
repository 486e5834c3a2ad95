// SPDX-License-Identifier: BSD-3-Clause
// Recurrences around linear attention, or beside it: flows, slots, a learned query over every prefix, memories that learn; local regressions. Axis letters: B batch, H heads, T positions, N queries, M keys or slots, d width of
// keys, e width of values, i and o widths of a layer.
#include "case_file.hpp"
#include "failure.hpp"
#include "layers.hpp"

#include <heed/front/aaren.hpp>
#include <heed/front/flow.hpp>
#include <heed/front/gated_slot.hpp>
#include <heed/front/gradient_memory.hpp>
#include <heed/front/local_linear.hpp>
#include <heed/front/memory_network.hpp>

#include <array>

namespace heed::tool {

namespace {

struct aaren_case {
    template <class T>
    static void run(case_io<T>& io) {
        auto const q_in = io.reals("q", "Hd"), k_in = io.reals("k", "BHTd"), v_in = io.reals("v", "BHTe");
        extent_t const B = io['B'], H = io['H'];
        shape const sk{B, H, io['T'], io['d']}, sv{B, H, io['T'], io['e']}, sq{1, H, 1, io['d']}, one{B, H, 1, 1};
        tensor_view<T const> const q(q_in.data, sq), k(k_in.data, sk), v(v_in.data, sv);
        tensor_view<T> const out(io.make("out", "BHTe"), sv), m(io.make("final_m", "BH"), one), u(io.make("final_u", "BH"), one), w(io.make("final_w", "BHe"), {B, H, 1, io['e']});
        auto const mechanism = aaren_attention(io.source().number("scale"));
        forward(mechanism, q, k, v, out, final_prefix{m, u, w});
        if (!io.wants("dq")) { return; }
        tensor_view<T const> const dout(io.reals("dout", "BHTe").data, sv);
        backward(mechanism, q, k, v, out, nothing_saved{}, dout, tensor_view<T>(io.make("dq", "Hd"), sq), tensor_view<T>(io.make("dk", "BHTd"), sk), tensor_view<T>(io.make("dv", "BHTe"), sv));
    }
};

// P: full or causal. Sequences come before heads.
template <class P>
struct flow_core {
    template <class T>
    static void run(case_io<T>& io) {
        auto const q_in = io.reals("q", "BNHd"), k_in = io.reals("k", "BMHd"), v_in = io.reals("v", "BMHd");
        shape const sq{io['B'], io['H'], io['N'], io['d']}, sk{io['B'], io['H'], io['M'], io['d']};
        tensor_view<T const> const q = sequence_major(q_in.data, sq), k = sequence_major(k_in.data, sk), v = sequence_major(v_in.data, sk);
        tensor_view<T> const out = sequence_major(io.make("out", "BNHd"), sq);
        auto const m = flow_attention(P{}, io.source().number("eps"));
        forward(m, q, k, v, out);
        if (!io.wants("dq")) { return; }
        tensor_view<T const> const dout = sequence_major(io.reals("dout", "BNHd").data, sq);
        backward(m, q, k, v, out, nothing_saved{}, dout, sequence_major(io.make("dq", "BNHd"), sq), sequence_major(io.make("dk", "BMHd"), sk), sequence_major(io.make("dv", "BMHd"), sk));
    }
};
template <class P>
struct flow_layer {
    template <class T>
    static void run(case_io<T>& io) {
        auto const queries = io.reals("queries", "BNi"), keys = io.reals("keys", "BMi"), values = io.reals("values", "BMi");
        auto const wq = io.reals("query_projection.weight", "Di"), wk = io.reals("key_projection.weight", "Di"), wv = io.reals("value_projection.weight", "Di"), wo = io.reals("out_projection.weight", "oD");
        auto const bq = io.reals("query_projection.bias", "D"), bk = io.reals("key_projection.bias", "D"), bv = io.reals("value_projection.bias", "D"), bo = io.reals("out_projection.bias", "o");
        extent_t const B = io['B'], N = io['N'], M = io['M'], D = io['D'], H = io.source().integer("heads", 1, 1 << 20);
        if (D % H) { throw bad_file(io.source().path(), "metadata \"heads\" must divide the width of the projections"); }
        tape<T> t(io, io.wants("dqueries"));
        traced<T> const x = t.copy(queries.data, B * N * io['i']), y = t.copy(keys.data, B * M * io['i']), z = t.copy(values.data, B * M * io['i']);
        traced<T> const q = linear(t, x, B * N, wq, bq.data), k = linear(t, y, B * M, wk, bk.data), v = linear(t, z, B * M, wv, bv.data), mixed = t.room(B * N * D);
        shape const sq{B, H, N, D / H}, sk{B, H, M, D / H};
        auto const in = [](traced<T> rows, shape s) { return sequence_major<T const>(rows.x, s); };
        auto const m = flow_attention(P{}, io.source().number("eps"));
        forward(m, in(q, sq), in(k, sk), in(v, sk), sequence_major(mixed.x, sq));
        t.back([=] {
            backward(m, in(q, sq), in(k, sk), in(v, sk), in(mixed, sq), nothing_saved{}, sequence_major<T const>(mixed.d, sq), sequence_major(q.d, sq), sequence_major(k.d, sk), sequence_major(v.d, sk));
        });
        give(t, linear(t, mixed, B * N, wo, bo.data), "BNo", B * N * io['o']);
        give_gradient(t, x, "dqueries", "BNi", B * N * io['i']);
        give_gradient(t, y, "dkeys", "BMi", B * M * io['i']);
        give_gradient(t, z, "dvalues", "BMi", B * M * io['i']);
    }
};

struct gated_slot_case {
    template <class T>
    static void run(case_io<T>& io) {
        auto const q_in = io.reals("q", "BTHd"), k_in = io.reals("k", "BTHd"), v_in = io.reals("v", "BTHe"), s_in = io.reals("s", "BTHM"), g_in = io.reals("g", "BTHM");
        shape const sk{io['B'], io['H'], io['T'], io['d']}, sv{io['B'], io['H'], io['T'], io['e']}, ss{io['B'], io['H'], io['T'], io['M']};
        tensor_view<T const> const q = sequence_major(q_in.data, sk), k = sequence_major(k_in.data, sk), v = sequence_major(v_in.data, sv);
        tensor_view<T> const out = sequence_major(io.make("out", "BTHe"), sv);
        auto const m = gated_slot_attention(sequence_major(s_in.data, ss), sequence_major(g_in.data, ss), io.source().number_if("scale").value_or(0));
        forward(m, q, k, v, out);
        if (!io.wants("dq")) { return; }
        tensor_view<T const> const dout = sequence_major(io.reals("dout", "BTHe").data, sv);
        auto const made = [&](std::string_view name, std::string_view axes, shape s) { return sequence_major(io.make(name, axes), s); };
        backward(m, q, k, v, out, nothing_saved{}, dout, made("dq", "BTHd", sk), made("dk", "BTHd", sk), made("dv", "BTHe", sv), slots_gradient{made("ds", "BTHM", ss)}, log_decay_gradient{made("dg", "BTHM", ss)});
    }
};

template <class P>
struct local_linear_case {
    template <class T>
    static void run(case_io<T>& io) {
        auto const q_in = io.reals("q", "BHNd"), k_in = io.reals("k", "BHMd"), v_in = io.reals("v", "BHMe");
        shape const sq{io['B'], io['H'], io['N'], io['d']}, sk{io['B'], io['H'], io['M'], io['d']}, sv{io['B'], io['H'], io['M'], io['e']}, so{io['B'], io['H'], io['N'], io['e']};
        tensor_view<T const> const q(q_in.data, sq), k(k_in.data, sk), v(v_in.data, sv);
        tensor_view<T> const out(io.make("out", "BHNe"), so);
        double const lambda = io.source().number("lam");
        if (!(lambda > 0)) { throw bad_file(io.source().path(), "metadata \"lam\" must be above 0"); }
        auto const m = local_linear_attention(P{}, ridge{lambda}, io.source().number_if("s").value_or(0));
        forward(m, q, k, v, out);
        if (!io.wants("dq")) { return; }
        tensor_view<T const> const dout(io.reals("dout", "BHNe").data, so);
        backward(m, q, k, v, out, nothing_saved{}, dout, tensor_view<T>(io.make("dq", "BHNd"), sq), tensor_view<T>(io.make("dk", "BHMd"), sk), tensor_view<T>(io.make("dv", "BHMe"), sv));
    }
};
struct parallax_case {
    template <class T>
    static void run(case_io<T>& io) {
        auto const q_in = io.reals("q", "BTHd"), k_in = io.reals("k", "BTGd"), v_in = io.reals("v", "BTGe"), r_in = io.reals("r", "BTHd");
        if (io.source().number("window") != 0) { throw not_supported(io.source().path() + ": Parallax within a window is not supported"); }
        if (io['G'] == 0 || io['H'] % io['G']) { throw bad_file(io.source().path(), "heads of q must be a multiple of those of k"); }
        shape const sq{io['B'], io['H'], io['T'], io['d']}, sk{io['B'], io['G'], io['T'], io['d']}, sv{io['B'], io['G'], io['T'], io['e']}, so{io['B'], io['H'], io['T'], io['e']};
        tensor_view<T const> const q = sequence_major(q_in.data, sq), k = sequence_major(k_in.data, sk), v = sequence_major(v_in.data, sv);
        tensor_view<T> const out = sequence_major(io.make("out", "BTHe"), so);
        auto const m = parallax_attention(sequence_major(r_in.data, sq), causal_bottom_right{}, io.source().number_if("scale").value_or(0));
        forward(m, q, k, v, out);
        if (!io.wants("dq")) { return; }
        tensor_view<T const> const dout = sequence_major(io.reals("dout", "BTHe").data, so);
        auto const made = [&](std::string_view name, std::string_view axes, shape s) { return sequence_major(io.make(name, axes), s); };
        backward(m, q, k, v, out, nothing_saved{}, dout, made("dq", "BTHd", sq), made("dk", "BTGd", sk), made("dv", "BTGe", sv), slope_gradient{made("dr", "BTHd", sq)});
    }
};

struct titans_linear_case {
    template <class T>
    static void run(case_io<T>& io) {
        auto const q_in = io.reals("q", "BHTd"), k_in = io.reals("k", "BHTd"), v_in = io.reals("v", "BHTe"), start = io.reals("initial_state", "BHde");
        shape const sk{io['B'], io['H'], io['T'], io['d']}, sv{io['B'], io['H'], io['T'], io['e']}, ss{io['B'], io['H'], io['d'], io['e']}, one{io['B'], io['H'], io['T'], 1};
        tensor_view<T const> const q(q_in.data, sk), k(k_in.data, sk), v(v_in.data, sv), initial(start.data, ss);
        auto const number = [&](std::string_view name) { return tensor_view<T const>(io.reals(name, "BHT").data, one); };
        auto const m = titans_memory(number("theta"), number("alpha"), number("eta"));
        tensor_view<T> const out(io.make("out", "BHTe"), sv);
        forward(m, q, k, v, out, initial_memory<T>{{initial, {}}}, final_memory<T>{{{io.make("final_state", "BHde"), ss}, {io.make("final_momentum", "BHde"), ss}}});
        if (!io.wants("dq")) { return; }
        tensor_view<T const> const dout(io.reals("dout", "BHTe").data, sv);
        auto const made = [&](std::string_view name, std::string_view axes, shape s) { return tensor_view<T>(io.make(name, axes), s); };
        backward(m, q, k, v, out, nothing_saved{}, dout, made("dq", "BHTd", sk), made("dk", "BHTd", sk), made("dv", "BHTe", sv), initial_memory<T>{{initial, {}}},
                 memory_gradient<T>{made("dtheta", "BHT", one), made("dalpha", "BHT", one), made("deta", "BHT", one), {made("dinitial_state", "BHde", ss), {}}});
    }
};

// One head, weights shared by the batch; i is the hidden width.
struct titans_network_case {
    template <class T>
    static void run(case_io<T>& io) {
        auto const q_in = io.reals("q", "BTd"), k_in = io.reals("k", "BTd"), v_in = io.reals("v", "BTe"), w1 = io.reals("w1", "di"), w2 = io.reals("w2", "ie");
        shape const sk{io['B'], 1, io['T'], io['d']}, sv{io['B'], 1, io['T'], io['e']}, s1{io['B'], 1, io['d'], io['i']}, s2{io['B'], 1, io['i'], io['e']}, one{io['B'], 1, io['T'], 1};
        tensor_view<T const> const q(q_in.data, sk), k(k_in.data, sk), v(v_in.data, sv), first(w1.data, s1, {0, 0, io['i'], 1}), second(w2.data, s2, {0, 0, io['e'], 1});
        auto const number = [&](std::string_view name) { return tensor_view<T const>(io.reals(name, "BT").data, one); };
        auto const m = titans_network(number("theta"), number("alpha"), number("eta"), io['i'], io.source().integer("chunk", 1, 1 << 20));
        initial_network<T> const start{{{first, {}}, {second, {}}, {}}};
        tensor_view<T> const out(io.make("out", "BTe"), sv);
        forward(m, q, k, v, out, start, final_network<T>{{{{io.make("final_w1", "Bdi"), s1}, {}}, {{io.make("final_w2", "Bie"), s2}, {}}, {}}});
        if (!io.wants("dq")) { return; }
        tensor_view<T const> const dout(io.reals("dout", "BTe").data, sv);
        auto const made = [&](std::string_view name, std::string_view axes, shape s) { return tensor_view<T>(io.make(name, axes), s); };
        backward(m, q, k, v, out, nothing_saved{}, dout, made("dq", "BTd", sk), made("dk", "BTd", sk), made("dv", "BTe", sv), start,
                 network_gradient<T>{made("dtheta", "BT", one), made("dalpha", "BT", one), made("deta", "BT", one), {}, {}, {}});
    }
};
template <bool Momentum>
struct normalised_case {
    template <class T>
    static void run(case_io<T>& io) {
        auto const q_in = io.reals("q", "BTHd"), k_in = io.reals("k", "BTHd"), v_in = io.reals("v", "BTHd"), w_in = io.reals("w", "Hd"), b_in = io.reals("b", "Hd");
        shape const s{io['B'], io['H'], io['T'], io['d']}, ss{io['B'], io['H'], io['d'], io['d']}, sb{io['B'], io['H'], 1, io['d']}, one{io['B'], io['H'], io['T'], 1};
        tensor_view<T const> const q = sequence_major(q_in.data, s), k = sequence_major(k_in.data, s), v = sequence_major(v_in.data, s), weight(w_in.data, {1, io['H'], 1, io['d']}), bias(b_in.data, {1, io['H'], 1, io['d']});
        io.set('1', 1, "one number a token");
        auto const number = [&](std::string_view name) { return tensor_view<T const>(sequence_major(io.reals(name, "BTH1").data, one)); };
        double const eps = io.source().number("eps");
        network_state<T const> start{};
        network_state<T> last{};
        last.first.m = {io.make("final_state", "BHdd"), ss};
        tensor_view<T> const out = sequence_major(io.make("out", "BTHd"), s);
        if constexpr (Momentum) {
            forward(titans_normalised(number("theta"), number("alpha"), number("eta"), weight, bias, io.source().integer("chunk", 1, 1 << 20), eps), q, k, v, out, final_network<T>{last});
        } else {
            start.first.m = {io.reals("initial_state", "BHdd").data, ss}, start.bias = {io.reals("initial_bias", "BH1d").data, sb};
            last.bias = {io.make("final_bias", "BH1d"), sb};
            forward(ttt_linear(number("eta"), weight, bias, io.source().integer("mini_batch", 1, 1 << 20), eps), q, k, v, out, initial_network<T>{start}, final_network<T>{last});
        }
    }
};

constexpr std::array linear_cases{
    wire<gated_slot_case>("gated_slot_attention"),
    wire<flow_core<full>>("flowformer_core"),
    wire<flow_core<causal_bottom_right>>("flowformer_core_causal"),
    wire<flow_layer<full>>("flowformer"),
    wire<flow_layer<causal_bottom_right>>("flowformer_causal"),
};
check_registration const linear_registration("linear", linear_cases);
constexpr std::array recurrent_cases{
    wire<aaren_case>("aaren_scaled"),
    wire<aaren_case>("aaren_unscaled"),
    wire<local_linear_case<full>>("local_linear_attention"),
    wire<local_linear_case<causal_bottom_right>>("local_linear_attention_causal"),
    wire<parallax_case>("parallax"),
    wire<titans_linear_case>("titans_linear_memory"),
    wire<titans_network_case>("titans_mlp_memory"),
    wire<normalised_case<false>>("ttt_linear"),
    wire<normalised_case<true>>("titans_fla_naive"),
};
check_registration const registration("other", recurrent_cases);

} // namespace

} // namespace heed::tool
