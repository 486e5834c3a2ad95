// SPDX-License-Identifier: BSD-3-Clause
// A causal convolution whose values arrive token by token: out_i = sum_(t <= i) w_t v_(i - t), amortised O(log^2 N) a token and channel.
//
// Block doubling: once i tokens are there, the last U of them, U the largest power of two that divides i, are sent ahead to the next U results by one
// transform of 2 U rows; taps 0 ... 2 U - 1 have their spectrum ready, and what wraps around falls on rows that are not read. Each pair of a value and
// a later result is so counted once. Blocks below 32 tokens are products. Filters shorter than a block need no greater one.
// Memory: 2 numbers a token and channel that may come, and 2 (taps + 2 block) for each filter. A block with a NaN or an infinity is sent by products.
// Sources: semi-relaxed multiplication, J. van der Hoeven, "Relax, but don't be too lazy" (2002); for long convolutions: Flash Inference, arXiv:2410.12982.
#pragma once

#include <heed/engine/cpu/parallel.hpp>
#include <heed/engine/cpu/spectral_layout.hpp>
#include <heed/kernel/fft/spectra.hpp>

namespace heed {

template <class T, class A>
struct convolution_stream_engine {
    static constexpr char const* name = "convolution_stream";
    using V = vec<T, A>;
    using tables_type = spectral_tables<T, A>;
    using transform = fft_transform<T, A>;
    using spectra = fft_spectra<T, A>;
    using input = channel_slab<T const, A>;
    using output = channel_slab<T, A>;
    static constexpr extent_t row_size = transform::row_size, base = 32;
    static constexpr int most_levels = 32;

    shape w, v; // of the filters; of all values that may come
    int levels = 0;
    tables_type tables[most_levels];
    T* spectrum[most_levels] = {}; // [filters][2 L], or for each channel [filters][slabs][L][row_size]
    T* taps = nullptr;             // [filters][slabs or 1][K][row_size]
    T *values = nullptr, *sums = nullptr, *scratch = nullptr; // [items][tokens][row_size], the same, [items][2 U][row_size] and a tile

    static convolution_stream_engine of(shape w, shape v) {
        convolution_stream_engine e;
        e.w = w, e.v = v;
        for (extent_t u = base; u < v.seq && w.seq > 1 && (e.levels == 0 || u < 2 * (w.seq - 1)); u *= 2) { ++e.levels; }
        return e;
    }
    bool by_channel() const { return w.feature > 1; }
    extent_t slabs() const { return channel_slab<T, A>::slabs(v.feature); }
    extent_t items() const { return v.batch * v.head * slabs(); }
    extent_t filter_slabs() const { return w.batch * w.head * (by_channel() ? slabs() : 1); }
    static extent_t block(int level) { return base << level; }
    extent_t scratch_rows() const { return levels == 0 ? 0 : 2 * block(levels - 1); }
    extent_t scratch_size() const { return scratch_rows() * row_size + (levels == 0 ? 0 : transform::tile_size(scratch_rows())); }

    std::size_t bytes() const {
        convolution_stream_engine counting = *this;
        arena count(nullptr);
        return counting.lay(count, false, nullptr) + making_bytes();
    }
    // In memory of bytes(): tables, spectra, a state before the first token.
    void make(std::byte* at, tensor_view<T const> const& filter) {
        convolution_stream_engine counting = *this;
        arena count(nullptr), memory(at);
        std::size_t const used = counting.lay(count, false, nullptr);
        lay(memory, true, at + used);
        for (extent_t f = 0; items() > 0 && f < filter_slabs(); ++f) { make_filter(f, filter); }
        reset();
    }
    void reset() {
        for (extent_t i = 0; i < items() * v.seq * row_size; ++i) { sums[i] = T(0); }
    }
    // Tokens [first, first + n) of every sequence.
    template <class E>
    void step(tensor_view<T const> const& from, tensor_view<T> const& to, extent_t first, E& executor, int slots) const {
        detail::for_each_item<A>(executor, slots, items(), [&](extent_t item, int) noexcept {
            extent_t const slab = item % slabs(), head = item / slabs() % v.head, b = item / slabs() / v.head;
            extent_t const filter = ((w.batch == 1 ? 0 : b) * w.head + shared_head(head, w.head, v.head)) * (by_channel() ? slabs() : 1) + (by_channel() ? slab : 0);
            input const in = input::of(from, b, head, slab, v.head);
            output const out = output::of(to, b, head, slab, v.head);
            T *const value = values + item * v.seq * row_size, *const sum = sums + item * v.seq * row_size;
            T const* const tap = taps + filter * w.seq * row_size;
            for (extent_t n = 0; n < from.extent(2); ++n) {
                extent_t const i = first + n;
                input{in.at + n * in.row, in.row, in.step, in.width}.pack(1, 1, value + i * row_size);
                for (extent_t t = 0; t <= i % base && t < w.seq; ++t) { add(tap + t * row_size, value + (i - t) * row_size, sum + i * row_size); }
                out.unpack(n, 1, sum + i * row_size);
                if ((i + 1) % base == 0 && i + 1 < v.seq && levels > 0) { send_ahead(filter, value, sum, i + 1, scratch + item * scratch_size()); }
            }
        });
    }

private:
    std::size_t making_bytes() const {
        std::size_t most = 0;
        for (int l = 0; l < levels; ++l) { most = tables_type::making_bytes(2 * block(l)) > most ? tables_type::making_bytes(2 * block(l)) : most; }
        return most;
    }
    std::size_t lay(arena& memory, bool make_tables, std::byte* making) {
        for (int l = 0; l < levels; ++l) {
            tables[l] = tables_type::lay(memory, 2 * block(l), by_channel(), make_tables, making);
            spectrum[l] = memory.take<T>(filter_slabs() * 2 * block(l) * (by_channel() ? row_size : 2));
        }
        taps = memory.take<T>(filter_slabs() * w.seq * row_size);
        values = memory.take<T>(items() * v.seq * row_size);
        sums = memory.take<T>(items() * v.seq * row_size);
        scratch = memory.take<T>(items() * scratch_size());
        return memory.bytes();
    }
    // Taps as rows of a slab, and the spectra of their beginnings.
    void make_filter(extent_t f, tensor_view<T const> const& filter) {
        extent_t const across = by_channel() ? slabs() : 1, head = f / across % w.head, b = f / across / w.head;
        T* const tap = taps + f * w.seq * row_size;
        if (by_channel()) {
            input::of(filter, b, head, f % across, w.head).pack(w.seq, w.seq, tap);
        } else {
            for (extent_t t = 0; t < w.seq; ++t) {
                for (extent_t c = 0; c < row_size; ++c) { tap[t * row_size + c] = filter(b, head, t, 0); }
            }
        }
        for (int l = 0; l < levels; ++l) {
            extent_t const length = 2 * block(l), have = w.seq < length ? w.seq : length;
            transform const of{tables[l].plan, scratch, scratch + scratch_rows() * row_size};
            if (by_channel()) {
                T* const to = spectrum[l] + f * length * row_size;
                transform{tables[l].plan, to, scratch + scratch_rows() * row_size}.forward(tap, row_size, have);
            } else { // the first lane's transform is the real vector's own where the second channel of its pair is zero
                T* const to = spectrum[l] + f * 2 * length;
                for (extent_t t = 0; t < length; ++t) {
                    for (extent_t c = 0; c < row_size; ++c) { scratch[t * row_size + c] = t < have && c == 0 ? tap[t * row_size] : T(0); }
                }
                of.forward(scratch, row_size, length);
                for (extent_t p = 0; p < length; ++p) {
                    to[2 * p] = scratch[p * row_size] / static_cast<T>(length);
                    to[2 * p + 1] = scratch[p * row_size + row_size / 2] / static_cast<T>(length);
                }
            }
        }
    }
    // The last tokens of `count` to the results that come next.
    void send_ahead(extent_t f, T const* value, T* sum, extent_t count, T* slab) const {
        int level = 0;
        while (level + 1 < levels && count % block(level + 1) == 0) { ++level; }
        extent_t const u = block(level), length = 2 * u, left = v.seq - count, rows = u < left ? u : left;
        T const* const from = value + (count - u) * row_size;
        T* const to = sum + count * row_size;
        transform const of{tables[level].plan, slab, slab + scratch_rows() * row_size};
        if (finite(from, u)) {
            if (by_channel()) {
                of.forward(from, row_size, u);
                spectra::template multiply_channels<false>(length, tables[level].position, slab, spectrum[level] + f * length * row_size, T(1) / static_cast<T>(length));
                of.inverse(slab, row_size, u + rows);
            } else {
                of.multiply(from, row_size, u, spectrum[level] + f * 2 * length, slab, row_size, u + rows);
            }
            if (finite(slab + u * row_size, rows)) {
                for (extent_t x = 0; x < rows * row_size; x += V::lanes) { (V::load(to + x) + V::load(slab + u * row_size + x)).store(to + x); }
                return;
            }
        }
        T const* const tap = taps + f * w.seq * row_size;
        for (extent_t x = 0; x < rows; ++x) {
            for (extent_t y = 0; y < u; ++y) {
                if (u + x - y < w.seq) { add(tap + (u + x - y) * row_size, from + y * row_size, to + x * row_size); }
            }
        }
    }
    HEED_INLINE static void add(T const* a, T const* b, T* to) {
        for (extent_t c = 0; c < row_size; c += V::lanes) { fma(V::load(a + c), V::load(b + c), V::load(to + c)).store(to + c); }
    }
    static bool finite(T const* x, extent_t rows) {
        V sum(0);
        for (extent_t n = 0; n < rows * row_size; n += V::lanes) { sum = fma(V::load(x + n), V(0), sum); }
        return all(sum == V(0));
    }
};

} // namespace heed
