// SPDX-License-Identifier: BSD-3-Clause
// Backward where a pattern sees arcs of rings, on the CPU: one pass of five products over exactly the pairs that exist, strip by strip as forward does.
//
//   scores   s[x][r] = k(x, r) . q_r, dp[x][r] = v(x, r) . dO_r
//   bend     p = weight(s), ds = derivative (dp - centre_r), pulled back through the score chain
//   sums     dq_r += sum_x ds[x][r] k(x, r)
//   scatter  dv(x, r) += p[x][r] dO_r, dk(x, r) += ds[x][r] q_r
//
// Rings of queries are cut into at most eight bands of about equal work. What a band's strips send to a ring of keys is added up in the order of the strips, in dk
// and dv themselves where no other band sees the ring, else in a partial copy of it; copies are added in the order of the bands: bits do not depend on
// threads. Memory: the rings that two bands see (all of them, where elements have 16 bits or features are strided).
// Gradients of the policies' own data, where wanted, come from pairwise_backward.
#pragma once

#include <heed/engine/cpu/pairwise_backward.hpp>
#include <heed/engine/cpu/ring_forward.hpp>

namespace heed {

template <class M, class E, class A>
struct ring_backward {
    static constexpr std::string_view name = "cpu.rings.backward";

private:
    using forward = ring_forward<M, E, A>;
    using strip = typename forward::strip;
    using T = typename strip::T;
    using V = typename strip::V;
    using I = typename strip::I;
    using products = typename strip::products;
    using bands_type = typename strip::bands_type;
    using normalizer_type = typename forward::normalizer_type;
    using row_type = typename forward::row_type;
    using problem = pairwise_gradient_problem<M, E>;
    using with_data = pairwise_backward<M, E, A>;
    using gradients = score_gradients<decltype(M::score), T, A, strip::C>;
    static constexpr int lanes = strip::lanes, rows = strip::rows, kept = forward::kept;
    static constexpr extent_t most_bands = 8;
    static constexpr extent_t padded(extent_t n) { return strip::padded(n); }
    struct no_sink {
        static constexpr bool wanted = false;
    };

    // Bands of query rings [edge[n], edge[n + 1]), the rings of keys that they see, those that they alone see, and where their partial rings start.
    struct division {
        extent_t bands = 0, edge[most_bands + 1] = {}, start[most_bands + 1] = {};
        range keys[most_bands], own[most_bands];
        typename strip::window_size window{};

        bool owns(extent_t band, extent_t ring) const { return own[band].begin <= ring && ring < own[band].end; }
        extent_t place_of(extent_t band, extent_t ring) const { return start[band] + ring - keys[band].begin - (ring < own[band].begin ? 0 : own[band].size()); }
    };
    static bool in_place(tensor_view<E> const& x) { return std::is_same_v<E, T> && (x.data_handle() == nullptr || x.stride(3) == 1); }
    static extent_t work_of(bands_type const& b, extent_t a) {
        extent_t n = 1;
        for (extent_t c = b.first_ring(a); c < b.end_ring(a); ++c) {
            extent_t const w = b.half_width(a, c);
            n += w < 0 ? 0 : b.whole(w) ? b.key_longitudes : 2 * w / b.key_step + 1;
        }
        return n;
    }
    static division divide(problem const& x) {
        bands_type const& b = x.m.pattern.rings();
        division by;
        extent_t all = 0, done = 0;
        for (extent_t a = 0; a < b.query_rings; ++a) { all += work_of(b, a); }
        for (extent_t a = 0; a < b.query_rings; ++a) {
            done += work_of(b, a);
            if (done * most_bands >= all * (by.bands + 1)) { by.edge[++by.bands] = a + 1; }
        }
        for (extent_t n = 0; n < by.bands; ++n) { by.keys[n] = strip::key_rings(b, {by.edge[n], by.edge[n + 1]}); }
        for (extent_t n = 0; n < by.bands; ++n) {
            range own = by.keys[n];
            for (extent_t other = 0; other < by.bands; ++other) {
                if (other < n && by.keys[other].end > own.begin) { own.begin = by.keys[other].end; }
                if (other > n && by.keys[other].begin < own.end) { own.end = by.keys[other].begin; }
            }
            bool const any = in_place(x.dk) && in_place(x.dv) && own.size() > 0;
            by.own[n] = any ? own : range{by.keys[n].end, by.keys[n].end};
            by.start[n + 1] = by.start[n] + by.keys[n].size() - by.own[n].size();
        }
        by.window = strip::largest(b, [&](auto const& f) {
            for (extent_t n = 0; n < by.bands; ++n) {
                for (extent_t a = by.edge[n]; a < by.edge[n + 1]; a += strip::rings_of_strip) { f(intersect({a, a + strip::rings_of_strip}, {0, by.edge[n + 1]})); }
            }
        });
        return by;
    }
    struct slot {
        typename strip::window window;
        typename strip::slots slots;
        T *q, *scaled, *dout, *out, *dq, *dp, *kept_pairs, *dk, *dv, *ones;
        slot(arena& a, division const& by, extent_t d, extent_t dv_width) : window(a, by.window, d, dv_width), slots(a) {
            for (T** p : {&q, &scaled, &dq}) { *p = a.template take<T>(rows * padded(d)); }
            for (T** p : {&dout, &out}) { *p = a.template take<T>(rows * padded(dv_width)); }
            for (T** p : {&dp, &kept_pairs}) { *p = a.template take<T>((strip::chunk + products::slots) * rows); }
            dk = a.template take<T>(by.window.rows * padded(d));
            dv = a.template take<T>(by.window.rows * padded(dv_width));
            ones = a.template take<T>(rows);
        }
    };
    // Of all bands of all key heads.
    struct shared {
        T *dk, *dv; // [B][Hkv][partial rings of all bands][longitudes]
        shared(arena& a, problem const& x, division const& by) {
            extent_t const all = x.k.extent(0) * x.k.extent(1) * by.start[by.bands] * x.m.pattern.rings().key_longitudes;
            dk = a.template take<T>(all * padded(x.k.extent(3)));
            dv = a.template take<T>(all * padded(x.v.extent(3)));
        }
    };
    static bool wants_data(problem const& x) {
        bool wanted = x.wants_leading_factor;
        if constexpr (requires { typename normalizer_type::gradient; }) { wanted = wanted || x.normalizer_gradient.own.d.data_handle() != nullptr; }
        if constexpr (gradients::any) { wanted = wanted || gradients{x.m.score, x.score_gradients, x.q.extent(0), x.q.extent(1), x.k.extent(2), 1}.wants_any(); }
        return wanted;
    }
    static int slots_of(problem const& x, extent_t items, int concurrency) {
        extent_t const rings = x.m.pattern.rings().key_rings * x.k.extent(0) * x.k.extent(1), most = items > rings ? items : rings;
        return most < 1 ? 1 : most < concurrency ? static_cast<int>(most) : concurrency;
    }
    static std::size_t slot_bytes(problem const& x, division const& by) {
        arena one(nullptr);
        slot(one, by, x.q.extent(3), x.v.extent(3));
        return one.bytes();
    }

public:
    static constexpr tile_config C = strip::C;
    static constexpr extent_t pitch = rows;

    static std::size_t workspace_bytes(problem const& x, int concurrency) {
        if (wants_data(x)) { return with_data::workspace_bytes(x, concurrency); }
        division const by = divide(x);
        arena all(nullptr);
        shared(all, x, by);
        return all.bytes() + slot_bytes(x, by) * static_cast<std::size_t>(slots_of(x, by.bands * x.k.extent(0) * x.k.extent(1), concurrency));
    }
    template <class Executor>
    static void run(problem const& x, Executor& executor, int concurrency, std::byte* workspace) {
        if (wants_data(x)) { return with_data::run(x, executor, concurrency, workspace); }
        bands_type const& b = x.m.pattern.rings();
        division const by = divide(x);
        arena memory(aligned(workspace));
        shared const all(memory, x, by);
        std::byte* const base = aligned(workspace) + memory.bytes();
        extent_t const heads = x.k.extent(0) * x.k.extent(1);
        std::size_t const bytes = slot_bytes(x, by);
        int const slots = slots_of(x, by.bands * heads, concurrency);
        detail::for_each_item<A>(executor, slots, by.bands * heads, [&](extent_t item, int s) noexcept {
            arena own(base + static_cast<std::size_t>(s) * bytes);
            slot mine(own, by, x.q.extent(3), x.v.extent(3));
            for (int r = 0; r < rows; ++r) { mine.ones[r] = T(1); }
            walk_band(x, by, all, item % heads, item / heads, mine);
        });
        detail::for_each_item<A>(executor, slots, b.key_rings * heads, [&](extent_t item, int) noexcept { write_ring(x, by, all, item / b.key_rings, item % b.key_rings); });
    }

private:
    // The sums of one band for one tensor.
    struct sums_of_band {
        problem const& x;
        division const& by;
        tensor_view<E> const& to;
        T* all;
        place const& at;
        extent_t head, band;
        T factor;
        extent_t turn() const { return x.m.pattern.rings().key_longitudes; }
        extent_t width() const { return to.extent(3); }
        T* partial(extent_t ring) const { return all + (head * by.start[by.bands] + by.place_of(band, ring)) * turn() * padded(width()); }
        range rows_of(extent_t ring) const { return intersect({ring * turn(), (ring + 1) * turn()}, {0, at.keys}); }

        void clear() const {
            if (to.data_handle() == nullptr) { return; }
            for (extent_t c = by.keys[band].begin; c < by.keys[band].end; ++c) {
                if (!by.owns(band, c)) {
                    std::memset(partial(c), 0, static_cast<std::size_t>(turn() * padded(width())) * sizeof(T));
                } else {
                    for (extent_t j = rows_of(c).begin; j < rows_of(c).end; ++j) { std::memset(to.row(at.batch, at.kv_head, j), 0, static_cast<std::size_t>(width()) * sizeof(E)); }
                }
            }
        }
        // Keys [key, key + n) of one ring.
        void add(T const* from, extent_t key, extent_t n) const {
            extent_t const ring = key / turn(), pitch_of_row = padded(width());
            if (to.data_handle() == nullptr) { return; }
            if (!by.owns(band, ring)) { return add_rows(from, partial(ring) + (key - ring * turn()) * pitch_of_row, n * pitch_of_row, T(1)); }
            if constexpr (std::is_same_v<E, T>) {
                for (extent_t r = 0; r < n && key + r < at.keys; ++r) { add_rows(from + r * pitch_of_row, to.row(at.batch, at.kv_head, key + r), width(), factor); }
            }
        }
    };
    static void add_rows(T const* from, T* to, extent_t n, T factor) {
        extent_t i = 0;
        for (; i + lanes <= n; i += lanes) { fma(V::load(from + i), V(factor), V::load(to + i)).store(to + i); }
        for (; i < n; ++i) { to[i] += from[i] * factor; }
    }

    static void walk_band(problem const& x, division const& by, shared const& all, extent_t head, extent_t band, slot& mem) {
        bands_type const& b = x.m.pattern.rings();
        extent_t const d = x.q.extent(3), dv = x.v.extent(3), kv = x.k.extent(1), group = x.q.extent(1) / kv;
        place const here = x.at(head / kv, head % kv * group);
        sums_of_band const dk{x, by, x.dk, all.dk, here, head, band, static_cast<T>(detail::leading_factor(x.m.score, here))}, dvalue{x, by, x.dv, all.dv, here, head, band, T(1)};
        dk.clear();
        dvalue.clear();
        for (extent_t a = by.edge[band]; a < by.edge[band + 1]; a += strip::rings_of_strip) {
            for (extent_t y = 0; y < strip::members(b); y += strip::members_of_strip) {
                typename strip::extent const of{intersect({a, a + strip::rings_of_strip}, {0, by.edge[band + 1]}), intersect({y, y + strip::members_of_strip}, {0, strip::members(b)})};
                mem.window.place(b, of);
                std::memset(mem.dk, 0, static_cast<std::size_t>(mem.window.count * padded(d)) * sizeof(T));
                std::memset(mem.dv, 0, static_cast<std::size_t>(mem.window.count * padded(dv)) * sizeof(T));
                for (extent_t g = 0; g < group; ++g) {
                    place const at = x.at(head / kv, head % kv * group + g);
                    mem.window.pack(x.m, at, x.k, x.v);
                    strip::each_block(b, of, at, [&](typename strip::block const& queries) { attend(x, at, queries, mem); });
                }
                mem.window.each_stretch(b, [&](extent_t row, extent_t key, extent_t n) {
                    dk.add(mem.dk + row * padded(d), key, n);
                    dvalue.add(mem.dv + row * padded(dv), key, n);
                });
            }
        }
    }

    static void attend(problem const& x, place const& at, typename strip::block const& of, slot& mem) {
        extent_t const d = padded(at.width), dv = padded(x.v.extent(3));
        range const south = forward::next_rows(x.m.pattern.rings(), at, of);
        tensor_view<E const> const read[] = {x.q, x.dout, x.out}; // a list inside the loop's head is more than nvcc can read
        for (tensor_view<E const> const& view : read) { expect_rows<false>(view, at.batch, at.head, south); }
        forward::pack_queries(x.q, at, of, T(1), mem.q);
        std::memcpy(mem.scaled, mem.q, static_cast<std::size_t>(rows * d) * sizeof(T));
        if (T const lead = forward::lead(x.m, at); lead != T(1)) { scale_in_place<A>(mem.scaled, rows * d, lead); }
        forward::pack_queries(x.dout, at, of, T(1), mem.dout);
        for (extent_t e = 0; e < rows * d; e += lanes) { V(0).store(mem.dq + e); }
        row_type const row = resumed(x, at, of);
        V const centre = centre_of(x, at, of, mem);
        typename strip::slots& s = mem.slots;
        typename strip::cursor next{x.m.pattern.rings().first_ring(of.ring)};
        while (strip::next(x.m, at, of, mem.window, next, s)) {
            int const all = s.vectors() * products::slots;
            products::scores(mem.scaled, mem.window.k, d, s.runs, s.run_count, s.at, all, s.s);
            products::scores(mem.dout, mem.window.v, dv, s.runs, s.run_count, s.at, all, mem.dp);
            if (bend(x, at, of, row, centre, mem)) [[unlikely]] {
                forward::sums_of_kept(s, mem.dp, mem.window.k, d, mem.kept_pairs, mem.ones, mem.dq);
                scatter_of_kept(s, s.s, mem.dout, dv, mem.kept_pairs, of.valid, mem.dv);
                scatter_of_kept(s, mem.dp, mem.q, d, mem.kept_pairs, of.valid, mem.dk);
            } else {
                products::sums(mem.window.k, d, s.runs, s.run_count, mem.dp, mem.ones, mem.dq);
                if (x.dv.data_handle() != nullptr) { products::scatter(mem.dout, dv, s.runs, s.run_count, s.s, of.valid, mem.dv); }
                if (x.dk.data_handle() != nullptr) { products::scatter(mem.q, d, s.runs, s.run_count, mem.dp, of.valid, mem.dk); }
            }
        }
        if (x.dq.data_handle() == nullptr) { return; }
        scale_in_place<A>(mem.dq, rows * d, static_cast<T>(detail::leading_factor(x.m.score, at)));
        for (int r = 0; r < of.valid; ++r) { unpack_rows<A>(mem.dq + r * d, d, extent_t(1), at.width, x.dq.row(at.batch, at.head, of.query[r]), x.dq.stride(2), x.dq.stride(3)); }
    }
    // A number of each query, in all lanes that are its own.
    static V of_rows(tensor_view<T const> const& x, place const& at, typename strip::block const& of, int feature, double unit) {
        T lane[lanes];
        for (int r = 0; r < rows; ++r) { lane[r] = static_cast<T>(static_cast<double>(x(at.batch, at.head, of.query[r], feature)) * unit); }
        for (int l = rows; l < lanes; ++l) { lane[l] = lane[l % rows]; }
        return V::load(lane);
    }
    static row_type resumed(problem const& x, place const& at, typename strip::block const& of) {
        if constexpr (kept == 2) {
            return x.m.normalizer.template resume<V>(at, of_rows(x.saved, at, of, 0, x.saved_unit), of_rows(x.saved, at, of, 1, x.saved_unit));
        } else if constexpr (kept == 1) {
            return x.m.normalizer.template resume<V>(at, of_rows(x.saved, at, of, 0, x.saved_unit));
        } else {
            return x.m.normalizer.template resume<V>(at, V(0));
        }
    }
    // dO . out in the order of dp: a query that sees one key has out = v, and its ds is exactly 0.
    static V centre_of(problem const& x, place const& at, typename strip::block const& of, slot& mem) {
        V centre(0);
        if constexpr (normalizer_type::centred == centre::output) {
            slot_run const self{0, 1, {0, 1, 2, 3}, 1};
            typename strip::index self_at[lanes];
            T sum[lanes];
            for (int l = 0; l < lanes; ++l) { self_at[l] = static_cast<typename strip::index>(l % rows); }
            forward::pack_queries(x.out, at, of, T(1), mem.out);
            products::scores(mem.dout, mem.out, padded(x.v.extent(3)), &self, 1, self_at, products::slots, sum);
            centre = V::load(sum);
        }
        if (x.dsaved.data_handle() != nullptr) { centre = centre - of_rows(x.dsaved, at, of, 0, x.dsaved_unit); }
        return centre;
    }
    // p in place of s, ds in place of dp. True if some pair may be masked; kept_pairs then says which are not.
    static bool bend(problem const& x, place const& place_of, typename strip::block const& of, row_type const& row_of, V middle, slot& mem) {
        typename strip::slots& t = mem.slots;
        auto const score = x.m.score; // copies: storing changes no parameter
        auto const normalizer = x.m.normalizer;
        place const at = place_of;
        row_type const row = row_of;
        I const i = forward::positions_of(of);
        V const none = -math::inf<V>();
        V least(0);
        int const last = t.vectors() - 1;
        for (int y = 0; y <= last; ++y) {
            int const offset = y * lanes;
            V const raw = V::load(t.s + offset);
            detail::lane_pair<V> const pair{at, i, forward::keys_at(t, offset), t.table, offset};
            V const s = forward::final_score(score, raw, pair);
            V p = normalizer.weight(row, s);
            V ds = normalizer.derivative(row, s, p) * (V::load(mem.dp + offset) - middle);
            if constexpr (forward::masks) {
                p = select(s == none, V(0), p); // a row that is NaN elsewhere
                ds = select(s == none, V(0), ds);
            }
            if constexpr (!forward::linear) {
                no_sink sink;
                ds = detail::pull(score, raw, pair, ds, sink);
            }
            if constexpr (forward::masks) {
                ds = select(s == none, V(0), ds);
                select(s == none, V(0), V(1)).store(mem.kept_pairs + offset);
                least = min(least, y == last ? select(t.last_lanes(), s, V(0)) : s);
            }
            p.store(t.s + offset);
            ds.store(mem.dp + offset);
        }
        return forward::masks && !all(least > none);
    }
    HEED_COLD static void scatter_of_kept(typename strip::slots const& x, T const* p, T const* q, extent_t width, T const* kept_pairs, int valid, T* g) {
        for (int n = 0; n < x.count * rows; ++n) {
            if (kept_pairs[n] == T(0) || n % rows >= valid) { continue; }
            T const* const from = q + n % rows * width;
            T* const to = g + static_cast<extent_t>(x.at[n]) * width;
            for (extent_t e = 0; e < width; e += lanes) { fma(V::load(from + e), V(p[n]), V::load(to + e)).store(to + e); }
        }
    }

    // A ring of keys that several bands saw, or none.
    static void write_ring(problem const& x, division const& by, shared const& all, extent_t head, extent_t ring) {
        place const at = x.at(head / x.k.extent(1), head % x.k.extent(1) * (x.q.extent(1) / x.k.extent(1)));
        write_ring({x, by, x.dk, all.dk, at, head, 0, static_cast<T>(detail::leading_factor(x.m.score, at))}, ring);
        write_ring({x, by, x.dv, all.dv, at, head, 0, T(1)}, ring);
    }
    static void write_ring(sums_of_band of, extent_t ring) {
        division const& by = of.by;
        tensor_view<E> const& to = of.to;
        place const& at = of.at;
        range const keys = of.rows_of(ring);
        if (to.data_handle() == nullptr || keys.size() == 0) { return; }
        extent_t const width = of.width(), pitch_of_row = padded(width);
        T* sum = nullptr;
        for (of.band = 0; of.band < by.bands; ++of.band) {
            if (by.owns(of.band, ring)) { return; }
            if (ring < by.keys[of.band].begin || ring >= by.keys[of.band].end) { continue; }
            if (sum == nullptr) { sum = of.partial(ring); }
            else { add_rows(of.partial(ring), sum, keys.size() * pitch_of_row, T(1)); }
        }
        if (sum == nullptr) { // nobody sees it
            for (extent_t j = keys.begin; j < keys.end; ++j) {
                for (extent_t e = 0; e < width; ++e) { to(at.batch, at.kv_head, j, e) = static_cast<E>(T(0)); }
            }
            return;
        }
        if (of.factor != T(1)) { scale_in_place<A>(sum, keys.size() * pitch_of_row, of.factor); }
        unpack_rows<A>(sum, pitch_of_row, keys.size(), width, to.row(at.batch, at.kv_head, keys.begin), to.stride(2), to.stride(3));
    }
};

} // namespace heed
