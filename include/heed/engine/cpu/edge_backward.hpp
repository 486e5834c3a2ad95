// SPDX-License-Identifier: BSD-3-Clause
// Backward of attention along edges on the CPU, two sweeps over the edges, no atomics:
//
//   by target  scores again, weights from what was saved, dp = dO_i . v_j, ds = derivative (dp - centre), back through the chain; dq_i and everything that
//              belongs to the edge; weight and ds of every edge are kept
//   by source  dk_j += ds slope, dv_j += p dO_i over the edges out of j, in the order of the lists
//
// Workspace: two numbers per edge and head (three where a term has a last feature), and the attention vector's gradient per block of targets, summed in a
// fixed order: bits do not depend on threads. Each sweep gathers two rows per edge, as forward does.
#pragma once

#include <heed/engine/cpu/edge_forward.hpp>
#include <heed/policy/score/pull.hpp>

namespace heed {

template <EdgeAttention M, class T, class A>
struct edge_backward {
    static constexpr std::string_view name = "cpu.edge.backward";

    using ahead = edge_forward<M, T, A>;
    using V = typename ahead::V;
    using rows = typename ahead::rows;
    using head_rows = typename ahead::head_rows;
    using piece = typename head_sums<T, A>::piece;
    using normalizer_type = typename ahead::normalizer_type;
    using row_type = typename ahead::row_type;
    using term_type = typename ahead::term_type;
    static constexpr int lanes = V::lanes, kept = ahead::kept;
    static constexpr extent_t chunk = ahead::chunk;
    static constexpr bool with_edges = ahead::with_edges, with_last = ahead::with_last, with_vector = detail::reads_vector<term_type>, adds = ahead::adds;
    static constexpr bool is_product = std::is_same_v<term_type, edge::product>; // sums of rows, then
    static constexpr int numbers = with_last ? 3 : 2; // of an edge and head: weight, ds, ds of the last feature
    static_assert(DifferentiableNormalizer<normalizer_type> && normalizer_type::centred != centre::mean,
                  "heed: backward along edges needs a normalizer whose centre is none or dO . O");

    struct slot {
        typename ahead::slot forward;
        T *dq, *dout, *centre, *p, *ds, *dl, *of_edge, *records;
        T const** values;
        piece *for_q, *for_k, *for_v; // how sums of all heads are cut: of dq, dk, dv
        slot(arena& m, shape q, shape v) : forward(m, q.head, q.feature, v.feature) {
            extent_t const wide = q.feature > v.feature ? q.feature : v.feature;
            dq = m.template take<T>(q.head * (wide + lanes));
            dout = m.template take<T>(q.head * v.feature);
            centre = m.template take<T>(q.head);
            of_edge = m.template take<T>(q.feature);
            p = m.template take<T>(chunk);
            ds = m.template take<T>(chunk);
            dl = m.template take<T>(chunk);
            values = m.template take<T const*>(chunk);
            records = m.template take<T>(chunk * q.head * numbers);
            for_q = m.template take<piece>(head_sums<T, A>::count(q.head, q.feature));
            for_k = m.template take<piece>(head_sums<T, A>::count(q.head, q.feature));
            for_v = m.template take<piece>(head_sums<T, A>::count(q.head, v.feature));
        }
        // group: query heads of a key head, which add to one sum in dk and dv
        void cut(extent_t heads, extent_t group, extent_t d, extent_t dv) {
            cut_one(for_q, heads, 1, d);
            cut_one(for_k, heads, group, d);
            cut_one(for_v, heads, group, dv);
        }
        static void cut_one(piece* to, extent_t heads, extent_t group, extent_t width) {
            for (extent_t h = 0; h < heads; ++h) {
                for (extent_t e = 0; e < width; e += lanes) { *to++ = {h, e, h * numbers, 0, h / group * (lanes + width) + e}; }
            }
        }
    };
    struct layout {
        T *edge, *vector; // [edges][heads][numbers]; [blocks][heads][d]
        std::byte* slots;
        std::size_t slot_bytes;
        layout(arena& m, edge_gradient_problem<T> const& x, edge_list const& edges, int count) {
            edge = m.template take<T>(edges.edges() * x.q.extent(1) * numbers);
            vector = m.template take<T>(with_vector && x.dvector.data_handle() != nullptr ? blocks(x) * x.q.extent(1) * x.q.extent(3) : 0);
            arena one(nullptr);
            slot(one, x.q.shape(), x.v.shape());
            slot_bytes = one.bytes();
            slots = m.template take<std::byte>(static_cast<extent_t>(slot_bytes) * count);
        }
    };
    static extent_t blocks(edge_gradient_problem<T> const& x) { return (x.q.extent(2) + ahead::block_rows(x.q.extent(2)) - 1) / ahead::block_rows(x.q.extent(2)); }
    static std::size_t workspace_bytes(M const& m, edge_gradient_problem<T> const& x, int concurrency) {
        arena count(nullptr);
        layout(count, x, m.edges, concurrency);
        return count.bytes();
    }

    template <class Executor>
    static void run(M const& m, edge_gradient_problem<T> const& x, Executor& executor, int concurrency, std::byte* workspace) {
        arena memory(aligned(workspace));
        layout const all(memory, x, m.edges, concurrency);
        extent_t const targets = x.q.extent(2), sources = x.k.extent(2), H = x.q.extent(1), d = x.q.extent(3);
        extent_t const step = ahead::block_rows(targets), count = blocks(x), source_step = ahead::block_rows(sources), source_blocks = (sources + source_step - 1) / source_step;
        bool const wants_vector = with_vector && x.dvector.data_handle() != nullptr;
        if (wants_vector) { rows::clear(all.vector, count * H * d); }
        for (extent_t b = 0; b < x.q.extent(0); ++b) {
            detail::for_each_item<A>(executor, most(concurrency, count), count, [&](extent_t block, int s) noexcept {
                arena own(all.slots + static_cast<std::size_t>(s) * all.slot_bytes);
                slot mine(own, x.q.shape(), x.v.shape());
                ahead::load_vectors(m, x.q.shape(), mine.forward.a);
                mine.cut(H, ahead::group(H, x.k.extent(1)), d, x.v.extent(3));
                for (extent_t i = block * step; i < targets && i < (block + 1) * step; ++i) { target(m, x, mine, all.edge, wants_vector ? all.vector + block * H * d : nullptr, b, i); }
            });
            detail::for_each_item<A>(executor, most(concurrency, source_blocks), source_blocks, [&](extent_t block, int s) noexcept {
                arena own(all.slots + static_cast<std::size_t>(s) * all.slot_bytes);
                slot mine(own, x.q.shape(), x.v.shape());
                ahead::load_vectors(m, x.q.shape(), mine.forward.a);
                mine.cut(H, ahead::group(H, x.k.extent(1)), d, x.v.extent(3));
                for (extent_t j = block * source_step; j < sources && j < (block + 1) * source_step; ++j) { source(m, x, mine, all.edge, b, j); }
            });
        }
        if (wants_vector) {
            for (extent_t h = 0; h < H; ++h) {
                for (extent_t e = 0; e < d; ++e) {
                    T sum(0);
                    for (extent_t c = 0; c < count; ++c) { sum += all.vector[(c * H + h) * d + e]; }
                    x.dvector(0, h, 0, e) = sum;
                }
            }
        }
    }

private:
    static int most(int concurrency, extent_t items) { return items < 1 ? 1 : items < concurrency ? static_cast<int>(items) : concurrency; }
    struct no_sink {
        static constexpr bool wanted = false;
    };

    // Queries, gradients and centres of all heads first; then the edges a chunk at a time, each with all heads while its rows are near.
    static void target(M const& m, edge_gradient_problem<T> const& x, slot& mem, T* edge, T* vector, extent_t b, extent_t i) {
        extent_t const H = x.q.extent(1), d = x.q.extent(3), dv = x.v.extent(3), group = ahead::group(H, x.k.extent(1));
        range const edges{m.edges.begin(i), m.edges.end(i)};
        typename ahead::slot& f = mem.forward;
        extent_t const pitch = d + lanes; // of dq
        for (extent_t h = 0; h < H; ++h) {
            rows::read(x.q, b, h, i, f.q + h * d);
            rows::read(x.dout, b, h, i, mem.dout + h * dv);
            mem.centre[h] = T(0);
            if constexpr (normalizer_type::centred == centre::output) { mem.centre[h] = dot_with(x.out, x.out.row(b, h, i), mem.dout + h * dv, dv); }
            f.state[h] = resumed(m, x, place_of(m, x, b, h), b, h, i);
        }
        rows::clear(mem.dq, H * pitch);
        for (extent_t begin = edges.begin; begin < edges.end; begin += chunk) {
            extent_t const n = edges.end - begin < chunk ? edges.end - begin : chunk;
            extent_t const next = ahead::chunk_bases(m, x.k, x.v, f, b, i, begin, n);
            for (extent_t h = 0; h < H; ++h) {
                extent_t const kv = h / group;
                typename rows::coming keys, values;
                if (h % group == 0) {
                    keys = rows::rows_to_come(x.k, kv, f.k_next, next, n);
                    values = rows::rows_to_come(x.v, kv, f.v_next, next, n);
                }
                ahead::raw_scores(m, x.k, f, h, kv, f.q + h * d, n, f.s, keys);
                slopes_of_scores(m, x, mem, b, h, kv, i, n, values);
                for (extent_t y = 0; y < n; ++y) {
                    T* const kept_of_edge = edge + ((begin + y) * H + h) * numbers;
                    kept_of_edge[0] = mem.p[y];
                    kept_of_edge[1] = mem.ds[y];
                    if constexpr (with_last) { kept_of_edge[2] = mem.dl[y]; }
                    back_to_target(m, x, mem, vector == nullptr ? nullptr : vector + h * d, b, h, d, m.edges.number(begin + y), y, mem.dq + h * pitch);
                }
            }
            if constexpr (is_product) {
                head_rows const k = head_rows::of(x.k, f.k_base, n, f.copy);
                head_sums<T, A>::run(k.base, n, edge + begin * H * numbers + 1, H * numbers, mem.for_q, head_sums<T, A>::count(H, d), k.step, group, k.base, mem.dq, nullptr, d);
            }
        }
        for (extent_t h = 0; h < H && x.dq.data_handle() != nullptr; ++h) {
            if constexpr (is_product) {
                ahead::write_sums(mem.dq + h * pitch, T(1), x.dq, b, h, i);
            } else {
                rows::write(mem.dq + h * pitch, x.dq, b, h, i);
            }
        }
    }
    static place place_of(M const& m, edge_gradient_problem<T> const& x, extent_t b, extent_t h) {
        return {b, h, h / ahead::group(x.q.extent(1), x.k.extent(1)), x.q.extent(2), m.edges.sources(), x.q.extent(3)};
    }
    static row_type resumed(M const& m, edge_gradient_problem<T> const& x, place const& here, extent_t b, extent_t h, extent_t i) {
        auto const number = [&](int c) { return V(static_cast<T>(static_cast<double>(x.saved(b, h, i, c)) * x.saved_unit)); };
        if constexpr (kept == 2) {
            return m.normalizer.template resume<V>(here, number(0), number(1));
        } else if constexpr (kept == 1) {
            return m.normalizer.template resume<V>(here, number(0));
        } else {
            return m.normalizer.template resume<V>(here, V(0));
        }
    }
    // Weights p and derivatives ds by the raw score (dl by the source's last feature) of the chunk's edges.
    static void slopes_of_scores(M const& m, edge_gradient_problem<T> const& x, slot& mem, extent_t b, extent_t h, extent_t kv, extent_t i, extent_t n, typename rows::coming next_values) {
        typename ahead::slot& f = mem.forward;
        extent_t const d = x.q.extent(3), dv = x.v.extent(3);
        place const here = place_of(m, x, b, h);
        row_type const r = f.state[h];
        T const centre_of_row = mem.centre[h], q_last = with_last ? f.q[h * d + d - 1] : T(0);
        V k_last[chunk / lanes < 1 ? 1 : chunk / lanes];
        for (extent_t y = 0; y < n; y += lanes) { k_last[y / lanes] = ahead::last_features(f, d, y); }
        // dp in dl for now
        T const* const dout = mem.dout + h * dv;
        if (x.v.stride(3) == 1 && !adds) {
            rows::point(x.v, kv, f.v_base, n, nullptr, mem.values);
            rows::scores(edge::product{}, dout, mem.values, nullptr, nullptr, dv, n, mem.dl, next_values);
        } else {
            for (extent_t y = 0; y < n; ++y) {
                mem.dl[y] = dot_with(x.v, f.v_base[y] + kv * x.v.stride(1), dout, dv);
                if constexpr (adds) {
                    auto const& e = m.value.edges;
                    mem.dl[y] += dot_with(e, f.added_base[y] + rows::entry(e.extent(1), h) * e.stride(1), dout, dv);
                }
            }
        }
        for (extent_t y = n; y < (n + lanes - 1) / lanes * lanes; ++y) { mem.dl[y] = T(0); }
        for (extent_t y = 0; y < n; y += lanes) {
            V const raw = V::load(f.s + y), kl = k_last[y / lanes];
            V bare = raw;
            if constexpr (with_last) { bare = detail::head_of(m.score).term.finish(raw, V(q_last), kl); }
            edge_place const pair{here, i, 0};
            V const score = m.score(bare, pair) * V(normalizer_type::unit), p = m.normalizer.weight(r, score);
            auto const masked = score == -math::inf<V>(); // whatever the value holds
            V const up = m.normalizer.derivative(r, score, p) * (V::load(mem.dl + y) - V(centre_of_row));
            no_sink sink;
            V g = detail::pull(m.score, bare, pair, up, sink);
            if constexpr (with_last) {
                using D = dual<V>;
                auto const& term = detail::head_of(m.score).term;
                V const last = g * term.finish(D(raw, V(0)), D(V(q_last), V(0)), D(kl, V(1))).d;
                g = g * term.finish(D(raw, V(1)), D(V(q_last), V(0)), D(kl, V(0))).d;
                select(masked, V(0), last).store(mem.dl + y);
            }
            p.store(mem.p + y);
            select(masked, V(0), g).store(mem.ds + y);
        }
    }
    // x . y, y a row of a view
    static T dot_with(tensor_view<T const> const& v, T const* y, T const* x, extent_t width) {
        if (v.stride(3) == 1) { return rows::dot_rows(x, y, width); }
        T sum(0);
        for (extent_t e = 0; e < width; ++e) { sum += x[e] * y[e * v.stride(3)]; }
        return sum;
    }
    static void back_to_target(M const& m, edge_gradient_problem<T> const& x, slot& mem, T* vector, extent_t b, extent_t h, extent_t d, extent_t number, extent_t y, T* dq) {
        typename ahead::slot& f = mem.forward;
        auto const& term = detail::head_of(m.score).term;
        extent_t const width = with_last ? d - 1 : d;
        T const g = mem.ds[y];
        T const* const e = with_edges ? f.e[y] : nullptr;
        T const* const a = f.a + h * d;
        T const* const q = f.q + h * d;
        if constexpr (!is_product) { rows::template add_slopes<0>(term, g, q, f.k[y], e, a, width, dq); }
        if constexpr (with_last) { dq[d - 1] += mem.dl[y]; }
        if constexpr (with_vector) {
            if (vector != nullptr) { rows::template add_slopes<3>(term, g, q, f.k[y], e, a, width, vector); }
        }
        if constexpr (with_edges) {
            if (x.dedges.data_handle() != nullptr) {
                rows::clear(mem.of_edge, d);
                rows::template add_slopes<2>(term, g, q, f.k[y], e, a, width, mem.of_edge);
                rows::write(mem.of_edge, x.dedges, b, h, number);
            }
        }
        if constexpr (adds) {
            if (x.dvalues.data_handle() != nullptr) {
                for (extent_t c = 0; c < x.dvalues.extent(3); ++c) { x.dvalues(b, h, number, c) = mem.p[y] * mem.dout[h * x.dvalues.extent(3) + c]; }
            }
        }
    }

    static void source(M const& m, edge_gradient_problem<T> const& x, slot& mem, T const* edge, extent_t b, extent_t j) {
        typename ahead::slot& f = mem.forward;
        extent_t const H = x.q.extent(1), Hk = x.k.extent(1), group = ahead::group(H, Hk), d = x.q.extent(3), dv = x.v.extent(3), width = with_last ? d - 1 : d, o_pitch = dv + lanes;
        auto const& head = detail::head_of(m.score);
        bool const wants_k = x.dk.data_handle() != nullptr, wants_v = x.dv.data_handle() != nullptr;
        extent_t const pitch = d + lanes; // of dk
        T *const dk = mem.dq, *const dvalue = f.o;
        rows::clear(dk, Hk * pitch);
        rows::clear(dvalue, Hk * o_pitch);
        for (extent_t h = 0; h < Hk && !is_product; ++h) { rows::read(x.k, b, h, j, f.q + h * d); }
        range const out{m.edges.out_begin(j), m.edges.out_end(j)};
        for (extent_t begin = out.begin; begin < out.end; begin += chunk) {
            extent_t const n = out.end - begin < chunk ? out.end - begin : chunk;
            extent_t const next = ahead::next_chunk(begin + n, j, m.edges.sources(), [&](extent_t r) { return m.edges.out_begin(r); });
            auto const target_at = [&](extent_t y) { return m.edges.out_target(begin + y); };
            auto const target_ahead = [&](extent_t y) { return m.edges.out_target(begin + n + y); };
            rows::bases(x.q, b, target_at, n, f.k_base);
            rows::bases(x.dout, b, target_at, n, f.v_base);
            rows::bases(x.q, b, target_ahead, next, f.k_next);
            if constexpr (with_edges) {
                rows::bases(head.edges, b, [&](extent_t y) { return m.edges.number(m.edges.out_slot(begin + y)); }, n, f.e_base);
            }
            for (extent_t y = 0; y < next; ++y) { HEED_PREFETCH(edge + m.edges.out_slot(begin + n + y) * H * numbers); }
            for (extent_t y = 0; y < n; ++y) {
                T const* const of_edge = edge + m.edges.out_slot(begin + y) * H * numbers;
                for (extent_t c = 0; c < H * numbers; ++c) { mem.records[y * H * numbers + c] = of_edge[c]; }
            }
            // rows in the order of reading: queries, gradients of the outputs, the next queries
            extent_t const reach = ahead::reach;
            for (extent_t y = 0; y < n; ++y) { f.to_read[y] = f.k_base[y], f.to_read[n + y] = f.v_base[y]; }
            for (extent_t y = 0; y < reach; ++y) { f.to_read[2 * n + y] = y < next ? f.k_next[y] : f.v_base[n - 1]; }
            if (wants_k && is_product) {
                head_rows const q = head_rows::of(x.q, f.k_base, n, f.copy);
                head_sums<T, A>::run(q.base, n, mem.records + 1, H * numbers, mem.for_k, head_sums<T, A>::count(H, d), q.step, 1, f.to_read + reach, dk, nullptr, d);
            }
            for (extent_t h = 0; wants_k && !is_product && h < H; ++h) {
                extent_t const kv = h / group;
                rows::point(x.q, h, f.k_base, n, f.copy, f.k);
                if constexpr (with_edges) { rows::point(head.edges, h, f.e_base, n, f.edge_copy, f.e); }
                rows::expect(x.q, h, f.k_next, next);
                for (extent_t y = 0; y < n; ++y) {
                    T const* const record = mem.records + (y * H + h) * numbers;
                    if constexpr (with_last) { dk[kv * pitch + d - 1] += record[2]; }
                    rows::template add_slopes<1>(head.term, record[1], f.k[y], f.q + kv * d, with_edges ? f.e[y] : nullptr, f.a + h * d, width, dk + kv * pitch);
                }
            }
            if (wants_v) {
                head_rows const g = head_rows::of(x.dout, f.v_base, n, f.value_copy);
                head_sums<T, A>::run(g.base, n, mem.records, H * numbers, mem.for_v, head_sums<T, A>::count(H, dv), g.step, 1, f.to_read + n + reach, dvalue, nullptr, dv);
            }
        }
        for (extent_t h = 0; h < Hk; ++h) {
            if (wants_k && is_product) { ahead::write_sums(dk + h * pitch, T(1), x.dk, b, h, j); }
            if (wants_k && !is_product) { rows::write(dk + h * pitch, x.dk, b, h, j); }
            if (wants_v) { ahead::write_sums(dvalue + h * o_pitch, T(1), x.dv, b, h, j); }
        }
    }
};

} // namespace heed
