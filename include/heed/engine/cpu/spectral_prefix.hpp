// SPDX-License-Identifier: BSD-3-Clause
// Forward and backward of causal mixing with a softmax over the prefix, on the CPU. Items are (batch, head, slab of channels); blocks come from
// prefix_walk.hpp, each a product of spectra. NaN or an infinity anywhere in a slab: its rows are taken one by one, O(N^2), so that it stays
// where it is attended. Backward: p_it = exp(z_t - top_i) / sum_i,
//
//   dv_j = sum_i p_(i, i - j) do_i,   dz_t = sum_(i >= t) p_it (do_i . v_(i - t) - delta_i),   delta_i = do_i . out_i,
//
// the first sum of dz block by block, the second one pass from the last row to the first.
#pragma once

#include <heed/engine/cpu/prefix_walk.hpp>
#include <heed/engine/cpu/spectral_backward.hpp>
#include <heed/engine/cpu/spectral_forward.hpp>

namespace heed {

template <class T, class A, bool Backward = false>
struct spectral_prefix {
    static constexpr char const* name = Backward ? "spectral_prefix_backward" : "spectral_prefix";
    using V = vec<T, A>;
    using tables_type = spectral_tables<T, A>;
    using transform = fft_transform<T, A>;
    using spectra = fft_spectra<T, A>;
    using input = channel_slab<T const, A>;
    using output = channel_slab<T, A>;
    static constexpr extent_t row_size = transform::row_size;

    prefix_blocks blocks;
    shape z, v, out;

    static spectral_prefix of(detail::spectral_slots const&, shape z, shape v, shape out) { return {prefix_blocks::of(out.seq), z, v, out}; }

    extent_t transform_length() const { return blocks.levels == 0 ? 0 : blocks.block(blocks.levels + 1); }
    extent_t items() const { return Backward ? v.batch * v.head * slabs() : out.batch * out.head * slabs(); }
    // Tables for transforms of block(1) ... block(levels + 1) rows; triangles need twice their rows, squares their own.
    std::size_t tables_bytes() const {
        arena memory(nullptr);
        lay_tables(memory, nullptr);
        return memory.bytes() + (blocks.levels == 0 ? 0 : tables_type::making_bytes(blocks.block(blocks.levels + 1)));
    }
    void prepare(std::byte* at) const {
        arena count(nullptr), memory(at);
        lay_tables(count, nullptr);
        lay_tables(memory, at + count.bytes());
    }
    std::size_t workspace_bytes(int slots) const {
        arena memory(nullptr);
        memory.take<T>(Backward ? out.batch * out.head * slabs() * z.seq : 0);
        return memory.bytes() + pieces(nullptr).bytes(slots);
    }

    template <class Problem, class E>
    void run(Problem const& x, E& executor, int slots, std::byte const* tables_at, std::byte* at) const {
        if (!Backward && out.size() == 0) { return; }
        tables_set tables;
        arena tables_memory(const_cast<std::byte*>(tables_at)), memory(at);
        for (int l = 1; l <= blocks.levels + 1 && blocks.levels > 0; ++l) { tables.of[l] = tables_type::lay(tables_memory, blocks.block(l), false, false, nullptr); }
        T* const parts = memory.take<T>(Backward ? out.batch * out.head * slabs() * z.seq : 0);
        auto const slot_of = pieces(at + memory.bytes());
        if constexpr (!Backward) {
            detail::for_each_item<A>(executor, slots, items(), [&](extent_t item, int i) {
                extent_t const slab = item % slabs(), head = item / slabs() % out.head, b = item / slabs() / out.head;
                forward_slab(tables, x.z.row(z.batch == 1 ? 0 : b, shared_head(head, z.head, out.head), 0), x.z.stride(2), input::of(x.v, b, head, slab, out.head),
                             output::of(x.out, b, head, slab, out.head), slot_of[i]);
            });
        } else {
            detail::for_each_item<A>(executor, slots, items(), [&](extent_t item, int i) { backward_values(x, tables, parts, slot_of[i], item); });
            detail::for_each_item<A>(executor, slots, z.batch * z.head, [&](extent_t item, int) { add_parts(x, parts, item / z.head, item % z.head); });
        }
    }

private:
    struct tables_set {
        tables_type of[fft_most_levels];
    };
    struct slot {
        prefix_rows<T, A> rows;
        T *weights, *shares, *line, *line_scratch, *spectrum, *values, *sums, *slab, *gradients, *own, *tile;
    };
    extent_t slabs() const { return channel_slab<T, A>::slabs(out.feature); }
    void lay_tables(arena& memory, std::byte* scratch) const {
        for (int l = 1; l <= blocks.levels + 1 && blocks.levels > 0; ++l) { tables_type::lay(memory, blocks.block(l), false, scratch != nullptr, scratch); }
    }
    auto pieces(std::byte* at) const {
        return pieces_of<slot>(at, [this](arena& memory, slot& s) { lay_slot(memory, s); });
    }
    void lay_slot(arena& memory, slot& s) const {
        extent_t const n = out.seq, length = blocks.levels == 0 ? 0 : blocks.block(blocks.levels + 1);
        s.rows.scores = memory.take<T>(n);
        s.rows.top = memory.take<T>(n);
        s.rows.inverse = memory.take<T>(n);
        s.weights = memory.take<T>(n);
        s.shares = memory.take<T>(n);
        s.line = memory.take<T>(length);
        s.line_scratch = memory.take<T>(length == 0 ? 0 : fft_line<T, A>::scratch_size(length));
        s.spectrum = memory.take<T>(2 * length);
        s.values = memory.take<T>(n * row_size);
        s.sums = memory.take<T>(n * row_size);
        s.slab = memory.take<T>(length * row_size);
        s.gradients = memory.take<T>(Backward ? length * row_size : 0);
        s.own = memory.take<T>(Backward ? n * row_size : 0);
        s.tile = memory.take<T>(length == 0 ? 0 : transform::tile_size(length));
    }

    // sums += factor * row
    HEED_INLINE static void add(T const* row, T factor, T* sums) {
        V const f(factor);
        fma(V::load(row), f, V::load(sums)).store(sums);
        fma(V::load(row + row_size / 2), f, V::load(sums + row_size / 2)).store(sums + row_size / 2);
    }
    HEED_INLINE static T product(T const* a, T const* b) {
        T part[row_size / 2], sum = 0;
        fma(V::load(a), V::load(b), V::load(a + row_size / 2) * V::load(b + row_size / 2)).store(part);
        for (extent_t l = 0; l < row_size / 2; ++l) { sum += part[l]; }
        return sum;
    }
    static bool finite(T const* x, extent_t count) {
        T sum = 0;
        for (extent_t i = 0; i < count; ++i) { sum += x[i] - x[i]; }
        return sum == T(0);
    }
    // f(i, t, p_it) for the scores first ... i of the rows first ... first + count - 1
    template <class F>
    static void row_by_row(slot const& s, extent_t first, extent_t count, F const& f) {
        for (extent_t i = first; i < first + count; ++i) {
            if (s.rows.inverse[i] == T(0)) { continue; }
            s.rows.weights(first, i - first + 1, s.rows.top[i], s.weights);
            for (extent_t t = first; t <= i; ++t) {
                T const p = s.weights[t - first] * s.rows.inverse[i];
                if (p == T(0) && s.rows.scores[t] == -math::inf<T>()) { continue; } // masked: its value is not read
                f(i, t, p);
            }
        }
    }
    // A block of the walk: scores first ... first + scores - 1 with their spectrum, rows `skip` ... rows - 1 from first, shares of these rows.
    struct part_sizes {
        extent_t scores, skip, rows;
        int level;
    };
    part_sizes sizes_of(prefix_part kind, extent_t have, int level) const {
        if (kind == prefix_part::triangle) { return {have, 0, have, level + 1}; }
        extent_t const half = blocks.block(level) / 2;
        return {half, half, have, level};
    }
    bool spectrum_of(tables_type const& tables, slot const& s, extent_t first, part_sizes const& n) const {
        T const scale = s.rows.largest(first, n.scores);
        if (scale == -math::inf<T>()) { return false; }
        extent_t const length = tables.plan.n;
        s.rows.weights(first, n.scores, scale, s.weights);
        for (extent_t t = 0; t < length; ++t) { s.line[t] = t < n.scores ? s.weights[t] : T(0); }
        tables.line.forward(s.line, s.spectrum, T(1) / static_cast<T>(length), s.line_scratch);
        s.rows.shares(first + n.skip, n.rows - n.skip, scale, s.shares);
        return true;
    }

    void forward_slab(tables_set const& tables, T const* scores, extent_t step, input const& values, output const& to, slot const& s) const {
        extent_t const n = out.seq;
        bool const numbers = s.rows.read(scores, step, n);
        values.pack(n, n, s.values);
        for (extent_t i = 0; i < n * row_size; ++i) { s.sums[i] = 0; }
        auto const rows = [&](extent_t first, extent_t count) {
            row_by_row(s, first, count, [&](extent_t i, extent_t t, T p) HEED_INLINE_LAMBDA { add(s.values + (i - t) * row_size, p, s.sums + i * row_size); });
        };
        if (!numbers || !finite(s.values, n * row_size)) {
            rows(0, n);
        } else {
            walk_prefix(s.rows, blocks, 0, blocks.levels, [&](prefix_part kind, extent_t first, extent_t have, int level) {
                if (level == 0) { return rows(first, have); }
                part_sizes const size = sizes_of(kind, have, level);
                tables_type const& t = tables.of[size.level];
                if (!spectrum_of(t, s, first, size)) { return; }
                transform const f{t.plan, s.slab, s.tile};
                f.multiply(s.values, row_size, size.rows, s.spectrum, s.slab, row_size, size.rows);
                for (extent_t i = size.skip; i < size.rows; ++i) { add(s.slab + i * row_size, s.shares[i - size.skip], s.sums + (first + i) * row_size); }
            });
        }
        to.unpack(0, n, s.sums);
    }

    void backward_values(spectral_gradient_problem<T> const& x, tables_set const& tables, T* parts, slot const& s, extent_t item) const {
        extent_t const slab = item % slabs(), head = item / slabs() % v.head, batch = item / slabs() / v.head, n = out.seq, group = out.head / v.head;
        for (extent_t i = 0; i < n * row_size; ++i) { s.sums[i] = 0; }
        input::of(x.v, batch, head, slab, v.head).pack(n, n, s.values);
        bool const values_finite = finite(s.values, n * row_size);
        for (extent_t b = v.batch == 1 ? 0 : batch; b < (v.batch == 1 ? out.batch : batch + 1); ++b) {
            for (extent_t k = head * group; k < head * group + group; ++k) {
                bool const numbers = s.rows.read(x.z.row(z.batch == 1 ? 0 : b, shared_head(k, z.head, out.head), 0), x.z.stride(2), n);
                input const outs = input::of(x.out, b, k, slab, out.head);
                input::of(x.dout, b, k, slab, out.head).pack(n, n, s.own);
                T* const dz = parts + ((b * out.head + k) * slabs() + slab) * n;
                denominators(s, outs, dz);
                auto const rows = [&](extent_t first, extent_t count) {
                    row_by_row(s, first, count, [&](extent_t i, extent_t t, T p) HEED_INLINE_LAMBDA {
                        add(s.own + i * row_size, p, s.sums + (i - t) * row_size);
                        dz[t] += p * product(s.own + i * row_size, s.values + (i - t) * row_size);
                    });
                };
                if (!numbers || !values_finite || !finite(s.own, n * row_size)) {
                    rows(0, n);
                } else {
                    walk_prefix(s.rows, blocks, 0, blocks.levels, [&](prefix_part kind, extent_t first, extent_t have, int level) {
                        if (level == 0) { return rows(first, have); }
                        part_sizes const size = sizes_of(kind, have, level);
                        if (spectrum_of(tables.of[size.level], s, first, size)) { backward_part(tables.of[size.level], s, first, size, dz); }
                    });
                }
            }
        }
        output::of(x.dv, batch, head, slab, v.head).unpack(0, n, s.sums);
    }
    // dz_t = -sum_(i >= t) p_it delta_i
    void denominators(slot const& s, input const& outs, T* dz) const {
        T later = 0; // sum over i >= t of exp(top_t - top_i) / sum_i delta_i
        for (extent_t t = out.seq; t-- > 0;) {
            if (t + 1 < out.seq && s.rows.top[t] != s.rows.top[t + 1]) { later *= s.rows.top[t] == -math::inf<T>() ? T(0) : prefix_rows<T, A>::exp_of(s.rows.top[t] - s.rows.top[t + 1]); }
            T delta = 0;
            for (extent_t c = 0; c < outs.width; ++c) { delta += s.own[t * row_size + c] * outs.at[t * outs.row + c * outs.step]; }
            later += s.rows.inverse[t] == T(0) ? T(0) : delta * s.rows.inverse[t];
            dz[t] = s.rows.scores[t] == -math::inf<T>() ? T(0) : -prefix_rows<T, A>::exp_of(s.rows.scores[t] - s.rows.top[t]) * later;
        }
    }
    void backward_part(tables_type const& t, slot const& s, extent_t first, part_sizes const& n, T* dz) const {
        extent_t const length = t.plan.n;
        for (extent_t i = 0; i < n.rows; ++i) {
            V const share(i < n.skip ? T(0) : s.shares[i - n.skip]);
            T const* const from = s.own + (first + i) * row_size;
            T* const to = s.gradients + i * row_size;
            (V::load(from) * share).store(to);
            (V::load(from + row_size / 2) * share).store(to + row_size / 2);
        }
        transform const f{t.plan, s.slab, s.tile}, g{t.plan, s.gradients, s.tile};
        f.forward(s.values, row_size, n.rows);
        g.forward(s.gradients, row_size, n.rows);
        spectra::multiply_products(length, s.gradients, s.slab, s.spectrum);
        g.inverse(s.gradients, row_size, n.rows);
        for (extent_t j = 0; j < n.rows; ++j) { add(s.gradients + j * row_size, T(1), s.sums + j * row_size); }
        t.line.inverse(s.spectrum, s.line, s.line_scratch);
        for (extent_t k = 0; k < n.scores; ++k) { dz[first + k] += s.weights[k] * s.line[k] / static_cast<T>(length); }
    }
    void add_parts(spectral_gradient_problem<T> const& x, T const* parts, extent_t batch, extent_t head) const {
        T* const dz = x.dz.row(batch, head, 0);
        extent_t const group = out.head / z.head;
        for (extent_t t = 0; t < z.seq; ++t) { dz[t * x.dz.stride(2)] = 0; }
        for (extent_t b = z.batch == 1 ? 0 : batch; b < (z.batch == 1 ? out.batch : batch + 1); ++b) {
            for (extent_t k = head * group; k < head * group + group; ++k) {
                for (extent_t slab = 0; slab < slabs(); ++slab) {
                    T const* const own = parts + ((b * out.head + k) * slabs() + slab) * z.seq;
                    for (extent_t t = 0; t < z.seq; ++t) { dz[t * x.dz.stride(2)] += own[t]; }
                }
            }
        }
    }
};

} // namespace heed
