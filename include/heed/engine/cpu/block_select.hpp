// SPDX-License-Identifier: BSD-3-Clause
// Selection of blocks on the CPU. block_means: one row for every block of keys. block_select: for a tile of queries
//
//   contract  s[b][i] = summary_b . q_i         the tile kernel of attention, with blocks in place of keys
//   weigh     where heads of a group choose together: sum over them of e^(s - lse_i), blocks wholly in the past
//   choose    the best `top` of every query, one walk over the blocks each; lanes are queries; of equals the lowest block
//
// Scores that are NaN are never chosen. Cost: N blocks d multiply-adds and about 6 N blocks top / lanes steps. Memory of a slot: (d + blocks) x queries of a tile.
#pragma once

#include <heed/engine/cpu/kernels.hpp>
#include <heed/engine/cpu/parallel.hpp>
#include <heed/engine/cpu/tile_loads.hpp>
#include <heed/engine/workspace.hpp>
#include <heed/kernel/contract_tile.hpp>
#include <heed/policy/ring/plus_times.hpp>

#include <cstdint>

namespace heed {

template <class E, class A>
struct block_means {
    using T = compute_t<E>;
    using V = vec<T, A>;
    static constexpr extent_t strip = 32; // rows converted at once

    static std::size_t slot_bytes(extent_t d) {
        arena count(nullptr);
        count.template take<T>(strip * d);
        return count.bytes();
    }
    // means {B, G, blocks, d}, features side by side; blocks of a sequence count from its start, the last one may be short, those behind it are 0.
    template <class Executor>
    static void run(tensor_view<E const> const& k, extent_t block, tensor_view<T> const& means, Executor& executor, int slots, std::byte* workspace) {
        extent_t const heads = k.extent(1), blocks = means.extent(2), d = k.extent(3);
        std::byte* const base = aligned(workspace);
        detail::for_each_item<A>(executor, slots, k.extent(0) * heads * blocks, [&](extent_t item, int s) noexcept {
            arena own(base + static_cast<std::size_t>(s) * slot_bytes(d));
            T* const buffer = own.template take<T>(strip * d);
            extent_t const b = item / blocks / heads, h = item / blocks % heads, c = item % blocks;
            place const at{b, h, h, 0, k.length(b), d};
            range const rows = intersect({0, at.keys}, {c * block, (c + 1) * block});
            T* const to = means.row(b, h, c);
            for (extent_t e = 0; e < d; ++e) { to[e] = T(0); }
            if (rows.size() == 0) { return; }
            for (extent_t j = rows.begin; j < rows.end; j += strip) {
                range const part{j, j + strip < rows.end ? j + strip : rows.end};
                add(load_rows<A>(plain{}, operand::of_key(at), part, k, buffer), part.size(), d, to);
            }
            scale_in_place<A>(to, d, T(1) / static_cast<T>(rows.size()));
        });
    }

private:
    static void add(tile_rows<T> rows, extent_t n, extent_t d, T* to) {
        extent_t const whole = d / V::lanes * V::lanes;
        for (extent_t e = 0; e < whole; e += V::lanes) {
            V sum = V::load(to + e);
            for (extent_t r = 0; r < n; ++r) { sum = sum + V::load(rows.at(r) + e); }
            sum.store(to + e);
        }
        for (extent_t e = whole; e < d; ++e) {
            for (extent_t r = 0; r < n; ++r) { to[e] += rows.at(r)[e]; }
        }
    }
};

// What a selection is given and where its choices go: bits, or lists with scores, or both.
template <class E>
struct block_select_problem {
    using T = compute_t<E>;
    tensor_view<E const> q;               // {B, H, N, d}
    tensor_view<T const> summary;         // {B, G, blocks, d}, features side by side
    tensor_view<E const> k;               // for the lengths of its sequences
    extent_t block, top;                  // keys of a block, blocks of a choice
    T scale = 1;                          // of q . summary
    tensor_view<T const> lse = {};        // {B, H, N, 1}, natural, of the softmax over past blocks: where the rule is shared
    tensor_view<std::uint64_t> bits = {}; // {B, S, N, words}; S = G where the rule is shared, else H
    tensor_view<std::int32_t> lists = {}; // {B, S, N, top}: the choices from the best down, -1 where there was none
    tensor_view<T> scores = {};           // {B, S, N, top}: their scores as compared, -inf where there was none
};

template <class Rule, class E, class A>
struct block_select {
    using T = compute_t<E>;
    using V = vec<T, A>;
    static constexpr tile_config C = default_tiles<T, A>();
    using contract = contract_tile<plus_times, T, A, C>;
    using problem = block_select_problem<E>;
    static constexpr int lanes = V::lanes;
    static constexpr extent_t pitch = contract::pitch;

    struct slot {
        T *q, *s, *sum, *peak, *buffer, *own, *past, *lse, *best, *at;
        slot(arena& a, extent_t d, extent_t blocks, extent_t top) {
            q = a.template take<T>(d * pitch);
            s = a.template take<T>(blocks * pitch);
            sum = a.template take<T>(Rule::shared ? blocks * pitch : 0);
            peak = a.template take<T>(pitch);
            buffer = a.template take<T>(pitch * d);
            own = a.template take<T>(pitch);
            past = a.template take<T>(pitch);
            lse = a.template take<T>(pitch);
            best = a.template take<T>(top * pitch);
            at = a.template take<T>(top * pitch);
        }
    };
    static std::size_t slot_bytes(problem const& x) {
        arena count(nullptr);
        slot(count, x.q.extent(3), x.summary.extent(2), x.top);
        return count.bytes();
    }
    static extent_t items(problem const& x) { return x.q.extent(0) * choosers(x) * tiles(x); }

    template <class Executor>
    static void run(Rule const& rule, problem const& x, Executor& executor, int slots, std::byte* workspace) {
        std::byte* const base = aligned(workspace);
        std::size_t const bytes = slot_bytes(x);
        extent_t const n = tiles(x), heads = choosers(x);
        detail::for_each_item<A>(executor, slots, items(x), [&](extent_t item, int s) noexcept {
            arena memory(base + static_cast<std::size_t>(s) * bytes);
            slot const mine(memory, x.q.extent(3), x.summary.extent(2), x.top);
            tile(rule, x, item / n / heads, item / n % heads, item % n, mine);
        });
    }

private:
    static extent_t choosers(problem const& x) { return Rule::shared ? x.summary.extent(1) : x.q.extent(1); }
    static extent_t tiles(problem const& x) { return (x.q.extent(2) + pitch - 1) / pitch; }

    static void tile(Rule const& rule, problem const& x, extent_t b, extent_t chooser, extent_t t, slot const& mem) {
        extent_t const heads = x.q.extent(1), kv_heads = x.summary.extent(1), group = kv_heads > 0 ? heads / kv_heads : 1, d = x.q.extent(3);
        extent_t const queries = x.q.length(b), keys = x.k.length(b), shift = keys - queries;
        range const rows = intersect({0, queries}, {t * pitch, (t + 1) * pitch});
        if (rows.size() == 0) { return; }
        int const vecs = static_cast<int>((rows.size() + lanes - 1) / lanes);
        extent_t blocks = (keys + x.block - 1) / x.block;
        for (extent_t i = 0; i < pitch; ++i) { // a position before the first key has no block
            extent_t const position = rows.begin + (i < rows.size() ? i : 0) + shift;
            mem.own[i] = static_cast<T>(position < 0 ? -1 : position / x.block);
            mem.past[i] = static_cast<T>(position < 0 ? 0 : (position + 1) / x.block);
        }
        extent_t const last = rows.end - 1 + shift;
        if (Rule::causal) { blocks = last < 0 ? 0 : last / x.block + 1 < blocks ? last / x.block + 1 : blocks; }
        T* scores = mem.s;
        if constexpr (Rule::shared) {
            scores = mem.sum;
            for (extent_t e = 0; e < blocks * pitch; e += lanes) { V(0).store(mem.sum + e); }
            for (extent_t g = 0; g < group; ++g) {
                multiply(x, {b, chooser * group + g, chooser, queries, keys, d}, rows, vecs, blocks, mem);
                add_probabilities(x, b, chooser * group + g, rows, vecs, blocks, mem);
            }
            scale_in_place<A>(mem.sum, blocks * pitch, T(1) / static_cast<T>(group));
        } else {
            multiply(x, {b, chooser, chooser / group, queries, keys, d}, rows, vecs, blocks, mem);
        }
        for (int w = 0; w < vecs; ++w) { choose(rule, scores + w * lanes, blocks, x.top, w * lanes, mem); }
        for (extent_t i = 0; i < rows.size(); ++i) { write(x, b, chooser, rows.begin + i, i, mem); }
    }
    static void multiply(problem const& x, place const& at, range rows, int vecs, extent_t blocks, slot const& mem) {
        load_transposed<A>(plain{}, operand::of_query(at), rows, x.q, mem.q, pitch, extent_t(vecs) * lanes, mem.buffer);
        if (x.scale != T(1)) { scale_in_place<A>(mem.q, at.width * pitch, x.scale); }
        typename contract::rows const k{x.summary.row(at.batch, at.kv_head, 0), x.summary.stride(2)};
        contract::run(k, blocks, k, mem.q, at.width, mem.s, mem.peak, 0, vecs);
    }
    static void add_probabilities(problem const& x, extent_t b, extent_t head, range rows, int vecs, extent_t blocks, slot const& mem) {
        for (extent_t i = 0; i < pitch; ++i) { mem.lse[i] = x.lse(b, head, rows.begin + (i < rows.size() ? i : 0), 0); }
        using math::fast_exp2;
        V const unit(math::log2e);
        for (int w = 0; w < vecs; ++w) {
            V const base = V::load(mem.lse + w * lanes) * unit, past = V::load(mem.past + w * lanes);
            for (extent_t c = 0; c < blocks; ++c) {
                T* const to = mem.sum + c * pitch + w * lanes;
                V const p = fast_exp2(V::load(mem.s + c * pitch + w * lanes) * unit - base);
                (V::load(to) + select(V(c) < past, p, V(0))).store(to);
            }
        }
    }
    // One walk for each choice; what the walk before chose leaves the field.
    static void choose(Rule const& rule, T* s, extent_t blocks, extent_t top, extent_t lane, slot const& mem) {
        V const own = V::load(mem.own + lane), none = -math::inf<V>();
        for (extent_t c = 0; c < blocks; ++c) { rule.scored(V::load(s + c * pitch), V(c), own).store(s + c * pitch); }
        V taken(-1);
        for (extent_t n = 0; n < top; ++n) {
            V best = none, at(-1);
            for (extent_t c = 0; c < blocks; ++c) {
                V const number(c), x = select(number == taken, none, V::load(s + c * pitch));
                x.store(s + c * pitch);
                auto const wins = x > best;
                best = select(wins, x, best);
                at = select(wins, number, at);
            }
            best.store(mem.best + n * pitch + lane);
            at.store(mem.at + n * pitch + lane);
            taken = at;
        }
    }
    static void write(problem const& x, extent_t b, extent_t chooser, extent_t row, extent_t i, slot const& mem) {
        if (x.bits.data_handle() != nullptr) {
            std::uint64_t* const to = x.bits.row(b, chooser, row);
            extent_t const step = x.bits.stride(3);
            for (extent_t w = 0; w < x.bits.extent(3); ++w) { to[w * step] = 0; }
            for (extent_t n = 0; n < x.top; ++n) {
                extent_t const c = static_cast<extent_t>(mem.at[n * pitch + i]);
                if (c >= 0) { to[(c >> 6) * step] |= std::uint64_t(1) << (c & 63); }
            }
        }
        for (extent_t n = 0; n < x.top; ++n) {
            if (x.lists.data_handle() != nullptr) { x.lists(b, chooser, row, n) = static_cast<std::int32_t>(mem.at[n * pitch + i]); }
            if (x.scores.data_handle() != nullptr) { x.scores(b, chooser, row, n) = mem.best[n * pitch + i]; }
        }
    }
};

} // namespace heed
