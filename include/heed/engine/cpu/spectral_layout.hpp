// SPDX-License-Identifier: BSD-3-Clause
// What the spectral engines share: which distances exist, the length of the transform, where a weight stands in it, the tables, and slabs of channels.
#pragma once

#include <heed/engine/cpu/kernels.hpp>
#include <heed/engine/workspace.hpp>
#include <heed/family/spectral.hpp>
#include <heed/kernel/fft.hpp>
#include <heed/kernel/math.hpp>
#include <heed/view/tensor_view.hpp>

namespace heed {

namespace detail {

// A mechanism's slots as numbers: one engine serves them all.
struct spectral_slots {
    bool circular, reversed, softmax;
    extent_t shift;
};
template <Spectral M>
HEED_INLINE spectral_slots slots_of(M const& m) {
    spectral_slots s{M::circular, M::reversed, std::is_same_v<decltype(M::normalizer), token_softmax>, 0};
    if constexpr (!M::circular) { s.shift = m.border.shift; }
    return s;
}

// Distances i - j from low to high have weights; a transform of `length` rows keeps the wanted samples apart from those that wrap around,
// but for `stray` of the wrapped border, which are computed apart and moved.
struct spectral_geometry {
    extent_t out, weights, values; // N, K, M
    extent_t shift, low, high;
    extent_t length = 0, stray = 0;
    bool circular, reversed, softmax, folded = false;

    HEED_INLINE static spectral_geometry of(spectral_slots const& slots, extent_t n, extent_t k, extent_t m, bool gradient) {
        spectral_geometry g{};
        g.out = n, g.weights = k, g.values = m, g.circular = slots.circular, g.reversed = slots.reversed, g.softmax = slots.softmax, g.shift = slots.shift;
        if (g.circular) {
            g.low = 1 - m, g.high = n - 1;
            bool const smooth = fft_is_smooth(n);
            extent_t const least = 2 * n - 1;
            extent_t padded = fft_good_length(least);
            if (!gradient && padded > least) { // a few samples too short may be much shorter
                extent_t const shorter = fft_good_length(least - (least > 256 ? 16 : 0));
                if (shorter < least && 1.02 * fft_cost(shorter) < fft_cost(padded)) { padded = shorter; }
            }
            g.folded = !smooth || fft_cost(padded) < fft_cost(n);
            g.length = g.folded ? padded : n;
            g.stray = g.folded && padded < least ? least - padded : 0;
        } else {
            g.low = g.reversed ? g.shift - k + 1 : -g.shift;
            g.high = g.reversed ? g.shift : k - 1 - g.shift;
            extent_t const need[] = {g.high + m, n - g.low, m, n, k, 1};
            extent_t least = 0;
            for (extent_t const x : need) { least = x > least ? x : least; }
            g.length = fft_good_length(least);
        }
        return g;
    }
    HEED_INLINE static extent_t modulo(extent_t x, extent_t n) { return x % n < 0 ? x % n + n : x % n; }
    // where weight t stands before its transform
    HEED_INLINE extent_t place(extent_t t) const {
        if (circular) { return reversed && t != 0 ? out - t : t; }
        return modulo(reversed ? shift - t : t - shift, length);
    }
    // which weight a distance has
    HEED_INLINE extent_t weight(extent_t distance) const {
        if (circular) { return modulo(reversed ? -distance : distance, out); }
        return reversed ? shift - distance : distance + shift;
    }
    // Values beyond N of the wrapped border come round: rows that enter the transform.
    HEED_INLINE extent_t rows() const { return circular && values > out ? out : values; }
};

} // namespace detail

// Tables of one length, read-only once made.
template <class T, class A>
struct spectral_tables {
    using line_type = fft_line<T, A>;
    fft_plan<T> plan;
    line_type line;
    std::int32_t const* position = nullptr; // of each frequency; null unless asked for

    // Counts (base null) or places, and makes or finds.
    static spectral_tables lay(arena& memory, extent_t length, bool positions, bool make, std::byte* scratch) {
        spectral_tables t;
        T* const roots = memory.take<T>(fft_plan<T>::table_size(length));
        T* const line = memory.take<T>(line_type::table_size(length));
        std::int32_t* const places = memory.take<std::int32_t>(length);
        std::int32_t* const position = positions ? memory.take<std::int32_t>(length) : nullptr;
        if (places == nullptr) { return t; }
        if (make) {
            t.plan = fft_plan<T>::template make<A>(length, roots, scratch);
            t.line = line_type::make(t.plan, line, places, scratch);
            for (extent_t f = 0; positions && f < length; ++f) { position[f] = static_cast<std::int32_t>(t.plan.position(f)); }
        } else {
            t.plan = fft_plan<T>::template at<A>(length, roots);
            t.line = line_type::at(length, line, places);
        }
        t.position = position;
        return t;
    }
    static std::size_t making_bytes(extent_t length) { return fft_plan<T>::template making_bytes<A>(length); }
};

// Which of `have` heads head h of `all` uses: consecutive ones share.
HEED_INLINE extent_t shared_head(extent_t h, extent_t have, extent_t all) { return have == all ? h : h / (all / have); }

// The channels c ... c + row_size - 1 of one head of a view.
template <class T, class A>
struct channel_slab {
    static constexpr extent_t row_size = fft_passes<std::remove_const_t<T>, A>::row_size;
    T* at;
    extent_t row, step, width; // numbers between rows and between channels; channels that exist

    // of head h of `heads`
    template <class E>
    HEED_INLINE static channel_slab of(tensor_view<E> const& v, extent_t b, extent_t h, extent_t slab, extent_t heads) {
        extent_t const c = slab * row_size, rest = v.extent(3) - c;
        b = v.extent(0) == 1 ? 0 : b;
        h = shared_head(h, v.extent(1), heads);
        return {v.row(b, h, 0) + c * v.stride(3), v.stride(2), v.stride(3), rest < row_size ? rest : row_size};
    }
    HEED_INLINE bool whole() const { return step == 1 && width == row_size; } // its rows can be read and written as they lie
    static extent_t slabs(extent_t channels) { return (channels + row_size - 1) / row_size; }

    // rows of the view, modulo `period`, as rows of a slab; channels that do not exist are zero
    void pack(extent_t rows, extent_t period, std::remove_const_t<T>* to) const {
        for (extent_t i = 0; i < rows; ++i) {
            T* const from = at + i * row;
            std::remove_const_t<T>* const x = to + (i < period ? i : i % period) * row_size;
            if (i >= period) {
                for (extent_t c = 0; c < width; ++c) { x[c] += from[c * step]; }
                continue;
            }
            if (step == 1 && width == row_size) {
                for (extent_t c = 0; c < row_size; ++c) { x[c] = from[c]; }
                continue;
            }
            for (extent_t c = 0; c < width; ++c) { x[c] = from[c * step]; }
            for (extent_t c = width; c < row_size; ++c) { x[c] = 0; }
        }
    }
    // rows first ... first + count - 1 of the view from rows of a slab
    HEED_INLINE void unpack(extent_t first, extent_t count, std::remove_const_t<T> const* from) const {
        for (extent_t i = 0; i < count; ++i) {
            T* const to = at + (first + i) * row;
            if (step == 1 && width == row_size) {
                for (extent_t c = 0; c < row_size; ++c) { to[c] = from[i * row_size + c]; }
                continue;
            }
            for (extent_t c = 0; c < width; ++c) { to[c * step] = from[i * row_size + c]; }
        }
    }
    // rows 0 ... count - 1 of the view: rows of a slab and, for the first `twice` of them, the rows `apart` further on added
    HEED_INLINE void unpack_sums(extent_t count, extent_t twice, extent_t apart, std::remove_const_t<T> const* from) const {
        for (extent_t i = 0; i < count; ++i) {
            T* const to = at + i * row;
            std::remove_const_t<T> const *const a = from + i * row_size, *const b = i < twice ? a + apart * row_size : a;
            std::remove_const_t<T> const factor = i < twice ? 1 : 0;
            if (step == 1 && width == row_size) {
                for (extent_t c = 0; c < row_size; ++c) { to[c] = a[c] + factor * b[c]; }
                continue;
            }
            for (extent_t c = 0; c < width; ++c) { to[c * step] = a[c] + factor * b[c]; }
        }
    }
    HEED_INLINE void add(extent_t i, std::remove_const_t<T> const* from) const {
        for (extent_t c = 0; c < width; ++c) { at[i * row + c * step] += from[c]; }
    }
    bool finite(extent_t i) const {
        bool all = true;
        for (extent_t c = 0; c < width; ++c) { all &= at[i * row + c * step] - at[i * row + c * step] == T(0); }
        return all;
    }
};

// w = the weights of one head in their own order, from z (its row stride in numbers). Returns whether a softmax has scores of -inf: tokens that are masked.
template <class T, class A>
bool token_weights(bool softmax, T const* z, extent_t step, extent_t count, T* w) {
    if (!softmax) {
        for (extent_t t = 0; t < count; ++t) { w[t] = z[t * step]; }
        return false;
    } else {
        using V = vec<T, A>;
        T top = -math::inf<T>();
        bool masked = false;
        for (extent_t t = 0; t < count; ++t) {
            top = z[t * step] > top ? z[t * step] : top;
            masked |= z[t * step] == -math::inf<T>();
        }
        if (top == -math::inf<T>()) { top = 0; } // all of them -inf, or NaN: 0 or NaN
        T part[V::lanes];
        double sum = 0;
        for (extent_t t = 0; t < count; t += V::lanes) {
            extent_t const n = count - t < V::lanes ? count - t : V::lanes;
            for (extent_t l = 0; l < V::lanes; ++l) { part[l] = l < n ? z[(t + l) * step] - top : T(0); }
            exp(V::load(part)).store(part);
            for (extent_t l = 0; l < n; ++l) {
                w[t + l] = part[l];
                sum += static_cast<double>(part[l]);
            }
        }
        T const factor = static_cast<T>(sum == 0 ? 0 : 1 / sum);
        for (extent_t t = 0; t < count; ++t) { w[t] *= factor; }
        return masked;
    }
}

// The weights of one head in their own order into w, and their spectrum, divided by the transform's length. line: L numbers.
template <class T, class A>
bool weights_spectrum(detail::spectral_geometry const& g, spectral_tables<T, A> const& tables, T const* z, extent_t step, T* w, T* spectrum, T* line, T* line_scratch) {
    bool const masked = token_weights<T, A>(g.softmax, z, step, g.weights, w);
    for (extent_t j = 0; j < g.length; ++j) { line[j] = 0; }
    for (extent_t t = 0; t < g.weights; ++t) { line[g.place(t)] += w[t]; }
    tables.line.forward(line, spectrum, T(1) / static_cast<T>(g.length), line_scratch);
    return masked;
}

} // namespace heed
