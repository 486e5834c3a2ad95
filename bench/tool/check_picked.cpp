// SPDX-License-Identifier: BSD-3-Clause
// The wiring of the cases in which experts pick tokens (Routing Transformer, MoSA) and regions pick regions (BiFormer), with the layers around them.
#include "case_file.hpp"
#include "failure.hpp"
#include "layers.hpp"
#include "sparse_problem.hpp"

#include <heed/front/pick.hpp>
#include <heed/front/select.hpp>
#include <heed/front/semiring_matmul.hpp>
#include <heed/policy/pattern/band.hpp>
#include <heed/policy/pattern/positions.hpp>

#include <array>
#include <cmath>
#include <string>
#include <vector>

namespace heed::tool {

namespace {

template <class T>
T inverse_root(extent_t width) {
    return static_cast<T>(width > 0 ? 1 / std::sqrt(static_cast<double>(width)) : 1.0);
}
// Rows of length one.
template <class T>
std::vector<T> unit_rows(T const* x, extent_t rows, extent_t width) {
    std::vector<T> y(static_cast<std::size_t>(rows * width));
    for (extent_t n = 0; n < rows; ++n) {
        double squares = 0;
        for (extent_t e = 0; e < width; ++e) { squares += static_cast<double>(x[n * width + e]) * static_cast<double>(x[n * width + e]); }
        double const length = std::max(std::sqrt(squares), 1e-12);
        for (extent_t e = 0; e < width; ++e) { y[static_cast<std::size_t>(n * width + e)] = static_cast<T>(static_cast<double>(x[n * width + e]) / length); }
    }
    return y;
}

// Clusters take queries and keys by themselves; letters: B batch, H heads, N tokens, d width, C clusters, W clusters times their window, U memories of a cluster.
struct clusters {
    template <class T>
    static void run(case_io<T>& io) {
        auto const& source = io.source();
        auto const q = io.reals("q", "BHNd"), k = io.reals("k", "BHNd"), v = io.reals("v", "BHNe"), means = io.reals("means", "HCd");
        extent_t const B = io['B'], H = io['H'], N = io['N'], C = io['C'], d = io['d'], e = io['e'], w = source.integer("window", 1, N);
        bool const causal = source.flag("causal"), shared = source.flag("shared_qk"), memory = source.file().find("mem_key") != nullptr;
        io.set('W', C * w, "the clusters and their window");
        shape const sq{B, H, N, d}, sv{B, H, N, e};
        auto const choose = [&](std::vector<T> const& unit, std::string_view name) {
            std::vector<T> score(static_cast<std::size_t>(B * H * C * N));
            tensor_view<T> const to(score.data(), {B, H, C, N});
            semiring_matmul(plus_times{}, tensor_view<T const>(means.data, {1, H, C, d}), tensor_view<T const>(unit.data(), {B, H, d, N}, {H * N * d, N * d, 1, d}), to);
            picked_tokens picked = pick_tokens(to, w);
            auto* out = io.make_integers(name, "BHW", integer_order::rows_are_sets);
            for (extent_t x = 0; x < B * H * C * w; ++x) { out[x] = picked.at().data_handle()[x]; }
            return picked;
        };
        auto const unit_q = unit_rows(q.data, B * H * N, d), unit_k = unit_rows(k.data, B * H * N, d);
        picked_tokens const of_q = choose(unit_q, "q_indices"), of_k = choose(unit_k, "k_indices");

        // heads of their own: H C of w queries, and of w keys behind the memories of their cluster
        extent_t const m = memory ? (io.reals("mem_key", "HCUd"), io['U']) : 0, E = H * C;
        shape const pq{B, E, w, d}, pk{B, E, w + m, d}, pv{B, E, w + m, e}, po{B, E, w, e};
        auto const room = [&](shape s) { return tensor_view<T>(io.scratch(s.size()), s); };
        tensor_view<T> const mq = room(pq), mk = room(pk), mv = room(pv), mo = room(po);
        auto const behind = [&](tensor_view<T> const& x) { return tensor_view<T>(x.row(0, 0, m), {B, E, w, x.extent(3)}, x.strides()); };
        gather_tokens(of_q, tensor_view<T const>(q.data, sq), mq);
        gather_tokens(of_k, tensor_view<T const>(shared ? unit_k.data() : k.data, sq), behind(mk));
        gather_tokens(of_k, tensor_view<T const>(v.data, sv), behind(mv));
        if (memory) {
            auto const key = io.reals("mem_key", "HCUd"), value = io.reals("mem_value", "HCUe");
            for (extent_t b = 0; b < B; ++b)
                for (extent_t x = 0; x < E * m; ++x) {
                    std::copy_n(key.data + x * d, d, mk.row(b, x / m, x % m));
                    std::copy_n(value.data + x * e, e, mv.row(b, x / m, x % m));
                }
        }
        std::vector<std::int32_t> order(static_cast<std::size_t>(B * E * (w + m)), -1);
        for (extent_t x = 0; x < B * E * w; ++x) { order[static_cast<std::size_t>(x / w * (w + m) + m + x % w)] = of_k.at().data_handle()[x]; }
        positions const in_time{of_q.at(), {order.data(), {B, E, w + m, 1}}, shared};
        full const all;
        sparse_problem<T> p{mq, mk, mv, mo, room({B, E, w, 1}), inverse_root<T>(d)};
        any_pattern const pattern = causal ? any_pattern(in_time) : any_pattern(all);
        attend(p, pattern);
        // a token that sees nothing but itself, where it avoids itself, has its own value
        auto const alone = [&](extent_t b, extent_t x, extent_t i) { return shared && p.lse(b, x, i, 0) == -math::inf<T>(); };
        auto const own_place = [&](extent_t b, extent_t x, extent_t i) {
            for (extent_t j = 0; j < w; ++j) {
                if (of_k.at()(b, x, j, 0) == of_q.at()(b, x, i, 0)) { return m + j; }
            }
            return extent_t(-1);
        };
        auto const each_alone = [&](auto const& f) {
            for (extent_t x = 0; x < B * E * w; ++x) {
                extent_t const b = x / w / E, h = x / w % E, i = x % w;
                if (alone(b, h, i) && own_place(b, h, i) >= 0) { f(b, h, i, own_place(b, h, i)); }
            }
        };
        each_alone([&](extent_t b, extent_t h, extent_t i, extent_t j) { std::copy_n(mv.row(b, h, j), e, mo.row(b, h, i)); });
        auto const counts = picks_of_tokens(of_q, H, N);
        auto const weight = [&](extent_t b, extent_t, extent_t, extent_t h, extent_t token) { return static_cast<T>(1 / (static_cast<double>(counts[static_cast<std::size_t>((b * H + h) * N + token)]) + 1e-5)); };
        T* const out = io.make("out", "BHNe");
        std::fill_n(out, sv.size(), T(0));
        scatter_tokens(of_q, mo, tensor_view<T>(out, sv), weight);
        if (!io.wants("dv")) { return; }

        auto const dout = io.reals("dout", "BHNe");
        tensor_view<T> const up = room(po), dq = room(pq), dk = room(pk), dv = room(pv);
        gather_tokens(of_q, tensor_view<T const>(dout.data, sv), up);
        detail::for_each_pick(of_q, sv, [&](extent_t b, extent_t x, extent_t i, extent_t h, extent_t token) {
            for (extent_t c = 0; c < e; ++c) { up(b, x, i, c) *= weight(b, x, i, h, token); }
        });
        p.dout = up, p.dq = dq, p.dk = dk, p.dv = dv;
        attend_gradients(p, pattern);
        each_alone([&](extent_t b, extent_t h, extent_t i, extent_t j) {
            for (extent_t c = 0; c < e; ++c) { dv(b, h, j, c) += up(b, h, i, c); }
        });
        auto const back = [&](picked_tokens const& picked, tensor_view<T> const& rows, std::string_view name, std::string_view axes, shape s) {
            if (!io.wants(name)) { return; }
            T* const to = io.make(name, axes);
            std::fill_n(to, s.size(), T(0));
            scatter_tokens(picked, rows, tensor_view<T>(to, s), [](auto...) { return T(1); });
        };
        back(of_q, dq, "dq", "BHNd", sq), back(of_k, behind(dk), "dk", "BHNd", sq), back(of_k, behind(dv), "dv", "BHNe", sv);
    }
};

// Heads pick tokens. x [B,N,h], QKV.W [E,h,F] with F three times the head's width G, O.W [E,G,h], r.0.weight [E,h].
struct mosa {
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
        positions const in_time{picked.at(), picked.at()};
        sparse_problem<T> p{part(qkv, 0), part(qkv, 1), part(qkv, 2), o, room({B, E, w, 1}), inverse_root<T>(g)};
        attend(p, any_pattern(in_time));
        semiring_matmul(plus_times{}, tensor_view<T const>(o), expert(wo.data, g, h, false), y);
        auto const gate = [&](extent_t b, extent_t e, extent_t, extent_t, extent_t token) { return r[static_cast<std::size_t>((b * E + e) * N + token)]; };
        T* const out = io.make("out", "BNh");
        std::fill_n(out, B * N * h, T(0));
        scatter_tokens(picked, y, tensor_view<T>(out, {B, 1, N, h}), gate);
        if (!io.wants("dx")) { return; }

        auto const dout = io.reals("dout", "BNh");
        T* const dx = io.make("dx", "BNh");
        std::fill_n(dx, B * N * h, T(0));
        tensor_view<T> const up = room(rows), dy = room(s), dqkv = room({B, E, w, 3 * g}), back = room(rows);
        gather_tokens(picked, tensor_view<T const>(dout.data, {B, 1, N, h}), up);
        detail::for_each_pick(picked, {B, 1, N, h}, [&](extent_t b, extent_t e, extent_t n, extent_t, extent_t token) {
            T const value = gate(b, e, n, 0, token);
            T dr(0);
            for (extent_t c = 0; c < h; ++c) {
                dr += up(b, e, n, c) * y(b, e, n, c);
                up(b, e, n, c) *= value;
            }
            for (extent_t c = 0; c < h; ++c) { dx[(b * N + token) * h + c] += dr * value * (T(1) - value) * wr.data[e * h + c]; }
        });
        semiring_matmul(plus_times{}, tensor_view<T const>(up), expert(wo.data, g, h, true), dy);
        p.dout = dy, p.dq = part(dqkv, 0), p.dk = part(dqkv, 1), p.dv = part(dqkv, 2);
        attend_gradients(p, any_pattern(in_time));
        turn(part(dqkv, 0), T(-1)), turn(part(dqkv, 1), T(-1));
        semiring_matmul(plus_times{}, tensor_view<T const>(dqkv), expert(wqkv.data, h, 3 * g, true), back);
        scatter_tokens(picked, back, tensor_view<T>(dx, {B, 1, N, h}), [](auto...) { return T(1); });
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
        extent_t const rx = X / wins, ry = Y / wins, across = (Y + ry - 1) / ry, R = (X + rx - 1) / rx * across, size = rx * ry, N = X * Y;
        if (top > R) { throw bad_file(source.path(), "metadata \"topk\" is more than the " + std::to_string(R) + " regions"); }

        tape<T> t(io, io.wants("dx"));
        traced<T> const rows = t.room(B * N * C); // [B, N, C]
        auto const file_place = [=](extent_t row, extent_t c) { return Channels ? (row / N * C + c) * N + row % N : row * C + c; };
        for (extent_t row = 0; row < B * N; ++row)
            for (extent_t c = 0; c < C; ++c) { rows.x[row * C + c] = x.data[file_place(row, c)]; }
        traced<T> const qkv = linear(t, rows, B * N, wqkv, bqkv.data);

        // tokens region by region, -1 behind the border
        std::vector<extent_t> order(static_cast<std::size_t>(R * size), -1);
        for (extent_t n = 0; n < R * size; ++n) {
            extent_t const a = n / size / across * rx + n % size / ry, b = n / size % across * ry + n % size % ry;
            if (a < X && b < Y) { order[static_cast<std::size_t>(n)] = a * Y + b; }
        }
        shape const s{B, H, R * size, d};
        auto const each = [=](extent_t part, auto const& f) { // f(place in [B, H, R size, d], place in the rows of 3 C)
            for (extent_t b = 0; b < B; ++b)
                for (extent_t n = 0; n < R * size; ++n)
                    for (extent_t c = 0; order[static_cast<std::size_t>(n)] >= 0 && c < C; ++c) {
                        f(((b * H + c / d) * R * size + n) * d + c % d, (b * N + order[static_cast<std::size_t>(n)]) * 3 * C + part * C + c);
                    }
        };
        auto const take = [&](extent_t part) {
            traced<T> const to = t.room(s.size());
            std::fill_n(to.x, s.size(), T(0));
            each(part, [&](extent_t row, extent_t from) { to.x[row] = qkv.x[from]; });
            t.back([=] { each(part, [&](extent_t row, extent_t from) { qkv.d[from] += to.d[row]; }); });
            return to;
        };
        traced<T> const q = take(0), k = take(1), v = take(2), o = t.room(s.size());

        // means of regions over all heads, points of the map only
        auto const means = [&](extent_t part) {
            T* const to = io.scratch(B * R * C);
            std::fill_n(to, B * R * C, T(0));
            for (extent_t b = 0; b < B; ++b)
                for (extent_t n = 0; n < R; ++n) {
                    extent_t count = 0;
                    for (extent_t i = 0; i < size; ++i) {
                        extent_t const point = order[static_cast<std::size_t>(n * size + i)];
                        count += point >= 0;
                        for (extent_t c = 0; point >= 0 && c < C; ++c) { to[(b * R + n) * C + c] += qkv.x[(b * N + point) * 3 * C + part * C + c]; }
                    }
                    for (extent_t c = 0; c < C; ++c) { to[(b * R + n) * C + c] /= static_cast<T>(count); }
                }
            return tensor_view<T const>(to, {B, 1, R, C});
        };
        auto const of_k = means(1);
        auto const choice = select_lists(any_block{}, means(0), of_k, of_k, 1, top, 1.0);
        if (!Channels) {
            io.set('R', R, "the regions"), io.set('K', top, "topk");
            auto* const list = io.make_integers("r_idx", "BRK", integer_order::rows_are_sets);
            for (extent_t n = 0; n < B * R * top; ++n) { list[n] = choice.list[static_cast<std::size_t>(n)]; }
        }
        block_bits const bits(choice.lists(), R);
        block_map const map = bits.map(size, size, H);
        tensor_view<T> const out(o.x, s), lse(io.scratch(B * H * R * size), {B, H, R * size, 1});
        sparse_problem<T> p{tensor_view<T const>(q.x, s), tensor_view<T const>(k.x, s), tensor_view<T const>(v.x, s), out, lse, inverse_root<T>(C)};
        attend(p, any_pattern(map));
        if (t.wanted()) {
            t.back([=]() mutable { // the only consumer of q, k and v
                auto const room = [&](T* to) { return tensor_view<T>(to, s); };
                p.dout = tensor_view<T const>(o.d, s), p.dq = room(q.d), p.dk = room(k.d), p.dv = room(v.d);
                attend_gradients(p, any_pattern(map));
            });
        }
        traced<T> const mixed = t.room(B * N * C);
        auto const places = [=](auto const& f) { each(0, [&](extent_t row, extent_t from) { f(row, from / (3 * C) * C + from % (3 * C)); }); };
        places([&](extent_t row, extent_t to) { mixed.x[to] = o.x[row]; });
        t.back([=] { places([&](extent_t row, extent_t to) { o.d[row] += mixed.d[to]; }); });
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

constexpr std::array picked_cases{
    wire<clusters>("routing_kmeans"), wire<clusters>("routing_kmeans_causal"), wire<clusters>("routing_kmeans_causal_shared_qk"), wire<mosa>("mosa"), wire<mosa>("mosa_include_first_full_rotary"),
    wire<biformer<false>>("biformer_legacy"), wire<biformer<false>>("biformer_legacy_no_lepe"), wire<biformer<true>>("biformer_nchw_padded"),
};
check_registration const registration("sparse", picked_cases);

} // namespace

} // namespace heed::tool
