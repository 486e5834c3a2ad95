// SPDX-License-Identifier: BSD-3-Clause
// Decode where one cached row serves many heads: latent attention (128 query heads on one latent head) and caches of factors. The heads of a KV head are the
// queries of a tile, vectors along heads, so that the micro-kernels of prefill do the work at their speed. Keys are cut and results joined as
// split_keys.hpp says.
//
//   tile of keys   in place, or packed (pages, 16 bits; many tiles of heads: then with a stride that spreads over the sets of the first cache)
//   contract       s[j][h] = k_j . q_h, features in pieces whose packed queries stay in the first cache
//     factors      t_r[j][h] = B_r[j] . q_h, s = sum_r A_r[j][h] t_r[j][h]                     "heads first": the queries' own rank is summed before
//                  or t_r[j][x] = B_r[j] . B^q_x, then sum over x by A^q_x[h]                  "features first": fewer multiply-adds if R_q < H
//   raise, weigh, settle
//   mix            o[e][h] += v_j[e] p[j][h]; of factors one pass per rank, p_r = p A_r
//
// A key that the pattern leaves out enters no product. Memory: queries and partial results of a KV head's rows per chunk, a tile per thread.
#pragma once

#include <heed/engine/cpu/decode_rows.hpp>
#include <heed/engine/cpu/kernels.hpp>
#include <heed/engine/cpu/rows_to_come.hpp>
#include <heed/engine/cpu/split_keys.hpp>
#include <heed/engine/cpu/tile_loads.hpp>
#include <heed/family/pairwise.hpp>
#include <heed/kernel/product_tile.hpp>
#include <heed/policy/load/factored.hpp>
#include <heed/view/grouped_cache.hpp>

#include <string_view>

namespace heed {

template <class Q, class KE, class VE, class T>
struct grouped_problem {
    tensor_view<Q const> q; // (B, H, N, d); a shape only where the loader makes rows
    cache_view<KE, VE> cache;
    row_factors of;
    T const *beside_k, *beside_v; // factors that all tokens share
    tensor_view<Q> out; // (B, H, N, dv)
    tensor_view<T> lse; // (B, H, N, 1), or null
    double lse_unit = 0;

    HEED_HD extent_t group() const { return cache.heads() > 0 ? q.extent(1) / cache.heads() : 0; }
    HEED_HD place at(extent_t b, extent_t h) const { return {b, h, h / group(), q.length(b), cache.lengths[static_cast<std::size_t>(b)], q.extent(3)}; }
};

template <class M, class Q, class KE, class VE, class A>
struct grouped_decode {
    static constexpr std::string_view name = "cpu.grouped.decode";
    static_assert(std::is_same_v<compute_t<KE>, compute_t<VE>>, "heed: keys and values of a cache are computed in the same type; double goes with double");
    using T = compute_t<KE>;
    using V = vec<T, A>;
    using I = index_of<V>;
    using problem = grouped_problem<Q, KE, VE, T>;
    using score_type = decltype(M::score);
    using normalizer_type = decltype(M::normalizer);
    using query_loader = decltype(decltype(M::load)::q);
    static constexpr tile_config C = default_tiles<T, A>();
    using contract = contract_tile<plus_times, T, A, C>;
    using mix = mix_tile<plus_times, T, A, C>;
    using states = row_states<normalizer_type, T, A>;
    using row_type = typename states::row_type;
    using lane_row = typename states::lane_row;

    static constexpr int lanes = V::lanes;
    static constexpr extent_t pitch = contract::pitch; // heads of a tile
    static constexpr bool linear = detail::is_linear<score_type>;
    static constexpr bool factored_queries = detail::is_factored<query_loader>;
    static_assert(std::is_same_v<typename score_type::contraction, plus_times> && std::is_same_v<decltype(M::mix), plus_times> && detail::tables_of<score_type> == 0 && !detail::masks_of<score_type>,
                  "heed: caches whose rows serve many heads are read by dot products whose score chain holds no table (bias) and masks nothing; patterns mask");
    static_assert(MergeableNormalizer<normalizer_type> && !CountingNormalizer<normalizer_type>, "heed: decode splits the keys, so it needs a normalizer with merge and log_sum_exp");
    static_assert(is_plain<decltype(decltype(M::load)::k)> && is_plain<decltype(decltype(M::load)::v)>, "heed: decode reads keys and values as the cache holds them; append what a loader would make");

    static constexpr extent_t chunk_keys = 512, most_chunks = 16; // at least, at most

    static constexpr extent_t rounded(extent_t x, extent_t to) { return (x + to - 1) / to * to; }
    // Rows of a packed tile are an odd number of cache lines apart.
    static constexpr extent_t spread(extent_t width) {
        constexpr extent_t line = extent_t(line_bytes / sizeof(T));
        extent_t const lines = (width + line - 1) / line;
        return (lines | 1) * line;
    }
    static extent_t chunk_of(extent_t keys) {
        extent_t const fair = rounded((keys + most_chunks - 1) / most_chunks, C.keys);
        return fair > chunk_keys ? fair : chunk_keys;
    }

    // Sizes of a call that the layout of memory, and the order of contraction, depend on.
    struct sizes {
        row_factors of;
        extent_t batch, kv_heads, group, tokens, d, dv, row_k, row_v, tiles, chunks, rank_q = 0;
        extent_t piece, parts; // features of a piece; pieces, or the rank of keys
        bool features_first = false;
        std::size_t head_bytes; // of the partial results of a KV head

        sizes(shape q, cache_view<KE, VE> const& c, row_factors const& f, extent_t rank_of_queries) : of(f) {
            batch = q.batch, kv_heads = c.heads(), group = kv_heads > 0 ? q.head / kv_heads : 0, tokens = q.seq, d = q.feature;
            row_k = c.k.extent(3), row_v = c.v.extent(3), dv = f.width_v(row_v);
            tiles = (group + pitch - 1) / pitch;
            chunks = (c.reach() + C.keys + chunk_keys - 1) / chunk_keys; // of a KV head at most
            chunks = chunks > most_chunks ? most_chunks : chunks;
            constexpr extent_t most = extent_t(24 << 10) / (pitch * extent_t(sizeof(T)));
            extent_t const pieces = d <= most || f.any() ? 1 : (d + most - 1) / most;
            piece = pieces == 1 ? d : rounded((d + pieces - 1) / pieces, 16);
            parts = f.any() ? f.rank_k : d == 0 ? 1 : (d + piece - 1) / piece;
            // multiply-adds of vectors for a key's rank: all heads, or the queries' rank and then all heads. A register block of fewer than 8 sums waits for
            // itself: a single vector counts as two where blocks have 4 keys.
            extent_t const least = 8 / C.rows, h = vectors(group) < least ? least : vectors(group), x = vectors(rank_of_queries) < least ? least : vectors(rank_of_queries);
            features_first = factored_queries && f.any() && rank_of_queries <= pitch && d * x + rank_of_queries * h < d * h;
            rank_q = rank_of_queries;
            head_bytes = static_cast<std::size_t>(chunks) * part_bytes(*this);
        }
        static extent_t vectors(extent_t n) { return (n + lanes - 1) / lanes; }
        extent_t items() const { return batch * kv_heads * chunks; }
        extent_t row_tiles() const { return tokens * tiles; }
    };
    // Partial results of one chunk: all tokens, all tiles of heads.
    struct part {
        T* o;            // [tokens][tiles][dv][pitch]
        row_type* state; // [tokens][tiles][vecs]
        part(arena& a, sizes const& n) : o(a.template take<T>(n.row_tiles() * n.dv * pitch)), state(a.template take<row_type>(n.row_tiles() * C.vecs)) {}
    };
    static std::size_t part_bytes(sizes const& n) {
        arena count(nullptr);
        part(count, n);
        return count.bytes();
    }
    // One thread's memory.
    struct slot {
        T *q, *b, *row, *s, *t, *x, *p, *peak, *none, *factor, *ones, *k, *v, *ak, *av, *before, *weight, *line;
        segment *cut, *first; // of a tile; its first row
        row_type* total;
        slot(arena& a, sizes const& n) {
            extent_t const tile = C.keys * pitch, heads = rounded(n.group, pitch);
            q = a.template take<T>(n.row_tiles() * (n.features_first ? n.rank_q : n.d) * pitch);
            b = a.template take<T>(n.features_first ? n.tokens * n.d * pitch : 0);
            row = a.template take<T>(pitch * n.d);
            s = a.template take<T>(tile);
            t = a.template take<T>(tile);
            x = a.template take<T>(n.features_first ? tile : 0);
            p = a.template take<T>(n.of.any() ? tile : 0);
            for (T** one : {&peak, &none, &factor, &ones}) { *one = a.template take<T>(pitch); }
            k = a.template take<T>(C.keys * spread(n.row_k));
            v = a.template take<T>(C.keys * spread(n.row_v < n.dv ? n.dv : n.row_v));
            ak = a.template take<T>(n.of.any() ? C.keys * n.of.rank_k * heads : 0);
            av = a.template take<T>(n.of.any() ? C.keys * n.of.rank_v * heads : 0);
            before = a.template take<T>(n.chunks * pitch);
            weight = a.template take<T>(n.chunks * pitch);
            line = a.template take<T>(n.dv * pitch);
            cut = a.template take<segment>(C.keys);
            first = a.template take<segment>(1);
            total = a.template take<row_type>(C.vecs);
        }
    };
    using split = split_keys<slot, sizes, A>;
    static std::size_t bytes(sizes const& n, int slots) { return split::bytes(n, slots); }

    template <class E>
    static void run(M const& m, problem const& x, E& executor, sizes const& n, int slots, std::byte* workspace) {
        call const c{m, x, n};
        split::run(n, executor, slots, workspace, [&](slot& mem, split_item const& at) { item{c, mem, at, at.batch, at.kv_head}.run(); });
    }

private:
    struct call {
        M const& m;
        problem const& x;
        sizes const& n;
    };
    // Rows of a tile of keys; factors of heads, [j][rank][heads].
    struct key_tile {
        range cols;
        tile_rows<T> k, v, ak, av;
        extent_t ak_rank, av_rank; // from one rank to the next
    };

    struct item {
        call const& c;
        slot& mem;
        split_item const& work;
        extent_t b, kv_head;
        extent_t count = 0; // chunks of this KV head
        rows_to_come next_k = {}, next_v = {};

        place at(extent_t h = 0) const { return c.x.at(b, kv_head * c.n.group + h); }
        part part_of(extent_t which) const {
            arena a(work.parts + static_cast<std::size_t>(which) * part_bytes(c.n));
            return {a, c.n};
        }
        extent_t heads_of(extent_t t) const { return intersect({0, c.n.group}, {t * pitch, (t + 1) * pitch}).size(); }
        int vecs_of(extent_t t) const { return static_cast<int>((heads_of(t) + lanes - 1) / lanes); }

        void run() {
            extent_t const tokens = c.x.q.length(b);
            if (tokens == 0 || c.n.group == 0) { return; }
            range keys = detail::hull_of(c.m.pattern, at(), {0, tokens});
            keys = intersect(keys, {c.x.cache.oldest(b), c.x.cache.lengths[static_cast<std::size_t>(b)]});
            extent_t const first = keys.begin / C.keys * C.keys, all = keys.size() == 0 ? 0 : keys.end - first, size = chunk_of(all);
            count = all == 0 ? 1 : (all + size - 1) / size;
            if (work.chunk >= count) { return; }
            walk(intersect(keys, {first + work.chunk * size, first + (work.chunk + 1) * size}), tokens);
            if (work.last_of(count)) { merge(tokens); }
        }

        void walk(range mine, extent_t tokens) {
            part const to = part_of(work.chunk);
            for (extent_t i = 0; i < c.n.row_tiles() * c.n.dv * pitch; i += lanes) { V(0).store(to.o + i); }
            for (extent_t w = 0; w < c.n.row_tiles() * C.vecs; ++w) { to.state[w] = c.m.normalizer.template empty<V>(); }
            if (mine.size() == 0) { return; }
            for (extent_t i = 0; i < pitch; ++i) { mem.ones[i] = T(1), mem.none[i] = -math::inf<T>(); }
            for (extent_t i = 0; i < tokens; ++i) { load_queries(i); }
            for (extent_t j = mine.begin / C.keys * C.keys; j < mine.end; j += C.keys) {
                key_tile const keys = load_keys(intersect(mine, {j, j + C.keys}), tokens);
                expect(intersect(mine, {j + C.keys, j + 2 * C.keys}));
                for (extent_t i = 0; i < tokens; ++i) {
                    int const segments = kept_keys(i, keys.cols);
                    for (extent_t t = 0; segments > 0 && t < c.n.tiles; ++t) { tile_of_pairs(keys, i, t, segments, to); }
                }
            }
        }

        // Rows of the next tile, as far as they lie one behind another.
        void expect(range cols) {
            auto const& x = c.x.cache;
            next_k = next_v = {};
            if (cols.size() == 0) { return; }
            auto const where = x.locate(b, cols.begin);
            extent_t const n = where.run < cols.size() ? where.run : cols.size();
            next_k = rows_to_come::of(x.k.row(where.entry, kv_head, where.row), x.k.stride(2), c.n.row_k, n);
            if (!values_in_keys()) { next_v = rows_to_come::of(x.v.row(where.entry, kv_head, where.row), x.v.stride(2), c.n.row_v, n); }
        }
        bool values_in_keys() const { return static_cast<void const*>(c.x.cache.k.data_handle()) == static_cast<void const*>(c.x.cache.v.data_handle()); }

        // Leading factors, the normalizer's unit where nothing else follows, the keys' own factor.
        T lead() const { return static_cast<T>(detail::leading_factor(c.m.score, at()) * (linear ? normalizer_type::unit : 1.0) * c.n.of.weight_k()); }

        // Queries of token i, packed: [d][pitch] of every tile; or [rank][pitch] of the heads' factors, and [d][pitch] of the features'.
        void load_queries(extent_t i) {
            extent_t const d = c.n.d;
            if constexpr (factored_queries) {
                if (c.n.features_first) { return load_query_factors(i); }
            }
            for (extent_t t = 0; t < c.n.tiles; ++t) {
                extent_t const n = heads_of(t);
                for (extent_t h = 0; h < n; ++h) {
                    T* const to = mem.row + h * d;
                    place const own = at(t * pitch + h);
                    if constexpr (is_plain<query_loader>) {
                        Q const* const from = c.x.q.row(b, own.head, i);
                        for (extent_t e = 0; e < d; ++e) { to[e] = static_cast<T>(from[e * c.x.q.stride(3)]); }
                    } else {
                        c.m.load.q.template rows<A>(operand::of_query(own), range{i, i + 1}, c.x.q, to, d);
                    }
                }
                T* const q = mem.q + (i * c.n.tiles + t) * d * pitch;
                pack_transposed<A>(mem.row, d, extent_t(1), n, d, q, pitch, extent_t(vecs_of(t)) * lanes);
                scale_in_place<A>(q, d * pitch, lead());
            }
        }
        void load_query_factors(extent_t i) {
            auto const& f = c.m.load.q;
            extent_t const d = c.n.d, rank = c.n.rank_q;
            operand const of = operand::of_query(at());
            for (extent_t r = 0; r < rank; ++r) {
                Q const* const from = detail::shared_row(f.b, b, 0, i) + r * detail::rank_stride(f.b);
                T* const to = mem.row + r * d;
                for (extent_t e = 0; e < d; ++e) { to[e] = static_cast<T>(from[e * f.b.stride(3)]); }
                if constexpr (!is_plain<decltype(f.then)>) {
                    f.then.template turn_rows<A, T>(of, range{i, i + 1}, d, 1, 1, 1.0, [&](extent_t, extent_t) { return to; });
                }
            }
            T* const packed = mem.b + i * d * pitch;
            pack_transposed<A>(mem.row, d, extent_t(1), rank, d, packed, pitch, rounded(rank, lanes));
            scale_in_place<A>(packed, d * pitch, static_cast<T>(static_cast<double>(lead()) * f.weight()));
            for (extent_t t = 0; t < c.n.tiles; ++t) {
                T* const a = mem.q + (i * c.n.tiles + t) * rank * pitch;
                for (extent_t x = 0; x < rank * pitch; ++x) { a[x] = T(0); }
                for (extent_t h = 0; h < heads_of(t); ++h) {
                    Q const* const from = detail::shared_row(f.a, b, at(t * pitch + h).head, i);
                    for (extent_t r = 0; r < rank; ++r) { a[r * pitch + h] = static_cast<T>(from[r * f.a.stride(3)]); }
                }
            }
        }

        // Rows of the cache, in place if they lie one behind another as numbers of the type computed in.
        template <class E>
        tile_rows<T> load_rows_of(tensor_view<E> const& x, tensor_view<float> const& scale, range cols, bool packed, T* to) {
            auto const where = c.x.cache.locate(b, cols.begin);
            if constexpr (std::is_same_v<E, T>) {
                if (!packed && where.run >= cols.size()) { return {x.row(where.entry, kv_head, where.row), x.stride(2)}; }
            }
            extent_t const stride = spread(x.extent(3));
            for (extent_t j = cols.begin; j < cols.end;) {
                auto const from = c.x.cache.locate(b, j);
                extent_t const run = from.run < cols.end - j ? from.run : cols.end - j;
                E const* const rows = x.row(from.entry, kv_head, from.row);
                T* const out = to + (j - cols.begin) * stride;
                if constexpr (is_byte<E>) {
                    for (extent_t y = 0; y < run; ++y) { load_codes<V>(rows + y * x.stride(2), x.extent(3), *detail::shared_row(scale, from.entry, kv_head, from.row + y), out + y * stride); }
                } else {
                    pack_rows<A>(rows, x.stride(2), extent_t(1), run, x.extent(3), out, stride);
                }
                j += run;
            }
            return {to, stride};
        }
        // Factors of heads where vectors may read them: in place if they fill vectors, else one for every query head, padded.
        tile_rows<T> load_heads(tile_rows<T> const& rows, extent_t keys, extent_t rank, T* to, extent_t& rank_step) {
            extent_t const heads = c.n.of.heads, per = c.n.group / (heads > 0 ? heads : 1), padded = rounded(c.n.group, pitch);
            if (per == 1 && heads % lanes == 0) {
                rank_step = heads;
                return rows;
            }
            rank_step = padded;
            for (extent_t j = 0; j < keys; ++j) {
                for (extent_t r = 0; r < rank; ++r) {
                    T const* const from = rows.at(j) + r * heads;
                    T* const out = to + (j * rank + r) * padded;
                    for (extent_t g = 0; g < heads; ++g) {
                        for (extent_t x = 0; x < per; ++x) { out[g * per + x] = from[g]; }
                    }
                    for (extent_t h = c.n.group; h < padded; ++h) { out[h] = T(0); }
                }
            }
            return {to, rank * padded};
        }
        key_tile load_keys(range cols, extent_t tokens) {
            bool const packed = tokens * c.n.tiles >= 3;
            auto const& x = c.x.cache;
            row_factors const& f = c.n.of;
            key_tile t{cols, load_rows_of(x.k, x.k_scale, cols, packed, mem.k), {nullptr, 0}, {nullptr, 0}, {nullptr, 0}, 0, 0};
            t.v = std::is_same_v<KE, VE> && values_in_keys() ? t.k : load_rows_of(x.v, x.v_scale, cols, packed, mem.v);
            if (f.any()) {
                split_factors(f.shared_k, c.x.beside_k, f.rank_k, cols.size(), mem.ak, t.k, t.ak, t.ak_rank);
                split_factors(f.shared_v, c.x.beside_v, f.rank_v, cols.size(), mem.av, t.v, t.av, t.av_rank);
            }
            return t;
        }
        // Rows [A | B] into those of A and of B; a shared factor is one row, 0 apart.
        void split_factors(shared_factor shared, T const* beside, extent_t rank, extent_t keys, T* buffer, tile_rows<T>& b_rows, tile_rows<T>& a_rows, extent_t& a_rank) {
            bool const one = shared == shared_factor::heads;
            a_rows = load_heads(one ? tile_rows<T>{beside, 0} : b_rows, one ? 1 : keys, rank, buffer, a_rank);
            if (one) { a_rows.stride = 0; }
            if (shared == shared_factor::none) { b_rows.data += rank * c.n.of.heads; }
            if (shared == shared_factor::features) { b_rows = {beside, 0}; }
        }

        // Runs of keys that token i sees, relative to the tile; all heads see the same.
        int kept_keys(extent_t i, range cols) {
            int const n = static_cast<int>(cols.size());
            place const p = at();
            tile const verdict = c.m.pattern.classify(p, {i, i + 1}, cols);
            if (verdict == tile::skip) { return 0; }
            if (verdict == tile::full) {
                mem.cut[0] = {0, n, 0, 0, false};
                return 1;
            }
            int found = 0;
            for (int j = 0; j < n; ++j) {
                if (!c.m.pattern.keep(p, i, cols.begin + j)) { continue; }
                if (found > 0 && mem.cut[found - 1].end == j) {
                    mem.cut[found - 1].end = j + 1;
                } else {
                    mem.cut[found++] = {j, j + 1, 0, 0, false};
                }
            }
            return found;
        }

        void tile_of_pairs(key_tile const& keys, extent_t i, extent_t t, int segments, part const& to) {
            sizes const& n = c.n;
            int const vecs = vecs_of(t);
            for (int g = 0; g < segments; ++g) { mem.cut[g].first = 0, mem.cut[g].last = vecs; }
            for (int w = 0; w < C.vecs; ++w) { (-math::inf<V>()).store(mem.peak + w * lanes); }
            T const* const q = mem.q + (i * n.tiles + t) * (n.features_first ? n.rank_q : n.d) * pitch;
            bool const direct = !n.of.any() && n.parts == 1 && linear, one_k = n.of.shared_k == shared_factor::features, one_v = n.of.shared_v == shared_factor::features;
            *mem.first = {0, 1, 0, vecs, false};
            for (extent_t p = 0; p < n.parts; ++p) {
                extent_t const from = n.of.any() ? p * n.d : p * n.piece, width = n.of.any() ? n.d : intersect({from, n.d}, {from, from + n.piece}).size();
                T const* const qp = n.features_first ? mem.b + i * n.d * pitch : n.of.any() ? q : q + from * pitch;
                if (one_k) { products(keys, *mem.first, from, width, qp, q, mem.t, mem.none, vecs); }
                for (int g = 0; g < segments; ++g) {
                    segment const& part = mem.cut[g];
                    if (!one_k) { products(keys, part, from, width, qp, q, direct ? mem.s : mem.t, direct ? mem.peak : mem.none, vecs); }
                    if (!direct) { gather_part(keys, part, p, t, i, vecs); }
                }
            }
            weigh(segments, to.state + (i * n.tiles + t) * C.vecs, vecs);
            T* const o = to.o + (i * n.tiles + t) * n.dv * pitch;
            if (!n.of.any()) {
                mix::run(keys.v.data, keys.v.stride, mem.s, mem.cut, segments, o, mem.factor, n.dv, vecs);
                return;
            }
            for (extent_t r = 0; r < n.of.rank_v; ++r) {
                rows_to_come const ahead = next_v.share((i * n.tiles + t) * n.of.rank_v + r, n.row_tiles() * n.of.rank_v);
                V sum[C.vecs];
                for (int w = 0; w < C.vecs; ++w) { sum[w] = V(0); }
                for (int g = 0; g < segments; ++g) {
                    for (int j = mem.cut[g].begin; j < mem.cut[g].end; ++j) {
                        T const* const a = keys.av.at(j) + r * keys.av_rank + t * pitch;
                        ahead.ask(j);
                        for (int w = 0; w < vecs; ++w) {
                            V const p = V::load(mem.s + j * pitch + w * lanes) * V::load(a + w * lanes);
                            if (one_v) { sum[w] = sum[w] + p; } else { p.store(mem.p + j * pitch + w * lanes); }
                        }
                    }
                }
                for (int w = 0; one_v && w < vecs; ++w) { sum[w].store(mem.p + w * lanes); } // all keys have this value
                mix::run(keys.v.data + r * n.dv, keys.v.stride, mem.p, one_v ? mem.first : mem.cut, one_v ? 1 : segments, o, r == 0 ? mem.factor : mem.ones, n.dv, vecs);
            }
        }
        // Products of a run of keys with the packed queries; features first: with their features' factors, then with their heads'.
        void products(key_tile const& keys, segment const& part, extent_t from, extent_t width, T const* q, T const* heads, T* s, T* peak, int vecs) {
            extent_t const first = part.begin, n = part.end - part.begin;
            typename contract::rows const k{keys.k.at(first) + from, keys.k.stride}, ahead{keys.v.at(first), keys.v.stride};
            if (c.n.features_first) {
                int const ranks = static_cast<int>((c.n.rank_q + lanes - 1) / lanes);
                contract::run(k, n, ahead, q, width, mem.x + first * pitch, peak, 0, ranks);
                product_tile<T, A>::run(n, extent_t(vecs) * lanes, c.n.rank_q, mem.x + first * pitch, pitch, extent_t(1), heads, pitch, s + first * pitch, pitch, put::write);
            } else {
                contract::run(k, n, ahead, q, width, s + first * pitch, peak, 0, vecs);
            }
        }
        // s (+)= A_p t; the last part bends what is there and finds its peak.
        void gather_part(key_tile const& keys, segment const& part, extent_t p, extent_t t, extent_t i, int vecs) {
            auto const score = c.m.score;
            bool const factors = c.n.of.any(), fresh = p == 0, last = p + 1 == c.n.parts, one = c.n.of.shared_k == shared_factor::features;
            place const own = at();
            rows_to_come const ahead = next_k.share((i * c.n.tiles + t) * c.n.parts + p, c.n.row_tiles() * c.n.parts);
            for (int w = 0; w < vecs; ++w) {
                V top = V::load(mem.peak + w * lanes);
                for (int j = part.begin; j < part.end; ++j) {
                    extent_t const offset = j * pitch + w * lanes;
                    V s = V::load(mem.t + (one ? w * lanes : offset));
                    if (w == 0) { ahead.ask(j); }
                    if (factors) { s = s * V::load(keys.ak.at(j) + p * keys.ak_rank + t * pitch + w * lanes); }
                    if (!fresh) { s = s + V::load(mem.s + offset); }
                    if constexpr (!linear) {
                        if (last) {
                            detail::lane_pair<V> const pair{own, I(i), I(keys.cols.begin + j), nullptr, offset};
                            s = detail::after_leading(score, s, pair) * V(normalizer_type::unit);
                        }
                    }
                    s.store(mem.s + offset);
                    top = max(top, s);
                }
                if (last) { top.store(mem.peak + w * lanes); }
            }
        }
        void weigh(int segments, row_type* state, int vecs) {
            auto const normalizer = c.m.normalizer;
            for (int w = 0; w < vecs; ++w) {
                normalizer.raise(state[w], V::load(mem.peak + w * lanes)).store(mem.factor + w * lanes);
                row_type const row = state[w];
                V sum(0);
                for (int g = 0; g < segments; ++g) {
                    for (int j = mem.cut[g].begin; j < mem.cut[g].end; ++j) {
                        T* const x = mem.s + j * pitch + w * lanes;
                        V const p = normalizer.weight(row, V::load(x));
                        p.store(x);
                        if constexpr (requires { normalizer.tally(sum, p); }) { sum = normalizer.tally(sum, p); } else { sum = sum + p; }
                    }
                }
                normalizer.settle(state[w], sum);
            }
        }

        // All chunks of this KV head, from the first to the last.
        void merge(extent_t tokens) {
            auto const& normalizer = c.m.normalizer;
            extent_t const dv = c.n.dv;
            for (extent_t i = 0; i < tokens; ++i) {
                for (extent_t t = 0; t < c.n.tiles; ++t) {
                    extent_t const tile_at = i * c.n.tiles + t, n = heads_of(t);
                    for (int w = 0; w < C.vecs; ++w) { mem.total[w] = normalizer.template empty<V>(); }
                    for (extent_t h = 0; h < n; ++h) { states::put(mem.total, static_cast<int>(h), normalizer.template start<T>(at(t * pitch + h))); }
                    weigh_chunks<V>(normalizer, count, C.vecs, [&](extent_t k) { return part_of(k).state + tile_at * C.vecs; }, mem.total, mem.before, mem.weight, V(static_cast<T>(c.n.of.weight_v())));
                    if (c.x.lse.data_handle() != nullptr) {
                        for (extent_t h = 0; h < n; ++h) {
                            lane_row const state = states::get(mem.total, static_cast<int>(h));
                            c.x.lse(b, at(t * pitch + h).head, i, 0) = static_cast<T>(static_cast<double>(normalizer.log_sum_exp(state)) * c.x.lse_unit);
                        }
                    }
                    if (dv == 0) { continue; }
                    for (extent_t x = 0; x < dv * pitch; x += lanes) {
                        V sum(0);
                        for (extent_t k = 0; k < count; ++k) { sum = fma(V::load(mem.weight + k * pitch + x % pitch), V::load(part_of(k).o + tile_at * dv * pitch + x), sum); }
                        sum.store(mem.line + x);
                    }
                    auto const& out = c.x.out;
                    tensor_view<Q> const heads(out.row(b, at(t * pitch).head, i), {1, 1, n, dv}, {0, 0, out.stride(1), out.stride(3)});
                    store_transposed<A>(mem.line, pitch, range{0, n}, heads, 0, 0, mem.v); // mem.v is at rest
                }
            }
        }
    };
};

} // namespace heed
