// SPDX-License-Identifier: BSD-3-Clause
// Forward of attention along edges on the CPU. One item is a block of targets of one batch entry; a target's edges are taken a chunk at a time:
//
//   scores   s[h][x] = sum of terms of (q_i, k_j, e), all heads of an edge's key row while it is near; then the chain's stages: lanes along edges
//   weigh    weights and their sums: lanes along edges; peaks, states of rows and factors: lanes along heads
//   gather   o[h] = o[h] factor + sum over edges p[h][x] v_j, vectors along features
//
// Key and value rows of coming edges are asked for as the lists name them, so the memory works while the arithmetic does. A slot holds
// (d + dv) x heads + a chunk of rows; cost O(edges x heads x (d + dv)), whatever the degrees.
#pragma once

#include <heed/engine/cpu/edge_rows.hpp>
#include <heed/engine/cpu/parallel.hpp>
#include <heed/engine/cpu/saved_rows.hpp>
#include <heed/engine/workspace.hpp>
#include <heed/kernel/lane_reduce.hpp>
#include <heed/kernel/value_sums.hpp>

#include <cstring>

namespace heed {

template <EdgeAttention M, class T, class A>
struct edge_forward {
    static constexpr std::string_view name = "cpu.edge.forward";

    using V = vec<T, A>;
    using rows = edge_rows<T, A>;
    using normalizer_type = decltype(M::normalizer);
    using row_type = typename normalizer_type::template row<V>;
    using head_type = std::remove_cvref_t<decltype(detail::head_of(std::declval<decltype(M::score) const&>()))>;
    using term_type = typename head_type::term_type;
    using sums = value_sums<plus_times, T, T, A>;
    static constexpr int lanes = V::lanes;
    static constexpr extent_t chunk = rows::chunk;
    static constexpr extent_t most_blocks = 256; // fixed by the graph, whatever the threads
    static constexpr int kept = detail::kept_of<normalizer_type>();
    static constexpr bool with_edges = detail::reads_edges<term_type>, with_last = detail::has_last<term_type>, adds = detail::adds_edges<decltype(M::value)>;

    // Registers whose lanes are heads: in forward a row's state is that of all its heads.
    static constexpr extent_t groups(extent_t heads) { return (heads + lanes - 1) / lanes; }
    struct slot {
        T *s, *q, *a, *o, *copy, *edge_copy;
        T *of_heads, *factor; // of every head a register; a number of every head
        std::byte const** asked;
        T const **k, **e;                                                       // rows of a head
        T const **k_base, **v_base, **e_base, **added_base, **k_next, **v_next; // rows of all heads of a chunk, and of the next edges
        row_type* state;
        slot(arena& m, extent_t heads, extent_t d, extent_t dv) {
            extent_t const wide = d > dv ? d : dv;
            s = m.template take<T>(heads * chunk);
            q = m.template take<T>(heads * d);
            a = m.template take<T>(heads * d);
            o = m.template take<T>(heads * (dv + lanes));
            copy = m.template take<T>(chunk * wide);
            edge_copy = m.template take<T>(chunk * wide);
            k = m.template take<T const*>(chunk);
            e = m.template take<T const*>(chunk);
            for (T const*** p : {&k_base, &v_base, &e_base, &added_base, &k_next, &v_next}) { *p = m.template take<T const*>(chunk); }
            state = m.template take<row_type>(heads);
            of_heads = m.template take<T>(groups(heads) * lanes * lanes);
            factor = m.template take<T>(groups(heads) * lanes);
            asked = m.template take<std::byte const*>(chunk);
        }
    };
    static std::size_t slot_bytes(shape q, shape v) {
        arena count(nullptr);
        slot(count, q.head, q.feature, v.feature);
        return count.bytes();
    }
    static extent_t block_rows(extent_t targets) { return (targets + most_blocks - 1) / most_blocks > 0 ? (targets + most_blocks - 1) / most_blocks : 1; }
    static int slots(shape q, int concurrency) {
        extent_t const items = q.batch * ((q.seq + block_rows(q.seq) - 1) / block_rows(q.seq));
        return items < 1 ? 1 : items < concurrency ? static_cast<int>(items) : concurrency;
    }
    static std::size_t workspace_bytes(shape q, shape v, int concurrency) { return static_cast<std::size_t>(slots(q, concurrency)) * slot_bytes(q, v); }

    template <class Executor>
    static void run(M const& m, edge_problem<T> const& x, Executor& executor, int concurrency, std::byte* workspace) {
        shape const q = x.q.shape();
        extent_t const step = block_rows(q.seq), blocks = (q.seq + step - 1) / step;
        std::size_t const bytes = slot_bytes(q, x.v.shape());
        std::byte* const base = aligned(workspace);
        detail::for_each_item<A>(executor, slots(q, concurrency), q.batch * blocks, [&](extent_t item, int s) noexcept {
            arena memory(base + static_cast<std::size_t>(s) * bytes);
            slot mine(memory, q.head, q.feature, x.v.extent(3));
            extent_t const b = item / blocks;
            load_vectors(m, q, mine.a);
            range const part = intersect({0, q.seq}, {item % blocks * step, (item % blocks + 1) * step});
            for (extent_t i = part.begin; i < part.end; ++i) { target(m, x, mine, b, i); }
        });
    }

    // Attention vectors of all heads, contiguous.
    static void load_vectors(M const& m, shape q, T* to) {
        if constexpr (detail::reads_vector<term_type>) {
            auto const& a = detail::head_of(m.score).vector;
            for (extent_t h = 0; h < q.head; ++h) {
                for (extent_t e = 0; e < q.feature; ++e) { to[h * q.feature + e] = a(0, rows::entry(a.extent(1), h), 0, e); }
            }
        }
    }
    // Edges of the chunk that follows `begin`: what is left of row i, else of the next row.
    template <class Begin>
    static extent_t next_chunk(extent_t begin, extent_t i, extent_t count, Begin const& row_begin) {
        extent_t left = row_begin(i + 1) - begin;
        if (left == 0 && i + 1 < count) { left = row_begin(i + 2) - begin; }
        return left < chunk ? left : chunk;
    }
    // The rows of edges [begin, begin + n) and of the `next` edges after them, for all heads. k and v: what the edges' sources are looked up in.
    static extent_t chunk_bases(M const& m, tensor_view<T const> const& k, tensor_view<T const> const& v, slot& mem, extent_t b, extent_t i, extent_t begin, extent_t n) {
        extent_t const next = next_chunk(begin + n, i, m.edges.targets(), [&](extent_t r) { return m.edges.begin(r); });
        auto const source = [&](extent_t x) { return m.edges.source(begin + x); };
        auto const source_ahead = [&](extent_t x) { return m.edges.source(begin + n + x); };
        auto const number = [&](extent_t x) { return m.edges.number(begin + x); };
        rows::bases(k, b, source, n, mem.k_base);
        rows::bases(v, b, source, n, mem.v_base);
        rows::bases(k, b, source_ahead, next, mem.k_next);
        rows::bases(v, b, source_ahead, next, mem.v_next);
        if constexpr (with_edges) { rows::bases(detail::head_of(m.score).edges, b, number, n, mem.e_base); }
        if constexpr (adds) { rows::bases(m.value.edges, b, number, n, mem.added_base); }
        return next;
    }
    // Query heads of a key head.
    HEED_INLINE static extent_t group(extent_t heads, extent_t key_heads) { return key_heads == 0 ? 1 : heads / key_heads; }
    // Raw scores of a chunk's n edges for head h, key head kv: s[0 ... n), whole vectors. Leaves the rows of keys and edges behind.
    static void raw_scores(M const& m, tensor_view<T const> const& k, slot& mem, extent_t h, extent_t kv, T const* q, extent_t n, T* s, typename rows::coming ahead = {}) {
        extent_t const d = k.extent(3), width = with_last ? d - 1 : d;
        auto const& head = detail::head_of(m.score);
        rows::point(k, kv, mem.k_base, n, mem.copy, mem.k);
        if constexpr (with_edges) { rows::point(head.edges, h, mem.e_base, n, mem.edge_copy, mem.e); }
        rows::scores(head.term, q, mem.k, mem.e, mem.a + h * d, width, n, s, ahead);
    }
    // The term's end and the stages on a vector of raw scores, in the normalizer's unit.
    static V finished(M const& m, place const& at, extent_t i, V raw, T q_last, V k_last) {
        if constexpr (with_last) { raw = detail::head_of(m.score).term.finish(raw, V(q_last), k_last); }
        return m.score(raw, edge_place{at, i, 0}) * V(normalizer_type::unit);
    }
    static V last_features(slot const& mem, extent_t d, extent_t x) {
        if constexpr (!with_last) { return V(0); }
        T lane[lanes];
        for (int l = 0; l < lanes; ++l) { lane[l] = mem.k[x + l][d - 1]; }
        return V::load(lane);
    }

    // Gathered values, whose last features stand right-aligned, times f.
    static void write_sums(T const* o, T f, tensor_view<T> const& to, extent_t b, extent_t h, extent_t i) {
        extent_t const dv = to.extent(3), whole = dv / lanes * lanes, shifted = (dv + lanes - 1) / lanes * lanes - dv;
        T* const row = to.row(b, h, i);
        extent_t e = 0;
        for (; to.stride(3) == 1 && e < whole; e += lanes) { (V::load(o + e) * V(f)).store(row + e); }
        for (; e < dv; ++e) { row[e * to.stride(3)] = o[e < whole ? e : e + shifted] * f; }
    }

private:
    static void target(M const& m, edge_problem<T> const& x, slot& mem, extent_t b, extent_t i) {
        extent_t const H = x.q.extent(1), d = x.q.extent(3), dv = x.v.extent(3), o_pitch = sums::V::lanes + dv, group_size = group(H, x.k.extent(1));
        range const edges{m.edges.begin(i), m.edges.end(i)};
        bool const copies = x.q.stride(3) != 1;
        for (extent_t h = 0; h < H; ++h) {
            for (extent_t e = 0; copies && e < d; ++e) { mem.q[h * d + e] = x.q(b, h, i, e); }
            set_lane(mem.state[h / lanes], h % lanes, m.normalizer.template start<T>(at(m, x, b, h)));
        }
        auto const query = [&](extent_t h) { return copies ? mem.q + h * d : x.q.row(b, h, i); };
        rows::clear(mem.o, H * o_pitch);
        for (extent_t begin = edges.begin; begin < edges.end; begin += chunk) {
            extent_t const n = edges.end - begin < chunk ? edges.end - begin : chunk;
            extent_t const next = chunk_bases(m, x.k, x.v, mem, b, i, begin, n);
            bool masked = false;
            for (extent_t h = 0; h < H; ++h) {
                extent_t const kv = h / group_size;
                typename rows::coming ahead;
                if (h % group_size == 0) { ahead = rows::rows_to_come(x.k, kv, mem.k_next, next, n); }
                raw_scores(m, x.k, mem, h, kv, query(h), n, mem.s + h * chunk, ahead);
                masked |= bend(m, x, mem, b, h, i, begin, n, query(h));
            }
            for (extent_t g = 0; g < groups(H); ++g) {
                V const peak = of_all_heads(mem.of_heads + g * lanes * lanes, H - g * lanes, -math::inf<V>(), [](V u, V w) HEED_INLINE_LAMBDA { return max(u, w); });
                m.normalizer.raise(mem.state[g], peak).store(mem.factor + g * lanes);
            }
            for (extent_t h = 0; h < H; ++h) {
                weigh_and_gather(m, x, mem, h, h / group_size, n, masked, h % group_size == 0 ? next : 0, mem.o + h * o_pitch);
            }
            for (extent_t g = 0; g < groups(H); ++g) {
                m.normalizer.settle(mem.state[g], of_all_heads(mem.of_heads + g * lanes * lanes, H - g * lanes, V(0), [](V u, V w) HEED_INLINE_LAMBDA { return u + w; }));
            }
        }
        for (extent_t g = 0; g < groups(H); ++g) { m.normalizer.close(mem.state[g]).store(mem.factor + g * lanes); }
        for (extent_t h = 0; h < H; ++h) { close(m, x, mem, b, h, i, edges, mem.o + h * o_pitch); }
    }
    static place at(M const& m, edge_problem<T> const& x, extent_t b, extent_t h) {
        return {b, h, h / group(x.q.extent(1), x.k.extent(1)), x.q.extent(2), m.edges.sources(), x.q.extent(3)};
    }
    // Lanes of each head's register joined, side by side.
    template <class F>
    HEED_INLINE static V of_all_heads(T const* from, extent_t heads, V none, F const& f) {
        V of[lanes];
        static_for<lanes>([&](auto l) HEED_INLINE_LAMBDA { of[l] = l < heads ? V::load(from + l * lanes) : none; });
        return reduce_lanes(of, f);
    }
    using lane_row = typename normalizer_type::template row<T>;
    static constexpr int members = static_cast<int>(sizeof(lane_row) / sizeof(T));
    static void set_lane(row_type& to, extent_t lane, lane_row const& one) {
        T value[members];
        std::memcpy(value, &one, sizeof value);
        for (int c = 0; c < members; ++c) { reinterpret_cast<T*>(&to)[c * lanes + lane] = value[c]; }
    }
    // The state of one head in every lane.
    HEED_INLINE static row_type spread(row_type const& from, extent_t lane) {
        V of[members];
        for (int c = 0; c < members; ++c) { of[c] = V(reinterpret_cast<T const*>(&from)[c * lanes + lane]); }
        row_type r;
        std::memcpy(static_cast<void*>(&r), of, sizeof r);
        return r;
    }

    // Final scores of a head and, in its register, their peak. True if one is -inf, or not a number.
    static bool bend(M const& m, edge_problem<T> const& x, slot& mem, extent_t b, extent_t h, extent_t i, extent_t begin, extent_t n, T const* q) {
        extent_t const d = x.q.extent(3);
        place const here = at(m, x, b, h);
        T* const s = mem.s + h * chunk;
        V const none = -math::inf<V>();
        V peak = none, least(0);
        for (extent_t y = 0; y < n; y += lanes) {
            V score = finished(m, here, i, V::load(s + y), with_last ? q[d - 1] : T(0), last_features(mem, d, y));
            if (n - y < lanes) {
                auto const there = mask_from_bits<V>((std::uint64_t(1) << (n - y)) - 1);
                least = min(least, select(there, score, V(0)));
                score = select(there, score, none);
            } else {
                least = min(least, score);
            }
            score.store(s + y);
            peak = max(peak, score);
        }
        peak.store(mem.of_heads + h * lanes);
        for (extent_t y = 0; x.weights.data_handle() != nullptr && y < n; ++y) { x.weights(b, h, m.edges.number(begin + y), 0) = s[y]; } // scores for now
        return !all(least > none);
    }
    static void weigh_and_gather(M const& m, edge_problem<T> const& x, slot& mem, extent_t h, extent_t kv, extent_t n, bool any_masked, extent_t next, T* o) {
        extent_t const dv = x.v.extent(3);
        T* const s = mem.s + h * chunk;
        row_type const r = spread(mem.state[h / lanes], h % lanes);
        std::uint64_t masked = 0; // edges scored -inf: their values are not read
        if (any_masked) [[unlikely]] {
            for (extent_t y = 0; y < n; ++y) { masked |= std::uint64_t(s[y] == -math::inf<T>()) << y; }
        }
        V sum(0);
        for (extent_t y = 0; y < n; y += lanes) {
            V p = m.normalizer.weight(r, V::load(s + y));
            if (n - y < lanes) { p = select(mask_from_bits<V>((std::uint64_t(1) << (n - y)) - 1), p, V(0)); }
            p.store(s + y);
            sum = sum + p;
        }
        sum.store(mem.of_heads + h * lanes);
        rows::point(x.v, kv, mem.v_base, n, mem.copy, mem.k);
        if constexpr (adds) { rows::point(m.value.edges, h, mem.added_base, n, mem.edge_copy, mem.e); }
        extent_t const seen = masked == 0 ? n : without(masked, n, s, mem.k, mem.e);
        rows_ahead const ahead = rows::lines_to_come(x.v, kv, mem.v_next, next, seen, mem.asked);
        sums::run(mem.k, seen, ahead, next, s, chunk, 1, o, mem.factor + h, dv);
        if constexpr (adds) {
            T const one(1);
            sums::run(mem.e, seen, {}, 0, s, chunk, 1, o, &one, dv);
        }
    }
    // Weights and rows of the other edges, moved together.
    HEED_COLD static extent_t without(std::uint64_t masked, extent_t n, T* s, T const** v, T const** added) {
        extent_t seen = 0;
        for (extent_t y = 0; y < n; ++y) {
            if (masked >> y & 1) { continue; }
            s[seen] = s[y], v[seen] = v[y];
            if constexpr (adds) { added[seen] = added[y]; }
            ++seen;
        }
        return seen;
    }
    static void close(M const& m, edge_problem<T> const& x, slot& mem, extent_t b, extent_t h, extent_t i, range edges, T const* o) {
        T const f = mem.factor[h];
        write_sums(o, f, x.out, b, h, i);
        row_type const& state = mem.state[h / lanes];
        if constexpr (kept > 0) {
            if (x.saved.data_handle() != nullptr) { detail::save_row<V>(m.normalizer, state, static_cast<int>(h % lanes), x.saved_unit, x.saved, b, h, i); }
        }
        if (x.weights.data_handle() == nullptr) { return; }
        row_type const r = spread(state, h % lanes);
        for (extent_t y = edges.begin; y < edges.end; ++y) {
            T& w = x.weights(b, h, m.edges.number(y), 0);
            w = rows::first(m.normalizer.weight(r, V(w))) * f;
        }
    }
};

} // namespace heed
