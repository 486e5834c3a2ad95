// SPDX-License-Identifier: BSD-3-Clause
// Tiles of sums of products of bf16, two products a step: the blocks of registers of contract_tile and mix_tile.
//
//   contract_pairs                  s[j][i] = factor sum_c k[j][c] q[c][i]   q in pairs of features [ceil(d/2)][pitch], the keys as they lie
//   mix_tile<pair_products, float>  weights and values in pairs of keys: [ceil(n/2)][pitch] and [ceil(n/2)][dv]
//
// The scale of a score multiplies the finished sum, so that q is not rounded again; weights are rounded to bf16, 2^-9 relative at most.
#pragma once

#include <heed/kernel/bf16_dot.hpp>
#include <heed/kernel/mix_tile.hpp>

namespace heed {

template <class A, tile_config C>
struct contract_pairs {
    using V = vec<float, A>;
    using P = bf16_pairs<A>;
    static constexpr int lanes = V::lanes;
    static constexpr extent_t pitch = extent_t(C.vecs) * lanes;

    // k: `count` keys of contiguous features, `k_stride` apart; q: pairs; s: [count][pitch]; peak: [pitch], raised. Vectors [first, last) of the tile only.
    static void run(bf16 const* k, extent_t k_stride, extent_t count, float const* q, extent_t width, float* s, float* peak, int first, int last, float factor) {
        extent_t const at = extent_t(first) * lanes;
        switch (last - first) {
        case 3: walk<3>(k, k_stride, count, q + at, width, s + at, peak + at, factor); break;
        case 2: walk<2>(k, k_stride, count, q + at, width, s + at, peak + at, factor); break;
        default: walk<1>(k, k_stride, count, q + at, width, s + at, peak + at, factor); break;
        }
    }

private:
    static_assert(C.vecs == 3 && (C.rows == 8 || C.rows == 4), "heed: contract_pairs is written for 3 vectors and 4 or 8 keys");
    static constexpr extent_t per_line = extent_t(line_bytes / sizeof(bf16));

    template <int R, int W>
    HEED_INLINE static void block(bf16 const* HEED_RESTRICT k, extent_t k_stride, float const* HEED_RESTRICT q, extent_t width, float* HEED_RESTRICT s, float* HEED_RESTRICT peak, float factor) {
        V acc[R][W]; // scores of R keys x W vectors of queries
        static_for<R>([&](auto r) HEED_INLINE_LAMBDA { static_for<W>([&](auto w) HEED_INLINE_LAMBDA { acc[r][w] = V(0); }); });
        auto const step = [&](extent_t c, auto key) HEED_INLINE_LAMBDA {
            P x[W];
            static_for<W>([&](auto w) HEED_INLINE_LAMBDA {
                x[w] = P::load(q + c / 2 * pitch + w * lanes);
                pin(x[w].v);
            });
            static_for<R>([&](auto r) HEED_INLINE_LAMBDA {
                P y = key(k + r * k_stride + c);
                pin(y.v);
                static_for<W>([&](auto w) HEED_INLINE_LAMBDA { acc[r][w] = add_products(acc[r][w], x[w], y); });
            });
        };
        extent_t const whole = width / 2 * 2;
        for (extent_t c0 = 0; c0 < whole; c0 += per_line) {
            static_for<R>([&](auto r) HEED_INLINE_LAMBDA { HEED_PREFETCH(k + (R + r) * k_stride + c0); }); // the next block's
            extent_t const end = c0 + per_line < whole ? c0 + per_line : whole;
            for (extent_t c = c0; c < end; c += 2) {
                step(c, [](bf16 const* p) HEED_INLINE_LAMBDA { return P::spread(p); });
            }
        }
        if (whole < width) {
            step(whole, [](bf16 const* p) HEED_INLINE_LAMBDA { return P::spread_one(p); });
        }
        static_for<W>([&](auto w) HEED_INLINE_LAMBDA {
            V top = V::load(peak + w * lanes);
            static_for<R>([&](auto r) HEED_INLINE_LAMBDA {
                V const score = acc[r][w] * V(factor);
                score.store(s + r * pitch + w * lanes);
                top = max(top, score);
            });
            top.store(peak + w * lanes);
        });
    }
    template <int W>
    static void walk(bf16 const* k, extent_t k_stride, extent_t count, float const* q, extent_t width, float* s, float* peak, float factor) {
        extent_t j = 0;
        auto const step = [&](auto size) HEED_INLINE_LAMBDA {
            block<size, W>(k + j * k_stride, k_stride, q, width, s + j * pitch, peak, factor);
            j += size;
        };
        while (j + C.rows <= count) { step(std::integral_constant<int, C.rows>{}); }
        if (C.rows > 4 && j + 4 <= count) { step(std::integral_constant<int, 4>{}); }
        if (j + 2 <= count) { step(std::integral_constant<int, 2>{}); }
        if (j < count) { step(std::integral_constant<int, 1>{}); }
    }
};

// The ring of mix_tile whose numbers are pairs: o[e][i] = o[e][i] factor[i] + sum over pairs of keys.
struct pair_products {
    template <class V>
    HEED_INLINE static V zero() {
        return V(0);
    }
    template <class V>
    HEED_INLINE static V step(V acc, V a, V b) {
        using P = bf16_pairs<typename V::arch_type>;
        return add_products(acc, P{b}, P{a});
    }
};

// Weights [keys][pitch] of a segment rounded to pairs of keys, in place: row j / 2 takes rows j and j + 1, and was read before. Segments begin at
// even keys and come in order; a last key without a partner is paired with 0. Returns the segment of pairs.
template <class A, tile_config C>
segment round_to_pairs(float* p, segment const& t) {
    using V = vec<float, A>;
    constexpr extent_t pitch = extent_t(C.vecs) * V::lanes;
    for (int j = t.begin; j < t.end; j += 2) {
        for (int w = t.first; w < t.last; ++w) {
            float const* const from = p + j * pitch + w * V::lanes;
            bf16_pairs<A>::of(V::load(from), j + 1 < t.end ? V::load(from + pitch) : V(0)).store(p + j / 2 * pitch + w * V::lanes);
        }
    }
    return {t.begin / 2, (t.end + 1) / 2, t.first, t.last, t.masked};
}

// Rows first and second (or none) side by side: dst[c] = the pair of their elements c.
template <class A>
void zip_rows(bf16 const* first, bf16 const* second, extent_t feature_stride, extent_t width, float* dst) {
    using P = bf16_pairs<A>;
    extent_t c = 0;
    if (feature_stride == 1) {
        for (; c + P::lanes <= width; c += P::lanes) { P::zip(first + c, second != nullptr ? second + c : nullptr).store(dst + c); }
    }
    for (; c < width; ++c) { dst[c] = pair_bits(first[c * feature_stride], second != nullptr ? second[c * feature_stride] : bf16(0.0f)); }
}

} // namespace heed
