// SPDX-License-Identifier: BSD-3-Clause
// How a backward call is cut into items, and the memory of one query tile, of one thread and of all. Sizes are counted by the code that places.
#pragma once

#include <heed/engine/cpu/kernels.hpp>
#include <heed/engine/cpu/pattern_cut.hpp>
#include <heed/engine/cpu/score_gradients.hpp>
#include <heed/engine/cpu/tile_loads.hpp>
#include <heed/engine/gradient_problem.hpp>
#include <heed/family/pairwise.hpp>
#include <heed/kernel/gather_tile.hpp>
#include <heed/kernel/row_reduce.hpp>

#include <cstring>

namespace heed {

template <class M, class E, class A>
struct backward_layout {
    using T = compute_t<E>; // E is the type of elements, T that of everything inside
    static constexpr tile_config C = default_tiles<T, A>();

    using V = vec<T, A>;
    using I = index_of<V>;
    using score_type = decltype(M::score);
    using normalizer_type = decltype(M::normalizer);
    using row_type = typename normalizer_type::template row<V>;
    using ring = typename score_type::contraction;
    using contract = contract_tile<ring, T, A, C>;
    using mix = mix_tile<plus_times, T, A, C>;
    using gather = gather_tile<plus_times, T, A>;
    using cut = pattern_cut<decltype(M::pattern), T, A, C>;
    using gradients = score_gradients<score_type, T, A, C>;
    using problem = pairwise_gradient_problem<M, E>;

    static constexpr int lanes = V::lanes;
    static constexpr extent_t pitch = contract::pitch; // queries of a tile
    static constexpr extent_t walk_keys = extent_t(C.keys) * 4; // keys of a walk: its K, V, dk and dv share the second cache; a quarter of them costs up to 5 %
    static constexpr bool linear = detail::is_linear<score_type>;
    static constexpr bool picks = requires(ring const r, extent_t n) { r.picks(n); };
    static constexpr bool weighs_features = gradients::features; // the contraction's operand has a gradient of its own
    static constexpr bool masks = detail::masks_of<score_type>;
    static constexpr centre centred = normalizer_type::centred;
    static constexpr int kept = detail::kept_of<normalizer_type>();

    // How a call is cut. wide: every split of every key head is an item and dq has one partial per split in the workspace; else an item is a key
    // head, which sums its splits one after the other, to the same bits. joint: an item is a split of all heads.
    struct division {
        extent_t query_tiles, walks, splits;
        bool wide, joint;
        extent_t items;
    };
    static division divide(problem const& x, int concurrency) {
        shape const q = x.q.shape(), k = x.k.shape();
        extent_t const walks = (k.seq + walk_keys - 1) / walk_keys;
        extent_t const splits = walks < 4 ? 1 : walks / 2 < 8 ? walks / 2 : 8;
        extent_t const all = k.batch * k.head;
        division by{(q.seq + pitch - 1) / pitch, walks, splits, splits > 1 && all < 2 * extent_t(concurrency) && concurrency > 1, false, all};
        if constexpr (gradients::any) {
            by.joint = sink_of(x, by).shared();
            by.wide = by.wide || by.joint;
        }
        by.items = by.joint ? splits : by.wide ? all * splits : all;
        return by;
    }

    // One query tile, packed once.
    struct query_tile {
        T *q, *dout;       // [d][pitch], leading factors (and unit) folded in; [dv][pitch]
        T *q_rows, *dout_rows; // [pitch][d], [pitch][dv] padded to whole vectors; null where the caller's rows serve
        T *base, *centre;      // [kept][pitch]: what was saved; [pitch]
        bool* finite;      // all of q and dO
        query_tile(arena& a, problem const& x) {
            extent_t const d = x.q.extent(3), dv = x.v.extent(3);
            q = a.template take<T>(d * pitch);
            dout = a.template take<T>(dv * pitch);
            q_rows = in_place(x.m.load.q, x.q) ? nullptr : a.template take<T>(pitch * padded(d));
            dout_rows = in_place(plain{}, x.dout) ? nullptr : a.template take<T>(pitch * padded(dv));
            base = a.template take<T>((kept == 0 ? 1 : kept) * pitch);
            centre = a.template take<T>(pitch);
            finite = a.template take<bool>(1);
        }
    };
    // One thread's memory.
    struct slot {
        T *s, *dp, *ones, *scratch, *k, *v, *dk, *dv, *sums;
        T *operand, *row, *dw; // [d] of the contraction; [d]; [d][lanes]
        T* table[gradients::tables == 0 ? 1 : gradients::tables];
        std::uint64_t *words, *kept;
        segment* segments;
        T *dq, *part;   // narrow only: [group][tiles][d][pitch]
        std::byte* tiles; // narrow only

        slot(arena& a, problem const& x, division const& by) {
            extent_t const d = x.q.extent(3), e = x.v.extent(3), group = group_of(x);
            s = a.template take<T>(C.keys * pitch);
            dp = a.template take<T>(C.keys * pitch);
            ones = a.template take<T>(pitch);
            scratch = a.template take<T>(pitch);
            k = a.template take<T>(walk_keys * d);
            v = a.template take<T>(walk_keys * e);
            dk = a.template take<T>(walk_keys * padded(d));
            dv = a.template take<T>(walk_keys * padded(e));
            sums = a.template take<T>(gradients::parameters * pitch);
            operand = a.template take<T>(detail::has_operand<ring> ? d : 0);
            row = a.template take<T>(detail::sum_of_products<ring> ? 0 : d);
            dw = a.template take<T>(weighs_features ? d * lanes : 0);
            for (T*& t : table) { t = gradients::tables == 0 ? nullptr : a.template take<T>(C.keys * pitch); }
            words = a.template take<std::uint64_t>(cut::packed ? C.keys : 0);
            kept = a.template take<std::uint64_t>(C.keys);
            segments = a.template take<segment>(cut::most_segments);
            extent_t const own = by.wide ? 0 : group * by.query_tiles;
            dq = a.template take<T>(own * d * pitch);
            part = a.template take<T>(by.splits > 1 ? own * d * pitch : 0);
            tiles = a.template take<std::byte>(own * static_cast<extent_t>(tile_bytes(x)));
        }
    };
    // What all threads share.
    struct shared {
        std::byte* tiles; // wide only: [B][H][query tiles]
        T* dq;            // wide only: [splits][B][H][query tiles][d][pitch]
        T* rows;          // [2][B][H][query tiles]: what rows add to the gradients of a leading scale and of the normalizer
        shared(arena& a, problem const& x, division const& by) {
            extent_t const all = x.q.extent(0) * x.q.extent(1) * by.query_tiles;
            tiles = a.template take<std::byte>(by.wide ? all * static_cast<extent_t>(tile_bytes(x)) : 0);
            dq = a.template take<T>(by.wide ? by.splits * all * x.q.extent(3) * pitch : 0);
            rows = a.template take<T>(2 * all);
        }
    };

    static std::size_t workspace_bytes(problem const& x, int concurrency) {
        division const by = divide(x, concurrency);
        arena one(nullptr), all(nullptr);
        slot(one, x, by);
        shared(all, x, by);
        if constexpr (gradients::any) { sink_of(x, by).place_partials(all); }
        return all.bytes() + one.bytes() * static_cast<std::size_t>(slots_of(by, x, concurrency));
    }
    static int slots_of(division const& by, problem const& x, int concurrency) {
        extent_t const most = by.wide ? (by.items > tiles_of(x, by) ? by.items : tiles_of(x, by)) : by.items;
        return most < 1 ? 1 : most < concurrency ? static_cast<int>(most) : concurrency;
    }

    static constexpr extent_t padded(extent_t n) { return (n + lanes - 1) / lanes * lanes; }
    static constexpr int vectors(extent_t n) { return static_cast<int>((n + lanes - 1) / lanes); }
    // Rows that kernels may read where they lie, in whole vectors.
    template <class L>
    static bool in_place(L const&, tensor_view<E const> const& v) {
        return is_plain<L> && std::is_same_v<E, T> && v.extent(3) % lanes == 0 && v.stride(3) == 1;
    }
    static extent_t group_of(problem const& x) { return x.k.extent(1) > 0 ? x.q.extent(1) / x.k.extent(1) : 0; }
    static extent_t tiles_of(problem const& x, division const& by) { return x.q.extent(0) * x.q.extent(1) * by.query_tiles; }
    static std::size_t tile_bytes(problem const& x) {
        arena count(nullptr);
        query_tile(count, x);
        return count.bytes();
    }
    static gradients sink_of(problem const& x, division const& by) { return {x.m.score, x.score_gradients, x.q.extent(0), x.q.extent(1), x.k.extent(2), by.splits}; }
    // Rows of whole vectors, zeros behind the last feature.
    static void pack_padded(tile_rows<T> from, extent_t rows, extent_t width, T* dst) {
        for (extent_t r = 0; r < rows; ++r) {
            std::memcpy(dst + r * padded(width), from.at(r), static_cast<std::size_t>(width) * sizeof(T));
            for (extent_t e = width; e < padded(width); ++e) { dst[r * padded(width) + e] = T(0); }
        }
    }
};

} // namespace heed
