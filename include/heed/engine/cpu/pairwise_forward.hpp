// SPDX-License-Identifier: BSD-3-Clause
// Pairwise forward on the CPU. One item is a tile of queries of one head; it walks the key tiles that its pattern does not skip:
//
//   contract  s[j][i] = k_j . q_i          scores transposed: vectors along queries, so peak and sum are vertical, K and V are read in place
//   bend      score chain, mask, peak      only where the chain is not linear or the pattern cuts the tile
//   raise     factor of what is summed so far
//   weigh     s <- weight(s), row sums
//   mix       o[e][i] = o[e][i] factor[i] + v_j[e] s[j][i]
//
// A tile that the pattern's edge crosses is cut into segments of a few keys that name the vectors of queries they need. What a pattern leaves
// out has weight 0 and changes no bit of the rest. Memory of a slot: (d + dv + keys of a tile) x queries of a tile, whatever M is. A normalizer that
// must see its whole row first (RowWiseNormalizer) walks twice: contract and bend into M x queries of a tile, solve, then weigh and mix.
#pragma once

#include <heed/engine/cpu/bf16_rows.hpp>
#include <heed/engine/cpu/kernels.hpp>
#include <heed/engine/cpu/parallel.hpp>
#include <heed/engine/cpu/pattern_cut.hpp>
#include <heed/engine/cpu/query_places.hpp>
#include <heed/engine/cpu/row_scores.hpp>
#include <heed/engine/cpu/saved_rows.hpp>
#include <heed/engine/cpu/score_tables.hpp>
#include <heed/engine/cpu/skipped_nan.hpp>
#include <heed/engine/problem.hpp>
#include <heed/engine/workspace.hpp>
#include <heed/family/pairwise.hpp>

#include <array>
#include <cstring>
#include <utility>

namespace heed {

template <class M, class E, class A>
struct pairwise_forward {
    using T = compute_t<E>; // E is the type of elements, T that of everything inside
    static constexpr tile_config C = default_tiles<T, A>();
    // Products of bf16 in pairs, where the machine has them: q is not rounded again, weights are.
    static constexpr bool pairs = std::is_same_v<E, bf16> && has_bf16_dot<A> && std::is_same_v<decltype(M::load), load<>> &&
                                  detail::sum_of_products<typename decltype(M::score)::contraction> && detail::sum_of_products<decltype(M::mix)>;
    static constexpr std::string_view name = pairs ? "cpu.pairwise.forward.bf16" : "cpu.pairwise.forward";

    using V = vec<T, A>;
    using I = index_of<V>;
    using score_type = decltype(M::score);
    using ring = typename score_type::contraction;
    using normalizer_type = decltype(M::normalizer);
    using row_type = typename normalizer_type::template row<V>;
    using contract = contract_tile<ring, T, A, C>;
    using mix_ring = decltype(M::mix);
    using mix = mix_tile<mix_ring, T, A, C>;

    static constexpr int lanes = V::lanes;
    static constexpr extent_t pitch = contract::pitch; // queries of a tile
    static_assert(pitch <= C.keys, "heed: the memory of a key tile serves a tile of queries too");
    static constexpr int tables = detail::tables_of<score_type>;
    static constexpr bool linear = detail::is_linear<score_type> || (detail::is_raw<score_type> && normalizer_type::unit == 1.0); // nothing to bend
    static constexpr bool row_wise = RowWiseNormalizer<normalizer_type, V>, counts = CountingNormalizer<normalizer_type, V>;
    static constexpr int kept = detail::kept_of<normalizer_type>();
    static constexpr bool tallies = requires(normalizer_type const n, V x) { n.tally(x, x); };
    static constexpr bool places_rows = true; // queries may stand elsewhere than one behind the other
    static constexpr bool weighs = !linear || !requires { requires !normalizer_type::weighs; }; // else weights are the scores, unless some are NaN
    using cut = pattern_cut<decltype(M::pattern), T, A, C>;
    // Query tiles that share a walk. Rows made of factors cost a seventh of a walk of C.tiles tiles, so that more share it.
    static constexpr int walk_tiles = detail::makes_rows<decltype(decltype(M::load)::k)> || detail::makes_rows<decltype(decltype(M::load)::v)> ? 2 * C.tiles : C.tiles;

    // One thread's memory.
    struct slot {
        T *s, *peak, *factor, *k, *v, *aside;
        T* operand; // [d], of the contraction
        T* scores; // [keys][pitch] where row_wise: s points into it, else null
        T* table[tables == 0 ? 1 : tables];
        std::uint64_t *words, *kept;
        segment *cut, *plain;
        struct {
            T *q, *o; // [d][pitch], [dv][pitch]
            row_type* state;
        } tile[walk_tiles];

        slot(arena& a, extent_t d, extent_t dv, extent_t keys, int group) {
            s = scores = a.template take<T>((row_wise ? keys : extent_t(C.keys)) * pitch);
            for (T*& t : table) { t = tables == 0 ? nullptr : a.template take<T>(C.keys * pitch); }
            peak = a.template take<T>(pitch);
            factor = a.template take<T>(pitch);
            k = a.template take<T>(C.keys * d);
            v = a.template take<T>(C.keys * dv);
            aside = a.template take<T>(pairs ? C.keys * pitch : 0);
            operand = a.template take<T>(detail::has_operand<ring> ? d : 0);
            words = a.template take<std::uint64_t>(cut::packed ? C.keys : 0);
            kept = a.template take<std::uint64_t>(C.keys);
            cut = a.template take<segment>(cut::most_segments);
            plain = a.template take<segment>(cut::most_segments);
            for (int g = 0; g < group; ++g) {
                tile[g].q = a.template take<T>(d * pitch);
                tile[g].o = a.template take<T>(dv * pitch);
                tile[g].state = a.template take<row_type>(C.vecs);
            }
        }
    };

    // How a call is cut into items: `group` neighbouring query tiles each. Grouping changes who computes a tile, not its bits.
    struct division {
        extent_t tiles, groups;
        int group;
        extent_t items;
    };
    static division divide(M const&, shape q, int concurrency) {
        extent_t const tiles = (q.seq + pitch - 1) / pitch, all = tiles * q.batch * q.head;
        extent_t const fair = all / (3 * extent_t(concurrency)); // at least three items a thread before tiles are grouped
        int const group = static_cast<int>(fair < 1 || row_wise ? 1 : fair < walk_tiles ? fair : tiles < walk_tiles ? (tiles < 1 ? 1 : tiles) : walk_tiles);
        extent_t const groups = (tiles + group - 1) / group;
        return {tiles, groups, group, groups * q.batch * q.head};
    }
    static std::size_t slot_bytes(M const&, shape q, shape v, division const& by) {
        arena count(nullptr);
        slot(count, q.feature, v.feature, v.seq, by.group);
        return count.bytes();
    }

    template <class Executor>
    static void run(M const& m, pairwise_problem<E> const& x, Executor& executor, division const& by, int slots, std::byte* workspace) {
        shape const q = x.q.shape();
        std::size_t const bytes = slot_bytes(m, q, x.v.shape(), by);
        std::byte* const base = aligned(workspace);
        detail::for_each_item<A>(executor, slots, by.items, [&](extent_t item, int s) noexcept {
            arena memory(base + static_cast<std::size_t>(s) * bytes);
            slot mine(memory, q.feature, x.v.extent(3), x.v.extent(2), by.group);
            extent_t const g = by.groups - 1 - item % by.groups; // the heavy rows of a triangle first
            place const at = x.at(item / by.groups / q.head, item / by.groups % q.head);
            range const rows = intersect({0, at.queries}, {g * by.group * pitch, (g + 1) * by.group * pitch});
            if constexpr (detail::has_operand<ring>) {
                for (extent_t c = 0; c < at.width; ++c) { mine.operand[c] = static_cast<T>(detail::head_of(m.score).operand(at, c)); }
            }
            if (rows.size() > 0) { group_of_queries({m, x, at, mine}, rows); }
        });
    }

protected:
    // What does not change during an item.
    struct context {
        M const& m;
        pairwise_problem<E> const& x;
        place const& at;
        slot& mem;

        extent_t width() const { return at.width; }          // d
        extent_t out_width() const { return x.v.extent(3); } // dv
    };
    // One query tile of the group.
    struct cursor : context {
        range rows;
        int vecs; // vectors of queries in use
        T *q, *o;
        row_type* state;
        bool odd = false; // where the contraction skips NaN: some query holds one
        typename I::value_type const* list = nullptr; // the queries, where they do not follow each other; rows is then from the first to the last
    };
    // One key tile, shared by the group.
    struct key_tile {
        range cols;
        tile_rows<std::conditional_t<pairs, E, T>> k;
        tile_rows<T> v; // where pairs: rows of pairs of keys
        range walk{}; // queries that share it
        bool odd_k = false, odd_v = false; // where the rings skip NaN: some row holds one
        std::uint64_t odd[pairs ? (C.keys + 63) / 64 : 1] = {}; // where pairs: keys whose values are not finite
    };

    static void group_of_queries(context const& c, range rows) {
        auto all = [&]<std::size_t... G>(std::index_sequence<G...>) {
            return std::array<cursor, sizeof...(G)>{cursor{c, {}, static_cast<int>(0 * G), nullptr, nullptr, nullptr}...};
        }(std::make_index_sequence<walk_tiles>{});
        cursor* const tiles = all.data();
        int const count = static_cast<int>((rows.size() + pitch - 1) / pitch);
        for (int g = 0; g < count; ++g) {
            cursor& h = tiles[g];
            h.rows = intersect(rows, {rows.begin + g * pitch, rows.begin + (g + 1) * pitch});
            h.vecs = static_cast<int>((h.rows.size() + lanes - 1) / lanes);
            h.q = c.mem.tile[g].q;
            h.o = c.mem.tile[g].o;
            h.state = c.mem.tile[g].state;
            begin(h);
        }
        // Where these rows go, and the queries of the item that most likely comes next: a window's walk is short, and 4 % of it was spent waiting for them.
        expect_queries<true>(c.m.load.q, c.x.out, c.at.batch, c.at.head, rows);
        expect_queries<false>(c.m.load.q, c.x.q, c.at.batch, c.at.head, intersect({0, rows.begin}, {rows.begin - count * pitch, rows.begin}));
        range const hull = detail::hull_of(c.m.pattern, c.at, rows);
        if constexpr (row_wise) {
            whole_rows(tiles[0], hull);
            return finish(tiles[0]);
        }
        for (extent_t t = hull.begin / C.keys * C.keys; t < hull.end; t += C.keys) {
            key_tile keys{intersect(hull, {t, t + C.keys}), {}, {}, rows, false, false};
            bool fresh = true; // in no near cache yet
            for (int g = 0; g < count; ++g) {
                int const segments = cut{c.m.pattern, c.at, tiles[g].rows, tiles[g].vecs, c.mem.words}(keys.cols, c.mem.cut);
                if (segments == 0) { continue; }
                if (fresh) { load_keys(c, keys); }
                tile_of_pairs(tiles[g], keys, segments, fresh);
                fresh = false;
            }
        }
        for (int g = 0; g < count; ++g) { finish(tiles[g]); }
    }

    // Scores of all keys, the rows' thresholds, then weights and values.
    static void whole_rows(cursor const& h, range hull) {
        slot& mem = h.mem;
        auto const each_tile = [&](auto&& body) {
            for (extent_t t = hull.begin / C.keys * C.keys; t < hull.end; t += C.keys) {
                key_tile keys{intersect(hull, {t, t + C.keys}), {}, {}, {}, false, false};
                mem.s = mem.scores + (keys.cols.begin - hull.begin) * pitch;
                body(keys, cut{h.m.pattern, h.at, h.rows, h.vecs, mem.words}(keys.cols, mem.cut));
            }
        };
        each_tile([&](key_tile& keys, int segments) {
            bool const covered = segments == 1 && mem.cut[0].begin == 0 && mem.cut[0].end == keys.cols.size() && mem.cut[0].first == 0 && mem.cut[0].last == h.vecs;
            for (extent_t x = 0; !covered && x < keys.cols.size() * pitch; x += lanes) { (-math::inf<V>()).store(mem.s + x); }
            if (segments == 0) { return; }
            load_keys(h, keys);
            score_pairs(h, keys, segments, false);
        });
        for (int w = 0; w < h.vecs; ++w) { h.m.normalizer.solve(h.state[w], row_scores<T, A, C>{mem.scores + w * lanes, hull.size()}); }
        each_tile([&](key_tile& keys, int segments) {
            if (segments == 0) { return; }
            load_keys(h, keys);
            gather_pairs(h, keys, segments, true);
        });
    }

    // Queries packed with the chain's leading factors and the normalizer's unit folded in; sums and states empty.
    static void begin(cursor& h) {
        extent_t const d = h.width();
        if constexpr (pairs) {
            load_query_pairs<A>(h.x.q, operand::of_query(h.at), h.rows, h.q, pitch, extent_t(h.vecs) * lanes, h.mem.k);
        } else {
            load_transposed<A>(h.m.load.q, operand::of_query(h.at), h.rows, h.x.q, h.q, pitch, extent_t(h.vecs) * lanes, h.mem.k);
            if (lead(h) != T(1)) { scale_in_place<A>(h.q, d * pitch, lead(h)); }
        }
        if constexpr (detail::skips_nan<ring>) { h.odd = any_nan_packed<V>(h.q, d, pitch, h.vecs); }
        for (extent_t x = 0; x < h.out_width() * pitch; x += lanes) { mix_ring::template zero<V>().store(h.o + x); }
        for (int w = 0; w < C.vecs; ++w) { h.state[w] = h.m.normalizer.template start<V>(h.at); }
    }

    // The chain's leading factors, and the normalizer's unit where nothing else follows.
    static T lead(context const& c) { return static_cast<T>(detail::leading_factor(c.m.score, c.at) * (linear ? normalizer_type::unit : 1.0)); }

    static void load_keys(context const& c, key_tile& t) {
        operand const of = operand::of_key(c.at);
        if constexpr (pairs) {
            t.k = raw_rows<A>(c.x.k, of, t.cols, reinterpret_cast<E*>(c.mem.k));
            t.v = {c.mem.v, c.out_width()};
            load_value_pairs<A>(c.x.v, of, t.cols, c.mem.v, t.odd);
        } else {
            t.k = load_rows<A>(c.m.load.k, of, t.cols, c.x.k, c.mem.k);
            t.v = load_rows<A>(c.m.load.v, of, t.cols, c.x.v, c.mem.v);
        }
        if constexpr (detail::skips_nan<ring>) { t.odd_k = any_nan<A>(t.k, t.cols.size(), c.width()); }
        if constexpr (detail::skips_nan<mix_ring>) { t.odd_v = any_nan<A>(t.v, t.cols.size(), c.out_width()); }
    }

    // cols never crosses a multiple of C.keys.
    static void tile_of_pairs(cursor const& h, key_tile const& t, int count, bool fresh) {
        bool const may_mask = score_pairs(h, t, count, fresh);
        gather_pairs(h, t, count, may_mask);
    }
    // Scores and their peaks. True if some pair may be masked.
    static bool score_pairs(cursor const& h, key_tile const& t, int count, bool fresh) {
        slot& mem = h.mem;
        extent_t const d = h.width();
        score_tables<T, A, C> const staging{h.at, h.rows, t.cols, h.vecs};
        staging.stage(h.m.score, mem.table);

        for (int w = 0; w < h.vecs; ++w) { (-math::inf<V>()).store(mem.peak + w * lanes); }
        bool may_mask = false;
        for (int g = 0; g < count; ++g) {
            segment const part = mem.cut[g];
            bool const as_is = linear && !part.masked;
            T *const s = mem.s + part.begin * pitch, *const peak = as_is ? mem.peak : mem.factor;
            if constexpr (pairs) {
                contract_pairs<A, C>::run(t.k.at(part.begin), t.k.stride, part.end - part.begin, h.q, d, s, peak, part.first, part.last, lead(h));
            } else {
                // while the first query tile reads the keys, the values are on their way; while the others do, the tables of the next key tile
                int const piece = tables == 0 || fresh ? part.end - part.begin : 2 * C.rows;
                for (int j = part.begin; j < part.end; j += piece) {
                    typename contract::rows const k{t.k.at(j), t.k.stride};
                    typename contract::rows ahead = fresh ? typename contract::rows{t.v.at(j), t.v.stride} : k;
                    if (tables != 0 && !fresh && t.walk.size() > 0) {
                        ahead = staging.to_come(h.m.score, t.walk, (h.rows.begin - t.walk.begin - pitch) / pitch * C.keys + j, d, ahead);
                    }
                    int const keys = j + piece < part.end ? piece : part.end - j;
                    contract::run(k, keys, ahead, h.q, d, s + (j - part.begin) * pitch, peak, part.first, part.last, detail::contraction_of(h.m.score), mem.operand);
                }
            }
            if constexpr (detail::skips_nan<ring>) {
                if (h.odd || t.odd_k) [[unlikely]] { put_nan<A>(t.k, h.q, d, pitch, part.begin, part.end, part.first, part.last, mem.s); }
            }
            if (!as_is && bend(h, t.cols, part)) { may_mask = true; }
        }
        return may_mask;
    }
    // Scores to weights, weights to values.
    static void gather_pairs(cursor const& h, key_tile const& t, int count, bool may_mask) {
        slot& mem = h.mem;
        // Values that are not finite must not meet a weight of 0: their rows are set aside and gathered pair by pair.
        bool const strange = detail::skips_nan<mix_ring> ? t.odd_v : (pairs || may_mask) && has_strange_values(h, t, count);
        segment const* plan = mem.cut;
        int plan_count = count;
        if (strange) [[unlikely]] {
            plan_count = set_aside(h, t, count);
            plan = mem.plain;
        }
        for (int w = 0; w < h.vecs; ++w) { h.m.normalizer.raise(h.state[w], V::load(mem.peak + w * lanes)).store(mem.factor + w * lanes); }
        if (weighs || h.odd || t.odd_k) { weigh(h, count); }
        if constexpr (pairs) {
            if (strange) [[unlikely]] { std::memcpy(mem.aside, mem.s, static_cast<std::size_t>(t.cols.size() * pitch) * sizeof(T)); }
            for (int g = 0; g < count; ++g) { mem.plain[g] = round_to_pairs<A, C>(mem.s, mem.cut[g]); }
            mix_tile<pair_products, T, A, C>::run(t.v.data, t.v.stride, mem.s, mem.plain, count, h.o, mem.factor, h.out_width(), h.vecs);
        } else {
            mix::run(t.v.data, t.v.stride, mem.s, plan, plan_count, h.o, mem.factor, h.out_width(), h.vecs);
        }
        if (strange) [[unlikely]] { mix_strange(h, t); }
    }

    // Score chain, unit, mask and peak of one segment. True if some pair may be masked.
    static bool bend(cursor const& h, range cols, segment const& t) { return t.masked ? bend_as<true>(h, cols, t) : bend_as<false>(h, cols, t); }
    template <bool Masked>
    static bool bend_as(cursor const& h, range cols, segment const& t) {
        slot& mem = h.mem;
        // Copies: the compiler must see that storing scores changes no parameter.
        auto const score = h.m.score;
        auto const pattern = h.m.pattern;
        place const at = h.at;
        V const none = -math::inf<V>();
        V least(0);
        for (int w = t.first; w < t.last; ++w) {
            I const i = h.list == nullptr ? iota(h.rows.begin + w * lanes, std::type_identity<I>{}) : I::load(h.list + w * lanes);
            V top = V::load(mem.peak + w * lanes);
            for (int j = t.begin; j < t.end; ++j) {
                extent_t const offset = j * pitch + w * lanes;
                V s = V::load(mem.s + offset);
                I const col(cols.begin + j);
                if constexpr (!linear) {
                    detail::lane_pair<V> const pair{at, i, col, mem.table, offset};
                    s = detail::after_leading(score, s, pair) * V(normalizer_type::unit);
                    static_for<tables>([&](auto table) HEED_INLINE_LAMBDA { s = select(V::load(mem.table[table] + offset) == none, none, s); });
                }
                if constexpr (Masked) { s = select(cut::kept(pattern, at, mem.words, j, w, i, col), s, none); }
                if constexpr (!Masked && detail::masks_of<score_type>) { least = min(least, s); }
                s.store(mem.s + offset);
                top = max(top, s);
            }
            top.store(mem.peak + w * lanes);
        }
        return Masked || (detail::masks_of<score_type> && !all(least > none));
    }

    static void weigh(cursor const& h, int count) {
        switch (h.vecs) {
        case 3: weigh_vectors<3>(h, count); break;
        case 2: weigh_vectors<2>(h, count); break;
        default: weigh_vectors<1>(h, count); break;
        }
    }
    template <int W>
    static void weigh_vectors(cursor const& h, int count) {
        slot& mem = h.mem;
        auto const normalizer = h.m.normalizer;
        V sum[W], keys[W]; // of this tile: weights, and how many keys are attended where that counts
        static_for<W>([&](auto w) HEED_INLINE_LAMBDA { sum[w] = keys[w] = V(0); });
        auto const weigh_one = [&](auto w, row_type const& r, int j) HEED_INLINE_LAMBDA {
            T* const at = mem.s + j * pitch + w * lanes;
            V const s = V::load(at), p = normalizer.weight(r, s);
            p.store(at);
            if constexpr (tallies) { sum[w] = normalizer.tally(sum[w], p); } else { sum[w] = sum[w] + p; }
            if constexpr (counts) { keys[w] = keys[w] + select(s == -math::inf<V>(), V(0), V(1)); }
        };
        for (int g = 0; g < count; ++g) {
            segment const t = mem.cut[g];
            if (t.first == 0 && t.last == W) {
                row_type r[W];
                static_for<W>([&](auto w) HEED_INLINE_LAMBDA { r[w] = h.state[w]; });
                for (int j = t.begin; j < t.end; ++j) {
                    static_for<W>([&](auto w) HEED_INLINE_LAMBDA { weigh_one(w, r[w], j); });
                }
            } else {
                static_for<W>([&](auto w) HEED_INLINE_LAMBDA {
                    if (t.first <= w && w < t.last) {
                        row_type const r = h.state[w];
                        for (int j = t.begin; j < t.end; ++j) { weigh_one(w, r, j); }
                    }
                });
            }
        }
        static_for<W>([&](auto w) HEED_INLINE_LAMBDA {
            if constexpr (counts) {
                normalizer.settle(h.state[w], sum[w], keys[w]);
            } else {
                normalizer.settle(h.state[w], sum[w]);
            }
        });
    }

    // Only segments in which a pair may be masked are looked at.
    static bool has_strange_values(cursor const& h, key_tile const& t, int count) {
        if constexpr (pairs) {
            bool any = false;
            for (std::uint64_t const odd : t.odd) { any = any || odd != 0; }
            return any;
        }
        for (int g = 0; g < count; ++g) {
            segment const& part = h.mem.cut[g];
            if (!(detail::masks_of<score_type> || part.masked)) { continue; }
            for (int j = part.begin; j < part.end; ++j) {
                if (!row_finite<A>(t.v.at(j), extent_t(1), h.out_width())) { return true; }
            }
        }
        return false;
    }
    // Splits the segments around keys whose value row is not finite, and notes for those which queries attend them.
    HEED_COLD static int set_aside(cursor const& h, key_tile const& keys, int count) {
        slot& mem = h.mem;
        for (int j = 0; j < C.keys; ++j) { mem.kept[j] = 0; }
        int made = 0;
        for (int g = 0; g < count; ++g) {
            segment const t = mem.cut[g];
            int begin = t.begin;
            for (int j = t.begin; j < t.end; ++j) {
                if constexpr (detail::skips_nan<mix_ring>) {
                    if (nan_in_row<A>(keys.v.at(j), h.out_width()) == T(0)) { continue; }
                } else if (pairs ? (keys.odd[j / 64] >> (j % 64) & 1) == 0 : !(detail::masks_of<score_type> || t.masked) || row_finite<A>(keys.v.at(j), extent_t(1), h.out_width())) { continue; }
                for (int w = t.first; w < t.last; ++w) {
                    mem.kept[j] |= bits_of(V::load(mem.s + j * pitch + w * lanes) != -math::inf<V>()) << (w * lanes);
                }
                if (begin < j) { mem.plain[made++] = {begin, j, t.first, t.last, t.masked}; }
                begin = j + 1;
            }
            if (begin < t.end) { mem.plain[made++] = {begin, t.end, t.first, t.last, t.masked}; }
        }
        return made;
    }
    HEED_COLD static void mix_strange(cursor const& h, key_tile const& keys) {
        slot& mem = h.mem;
        for (extent_t j = 0; j < keys.cols.size(); ++j) {
            if (mem.kept[j] == 0) { continue; }
            auto const value = [&](extent_t e) { // where pairs: the view's, which are zeros in the pairs
                if constexpr (pairs) { return static_cast<T>(h.x.v(h.at.batch, h.at.kv_head, keys.cols.begin + j, e)); } else { return keys.v.at(j)[e]; }
            };
            for (int w = 0; w < h.vecs; ++w) {
                auto const attends = mask_from_bits<V>(mem.kept[j] >> (w * lanes));
                V const p = V::load((pairs ? mem.aside : mem.s) + j * pitch + w * lanes);
                for (extent_t e = 0; e < h.out_width(); ++e) {
                    T* const o = h.o + e * pitch + w * lanes;
                    V const before = V::load(o);
                    select(attends, gather_one<mix_ring>(before, V(value(e)), p), before).store(o);
                }
            }
        }
    }

    // Final factor, rows out, what is saved of the rows.
    static void finish(cursor const& h) {
        extent_t const dv = h.out_width();
        for (int w = 0; w < h.vecs; ++w) {
            V const f = h.m.normalizer.close(h.state[w]);
            for (extent_t e = 0; e < dv; ++e) {
                T* const o = h.o + e * pitch + w * lanes;
                if constexpr (requires(normalizer_type const n, V x) { n.finish(h.state[w], x); }) {
                    h.m.normalizer.finish(h.state[w], V::load(o)).store(o);
                } else {
                    (V::load(o) * f).store(o);
                }
            }
        }
        store_queries<A>(h.m.load.q, h.o, pitch, h.rows, h.x.out, h.at.batch, h.at.head, h.mem.v);
        if (h.x.lse.data_handle() != nullptr) {
            if constexpr (kept > 0) {
                for (extent_t i = 0; i < h.rows.size(); ++i) {
                    detail::save_row<V>(h.m.normalizer, h.state[i / lanes], static_cast<int>(i % lanes), h.x.lse_unit, h.x.lse, h.at.batch, h.at.head, place_of(h.m.load.q, h.rows.begin + i));
                }
            }
        }
    }
};

} // namespace heed
