// SPDX-License-Identifier: BSD-3-Clause
// Forward of attention along edges on the CPU. One item is a block of targets of one batch entry; a target's edges are taken a chunk at a time:
//
//   scores   s[x][h] = sum of terms of (q_i, k_j, e): a key row with all its heads, then the next; then the chain's stages
//   weigh    weights, their sums, peaks and states of rows
//   gather   o[h] = o[h] factor + sum over edges p[x][h] v_j, a value row with all its heads, then the next, sums in registers
//
// Lanes are (edge, head), as many edges to a register as fit beside each other: a row of twenty edges with eight heads leaves none idle. While keys are read
// the chunk's values are asked for, and the coming keys while values are read, row by row as they lie. A slot holds (d + dv) x heads + a chunk of rows of
// all heads; cost O(edges x heads x (d + dv)), whatever the degrees.
#pragma once

#include <heed/engine/cpu/edge_rows.hpp>
#include <heed/engine/cpu/head_sums.hpp>
#include <heed/engine/cpu/parallel.hpp>
#include <heed/engine/cpu/saved_rows.hpp>
#include <heed/engine/workspace.hpp>
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
    using sums_of_heads = head_sums<T, A>;
    static constexpr int lanes = V::lanes;
    static constexpr extent_t chunk = rows::chunk;
    static constexpr extent_t reach = 8; // rows: so much later a row is read that is asked for; of 32, those that come first push out what is read now
    static constexpr extent_t most_blocks = 256; // fixed by the graph, whatever the threads
    static constexpr int kept = detail::kept_of<normalizer_type>();
    static constexpr bool with_edges = detail::reads_edges<term_type>, with_last = detail::has_last<term_type>, adds = detail::adds_edges<decltype(M::value)>;

    // Heads to a register, a power of two, each beside itself for the next edge; heads beyond a register's go to further ones. What pads them repeats the last.
    struct layout {
        extent_t heads, beside = 1, log = 0;
        explicit layout(extent_t h) : heads(h) {
            while (beside < h && beside < lanes) { beside *= 2, ++log; }
        }
        extent_t groups() const { return (heads + beside - 1) >> log; }
        extent_t edges() const { return extent_t(lanes) >> log; } // of a register
        extent_t head(extent_t g, extent_t lane) const {
            extent_t const h = (g << log) + (lane & (beside - 1));
            return h < heads ? h : heads - 1;
        }
        extent_t size() const { return groups() * beside * chunk; } // of a chunk's scores
        // where the score of a chunk's edge 0 stands (the next edge's is `beside` further), and the lane of a head
        extent_t place_of(extent_t h) const { return (h >> log << log) * chunk + (h & (beside - 1)); }
        extent_t lane_of(extent_t h) const { return (h >> log) * lanes + (h & (beside - 1)); }
    };
    struct slot {
        T *s, *q, *a, *o, *copy, *edge_copy, *value_copy;
        T *factor, *line; // of every lane of every group; of a head's edges
        T lead = 1;       // the chain's leading factors: roots and divisions once a block
        bool* masked;     // where a score was -inf
        extent_t *of_lane, *key_of_lane; // the head of every lane of every group, and its key head
        typename sums_of_heads::piece* pieces;
        std::byte const** asked;
        T const **k, **e;                                                       // rows of a head
        T const **k_base, **v_base, **e_base, **added_base, **k_next, **v_next; // rows of all heads of a chunk, and of the next edges
        T const** to_read;                                                      // a chunk's key rows, its value rows, and the first key rows after it
        row_type *state, *fresh;
        slot(arena& m, extent_t heads, extent_t d, extent_t dv) {
            layout const l(heads);
            extent_t const wide = (d > dv ? d : dv) * heads;
            s = m.template take<T>(l.size());
            q = m.template take<T>(heads * d);
            a = m.template take<T>(heads * d);
            o = m.template take<T>(heads * (dv + lanes));
            copy = m.template take<T>(chunk * wide);
            edge_copy = m.template take<T>(chunk * wide);
            value_copy = m.template take<T>(chunk * wide);
            k = m.template take<T const*>(chunk);
            e = m.template take<T const*>(chunk);
            for (T const*** p : {&k_base, &v_base, &e_base, &added_base, &k_next, &v_next}) { *p = m.template take<T const*>(chunk); }
            to_read = m.template take<T const*>(2 * (chunk + reach));
            state = m.template take<row_type>(l.groups());
            fresh = m.template take<row_type>(l.groups());
            factor = m.template take<T>(l.groups() * lanes);
            line = m.template take<T>(chunk);
            masked = m.template take<bool>(l.size());
            of_lane = m.template take<extent_t>(l.groups() * lanes);
            key_of_lane = m.template take<extent_t>(l.groups() * lanes);
            pieces = m.template take<typename sums_of_heads::piece>(sums_of_heads::count(heads, dv));
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
        if (q.head == 0) { return; }
        extent_t const step = block_rows(q.seq), blocks = (q.seq + step - 1) / step;
        std::size_t const bytes = slot_bytes(q, x.v.shape());
        std::byte* const base = aligned(workspace);
        detail::for_each_item<A>(executor, slots(q, concurrency), q.batch * blocks, [&](extent_t item, int s) noexcept {
            arena memory(base + static_cast<std::size_t>(s) * bytes);
            slot mine(memory, q.head, q.feature, x.v.extent(3));
            extent_t const b = item / blocks;
            load_vectors(m, q, mine.a);
            start_rows(m, x, mine, b);
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

    // Rows of all heads of n edges: head h of row x is base[x] + h step. Where features lie apart they are copied, and the bases moved.
    struct head_rows {
        T const** base;
        extent_t step, width; // numbers of a row
        static head_rows of(tensor_view<T const> const& v, T const** base, extent_t n, T* scratch) {
            extent_t const heads = v.extent(1), d = v.extent(3);
            if (v.stride(3) == 1 || d <= 1) { return {base, heads == 1 ? 0 : v.stride(1), d}; }
            for (extent_t x = 0; x < n; ++x) {
                T* const to = scratch + x * heads * d;
                for (extent_t h = 0; h < heads; ++h) {
                    for (extent_t e = 0; e < d; ++e) { to[h * d + e] = base[x][h * v.stride(1) + e * v.stride(3)]; }
                }
                base[x] = to;
            }
            return {base, heads == 1 ? 0 : d, d};
        }
    };

private:
    static place at(M const& m, edge_problem<T> const& x, extent_t b, extent_t h) {
        return {b, h, h / group(x.q.extent(1), x.k.extent(1)), x.q.extent(2), m.edges.sources(), x.q.extent(3)};
    }
    // What no row of a block changes: heads of lanes, states of rows that have seen no edge, the pieces of sums.
    static void start_rows(M const& m, edge_problem<T> const& x, slot& mem, extent_t b) {
        layout const l(x.q.extent(1));
        for (extent_t g = 0; g < l.groups(); ++g) {
            for (extent_t i = 0; i < lanes; ++i) {
                extent_t const h = l.head(g, i);
                mem.of_lane[g * lanes + i] = h, mem.key_of_lane[g * lanes + i] = at(m, x, b, h).kv_head;
                set_lane(mem.fresh[g], i, m.normalizer.template start<T>(at(m, x, b, h)));
            }
        }
        sums_of_heads::cut(l, x.v.extent(3), mem.pieces);
        mem.lead = static_cast<T>(detail::first_factors(m.score, at(m, x, b, 0)));
    }
    // The rows of edges [begin, begin + n) for all heads, and in which order they will be read.
    static void list_rows(M const& m, edge_problem<T> const& x, slot& mem, extent_t b, extent_t begin, extent_t n) {
        extent_t const left = m.edges.edges() - begin - n, next = left < reach ? left : reach;
        auto const source = [&](extent_t y) { return m.edges.source(begin + y); };
        auto const number = [&](extent_t y) { return m.edges.number(begin + y); };
        rows::bases(x.k, b, source, n, mem.k_base);
        rows::bases(x.v, b, source, n, mem.v_base);
        if constexpr (with_edges) { rows::bases(detail::head_of(m.score).edges, b, number, n, mem.e_base); }
        if constexpr (adds) { rows::bases(m.value.edges, b, number, n, mem.added_base); }
        T const* const first = x.k.row(rows::entry(x.k.extent(0), b), 0, 0);
        extent_t const step = x.k.extent(2) == 1 ? 0 : x.k.stride(2);
        for (extent_t y = 0; y < n; ++y) { mem.to_read[y] = mem.k_base[y], mem.to_read[n + y] = mem.v_base[y]; }
        for (extent_t y = 0; y < next; ++y) { mem.to_read[2 * n + y] = first + m.edges.source(begin + n + y) * step; }
        for (extent_t y = next; y < reach; ++y) { mem.to_read[2 * n + y] = mem.v_base[n - 1]; }
    }

    static void target(M const& m, edge_problem<T> const& x, slot& mem, extent_t b, extent_t i) {
        extent_t const H = x.q.extent(1), d = x.q.extent(3), dv = x.v.extent(3), o_pitch = lanes + dv;
        layout const l(H);
        range const edges{m.edges.begin(i), m.edges.end(i)};
        bool const copies = x.q.stride(3) != 1;
        for (extent_t h = 0; copies && h < H; ++h) {
            for (extent_t e = 0; e < d; ++e) { mem.q[h * d + e] = x.q(b, h, i, e); }
        }
        T const* const first = copies ? mem.q : x.q.row(b, 0, i);
        extent_t const apart = copies ? d : x.q.stride(1);
        auto const query = [&](extent_t h) { return first + h * apart; };
        for (extent_t g = 0; g < l.groups(); ++g) { mem.state[g] = mem.fresh[g]; }
        rows::clear(mem.o, H * o_pitch);
        for (extent_t begin = edges.begin; begin < edges.end; begin += chunk) {
            extent_t const n = edges.end - begin < chunk ? edges.end - begin : chunk;
            list_rows(m, x, mem, b, begin, n);
            bool const masked = scores(m, x, mem, l, b, i, n, query);
            for (extent_t h = 0; x.weights.data_handle() != nullptr && h < H; ++h) { // scores for now
                for (extent_t y = 0; y < n; ++y) { x.weights(b, h, m.edges.number(begin + y), 0) = mem.s[l.place_of(h) + y * l.beside]; }
            }
            for (extent_t g = 0; g < l.groups(); ++g) { weigh(m, mem, l, g, n, masked); }
            gather(m, x, mem, l, n, masked);
        }
        for (extent_t g = 0; g < l.groups(); ++g) { m.normalizer.close(mem.state[g]).store(mem.factor + g * lanes); }
        for (extent_t h = 0; h < H; ++h) { close(m, x, mem, l, b, h, i, edges, mem.o + h * o_pitch); }
    }

    // The lanes that hold edges y ... of n.
    HEED_INLINE static auto there(layout const& l, extent_t y, extent_t n) { return mask_from_bits<V>((std::uint64_t(1) << ((n - y) * l.beside)) - 1); }
    // All edges' lanes of a head joined, the same in all of them.
    template <class F>
    HEED_INLINE static V join(layout const& l, V x, F const& f) {
        for (extent_t step = lanes / 2; step >= l.beside; step /= 2) { x = f(x, exchange_lanes(x, static_cast<int>(step))); }
        return x;
    }
    // Final scores of a chunk, and in `factor` their peaks. True if one is -inf, or not a number.
    template <class Query>
    static bool scores(M const& m, edge_problem<T> const& x, slot& mem, layout const& l, extent_t b, extent_t i, extent_t n, Query const& query) {
        extent_t const d = x.q.extent(3), width = with_last ? d - 1 : d;
        auto const& head = detail::head_of(m.score);
        head_rows const k = head_rows::of(x.k, mem.k_base, n, mem.copy);
        extent_t const value_step = x.v.extent(1) == 1 ? 0 : x.v.stride(1);
        head_rows e{};
        if constexpr (with_edges) { e = head_rows::of(head.edges, mem.e_base, n, mem.edge_copy); }
        V const none = -math::inf<V>();
        V least(0);
        for (extent_t g = 0; g < l.groups(); ++g) {
            T const *q[lanes], *a[lanes], *row[lanes], *edge[lanes], *asked[lanes];
            extent_t of_k[lanes], of_e[lanes], of_v[lanes];
            for (extent_t c = 0; c < lanes; ++c) {
                extent_t const h = mem.of_lane[g * lanes + c];
                q[c] = query(h), a[c] = mem.a + h * d;
                of_k[c] = mem.key_of_lane[g * lanes + c] * k.step, of_e[c] = h * e.step;
                of_v[c] = mem.key_of_lane[g * lanes + c] * value_step;
            }
            V peak = none;
            for (extent_t y = 0; y < n; y += l.edges()) {
                for (extent_t c = 0, z = y; c < lanes; ++z) {
                    extent_t const edge_z = z < n ? z : n - 1;
                    T const *const of_z = k.base[edge_z], *const edge_of_z = with_edges ? e.base[edge_z] : nullptr, *const asked_of_z = mem.to_read[edge_z + reach];
                    extent_t const* const of_asked = edge_z + reach < n ? of_k : of_v;
                    for (extent_t end = c + l.beside; c < end; ++c) {
                        row[c] = of_z + of_k[c];
                        asked[c] = asked_of_z + of_asked[c];
                        if constexpr (with_edges) { edge[c] = edge_of_z + of_e[c]; }
                    }
                }
                V score = rows::sums_of(head.term, q, row, edge, a, width, asked);
                if constexpr (with_last) {
                    T of_q[lanes], of_row[lanes];
                    for (extent_t c = 0; c < lanes; ++c) { of_q[c] = q[c][d - 1], of_row[c] = row[c][d - 1]; }
                    score = head.term.finish(score, V::load(of_q), V::load(of_row));
                }
                score = staged(m, x, l, b, i, g, score * V(mem.lead)) * V(normalizer_type::unit);
                if (n - y < l.edges()) {
                    least = min(least, select(there(l, y, n), score, V(0)));
                    score = select(there(l, y, n), score, none);
                } else {
                    least = min(least, score);
                }
                score.store(mem.s + g * l.beside * chunk + y * l.beside);
                peak = max(peak, score);
            }
            join(l, peak, [](V u, V w) HEED_INLINE_LAMBDA { return max(u, w); }).store(mem.factor + g * lanes);
        }
        return !all(least > none);
    }
    // The chain's stages behind its leading factors. One call serves all heads unless a stage may ask which it is.
    HEED_INLINE static V staged(M const& m, edge_problem<T> const& x, layout const& l, extent_t b, extent_t i, extent_t g, V raw) {
        if constexpr (detail::heads_alike<std::remove_cvref_t<decltype(m.score)>>) {
            return detail::behind_factors(m.score, raw, edge_place{at(m, x, b, 0), i, 0});
        } else {
            T all[lanes], mine[lanes];
            for (extent_t h = 0; h < l.beside; ++h) {
                detail::behind_factors(m.score, raw, edge_place{at(m, x, b, l.head(g, h)), i, 0}).store(mine);
                for (extent_t c = h; c < lanes; c += l.beside) { all[c] = mine[c]; }
            }
            return V::load(all);
        }
    }
    // Scores of a group become weights; its state takes them in.
    static void weigh(M const& m, slot& mem, layout const& l, extent_t g, extent_t n, bool any_masked) {
        T* const s = mem.s + g * l.beside * chunk;
        m.normalizer.raise(mem.state[g], V::load(mem.factor + g * lanes)).store(mem.factor + g * lanes);
        if (any_masked) [[unlikely]] {
            for (extent_t c = 0; c < n * l.beside; ++c) { mem.masked[g * l.beside * chunk + c] = s[c] == -math::inf<T>(); }
        }
        row_type const r = mem.state[g];
        V sum(0);
        for (extent_t y = 0; y < n; y += l.edges()) {
            V p = m.normalizer.weight(r, V::load(s + y * l.beside));
            if (n - y < l.edges()) { p = select(there(l, y, n), p, V(0)); }
            p.store(s + y * l.beside);
            sum = sum + p;
        }
        m.normalizer.settle(mem.state[g], join(l, sum, [](V u, V w) HEED_INLINE_LAMBDA { return u + w; }));
    }
    static void gather(M const& m, edge_problem<T> const& x, slot& mem, layout const& l, extent_t n, bool masked) {
        extent_t const group_size = group(l.heads, x.k.extent(1)), dv = x.v.extent(3);
        head_rows const v = head_rows::of(x.v, mem.v_base, n, mem.value_copy);
        auto const sums_of_rows = [&](head_rows const& r, extent_t heads_a_row, T const* const* ask, bool first) {
            if (masked) [[unlikely]] {
                chosen_sums(mem, l, r, heads_a_row, n, first);
            } else {
                sums_of_heads::run(r.base, n, mem.s, l.beside, mem.pieces, sums_of_heads::count(l.heads, dv), r.step, heads_a_row, ask, mem.o, first ? mem.factor : nullptr, dv);
            }
        };
        sums_of_rows(v, group_size, mem.to_read + n + reach, true);
        if constexpr (adds) {
            sums_of_rows(head_rows::of(m.value.edges, mem.added_base, n, mem.edge_copy), m.value.edges.extent(1) == 1 ? l.heads : 1, v.base, false);
        }
    }
    // Head by head, the rows of weights that were -inf left out: what stands in them is not read.
    HEED_COLD static void chosen_sums(slot& mem, layout const& l, head_rows const& r, extent_t heads_a_row, extent_t n, bool first) {
        T const one(1);
        for (extent_t h = 0; h < l.heads; ++h) {
            extent_t seen = 0;
            for (extent_t y = 0; y < n; ++y) {
                extent_t const at = l.place_of(h) + y * l.beside;
                if (mem.masked[at]) { continue; }
                mem.line[seen] = mem.s[at];
                mem.k[seen++] = r.base[y] + h / heads_a_row * r.step;
            }
            sums::run(mem.k, seen, {}, 0, mem.line, chunk, 1, mem.o + h * (lanes + r.width), first ? mem.factor + l.lane_of(h) : &one, r.width);
        }
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
    static void close(M const& m, edge_problem<T> const& x, slot& mem, layout const& l, extent_t b, extent_t h, extent_t i, range edges, T const* o) {
        extent_t const lane = h & (l.beside - 1);
        T const f = mem.factor[l.lane_of(h)];
        write_sums(o, f, x.out, b, h, i);
        row_type const& state = mem.state[h >> l.log];
        if constexpr (kept > 0) {
            if (x.saved.data_handle() != nullptr) { detail::save_row<V>(m.normalizer, state, static_cast<int>(lane), x.saved_unit, x.saved, b, h, i); }
        }
        if (x.weights.data_handle() == nullptr) { return; }
        row_type const r = spread(state, lane);
        for (extent_t y = edges.begin; y < edges.end; ++y) {
            T& w = x.weights(b, h, m.edges.number(y), 0);
            w = rows::first(m.normalizer.weight(r, V(w))) * f;
        }
    }
};

} // namespace heed
