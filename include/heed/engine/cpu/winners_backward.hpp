// SPDX-License-Identifier: BSD-3-Clause
// Backward where values are gathered by a maximum or a minimum: every (query, feature) has one winner, the key whose score and value made it, and only
// winners have a gradient. A sub-gradient: ties go to the lowest key, and inside a score to the lowest feature.
//
//   search   a tile of queries walks its keys as in forward and notes in which run of keys each (query, feature) was last improved; a second walk
//            over the tiles of those runs finds the key. Winners and the derivative before the exit map: N x dv numbers a head, nothing of size N M.
//   scatter  a key head takes its queries in order: dv_j += dc, the scores of a query's winners get the sums over what they won, and each goes back through
//            the score chain and the contraction to q and k.
//
// Search runs on all threads, scatter on one a key head: about a tenth of the work. NaN wins nothing, and sends nothing back.
#pragma once

#include <heed/engine/cpu/contraction_pull.hpp>
#include <heed/engine/cpu/pairwise_forward.hpp>
#include <heed/engine/gradient_problem.hpp>
#include <heed/engine/reference/pairwise_forward.hpp>

#include <cstring>
#include <limits>

namespace heed {

template <class M, class E, class A>
struct winners_backward : private pairwise_forward<M, E, A> {
    static constexpr std::string_view name = "cpu.pairwise.winners_backward";

private:
    using forward = pairwise_forward<M, E, A>;
    using typename forward::T, typename forward::V, typename forward::cut, typename forward::mix, typename forward::mix_ring, typename forward::ring, typename forward::slot,
        typename forward::context, typename forward::cursor, typename forward::key_tile, typename forward::score_type, typename forward::normalizer_type;
    using forward::lanes;
    using problem = pairwise_gradient_problem<M, E>;
    static_assert(is_plain<decltype(decltype(M::load)::q)> && is_plain<decltype(decltype(M::load)::k)> && is_plain<decltype(decltype(M::load)::v)>,
                  "heed: backward of values gathered by a maximum reads rows as they lie; apply a loader's map before");
    static_assert(requires { mix_ring::better(T(0), T(0)); }, "heed: a mix ring that picks one of its terms says which of two is better(a, b)");

public:
    using forward::C, forward::pitch;

private:
    static constexpr extent_t run_keys = 32;
    static_assert(C.keys % run_keys == 0);

    // What all threads share: per query head, row after row.
    struct shared {
        std::int32_t* winner; // [B][H][N][dv], -1: none
        T* dc;                // [B][H][N][dv]
        shared(arena& a, problem const& x) {
            extent_t const all = x.q.extent(0) * x.q.extent(1) * x.q.extent(2) * x.v.extent(3);
            winner = a.template take<std::int32_t>(all);
            dc = a.template take<T>(all);
        }
    };
    struct search_slot : slot {
        T* before; // [dv][pitch], what was gathered before a run of keys
        T *values, *scores_of_row; // of one tile: [dv][keys], [pitch][keys], a vector more each
        std::int32_t *order, *start; // [dv][pitch]: (query, feature) pairs by the tile that they are in; [tiles + 2]: where a tile's begin
        T* from;   // [dv][pitch], numbers of runs: where the best value so far came from, -1: nowhere
        search_slot(arena& a, problem const& x) : slot(a, x.q.extent(3), x.v.extent(3), x.v.extent(2), 1) {
            before = a.template take<T>(x.v.extent(3) * pitch);
            values = a.template take<T>(x.v.extent(3) * C.keys + lanes);
            scores_of_row = a.template take<T>(pitch * C.keys + lanes);
            order = a.template take<std::int32_t>(x.v.extent(3) * pitch);
            start = a.template take<std::int32_t>((x.k.extent(2) + C.keys - 1) / C.keys + 2);
            from = a.template take<T>(x.v.extent(3) * pitch);
        }
    };
    struct scatter_slot {
        T *dk, *dv, *dq, *q, *k, *operand, *ds;
        std::int32_t *place, *keys; // of a key in the list of this query's winners; the list
        scatter_slot(arena& a, problem const& x) {
            extent_t const d = x.q.extent(3), e = x.v.extent(3), m = x.k.extent(2);
            dk = a.template take<T>(m * d), dv = a.template take<T>(m * e);
            dq = a.template take<T>(d), q = a.template take<T>(d), k = a.template take<T>(d), operand = a.template take<T>(d), ds = a.template take<T>(e);
            place = a.template take<std::int32_t>(m), keys = a.template take<std::int32_t>(e);
        }
    };
    template <class Slot>
    static std::size_t bytes_of(problem const& x) {
        arena count(nullptr);
        Slot(count, x);
        return count.bytes();
    }
    static extent_t query_tiles(problem const& x) { return (x.q.extent(2) + pitch - 1) / pitch; }
    static int slots_for(extent_t items, int concurrency) { return items < 1 ? 1 : items < concurrency ? static_cast<int>(items) : concurrency; }
    static extent_t searches(problem const& x) { return x.q.extent(0) * x.q.extent(1) * query_tiles(x); }
    static extent_t scatters(problem const& x) { return x.k.extent(0) * x.k.extent(1); }

public:
    static std::size_t workspace_bytes(problem const& x, int concurrency) {
        arena all(nullptr);
        shared(all, x);
        std::size_t const search = bytes_of<search_slot>(x) * static_cast<std::size_t>(slots_for(searches(x), concurrency));
        std::size_t const scatter = bytes_of<scatter_slot>(x) * static_cast<std::size_t>(slots_for(scatters(x), concurrency));
        return all.bytes() + (search > scatter ? search : scatter);
    }
    template <class Executor>
    static void run(problem const& x, Executor& executor, int concurrency, std::byte* workspace) {
        arena memory(aligned(workspace));
        shared const all(memory, x);
        std::byte* const base = aligned(workspace) + memory.bytes();
        pairwise_problem<E> const as_forward{x.q, x.k, x.v, {}, {}, 0};
        detail::for_each_item<A>(executor, slots_for(searches(x), concurrency), searches(x), [&](extent_t item, int s) noexcept {
            arena own(base + static_cast<std::size_t>(s) * bytes_of<search_slot>(x));
            search_slot mine(own, x);
            extent_t const number = item / query_tiles(x), t = query_tiles(x) - 1 - item % query_tiles(x);
            place const at = x.at(number / x.q.extent(1), number % x.q.extent(1));
            range const rows = intersect({0, at.queries}, {t * pitch, (t + 1) * pitch});
            if (rows.size() > 0) { search({x.m, as_forward, at, mine}, mine, rows, x, all); }
        });
        detail::for_each_item<A>(executor, slots_for(scatters(x), concurrency), scatters(x), [&](extent_t item, int s) noexcept {
            arena own(base + static_cast<std::size_t>(s) * bytes_of<scatter_slot>(x));
            scatter_slot const mine(own, x);
            scatter(x, all, item / x.k.extent(1), item % x.k.extent(1), mine);
        });
    }

private:
    static extent_t row_of(problem const& x, place const& at, extent_t i) { return ((at.batch * x.q.extent(1) + at.head) * x.q.extent(2) + i) * x.v.extent(3); }

    static void search(context const& c, search_slot& mem, range rows, problem const& x, shared const& all) {
        extent_t const dv = c.out_width();
        cursor h{c, rows, static_cast<int>((rows.size() + lanes - 1) / lanes), mem.tile[0].q, mem.tile[0].o, mem.tile[0].state};
        if constexpr (detail::has_operand<ring>) {
            for (extent_t e = 0; e < c.width(); ++e) { mem.operand[e] = static_cast<T>(detail::head_of(c.m.score).operand(c.at, e)); }
        }
        forward::begin(h);
        for (extent_t n = 0; n < dv * pitch; ++n) { mem.from[n] = T(-1), mem.before[n] = h.o[n]; }
        range const hull = detail::hull_of(c.m.pattern, c.at, rows);
        for (extent_t t = hull.begin / C.keys * C.keys; t < hull.end; t += C.keys) {
            key_tile keys{intersect(hull, {t, t + C.keys}), {}, {}};
            int const count = scores_of(h, keys);
            if (count == 0) { continue; }
            for (extent_t r = t; r < keys.cols.end; r += run_keys) { // run by run: the fewer keys, the shorter the search for one of them
                int const parts = cut_out(mem.cut, count, static_cast<int>(r - keys.cols.begin), mem.plain);
                if (parts == 0) { continue; }
                mix::run(keys.v.data, keys.v.stride, mem.s, mem.plain, parts, h.o, mem.factor, dv, h.vecs);
                V const here(r / run_keys);
                for (extent_t n = 0; n < dv * pitch; n += lanes) {
                    V const now = V::load(h.o + n);
                    select(now != V::load(mem.before + n), here, V::load(mem.from + n)).store(mem.from + n);
                    now.store(mem.before + n);
                }
            }
        }
        for (extent_t i = 0; i < rows.size(); ++i) {
            for (extent_t e = 0; e < dv; ++e) {
                T const up = static_cast<T>(x.dout(c.at.batch, c.at.head, rows.begin + i, e));
                bool const won = mem.from[e * pitch + i] >= 0;
                all.winner[row_of(x, c.at, rows.begin + i) + e] = -1;
                all.dc[row_of(x, c.at, rows.begin + i) + e] = !won ? T(0) : up * slope_of_exit(c.m.normalizer, h.o[e * pitch + i]);
            }
        }
        sort_by_tile(mem, rows.size(), dv, (x.k.extent(2) + C.keys - 1) / C.keys);
        for (extent_t t = hull.begin / C.keys * C.keys; t < hull.end; t += C.keys) { find(h, mem, t, hull, x, all); }
    }
    static constexpr extent_t runs = C.keys / run_keys; // of a tile
    static void sort_by_tile(search_slot& mem, extent_t n, extent_t dv, extent_t tiles) {
        for (extent_t t = 0; t < tiles + 2; ++t) { mem.start[t] = 0; }
        auto const each = [&](auto const& f) {
            for (extent_t e = 0; e < dv; ++e) {
                for (extent_t i = 0; i < n; ++i) {
                    if (T const where = mem.from[e * pitch + i]; where >= T(0)) { f(static_cast<extent_t>(where) / runs, static_cast<std::int32_t>(e * pitch + i)); }
                }
            }
        };
        each([&](extent_t tile, std::int32_t) { ++mem.start[tile + 2]; });
        for (extent_t t = 2; t < tiles + 2; ++t) { mem.start[t] += mem.start[t - 1]; }
        each([&](extent_t tile, std::int32_t at) { mem.order[mem.start[tile + 1]++] = at; }); // now start[t] is where tile t begins
    }
    static T slope_of_exit(normalizer_type const& n, T gathered) {
        if constexpr (requires { n.finish_slope(gathered); }) {
            return n.finish_slope(gathered);
        } else {
            return T(1);
        }
    }
    // The segments' share of the run of keys that begins at `begin`.
    static int cut_out(segment const* all, int count, int begin, segment* to) {
        int made = 0;
        for (int g = 0; g < count; ++g) {
            segment part = all[g];
            part.begin = part.begin > begin ? part.begin : begin;
            part.end = part.end < begin + int(run_keys) ? part.end : begin + int(run_keys);
            if (part.begin < part.end) { to[made++] = part; }
        }
        return made;
    }
    // Weights of one tile of pairs; how many segments.
    static int scores_of(cursor const& h, key_tile& keys) {
        slot& mem = h.mem;
        int const count = cut{h.m.pattern, h.at, h.rows, h.vecs, mem.words}(keys.cols, mem.cut);
        if (count == 0) { return 0; }
        forward::load_keys(h, keys);
        forward::score_pairs(h, keys, count, false);
        if (forward::weighs || h.odd || keys.odd_k) { forward::weigh(h, count); }
        for (int w = 0; w < h.vecs; ++w) { V(1).store(mem.factor + w * lanes); }
        return count;
    }
    // The keys of what tile t won: the first whose score and value give what was gathered, bit by bit.
    static void find(cursor const& h, search_slot& mem, extent_t t, range hull, problem const& x, shared const& all) {
        extent_t const dv = h.out_width(), tile = t / C.keys;
        if (mem.start[tile] == mem.start[tile + 1]) { return; }
        key_tile keys{intersect(hull, {t, t + C.keys}), {}, {}};
        int const count = scores_of(h, keys);
        // Both turned, so that a run's keys lie side by side. NaN where no segment is: it equals nothing.
        pack_transposed<A>(keys.v.data, keys.v.stride, extent_t(1), keys.cols.size(), dv, mem.values, extent_t(C.keys), extent_t(C.keys));
        for (extent_t y = 0; y < C.keys * pitch; y += lanes) { V(std::numeric_limits<T>::quiet_NaN()).store(mem.scores_of_row + y); }
        for (int g = 0; g < count; ++g) {
            segment const& part = mem.cut[g];
            extent_t const from = extent_t(part.first) * lanes, size = part.end - part.begin;
            pack_transposed<A>(mem.s + part.begin * pitch + from, pitch, extent_t(1), size, extent_t(part.last) * lanes - from, mem.scores_of_row + from * C.keys + part.begin, extent_t(C.keys), size);
        }
        for (std::int32_t p = mem.start[tile]; p < mem.start[tile + 1]; ++p) {
            std::int32_t const at = mem.order[p];
            extent_t const e = at / pitch, i = at % pitch, run = static_cast<extent_t>(mem.from[at]) * run_keys - keys.cols.begin, begin = run > 0 ? run : 0, end = run + run_keys;
            T const *const v = mem.values + e * C.keys, *const s = mem.scores_of_row + i * C.keys;
            V const gathered(h.o[at]);
            extent_t j = begin;
            while (j < end && !any_of(mix_ring::combine(V::load(v + j), V::load(s + j)) == gathered)) { j += lanes; }
            while (j < end && mix_ring::combine(v[j], s[j]) != h.o[at]) { ++j; }
            all.winner[row_of(x, h.at, h.rows.begin + i) + e] = static_cast<std::int32_t>(keys.cols.begin + j);
        }
    }
    static bool any_of(typename V::mask_type m) { return any(m); }

    // Nothing that a chain's data would get is wanted.
    struct no_sink {
        static constexpr bool wanted = false;
    };
    static void row_out(T const* from, tensor_view<E> const& x, extent_t b, extent_t h, extent_t i) {
        if (x.data_handle() != nullptr) { unpack_rows<A>(from, x.extent(3), extent_t(1), x.extent(3), x.row(b, h, i), x.stride(2), x.stride(3)); }
    }

    static void scatter(problem const& x, shared const& all, extent_t b, extent_t kv, scatter_slot const& mem) {
        extent_t const d = x.q.extent(3), dv = x.v.extent(3), keys = x.k.length(b), group = x.q.extent(1) / x.k.extent(1);
        std::memset(mem.dk, 0, static_cast<std::size_t>(keys * d) * sizeof(T));
        std::memset(mem.dv, 0, static_cast<std::size_t>(keys * dv) * sizeof(T));
        for (extent_t j = 0; j < keys; ++j) { mem.place[j] = -1; }
        for (extent_t g = 0; g < group; ++g) {
            place const at = x.at(b, kv * group + g);
            if constexpr (detail::has_operand<ring>) {
                for (extent_t e = 0; e < d; ++e) { mem.operand[e] = static_cast<T>(detail::head_of(x.m.score).operand(at, e)); }
            }
            for (extent_t i = 0; i < at.queries; ++i) { row(x, all, at, i, mem); }
        }
        for (extent_t j = 0; j < keys; ++j) {
            row_out(mem.dk + j * d, x.dk, b, kv, j);
            row_out(mem.dv + j * dv, x.dv, b, kv, j);
        }
    }
    static void row(problem const& x, shared const& all, place const& at, extent_t i, scatter_slot const& mem) {
        extent_t const d = x.q.extent(3), dv = x.v.extent(3), first = row_of(x, at, i);
        std::int32_t count = 0;
        for (extent_t e = 0; e < dv; ++e) {
            std::int32_t const j = all.winner[first + e];
            if (j < 0) { continue; }
            T const dc = all.dc[first + e];
            mem.dv[j * dv + e] += dc;
            if (mem.place[j] < 0) {
                mem.place[j] = count;
                mem.keys[count] = j;
                mem.ds[count++] = T(0);
            }
            mem.ds[mem.place[j]] += dc;
        }
        for (extent_t e = 0; e < d; ++e) { mem.dq[e] = T(0); }
        T const* const q = load_rows<A>(plain{}, operand::of_query(at), range{i, i + 1}, x.q, mem.q).data;
        auto const contraction = detail::contraction_of(x.m.score);
        for (std::int32_t n = 0; n < count; ++n) {
            std::int32_t const j = mem.keys[n];
            mem.place[j] = -1;
            T const* const k = load_rows<A>(plain{}, operand::of_key(at), range{j, extent_t(j) + 1}, x.k, mem.k).data;
            T const up = pull_chain(x, at, i, j, contraction, k, q, mem.operand, mem.ds[n]) * static_cast<T>(detail::leading_factor(x.m.score, at));
            detail::pull_pair<A>(contraction, k, q, mem.operand, d, up, mem.dq, mem.dk + j * d);
        }
        row_out(mem.dq, x.dq, at.batch, at.head, i);
    }
    // Derivative by the score after the leading factors, from that by the last.
    static T pull_chain([[maybe_unused]] problem const& x, [[maybe_unused]] place const& at, [[maybe_unused]] extent_t i, [[maybe_unused]] extent_t j, [[maybe_unused]] ring const& contraction,
                        [[maybe_unused]] T const* k, [[maybe_unused]] T const* q, [[maybe_unused]] T const* operand, T up) {
        if constexpr (detail::is_linear<score_type> || detail::is_raw<score_type>) {
            return up;
        } else {
            auto sum = ring::template zero<T>();
            for (extent_t c = 0; c < at.width; ++c) {
                if constexpr (detail::has_operand<ring>) {
                    sum = contraction.step(sum, k[c], q[c], operand[c]);
                } else {
                    sum = contraction.step(sum, k[c], q[c]);
                }
            }
            T const raw = detail::finish_sum<ring, T>(contraction, sum, at.width) * static_cast<T>(detail::leading_factor(x.m.score, at));
            no_sink none;
            return detail::pull(x.m.score, raw, detail::scalar_pair<T>{at, i, j}, up, none);
        }
    }
};

} // namespace heed
