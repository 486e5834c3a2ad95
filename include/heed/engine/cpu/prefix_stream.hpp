// SPDX-License-Identifier: BSD-3-Clause
// Causal mixing with a softmax over the prefix, scores and values arriving token by token,
//
//   out_i = sum_(t <= i) exp(z_t) v_(i - t) / sum_(t <= i) exp(z_t),
//
// amortised O(log^2 N) a token and channel. Block doubling with both factors unknown: the pairs (t, j) of a score and a value with t and j >= 32 are cut
// into squares; once i tokens are there, each power of two U >= 32 that divides i, 2 U <= i, sends two of them ahead to rows i ... i + 2 U - 2: scores
// [U, 2 U) with the last U values, and the last U scores with values [U, 2 U), whose spectra were kept when they came (at i = 2 U both are the same, sent
// once). One transform of 2 U rows each way. Pairs with a t or j below 32 are products.
// Numbers: a square's weights stand beside its own largest score, and each row that waits keeps the largest of the scales it has seen: none is above the row's
// own largest score, so sums never overflow, and what underflows is below what the row can show. No bound on the range of the scores.
// A block with a NaN or an infinity goes by products. Memory: about 5 numbers a token and channel that may come.
// Source of the walk: J. van der Hoeven, "Relax, but don't be too lazy" (2002).
#pragma once

#include <heed/engine/cpu/parallel.hpp>
#include <heed/engine/cpu/prefix_walk.hpp>
#include <heed/kernel/fft/spectra.hpp>

namespace heed {

template <class T, class A>
struct prefix_stream_engine {
    static constexpr char const* name = "prefix_stream";
    using V = vec<T, A>;
    using tables_type = spectral_tables<T, A>;
    using transform = fft_transform<T, A>;
    using spectra = fft_spectra<T, A>;
    using input = channel_slab<T const, A>;
    using output = channel_slab<T, A>;
    using state = running_denominator<T, A>;
    static constexpr extent_t row_size = transform::row_size, base = 32;
    static constexpr int most_levels = 32;

    shape v; // of all values that may come
    int levels = 0;
    tables_type tables[most_levels];
    std::byte* sequences = nullptr;

    static prefix_stream_engine of(shape v) {
        prefix_stream_engine e;
        e.v = v;
        while (2 * block(e.levels) < v.seq) { ++e.levels; }
        return e;
    }
    static extent_t block(int level) { return base << level; }
    extent_t slabs() const { return channel_slab<T, A>::slabs(v.feature); }
    extent_t items() const { return v.batch * v.head * slabs(); }

    std::size_t bytes() const {
        prefix_stream_engine counting = *this;
        arena count(nullptr);
        return counting.lay(count, nullptr) + making_bytes();
    }
    // In memory of bytes(): tables, and a state before the first token.
    void make(std::byte* at) {
        prefix_stream_engine counting = *this;
        arena count(nullptr), memory(at);
        std::size_t const used = counting.lay(count, nullptr);
        lay(memory, at + used);
        reset();
    }
    void reset() {
        auto const all = items_at();
        for (extent_t item = 0; item < items(); ++item) {
            sequence const s = all[static_cast<int>(item)];
            *s.prefix = {};
            for (extent_t i = 0; i < v.seq; ++i) { s.scales[i] = -math::inf<T>(); }
            for (extent_t i = 0; i < v.seq * row_size; ++i) { s.sums[i] = 0; }
        }
    }
    // Tokens [first, first + n) of every sequence; z (B or 1, H or 1, n, 1).
    template <class E>
    void step(tensor_view<T const> const& z, tensor_view<T const> const& from, tensor_view<T> const& to, extent_t first, E& executor, int slots) const {
        auto const all = items_at();
        detail::for_each_item<A>(executor, slots, items(), [&](extent_t item, int) noexcept {
            extent_t const slab = item % slabs(), head = item / slabs() % v.head, b = item / slabs() / v.head;
            input const in = input::of(from, b, head, slab, v.head);
            output const out = output::of(to, b, head, slab, v.head);
            T const* const scores = z.row(z.extent(0) == 1 ? 0 : b, shared_head(head, z.extent(1), v.head), 0);
            sequence const s = all[static_cast<int>(item)];
            for (extent_t n = 0; n < from.extent(2); ++n) {
                extent_t const i = first + n;
                s.rows.scores[i] = scores[n * z.stride(2)];
                s.prefix->take(s.rows.scores[i]);
                input{in.at + n * in.row, in.row, in.step, in.width}.pack(1, 1, s.values + i * row_size);
                T row[row_size];
                result(s, i, row);
                out.unpack(n, 1, row);
                for (int l = 0; l < levels && (i + 1) % block(l) == 0 && i + 1 < v.seq; ++l) {
                    if (2 * block(l) <= i + 1) { send_ahead(s, i + 1, l); }
                }
            }
        });
    }

private:
    struct sequence { // what one (batch, head, slab) keeps
        prefix_rows<T, A> rows; // scores only
        state* prefix;
        T *values, *sums, *scales;                       // of each token; sums are exp(-scale) of what they stand for
        T *kept_values[most_levels], *kept_weights[most_levels], *kept_scale; // spectra of tokens [U, 2 U), and the scale of the latter
        T *slab, *tile, *line, *line_scratch, *weights, *spectrum;
    };
    static void lay_sequence(arena& memory, sequence& s, shape v, int levels) {
        extent_t const most = levels == 0 ? 0 : 2 * block(levels - 1);
        s.rows.scores = memory.take<T>(v.seq);
        s.prefix = memory.take<state>(1);
        s.values = memory.take<T>(v.seq * row_size);
        s.sums = memory.take<T>(v.seq * row_size);
        s.scales = memory.take<T>(v.seq);
        for (int l = 0; l < levels; ++l) {
            s.kept_values[l] = memory.take<T>(2 * block(l) * row_size);
            s.kept_weights[l] = memory.take<T>(4 * block(l));
        }
        s.kept_scale = memory.take<T>(levels);
        s.slab = memory.take<T>(most * row_size);
        s.tile = memory.take<T>(most == 0 ? 0 : transform::tile_size(most));
        s.line = memory.take<T>(most);
        s.line_scratch = memory.take<T>(most == 0 ? 0 : fft_line<T, A>::scratch_size(most));
        s.weights = memory.take<T>(most);
        s.spectrum = memory.take<T>(2 * most);
    }
    auto items_at() const {
        return pieces_of<sequence>(sequences, [shape = v, count = levels](arena& memory, sequence& s) { lay_sequence(memory, s, shape, count); });
    }
    std::size_t making_bytes() const { return levels == 0 ? 0 : tables_type::making_bytes(2 * block(levels - 1)); }
    std::size_t lay(arena& memory, std::byte* making) {
        for (int l = 0; l < levels; ++l) { tables[l] = tables_type::lay(memory, 2 * block(l), false, making != nullptr, making); }
        sequences = memory.take<std::byte>(static_cast<extent_t>(items_at().bytes(static_cast<int>(items()))));
        return memory.bytes();
    }

    // Row i: what was sent ahead to it, and the pairs that are products.
    void result(sequence const& s, extent_t i, T* row) const {
        T const top = s.prefix->largest, share = s.prefix->inverse();
        if (share == T(0)) { // no score above -inf
            for (extent_t c = 0; c < row_size; ++c) { row[c] = 0; }
            return;
        }
        extent_t const near = i + 1 < base ? i + 1 : base, late = i - base + 1 > base ? i - base + 1 : base; // scores [0, near) and [late, i]
        T weights[base];
        T const waiting = s.scales[i] == -math::inf<T>() ? T(1) : state::exp_of(s.scales[i] - top);
        scale(s.sums + i * row_size, waiting, row);
        s.rows.weights(0, near, top, weights);
        for (extent_t t = 0; t < near; ++t) { add_one(s, t, i - t, weights[t], row); }
        if (late <= i) { s.rows.weights(late, i - late + 1, top, weights); }
        for (extent_t t = late; t <= i; ++t) { add_one(s, t, i - t, weights[t - late], row); }
        scale(row, share, row);
    }
    // The squares that the last U of `count` tokens end.
    void send_ahead(sequence const& s, extent_t count, int level) const {
        extent_t const u = block(level), length = 2 * u, last = count - u, left = v.seq - count, rows = 2 * u - 1 < left ? 2 * u - 1 : left;
        bool const first = count == 2 * u;
        tables_type const& t = tables[level];
        transform const of{t.plan, s.slab, s.tile}, kept{t.plan, s.kept_values[level], s.tile};
        T const own = s.rows.largest(last, u);
        T* const spectrum = first ? s.kept_weights[level] : s.spectrum;
        weights_spectrum(s, t, last, own, spectrum);
        if (first) { s.kept_scale[level] = own; }
        (first ? kept : of).forward(s.values + last * row_size, row_size, u);
        T const early = first ? -math::inf<T>() : s.kept_scale[level], top = own > early ? own : early;
        if (top == -math::inf<T>()) { return; }
        // early scores with the last values, the last scores with early values; the first time there is one square, which is both
        T const by_early = early == -math::inf<T>() ? T(0) : state::exp_of(early - top), by_own = own == -math::inf<T>() ? T(0) : state::exp_of(own - top);
        spectra::multiply_two(length, first ? s.kept_values[level] : s.slab, s.kept_weights[level], first ? by_own : by_early, s.kept_values[level], spectrum, first ? T(0) : by_own, s.slab);
        of.inverse(s.slab, row_size, rows);
        if (finite(s.values + u * row_size, u) && finite(s.values + last * row_size, u) && finite(s.slab, rows)) {
            for (extent_t x = 0; x < rows; ++x) { add(s.slab + x * row_size, share(s, count + x, top), s.sums + (count + x) * row_size); }
            return;
        }
        square(s, u, last, rows, count, top);
        if (!first) { square(s, last, u, rows, count, top); }
    }
    // Scores [t, t + U) with values [j, j + U), t + j = count, by products.
    void square(sequence const& s, extent_t t, extent_t j, extent_t rows, extent_t count, T top) const {
        extent_t const u = count - (t > j ? t : j);
        s.rows.weights(t, u, top, s.weights);
        for (extent_t x = 0; x < rows; ++x) {
            T const factor = share(s, count + x, top);
            for (extent_t y = x - u + 1 > 0 ? x - u + 1 : 0; y <= x && y < u; ++y) { add_one(s, t + y, j + x - y, factor * s.weights[y], s.sums + (count + x) * row_size); }
        }
    }
    void weights_spectrum(sequence const& s, tables_type const& t, extent_t first, T largest, T* spectrum) const {
        extent_t const length = t.plan.n, u = length / 2;
        for (extent_t k = 0; k < length; ++k) { s.line[k] = 0; }
        if (largest != -math::inf<T>()) { s.rows.weights(first, u, largest, s.line); }
        t.line.forward(s.line, spectrum, T(1) / static_cast<T>(length), s.line_scratch);
    }
    // What a sum beside `scale` counts in row i, which first takes the larger of both.
    T share(sequence const& s, extent_t i, T scale_of_sum) const {
        if (s.scales[i] == scale_of_sum) { return T(1); }
        if (s.scales[i] > scale_of_sum) { return state::exp_of(scale_of_sum - s.scales[i]); }
        if (s.scales[i] != -math::inf<T>()) { scale(s.sums + i * row_size, state::exp_of(s.scales[i] - scale_of_sum), s.sums + i * row_size); }
        s.scales[i] = scale_of_sum;
        return T(1);
    }
    // Value j by the weight of score t; what a score of -inf masks is not read.
    HEED_INLINE static void add_one(sequence const& s, extent_t t, extent_t j, T weight, T* to) {
        if (weight == T(0) && s.rows.scores[t] == -math::inf<T>()) { return; }
        add(s.values + j * row_size, weight, to);
    }
    HEED_INLINE static void add(T const* from, T factor, T* to) {
        V const f(factor);
        for (extent_t c = 0; c < row_size; c += V::lanes) { fma(V::load(from + c), f, V::load(to + c)).store(to + c); }
    }
    HEED_INLINE static void scale(T const* from, T factor, T* to) {
        V const f(factor);
        for (extent_t c = 0; c < row_size; c += V::lanes) { (V::load(from + c) * f).store(to + c); }
    }
    static bool finite(T const* x, extent_t rows) {
        V sum(T(0));
        for (extent_t n = 0; n < rows * row_size; n += V::lanes) { sum = fma(V::load(x + n), V(T(0)), sum); }
        return all(sum == V(T(0)));
    }
};

} // namespace heed
