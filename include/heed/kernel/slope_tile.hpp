// SPDX-License-Identifier: BSD-3-Clause
// slope_tile: what the scores of a tile send back through a contraction that is no product, scores transposed as in contract_tile:
//
//   dq[c][i] += sum_j ds[j][i] slope(k_j[c], q_i[c])     dk_j[c] += key_sign sum_i ds[j][i] slope(k_j[c], q_i[c])
//   dw[c]    += sum_ij ds[j][i] operand_slope(k_j[c], q_i[c])     where the contraction has an operand per feature
//
// One slope a pair and feature serves all three. Vectors run along queries; sums over queries are kept by lane until a register's worth of features is
// reduced at once. A few keys share the loads of q and dq.
#pragma once

#include <heed/kernel/lane_reduce.hpp>
#include <heed/kernel/math.hpp>
#include <heed/kernel/tile_config.hpp>

namespace heed {

template <class Ring, class T, class A, tile_config C>
struct slope_tile {
    using V = vec<T, A>;
    static constexpr int lanes = V::lanes;
    static constexpr extent_t pitch = extent_t(C.vecs) * lanes;

    struct operands {
        T const *q, *operand; // [width][pitch]; [width] of a ring that has one
        extent_t width;
        T *dq, *dw; // [width][pitch]; [width][lanes], to be summed over lanes, or null
    };
    // k: `keys` rows; ds: [keys][pitch]; dk: rows of whole vectors. Vectors [first, last) of queries only.
    static void run(Ring const& ring, T const* k, extent_t k_stride, int keys, operands const& of, T const* ds, int first, int last, T* dk, extent_t dk_pitch) {
        switch (last - first) {
        case 3: walk<3>(ring, k, k_stride, keys, of, ds + first * lanes, first, dk, dk_pitch); break;
        case 2: walk<2>(ring, k, k_stride, keys, of, ds + first * lanes, first, dk, dk_pitch); break;
        default: walk<1>(ring, k, k_stride, keys, of, ds + first * lanes, first, dk, dk_pitch); break;
        }
    }

private:
    static constexpr int most = registers<A> == 32 ? 4 : 2; // keys of a block

    template <int W>
    static void walk(Ring const& ring, T const* k, extent_t k_stride, int keys, operands const& of, T const* ds, int first, T* dk, extent_t dk_pitch) {
        int j = 0;
        for (; j + most <= keys; j += most) { block<most, W>(ring, k + j * k_stride, k_stride, of, ds + j * pitch, first, dk + j * dk_pitch, dk_pitch); }
        for (; j < keys; ++j) { block<1, W>(ring, k + j * k_stride, k_stride, of, ds + j * pitch, first, dk + j * dk_pitch, dk_pitch); }
    }
    template <int J, int W>
    static void block(Ring const& ring, T const* HEED_RESTRICT k, extent_t k_stride, operands const& of, T const* HEED_RESTRICT ds, int first, T* HEED_RESTRICT dk, extent_t dk_pitch) {
        Ring const own = ring;
        V up[J][W];
        static_for<J>([&](auto j) HEED_INLINE_LAMBDA { static_for<W>([&](auto w) HEED_INLINE_LAMBDA { up[j][w] = V::load(ds + j * pitch + w * lanes); }); });
        T of_feature[J][lanes * lanes]; // [key][feature][lane]
        for (extent_t c0 = 0; c0 < of.width; c0 += lanes) {
            extent_t const n = of.width - c0 < lanes ? of.width - c0 : extent_t(lanes);
            for (extent_t c = c0; c < c0 + n; ++c) {
                V y[J], sum[J], weight(0);
                static_for<J>([&](auto j) HEED_INLINE_LAMBDA { y[j] = V(k[j * k_stride + c]), sum[j] = V(0); });
                static_for<W>([&](auto w) HEED_INLINE_LAMBDA {
                    extent_t const at = c * pitch + (first + w) * lanes;
                    V const x = V::load(of.q + at);
                    V dq = V::load(of.dq + at);
                    static_for<J>([&](auto j) HEED_INLINE_LAMBDA {
                        V slope;
                        if constexpr (detail::has_operand<Ring>) {
                            slope = own.slope(y[j], x, V(of.operand[c]));
                            if (of.dw != nullptr) { weight = fma(up[j][w], own.operand_slope(y[j], x), weight); }
                        } else {
                            slope = own.slope(y[j], x);
                        }
                        sum[j] = fma(up[j][w], slope, sum[j]);
                        dq = fma(up[j][w], slope, dq);
                    });
                    dq.store(of.dq + at);
                });
                static_for<J>([&](auto j) HEED_INLINE_LAMBDA { sum[j].store(of_feature[j] + (c - c0) * lanes); });
                if constexpr (detail::has_operand<Ring>) {
                    if (of.dw != nullptr) { (V::load(of.dw + c * lanes) + weight).store(of.dw + c * lanes); }
                }
            }
            for (extent_t c = n; c < lanes; ++c) {
                static_for<J>([&](auto j) HEED_INLINE_LAMBDA { V(0).store(of_feature[j] + c * lanes); });
            }
            static_for<J>([&](auto j) HEED_INLINE_LAMBDA {
                V acc[lanes];
                static_for<lanes>([&](auto l) HEED_INLINE_LAMBDA { acc[l] = V::load(of_feature[j] + l * lanes); });
                V const total = reduce_lanes(acc, [](V a, V b) HEED_INLINE_LAMBDA { return a + b; });
                T* const to = dk + j * dk_pitch + c0;
                fma(total, V(T(Ring::key_sign)), V::load(to)).store(to);
            });
        }
    }
};

} // namespace heed
