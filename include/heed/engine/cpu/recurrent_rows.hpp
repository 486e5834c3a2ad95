// SPDX-License-Identifier: BSD-3-Clause
// Rows of the recurrent family between memory and chunk: mapped, widened, checked for NaN and infinities on the way in; broadcast data; states.
#pragma once

#include <heed/engine/cpu/recurrent_kernels.hpp>
#include <heed/engine/recurrent_problem.hpp>
#include <heed/family/recurrent.hpp>
#include <heed/kernel/dual.hpp>

namespace heed {

template <class F, class E, class A>
struct recurrent_rows {
    using T = compute_t<E>;
    using V = vec<T, A>;
    static constexpr int lanes = V::lanes;
    using form = recurrent_form<F, T>;
    static constexpr bool identity = requires { F::identity; };
    static constexpr bool of_rows = RowMap<F>;
    static constexpr extent_t padded(extent_t n) { return (n + lanes - 1) / lanes * lanes; }

    // dst[r][c] = row first + r of the view, zeros up to `wide`. Returns true if all is finite.
    static bool read(tensor_view<E const> const& x, extent_t b, extent_t h, extent_t first, extent_t rows, extent_t c0, extent_t width, extent_t wide, T* dst, extent_t pitch) {
        V poison(0);
        extent_t const step = x.stride(3);
        for (extent_t r = 0; r < rows; ++r, dst += pitch) {
            E const* const from = x.row(b, h, first + r) + c0 * step;
            extent_t c = 0;
            if (step == 1) {
                for (; c + lanes <= width; c += lanes) {
                    V const y = load_as<V>(from + c);
                    poison = fma(y, V(0), poison);
                    y.store(dst + c);
                }
            }
            if (c < wide) {
                extent_t const tail = c;
                for (; c < width; ++c) { dst[c] = static_cast<T>(from[c * step]); }
                for (; c < wide; ++c) { dst[c] = T(0); }
                for (c = tail; c < wide; c += lanes) { poison = fma(V::load(dst + c), V(0), poison); }
            }
        }
        return all(poison == V(0));
    }
    // Rows of q (or k), mapped and scaled. Returns true if what was read is finite.
    template <bool Keys = false>
    static bool read_mapped(form const& m, tensor_view<E const> const& x, extent_t b, extent_t h, extent_t first, extent_t count, T scale, T* dst, recurrent_chunk<T, A>& c) {
        extent_t const d = x.extent(3);
        if constexpr (of_rows) {
            bool const finite = read(x, b, h, first, count, 0, d, padded(d), c.raw, c.rp);
            extent_t const width = m.width(d);
            for (extent_t r = 0; r < count; ++r) {
                T* const y = dst + r * c.qp;
                map_row<Keys>(m.feature, c.raw + r * c.rp, d, c.shared, y);
                for (extent_t e = width; e < c.wide; ++e) { y[e] = T(0); }
                if (scale != T(1)) { scale_in_place<A>(y, c.wide, scale); }
            }
            return finite;
        } else {
            bool const finite = read(x, b, h, first, count, 0, d, c.wide, dst, c.qp);
            map(m.feature, scale, dst, c.qp, count, d);
            return finite;
        }
    }
    template <bool Keys>
    static void map_row(F const& f, T const* x, extent_t d, T shared, T* y) {
        if constexpr (Keys && maps_keys_apart<F>) {
            f.template map_keys<A>(x, d, shared, y);
        } else {
            (void)shared;
            f.template map<A>(x, d, y);
        }
    }
    // What all keys of a head share, and whose it is.
    static void share_keys(form const& m, tensor_view<E const> const& k, extent_t b, extent_t h, extent_t keys, recurrent_chunk<T, A>& c) {
        if constexpr (maps_keys_apart<F>) {
            c.shared = m.feature.known_peak(), c.dshared = T(0), c.shared_from = -1;
            extent_t const d = k.extent(3);
            for (extent_t n = 0; looks_at_keys<F> && n < keys; ++n) {
                read(k, b, h, n, 1, 0, d, padded(d), c.raw, c.rp);
                T const x = m.feature.template peak<A>(c.raw, d, c.k);
                if (x > c.shared) { c.shared = x, c.shared_from = n; }
            }
        }
    }
    // Gradients by mapped rows into those by the rows as they lie in memory; returns where these are, and their pitch in `pitch`. work is overwritten.
    template <bool Keys = false>
    static T* pull_back(form const& m, tensor_view<E const> const& x, extent_t b, extent_t h, extent_t first, extent_t count, T scale, T* work, T* d, extent_t& pitch, recurrent_chunk<T, A>& c) {
        extent_t const width = x.extent(3);
        if constexpr (of_rows) {
            read(x, b, h, first, count, 0, width, padded(width), c.raw, c.rp);
            for (extent_t r = 0; r < count; ++r) {
                if (scale != T(1)) { scale_in_place<A>(d + r * c.qp, c.wide, scale); }
                if constexpr (Keys && maps_keys_apart<F>) {
                    c.dshared += m.feature.template map_keys_back<A>(c.raw + r * c.rp, width, c.shared, d + r * c.qp, c.draw + r * c.rp);
                } else {
                    m.feature.template map_back<A>(c.raw + r * c.rp, width, d + r * c.qp, c.draw + r * c.rp);
                }
            }
            pitch = c.rp;
            return c.draw;
        } else {
            if constexpr (!identity) { read(x, b, h, first, count, 0, width, c.wide, work, c.qp); }
            map_back(m.feature, scale, work, c.qp, d, c.qp, count, width);
            pitch = c.qp;
            return d;
        }
    }
    // In place: y = scale f(x), zeros where the row has ended.
    static void map(F const& f, T scale, T* x, extent_t pitch, extent_t rows, extent_t width) {
        if constexpr (identity) {
            if (scale == T(1)) { return; }
        }
        for (extent_t r = 0; r < rows; ++r, x += pitch) {
            for (extent_t c = 0; c < width; c += lanes) {
                V const y = f(V::load(x + c)) * V(scale);
                (c + lanes <= width ? y : select(inside(c, width), y, V(0))).store(x + c);
            }
        }
    }
    // Gradients of mapped rows into those of the rows as they lie in memory.
    static void map_back(F const& f, T scale, T const* x, extent_t x_pitch, T* d, extent_t pitch, extent_t rows, extent_t width) {
        if constexpr (identity) {
            if (scale == T(1)) { return; }
        }
        for (extent_t r = 0; r < rows; ++r, x += x_pitch, d += pitch) {
            for (extent_t c = 0; c < width; c += lanes) {
                V const slope = f(dual<V>(V::load(x + c), V(1))).d;
                V const y = V::load(d + c) * slope * V(scale);
                (c + lanes <= width ? y : select(inside(c, width), y, V(0))).store(d + c);
            }
        }
    }
    HEED_INLINE static typename V::mask_type inside(extent_t first, extent_t end) {
        return mask_cast<V>(iota(first, std::type_identity<index_of<V>>{}) < index_of<V>(end));
    }

    // The element of a view whose extents of 1 stand for all.
    template <class U>
    HEED_INLINE static U* spread(tensor_view<U> const& x, extent_t b, extent_t h, extent_t n) {
        return x.row(x.extent(0) == 1 && !x.is_ragged() ? 0 : b, x.extent(1) == 1 ? 0 : h, x.extent(2) == 1 ? 0 : n);
    }
    static void read_decays(form const& m, extent_t b, extent_t h, extent_t first, extent_t rows, extent_t c0, extent_t width, extent_t wide, T* g, extent_t pitch) {
        if (m.decays == decay_kind::none) { return; }
        extent_t const step = m.log_decay.extent(3) == 1 ? 0 : m.log_decay.stride(3);
        for (extent_t r = 0; r < rows; ++r) {
            T const* const from = spread(m.log_decay, b, h, first + r);
            if (m.decays == decay_kind::head) {
                g[r] = *from * T(math::log2e);
            } else {
                spread_row(from + c0 * step, step, width, wide, T(math::log2e), g + r * pitch);
            }
        }
    }
    static void read_beta(form const& m, extent_t b, extent_t h, extent_t first, extent_t rows, extent_t c0, extent_t width, extent_t wide, T* beta, extent_t pitch) {
        if (!m.has_beta()) { return; }
        extent_t const step = m.beta.extent(3) == 1 ? 0 : m.beta.stride(3);
        for (extent_t r = 0; r < rows; ++r) { spread_row(spread(m.beta, b, h, first + r) + c0 * step, step, width, wide, T(1), beta + r * pitch); }
    }
    // to[c] = by from[c step], zeros from the width up
    static void spread_row(T const* from, extent_t step, extent_t width, extent_t wide, T by, T* to) {
        extent_t c = 0;
        if (step <= 1 && step >= 0) {
            for (; c + lanes <= width; c += lanes) { ((step == 0 ? V(*from) : V::load(from + c)) * V(by)).store(to + c); }
        }
        for (; c < width; ++c) { to[c] = from[c * step] * by; }
        for (; c < wide; ++c) { to[c] = T(0); }
    }

    // of a row that is padded with zeros
    static T sum(T const* x, extent_t width) {
        V total(0);
        for (extent_t c = 0; c < width; c += lanes) { total = total + V::load(x + c); }
        T part[lanes], all(0);
        total.store(part);
        for (int l = 0; l < lanes; ++l) { all += part[l]; }
        return all;
    }

    // y *= x. Returns true if all is finite.
    static bool multiply(T const* x, T* y, extent_t rows, extent_t pitch, extent_t width) {
        V poison(0);
        for (extent_t r = 0; r < rows; ++r) {
            for (extent_t c = r * pitch; c < r * pitch + width; c += lanes) {
                V const z = V::load(x + c) * V::load(y + c);
                poison = fma(z, V(0), poison);
                z.store(y + c);
            }
        }
        return all(poison == V(0));
    }
    // What a row of out is multiplied by.
    static T factor(form const& m, extent_t b, extent_t h, extent_t n) {
        T const x = *spread(m.factor, b, h, n);
        return m.factor_is_logarithm ? math::exp(-x) : x;
    }

    // A state of `width` rows: columns [c0, c0 + columns) of S and, behind them, z. Null views are zeros.
    template <class U>
    static void read_state(state_view<U> const& from, extent_t b, extent_t h, extent_t width, extent_t c0, extent_t columns, T* s, extent_t pitch) {
        for (extent_t r = 0; r < width; ++r, s += pitch) {
            if (from.s.data_handle() != nullptr) {
                U* const row = from.s.row(b, h, r);
                for (extent_t c = 0; c < columns; ++c) { s[c] = row[(c0 + c) * from.s.stride(3)]; }
            }
            if (from.z.data_handle() != nullptr) { s[columns] = from.z(b, h, r, 0); }
        }
    }
    static void write_state(T const* s, extent_t pitch, extent_t b, extent_t h, extent_t width, extent_t c0, extent_t columns, state_view<T> const& to) {
        for (extent_t r = 0; r < width; ++r, s += pitch) {
            if (to.s.data_handle() != nullptr) {
                T* const row = to.s.row(b, h, r);
                for (extent_t c = 0; c < columns; ++c) { row[(c0 + c) * to.s.stride(3)] = s[c]; }
            }
            if (to.z.data_handle() != nullptr) { to.z(b, h, r, 0) = s[columns]; }
        }
    }

    // Packs tokens [first, first + rows) of a head into the chunk. Returns true if q, k and v are finite.
    struct head_place {
        extent_t b, h, qh, kh, vh, c0, columns; // columns [c0, c0 + columns) of values
    };
    static bool read_keys(form const& m, recurrent_problem<E> const& p, head_place const& at, extent_t first, extent_t rows, recurrent_chunk<T, A>& c) {
        extent_t const width = m.width(p.k.extent(3));
        bool finite;
        if (m.over_positions) {
            finite = read(p.k, at.b, at.kh, first, rows, 0, width, c.wide, c.k, c.qp);
            c.weigh_positions(rows);
        } else {
            finite = read_mapped<true>(m, p.k, at.b, at.kh, first, rows, T(1), c.k, c);
        }
        finite &= read(p.v, at.b, at.vh, first, rows, at.c0, at.columns, c.tall, c.u, c.vp);
        if (m.sums_ones()) {
            for (extent_t r = 0; r < rows; ++r) { c.u[r * c.vp + at.columns] = T(1); }
        }
        bool const of_values = m.decays == decay_kind::value;
        read_decays(m, at.b, at.h, first, rows, of_values ? at.c0 : 0, of_values ? at.columns : width, c.dwide, c.g, c.dp);
        read_beta(m, at.b, at.h, first, rows, at.c0, at.columns, c.tall, c.beta, c.vp);
        if (m.weighs) { finite &= multiply(c.beta, c.u, rows, c.vp, c.tall); }
        return finite;
    }
    // All keys of a head into the state, where their order does not matter.
    static void sum_keys(form const& m, recurrent_problem<E> const& p, head_place const& at, extent_t keys, extent_t tokens, recurrent_chunk<T, A>& c) {
        auto const each = [&](auto const& f) {
            for (extent_t first = 0; first < keys; first += tokens) { f(first, keys - first < tokens ? keys - first : tokens); }
        };
        if (m.over_positions) {
            c.start_positions();
            each([&](extent_t first, extent_t len) {
                read(p.k, at.b, at.kh, first, len, 0, p.k.extent(3), c.wide, c.k, c.qp);
                c.raise_peaks(len);
            });
        }
        each([&](extent_t first, extent_t len) {
            read_keys(m, p, at, first, len, c);
            c.advance(len);
        });
        if (m.over_positions) { c.take_means(at.columns); }
    }
    static bool read_queries(form const& m, recurrent_problem<E> const& p, head_place const& at, extent_t first, extent_t rows, recurrent_chunk<T, A>& c) {
        return read_mapped(m, p.q, at.b, at.qh, first, rows, m.scale, c.q, c);
    }
};

} // namespace heed
