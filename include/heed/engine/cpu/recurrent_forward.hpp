// SPDX-License-Identifier: BSD-3-Clause
// Forward of the recurrent family: along a head in chunks, the state in the caches; or, where the order is not causal, all keys and then all queries.
//
// Work is cut by batch entry, head and, where those are fewer than the threads, columns of values; every number is the same however it is cut.
// A chunk that holds a NaN or an infinity goes token by token, so that nothing of it reaches tokens before.
#pragma once

#include <heed/engine/cpu/parallel.hpp>
#include <heed/engine/cpu/recurrent_rows.hpp>

#include <string_view>

namespace heed {

template <class F, class E, class A, int Chunk = 64>
struct recurrent_forward {
    using T = compute_t<E>;
    using V = vec<T, A>;
    using rows = recurrent_rows<F, E, A>;
    using chunk = recurrent_chunk<T, A>;
    using problem = recurrent_problem<E>;
    using form = recurrent_form<F, T>;
    static constexpr extent_t tokens = Chunk;

    static constexpr std::string_view name(bool causal) { return causal ? "recurrent chunks" : "recurrent sums"; }

    struct division {
        extent_t cuts, columns, items; // columns of a cut
    };
    static division divide(form const& m, shape const& out, int concurrency) {
        extent_t const heads = out.batch * out.head, strip = extent_t(product_tile<T, A>::vecs) * V::lanes;
        extent_t cuts = 1;
        if (!m.normalized && heads > 0 && heads < concurrency) {
            cuts = (concurrency + heads - 1) / heads;
            extent_t const most = (out.feature + strip - 1) / strip;
            cuts = cuts < most ? cuts : most;
        }
        cuts = cuts < 1 ? 1 : cuts;
        extent_t const columns = ((out.feature + cuts - 1) / cuts + V::lanes - 1) / V::lanes * V::lanes;
        if (columns > 0) { cuts = (out.feature + columns - 1) / columns; }
        return {cuts < 1 ? 1 : cuts, columns < out.feature ? columns : out.feature, heads * (cuts < 1 ? 1 : cuts)};
    }
    // of rows of d numbers
    static chunk_sizes sizes(form const& m, extent_t d, extent_t columns) { return {tokens, m.width(d), columns + (m.sums_ones() ? 1 : 0), m.decays, m.corrects, m.weighs, rows::of_rows ? d : 0, m.over_positions}; }
    static std::size_t slot_bytes(form const& m, extent_t width, division const& d) {
        arena count(nullptr);
        chunk const c(sizes(m, width, d.columns), false, m.causal, count);
        return count.bytes();
    }

    template <class X>
    static void run(form const& m, problem const& p, X& executor, division const& d, int slots, std::byte* workspace) {
        std::byte* const base = aligned(workspace);
        std::size_t const bytes = slot_bytes(m, p.q.extent(3), d);
        detail::for_each_item<A>(executor, slots, d.items, [&](extent_t item, int slot) {
            arena room(base + static_cast<std::size_t>(slot) * bytes);
            chunk c(sizes(m, p.q.extent(3), d.columns), false, m.causal, room);
            extent_t const cut = item % d.cuts, head = item / d.cuts, b = head / p.heads(), h = head % p.heads();
            extent_t const c0 = cut * d.columns, left = p.v.extent(3) - c0;
            walk(m, p, {b, h, p.head_of(p.q, h), p.head_of(p.k, h), p.head_of(p.v, h), c0, left < d.columns ? left : d.columns}, c);
        });
    }

private:
    using head_place = typename rows::head_place;

    static void walk(form const& m, problem const& p, head_place const& at, chunk& c) {
        extent_t const width = m.width(p.q.extent(3));
        c.clear_state(c.state);
        rows::read_state(p.initial, at.b, at.h, width, at.c0, at.columns, c.state, c.vp);
        rows::share_keys(m, p.k, at.b, at.kh, m.causal ? p.k.length(at.b) : m.keys(p.at(at.b, at.h)), c);
        if (m.causal) {
            extent_t const n = p.q.length(at.b);
            for (extent_t first = 0; first < n; first += tokens) {
                extent_t const len = n - first < tokens ? n - first : tokens;
                bool finite = rows::read_keys(m, p, at, first, len, c);
                finite &= rows::read_queries(m, p, at, first, len, c);
                if (finite) {
                    one(m, p, at, first, len, c);
                    continue;
                }
                for (extent_t t = 0; t < len; ++t) {
                    rows::read_keys(m, p, at, first + t, 1, c);
                    rows::read_queries(m, p, at, first + t, 1, c);
                    one(m, p, at, first + t, 1, c);
                }
            }
        } else {
            place const whole = p.at(at.b, at.h);
            extent_t const keys = m.keys(whole);
            rows::sum_keys(m, p, at, keys, tokens, c);
            for (extent_t first = 0; first < whole.queries; first += tokens) {
                extent_t const len = whole.queries - first < tokens ? whole.queries - first : tokens;
                rows::read_queries(m, p, at, first, len, c);
                c.read_state_only(len);
                write(m, p, at, first, len, keys == 0 && !p.initial.given(), c);
            }
        }
        rows::write_state(c.state, c.vp, at.b, at.h, width, at.c0, at.columns, p.last);
    }
    static void one(form const& m, problem const& p, head_place const& at, extent_t first, extent_t len, chunk& c) {
        c.prepare(len, true);
        c.solve(len);
        c.read(len);
        c.advance(len);
        write(m, p, at, first, len, false, c);
    }
    static void write(form const& m, problem const& p, head_place const& at, extent_t first, extent_t len, bool nothing, chunk& c) {
        if (m.normalized) {
            for (extent_t r = 0; r < len; ++r) {
                T* const row = c.o + r * c.vp;
                V const by(nothing ? T(1) : T(1) / (row[at.columns] + m.eps));
                for (extent_t e = 0; e < at.columns; e += V::lanes) { (V::load(row + e) * by).store(row + e); }
            }
        }
        if (m.has_factor()) {
            for (extent_t r = 0; r < len; ++r) { scale_in_place<A>(c.o + r * c.vp, c.tall, rows::factor(m, at.b, at.h, first + r)); }
        }
        unpack_rows<A>(c.o, c.vp, len, at.columns, p.out.row(at.b, at.h, first) + at.c0 * p.out.stride(3), p.out.stride(2), p.out.stride(3));
    }
};

} // namespace heed
