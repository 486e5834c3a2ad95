// SPDX-License-Identifier: BSD-3-Clause
// rotary: pair m of the first r features of a row at position t is turned by the angle t f_m. Su et al., arXiv:2104.09864.
//
//   interleaved_pairs   (x_2m, x_2m+1)        half_pairs   (x_m, x_{m + r/2})
//
// As a loader of q and k, heed::load{rope, rope}, rows are turned when a tile is packed, and again by each walk over the keys: a fifth to a quarter more
// time for a causal call at d = 64 and 128 on AVX2. heed::rotate does it once, in place, for a fiftieth, and gives the same bits in float and double.
// Law: q_i . k_j depends on the difference of their positions only. A row's position is its index, q's shifted by M - N as everywhere, plus `offset`;
// or what `positions` says. Angles are reduced in double: right to float's last bits for positions up to 2^20 and beyond.
#pragma once

#include <heed/kernel/pack.hpp>
#include <heed/kernel/rotate_rows.hpp>
#include <heed/kernel/turn.hpp>
#include <heed/policy/load/frequencies.hpp>
#include <heed/policy/load/load.hpp>

namespace heed {

struct interleaved_pairs {
    static constexpr detail::pair_layout layout = detail::pair_layout::neighbours;
};
struct half_pairs {
    static constexpr detail::pair_layout layout = detail::pair_layout::halves;
};

template <class Pairs = half_pairs, class Frequencies = geometric>
struct rotary {
    Pairs pairs = {};
    Frequencies frequencies = {};
    extent_t width = 0;  // r, even; 0: all features but an odd one
    extent_t offset = 0; // added to a row's index
    tensor_view<std::int32_t const> positions = {}; // {B|1, 1, N, 1}, instead of index and offset; null: none

    static constexpr extent_t chunk = 64; // pairs whose frequencies are held at once

    HEED_HD constexpr extent_t rotated(extent_t features) const { return (width > 0 && width < features ? width : features) / 2 * 2; }
    HEED_HD double position(operand const& of, extent_t row) const {
        if (positions.data_handle() == nullptr) { return static_cast<double>(of.first + offset + row); }
        return static_cast<double>(*positions.row(positions.extent(0) == 1 && !positions.is_ragged() ? 0 : of.at.batch, 0, positions.extent(2) == 1 ? 0 : row));
    }
    template <class F>
    constexpr void views(call_sizes const& n, extent_t rows, F&& f) const {
        if (positions.data_handle() != nullptr) { f("rotary positions", positions, shape{n.batch, 1, rows, 1}); }
    }

    // Turns rows of `heads` heads in place, backwards where direction is -1. row(head, n) is the first feature of row n.
    template <class A, class T, class Row>
    void turn_rows(operand const& of, range rows, extent_t features, extent_t heads, extent_t stride, double direction, Row const& row) const {
        constexpr extent_t room = chunk + 2 * vec<compute_t<T>, A>::lanes;
        alignas(line_bytes) double frequency[room];
        alignas(line_bytes) compute_t<T> cosine[room], sine[room];
        extent_t const half = rotated(features) / 2;
        for (extent_t begin = 0; begin < half; begin += chunk) {
            extent_t const end = begin + chunk < half ? begin + chunk : half;
            for (extent_t m = 0; m < room; ++m) { frequency[m] = begin + m < end ? direction * frequencies.frequency(begin + m, 2 * half) * 0.63661977236758134308 : 0.0; }
            for (extent_t n = rows.begin; n < rows.end; ++n) {
                detail::turns<A>(position(of, n), frequency, end - begin, static_cast<compute_t<T>>(frequencies.amplitude()), cosine, sine);
                for (extent_t h = 0; h < heads; ++h) { detail::rotate_pairs<Pairs::layout, A>(row(h, n), stride, half, begin, end, cosine, sine); }
            }
        }
    }

    template <class A, class T>
    void rows(operand const& of, range which, tensor_view<T const> const& x, compute_t<T>* dst, extent_t stride) const {
        pack_rows<A>(x.row(of.at.batch, of.head, which.begin), x.stride(2), x.stride(3), which.size(), x.extent(3), dst, stride);
        turn_rows<A, compute_t<T>>(of, which, x.extent(3), 1, 1, 1.0, [&](extent_t, extent_t n) { return dst + (n - which.begin) * stride; });
    }
    // The adjoint of a rotation is the rotation back (times the same amplitude).
    template <class A, class T>
    void pull_back(operand const& of, range which, extent_t features, T* dst, extent_t stride) const {
        turn_rows<A, T>(of, which, features, 1, 1, -1.0, [&](extent_t, extent_t n) { return dst + (n - which.begin) * stride; });
    }
};
rotary() -> rotary<>;
template <class P>
rotary(P) -> rotary<P>;
template <class P, class F>
rotary(P, F) -> rotary<P, F>;
template <class P, class F>
rotary(P, F, extent_t) -> rotary<P, F>;
template <class P, class F>
rotary(P, F, extent_t, extent_t) -> rotary<P, F>;
template <class P, class F, class T>
rotary(P, F, extent_t, extent_t, tensor_view<T>) -> rotary<P, F>;

} // namespace heed
