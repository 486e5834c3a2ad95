// SPDX-License-Identifier: BSD-3-Clause
// The wiring of the cases in which experts pick tokens (Routing Transformer, MoSA), regions pick regions (BiFormer) and tokens pick heads (MoH), and of block plus
// halo (HaloNet), with the layers around them. Included by check_routed.cpp alone: all of them run one kernel, compiled there.
#pragma once

#include "case_file.hpp"
#include "failure.hpp"
#include "layers.hpp"
#include "softmax_problem.hpp"

#include <heed/front/clusters.hpp>
#include <heed/front/halo.hpp>
#include <heed/front/head_experts.hpp>
#include <heed/front/mosa.hpp>
#include <heed/front/regions.hpp>

#include <array>
#include <cmath>
#include <string>
#include <vector>

namespace heed::tool {

namespace {

// Clusters take queries and keys by themselves; letters: B batch, H heads, N tokens, d width, C clusters, W clusters times their window, U memories of a cluster.
struct routing {
    template <class T>
    static void run(case_io<T>& io) {
        auto const& source = io.source();
        auto const q = io.reals("q", "BHNd"), k = io.reals("k", "BHNd"), v = io.reals("v", "BHNe"), means = io.reals("means", "HCd");
        extent_t const B = io['B'], H = io['H'], N = io['N'], C = io['C'], d = io['d'], e = io['e'], w = source.integer("window", 1, N);
        bool const shared = source.flag("shared_qk");
        io.set('W', C * w, "the clusters and their window");
        shape const sq{B, H, N, d}, sv{B, H, N, e};
        tensor_view<T const> const queries(q.data, sq), keys(k.data, sq), values(v.data, sv);
        auto const unit_q = unit_rows(queries), unit_k = unit_rows(keys);
        taken_tokens const taken = take_clusters(unit_q.view(), unit_k.view(), tensor_view<T const>(means.data, {1, H, C, d}), w);
        auto const list = [&](std::string_view name, picked_tokens const& picked) {
            auto* const to = io.make_integers(name, "BHW", integer_order::rows_are_sets);
            for (extent_t x = 0; x < B * H * C * w; ++x) { to[x] = picked.at().data_handle()[x]; }
        };
        list("q_indices", taken.queries), list("k_indices", taken.keys);
        clusters<T> m{taken, source.flag("causal"), static_cast<T>(1e-5), shared};
        if (source.file().find("mem_key") != nullptr) {
            auto const key = io.reals("mem_key", "HCUd"), value = io.reals("mem_value", "HCUe");
            m.memory_keys = {key.data, {1, H * C, io['U'], d}}, m.memory_values = {value.data, {1, H * C, io['U'], e}};
        }
        auto const compared = shared ? unit_k.view() : keys; // shared keys are unit rows
        tensor_view<T> const out(io.make("out", "BHNe"), sv);
        auto const saved = forward(m, queries, compared, values, out);
        if (!io.wants("dv")) { return; }
        auto const to = [&](std::string_view name, std::string_view axes, shape s) { return tensor_view<T>(io.wants(name) ? io.make(name, axes) : io.scratch(s.size()), s); };
        backward(m, queries, compared, values, out, saved, tensor_view<T const>(io.reals("dout", "BHNe").data, sv), to("dq", "BHNd", sq), to("dk", "BHNd", sq), to("dv", "BHNe", sv));
    }
};

// Heads pick tokens. x [B,N,h], QKV.W [E,h,F] with F three times the head's width G, O.W [E,G,h], r.0.weight [E,h].
struct mosa_case {
    template <class T>
    static void run(case_io<T>& io) {
        auto const& source = io.source();
        auto const x = io.reals("x", "BNh"), wqkv = io.reals("QKV.W", "EhF"), wo = io.reals("O.W", "EGh"), wr = io.reals("r.0.weight", "Eh");
        extent_t const B = io['B'], N = io['N'], h = io['h'], E = io['E'], g = io['G'], w = std::min(N, std::max<extent_t>(2, N / source.integer("sparsity", 1, 1 << 20)));
        extent_t const turned = source.integer("n_rotate", 0, g), first = source.integer("include_first", 0, 1);
        if (io['F'] != 3 * g || turned % 2) { throw bad_tensor(source.path(), "QKV.W", "does not make queries, keys and values of the heads"); }
        io.set('K', w, "the tokens of a head");
        std::vector<T> r(static_cast<std::size_t>(B * E * N)), score;
        semiring_matmul(plus_times{}, tensor_view<T const>(wr.data, {1, 1, E, h}), tensor_view<T const>(x.data, {B, 1, h, N}, {N * h, 0, 1, h}), tensor_view<T>(r.data(), {B, 1, E, N}));
        for (T& y : r) { y = T(1) / (T(1) + std::exp(-y)); }
        score = r;
        for (extent_t n = 0; first && n < B * E; ++n) { score[static_cast<std::size_t>(n * N)] = T(2); } // above every sigmoid
        picked_tokens const picked = pick_tokens(tensor_view<T const>(score.data(), {B, 1, E, N}), w);
        auto* const list = io.make_integers("indices", "BEK", integer_order::rows_are_sets);
        for (extent_t n = 0; n < B * E * w; ++n) { list[n] = picked.at().data_handle()[n]; }

        shape const rows{B, E, w, h}, s{B, E, w, g};
        auto const room = [&](shape of) { return tensor_view<T>(io.scratch(of.size()), of); };
        tensor_view<T> const xs = room(rows), qkv = room({B, E, w, 3 * g}), o = room(s), y = room(rows);
        gather_tokens(picked, tensor_view<T const>(x.data, {B, 1, N, h}), xs);
        auto const expert = [&](T const* data, extent_t in, extent_t out, bool transposed) { // [E, in, out] of the file
            return tensor_view<T const>(data, {1, E, transposed ? out : in, transposed ? in : out}, {0, in * out, transposed ? 1 : out, transposed ? out : 1});
        };
        semiring_matmul(plus_times{}, tensor_view<T const>(xs), expert(wqkv.data, h, 3 * g, false), qkv);
        auto const part = [&](tensor_view<T> const& of, extent_t n) { return tensor_view<T>(of.data_handle() + n * g, s, of.strides()); };
        auto const turn = [&](tensor_view<T> const& of, T direction) { // by the angle of the token's own position
            for (extent_t n = 0; n < B * E * w; ++n) {
                T* const row = of.row(n / w / E, n / w % E, n % w);
                for (extent_t c = 0; c < turned / 2; ++c) {
                    double const angle = static_cast<double>(picked.at().data_handle()[n]) * std::pow(10000.0, -2.0 * static_cast<double>(c) / static_cast<double>(turned));
                    T const cosine = static_cast<T>(std::cos(angle)), sine = direction * static_cast<T>(std::sin(angle)), a = row[c], b = row[c + turned / 2];
                    row[c] = a * cosine - b * sine;
                    row[c + turned / 2] = b * cosine + a * sine;
                }
            }
        };
        turn(part(qkv, 0), T(1)), turn(part(qkv, 1), T(1));
        mosa const m{picked, tensor_view<T const>(r.data(), {B, 1, E, N})};
        auto const saved = forward(m, part(qkv, 0), part(qkv, 1), part(qkv, 2), o);
        semiring_matmul(plus_times{}, tensor_view<T const>(o), expert(wo.data, g, h, false), y);
        T* const out = io.make("out", "BNh");
        std::fill_n(out, B * N * h, T(0));
        auto const one = [](auto...) { return T(1); };
        scatter_tokens(picked, y, tensor_view<T>(out, {B, 1, N, h}), one);
        if (!io.wants("dx")) { return; }

        auto const dout = io.reals("dout", "BNh");
        T* const dx = io.make("dx", "BNh");
        std::fill_n(dx, B * N * h, T(0));
        tensor_view<T> const up = room(rows), dy = room(s), dqkv = room({B, E, w, 3 * g}), back = room(rows);
        gather_tokens(picked, tensor_view<T const>(dout.data, {B, 1, N, h}), up);
        semiring_matmul(plus_times{}, tensor_view<T const>(up), expert(wo.data, g, h, true), dy);
        std::vector<T> dr(r.size());
        backward(m, part(qkv, 0), part(qkv, 1), part(qkv, 2), o, saved, tensor_view<T const>(dy), part(dqkv, 0), part(dqkv, 1), part(dqkv, 2), pick_weight_gradient{tensor_view<T>(dr.data(), {B, 1, E, N})});
        for (extent_t n = 0; n < B * E * N; ++n) { // through the sigmoid
            std::size_t const at = static_cast<std::size_t>(n);
            for (extent_t c = 0; c < h; ++c) { dx[(n / N / E * N + n % N) * h + c] += dr[at] * r[at] * (T(1) - r[at]) * wr.data[n / N % E * h + c]; }
        }
        turn(part(dqkv, 0), T(-1)), turn(part(dqkv, 1), T(-1));
        semiring_matmul(plus_times{}, tensor_view<T const>(dqkv), expert(wqkv.data, h, 3 * g, true), back);
        scatter_tokens(picked, back, tensor_view<T>(dx, {B, 1, N, h}), one);
    }
};

// Regions pick regions: maps of n_win x n_win regions, or of as many regions of (X / n_win) x (Y / n_win) points as cover the map, zeros behind its border.
template <bool Channels>
struct biformer {
    template <class T>
    static void run(case_io<T>& io) {
        auto const& source = io.source();
        std::string_view const axes = Channels ? "BCXY" : "BXYC";
        auto const x = io.reals("x", axes);
        std::string const qkv_name = Channels ? "qkv_linear" : "qkv.qkv", out_name = Channels ? "output_linear" : "wo";
        extent_t const B = io['B'], C = io['C'], X = io['X'], Y = io['Y'], H = source.integer("heads", 1, 1 << 20), wins = source.integer("n_win", 1, std::min(X, Y)), top = source.integer("topk", 1, 1 << 20), d = C / H;
        if (C % H || (!Channels && (X % wins || Y % wins))) { throw bad_file(source.path(), "heads do not divide the channels, or regions the map"); }
        io.set('F', 3 * C, "queries, keys and values"), io.set('u', 1, "a map of channels");
        auto const weight = [&](std::string const& name, std::string_view plain, std::string_view map) { return io.reals(name + ".weight", Channels ? map : plain); };
        auto const wqkv = weight(qkv_name, "FC", "FCuu"), wo = weight(out_name, "CC", "CCuu");
        auto const bqkv = io.reals(qkv_name + ".bias", "F"), bo = io.reals(out_name + ".bias", "C");
        extent_t const rx = X / wins, ry = Y / wins, R = (X + rx - 1) / rx * ((Y + ry - 1) / ry), N = X * Y;
        if (top > R) { throw bad_file(source.path(), "metadata \"topk\" is more than the " + std::to_string(R) + " regions"); }

        tape<T> t(io, io.wants("dx"));
        traced<T> const rows = t.room(B * N * C); // [B, N, C]
        auto const file_place = [=](extent_t row, extent_t c) { return Channels ? (row / N * C + c) * N + row % N : row * C + c; };
        for (extent_t row = 0; row < B * N; ++row)
            for (extent_t c = 0; c < C; ++c) { rows.x[row * C + c] = x.data[file_place(row, c)]; }
        traced<T> const qkv = linear(t, rows, B * N, wqkv, bqkv.data);

        shape const s{B, H, N, d};
        auto const part = [&](extent_t n) { return split_heads(t, qkv, 3 * C, s, [=](extent_t h) { return n * C + h * d; }); };
        traced<T> const q = part(0), k = part(1), v = part(2), o = t.room(s.size());
        bi_level_regions<T> const m{X, Y, rx, ry, top, border::zeros};
        auto const in = [=](T const* from) { return tensor_view<T const>(from, s); };
        auto const saved = forward(m, in(q.x), in(k.x), in(v.x), tensor_view<T>(o.x, s));
        if (!Channels) {
            io.set('R', R, "the regions"), io.set('K', top, "topk");
            auto* const list = io.make_integers("r_idx", "BRK", integer_order::rows_are_sets);
            for (extent_t n = 0; n < B * R * top; ++n) { list[n] = saved.choice.list[static_cast<std::size_t>(n)]; }
        }
        t.back([=] { // the only consumer of q, k and v
            auto const to = [=](T* at) { return tensor_view<T>(at, s); };
            backward(m, in(q.x), in(k.x), in(v.x), in(o.x), saved, in(o.d), to(q.d), to(k.d), to(v.d));
        });
        traced<T> const mixed = join_heads(t, o, s);
        if (source.file().find("lepe.weight")) { // a depthwise 3 x 3 convolution of the values
            io.set('3', 3, "a convolution of 3 x 3");
            auto const w = io.reals("lepe.weight", "Cu33"), bias = io.reals("lepe.bias", "C");
            auto const taps = [=](auto const& f) {
                for (extent_t b = 0; b < B; ++b)
                    for (extent_t n = 0; n < N; ++n)
                        for (extent_t tap = 0; tap < 9; ++tap) {
                            extent_t const a = n / Y + tap / 3 - 1, c = n % Y + tap % 3 - 1;
                            if (a >= 0 && a < X && c >= 0 && c < Y) { f(b * N + n, b * N + a * Y + c, tap); }
                        }
            };
            for (extent_t n = 0; n < B * N * C; ++n) { mixed.x[n] += bias.data[n % C]; }
            taps([&](extent_t to, extent_t from, extent_t tap) {
                for (extent_t c = 0; c < C; ++c) { mixed.x[to * C + c] += w.data[c * 9 + tap] * qkv.x[from * 3 * C + 2 * C + c]; }
            });
            t.back([=] {
                taps([&](extent_t to, extent_t from, extent_t tap) {
                    for (extent_t c = 0; c < C; ++c) { qkv.d[from * 3 * C + 2 * C + c] += w.data[c * 9 + tap] * mixed.d[to * C + c]; }
                });
            });
        }
        traced<T> const y = linear(t, mixed, B * N, wo, bo.data), result = t.room(B * N * C);
        auto const reorder = [=](auto const& f) {
            for (extent_t row = 0; row < B * N; ++row)
                for (extent_t c = 0; c < C; ++c) { f(row * C + c, file_place(row, c)); }
        };
        reorder([&](extent_t from, extent_t to) { result.x[to] = y.x[from]; });
        t.back([=] { reorder([&](extent_t from, extent_t to) { y.d[from] += result.d[to]; }); });
        give(t, result, axes, B * N * C);
        if (io.wants("dx")) {
            T* const dx = io.make("dx", axes);
            reorder([&](extent_t from, extent_t to) { dx[to] = rows.d[from]; });
        }
    }
};

// x, out [B,C,X,Y]; tables [R,d] with R twice the window's side less one.
struct halonet {
    template <class T>
    static void run(case_io<T>& io) {
        auto const& source = io.source();
        auto const x = io.reals("x", "BCXY"), wq = io.reals("to_q.weight", "DC"), bo = io.reals("to_out.bias", "C"), wo = io.reals("to_out.weight", "CD");
        extent_t const B = io['B'], C = io['C'], D = io['D'], N = io['X'] * io['Y'], H = source.integer("heads", 1, 1 << 20), d = source.integer("dim_head", 1, 1 << 20);
        if (H * d != D) { throw bad_tensor(source.path(), "to_q.weight", "does not make the queries of the heads"); }
        io.set('E', 2 * D, "keys and values"), io.set('d', d, "dim_head");
        auto const wkv = io.reals("to_kv.weight", "EC");
        halo<T> m{io['X'], io['Y'], source.integer("block", 1, 1 << 20), source.integer("halo", 0, 1 << 20)};
        io.set('R', 2 * m.side() - 1, "the places in the window");
        shape const table{1, 1, 2 * m.side() - 1, d}, s{B, H, N, d};
        m.rows = {io.reals("rel_pos_emb.rel_height", "Rd").data, table}, m.columns = {io.reals("rel_pos_emb.rel_width", "Rd").data, table};
        m.outside = border::masked, m.relative = m.factor = inv_sqrt<T>(d);

        tape<T> t(io, io.wants("dx"));
        traced<T> const rows = t.room(B * N * C);
        auto const channels = [=](auto const& f) {
            for (extent_t n = 0; n < B * N * C; ++n) { f(n, (n / C / N * C + n % C) * N + n / C % N); }
        };
        channels([&](extent_t row, extent_t map) { rows.x[row] = x.data[map]; });
        traced<T> const q_rows = linear(t, rows, B * N, wq), kv_rows = linear(t, rows, B * N, wkv);
        traced<T> const q = split_heads(t, q_rows, D, s, [=](extent_t h) { return h * d; }), k = split_heads(t, kv_rows, 2 * D, s, [=](extent_t h) { return h * d; }),
                        v = split_heads(t, kv_rows, 2 * D, s, [=](extent_t h) { return D + h * d; }), o = t.room(s.size());
        auto const in = [=](T const* from) { return tensor_view<T const>(from, s); };
        auto const saved = forward(m, in(q.x), in(k.x), in(v.x), tensor_view<T>(o.x, s));
        t.back([=] { // the only consumer of q, k and v
            auto const to = [=](T* at) { return tensor_view<T>(at, s); };
            backward(m, in(q.x), in(k.x), in(v.x), in(o.x), saved, in(o.d), to(q.d), to(k.d), to(v.d));
        });
        traced<T> const y = linear(t, join_heads(t, o, s), B * N, wo, bo.data), result = t.room(B * N * C);
        channels([&](extent_t row, extent_t map) { result.x[map] = y.x[row]; });
        t.back([=] { channels([&](extent_t row, extent_t map) { y.d[row] += result.d[map]; }); });
        give(t, result, "BCXY", B * N * C);
        if (io.wants("dx")) {
            T* const dx = io.make("dx", "BCXY");
            channels([&](extent_t row, extent_t map) { dx[map] = rows.d[row]; });
        }
    }
};

// x, out [B,N,C]; heads of cosines with a temperature and a bias by a small net of relative places, weighed by gates.
struct moh_vit {
    template <class T>
    static void run(case_io<T>& io) {
        auto const& source = io.source();
        auto const x = io.reals("x", "BNC"), bqkv = io.reals("qkv.bias", "F"), wqkv = io.reals("qkv.weight", "FC"), bo = io.reals("proj.bias", "C"), wo = io.reals("proj.weight", "CC");
        extent_t const B = io['B'], N = io['N'], C = io['C'], H = source.integer("heads", 1, 1 << 16), shared = source.integer("shared", 0, H - 1), top = source.integer("routed", 1, H - shared), d = C / H;
        if (io['F'] != 3 * C || C % H) { throw bad_tensor(source.path(), "qkv.weight", "does not make queries, keys and values of the heads"); }
        io.set('H', H, "heads"), io.set('R', H - shared, "the routed heads"), io.set('d', d, "the width of a head"), io.set('u', 1, "one"), io.set('2', 2, "two");
        auto const wg = io.reals("wg.weight", "RC"), w0 = io.reals("wg_0.weight", "2C"), embedding = io.reals("query_embedding", "Hud"), temperature = io.reals("temperature", "Huu"), length = io.reals("seq_length_scale", "u");
        auto const w1 = io.reals("cpb_fc1.weight", "h2"), b1 = io.reals("cpb_fc1.bias", "h"), w2 = io.reals("cpb_fc2.weight", "Hh"), b2 = io.reals("cpb_fc2.bias", "H"), table = io.reals("relative_coords_table", "n2");
        auto const index = io.integers("relative_pos_index", "NN", 0, io['n'] - 1);
        if (shared > 1) { throw bad_file(source.path(), "more than one shared head needs gates that this case does not have"); }

        std::vector<T> bias(static_cast<std::size_t>(H * N * N)), net(static_cast<std::size_t>(io['n'] * H));
        for (extent_t n = 0; n < io['n']; ++n)
            for (extent_t h = 0; h < H; ++h) {
                T sum = b2.data[h];
                for (extent_t e = 0; e < io['h']; ++e) { sum += w2.data[h * io['h'] + e] * std::max(T(0), b1.data[e] + w1.data[2 * e] * table.data[2 * n] + w1.data[2 * e + 1] * table.data[2 * n + 1]); }
                net[static_cast<std::size_t>(n * H + h)] = sum;
            }
        for (extent_t h = 0; h < H; ++h)
            for (extent_t p = 0; p < N * N; ++p) { bias[static_cast<std::size_t>(h * N * N + p)] = net[static_cast<std::size_t>(index.data[p] * H + h)]; }

        tape<T> t(io, io.wants("dx"));
        shape const s{B, H, N, d};
        traced<T> const rows = t.copy(x.data, B * N * C), qkv = linear(t, rows, B * N, wqkv, bqkv.data), routed_logits = linear(t, rows, B * N, wg), type_logits = linear(t, rows, B * N, w0);
        traced<T> const q_raw = split_heads(t, qkv, 3 * C, s, [=](extent_t h) { return h * d; }), k_raw = split_heads(t, qkv, 3 * C, s, [=](extent_t h) { return C + h * d; }),
                        v = split_heads(t, qkv, 3 * C, s, [=](extent_t h) { return 2 * C + h * d; });
        // unit rows, and the queries' with an embedding added, times log(1 + e^temperature) times the scale of the length
        auto const unit = [&](traced<T> from, bool query) {
            traced<T> const to = t.room(s.size());
            auto const norm = [=](extent_t row) {
                T squares(0);
                for (extent_t e = 0; e < d; ++e) { squares += from.x[row * d + e] * from.x[row * d + e]; }
                return std::max(std::sqrt(squares), T(1e-12));
            };
            auto const by = [=](extent_t row) { return query ? std::log1p(std::exp(temperature.data[row / N % H])) * length.data[0] : T(1); };
            for (extent_t row = 0; row < B * H * N; ++row) {
                T const size = norm(row);
                for (extent_t e = 0; e < d; ++e) { to.x[row * d + e] = by(row) * (from.x[row * d + e] / size + (query ? embedding.data[row / N % H * d + e] : T(0))); }
            }
            t.back([=] {
                for (extent_t row = 0; row < B * H * N; ++row) {
                    T const size = norm(row), factor = by(row) / size;
                    T along(0);
                    for (extent_t e = 0; e < d; ++e) { along += to.d[row * d + e] * from.x[row * d + e] / size; }
                    for (extent_t e = 0; e < d; ++e) { from.d[row * d + e] += factor * (to.d[row * d + e] - along * from.x[row * d + e] / size); }
                }
            });
            return to;
        };
        traced<T> const q = unit(q_raw, true), k = unit(k_raw, false), part = t.room(s.size()), o = t.room(s.size());
        auto const in = [](T const* from, shape of) { return tensor_view<T const>(from, of); };
        moh_router<T> const router{in(routed_logits.x, {B, 1, N, H - shared}), {}, in(type_logits.x, {B, 1, N, 2}), top, shared};
        auto const gates = router.gates();
        std::vector<std::uint8_t> active;
        for (T const g : gates.gate) { active.push_back(g != T(0)); }
        softmax_problem<T> p{in(q.x, s), in(k.x, s), in(v.x, s), tensor_view<T>(part.x, s), tensor_view<T>(io.scratch(B * H * N), {B, H, N, 1})};
        p.bias = {bias.data(), {1, H, N, N}}, p.keep = {active.data(), gates.s};
        attend(p);
        serial one;
        using gated = gated_rows<T, native_arch>;
        gated::sum(gates.gates(), in(part.x, s), tensor_view<T>(o.x, s), true, one, 1);
        t.back([=, &active, &bias, &gates]() mutable {
            std::vector<T> dgates(gates.gate.size());
            serial own;
            gated::gradient(gates.gates(), in(part.x, s), in(o.d, s), tensor_view<T>(part.d, s), tensor_view<T>(dgates.data(), gates.s), own, 1);
            router.backward(in(dgates.data(), gates.s), tensor_view<T>(routed_logits.d, {B, 1, N, H - shared}), {}, tensor_view<T>(type_logits.d, {B, 1, N, 2}));
            p.dout = in(part.d, s), p.dq = {q.d, s}, p.dk = {k.d, s}, p.dv = {v.d, s};
            attend_gradients(p);
        });
        traced<T> const result = linear(t, join_heads(t, o, s), B * N, wo, bo.data);
        give(t, result, "BNC", B * N * C);
        give_gradient(t, rows, "dx", "BNC", B * N * C);
    }
};

constexpr std::array picked_cases{
    wire<routing>("routing_kmeans"), wire<routing>("routing_kmeans_causal"), wire<routing>("routing_kmeans_causal_shared_qk"), wire<mosa_case>("mosa"), wire<mosa_case>("mosa_include_first_full_rotary"),
    wire<biformer<false>>("biformer_legacy"), wire<biformer<false>>("biformer_legacy_no_lepe"), wire<biformer<true>>("biformer_nchw_padded"), wire<halonet>("halonet"), wire<moh_vit>("moh_vit"),
};
} // namespace

} // namespace heed::tool
