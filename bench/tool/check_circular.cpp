// SPDX-License-Identifier: BSD-3-Clause
// Circular-convolutional attention: given scores and values, and the layers around it. Axis letters: B batch, H heads, N tokens, M keys, d and e widths,
// D the model's width.
#include "case_file.hpp"
#include "failure.hpp"
#include "layers.hpp"

#include <heed/front/attention.hpp>
#include <heed/front/averaged_key.hpp>

#include <array>

namespace heed::tool {

namespace {

// A mechanism as a layer: what it sends back is added.
template <class T, class M>
void mix(tape<T>& t, M const& m, traced<T> z, shape zs, strides at_z, traced<T> v, strides at_v, traced<T> out, shape s) {
    tensor_view<T> const scores(z.x, zs, at_z), values(v.x, s, at_v), result = sequence_major(out.x, s);
    forward(m, scores, values, result);
    t.back([=, &io = t.io()] {
        tensor_view<T> const dz(io.scratch(zs.size()), zs), dv(io.scratch(s.size()), s);
        backward(m, scores, values, result, sequence_major<T>(out.d, s), dz, dv);
        add<T>(dz, tensor_view<T>(z.d, zs, at_z));
        add<T>(dv, tensor_view<T>(v.d, s, at_v));
    });
}

template <class M>
struct scored {
    template <class T>
    static void run(case_io<T>& io) {
        auto const z = io.reals("z", "BHN"), v = io.reals("v", "BHNe");
        shape const s{io['B'], io['H'], io['N'], io['e']};
        auto const scores = per_row(z.data, s.batch, s.head, s.seq);
        tensor_view<T const> const values(v.data, s);
        tensor_view<T> const out(io.make("out", "BHNe"), s);
        M const m{};
        forward(m, scores, values, out);
        if constexpr (M::circular) {
            if (io.expects("weights")) { // of the first row of the correlation, or the first column of the convolution
                T* const weights = io.make("weights", "BHN");
                for (extent_t i = 0; i < s.batch * s.head; ++i) { token_weights<T, native_arch>(true, z.data + i * s.seq, 1, s.seq, weights + i * s.seq); }
            }
        }
        if (!io.wants("dz") && !io.wants("dv")) { return; }
        tensor_view<T const> const dout(io.reals("dout", "BHNe").data, s);
        backward(m, scores, values, out, dout, per_row(io.make("dz", "BHN"), s.batch, s.head, s.seq), tensor_view<T>(io.make("dv", "BHNe"), s));
    }
};

// The causal mask laid over the circulant of the correlation, sum over j <= i of w_((j - i) mod N) v_j with a softmax over all tokens: a causal convolution
// by w'_t = w_((-t) mod N), the scores of tokens 0, N - 1, N - 2, ... .
using masked = spectral<unwrapped, convolution, token_softmax>;
template <class T>
void turn_scores(T const* z, T* turned, extent_t n, extent_t step) {
    for (extent_t t = 0; t < n; ++t) { turned[t] = z[(n - t) % n * step]; }
}

struct masked_core {
    template <class T>
    static void run(case_io<T>& io) {
        auto const z = io.reals("z", "BHN"), v = io.reals("v", "BHNe");
        shape const s{io['B'], io['H'], io['N'], io['e']};
        T* const turned = io.scratch(s.batch * s.head * s.seq);
        for (extent_t i = 0; i < s.batch * s.head; ++i) { turn_scores(z.data + i * s.seq, turned + i * s.seq, s.seq, 1); }
        auto const scores = per_row(turned, s.batch, s.head, s.seq);
        tensor_view<T const> const values(v.data, s);
        tensor_view<T> const out(io.make("out", "BHNe"), s);
        forward(masked{}, scores, values, out);
        if (!io.wants("dz") && !io.wants("dv")) { return; }
        T *const dturned = io.scratch(s.batch * s.head * s.seq), *const dz = io.make("dz", "BHN");
        backward(masked{}, scores, values, out, tensor_view<T const>(io.reals("dout", "BHNe").data, s), per_row(dturned, s.batch, s.head, s.seq), tensor_view<T>(io.make("dv", "BHNe"), s));
        for (extent_t i = 0; i < s.batch * s.head; ++i) { turn_scores(dturned + i * s.seq, dz + i * s.seq, s.seq, 1); } // the turn is its own inverse
    }
};

template <class O>
struct averaged_core {
    template <class T>
    static void run(case_io<T>& io) {
        auto const q = io.reals("q", "BHNd"), k = io.reals("k", "BHNd"), v = io.reals("v", "BHNe");
        shape const s{io['B'], io['H'], io['N'], io['e']}, w{s.batch, s.head, s.seq, io['d']};
        tensor_view<T const> const queries(q.data, w), keys(k.data, w), values(v.data, s);
        tensor_view<T> const out(io.make("out", "BHNe"), s);
        averaged_key<O> const m{};
        forward(m, queries, keys, values, out);
        if (io.expects("weights")) {
            T *const scores = io.scratch(s.batch * s.head * s.seq), *const weights = io.make("weights", "BHN");
            std::vector<double> mean(static_cast<std::size_t>(s.batch * s.head * w.feature));
            serial here;
            averaged_scores<T, native_arch>{queries, keys}.forward(here, 1, mean.data(), scores);
            for (extent_t i = 0; i < s.batch * s.head; ++i) { token_weights<T, native_arch>(true, scores + i * s.seq, 1, s.seq, weights + i * s.seq); }
        }
        if (!io.wants("dq") && !io.wants("dk") && !io.wants("dv")) { return; }
        backward(m, queries, keys, values, out, tensor_view<T const>(io.reals("dout", "BHNe").data, s), tensor_view<T>(io.make("dq", "BHNd"), w), tensor_view<T>(io.make("dk", "BHNd"), w),
                 tensor_view<T>(io.make("dv", "BHNe"), s));
    }
};

// What all layers here end with: the mixed values, divided by N once more as these layers do, then the output's map.
template <class T>
void finish(tape<T>& t, traced<T> mixed, extent_t rows, extent_t n, extent_t width, loaded<T> const& weight, loaded<T> const& bias) {
    traced<T> const scaled = t.room(rows * width);
    for (extent_t i = 0; i < rows * width; ++i) { scaled.x[i] = mixed.x[i] / static_cast<T>(n); }
    t.back([=] {
        for (extent_t i = 0; i < rows * width; ++i) { mixed.d[i] += scaled.d[i] / static_cast<T>(n); }
    });
    give(t, linear(t, scaled, rows, weight, bias.data), "BND", rows * width);
}

template <bool Masked>
struct cat_module {
    template <class T>
    static void run(case_io<T>& io) {
        auto const x = io.reals("x", "BND"), proj = io.reals("proj.weight", "DD"), bias = io.reals("proj.bias", "D"), wv = io.reals("W_V.weight", "DD"), wa = io.reals("W_A.weight", "HD");
        auto const B = io['B'], N = io['N'], D = io['D'], H = io['H'];
        if (D % H) { throw bad_tensor(io.source().path(), "x", "has a width that its heads do not divide"); }
        tape<T> t(io, io.wants("dx"));
        traced<T> const input = t.copy(x.data, B * N * D), z = linear(t, input, B * N, wa), v = linear(t, input, B * N, wv), mixed = t.room(B * N * D);
        shape const s{B, H, N, D / H}, zs{B, H, N, 1};
        strides const at_z{N * H, 1, H, 1}, at_v{N * D, D / H, D, 1};
        if constexpr (!Masked) {
            mix(t, circular_attention(), z, zs, at_z, v, at_v, mixed, s);
        } else {
            traced<T> const turned = t.room(B * H * N);
            for (extent_t i = 0; i < B * H; ++i) { turn_scores(z.x + i / H * N * H + i % H, turned.x + i * N, N, H); }
            t.back([=] {
                for (extent_t i = 0; i < B * H; ++i)
                    for (extent_t n = 0; n < N; ++n) { z.d[i / H * N * H + i % H + (N - n) % N * H] += turned.d[i * N + n]; }
            });
            mix(t, masked{}, turned, zs, row_major(zs), v, at_v, mixed, s);
        }
        finish(t, mixed, B * N, N, D, proj, bias);
        give_gradient(t, input, "dx", "BND", B * N * D);
    }
};

template <bool Cross>
struct averaged_module {
    template <class T>
    static void run(case_io<T>& io) {
        auto const x = io.reals("x", "BND"), proj = io.reals("proj.weight", "DD"), bias = io.reals("proj.bias", "D"), wq = io.reals("W_Q.weight", "DD"), wk = io.reals("W_K.weight", "DD"),
                   wv = io.reals("W_V.weight", "DD");
        auto const B = io['B'], N = io['N'], D = io['D'], H = io.source().integer("heads", 1, 1 << 20);
        if (D % H) { throw bad_tensor(io.source().path(), "x", "has a width that its heads do not divide"); }
        auto const context = Cross ? io.reals("context", "BMD") : x;
        extent_t const M = Cross ? io['M'] : N;
        tape<T> t(io, io.wants("dx") || io.wants("dcontext"));
        traced<T> const input = t.copy(x.data, B * N * D), from = Cross ? t.copy(context.data, B * M * D) : input;
        traced<T> const q = linear(t, input, B * N, wq), k = linear(t, from, B * M, wk), v = linear(t, from, B * M, wv), mixed = t.room(B * N * D);
        shape const s{B, H, N, D / H}, ks{B, H, M, D / H};
        averaged_key<> const m{};
        forward(m, sequence_major(q.x, s), sequence_major(k.x, ks), sequence_major(v.x, ks), sequence_major(mixed.x, s));
        t.back([=, &io] {
            tensor_view<T> const dq(io.scratch(s.size()), s), dk(io.scratch(ks.size()), ks), dv(io.scratch(ks.size()), ks);
            backward(m, sequence_major(q.x, s), sequence_major(k.x, ks), sequence_major(v.x, ks), sequence_major(mixed.x, s), sequence_major(mixed.d, s), dq, dk, dv);
            add<T>(dq, sequence_major(q.d, s));
            add<T>(dk, sequence_major(k.d, ks));
            add<T>(dv, sequence_major(v.d, ks));
        });
        finish(t, mixed, B * N, N, D, proj, bias);
        give_gradient(t, input, "dx", "BND", B * N * D);
        if constexpr (Cross) { give_gradient(t, from, "dcontext", "BMD", B * M * D); }
    }
};

using over_tokens = spectral<wrapped, correlation, token_softmax>;
using around = spectral<wrapped, convolution, token_softmax>;

constexpr std::array circular_cases{
    wire<averaged_core<convolution>>("averaged_key_convolution"),
    wire<averaged_core<correlation>>("averaged_key_correlation"),
    wire<masked_core>("causal_masked_core"),
    wire<scored<spectral<unwrapped, convolution, prefix_softmax>>>("causal_prefix_renormalised"),
    wire<scored<around>>("convolution_long"),
    wire<scored<around>>("convolution_pow2"),
    wire<scored<around>>("convolution_prime"),
    wire<scored<over_tokens>>("correlation_composite"),
    wire<scored<over_tokens>>("correlation_long"),
    wire<scored<over_tokens>>("correlation_one"),
    wire<scored<over_tokens>>("correlation_pow2"),
    wire<scored<over_tokens>>("correlation_prime"),
    wire<scored<over_tokens>>("correlation_tiny"),
    wire<scored<over_tokens>>("large_scores"),
    wire<averaged_module<false>>("module_averaged_key"),
    wire<averaged_module<true>>("module_averaged_key_cross_longer"),
    wire<averaged_module<true>>("module_averaged_key_cross_shorter"),
    wire<cat_module<false>>("module_cat"),
    wire<cat_module<true>>("module_causal"),
};
check_registration const registration("circular", circular_cases);

} // namespace

} // namespace heed::tool
