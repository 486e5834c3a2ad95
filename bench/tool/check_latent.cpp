// SPDX-License-Identifier: BSD-3-Clause
// Latent attention: on given latents, absorbed, with all gradients; and the layer, prefill in the naive form, steps from a cache of latents. Axis letters:
// B batch, N queries, M keys, H heads, n and r the parts of a query, c the latent's width, e the value's, D the model's width.
#include "case_file.hpp"
#include "failure.hpp"
#include "layers.hpp"

#include <heed/engine/cpu/recurrent_kernels.hpp> // its products are those compiled once, not a copy of this file's
#include <heed/front/backward.hpp>
#include <heed/front/grouped_decode.hpp>
#include <heed/front/latent.hpp>
#include <heed/mechanism/latent.hpp>

#include <array>

namespace heed::tool {

namespace {

// Numbers of rows [rows, width] in columns first ... first + count of rows of another width.
template <class T>
void put_columns(T const* from, extent_t rows, extent_t count, T* to, extent_t to_width, extent_t first) {
    for (extent_t i = 0; i < rows; ++i) { std::copy_n(from + i * count, count, to + i * to_width + first); }
}

struct mla_core {
    template <class T>
    static void run(case_io<T>& io) {
        auto const qn = io.reals("q_nope", "BNHn"), qr = io.reals("q_pe", "BNHr"), c = io.reals("c_kv", "BMc"), kr = io.reals("k_pe", "BMr"), uk = io.reals("w_uk", "Hnc"), uv = io.reals("w_uv", "Hec");
        auto const B = io['B'], N = io['N'], M = io['M'], H = io['H'], n = io['n'], r = io['r'], w = io['c'], e = io['e'];
        shape const sq{B, H, N, w + r}, sm{B, H, N, w}, so{B, H, N, e}, sr{B, 1, M, w + r};
        tensor_view<T const> const q_nope = sequence_major(qn.data, {B, H, N, n}), q_rope = sequence_major(qr.data, {B, H, N, r}), w_uk(uk.data, {1, H, n, w}), w_uv(uv.data, {1, H, e, w});
        T* const rows_at = io.scratch(sr.size());
        put_columns(c.data, B * M, w, rows_at, w + r, 0), put_columns(kr.data, B * M, r, rows_at, w + r, w);
        tensor_view<T> const absorbed(io.scratch(sq.size()), sq), mixed(io.scratch(sm.size()), sm);
        absorb_queries(q_nope, q_rope, w_uk, absorbed);
        auto const m = latent_attention(n + r);
        auto cache = make_latent_cache<T>({B, 1, M, w + r, w});
        tensor_view<T const> const rows(rows_at, sr), values(rows_at, {B, 1, M, w}, rows.strides());
        append(cache, rows);
        save<T> const saved{{io.make("lse", "BHN"), {B, H, N, 1}}};
        decode(m, absorbed, cache, mixed, saved);
        auto const out = sequence_major(io.make("out", "BNHe"), so);
        expand_values(mixed, w_uv, out);
        if (!io.wants("dq_nope")) { return; }
        tensor_view<T const> const dout = sequence_major(io.reals("dout", "BNHe").data, so);
        tensor_view<T> const dmixed(io.scratch(sm.size()), sm), dq(io.scratch(sq.size()), sq), drows(io.scratch(sr.size()), sr), dvalues(io.scratch(B * M * w), {B, 1, M, w});
        semiring_matmul(plus_times{}, dout, w_uv, dmixed);
        backward(m, absorbed, rows, values, mixed, saved, dmixed, dq, drows, dvalues);
        T *const dc = io.make("dc_kv", "BMc"), *const dkr = io.make("dk_pe", "BMr"), *const dqr = io.make("dq_pe", "BNHr"), *const duk = io.make("dw_uk", "Hnc"), *const duv = io.make("dw_uv", "Hec");
        for (extent_t b = 0; b < B; ++b) {
            for (extent_t j = 0; j < M; ++j) {
                for (extent_t x = 0; x < w; ++x) { dc[(b * M + j) * w + x] = drows(b, 0, j, x) + dvalues(b, 0, j, x); }
                for (extent_t x = 0; x < r; ++x) { dkr[(b * M + j) * r + x] = drows(b, 0, j, w + x); }
            }
        }
        tensor_view<T const> const dq_latent(dq.data_handle(), sm, dq.strides());
        semiring_matmul(plus_times{}, dq_latent, tensor_view<T const>(uk.data, {1, H, w, n}, {0, n * w, 1, w}), sequence_major(io.make("dq_nope", "BNHn"), {B, H, N, n}));
        std::fill_n(duk, H * n * w, T(0)), std::fill_n(duv, H * e * w, T(0));
        for (extent_t b = 0; b < B; ++b) {
            for (extent_t h = 0; h < H; ++h) {
                for (extent_t i = 0; i < N; ++i) {
                    for (extent_t x = 0; x < r; ++x) { dqr[((b * N + i) * H + h) * r + x] = dq(b, h, i, w + x); }
                    for (extent_t x = 0; x < w; ++x) {
                        for (extent_t y = 0; y < n; ++y) { duk[(h * n + y) * w + x] += q_nope(b, h, i, y) * dq(b, h, i, x); }
                        for (extent_t y = 0; y < e; ++y) { duv[(h * e + y) * w + x] += dout(b, h, i, y) * mixed(b, h, i, x); }
                    }
                }
            }
        }
    }
};

// [count, a + b] from [count, a] and rows of [.., b], row i with row from(i).
template <class T, class From>
traced<T> joined(tape<T>& t, traced<T> x, extent_t a, traced<T> y, extent_t b, extent_t count, From const& from) {
    traced<T> const z = t.room(count * (a + b));
    for (extent_t i = 0; i < count; ++i) {
        std::copy_n(x.x + i * a, a, z.x + i * (a + b));
        std::copy_n(y.x + from(i) * b, b, z.x + i * (a + b) + a);
    }
    t.back([=] {
        for (extent_t i = 0; i < count; ++i) {
            for (extent_t e = 0; e < a; ++e) { x.d[i * a + e] += z.d[i * (a + b) + e]; }
            for (extent_t e = 0; e < b; ++e) { y.d[from(i) * b + e] += z.d[i * (a + b) + a + e]; }
        }
    });
    return z;
}

template <bool LowRankQueries>
struct mla_layer {
    template <class T>
    static void run(case_io<T>& io) {
        auto const& file = io.source();
        extent_t const H = file.integer("heads", 1, 1 << 12), n = file.integer("qk_nope", 1, 1 << 12), r = file.integer("qk_rope", 2, 1 << 12), e = file.integer("v_dim", 1, 1 << 12), w = file.integer("kv_rank", 1, 1 << 12);
        auto const x = io.reals("x", "BND");
        auto const B = io['B'], N = io['N'], D = io['D'];
        extent_t const P = file.integer("prefill", 0, N);
        io.set('c', w, "metadata kv_rank"), io.set('h', r / 2, "half of qk_rope"), io.set('r', r, "metadata qk_rope"), io.set('A', w + r, "kv_rank and qk_rope"), io.set('K', H * (n + e), "heads of qk_nope and v_dim"),
            io.set('Q', H * (n + r), "heads of qk_nope and qk_rope"), io.set('V', H * e, "heads of v_dim");
        auto const cosines = io.reals("cos", "Nh"), sines = io.reals("sin", "Nh"), maps = io.reals("wkv_b.weight", "Kc");
        tape<T> t(io, io.wants("dx"));
        auto const without_bias = static_cast<T const*>(nullptr);
        traced<T> const input = t.copy(x.data, B * N * D), rows = linear(t, input, B * N, io.reals("wkv_a.weight", "AD"));
        auto const part = [&](traced<T> of, extent_t width, extent_t heads, extent_t step, extent_t first, extent_t count) { return split_heads(t, of, width, shape{B, heads, N, count}, [=](extent_t h) { return h * step + first; }); };
        auto const turned = [&](traced<T> of, extent_t heads) { return rotate_by_tables<interleaved_pairs>(t, of, B * heads, N, r, cosines.data, sines.data, r / 2); };
        traced<T> const c = norm<false>(t, part(rows, w + r, 1, 0, 0, w), B * N, w, io.reals("kv_norm.weight", "c").data, without_bias, 1e-6), kr = turned(part(rows, w + r, 1, 0, w, r), 1);
        std::copy_n(c.x, B * N * w, io.make("c_kv", "BNc")), std::copy_n(kr.x, B * N * r, io.make("k_pe", "BNr"));
        auto const queries = [&] {
            if constexpr (LowRankQueries) {
                auto const down = io.reals("wq_a.weight", "qD");
                auto const low = norm<false>(t, linear(t, input, B * N, down), B * N, io['q'], io.reals("q_norm.weight", "q").data, without_bias, 1e-6);
                return linear(t, low, B * N, io.reals("wq_b.weight", "Qq"));
            } else {
                return linear(t, input, B * N, io.reals("wq.weight", "QD"));
            }
        }();
        auto const own = [](extent_t i) { return i; };
        auto const shared = [=](extent_t i) { return i / (H * N) * N + i % N; };
        traced<T> const q = joined(t, part(queries, H * (n + r), H, n + r, 0, n), n, turned(part(queries, H * (n + r), H, n + r, n, r), H), r, B * H * N, own);
        traced<T> const kv = linear(t, c, B * N, maps), k = joined(t, part(kv, H * (n + e), H, n + e, 0, n), n, kr, r, B * H * N, shared), v = part(kv, H * (n + e), H, n + e, n, e);
        shape const sq{B, H, N, n + r}, so{B, H, N, e};
        tensor_view<T const> const qv(q.x, sq), cv(c.x, {B, 1, N, w}), rv(kr.x, {B, 1, N, r}), w_uk(maps.data, {1, H, n, w}, {0, (n + e) * w, w, 1}), w_uv(maps.data + n * w, {1, H, e, w}, {0, (n + e) * w, w, 1});
        traced<T> const mixed = t.room(so.size());
        auto const m = latent_attention(n + r);
        auto const out = sequence_major(mixed.x, so);
        save<T> const saved{{io.scratch(B * H * N), {B, H, N, 1}}};
        latent_forward(m, qv, cv, rv, w_uk, w_uv, out, saved);
        t.back([=] {
            backward(m, qv, tensor_view<T const>(k.x, sq), tensor_view<T const>(v.x, so), out, saved, sequence_major<T const>(mixed.d, so), tensor_view<T>(q.d, sq), tensor_view<T>(k.d, sq), tensor_view<T>(v.d, so));
        });
        if (P < N) { steps(io, m, qv, cv, rv, w_uk, w_uv, out, P); }
        give(t, linear(t, mixed, B * N, io.reals("wo.weight", "DV")), "BND", B * N * D);
        give_gradient(t, input, "dx", "BND", B * N * D);
    }

private:
    // Tokens from `prefill` on again, one by one, absorbed, from a cache of latents.
    template <class T, class M>
    static void steps(case_io<T>& io, M const& m, tensor_view<T const> q, tensor_view<T const> c, tensor_view<T const> rope, tensor_view<T const> w_uk, tensor_view<T const> w_uv, tensor_view<T> out, extent_t prefill) {
        extent_t const B = c.extent(0), H = q.extent(1), N = c.extent(2), n = w_uk.extent(2), r = rope.extent(3), w = c.extent(3);
        T* const rows_at = io.scratch(B * N * (w + r));
        put_columns(c.data_handle(), B * N, w, rows_at, w + r, 0), put_columns(rope.data_handle(), B * N, r, rows_at, w + r, w);
        tensor_view<T const> const rows(rows_at, {B, 1, N, w + r});
        auto const tokens = [](auto const& x, extent_t first, extent_t count) { return std::remove_cvref_t<decltype(x)>{x.row(0, 0, first), {x.extent(0), x.extent(1), count, x.extent(3)}, x.strides()}; };
        auto cache = make_latent_cache<T>({B, 1, N, w + r, w});
        append(cache, tokens(rows, 0, prefill));
        tensor_view<T> const absorbed(io.scratch(B * H * (w + r)), {B, H, 1, w + r}), mixed(io.scratch(B * H * w), {B, H, 1, w});
        for (extent_t i = prefill; i < N; ++i) {
            append(cache, tokens(rows, i, 1));
            auto const one = tokens(q, i, 1);
            absorb_queries(tensor_view<T const>{one.data_handle(), {B, H, 1, n}, one.strides()}, tensor_view<T const>{one.data_handle() + n, {B, H, 1, r}, one.strides()}, w_uk, absorbed);
            decode(m, absorbed, cache, mixed);
            expand_values(mixed, w_uv, tokens(out, i, 1));
        }
    }
};

constexpr std::array latent_cases{
    wire<mla_core>("mla_core"),
    wire<mla_layer<false>>("mla_prefill"),
    wire<mla_layer<true>>("mla_prefill_qlora"),
    wire<mla_layer<false>>("mla_decode"),
};
check_registration const registration("other", latent_cases);

} // namespace

} // namespace heed::tool
