// SPDX-License-Identifier: BSD-3-Clause
// The wiring of the cases of routed attention, and the kernel that all sparse cases share. Axis letters: B batch, H query heads, G key/value heads, N queries,
// M keys, d query width, e value width, C blocks, K slots.
#include "case_file.hpp"
#include "check_picked.hpp"
#include "failure.hpp"
#include "sparse_problem.hpp"

#include <heed/front/hsa.hpp>
#include <heed/front/nsa.hpp>

#include <array>
#include <numeric>
#include <string>
#include <vector>

namespace heed::tool {

template <class T>
void attend(sparse_problem<T> const& p, any_pattern const& pattern) {
    forward(chosen_attention(pattern, p.scale), p.q, p.k, p.v, p.out, save{p.lse});
}
template <class T>
void attend_gradients(sparse_problem<T> const& p, any_pattern const& pattern) {
    backward(chosen_attention(pattern, p.scale), p.q, p.k, p.v, tensor_view<T const>(p.out), save{p.lse}, p.dout, p.dq, p.dk, p.dv);
}
template void attend<float>(sparse_problem<float> const&, any_pattern const&);
template void attend<double>(sparse_problem<double> const&, any_pattern const&);
template void attend_gradients<float>(sparse_problem<float> const&, any_pattern const&);
template void attend_gradients<double>(sparse_problem<double> const&, any_pattern const&);

namespace {

constexpr std::int64_t any_size = std::int64_t(1) << 30;

template <class T>
void solve(sparse_problem<T> const& p, any_pattern const& pattern) {
    attend(p, pattern);
    if (p.dout.data_handle()) { attend_gradients(p, pattern); }
}
template <class T>
void check_heads(case_io<T> const& io) {
    auto const q = io['H'], k = io['G'];
    if (k == 0 ? q != 0 : q % k != 0) { throw bad_tensor(io.source().path(), "k", "has " + std::to_string(k) + " heads, which do not divide the " + std::to_string(q) + " of q"); }
}

// Packed sequences, q, k, v, out [M,H,d].
struct moba {
    template <class T>
    static void run(case_io<T>& io) {
        auto const q = io.reals("q", "MHd"), k = io.reals("k", "MHd"), v = io.reals("v", "MHe");
        extent_t const N = io['M'], H = io['H'], block = io.source().integer("chunk", 1, any_size), top = io.source().integer("topk", 1, 1 << 16);
        auto const list = io.integers("cu_seqlens", "S", 0, N);
        std::span<std::int32_t const> const starts(list.data, static_cast<std::size_t>(list.shape[0]));
        if (starts.empty() || starts.back() != N) { throw bad_tensor(io.source().path(), "cu_seqlens", "does not end at the " + std::to_string(N) + " rows of q"); }
        ragged_offsets const offsets(starts);
        shape const s{1, H, N, io['d']}, e{1, H, N, io['e']};
        auto const rows = [&](auto* data, shape of) { return ragged(sequence_major(data, of), offsets); };
        std::vector<T> lse(static_cast<std::size_t>(H * N));
        sparse_problem<T> p{rows(q.data, s), rows(k.data, s), rows(v.data, e), rows(io.make("out", "MHe"), e), ragged(per_row(lse.data(), 1, H, N), offsets)};
        p.scale = inv_sqrt<T>(s.feature);
        if (io.wants("dq")) {
            p.dout = rows(io.reals("dout", "MHe").data, e);
            p.dq = rows(io.make("dq", "MHd"), s), p.dk = rows(io.make("dk", "MHd"), s), p.dv = rows(io.make("dv", "MHe"), e);
        }
        block_summaries<T> const means(p.k, block);
        block_bits const chosen = select_moba(p.q, p.k, means, top);
        routed const pattern(chosen.map(1, block), causal_bottom_right{});
        solve(p, any_pattern(pattern));
    }
};

// q [B,N,H,d], k [B,N,G,d], v [B,N,G,e], out [B,N,H,e]
template <class T>
struct sequences {
    loaded<T> q, k, v;
    shape sq, sk, sv, so;
    explicit sequences(case_io<T>& io) : q(io.reals("q", "BNHd")), k(io.reals("k", "BNGd")), v(io.reals("v", "BNGe")) {
        check_heads(io);
        sq = {io['B'], io['H'], io['N'], io['d']}, sk = {io['B'], io['G'], io['N'], io['d']}, sv = {io['B'], io['G'], io['N'], io['e']}, so = {io['B'], io['H'], io['N'], io['e']};
    }
    tensor_view<T const> queries() const { return sequence_major(q.data, sq); }
    tensor_view<T const> keys() const { return sequence_major(k.data, sk); }
    tensor_view<T const> values() const { return sequence_major(v.data, sv); }
};

template <class T>
block_bits nsa_choice(sequences<T> const& x, block_summaries<T> const& keys, std::vector<T>& lse, extent_t top) {
    tensor_view<T> const sums(lse.data(), {x.sq.batch, x.sq.head, x.sq.seq, 1});
    return select_nsa(x.queries(), x.keys(), keys, tensor_view<T const>(sums), static_cast<double>(inv_sqrt<T>(x.sq.feature)), top);
}

struct nsa_compression {
    template <class T>
    static void run(case_io<T>& io) {
        sequences<T> const x(io);
        extent_t const block = io.source().integer("block_size", 1, any_size);
        block_summaries<T> const k(x.keys(), block), v(x.values(), block);
        io.set('C', k.blocks(), "the blocks");
        auto const copy = [&](auto const& means, T* to) {
            for (extent_t b = 0; b < means.extent(0); ++b)
                for (extent_t h = 0; h < means.extent(1); ++h)
                    for (extent_t c = 0; c < means.extent(2); ++c)
                        for (extent_t e = 0; e < means.extent(3); ++e) { to[((b * means.extent(2) + c) * means.extent(1) + h) * means.extent(3) + e] = means(b, h, c, e); }
        };
        copy(k.means(), io.make("k_cmp", "BCGd")), copy(v.means(), io.make("v_cmp", "BCGe"));
        sparse_problem<T> p{x.queries(), k.means(), v.means(), sequence_major(io.make("out", "BNHe"), x.so), sequence_major(io.make("lse", "BNH"), {x.so.batch, x.so.head, x.so.seq, 1})};
        p.scale = inv_sqrt<T>(x.sq.feature);
        compressed const past{block};
        if (io.wants("dq")) {
            p.dout = sequence_major(io.reals("dout", "BNHe").data, x.so);
            p.dq = sequence_major(io.make("dq", "BNHd"), x.sq);
            p.dk = {io.scratch(k.means().shape().size()), k.means().shape()}, p.dv = {io.scratch(v.means().shape().size()), v.means().shape()};
            solve(p, any_pattern(past));
            serial one;
            auto const spread = [&](tensor_view<T> const& from, T* to, shape s) {
                std::fill_n(to, s.size(), T(0));
                gated_rows<T, native_arch>::spread(from, block, sequence_major(to, s), one, 1);
            };
            spread(p.dk, io.make("dk", "BNGd"), x.sk), spread(p.dv, io.make("dv", "BNGe"), x.sv);
        } else {
            solve(p, any_pattern(past));
        }
    }
};

// block_indices [B,N,G,K]: as sets, -1 where a slot is empty; out: the same as a map [B,N,G,C]
struct nsa_selection {
    template <class T>
    static void run(case_io<T>& io) {
        auto const q = io.reals("q", "BNHd"), k = io.reals("k", "BNGd");
        check_heads(io);
        shape const sq{io['B'], io['H'], io['N'], io['d']}, sk{io['B'], io['G'], io['N'], io['d']};
        extent_t const block = io.source().integer("block_size", 1, any_size), top = io.source().integer("block_counts", 1, 1 << 16);
        auto const queries = sequence_major(q.data, sq), keys = sequence_major(k.data, sk);
        block_summaries<T> const means(keys, block);
        io.set('C', means.blocks(), "the blocks"), io.set('K', top, "block_counts");
        tensor_view<T> const rows(io.scratch(sq.size()), sq), lse(io.scratch(sq.batch * sq.head * sq.seq), {sq.batch, sq.head, sq.seq, 1});
        compressed const past{block};
        attend(sparse_problem<T>{queries, means.means(), means.means(), rows, lse, inv_sqrt<T>(sq.feature)}, any_pattern(past));
        block_bits const chosen = select_nsa(queries, keys, means, tensor_view<T const>(lse), static_cast<double>(inv_sqrt<T>(sq.feature)), top);
        give_choices(io, chosen);
        T* const map = io.make("out", "BNGC");
        extent_t at = 0;
        for (extent_t b = 0; b < io['B']; ++b)
            for (extent_t n = 0; n < io['N']; ++n)
                for (extent_t g = 0; g < io['G']; ++g)
                    for (extent_t c = 0; c < io['C']; ++c) { map[at++] = chosen.keeps(b, g, n, c) ? T(1) : T(0); }
    }
    template <class T>
    static void give_choices(case_io<T>& io, block_bits const& chosen) {
        auto* to = io.make_integers("block_indices", "BNGK", integer_order::rows_are_sets);
        for (extent_t b = 0; b < io['B']; ++b)
            for (extent_t n = 0; n < io['N']; ++n)
                for (extent_t g = 0; g < io['G']; ++g, to += io['K']) {
                    std::fill_n(to, io['K'], std::int64_t(-1));
                    extent_t x = 0;
                    for (extent_t c = 0; c < chosen.blocks(); ++c) {
                        if (chosen.keeps(b, g, n, c)) { to[x++] = c; }
                    }
                }
    }
};

struct nsa_selected {
    template <class T>
    static void run(case_io<T>& io) {
        sequences<T> const x(io);
        extent_t const block = io.source().integer("block_size", 1, any_size), blocks = (io['N'] + block - 1) / block;
        auto const list = io.integers("block_indices", "BNGK", -1, blocks - 1);
        shape const s{io['B'], io['G'], io['N'], io['K']};
        block_bits const chosen(sequence_major(list.data, s), blocks);
        routed const pattern(chosen.map(1, block, io['H'] / io['G']), causal_bottom_right{});
        sparse_problem<T> p{x.queries(), x.keys(), x.values(), sequence_major(io.make("out", "BNHe"), x.so), {io.scratch(x.so.batch * x.so.head * x.so.seq), {x.so.batch, x.so.head, x.so.seq, 1}}};
        p.scale = inv_sqrt<T>(x.sq.feature);
        if (io.wants("dq")) {
            p.dout = sequence_major(io.reals("dout", "BNHe").data, x.so);
            p.dq = sequence_major(io.make("dq", "BNHd"), x.sq), p.dk = sequence_major(io.make("dk", "BNGd"), x.sk), p.dv = sequence_major(io.make("dv", "BNGe"), x.sv);
        }
        solve(p, any_pattern(pattern));
    }
};

struct nsa_branches {
    template <class T>
    static void run(case_io<T>& io) {
        sequences<T> const x(io);
        extent_t const block = io.source().integer("block_size", 1, any_size), top = io.source().integer("block_counts", 1, 1 << 16), window = io.source().integer("window", 0, any_size);
        shape const sg{io['B'], io['H'], io['N'], 1};
        auto const gate = [&](std::string_view name) { return sequence_major(io.reals(name, "BNH").data, sg); };
        nsa const m{block, top, window, gate("g_cmp"), gate("g_slc"), window > 0 ? gate("g_swa") : tensor_view<T const>()};
        auto const out = sequence_major(io.make("out", "BNHe"), x.so);
        auto const saved = forward(m, x.queries(), x.keys(), x.values(), out);
        io.set('K', top, "block_counts");
        nsa_selection::give_choices(io, saved.chosen);
        if (!io.wants("dq")) { return; }
        auto const dgate = [&](std::string_view name) { return sequence_major(io.make(name, "BNH"), sg); };
        nsa_gate_gradients<T> const dgates{dgate("dg_cmp"), dgate("dg_slc"), window > 0 ? dgate("dg_swa") : tensor_view<T>()};
        backward(m, x.queries(), x.keys(), x.values(), out, saved, sequence_major(io.reals("dout", "BNHe").data, x.so), sequence_major(io.make("dq", "BNHd"), x.sq),
                 sequence_major(io.make("dk", "BNGd"), x.sk), sequence_major(io.make("dv", "BNGe"), x.sv), dgates);
    }
};

// lists and weights [B,N,G,K]
struct hsa_chunks {
    template <class T>
    static void run(case_io<T>& io) {
        sequences<T> const x(io);
        extent_t const chunk = io.source().integer("chunk", 1, any_size), chunks = (io['N'] + chunk - 1) / chunk;
        auto const list = io.integers("indices", "BNGK", -1, chunks - 1);
        shape const s{io['B'], io['G'], io['N'], io['K']};
        hsa<T> const m{chunk, sequence_major(list.data, s), sequence_major(io.reals("weights", "BNGK").data, s), T(0), static_cast<T>(io.source().number("softmax_n"))};
        auto const out = sequence_major(io.make("out", "BNHe"), x.so);
        auto const saved = forward(m, x.queries(), x.keys(), x.values(), out);
        if (!io.wants("dq")) { return; }
        backward(m, x.queries(), x.keys(), x.values(), out, saved, sequence_major(io.reals("dout", "BNHe").data, x.so), sequence_major(io.make("dq", "BNHd"), x.sq),
                 sequence_major(io.make("dk", "BNGd"), x.sk), sequence_major(io.make("dv", "BNGe"), x.sv), chunk_weight_gradient{sequence_major(io.make("dweights", "BNGK"), s)});
    }
};

// q, out [B,H,N,d], k, v [B,G,K,M,d]: M keys in each of K chunks, weights [B,K]
struct gca_chunks {
    template <class T>
    static void run(case_io<T>& io) {
        auto const q = io.reals("q", "BHNd"), k = io.reals("k", "BGKMd"), v = io.reals("v", "BGKMe"), w = io.reals("weights", "BK");
        check_heads(io);
        extent_t const B = io['B'], N = io['N'], K = io['K'], H = io['H'];
        shape const sq{B, H, N, io['d']}, sk{B, io['G'], K * io['M'], io['d']}, sv{B, io['G'], K * io['M'], io['e']}, so{B, H, N, io['e']}, s{B, 1, N, K};
        std::vector<std::int32_t> all(static_cast<std::size_t>(K));
        std::iota(all.begin(), all.end(), 0);
        tensor_view<std::int32_t const> const lists(all.data(), s, {0, 0, 0, 1});
        tensor_view<T const> const weights(w.data, s, {K, 0, 0, 1}), queries(q.data, sq), keys(k.data, sk), values(v.data, sv);
        hsa<T> const m{io['M'], lists, weights, static_cast<T>(io.source().number("scale"))};
        tensor_view<T> const out(io.make("out", "BHNe"), so);
        auto const saved = forward(m, queries, keys, values, out);
        if (!io.wants("dq")) { return; }
        tensor_view<T> const each(io.scratch(s.size()), s);
        backward(m, queries, keys, values, out, saved, tensor_view<T const>(io.reals("dout", "BHNe").data, so), tensor_view<T>(io.make("dq", "BHNd"), sq),
                 tensor_view<T>(io.make("dk", "BGKMd"), sk), tensor_view<T>(io.make("dv", "BGKMe"), sv), chunk_weight_gradient{each});
        T* const dw = io.make("dweights", "BK"); // shared by the queries
        for (extent_t b = 0; b < B; ++b)
            for (extent_t c = 0; c < K; ++c) {
                dw[b * K + c] = T(0);
                for (extent_t n = 0; n < N; ++n) { dw[b * K + c] += each(b, 0, n, c); }
            }
    }
};

// x [B,N,m] -> RMS norm -> W -> heads; landmarks [B,C,G,r]
template <chunk_weights Kind>
struct retrieval {
    template <class T>
    static void run(case_io<T>& io) {
        auto const x = io.reals("x", "BNm"), norm = io.reals("pre_norm.weight", "m"), w = io.reals("ln.weight", "Dm"), l = io.reals("landmarks", "BCGr");
        extent_t const B = io['B'], N = io['N'], m = io['m'], C = io['C'], G = io['G'], r = io['r'], chunk = io.source().integer("chunk", 1, any_size), top = io.source().integer("topk", 1, 1 << 16);
        if (io['D'] != G * r) { throw bad_tensor(io.source().path(), "ln.weight", "does not make the heads of the landmarks"); }
        std::vector<T> rows(static_cast<std::size_t>(B * N * G * r));
        for (extent_t n = 0; n < B * N; ++n) {
            double squares = 0;
            for (extent_t e = 0; e < m; ++e) { squares += static_cast<double>(x.data[n * m + e]) * static_cast<double>(x.data[n * m + e]); }
            double const factor = 1 / std::sqrt(squares / static_cast<double>(m) + 1e-6);
            for (extent_t o = 0; o < G * r; ++o) {
                double sum = 0;
                for (extent_t e = 0; e < m; ++e) { sum += static_cast<double>(w.data[o * m + e]) * static_cast<double>(x.data[n * m + e]) * factor * static_cast<double>(norm.data[e]); }
                rows[static_cast<std::size_t>(n * G * r + o)] = static_cast<T>(sum);
            }
        }
        std::vector<T> marks(static_cast<std::size_t>(B * G * C * r));
        for (extent_t b = 0; b < B; ++b)
            for (extent_t c = 0; c < C; ++c)
                for (extent_t g = 0; g < G; ++g)
                    for (extent_t e = 0; e < r; ++e) { marks[static_cast<std::size_t>(((b * G + g) * C + c) * r + e)] = l.data[((b * C + c) * G + g) * r + e]; }
        auto const e = sequence_major(static_cast<T const*>(rows.data()), {B, G, N, r});
        auto const choice = retrieve_chunks(e, tensor_view<T const>(marks.data(), {B, G, C, r}), e, chunk, top, Kind);
        io.set('K', top, "topk");
        T* out = io.make("out", "BNGK");
        auto* list = io.make_integers("indices", "BNGK", integer_order::exact);
        for (extent_t b = 0; b < B; ++b)
            for (extent_t n = 0; n < N; ++n)
                for (extent_t g = 0; g < G; ++g)
                    for (extent_t c = 0; c < top; ++c) {
                        std::int32_t const number = choice.lists()(b, g, n, c);
                        *out++ = choice.weights()(b, g, n, c);
                        *list++ = number < 0 ? 0 : number; // the file gives an empty slot the number 0
                    }
    }
};

// q, k, v, out [B,D,X,Y], heads of channels; regions of a size, row by row; region_graph [B,H,C,K]
struct region_graph {
    template <class T>
    static void run(case_io<T>& io) {
        auto const q = io.reals("q", "BDXY"), k = io.reals("k", "BDXY"), v = io.reals("v", "BDXY");
        extent_t const B = io['B'], H = io.source().integer("heads", 1, 1 << 20), X = io['X'], Y = io['Y'], d = io['D'] / H;
        auto const sizes = io.source().word("region");
        auto const comma = sizes.find(',');
        if (comma == sizes.npos || io['D'] % H) { throw bad_file(io.source().path(), "metadata \"region\" is not two lengths, or heads do not divide the channels"); }
        extent_t const rx = std::stol(sizes.substr(1)), ry = std::stol(sizes.substr(comma + 1));
        if (rx < 1 || ry < 1 || X % rx || Y % ry) { throw bad_file(io.source().path(), "metadata \"region\" does not divide the map"); }
        std::vector<extent_t> order; // point at each place, region by region
        for (extent_t i = 0; i < X / rx; ++i)
            for (extent_t j = 0; j < Y / ry; ++j)
                for (extent_t a = 0; a < rx; ++a)
                    for (extent_t c = 0; c < ry; ++c) { order.push_back((i * rx + a) * Y + j * ry + c); }
        extent_t const N = X * Y;
        shape const s{B, H, N, d};
        auto const each = [&](auto const& f) {
            for (extent_t c = 0; c < B * H * d; ++c)
                for (extent_t n = 0; n < N; ++n) { f((c / d * N + n) * d + c % d, c * N + order[static_cast<std::size_t>(n)]); }
        };
        auto const take = [&](T const* from) {
            T* const to = io.scratch(s.size());
            each([&](extent_t row, extent_t channel) { to[row] = from[channel]; });
            return tensor_view<T const>(to, s);
        };
        auto const give = [&](tensor_view<T> const& from, std::string_view name) {
            T* const to = io.make(name, "BDXY");
            each([&](extent_t row, extent_t channel) { to[channel] = from.data_handle()[row]; });
        };
        auto const room = [&] { return tensor_view<T>(io.scratch(s.size()), s); };
        sparse_problem<T> p{take(q.data), take(k.data), take(v.data), room(), {io.scratch(B * H * N), {B, H, N, 1}}, static_cast<T>(io.source().number("scale"))};
        io.set('H', H, "heads"), io.set('C', N / (rx * ry), "the regions");
        auto const graph = io.integers("region_graph", "BHCK", 0, io['C'] - 1);
        block_bits const bits(tensor_view<std::int32_t const>(graph.data, {B, H, io['C'], io['K']}), io['C']);
        auto const map = bits.map(rx * ry, rx * ry);
        if (io.wants("dq")) { p.dout = take(io.reals("dout", "BDXY").data), p.dq = room(), p.dk = room(), p.dv = room(); }
        solve(p, any_pattern(map));
        give(p.out, "out");
        if (io.wants("dq")) { give(p.dq, "dq"), give(p.dk, "dk"), give(p.dv, "dv"); }
    }
};

constexpr std::array routed_cases{
    wire<moba>("moba_packed"), wire<moba>("moba_pow2_top4"), wire<moba>("moba_single"), wire<moba>("moba_top1"),
    wire<nsa_compression>("nsa_compression"), wire<nsa_selection>("nsa_topk_selection"), wire<nsa_selected>("nsa_selected_blocks"), wire<nsa_branches>("nsa_two_branches"),
    wire<nsa_branches>("nsa_three_branches"), wire<hsa_chunks>("hsa_given_chunks"), wire<hsa_chunks>("hsa_given_chunks_off_by_one"), wire<gca_chunks>("gca_chunks"),
    wire<retrieval<chunk_weights::stick_breaking>>("hsa_retrieval_stick_breaking"), wire<retrieval<chunk_weights::softmax>>("hsa_retrieval_softmax"), wire<region_graph>("biformer_region_graph"),
};
check_registration const registration("sparse", routed_cases), picked_registration("sparse", picked_cases);

} // namespace

} // namespace heed::tool
