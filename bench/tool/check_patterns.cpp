// SPDX-License-Identifier: BSD-3-Clause
// The wiring of the cases of sparse attention whose pattern is given: block masks, rules of integers, neighbourhoods of grids, shifted groups. Axis letters:
// B batch, H query heads, G key/value heads, N queries, M keys, d query width, e value width, S L the grid's points, X Y Z its axes.
#include "case_file.hpp"
#include "failure.hpp"
#include "sparse_problem.hpp"
#include "strict_json.hpp"

#include <heed/policy/pattern/band.hpp>
#include <heed/policy/pattern/block_bits.hpp>
#include <heed/policy/pattern/either.hpp>
#include <heed/policy/pattern/groups.hpp>
#include <heed/policy/pattern/neighbourhood.hpp>
#include <heed/policy/pattern/stripes.hpp>

#include <array>
#include <cmath>
#include <string>
#include <vector>

namespace heed::tool {

namespace {

constexpr std::int64_t any_size = std::int64_t(1) << 30;

template <class T>
T inv_sqrt(std::int64_t width) {
    return static_cast<T>(width > 0 ? 1 / std::sqrt(static_cast<double>(width)) : 1.0);
}
template <class T>
void check_heads(case_io<T> const& io) {
    auto const q = io['H'], k = io['G'];
    if (k == 0 ? q != 0 : q % k != 0) { throw bad_tensor(io.source().path(), "k", "has " + std::to_string(k) + " heads, which do not divide the " + std::to_string(q) + " of q"); }
}
template <class T>
void solve(sparse_problem<T> const& p, any_pattern const& pattern) {
    attend(p, pattern);
    if (p.dout.data_handle()) { attend_gradients(p, pattern); }
}

// q [B,H,N,d], k [B,G,M,d], v [B,G,M,e], out [B,H,N,e], lse [B,H,N]
template <class T>
sparse_problem<T> head_major(case_io<T>& io) {
    sparse_problem<T> p;
    auto const q = io.reals("q", "BHNd"), k = io.reals("k", "BGMd"), v = io.reals("v", "BGMe");
    check_heads(io);
    shape const sq{io['B'], io['H'], io['N'], io['d']}, sk{io['B'], io['G'], io['M'], io['d']}, sv{io['B'], io['G'], io['M'], io['e']}, so{sq.batch, sq.head, sq.seq, sv.feature};
    p.q = {q.data, sq}, p.k = {k.data, sk}, p.v = {v.data, sv}, p.out = {io.make("out", "BHNe"), so};
    p.lse = per_row(io.make("lse", "BHN"), so.batch, so.head, so.seq);
    p.scale = inv_sqrt<T>(io['d']);
    if (io.wants("dq") || io.wants("dk") || io.wants("dv")) {
        p.dout = {io.reals("dout", "BHNe").data, so};
        p.dq = {io.make("dq", "BHNd"), sq}, p.dk = {io.make("dk", "BGMd"), sk}, p.dv = {io.make("dv", "BGMe"), sv};
    }
    return p;
}

// Blocks of a mask that lies in the file.
block_bits blocks_of(loaded<std::uint8_t> const& mask) {
    std::size_t const rank = mask.shape.size();
    auto const axis = [&](std::size_t from_end) { return from_end <= rank ? mask.shape[rank - from_end] : 1; };
    return block_bits(tensor_view<std::uint8_t const>(mask.data, {axis(4), axis(3), axis(2), axis(1)}));
}

template <bool Causal>
struct block_sparse {
    template <class T>
    static void run(case_io<T>& io) {
        auto const p = head_major(io);
        extent_t const rows = io.source().integer("block_q", 1, any_size), keys = io.source().integer("block_k", 1, any_size);
        io.set('R', (io['N'] + rows - 1) / rows, "the blocks of q"), io.set('C', (io['M'] + keys - 1) / keys, "the blocks of k");
        auto const bits = blocks_of(io.booleans("block_mask", "BHRC"));
        auto const map = bits.map(rows, keys);
        if constexpr (Causal) {
            auto const both = map & causal_bottom_right{};
            solve(p, any_pattern(both));
        } else {
            solve(p, any_pattern(map));
        }
    }
};
struct big_bird {
    template <class T>
    static void run(case_io<T>& io) {
        auto const p = head_major(io);
        extent_t const block = io.source().integer("block", 1, any_size);
        io.set('R', (io['N'] + block - 1) / block, "the blocks of q"), io.set('C', (io['M'] + block - 1) / block, "the blocks of k");
        auto const bits = blocks_of(io.booleans("block_mask", "RC"));
        auto const map = bits.map(block, block);
        solve(p, any_pattern(map));
    }
};
struct longformer {
    template <class T>
    static void run(case_io<T>& io) {
        auto const& source = io.source();
        auto const pattern = dilated_window{source.integer("half_window", 0, any_size), source.integer("dilation", 1, 1 << 20)} | global_tokens{source.integer("globals", 0, any_size)};
        solve(head_major(io), any_pattern(pattern));
    }
};
struct strided_rule {
    template <class T>
    static void run(case_io<T>& io) {
        strided const pattern{io.source().integer("stride", 1, any_size)};
        solve(head_major(io), any_pattern(pattern));
    }
};
struct fixed_rule {
    template <class T>
    static void run(case_io<T>& io) {
        extent_t const stride = io.source().integer("stride", 1, any_size);
        fixed const pattern{stride, io.source().integer("summary", 0, stride)};
        solve(head_major(io), any_pattern(pattern));
    }
};

// Groups, in the second half of the heads shifted by half a group.
struct shifted {
    std::vector<std::int32_t> size, shift;
    shifted(extent_t group, extent_t heads, extent_t by) : size(1, static_cast<std::int32_t>(group)), shift(static_cast<std::size_t>(heads)) {
        for (extent_t h = heads / 2; h < heads; ++h) { shift[static_cast<std::size_t>(h)] = static_cast<std::int32_t>(by); }
    }
    tensor_view<std::int32_t const> sizes() const { return per_head<std::int32_t const>(size.data(), 1); }
    tensor_view<std::int32_t const> shifts() const { return per_head<std::int32_t const>(shift.data(), static_cast<extent_t>(shift.size())); }
};
struct shifted_groups {
    template <class T>
    static void run(case_io<T>& io) {
        auto const p = head_major(io);
        extent_t const group = io.source().integer("group", 1, any_size);
        shifted const of(group, io['H'], group / 2);
        auto const pattern = head_groups{of.sizes(), of.shifts()} & causal_bottom_right{};
        solve(p, any_pattern(pattern));
    }
};
// q, k, v, out [B,N,D], heads side by side in a row
struct rolled {
    template <class T>
    static void run(case_io<T>& io) {
        extent_t const group = io.source().integer("group", 1, any_size), heads = io.source().integer("heads", 1, 1 << 20);
        auto const q = io.reals("q", "BND"), k = io.reals("k", "BND"), v = io.reals("v", "BND");
        if (io['D'] % heads) { throw bad_tensor(io.source().path(), "q", "has rows that the heads do not divide"); }
        shape const s{io['B'], heads, io['N'], io['D'] / heads};
        sparse_problem<T> p{sequence_major(q.data, s), sequence_major(k.data, s), sequence_major(v.data, s), sequence_major(io.make("out", "BND"), s), per_row(io.scratch(s.batch * heads * s.seq), s.batch, heads, s.seq)};
        p.scale = inv_sqrt<T>(s.feature);
        if (io.wants("dq")) {
            p.dout = sequence_major(io.reals("dout", "BND").data, s);
            p.dq = sequence_major(io.make("dq", "BND"), s), p.dk = sequence_major(io.make("dk", "BND"), s), p.dv = sequence_major(io.make("dv", "BND"), s);
        }
        shifted const of(group, heads, group / 2);
        rolled_groups const pattern{group, of.shifts()};
        solve(p, any_pattern(pattern));
    }
};

// One value per axis of a neighbourhood.
template <class T, class U>
std::vector<U> per_axis(case_io<T> const& io, std::string_view key, std::size_t axes) {
    auto const list = parse_strictly<nlohmann::json>(io.source().path(), "metadata " + in_quotes(key), io.source().word(key));
    std::vector<U> to;
    for (auto const& x : list.is_array() ? list : nlohmann::json::array()) {
        if constexpr (std::is_same_v<U, bool>) {
            if (x.is_boolean()) { to.push_back(x.template get<bool>()); }
        } else {
            if (x.is_number_integer()) { to.push_back(x.template get<U>()); }
        }
    }
    if (to.size() != axes || list.size() != axes) { throw bad_file(io.source().path(), "metadata " + in_quotes(key) + " is not a list of " + std::to_string(axes) + ", one for each axis of the grid"); }
    return to;
}

// q, out [B,*grid,H,d], k, v [B,*grid,G,d]; lse [B,L,H], mask [L,L]
template <int Axes>
struct near {
    template <class T>
    static void run(case_io<T>& io) {
        std::string const grid = std::string("XYZ").substr(0, Axes), of_q = "B" + grid + "Hd", of_k = "B" + grid + "Gd";
        auto const q = io.reals("q", of_q), k = io.reals("k", of_k), v = io.reals("v", of_k);
        check_heads(io);
        auto const window = per_axis<T, std::int64_t>(io, "window", Axes), stride = per_axis<T, std::int64_t>(io, "stride", Axes), dilation = per_axis<T, std::int64_t>(io, "dilation", Axes);
        auto const causal = per_axis<T, bool>(io, "causal", Axes);
        std::vector<neighbourhood_axis> axes;
        for (std::size_t a = 0; a < Axes; ++a) { axes.push_back({io[grid[a]], window[a], stride[a], dilation[a], causal[a]}); }
        neighbourhood_map const map{std::span<neighbourhood_axis const>(axes)};
        neighbourhood const pattern{map.bands()};
        extent_t const L = map.bands().points();
        io.set('L', L, "the points of the grid");
        shape const sq{io['B'], io['H'], L, io['d']}, sk{io['B'], io['G'], L, io['d']};
        T* const lse = io.make("lse", "BLH");
        sparse_problem<T> p{sequence_major(q.data, sq), sequence_major(k.data, sk), sequence_major(v.data, sk), sequence_major(io.make("out", of_q), sq), sequence_major(lse, {sq.batch, sq.head, L, 1})};
        p.scale = inv_sqrt<T>(io['d']);
        if (io.wants("dq")) {
            p.dout = sequence_major(io.reals("dout", of_q).data, sq);
            p.dq = sequence_major(io.make("dq", of_q), sq), p.dk = sequence_major(io.make("dk", of_k), sk), p.dv = sequence_major(io.make("dv", of_k), sk);
        }
        auto* const mask = io.make_integers("mask", "LL", integer_order::exact);
        for (extent_t i = 0; i < L; ++i)
            for (extent_t j = 0; j < L; ++j) { mask[i * L + j] = pattern.keep({}, i, j); }
        solve(p, any_pattern(pattern));
    }
};

constexpr std::array pattern_cases{
    wire<block_sparse<false>>("block_sparse"), wire<block_sparse<true>>("block_sparse_causal"), wire<big_bird>("pattern_bigbird"), wire<longformer>("pattern_longformer"),
    wire<strided_rule>("pattern_strided"), wire<fixed_rule>("pattern_fixed"), wire<shifted_groups>("s2attn_no_wrap"), wire<rolled>("s2attn_longlora"),
    wire<near<1>>("na1d"), wire<near<1>>("na1d_blocked"), wire<near<1>>("na1d_causal"), wire<near<1>>("na1d_causal_strided_dilated"), wire<near<1>>("na1d_dilated"),
    wire<near<1>>("na1d_even_window"), wire<near<1>>("na1d_stride_dilated"), wire<near<1>>("na1d_strided"), wire<near<1>>("na1d_window_full"),
    wire<near<2>>("na2d"), wire<near<2>>("na2d_dilated"), wire<near<2>>("na2d_gqa"), wire<near<2>>("na2d_mixed"), wire<near<3>>("na3d"), wire<near<3>>("na3d_video_causal"),
};
check_registration const registration("sparse", pattern_cases);

} // namespace

} // namespace heed::tool
