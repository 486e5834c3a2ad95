// SPDX-License-Identifier: BSD-3-Clause
// Forward of the spectral family on the CPU. Items are (batch, head, slab of channels): one transform of the slab, the product with the weights' spectrum
// in registers, and back, two channels to a complex lane. Short sequences go without a transform. Weights are transformed once a head.
//
// A prime factor beyond 13: the transform is of a length that is not, at least 2 N - 1 less a few, and what comes out beyond N is folded back.
// NaN and infinities: a transform spreads them over its slab; then the slab is done again by products, O(N M), so that they stand in just the rows and
// channels that attend them.
#pragma once

#include <heed/engine/cpu/parallel.hpp>
#include <heed/engine/cpu/spectral_layout.hpp>
#include <heed/kernel/fft/circulant.hpp>

namespace heed {

template <class T>
struct spectral_problem {
    tensor_view<T const> z, v; // (B, H, K, 1 or d), (B, H, M, d)
    tensor_view<T> out;        // (B, H, N, d)
};

template <class T, class A>
struct spectral_forward {
    static constexpr char const* name = "spectral_forward";
    using geometry = detail::spectral_geometry;
    using tables_type = spectral_tables<T, A>;
    using transform = fft_transform<T, A>;
    using spectra = fft_spectra<T, A>;
    using sums = circulant<T, A>;
    using input = channel_slab<T const, A>;
    using output = channel_slab<T, A>;
    static constexpr extent_t row_size = transform::row_size;

    geometry g;
    shape z, v, out;
    bool by_channel, direct; // weights for each channel; no transform

    static spectral_forward of(detail::spectral_slots const& mechanism, shape z, shape v, shape out) {
        spectral_forward e{geometry::of(mechanism, out.seq, z.seq, v.seq, z.feature > 1), z, v, out, z.feature > 1, false};
        e.direct = !e.by_channel && products(e.g) <= transform_cost(e.g);
        return e;
    }
    // Time of either way for 64 channels, in products of two registers: fitted to circles of 4 to 64 rows, smooth and prime, in AVX-512 and AVX2.
    static double products(geometry const& g) {
        extent_t const distances = g.high - g.low + 1, reach = distances < g.values ? distances : g.values, last = (g.out + sums::rows - 1) / sums::rows * sums::rows;
        return static_cast<double>(last) * static_cast<double>(reach) + 5.5 * static_cast<double>(distances) + 108;
    }
    static double transform_cost(geometry const& g) {
        double const all = (A::has(isa::avx512f) ? 1.0 : 0.8) * (5.8 * static_cast<double>(g.length) + 9.2 * fft_cost(g.length) + 125);
        return g.length > g.out ? 0.93 * all : all; // rows that are zero or not wanted
    }

    std::size_t tables_bytes() const {
        arena memory(nullptr);
        lay_tables(memory, false, nullptr);
        return memory.bytes() + (direct ? 0 : tables_type::making_bytes(g.length));
    }
    void prepare(std::byte* at) const {
        if (direct) { return; }
        arena count(nullptr), memory(at);
        lay_tables(count, false, nullptr);
        lay_tables(memory, true, at + count.bytes());
    }
    std::size_t workspace_bytes(int slots) const {
        arena memory(nullptr);
        heads h;
        lay_heads(memory, h);
        return memory.bytes() + pieces(nullptr).bytes(slots);
    }
    extent_t transform_length() const { return direct ? 0 : g.length; }
    extent_t items() const { return out.batch * out.head * channel_slab<T, A>::slabs(out.feature); }

    template <class E>
    void run(spectral_problem<T> const& x, E& executor, int slots, std::byte const* tables_at, std::byte* at) const {
        if (out.size() == 0) { return; }
        arena tables_memory(const_cast<std::byte*>(tables_at)), memory(at);
        tables_type const tables = lay_tables(tables_memory, false, nullptr);
        heads h;
        lay_heads(memory, h);
        auto const slot_of = pieces(at + memory.bytes());
        if (!by_channel) {
            detail::for_each_item<A>(executor, slots, z.batch * z.head, [&](extent_t item, int i) {
                slot const s = slot_of[i];
                T const* const from = x.z.row(item / z.head, item % z.head, 0);
                T* const w = h.weights + item * z.seq;
                h.masked[item] = direct ? token_weights<T, A>(g.softmax, from, x.z.stride(2), z.seq, w)
                                        : weights_spectrum<T, A>(g, tables, from, x.z.stride(2), w, h.spectra + item * 2 * g.length, s.line, s.line_scratch);
            });
        }
        extent_t const slabs = channel_slab<T, A>::slabs(out.feature);
        detail::for_each_item<A>(executor, slots, items(), [&](extent_t item, int i) {
            extent_t const slab = item % slabs, head = item / slabs % out.head, b = item / slabs / out.head;
            extent_t const weights = (z.batch == 1 ? 0 : b) * z.head + shared_head(head, z.head, out.head);
            input const values = input::of(x.v, b, head, slab, out.head);
            output const to = output::of(x.out, b, head, slab, out.head);
            slot const s = slot_of[i];
            if (by_channel) {
                channels(tables, input::of(x.z, b, head, slab, out.head), values, to, s);
                return;
            }
            T const* const w = h.weights + weights * z.seq;
            if (!direct) { by_transform(tables, w, h.spectra + weights * 2 * g.length, values, to, s); }
            if (direct || !to.finite(0)) { by_products(w, values, to, s); }
            if (h.masked[weights] && !all_finite(to)) { by_chosen_products(w, x.z.row(weights / z.head, weights % z.head, 0), x.z.stride(2), values, to, s); }
        });
    }

private:
    struct heads {
        T *weights, *spectra;
        bool* masked;
    };
    struct slot {
        T *slab, *second, *tile, *line, *line_scratch, *distances, *block, *strays;
    };
    tables_type lay_tables(arena& memory, bool make, std::byte* scratch) const { return direct ? tables_type{} : tables_type::lay(memory, g.length, by_channel, make, scratch); }
    void lay_heads(arena& memory, heads& h) const {
        h.weights = memory.take<T>(by_channel ? 0 : z.batch * z.head * z.seq);
        h.masked = memory.take<bool>(by_channel ? 0 : z.batch * z.head);
        h.spectra = memory.take<T>(by_channel || direct ? 0 : z.batch * z.head * 2 * g.length);
    }
    auto pieces(std::byte* at) const {
        return pieces_of<slot>(at, [this](arena& memory, slot& s) { lay_slot(memory, s); });
    }
    void lay_slot(arena& memory, slot& s) const {
        extent_t const rows = direct ? g.values : g.length > g.values ? g.length : g.values;
        s.slab = memory.take<T>(rows * row_size);
        s.second = memory.take<T>(by_channel ? g.length * row_size : 0);
        s.tile = memory.take<T>(direct ? 0 : transform::tile_size(g.length));
        s.line = memory.take<T>(direct || by_channel ? 0 : g.length);
        s.line_scratch = memory.take<T>(direct || by_channel ? 0 : fft_line<T, A>::scratch_size(g.length));
        s.distances = memory.take<T>(g.high - g.low + 1);
        s.block = memory.take<T>(sums::rows * row_size);
        s.strays = memory.take<T>(2 * g.stray * row_size);
    }

    // The table of weights over distances, its middle.
    T const* distances(T const* w, extent_t step, slot const& s) const {
        for (extent_t o = g.low; o <= g.high; ++o) { s.distances[o - g.low] = w[g.weight(o) * step]; }
        return s.distances - g.low;
    }
    void by_products(T const* w, input const& values, output const& to, slot const& s) const {
        T const* from = values.at;
        extent_t row = values.row;
        if (!values.whole()) {
            values.pack(g.values, g.values, s.slab);
            from = s.slab, row = row_size;
        }
        T const* const table = distances(w, 1, s);
        for (extent_t i = 0; i < g.out; i += sums::rows) {
            extent_t const last = g.out - i < sums::rows ? g.out : i + sums::rows;
            sums::block(table, g.low, g.high, from, row, g.values, i, last, s.block);
            to.unpack(i, last - i, s.block);
        }
    }
    bool all_finite(output const& to) const {
        for (extent_t i = 0; i < g.out; ++i) {
            if (!to.finite(i)) { return false; }
        }
        return true;
    }
    // What is masked by a score of -inf is not read: row by row.
    void by_chosen_products(T const* w, T const* scores, extent_t step, input const& values, output const& to, slot const& s) const {
        for (extent_t i = 0; i < g.out; ++i) {
            for (extent_t c = 0; c < row_size; ++c) { s.block[c] = 0; }
            extent_t const first = i - g.high > 0 ? i - g.high : 0, last = i - g.low + 1 < g.values ? i - g.low + 1 : g.values;
            for (extent_t j = first; j < last; ++j) {
                extent_t const t = g.weight(i - j);
                if (scores[t * step] == -math::inf<T>()) { continue; }
                for (extent_t c = 0; c < values.width; ++c) { s.block[c] += w[t] * values.at[j * values.row + c * values.step]; }
            }
            to.unpack(i, 1, s.block);
        }
    }
    void by_transform(tables_type const& tables, T const* w, T const* spectrum, input const& values, output const& to, slot const& s) const {
        transform const f{tables.plan, s.slab, s.tile};
        T const* from = values.at;
        extent_t row = values.row;
        extent_t const rows = g.rows();
        if (!values.whole() || rows < g.values) {
            values.pack(g.values, rows, s.slab);
            from = s.slab, row = row_size;
        }
        if (g.stray > 0) { find_strays(w, from, row, s); }
        if (!g.folded && to.whole()) {
            f.multiply(from, row, rows, spectrum, to.at, to.row, g.out);
            return;
        }
        f.multiply(from, row, rows, spectrum, s.slab, row_size, g.folded ? g.length : g.out);
        give(to, s);
    }
    // What the inverse left in the slab. Folded: rows i and i + N of the linear convolution make row i of the circular one; the strays, rows L ... 2 N - 2,
    // have wrapped to rows 0 ... .
    void give(output const& to, slot const& s) const {
        if (!g.folded) { return to.unpack(0, g.out, s.slab); }
        extent_t const n = g.out, last = 2 * n - 1 < g.length ? 2 * n - 1 : g.length;
        for (extent_t t = 0; t < g.stray * row_size; ++t) {
            s.slab[t] -= s.strays[t];
            s.slab[(g.length - n) * row_size + t] += s.strays[t];
        }
        to.unpack_sums(n, last - n, n, s.slab);
    }
    void find_strays(T const* w, T const* from, extent_t row, slot const& s) const {
        extent_t const n = g.out, rows = g.rows();
        for (extent_t t = 0; t < g.stray; ++t) {
            T* const to = s.strays + t * row_size;
            for (extent_t c = 0; c < row_size; ++c) { to[c] = 0; }
            for (extent_t j = n - g.stray + t; j < rows; ++j) { // row L + t = j + k, k < N
                T const x = w[g.reversed ? (n - (g.length + t - j)) % n : g.length + t - j];
                for (extent_t c = 0; c < row_size; ++c) { to[c] += x * from[j * row + c]; }
            }
        }
    }
    // A weight vector for each channel: both slabs are transformed.
    void channels(tables_type const& tables, input const& weights, input const& values, output const& to, slot const& s) const {
        for (extent_t j = 0; j < g.length * row_size; ++j) { s.second[j] = 0; }
        for (extent_t t = 0; t < z.seq; ++t) {
            T* const row = s.second + g.place(t) * row_size;
            for (extent_t c = 0; c < weights.width; ++c) { row[c] = weights.at[t * weights.row + c * weights.step]; }
        }
        transform{tables.plan, s.second, s.tile}.forward(s.second, row_size, g.length);
        values.pack(g.values, g.rows(), s.slab);
        transform const f{tables.plan, s.slab, s.tile};
        f.forward(s.slab, row_size, g.rows());
        spectra::template multiply_channels<false>(g.length, tables.position, s.slab, s.second, T(1) / static_cast<T>(g.length));
        f.inverse(s.slab, row_size, g.folded ? g.length : g.out);
        give(to, s);
        if (to.finite(0)) { return; }
        for (extent_t c = 0; c < values.width; ++c) { // NaN or an infinity: channel by channel, product by product
            T const* const table = distances(weights.at + c * weights.step, weights.row, s);
            for (extent_t i = 0; i < g.out; ++i) {
                T sum = 0;
                extent_t const first = i - g.high > 0 ? i - g.high : 0, last = i - g.low + 1 < g.values ? i - g.low + 1 : g.values;
                for (extent_t j = first; j < last; ++j) { sum += table[i - j] * values.at[j * values.row + c * values.step]; }
                to.at[i * to.row + c * to.step] = sum;
            }
        }
    }
};

} // namespace heed
