// SPDX-License-Identifier: BSD-3-Clause
// Pairwise decode on the CPU: few new queries of a sequence against its cache. The query heads of a group times the new tokens are the rows that share
// one pass over a KV head: every key and every value is read from memory once, by one chunk, and widened in registers. An item is one chunk:
//
//   for each tile of keys         pointers to its rows, whatever kind of cache; those of the next tile, to ask for them ahead
//     key_products  s[r][j]       vectors along features; the values of the tile are asked for meanwhile
//     bend          score chain, scales of the keys, mask, peak: vectors along keys, one row after another
//     raise, weigh, settle        row states have their lanes along rows
//     value_sums    o[r][e]       vectors along features; the keys of the next tile are asked for meanwhile
//
// Chunks are joined as split_keys.hpp says. Scales of quantised rows are applied once per key: to the score, to the weight. Memory: rows x (dv + a state)
// for each chunk, and a tile per thread.
#pragma once

#include <heed/engine/cpu/decode_layout.hpp>
#include <heed/engine/cpu/decode_rows.hpp>
#include <heed/engine/cpu/skipped_nan.hpp>
#include <heed/engine/cpu/split_keys.hpp>
#include <heed/engine/decode_problem.hpp>
#include <heed/family/pairwise.hpp>
#include <heed/kernel/row_sums.hpp>
#include <heed/kernel/value_sums.hpp>

#include <algorithm>
#include <string_view>
#include <utility>

namespace heed {

template <class M, class Q, class KE, class VE, class A>
struct pairwise_decode {
    static constexpr std::string_view name = "cpu.pairwise.decode";
    static_assert(std::is_same_v<compute_t<KE>, compute_t<VE>>, "heed: keys and values of a cache are computed in the same type; double goes with double");
    using T = compute_t<KE>;
    using V = vec<T, A>;
    using I = index_of<V>;
    using problem = decode_problem<Q, KE, VE, T>;
    using layout = decode_layout<KE, VE, A>;
    using score_type = decltype(M::score);
    using pattern_type = decltype(M::pattern);
    using normalizer_type = decltype(M::normalizer);
    using ring = typename score_type::contraction;
    using mix_ring = decltype(M::mix);
    using products = key_products<ring, KE, T, A>;
    using sums = value_sums<mix_ring, VE, T, A>;
    using states = row_states<normalizer_type, T, A>;
    using row_type = typename states::row_type;
    using lane_row = typename states::lane_row;

    static constexpr int lanes = V::lanes;
    static constexpr int tables = detail::tables_of<score_type>;
    static constexpr bool linear = detail::is_linear<score_type> || (detail::is_raw<score_type> && normalizer_type::unit == 1.0);
    static constexpr bool idempotent = detail::is_idempotent<normalizer_type>;
    static constexpr bool may_mask_score = detail::masks_of<score_type>;
    static_assert(is_plain<decltype(decltype(M::load)::k)> && is_plain<decltype(decltype(M::load)::v)>,
                  "heed: decode reads keys and values as the cache holds them; append what a loader would make (rotated keys), and leave the loaders of k and v plain");
    static constexpr bool scaled_keys = is_byte<KE>, scaled_values = is_byte<VE>;
    static_assert((!scaled_keys || detail::sum_of_products<ring>) && (!scaled_values || detail::sum_of_products<mix_ring>),
                  "heed: the scale of a quantised row can follow only sums of products; keep such a cache in 16 or 32 bits");
    static constexpr bool packed = PackedPattern<pattern_type> || !requires(pattern_type const p, place const at, I i) { p.keep(at, i, i); };
    // a normalizer may ask how many keys a row saw
    static constexpr bool counts = CountingNormalizer<normalizer_type>;
    // One partial result: sums and states of all rows.
    struct part {
        T* o;
        row_type* state;
        part(arena& a, extent_t rows, extent_t dv) : o(a.template take<T>(rows * products::padded(dv))), state(a.template take<row_type>((rows + lanes - 1) / lanes)) {}
    };
    static std::size_t part_bytes(extent_t rows, extent_t dv) {
        arena count(nullptr);
        part(count, rows, dv);
        return count.bytes();
    }

    // Sizes of a call that the layout of memory depends on.
    struct sizes {
        extent_t batch, kv_heads, rows, group; // rows: query rows of a KV head at most, group * N
        extent_t d, dv, tile, chunks;          // chunks of a KV head at most
        std::size_t head_bytes;                // of the partial results of a KV head

        sizes(shape q, cache_view<KE, VE> const& c) {
            batch = q.batch, kv_heads = c.heads(), group = kv_heads > 0 ? q.head / kv_heads : 0, rows = group * q.seq;
            d = q.feature, dv = c.v.extent(3), tile = layout::tile_keys(d);
            chunks = 1, head_bytes = 0;
            for (extent_t tokens = 1; tokens <= q.seq; ++tokens) { // a sequence with fewer new tokens is cut into more chunks
                extent_t const count = layout::chunks_up_to(c.reach() + tile, group * tokens, d, dv);
                std::size_t const bytes = static_cast<std::size_t>(count) * part_bytes(group * tokens, dv);
                chunks = count > chunks ? count : chunks;
                head_bytes = bytes > head_bytes ? bytes : head_bytes;
            }
        }
        extent_t items() const { return batch * kv_heads * chunks; }
        extent_t vectors() const { return (rows + lanes - 1) / lanes; } // of rows
    };
    // One thread's memory.
    struct slot {
        T *q, *operand, *s, *p, *row_peak, *row_sum, *factor, *before, *weight, *line, *odd_q;
        row_type* total;
        VE* zero;
        VE const** odd;
        place* at;
        tile* verdict;
        KE const** k[2]; // this tile's rows, the next's
        VE const** v[2];
        T *k_scale, *v_scale;
        T* table[tables == 0 ? 1 : tables];
        std::uint64_t* words;

        slot(arena& a, sizes const& n) {
            q = a.template take<T>(n.rows * products::padded(n.d));
            operand = a.template take<T>(detail::has_operand<ring> ? n.rows * products::padded(n.d) : 0);
            s = a.template take<T>(n.rows * n.tile);
            p = a.template take<T>(n.rows * n.tile);
            row_peak = a.template take<T>(n.vectors() * lanes * lanes);
            row_sum = a.template take<T>(n.vectors() * lanes * lanes);
            factor = a.template take<T>(n.vectors() * lanes);
            before = a.template take<T>(n.chunks * n.vectors() * lanes);
            weight = a.template take<T>(n.chunks * n.vectors() * lanes);
            line = a.template take<T>(products::padded(n.dv));
            odd_q = a.template take<T>(detail::skips_nan<ring> ? n.rows : 0);
            total = a.template take<row_type>(n.vectors());
            zero = a.template take<VE>(n.dv);
            odd = a.template take<VE const*>(n.tile);
            at = a.template take<place>(n.group);
            verdict = a.template take<tile>(n.group);
            for (auto& rows : k) { rows = a.template take<KE const*>(n.tile); }
            for (auto& rows : v) { rows = a.template take<VE const*>(n.tile); }
            k_scale = a.template take<T>(scaled_keys ? n.tile : 0);
            v_scale = a.template take<T>(scaled_values ? n.tile : 0);
            for (T*& t : table) { t = tables == 0 ? nullptr : a.template take<T>(n.tile); }
            words = a.template take<std::uint64_t>(packed ? n.tile : 0);
        }
    };

    using split = split_keys<slot, sizes, A>;
    static std::size_t bytes(sizes const& n, int slots) { return split::bytes(n, slots); }

    template <class E>
    static void run(M const& m, problem const& x, E& executor, sizes const& n, int slots, std::byte* workspace) {
        call const c{m, x, n, slots == 1};
        split::run(n, executor, slots, workspace, [&](slot& mem, split_item const& at) { item{c, mem, at, at.batch, at.kv_head}.run(); });
    }

private:
    struct call {
        M const& m;
        problem const& x;
        sizes const& n;
        bool in_order; // items come one after another: what follows a chunk is worth asking for
    };

    struct item {
        call const& c;
        slot& mem;
        split_item const& work;
        extent_t b, kv_head;
        extent_t tokens = 0;     // new tokens of this sequence
        int rows = 0;            // group * tokens
        range keys = {};         // that some row may see
        extent_t count = 0;      // chunks of this KV head

        void run() {
            problem const& x = c.x;
            tokens = x.q.length(b);
            rows = static_cast<int>(tokens * c.n.group);
            if (rows == 0) { return; }
            keys = {x.cache.lengths[static_cast<std::size_t>(b)], 0};
            for (extent_t g = 0; g < c.n.group; ++g) {
                mem.at[g] = x.at(b, kv_head * c.n.group + g);
                range const hull = detail::hull_of(c.m.pattern, mem.at[g], {0, tokens});
                if (hull.size() == 0) { continue; }
                keys.begin = hull.begin < keys.begin ? hull.begin : keys.begin;
                keys.end = hull.end > keys.end ? hull.end : keys.end;
            }
            extent_t const first = keys.begin / c.n.tile * c.n.tile; // tiles are cut at their multiples, wherever a walk begins
            auto const by = layout::divide(keys.size() == 0 ? 0 : keys.end - first, rows, c.n.d, c.n.dv);
            count = by.count;
            if (work.chunk >= count) { return; }
            range const mine = intersect(keys, {first + work.chunk * by.chunk, first + (work.chunk + 1) * by.chunk});
            walk(mine, part_of(work.chunk));
            if (work.last_of(count)) { merge(); }
        }

        part part_of(extent_t which) const {
            arena a(work.parts + static_cast<std::size_t>(which) * part_bytes(rows, c.n.dv));
            return {a, rows, c.n.dv};
        }
        HEED_INLINE int row_of(extent_t g, extent_t i) const { return static_cast<int>(g * tokens + i); }

        void walk(range mine, part const& to) {
            extent_t const dv = c.n.dv, vectors = (rows + lanes - 1) / lanes;
            for (extent_t x = 0; x < rows * products::padded(dv); x += lanes) { mix_ring::template zero<V>().store(to.o + x); }
            for (extent_t w = 0; w < vectors; ++w) { to.state[w] = c.m.normalizer.template empty<V>(); }
            range cols = next_tile(mine.begin, mine.end);
            if (cols.size() == 0) { return; }
            load_queries();
            for (extent_t x = 0; x < vectors * lanes; ++x) { (-math::inf<V>()).store(mem.row_peak + x * lanes), V(0).store(mem.row_sum + x * lanes); }
            extent_t const limit_ahead = c.in_order ? keys.end : mine.end;
            extent_t const first = point(c.x.cache.k, cols, mem.k[0]);
            point(c.x.cache.v, cols, mem.v[0]);
            for (extent_t j = 0; j < first; ++j) { ask_for_row(mem.k[0][j], key_lines()), ask_for_row(mem.v[0][j], value_lines()); } // nobody did
            while (cols.size() > 0) {
                range const next = next_tile(cols.end, limit_ahead);
                point(c.x.cache.k, next, mem.k[1]);
                extent_t const ahead = point(c.x.cache.v, next, mem.v[1]);
                tile_of_keys(cols, to, ahead);
                std::swap(mem.k[0], mem.k[1]);
                std::swap(mem.v[0], mem.v[1]);
                cols = intersect(next, {0, mine.end});
            }
        }
        // The next tile in [from, end) of which some row may see a key; tiles are cut at their multiples.
        range next_tile(extent_t from, extent_t end) {
            while (from < end) {
                extent_t at = end;
                for (extent_t g = 0; g < c.n.group; ++g) { at = std::min(at, detail::next_of(c.m.pattern, mem.at[g], {0, tokens}, from)); }
                range const cols = intersect({from, end}, {at / c.n.tile * c.n.tile, (at / c.n.tile + 1) * c.n.tile});
                if (at < end && judge(cols)) { return cols; }
                from = at < end ? cols.end : end;
            }
            return {end, end};
        }
        bool judge(range cols) { // verdicts of the group's heads; true unless all skip the tile
            bool any = false;
            for (extent_t g = 0; g < c.n.group; ++g) { any = (mem.verdict[g] = c.m.pattern.classify(mem.at[g], {0, tokens}, cols)) != tile::skip || any; }
            return any;
        }

        extent_t key_lines() const { return (c.n.d * extent_t(sizeof(KE)) + extent_t(line_bytes) - 1) / extent_t(line_bytes); }
        extent_t value_lines() const { return (c.n.dv * extent_t(sizeof(VE)) + extent_t(line_bytes) - 1) / extent_t(line_bytes); }

        template <class E>
        extent_t point(tensor_view<E> const& rows_of, range cols, E const** out) const {
            return point_at_rows<lanes>(c.x.cache, rows_of, b, kv_head, cols, out);
        }

        void load_queries() {
            extent_t const pitch = products::padded(c.n.d);
            auto const& q = c.x.q;
            for (extent_t g = 0; g < c.n.group; ++g) {
                T const lead = static_cast<T>(detail::leading_factor(c.m.score, mem.at[g]) * (linear ? normalizer_type::unit : 1.0));
                T* const to = mem.q + row_of(g, 0) * pitch;
                load_rows_right<A>(c.m.load.q, mem.at[g], tokens, q, b, lead, to, pitch);
                for (extent_t i = 0; i < tokens; ++i) {
                    if constexpr (detail::has_operand<ring>) { load_operand<lanes>(detail::head_of(c.m.score), mem.at[g], c.n.d, mem.operand + row_of(g, i) * pitch); }
                    if constexpr (detail::skips_nan<ring>) { mem.odd_q[row_of(g, i)] = nan_in_row<A>(to + i * pitch, pitch); }
                }
            }
        }

        void tile_of_keys(range cols, part const& to, extent_t next_keys) {
            bool masked = false;
            judge(cols);
            for (extent_t g = 0; g < c.n.group; ++g) { masked = masked || mem.verdict[g] != tile::full; }
            extent_t const n = cols.size(), padded = (n + lanes - 1) / lanes * lanes, pitch = c.n.tile;
            if constexpr (scaled_keys) { gather_scales<lanes>(c.x.cache, c.x.cache.k_scale, b, kv_head, cols, code_unit<KE>, mem.k_scale); }
            if constexpr (scaled_values) { gather_scales<lanes>(c.x.cache, c.x.cache.v_scale, b, kv_head, cols, code_unit<VE>, mem.v_scale); }

            products::run(mem.k[0], padded, {reinterpret_cast<std::byte const* const*>(mem.v[1]), value_lines()}, next_keys, mem.q, rows, c.n.d, mem.s, pitch, detail::contraction_of(c.m.score), mem.operand);
            if constexpr (detail::skips_nan<ring>) { put_nan(n); }
            bool const some_masked = bend(cols, masked), strange = (some_masked || detail::skips_nan<mix_ring>) && has_strange_values(n);
            raise(to);
            weigh(to, padded, masked || may_mask_score);
            if (strange) [[unlikely]] { set_aside(n); }
            sums::run(mem.v[0], n, {reinterpret_cast<std::byte const* const*>(mem.k[1]), key_lines()}, next_keys, mem.p, pitch, rows, to.o, mem.factor, c.n.dv);
            if (strange) [[unlikely]] { add_strange(n, to); }
        }

        // Score chain, scales, mask and peak of every row. True if some pair is masked.
        bool bend(range cols, bool masked) {
            bool some = false;
            for (extent_t g = 0; g < c.n.group; ++g) {
                for (extent_t i = 0; i < tokens; ++i) {
                    if (packed && masked && i % 64 == 0) { pack(g, {i, i + 64 < tokens ? i + 64 : tokens}, cols); }
                    some = (masked && mem.verdict[g] != tile::full ? bend_row<true>(g, i, cols) : bend_row<false>(g, i, cols)) || some;
                }
            }
            return some;
        }
        void pack(extent_t g, range some_rows, range cols) {
            if constexpr (packed) { detail::pack_bits(c.m.pattern, mem.at[g], some_rows, cols, mem.words); }
        }
        template <bool Masked>
        bool bend_row(extent_t g, extent_t i, range cols) {
            auto const score = c.m.score;
            auto const pattern = c.m.pattern;
            place const at = mem.at[g];
            extent_t const n = cols.size(), whole = n / lanes * lanes;
            T* const s = mem.s + row_of(g, i) * c.n.tile;
            if constexpr (tables > 0) {
                detail::for_each_table(score, [&](int which, auto const& table) { stage_row<V>(table, at, i, cols, mem.table[which]); });
            }
            V const none = -math::inf<V>();
            V top = none, least(0);
            I const row(i);
            auto const step = [&](extent_t j, auto end) HEED_INLINE_LAMBDA {
                V x = V::load(s + j);
                if constexpr (scaled_keys) { x = x * V::load(mem.k_scale + j); }
                I const col = iota(cols.begin + j, std::type_identity<I>{});
                if constexpr (!linear) {
                    detail::lane_pair<V> const pair{at, row, col, mem.table, j};
                    x = detail::after_leading(score, x, pair) * V(normalizer_type::unit);
                    static_for<tables>([&](auto table) HEED_INLINE_LAMBDA { x = select(V::load(mem.table[table] + j) == none, none, x); });
                }
                if constexpr (Masked) { x = select(kept(pattern, at, i, j, row, col), x, none); }
                if constexpr (decltype(end)::value) { x = select(mask_from_bits<V>((std::uint64_t(1) << (n - j)) - 1), x, none); }
                if constexpr (!Masked && may_mask_score && !decltype(end)::value) { least = min(least, x); }
                x.store(s + j);
                top = max(top, x);
            };
            extent_t j = 0;
            for (; j < whole; j += lanes) { step(j, std::false_type{}); }
            if (j < n) { step(j, std::true_type{}); }
            top.store(mem.row_peak + row_of(g, i) * lanes);
            return Masked || (may_mask_score && (whole < n || !all(least > none)));
        }
        HEED_INLINE typename V::mask_type kept(pattern_type const& pattern, place const& at, extent_t i, extent_t j, I row, I col) const {
            if constexpr (packed) {
                std::uint64_t bits = 0;
                for (int l = 0; l < lanes; ++l) { bits |= (mem.words[j + l] >> (i % 64) & 1) << l; }
                return mask_from_bits<V>(bits);
            } else {
                return mask_cast<V>(pattern.keep(at, row, col));
            }
        }

        void raise(part const& to) {
            for (extent_t w = 0; w * lanes < rows; ++w) {
                V x[lanes];
                static_for<lanes>([&](auto l) HEED_INLINE_LAMBDA { x[l] = V::load(mem.row_peak + (w * lanes + l) * lanes); });
                V const peak = reduce_lanes(x, [](V a, V y) HEED_INLINE_LAMBDA { return max(a, y); });
                c.m.normalizer.raise(to.state[w], peak).store(mem.factor + w * lanes);
            }
        }
        void weigh(part const& to, extent_t padded, bool masked) {
            auto const normalizer = c.m.normalizer;
            for (int r = 0; r < rows; ++r) {
                row_type const state = states::spread(to.state, r);
                T const* const s = mem.s + r * c.n.tile;
                T* const p = mem.p + r * c.n.tile;
                V sum(0), seen(0);
                for (extent_t j = 0; j < padded; j += lanes) {
                    V const x = V::load(s + j);
                    V y = normalizer.weight(state, x);
                    if constexpr (requires { normalizer.tally(sum, y); }) { sum = normalizer.tally(sum, y); } else { sum = sum + y; }
                    if constexpr (counts) { seen = seen + select(x == -math::inf<V>(), V(0), V(1)); }
                    if constexpr (scaled_values) {
                        y = y * V::load(mem.v_scale + j);
                        if (masked) { y = select(x == -math::inf<V>(), V(0), y); } // a scale that is not finite
                    }
                    y.store(p + j);
                }
                sum.store(mem.row_sum + r * lanes);
                if constexpr (counts) { seen.store(mem.row_peak + r * lanes); }
            }
            for (extent_t w = 0; w * lanes < rows; ++w) {
                auto const total = [&](T const* of) HEED_INLINE_LAMBDA {
                    V x[lanes];
                    static_for<lanes>([&](auto l) HEED_INLINE_LAMBDA { x[l] = V::load(of + (w * lanes + l) * lanes); });
                    return reduce_lanes(x, [](V a, V y) HEED_INLINE_LAMBDA { return a + y; });
                };
                if constexpr (counts) {
                    normalizer.settle(to.state[w], total(mem.row_sum), total(mem.row_peak));
                } else {
                    normalizer.settle(to.state[w], total(mem.row_sum));
                }
            }
        }

        // A key that some row leaves out and whose values are not finite.
        bool is_strange(extent_t j) const {
            if constexpr (detail::skips_nan<mix_ring>) { return nan_in_cached_row<V>(mem.v[0][j], c.n.dv) != T(0); }
            bool left_out = false;
            for (int r = 0; r < rows; ++r) { left_out = left_out || mem.s[r * c.n.tile + j] == -math::inf<T>(); }
            return left_out && !cached_row_finite<V>(mem.v[0][j], c.n.dv);
        }
        bool has_strange_values(extent_t n) const {
            if constexpr (std::is_same_v<VE, std::int8_t>) { return false; }
            for (extent_t j = 0; j < n; ++j) {
                if (is_strange(j)) { return true; }
            }
            return false;
        }
        // Strange keys leave the tile: weight 0, and a row of zeros in place of their values. What they weigh stays in s.
        HEED_COLD void set_aside(extent_t n) {
            for (extent_t e = 0; e < c.n.dv; ++e) { mem.zero[e] = VE{}; }
            for (extent_t j = 0; j < n; ++j) {
                mem.odd[j] = is_strange(j) ? mem.v[0][j] : nullptr;
                if (mem.odd[j] == nullptr) { continue; }
                mem.v[0][j] = mem.zero;
                for (int r = 0; r < rows; ++r) {
                    T &s = mem.s[r * c.n.tile + j], &p = mem.p[r * c.n.tile + j];
                    s = s == -math::inf<T>() ? s : p;
                    p = mix_ring::template zero<T>();
                }
            }
        }
        HEED_COLD void add_strange(extent_t n, part const& to) {
            extent_t const dv = c.n.dv;
            for (extent_t j = 0; j < n; ++j) {
                if (mem.odd[j] == nullptr) { continue; }
                for (int r = 0; r < rows; ++r) {
                    T const p = mem.s[r * c.n.tile + j];
                    if (p == -math::inf<T>()) { continue; }
                    for (extent_t e = 0; e < dv; ++e) {
                        T& o = to.o[r * products::padded(dv) + products::place_of(e, dv)];
                        o = gather_one<mix_ring>(o, static_cast<T>(mem.odd[j][e]) / T(code_unit<VE>), p);
                    }
                }
            }
        }

        // All chunks of this KV head, one weighted sum per row.
        void merge() {
            auto const& normalizer = c.m.normalizer;
            extent_t const vectors = (rows + lanes - 1) / lanes, pitch = vectors * lanes, dv = c.n.dv;
            for (extent_t w = 0; w < vectors; ++w) { mem.total[w] = normalizer.template empty<V>(); }
            for (int r = 0; r < rows; ++r) { states::put(mem.total, r, normalizer.template start<T>(mem.at[r / tokens])); }
            weigh_chunks<V>(normalizer, count, vectors, [&](extent_t k) { return part_of(k).state; }, mem.total, mem.before, mem.weight);
            if constexpr (idempotent) {
                for (int r = 0; r < rows; ++r) { best_of(r, normalizer); }
                return;
            }
            weighted_row<T> from[64];
            for (int r = 0; r < rows; ++r) {
                for (extent_t k = 0; k < count; ++k) { from[k] = {part_of(k).o + r * products::padded(dv), 1, mem.weight[k * pitch + r]}; }
                row_sums<T, A>::combine(from, static_cast<int>(count), mem.line, 1, products::padded(dv));
                write(r, states::get(mem.total, r));
            }
        }
        // The parts' sums of one row joined by the ring itself: the same bits for every split.
        void best_of(int r, normalizer_type const& normalizer) {
            row_type const state = states::spread(mem.total, r);
            for (extent_t e = 0; e < products::padded(c.n.dv); e += lanes) {
                V sum = mix_ring::template zero<V>();
                for (extent_t k = 0; k < count; ++k) { sum = mix_ring::reduce(sum, V::load(part_of(k).o + r * products::padded(c.n.dv) + e)); }
                if constexpr (idempotent) { normalizer.finish(state, sum).store(mem.line + e); }
            }
            write(r, states::get(mem.total, r));
        }
        // Where the contraction skips NaN: scores of rows that hold one.
        void put_nan(extent_t n) {
            for (extent_t j = 0; j < n; ++j) {
                T const odd = nan_in_cached_row<V>(mem.k[0][j], c.n.d);
                for (int r = 0; r < rows; ++r) {
                    if (T const x = odd + mem.odd_q[r]; x != T(0)) { mem.s[r * c.n.tile + j] = x; }
                }
            }
        }
        void write(int r, lane_row const& state) {
            extent_t const dv = c.n.dv, h = mem.at[r / tokens].head, i = r % tokens;
            auto const& out = c.x.out;
            if (out.data_handle() != nullptr && dv > 0) {
                Q* const to = out.row(b, h, i);
                for (extent_t e = 0; e < dv; ++e) { to[e * out.stride(3)] = static_cast<Q>(mem.line[products::place_of(e, dv)]); }
            }
            if constexpr (!idempotent) {
                if (c.x.lse.data_handle() == nullptr) { return; }
                c.x.lse(b, h, i, 0) = static_cast<T>(static_cast<double>(c.m.normalizer.log_sum_exp(state)) * c.x.lse_unit);
            }
        }
    };
};

} // namespace heed
