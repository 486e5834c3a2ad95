// SPDX-License-Identifier: BSD-3-Clause
// Tensor-product attention: factors given, steps from cached factors, and the layer around them. Axis letters: B batch, N queries, M keys, H heads, d and e
// widths, q, r and s ranks of q, k and v, D the model's width.
#include "case_file.hpp"
#include "failure.hpp"
#include "layers.hpp"

#include <heed/engine/cpu/recurrent_kernels.hpp> // its products are those compiled once, not a copy of this file's
#include <heed/front/factored_backward.hpp>
#include <heed/front/grouped_decode.hpp>
#include <heed/mechanism/tensor_product.hpp>

#include <array>

namespace heed::tool {

namespace {

// A window that is as wide as the sequences, so that one mechanism serves masked and unmasked cases.
attention<then<dot, inv_sqrt_width>, window, softmax> mechanism(extent_t rows, bool causal) { return tensor_product_attention(window{rows, causal ? 0 : rows}); }

// a as the file has it, [B, N, H, R], b [B, N, R, d] or with the rank last.
template <class T>
factored<T> operand(T const* a, T const* b, shape s, extent_t rank, bool rank_last) {
    tensor_view<T const> const heads = sequence_major(a, {s.batch, s.head, s.seq, rank});
    if (!rank_last) { return {heads, sequence_major(b, {s.batch, rank, s.seq, s.feature})}; }
    return {heads, tensor_view<T const>{b, {s.batch, rank, s.seq, s.feature}, {s.seq * s.feature * rank, 1, s.feature * rank, rank}}};
}
template <class T>
factored_gradient<T> gradient_of(factored<T> const& f, T* da, T* db) {
    return {{da, f.a.shape(), f.a.strides()}, {db, f.b.shape(), f.b.strides()}};
}
template <class T>
save<T> room_for_rows(case_io<T>& io, shape s) {
    return {{io.scratch(s.batch * s.head * s.seq), {s.batch, s.head, s.seq, 1}}};
}

struct factor_axes {
    std::string_view aq, bq, ak, bk, av, bv, out;
};
constexpr factor_axes in_order{"BNHq", "BNqd", "BMHr", "BMrd", "BMHs", "BMse", "BNHe"}, rank_one{"BNHq", "BNqd", "BMH", "BMd", "BMH", "BMe", "BNHe"}, rank_last{"BNHq", "BNqd", "BMHr", "BMdr", "BMHs", "BMes", "BNHe"};

template <factor_axes const& Axes, bool Causal, bool Step>
struct factors_given {
    template <class T>
    static void run(case_io<T>& io) {
        constexpr bool one = &Axes == &rank_one, last = &Axes == &rank_last;
        auto const aq = io.reals("aq", Axes.aq), bq = io.reals("bq", Axes.bq), ak = io.reals("ak", Axes.ak), bk = io.reals("bk", Axes.bk), av = io.reals("av", Axes.av), bv = io.reals("bv", Axes.bv);
        auto const B = io['B'], H = io['H'], N = io['N'], M = io['M'], d = io['d'], e = io['e'], r = one ? 1 : io['r'], s = one ? 1 : io['s'];
        shape const so{B, H, N, e};
        auto const q = operand(aq.data, bq.data, {B, H, N, d}, io['q'], false), k = operand(ak.data, bk.data, {B, H, M, d}, r, last), v = operand(av.data, bv.data, {B, H, M, e}, s, last);
        auto const m = mechanism(N + M, Causal);
        auto const out = sequence_major(io.make("out", Axes.out), so);
        auto const saved = room_for_rows(io, so);
        forward(m, q, k, v, out, saved);
        if (io.wants("daq")) {
            tensor_view<T const> const dout = sequence_major(io.reals("dout", Axes.out).data, so);
            backward(m, q, k, v, out, saved, dout, gradient_of(q, io.make("daq", Axes.aq), io.make("dbq", Axes.bq)), gradient_of(k, io.make("dak", Axes.ak), io.make("dbk", Axes.bk)),
                     gradient_of(v, io.make("dav", Axes.av), io.make("dbv", Axes.bv)));
        }
        if constexpr (Step) { // what is compared is the step from a cache
            auto cache = make_factor_cache<T>({B, H, M, d, e, r, s});
            append(cache, k, v);
            decode(m, q, cache, out);
        }
    }
};

// The rows that factors stand for, [B, N, H, d].
template <class T>
void write_out(factored<T> const& f, T* to) {
    shape const s = f.shape();
    for (extent_t b = 0; b < s.batch; ++b) {
        place const at{b, 0, 0, s.seq, s.seq, s.feature};
        for (extent_t h = 0; h < s.head; ++h) { f.template rows<native_arch>(heed::operand{at, h, 0}, range{0, s.seq}, tensor_view<T const>{}, to + (b * s.seq * s.head + h) * s.feature, s.head * s.feature); }
    }
}

enum class layer { all, keys_and_values, turned_after, stepwise };

template <layer L>
struct t6_layer {
    template <class T>
    static void run(case_io<T>& io) {
        auto const& file = io.source();
        extent_t const H = file.integer("heads", 1, 1 << 12), d = file.integer("head_dim", 2, 1 << 12), R = file.integer("rank", 1, 1 << 10), Q = L == layer::keys_and_values ? 0 : file.integer("q_rank", 1, 1 << 10);
        auto const x = io.reals("x", "BND");
        auto const B = io['B'], N = io['N'], D = io['D'];
        io.set('H', H, "metadata heads"), io.set('d', d, "metadata head_dim"), io.set('r', R, "metadata rank"), io.set('h', d / 2, "half of head_dim");
        io.set('A', H * R, "heads times rank"), io.set('b', R * d, "rank times head_dim"), io.set('O', H * d, "heads times head_dim");
        auto const cosines = io.reals("cos", "Nh"), sines = io.reals("sin", "Nh");
        T* const backwards = io.scratch(N * (d / 2)); // the reference turns by the negative angle
        for (extent_t i = 0; i < N * (d / 2); ++i) { backwards[i] = -sines.data[i]; }
        tape<T> t(io, io.wants("dx"));
        traced<T> const input = t.copy(x.data, B * N * D);
        auto const turned = [&](traced<T> rows, extent_t count) { // [B, count, N, d]
            auto const heads = split_heads(t, rows, count * d, shape{B, count, N, d}, [=](extent_t r) { return r * d; });
            return rotate_by_tables<half_pairs>(t, heads, B * count, N, d, cosines.data, static_cast<T const*>(backwards), d / 2);
        };
        auto const factor = [&](char const* name, std::string_view axes) { return linear(t, input, B * N, io.reals(name, axes)); };
        traced<T> const ak = factor("c_qkv.W_A_k.weight", "AD"), av = factor("c_qkv.W_A_v.weight", "AD"), bk = turned(factor("c_qkv.W_B_k.weight", "bD"), R), bv = factor("c_qkv.W_B_v.weight", "bD");
        auto const heads_of = [=](T const* p, extent_t rank) { return sequence_major<T const>(p, {B, H, N, rank}); };
        factored<T> const k{heads_of(ak.x, R), tensor_view<T const>(bk.x, {B, R, N, d})}, v{heads_of(av.x, R), sequence_major<T const>(bv.x, {B, R, N, d})};
        factored_gradient<T> const dk = gradient_of(k, ak.d, bk.d), dv = gradient_of(v, av.d, bv.d);
        shape const s{B, H, N, d};
        traced<T> const mixed = t.room(s.size());
        auto const m = mechanism(2 * N, true);
        auto const saved = room_for_rows(io, s);
        auto const attend = [&](auto const& q, auto const& dq) {
            forward(m, q, k, v, sequence_major(mixed.x, s), saved);
            t.back([=] { backward(m, q, k, v, sequence_major<T const>(mixed.x, s), saved, sequence_major<T const>(mixed.d, s), dq, dk, dv); });
        };
        if (L != layer::turned_after && L != layer::stepwise) { write_out(k, io.make("k", "BNHd")), write_out(v, io.make("v", "BNHd")); }
        auto const last = io.reals("c_proj.weight", "DO");
        if constexpr (L == layer::keys_and_values) {
            traced<T> const q = turned(factor("c_qkv.c_q.weight", "OD"), H);
            tensor_view<T const> const rows(q.x, s);
            T* const to = io.make("q", "BNHd");
            add<T>(rows, sequence_major(zeros(to, s), s));
            attend(rows, tensor_view<T>(q.d, s));
        } else {
            io.set('a', H * Q, "heads times q_rank"), io.set('c', Q * d, "q_rank times head_dim");
            traced<T> const aq = factor("c_qkv.W_A_q.weight", "aD"), bq = turned(factor("c_qkv.W_B_q.weight", "cD"), Q);
            factored<T> const q{heads_of(aq.x, Q), tensor_view<T const>(bq.x, {B, Q, N, d})};
            if (L == layer::all) { write_out(q, io.make("q", "BNHd")); }
            attend(q, gradient_of(q, aq.d, bq.d));
            if constexpr (L == layer::stepwise) { step(io, t, m, q, k, v, s, last); }
        }
        give(t, linear(t, mixed, B * N, last), "BND", B * N * D);
        give_gradient(t, input, "dx", "BND", B * N * D);
    }

private:
    template <class T>
    static T* zeros(T* to, shape s) {
        std::fill_n(to, s.size(), T(0));
        return to;
    }
    // All tokens but the last go into a cache at once, the last behind them; its row is a step. `t` lends its memory.
    template <class T, class M>
    static void step(case_io<T>& io, tape<T>& t, M const& m, factored<T> const& q, factored<T> const& k, factored<T> const& v, shape s, loaded<T> const& last) {
        auto const part = [](factored<T> const& f, extent_t first, extent_t count) {
            auto const cut = [&](tensor_view<T const> const& x) { return tensor_view<T const>{x.row(0, 0, first), {x.extent(0), x.extent(1), count, x.extent(3)}, x.strides()}; };
            return factored<T>{cut(f.a), cut(f.b)};
        };
        auto cache = make_factor_cache<T>({s.batch, s.head, s.seq, s.feature, s.feature, k.rank(), v.rank()});
        append(cache, part(k, 0, s.seq - 1), part(v, 0, s.seq - 1));
        append(cache, part(k, s.seq - 1, 1), part(v, s.seq - 1, 1));
        shape const one{s.batch, s.head, 1, s.feature};
        traced<T> const mixed{io.scratch(one.size()), nullptr};
        decode(m, part(q, s.seq - 1, 1), cache, tensor_view<T>(mixed.x, one));
        tape<T> apart(t.io(), false);
        auto const out = linear(apart, mixed, s.batch, last);
        std::copy_n(out.x, s.batch * io['D'], io.make("out_last", "BD"));
        auto const c = cache.grouped(); // rows [A (R x H) | B (R x d)]
        auto const read = [&](char const* name, tensor_view<T> const& rows, extent_t rank, bool heads) {
            T* to = io.make(name, heads ? "BNHr" : "BNrd");
            for (extent_t b = 0; b < s.batch; ++b) {
                for (extent_t n = 0; n < s.seq; ++n) {
                    for (extent_t i = 0; i < (heads ? s.head : rank); ++i) {
                        for (extent_t j = 0; j < (heads ? rank : s.feature); ++j) { *to++ = rows(b, 0, n, heads ? j * s.head + i : rank * s.head + i * s.feature + j); }
                    }
                }
            }
        };
        read("cache_ak", c.rows.k, k.rank(), true), read("cache_bk", c.rows.k, k.rank(), false), read("cache_av", c.rows.v, v.rank(), true), read("cache_bv", c.rows.v, v.rank(), false);
    }
};

constexpr std::array tensor_product_cases{
    wire<factors_given<in_order, true, false>>("factors_causal"),
    wire<factors_given<in_order, true, false>>("factors_causal_bottom_right"),
    wire<factors_given<in_order, false, false>>("factors_cross_ranks"),
    wire<factors_given<in_order, false, false>>("factors_full_rank_one"),
    wire<factors_given<rank_one, true, true>>("decode_rank_one"),
    wire<factors_given<rank_last, true, true>>("decode_multi_rank"),
    wire<t6_layer<layer::all>>("t6_layer"),
    wire<t6_layer<layer::all>>("t6_layer_bf16_rotary"),
    wire<t6_layer<layer::keys_and_values>>("t6_kvonly_layer"),
    wire<t6_layer<layer::turned_after>>("t6_ropek_layer"),
    wire<t6_layer<layer::stepwise>>("decode_from_prefill_cache"),
};
check_registration const registration("tensor_product", tensor_product_cases);

} // namespace

} // namespace heed::tool
