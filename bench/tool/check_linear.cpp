// SPDX-License-Identifier: BSD-3-Clause
// Linear attention, decays and the delta rule. Axis letters: B batch, H heads of the state, G heads of queries and keys, T positions, N queries, M keys,
// K width of keys, V width of values.
#include "case_file.hpp"
#include "failure.hpp"
#include "layers.hpp"

#include <heed/front/recurrent_backward.hpp>
#include <heed/mechanism/delta_rule.hpp>
#include <heed/mechanism/gated_linear.hpp>
#include <heed/mechanism/linear.hpp>

#include <array>
#include <cmath>

namespace heed::tool {

namespace {

// Axes as a file writes them, e.g. "BTHK": the last but one is a head where sequences come first.
template <class T>
tensor_view<T> seen(T* data, shape s, bool sequence_first) {
    return sequence_first ? sequence_major(data, s) : tensor_view<T>(data, s);
}
template <class T>
bool has(case_io<T>& io, std::string_view name) {
    return io.source().file().find(name) != nullptr;
}
// A result, or an empty view where the file has none.
template <class T>
tensor_view<T> result(case_io<T>& io, std::string_view name, std::string_view axes, shape s, bool sequence_first) {
    return io.expects(name) ? seen(io.make(name, axes), s, sequence_first) : tensor_view<T>{};
}
template <class T>
tensor_view<T> gradient(case_io<T>& io, std::string_view name, std::string_view axes, shape s, bool sequence_first) {
    return io.wants(name) ? seen(io.make(name, axes), s, sequence_first) : tensor_view<T>{};
}

// One case along the sequence: how its tensors lie, and a mechanism made of its data and options.
template <class T>
struct along_case {
    case_io<T>& io;
    bool first;      // sequences before heads
    bool narrow;     // queries and keys have heads of their own
    std::string_view rows_k, rows_v, rows_q, row, rows_g;
    shape sq, sv, so;
    tensor_view<T const> q, k, v;

    explicit along_case(case_io<T>& source, bool sequence_first, bool own_heads = false)
        : io(source), first(sequence_first), narrow(own_heads), rows_k(first ? (own_heads ? "BTGK" : "BTHK") : "BHTK"), rows_v(first ? "BTHV" : "BHTV"), rows_q(rows_k), row(first ? "BTH" : "BHT"),
          rows_g(first ? "BTHK" : "BHTK") {
        auto const q_in = io.reals("q", rows_k), k_in = io.reals("k", rows_k), v_in = io.reals("v", rows_v);
        sq = {io['B'], narrow ? io['G'] : io['H'], io['T'], io['K']};
        sv = so = {io['B'], io['H'], io['T'], io['V']};
        q = seen(q_in.data, sq, first), k = seen(k_in.data, sq, first), v = seen(v_in.data, sv, first);
    }
    double scale() const { return io.source().number_if("scale").value_or(1 / std::sqrt(static_cast<double>(io['K']))); }
    shape per_token() const { return {io['B'], io['H'], io['T'], 1}; }
    tensor_view<T const> numbers(std::string_view name) { return seen(io.reals(name, row).data, per_token(), first); }
    tensor_view<T const> rows_of_keys(std::string_view name) { return seen(io.reals(name, rows_g).data, shape{io['B'], io['H'], io['T'], io['K']}, first); }

    // gradients of the update's data: names in the file, or none
    template <class M, class... Options>
    void run(M const& m, Options const&... more) {
        shape const ss{io['B'], io['H'], io['K'], io['V']}, sz{io['B'], io['H'], io['K'], 1};
        state_of start{};
        if (has(io, "initial_state")) { start.s = {io.reals("initial_state", "BHKV").data, ss}; }
        if (has(io, "initial_z")) { start.z = {io.reals("initial_z", "B1HK").data, sz}; }
        tensor_view<T> const out = seen(io.make("out", rows_v), so, first);
        final_state<T> const last{result(io, "final_state", "BHKV", ss, false), result(io, "final_z", "B1HK", sz, false)};
        initial_state<T> const initial{start.s, start.z};
        forward(m, q, k, v, out, initial, last);
        if (!io.wants("dq")) { return; }
        tensor_view<T const> const dout = seen(io.reals("dout", rows_v).data, so, first);
        backward(m, q, k, v, out, nothing_saved{}, dout, gradient(io, "dq", rows_k, sq, first), gradient(io, "dk", rows_k, sq, first), gradient(io, "dv", rows_v, sv, first), initial,
                 initial_state_gradient<T>{gradient(io, "dinitial_state", "BHKV", ss, false), {}}, more...);
    }
    tensor_view<T> number_gradient(std::string_view name) { return gradient(io, name, row, per_token(), first); }
    tensor_view<T> row_gradient(std::string_view name) { return gradient(io, name, rows_g, shape{io['B'], io['H'], io['T'], io['K']}, first); }

private:
    struct state_of {
        tensor_view<T const> s, z;
    };
};

struct unnormalised_identity {
    template <class T>
    static void run(case_io<T>& io) {
        along_case<T> c(io, true);
        c.run(linear_attention_raw(c.scale()));
    }
};
struct unnormalised_elu {
    template <class T>
    static void run(case_io<T>& io) {
        along_case<T> c(io, true);
        c.run(linear_attention_raw(c.scale(), elu_plus_one{}));
    }
};
struct normalised_identity {
    template <class T>
    static void run(case_io<T>& io) {
        along_case<T> c(io, true);
        c.run(recurrent{identity_map{}, additive_update{}, running_sum{io.source().number("eps")}, causal_bottom_right{}, c.scale()});
    }
};
// Whether the queries are scaled: only where the state is given, by the case's equation.
template <bool Scaled>
struct normalised_elu {
    template <class T>
    static void run(case_io<T>& io) {
        along_case<T> c(io, true);
        auto m = linear_attention(causal_bottom_right{}, elu_plus_one{}, io.source().number("eps"));
        if (Scaled) { m.scale = c.scale(); }
        c.run(m);
    }
};
// Every query reads all keys, or the first of them.
template <bool Lengths>
struct all_keys_elu {
    template <class T>
    static void run(case_io<T>& io) {
        auto const q_in = io.reals("q", "BNHK"), k_in = io.reals("k", "BMHK"), v_in = io.reals("v", "BMHV");
        shape const sq{io['B'], io['H'], io['N'], io['K']}, sk{io['B'], io['H'], io['M'], io['K']}, sv{io['B'], io['H'], io['M'], io['V']}, so{io['B'], io['H'], io['N'], io['V']};
        tensor_view<T const> const q = sequence_major(q_in.data, sq), k = sequence_major(k_in.data, sk), v = sequence_major(v_in.data, sv);
        tensor_view<T> const out = sequence_major(io.make("out", "BNHV"), so);
        auto const both = [&](auto order) {
            auto const m = linear_attention(order, elu_plus_one{}, io.source().number("eps"));
            forward(m, q, k, v, out);
            if (!io.wants("dq")) { return; }
            tensor_view<T const> const dout = sequence_major(io.reals("dout", "BNHV").data, so);
            backward(m, q, k, v, out, nothing_saved{}, dout, gradient(io, "dq", "BNHK", sq, true), gradient(io, "dk", "BMHK", sk, true), gradient(io, "dv", "BMHV", sv, true));
        };
        if constexpr (Lengths) {
            both(key_lengths{per_batch(io.integers("kv_len", "B", 0, io['M']).data, io['B'])});
        } else {
            both(full{});
        }
    }
};

struct retention_case {
    template <class T>
    static void run(case_io<T>& io) {
        along_case<T> c(io, false);
        T* const decay = io.scratch(io['H']);
        for (extent_t h = 0; h < io['H']; ++h) { decay[h] = static_cast<T>(std::log1p(-std::exp2(-5 - static_cast<double>(h)))); }
        c.run(retention(per_head(static_cast<T const*>(decay), io['H']), c.scale()));
    }
};
struct simple_gla {
    template <class T>
    static void run(case_io<T>& io) {
        along_case<T> c(io, true);
        c.run(simple_gated_linear(c.numbers("g"), c.scale()), log_decay_gradient<T>{c.number_gradient("dg")});
    }
};
struct gla {
    template <class T>
    static void run(case_io<T>& io) {
        along_case<T> c(io, true);
        c.run(gated_linear(c.rows_of_keys("gk"), c.scale()), log_decay_gradient<T>{c.row_gradient("dgk")});
    }
};

struct delta_case {
    template <class T>
    static void run(case_io<T>& io) {
        along_case<T> c(io, false);
        c.run(delta_attention(c.numbers("beta"), c.scale()), beta_gradient<T>{c.number_gradient("dbeta")});
    }
};
struct delta_channel {
    template <class T>
    static void run(case_io<T>& io) {
        along_case<T> c(io, false);
        auto const beta = io.reals("beta", "BHTV");
        c.run(delta_attention(tensor_view<T const>(beta.data, c.sv), c.scale()), beta_gradient<T>{gradient(io, "dbeta", "BHTV", c.sv, false)});
    }
};
struct gated_delta_case {
    template <class T>
    static void run(case_io<T>& io) {
        along_case<T> c(io, true);
        c.run(gated_delta_attention(c.numbers("g"), c.numbers("beta"), c.scale()), log_decay_gradient<T>{c.number_gradient("dg")}, beta_gradient<T>{c.number_gradient("dbeta")});
    }
};
struct kda_case {
    template <class T>
    static void run(case_io<T>& io) {
        along_case<T> c(io, true, true);
        c.run(kimi_delta_attention(c.rows_of_keys("g"), c.numbers("beta"), c.scale()), log_decay_gradient<T>{c.row_gradient("dg")}, beta_gradient<T>{c.number_gradient("dbeta")});
    }
};

// Powers of the scaled product, by features of the rows.
struct series_case {
    template <class T>
    static void run(case_io<T>& io) {
        along_case<T> c(io, false);
        bool const squares = io.source().name() == "rebased_normalised";
        series_map const map = squares ? square_map(c.scale()) : taylor_map(c.scale());
        double const eps = io.source().number("eps");
        if (eps == 0) {
            c.run(linear_attention_raw(1, map));
        } else {
            c.run(linear_attention(causal_bottom_right{}, map, eps));
        }
    }
};
// Queries, keys and values side by side in memory, every query reads all keys; features of rows are results too.
template <class T, class M, class... Options>
void run_projected(case_io<T>& io, M const& m, loaded<T> const& q_in, Options const&... options) {
    shape const s{io['B'], io['H'], io['N'], io['d']};
    tensor_view<T const> const q(q_in.data, s), k(io.reals("k", "BHNd").data, s), v(io.reals("v", "BHNd").data, s);
    T largest = -math::inf<T>();
    T* const work = io.scratch(io['r']);
    extent_t const d = s.feature, rows = s.batch * s.head * s.seq;
    T *const phi_q = io.make("phi_q", "BHNr"), *const phi_k = io.make("phi_k", "BHNr");
    for (extent_t row = 0; row < rows; ++row) {
        m.feature.template map<native_arch>(q.data_handle() + row * d, d, phi_q + row * io['r']);
        if constexpr (maps_keys_apart<decltype(M::feature)>) {
            if (row % s.seq == 0) { // of a head
                largest = -math::inf<T>();
                for (extent_t n = 0; n < s.seq; ++n) { largest = std::max(largest, m.feature.template peak<native_arch>(k.data_handle() + (row + n) * d, d, work)); }
            }
            m.feature.template map_keys<native_arch>(k.data_handle() + row * d, d, largest, phi_k + row * io['r']);
        } else {
            m.feature.template map<native_arch>(k.data_handle() + row * d, d, phi_k + row * io['r']);
        }
    }
    tensor_view<T> const out(io.make("out", "BHNd"), s);
    forward(m, q, k, v, out, options...);
    if (!io.wants("dq")) { return; }
    tensor_view<T const> const dout(io.reals("dout", "BHNd").data, s);
    backward(m, q, k, v, out, nothing_saved{}, dout, gradient(io, "dq", "BHNd", s, false), gradient(io, "dk", "BHNd", s, false), gradient(io, "dv", "BHNd", s, false), options...);
}
struct performer_relu {
    template <class T>
    static void run(case_io<T>& io) {
        auto const q = io.reals("q", "BHNd"), projection = io.reals("projection", "rd");
        run_projected(io, linear_attention(full{}, relu_projection_map<T>{{projection.data, {1, 1, io['r'], io['d']}}}, 0), q);
    }
};
template <class P>
struct performer_softmax {
    template <class T>
    static void run(case_io<T>& io) {
        auto const q = io.reals("q", "BHNd"), projection = io.reals("projection", "rd");
        auto const m = performer_attention(tensor_view<T const>(projection.data, {1, 1, io['r'], io['d']}), P{});
        extent_t const count = io['B'] * io['H'] * io['r'];
        T* const start = io.scratch(count); // added to the sums of keys
        std::fill_n(start, count, static_cast<T>(decltype(m)::causal ? 1e-6 : 0));
        run_projected(io, m, q, initial_state<T>{{}, {start, {io['B'], io['H'], io['r'], 1}}});
    }
};

struct efficient_core {
    template <class T>
    static void run(case_io<T>& io) {
        auto const q_in = io.reals("q", "BHNK"), k_in = io.reals("k", "BHMK"), v_in = io.reals("v", "BHMV");
        shape const sq{io['B'], io['H'], io['N'], io['K']}, sk{io['B'], io['H'], io['M'], io['K']}, sv{io['B'], io['H'], io['M'], io['V']}, so{io['B'], io['H'], io['N'], io['V']};
        tensor_view<T const> const q(q_in.data, sq), k(k_in.data, sk), v(v_in.data, sv);
        tensor_view<T> const out(io.make("out", "BHNV"), so);
        auto const m = efficient_attention();
        forward(m, q, k, v, out);
        if (!io.wants("dq")) { return; }
        tensor_view<T const> const dout(io.reals("dout", "BHNV").data, so);
        backward(m, q, k, v, out, nothing_saved{}, dout, gradient(io, "dq", "BHNK", sq, false), gradient(io, "dk", "BHMK", sk, false), gradient(io, "dv", "BHMV", sv, false));
    }
};
// Pixels are positions; the layer's input is added to its output.
struct efficient_module {
    template <class T>
    static void run(case_io<T>& io) {
        auto const x = io.reals("x", "BCXY");
        extent_t const B = io['B'], C = io['C'], N = io['X'] * io['Y'], H = io.source().integer("heads", 1, 1 << 20);
        io.set('1', 1, "a filter of one pixel");
        auto const wk = io.reals("keys.weight", "KC11"), wq = io.reals("queries.weight", "KC11"), wv = io.reals("values.weight", "VC11"), wo = io.reals("reprojection.weight", "CV11");
        auto const bk = io.reals("keys.bias", "K"), bq = io.reals("queries.bias", "K"), bv = io.reals("values.bias", "V"), bo = io.reals("reprojection.bias", "C");
        if (io['K'] % H || io['V'] % H) { throw bad_file(io.source().path(), "metadata \"heads\" must divide the channels of keys and values"); }
        tape<T> t(io, io.wants("dx"));
        traced<T> const input = t.room(B * N * C), mixed = t.room(B * N * io['V']);
        auto const turn = [=](T const* from, extent_t rows, extent_t columns, T* to, bool add) { // [B, rows, columns] to [B, columns, rows]
            for (extent_t b = 0; b < B; ++b)
                for (extent_t r = 0; r < rows; ++r)
                    for (extent_t c = 0; c < columns; ++c) {
                        T& y = to[(b * columns + c) * rows + r];
                        y = from[(b * rows + r) * columns + c] + (add ? y : T(0));
                    }
        };
        turn(x.data, C, N, input.x, false);
        traced<T> const k = linear(t, input, B * N, wk, bk.data), q = linear(t, input, B * N, wq, bq.data), v = linear(t, input, B * N, wv, bv.data);
        shape const sk{B, H, N, io['K'] / H}, sv{B, H, N, io['V'] / H};
        auto const in = [](traced<T> rows, shape s) { return sequence_major<T const>(rows.x, s); };
        forward(efficient_attention(), in(q, sk), in(k, sk), in(v, sv), sequence_major(mixed.x, sv));
        t.back([=] {
            backward(efficient_attention(), in(q, sk), in(k, sk), in(v, sv), in(mixed, sv), nothing_saved{}, sequence_major<T const>(mixed.d, sv), sequence_major(q.d, sk), sequence_major(k.d, sk), sequence_major(v.d, sv));
        });
        traced<T> const out = linear(t, mixed, B * N, wo, bo.data);
        T* const result = io.make("out", "BCXY");
        std::copy_n(x.data, B * C * N, result);
        turn(out.x, N, C, result, true);
        if (!t.wanted()) { return; }
        T* const dout = io.scratch(B * N * C);
        T const* const given = io.reals("dout", "BCXY").data;
        turn(given, C, N, dout, false);
        t.run_back(out, dout, B * N * C);
        T* const dx = io.make("dx", "BCXY");
        std::copy_n(given, B * C * N, dx);
        turn(input.d, N, C, dx, true);
    }
};

constexpr std::array linear_cases{
    wire<unnormalised_identity>("identity_causal_long"),
    wire<unnormalised_identity>("identity_unnormalised_states"),
    wire<normalised_identity>("identity_normalised_positive"),
    wire<unnormalised_elu>("elu1_unnormalised_causal"),
    wire<normalised_elu<false>>("elu1_normalised_causal"),
    wire<normalised_elu<true>>("elu1_causal_states_normalised"),
    wire<all_keys_elu<false>>("elu1_normalised_cross"),
    wire<all_keys_elu<true>>("elu1_normalised_key_lengths"),
    wire<series_case>("based_taylor_normalised"),
    wire<series_case>("based_taylor_unnormalised"),
    wire<series_case>("rebased_normalised"),
    wire<performer_relu>("performer_relu"),
    wire<performer_softmax<full>>("performer_softmax"),
    wire<performer_softmax<causal_bottom_right>>("performer_softmax_causal"),
    wire<efficient_core>("efficient_attention_core"),
    wire<efficient_module>("efficient_attention_module"),
    wire<retention_case>("retention"),
    wire<simple_gla>("simple_gla_states"),
    wire<gla>("gla_states"),
    wire<gla>("gla_long"),
    wire<gla>("gla_strong_decay"),
    wire<delta_case>("delta_rule_states"),
    wire<delta_case>("delta_rule_pow2"),
    wire<delta_channel>("delta_rule_channel_beta"),
    wire<gated_delta_case>("gated_delta_rule_states"),
    wire<gated_delta_case>("gated_delta_rule_scale"),
    wire<gated_delta_case>("gated_delta_rule_long"),
    wire<kda_case>("kda_states"),
};
check_registration const registration("linear", linear_cases);

} // namespace

} // namespace heed::tool
