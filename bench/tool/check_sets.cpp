// SPDX-License-Identifier: BSD-3-Clause
// Layers that attend from few latents to many inputs, and to sets: Perceiver's cross attention, the blocks of the set transformer. The attention is softmax's.
#include "case_file.hpp"
#include "failure.hpp"
#include "layers.hpp"
#include "softmax_problem.hpp"

#include <array>
#include <cmath>
#include <string>

namespace heed::tool {

namespace {

// Views of queries, keys and values, or of the gradients by them.
template <class T>
struct attended {
    tensor_view<T> q, k, v;
};
template <class T>
attended(tensor_view<T>, tensor_view<T>, tensor_view<T>) -> attended<T>;

// Softmax attention as a layer: what it sends back is added.
template <class T>
void attend(tape<T>& t, softmax_problem<T> problem, attended<T> const& from, attended<T> const& gradients, tensor_view<T> out, tensor_view<T> dout) {
    problem.q = from.q;
    problem.k = from.k;
    problem.v = from.v;
    problem.out = out;
    problem.lse = per_row(t.io().scratch(out.extent(0) * out.extent(1) * out.extent(2)), out.extent(0), out.extent(1), out.extent(2));
    attend(problem);
    t.back([=, &io = t.io()]() mutable {
        auto const fresh = [&](tensor_view<T const> like) { return tensor_view<T>(io.scratch(like.shape().size()), like.shape()); };
        problem.dout = dout;
        problem.dq = fresh(from.q);
        problem.dk = fresh(from.k);
        problem.dv = fresh(from.v);
        attend_gradients(problem);
        add<T>(problem.dq, gradients.q);
        add<T>(problem.dk, gradients.k);
        add<T>(problem.dv, gradients.v);
    });
}

// Rows of the key/value map: all keys, then all values.
template <bool Masked>
struct perceiver_cross {
    template <class T>
    static void run(case_io<T>& io) {
        auto const x = io.reals("x", "BNq"), context = io.reals("context", "BMc");
        auto const H = io.source().integer("heads", 1, 1 << 20), d = io.source().integer("dim_head", 1, 1 << 20);
        auto const B = io['B'], N = io['N'], M = io['M'];
        io.set('I', H * d, "the heads");
        io.set('J', 2 * H * d, "the heads of keys and values");
        auto const wq = io.reals("to_q.weight", "Iq"), wkv = io.reals("to_kv.weight", "Jc"), wo = io.reals("to_out.weight", "qI"), bo = io.reals("to_out.bias", "q");
        tape<T> t(io, io.wants("dx") || io.wants("dcontext"));
        traced<T> const x_in = t.copy(x.data, B * N * io['q']), c_in = t.copy(context.data, B * M * io['c']);
        traced<T> const q = linear(t, x_in, B * N, wq), kv = linear(t, c_in, B * M, wkv), mixed = t.room(B * N * H * d);
        strides const at{M * 2 * H * d, d, 2 * H * d, 1};
        auto const views = [=](auto* queries, auto* pairs) { return attended{sequence_major(queries, {B, H, N, d}), tensor_view(pairs, {B, H, M, d}, at), tensor_view(pairs + H * d, {B, H, M, d}, at)}; };
        softmax_problem<T> problem;
        problem.scale = static_cast<T>(1 / std::sqrt(static_cast<double>(d)));
        if constexpr (Masked) { problem.keep = {io.booleans("mask", "BM").data, {B, 1, 1, M}}; }
        attend(t, problem, views(q.x, kv.x), views(q.d, kv.d), sequence_major(mixed.x, {B, H, N, d}), sequence_major(mixed.d, {B, H, N, d}));
        give(t, linear(t, mixed, B * N, wo, bo.data), "BNq", B * N * io['q']);
        give_gradient(t, x_in, "dx", "BNq", B * N * io['q']);
        give_gradient(t, c_in, "dcontext", "BMc", B * M * io['c']);
    }
};

// Rows of a set, {batch, count} of `width` numbers.
template <class T>
struct rows_of_set {
    traced<T> rows;
    extent_t batch, count, width;
    extent_t size() const { return batch * count * width; }
};

// The attention block `prefix`: queries from q, keys and values from k. O = Q' + heads of attention, a norm if Normed, O + relu(fc_o(O)), a norm.
// Scores are scaled by the whole width.
template <bool Normed, class T>
rows_of_set<T> block(tape<T>& t, std::string const& prefix, rows_of_set<T> const& q, rows_of_set<T> const& k) {
    case_io<T>& io = t.io();
    extent_t const B = q.batch, H = io.source().integer("heads", 1, 1 << 20);
    extent_t const width = require(io.source().file(), prefix + "fc_q.weight").shape[0];
    if (width % H) { throw bad_tensor(io.source().path(), prefix + "fc_q.weight", "has a width that the heads do not divide"); }
    io.set('w', width, prefix + "fc_q.weight");
    auto const map = [&](std::string const& name, rows_of_set<T> const& x) {
        io.set('f', x.width, "the rows that it maps");
        auto const weight = io.reals(prefix + name + ".weight", "wf");
        return linear(t, x.rows, x.batch * x.count, weight, io.reals(prefix + name + ".bias", "w").data);
    };
    traced<T> const queries = map("fc_q", q), keys = map("fc_k", k), values = map("fc_v", k), mixed = t.room(B * q.count * width);
    shape const sq{B, H, q.count, width / H}, sk{B, H, k.count, width / H};
    softmax_problem<T> problem;
    problem.scale = static_cast<T>(1 / std::sqrt(static_cast<double>(width)));
    auto const views = [=](T* a, T* b, T* c) { return attended<T>{sequence_major(a, sq), sequence_major(b, sk), sequence_major(c, sk)}; };
    attend(t, problem, views(queries.x, keys.x, values.x), views(queries.d, keys.d, values.d), sequence_major(mixed.x, sq), sequence_major(mixed.d, sq));
    extent_t const rows = B * q.count, size = rows * width;
    // x + f(more)
    auto const plus = [&](traced<T> x, traced<T> more, bool positive) {
        traced<T> const sum = t.room(size);
        for (extent_t i = 0; i < size; ++i) { sum.x[i] = x.x[i] + (positive ? std::max(more.x[i], T(0)) : more.x[i]); }
        t.back([=] {
            for (extent_t i = 0; i < size; ++i) {
                x.d[i] += sum.d[i];
                if (!positive || more.x[i] > 0) { more.d[i] += sum.d[i]; }
            }
        });
        return sum;
    };
    auto const normed = [&](traced<T> x, std::string const& name) {
        if constexpr (Normed) {
            return norm<true>(t, x, rows, width, io.reals(prefix + name + ".weight", "w").data, io.reals(prefix + name + ".bias", "w").data, 1e-5);
        } else {
            return x;
        }
    };
    rows_of_set<T> const inner{normed(plus(mixed, queries, false), "ln0"), B, q.count, width};
    return {normed(plus(inner.rows, map("fc_o", inner), true), "ln1"), B, q.count, width};
}
// A learned set, the same for every batch entry.
template <class T>
rows_of_set<T> repeated(tape<T>& t, std::string_view name, std::string_view axes, extent_t batch, char count, char width) {
    case_io<T>& io = t.io();
    auto const source = io.reals(name, axes);
    extent_t const size = io[count] * io[width];
    traced<T> const copy = t.room(batch * size);
    for (extent_t b = 0; b < batch; ++b) { std::copy(source.data, source.data + size, copy.x + b * size); }
    return {copy, batch, io[count], io[width]};
}
template <class T>
rows_of_set<T> given_set(tape<T>& t, std::string_view name, std::string_view axes, char count, char width) {
    case_io<T>& io = t.io();
    auto const source = io.reals(name, axes);
    return {t.copy(source.data, io['B'] * io[count] * io[width]), io['B'], io[count], io[width]};
}

template <bool Normed>
struct attention_block {
    template <class T>
    static void run(case_io<T>& io) {
        tape<T> t(io, io.wants("dQ") || io.wants("dK"));
        auto const q = given_set(t, "Q", "BNq", 'N', 'q'), k = given_set(t, "K", "BMk", 'M', 'k'), out = block<Normed>(t, "", q, k);
        give(t, out.rows, "BNw", out.size());
        give_gradient(t, q.rows, "dQ", "BNq", q.size());
        give_gradient(t, k.rows, "dK", "BMk", k.size());
    }
};
// Blocks that have one input, X.
template <class Blocks>
struct set_block {
    template <class T>
    static void run(case_io<T>& io) {
        tape<T> t(io, io.wants("dX"));
        io.set('u', 1, "the layout");
        auto const set = given_set(t, "X", "BNx", 'N', 'x'), out = Blocks::apply(t, set);
        io.set('o', out.count, "the block");
        give(t, out.rows, "Bow", out.size());
        give_gradient(t, set.rows, "dX", "BNx", set.size());
    }
};
struct self_attention {
    template <class T>
    static rows_of_set<T> apply(tape<T>& t, rows_of_set<T> const& set) {
        return block<false>(t, "mab.", set, set);
    }
};
struct induced_points {
    template <class T>
    static rows_of_set<T> apply(tape<T>& t, rows_of_set<T> const& set) {
        auto const points = repeated(t, "I", "uLi", set.batch, 'L', 'i');
        return block<false>(t, "mab1.", set, block<false>(t, "mab0.", points, set));
    }
};
struct pooling_seeds {
    template <class T>
    static rows_of_set<T> apply(tape<T>& t, rows_of_set<T> const& set) {
        return block<false>(t, "mab.", repeated(t, "S", "uLi", set.batch, 'L', 'i'), set);
    }
};

constexpr std::array set_cases{
    wire<perceiver_cross<false>>("perceiver_cross"), wire<perceiver_cross<true>>("perceiver_cross_masked"), wire<set_block<induced_points>>("set_transformer_isab"),
    wire<attention_block<false>>("set_transformer_mab"), wire<attention_block<true>>("set_transformer_mab_ln"), wire<set_block<pooling_seeds>>("set_transformer_pma"),
    wire<set_block<self_attention>>("set_transformer_sab"),
};
check_registration const registration("other", set_cases);

} // namespace

} // namespace heed::tool
