// SPDX-License-Identifier: BSD-3-Clause
// Backward of the spectral family on the CPU: with O = W V (a product of spectra), dV = conj(W) dO and dW = sum over channels of dO conj(V), transforms
// of the same length. The sum over channels is taken in the spectrum, so one line comes back for a head, not one for each channel.
//
// Items are (batch, head, slab) of v; each writes dv and what it gives to dW into memory of its own; a second walk, over the heads of z, adds these in
// their order (so threads do not change a bit), brings them back and goes through the softmax: dz = w (dw - sum w dw).
#pragma once

#include <heed/engine/cpu/parallel.hpp>
#include <heed/engine/cpu/spectral_layout.hpp>

namespace heed {

template <class T>
struct spectral_gradient_problem {
    tensor_view<T const> z, v, out, dout;
    tensor_view<T> dz, dv;
};

template <class T, class A>
struct spectral_backward {
    static constexpr char const* name = "spectral_backward";
    using geometry = detail::spectral_geometry;
    using tables_type = spectral_tables<T, A>;
    using transform = fft_transform<T, A>;
    using spectra = fft_spectra<T, A>;
    using input = channel_slab<T const, A>;
    using output = channel_slab<T, A>;
    static constexpr extent_t row_size = transform::row_size;

    geometry g;
    shape z, v, out;
    bool by_channel;

    static spectral_backward of(detail::spectral_slots const& mechanism, shape z, shape v, shape out) { return {geometry::of(mechanism, out.seq, z.seq, v.seq, true), z, v, out, z.feature > 1}; }

    extent_t transform_length() const { return g.length; }
    extent_t items() const { return v.batch * v.head * slabs(); }
    std::size_t tables_bytes() const {
        arena memory(nullptr);
        tables_type::lay(memory, g.length, by_channel, false, nullptr);
        return memory.bytes() + tables_type::making_bytes(g.length);
    }
    void prepare(std::byte* at) const {
        arena count(nullptr), memory(at);
        tables_type::lay(count, g.length, by_channel, false, nullptr);
        tables_type::lay(memory, g.length, by_channel, true, at + count.bytes());
    }
    std::size_t workspace_bytes(int slots) const {
        arena memory(nullptr);
        heads h;
        lay_heads(memory, h);
        return memory.bytes() + pieces(nullptr).bytes(slots);
    }

    template <class E>
    void run(spectral_gradient_problem<T> const& x, E& executor, int slots, std::byte const* tables_at, std::byte* at) const {
        arena tables_memory(const_cast<std::byte*>(tables_at)), memory(at);
        tables_type const tables = tables_type::lay(tables_memory, g.length, by_channel, false, nullptr);
        heads h;
        lay_heads(memory, h);
        auto const slot_of = pieces(at + memory.bytes());
        if (!by_channel) {
            detail::for_each_item<A>(executor, slots, z.batch * z.head, [&](extent_t item, int i) {
                slot const s = slot_of[i];
                weights_spectrum<T, A>(g, tables, x.z.row(item / z.head, item % z.head, 0), x.z.stride(2), h.weights + item * z.seq, h.spectra + item * 2 * g.length, s.line, s.line_scratch);
            });
        }
        detail::for_each_item<A>(executor, slots, items(), [&](extent_t item, int i) { of_values(x, tables, h, slot_of[i], item); });
        detail::for_each_item<A>(executor, slots, z.batch * z.head, [&](extent_t item, int i) {
            if (by_channel) {
                of_channels(x, h, item / z.head, item % z.head);
            } else {
                of_scores(x, tables, h, slot_of[i], item);
            }
        });
    }

private:
    struct heads {
        T *weights, *spectra, *parts; // parts: what (batch, head, slab) of out gives to the weights' gradient
    };
    struct slot {
        T *values, *gradients, *copy, *filter, *tile, *line, *line_scratch;
    };
    extent_t slabs() const { return channel_slab<T, A>::slabs(out.feature); }
    extent_t part_size() const { return by_channel ? z.seq * row_size : 2 * g.length; }
    T* part(heads const& h, extent_t b, extent_t head, extent_t slab) const { return h.parts + ((b * out.head + head) * slabs() + slab) * part_size(); }
    void lay_heads(arena& memory, heads& h) const {
        h.weights = memory.take<T>(by_channel ? 0 : z.batch * z.head * z.seq);
        h.spectra = memory.take<T>(by_channel ? 0 : z.batch * z.head * 2 * g.length);
        h.parts = memory.take<T>(out.batch * out.head * slabs() * part_size());
    }
    auto pieces(std::byte* at) const {
        return pieces_of<slot>(at, [this](arena& memory, slot& s) { lay_slot(memory, s); });
    }
    void lay_slot(arena& memory, slot& s) const {
        s.values = memory.take<T>(g.length * row_size);
        s.gradients = memory.take<T>(g.length * row_size);
        s.copy = memory.take<T>(by_channel ? g.length * row_size : 0);
        s.filter = memory.take<T>(by_channel ? g.length * row_size : 0);
        s.tile = memory.take<T>(transform::tile_size(g.length));
        s.line = memory.take<T>(g.length);
        s.line_scratch = memory.take<T>(fft_line<T, A>::scratch_size(g.length));
    }
    // Which weights' row of a (batch, head) of out.
    extent_t weights_of(extent_t b, extent_t head) const { return (z.batch == 1 ? 0 : b) * z.head + shared_head(head, z.head, out.head); }

    void of_values(spectral_gradient_problem<T> const& x, tables_type const& tables, heads const& h, slot const& s, extent_t item) const {
        extent_t const slab = item % slabs(), head = item / slabs() % v.head, batch = item / slabs() / v.head, rows = g.rows(), group = out.head / v.head;
        input::of(x.v, batch, head, slab, v.head).pack(g.values, rows, s.values);
        transform{tables.plan, s.values, s.tile}.forward(s.values, row_size, rows);
        output const to = output::of(x.dv, batch, head, slab, v.head);
        bool fresh = true;
        for (extent_t b = v.batch == 1 ? 0 : batch; b < (v.batch == 1 ? out.batch : batch + 1); ++b) {
            for (extent_t k = head * group; k < head * group + group; ++k) {
                input::of(x.dout, b, k, slab, out.head).pack(g.out, g.out, s.gradients);
                transform const f{tables.plan, s.gradients, s.tile};
                f.forward(s.gradients, row_size, g.out);
                T* const own = part(h, b, k, slab);
                if (by_channel) {
                    of_filter(tables, input::of(x.z, b, k, slab, out.head), s, own);
                    spectra::template multiply_channels<true>(g.length, tables.position, s.gradients, s.filter, T(1) / static_cast<T>(g.length));
                } else {
                    spectra::multiply_products(g.length, s.gradients, s.values, h.spectra + weights_of(b, k) * 2 * g.length, own);
                }
                f.inverse(s.gradients, row_size, g.folded ? g.length : rows);
                if (g.folded) { fold(s.gradients, row_size); }
                for (extent_t j = 0; j < g.values; ++j) {
                    T const* const row = s.gradients + j % rows * row_size;
                    fresh ? to.unpack(j, 1, row) : to.add(j, row);
                }
                fresh = false;
            }
        }
        if (fresh) { // no row of out
            for (extent_t j = 0; j < g.values; ++j) {
                for (extent_t c = 0; c < to.width; ++c) { to.at[j * to.row + c * to.step] = 0; }
            }
        }
    }
    // The spectrum of the filter into s.filter, and the filter's gradient, in the order of its taps, into own. s.gradients is kept.
    void of_filter(tables_type const& tables, input const& weights, slot const& s, T* own) const {
        for (extent_t j = 0; j < g.length * row_size; ++j) {
            s.copy[j] = s.gradients[j];
            s.filter[j] = 0;
        }
        transform const f{tables.plan, s.copy, s.tile};
        spectra::template multiply_channels<true>(g.length, tables.position, s.copy, s.values, T(1) / static_cast<T>(g.length));
        f.inverse(s.copy, row_size, g.length);
        if (g.folded) { fold(s.copy, row_size); }
        for (extent_t t = 0; t < z.seq; ++t) {
            T* const row = s.filter + g.place(t) * row_size;
            T const* const from = s.copy + g.place(t) * row_size;
            for (extent_t c = 0; c < row_size; ++c) {
                own[t * row_size + c] = from[c];
                row[c] = c < weights.width ? weights.at[t * weights.row + c * weights.step] : T(0);
            }
        }
        transform{tables.plan, s.filter, s.tile}.forward(s.filter, row_size, g.length);
    }
    // Sample j - N, which stands at L + j - N, belongs to j.
    void fold(T* x, extent_t width) const {
        for (extent_t j = 1; j < g.out; ++j) {
            for (extent_t c = 0; c < width; ++c) { x[j * width + c] += x[(g.length + j - g.out) * width + c]; }
        }
    }

    // f(batch, head) of out for each that one (batch, head) of z weighs.
    template <class F>
    void each_use(extent_t batch, extent_t head, F const& f) const {
        extent_t const group = out.head / z.head;
        for (extent_t b = z.batch == 1 ? 0 : batch; b < (z.batch == 1 ? out.batch : batch + 1); ++b) {
            for (extent_t k = head * group; k < head * group + group; ++k) { f(b, k); }
        }
    }
    void of_scores(spectral_gradient_problem<T> const& x, tables_type const& tables, heads const& h, slot const& s, extent_t item) const {
        extent_t const batch = item / z.head, head = item % z.head;
        T* const sum = s.values; // 2 L numbers of it
        for (extent_t p = 0; p < 2 * g.length; ++p) { sum[p] = 0; }
        each_use(batch, head, [&](extent_t b, extent_t k) {
            for (extent_t slab = 0; slab < slabs(); ++slab) {
                T const* const own = part(h, b, k, slab);
                for (extent_t p = 0; p < 2 * g.length; ++p) { sum[p] += own[p]; }
            }
        });
        tables.line.inverse(sum, s.line, s.line_scratch);
        if (g.folded) { fold(s.line, 1); }
        T const* const w = h.weights + item * z.seq;
        T const factor = T(1) / static_cast<T>(g.length);
        double along = 0;
        bool const softmax = g.softmax;
        for (extent_t t = 0; softmax && t < z.seq; ++t) { along += static_cast<double>(w[t]) * static_cast<double>(s.line[g.place(t)] * factor); }
        T* const dz = x.dz.row(batch, head, 0);
        for (extent_t t = 0; t < z.seq; ++t) {
            T const dw = s.line[g.place(t)] * factor;
            dz[t * x.dz.stride(2)] = softmax ? w[t] * (dw - static_cast<T>(along)) : dw;
        }
    }
    void of_channels(spectral_gradient_problem<T> const& x, heads const& h, extent_t batch, extent_t head) const {
        for (extent_t slab = 0; slab < slabs(); ++slab) {
            output const to = output::of(x.dz, batch, head, slab, z.head);
            bool fresh = true;
            each_use(batch, head, [&](extent_t b, extent_t k) {
                T const* const own = part(h, b, k, slab);
                for (extent_t t = 0; t < z.seq; ++t) { fresh ? to.unpack(t, 1, own + t * row_size) : to.add(t, own + t * row_size); }
                fresh = false;
            });
        }
    }
};

} // namespace heed
