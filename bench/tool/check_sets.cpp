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
        T *const q = linear(io, x.data, B * N, wq), *const kv = linear(io, context.data, B * M, wkv), *const mixed = io.scratch(B * N * H * d);
        strides const at{M * 2 * H * d, d, 2 * H * d, 1};
        softmax_problem<T> problem;
        problem.q = sequence_major<T const>(q, {B, H, N, d});
        problem.k = {kv, {B, H, M, d}, at};
        problem.v = {kv + H * d, {B, H, M, d}, at};
        problem.out = sequence_major(mixed, {B, H, N, d});
        problem.lse = per_row(io.scratch(B * H * N), B, H, N);
        problem.scale = static_cast<T>(1 / std::sqrt(static_cast<double>(d)));
        if constexpr (Masked) { problem.keep = {io.booleans("mask", "BM").data, {B, 1, 1, M}}; }
        attend(problem);
        T const* const out = linear(io, mixed, B * N, wo, bo.data);
        std::copy(out, out + B * N * io['q'], io.make("out", "BNq"));
    }
};

// Rows of a set, {batch, count} of `width` numbers.
template <class T>
struct rows_of_set {
    T const* data;
    extent_t batch, count, width;
};

// The attention block `prefix`: queries from q, keys and values from k. O = Q' + heads of attention, a norm if Normed, O + relu(fc_o(O)), a norm. Scores are scaled by the whole width.
template <bool Normed = false, class T>
rows_of_set<T> block(case_io<T>& io, std::string const& prefix, rows_of_set<T> const& q, rows_of_set<T> const& k) {
    extent_t const B = q.batch, H = io.source().integer("heads", 1, 1 << 20);
    extent_t const width = require(io.source().file(), prefix + "fc_q.weight").shape[0];
    if (width % H) { throw bad_tensor(io.source().path(), prefix + "fc_q.weight", "has a width that the heads do not divide"); }
    io.set('w', width, prefix + "fc_q.weight");
    auto const map = [&](std::string const& name, rows_of_set<T> const& x) {
        io.set('f', x.width, "the rows that it maps");
        auto const weight = io.reals(prefix + name + ".weight", "wf");
        return linear(io, x.data, x.batch * x.count, weight, io.reals(prefix + name + ".bias", "w").data);
    };
    T *const queries = map("fc_q", q), *const keys = map("fc_k", k), *const values = map("fc_v", k), *const mixed = io.scratch(B * q.count * width);
    softmax_problem<T> problem;
    problem.q = sequence_major<T const>(queries, {B, H, q.count, width / H});
    problem.k = sequence_major<T const>(keys, {B, H, k.count, width / H});
    problem.v = sequence_major<T const>(values, {B, H, k.count, width / H});
    problem.out = sequence_major(mixed, {B, H, q.count, width / H});
    problem.lse = per_row(io.scratch(B * H * q.count), B, H, q.count);
    problem.scale = static_cast<T>(1 / std::sqrt(static_cast<double>(width)));
    attend(problem);
    extent_t const rows = B * q.count;
    auto const norm = [&](std::string const& name) {
        if constexpr (Normed) {
            layer_norm(mixed, rows, width, io.reals(prefix + name + ".weight", "w").data, io.reals(prefix + name + ".bias", "w").data);
        }
    };
    for (extent_t i = 0; i < rows * width; ++i) { mixed[i] += queries[i]; }
    norm("ln0");
    T const* const more = map("fc_o", {mixed, B, q.count, width});
    for (extent_t i = 0; i < rows * width; ++i) { mixed[i] += std::max(more[i], T(0)); }
    norm("ln1");
    return {mixed, B, q.count, width};
}
// A learned set, the same for every batch entry.
template <class T>
rows_of_set<T> repeated(case_io<T>& io, std::string_view name, std::string_view axes, extent_t batch, char count, char width) {
    auto const source = io.reals(name, axes);
    extent_t const size = io[count] * io[width];
    T* const copy = io.scratch(batch * size);
    for (extent_t b = 0; b < batch; ++b) { std::copy(source.data, source.data + size, copy + b * size); }
    return {copy, batch, io[count], io[width]};
}
template <class T>
void give(case_io<T>& io, rows_of_set<T> const& out, std::string_view axes) {
    std::copy(out.data, out.data + out.batch * out.count * out.width, io.make("out", axes));
}

template <bool Normed>
struct attention_block {
    template <class T>
    static void run(case_io<T>& io) {
        auto const q = io.reals("Q", "BNq"), k = io.reals("K", "BMk");
        give(io, block<Normed, T>(io, "", {q.data, io['B'], io['N'], io['q']}, {k.data, io['B'], io['M'], io['k']}), "BNw");
    }
};
struct self_block {
    template <class T>
    static void run(case_io<T>& io) {
        auto const x = io.reals("X", "BNx");
        rows_of_set<T> const set{x.data, io['B'], io['N'], io['x']};
        give(io, block<false, T>(io, "mab.", set, set), "BNw");
    }
};
struct induced_block {
    template <class T>
    static void run(case_io<T>& io) {
        auto const x = io.reals("X", "BNx");
        rows_of_set<T> const set{x.data, io['B'], io['N'], io['x']};
        io.set('u', 1, "the layout");
        auto const points = repeated(io, "I", "uLi", io['B'], 'L', 'i');
        give(io, block<false, T>(io, "mab1.", set, block<false, T>(io, "mab0.", points, set)), "BNw");
    }
};
struct pooling_block {
    template <class T>
    static void run(case_io<T>& io) {
        auto const x = io.reals("X", "BNx");
        io.set('u', 1, "the layout");
        auto const seeds = repeated(io, "S", "uLi", io['B'], 'L', 'i');
        give(io, block<false, T>(io, "mab.", seeds, {x.data, io['B'], io['N'], io['x']}), "BLw");
    }
};

constexpr std::array set_cases{
    wire<perceiver_cross<false>>("perceiver_cross"), wire<perceiver_cross<true>>("perceiver_cross_masked"), wire<induced_block>("set_transformer_isab"),
    wire<attention_block<false>>("set_transformer_mab"), wire<attention_block<true>>("set_transformer_mab_ln"), wire<pooling_block>("set_transformer_pma"),
    wire<self_block>("set_transformer_sab"),
};
check_registration const registration("other", set_cases);

} // namespace

} // namespace heed::tool
