// SPDX-License-Identifier: BSD-3-Clause
// One decay a value channel: what recurrent_decays.hpp does for key channels, of rows of values. Members of recurrent_chunk that recurrent_chunk.hpp declares.
#pragma once

#include <heed/engine/cpu/recurrent_chunk.hpp>

namespace heed {

// Values of earlier blocks, decayed to the end of this one; its own by what is after them.
template <class T, class A>
void recurrent_chunk<T, A>::pull_values(extent_t t0, extent_t t1) const {
    T const* const total = total_ + t0 / block * vp;
    for (extent_t s = 0; s < t1; ++s) {
        for (extent_t c = 0; c < tall; c += lanes) {
            extent_t const at = s * vp + c;
            (s < t0 ? V::load(ue_ + at) * V::load(total + c) : V::load(u + at) * V::load(suffix_ + at)).store(ue_ + at);
        }
    }
}
template <class T, class A>
void recurrent_chunk<T, A>::mix_values(extent_t len, T* to) const {
    for (extent_t t0 = 0; t0 < len; t0 += block) {
        extent_t const t1 = t0 + block < len ? t0 + block : len, rows = t1 - t0;
        if (t0 > 0) {
            product::run(rows, tall, t0, weights_ + t0 * cp, cp, 1, ue_, vp, block_rows_, vp, put::write);
            for (extent_t t = t0; t < t1; ++t) {
                for (extent_t c = 0; c < tall; c += lanes) { fma(V::load(block_rows_ + (t - t0) * vp + c), V::load(prefix_ + t * vp + c), V::load(to + t * vp + c)).store(to + t * vp + c); }
            }
        }
        T* const no_rows = nullptr;
        diagonal_gradients<A, true, false>(weights_ + t0 * cp + t0, cp, static_cast<T const*>(no_rows), u + t0 * vp, decay_ + t0 * vp, vp, rows, tall, to + t0 * vp, no_rows, T(1));
        if (t1 < len) { pull_values(t0, t1); }
    }
}
template <class T, class A>
void recurrent_chunk<T, A>::values_at_end(extent_t len) const {
    for (extent_t t = 0; t < len; ++t) {
        for (extent_t c = 0; c < tall; c += lanes) { V::load(u + t * vp + c).store(ue_ + t * vp + c); }
    }
    decay_back(len, ue_, suffix_, nullptr, false);
    for (extent_t c = 0; c < tall; c += lanes) {
        V all(1);
        for (extent_t t0 = 0; t0 < len; t0 += block) { all = all * V::load(total_ + t0 / block * vp + c); }
        all.store(factor + c);
    }
}
template <class T, class A>
void recurrent_chunk<T, A>::value_scores(extent_t len) {
    for (extent_t t0 = 0; t0 < len; t0 += block) {
        extent_t const t1 = t0 + block < len ? t0 + block : len, rows = t1 - t0;
        if (t0 > 0) {
            pack_transposed<A>(ue_, vp, extent_t(1), t0, n_.columns, u_turned_, cp, t0);
            for (extent_t t = t0; t < t1; ++t) {
                for (extent_t c = 0; c < tall; c += lanes) { (V::load(dout + t * vp + c) * V::load(prefix_ + t * vp + c)).store(block_rows_ + (t - t0) * vp + c); }
            }
            product::run(rows, t0, n_.columns, block_rows_, vp, 1, u_turned_, cp, da_ + t0 * cp, cp, put::write);
        }
        for (extent_t t = t0; t < t1; ++t) {
            for (extent_t s = t0; s < padded(len); s += lanes) { V(0).store(da_ + t * cp + s); }
        }
        diagonal_scores<A>(dout + t0 * vp, u + t0 * vp, decay_ + t0 * vp, vp, rows, tall, da_ + t0 * cp + t0, cp);
        if (t1 < len) { pull_values(t0, t1); }
    }
}
template <class T, class A>
void recurrent_chunk<T, A>::mix_values_back(extent_t len) {
    clear(ue_, len, vp, tall); // what later blocks give, decayed to the end of the block
    for (extent_t t0 = (len - 1) / block * block; t0 >= 0; t0 -= block) {
        extent_t const t1 = t0 + block < len ? t0 + block : len, rows = t1 - t0;
        T const* const total = total_ + t0 / block * vp;
        for (extent_t t = t0; t < t1; ++t) {
            for (extent_t c = 0; c < tall; c += lanes) {
                extent_t const at = t * vp + c;
                fma(V::load(ue_ + at), V::load(suffix_ + at), V::load(h + at)).store(h + at);
                (V::load(dout + at) * V::load(prefix_ + at)).store(block_rows_ + at - t0 * vp);
            }
        }
        for (extent_t t = 0; t < t0; ++t) {
            for (extent_t c = 0; c < tall; c += lanes) { (V::load(ue_ + t * vp + c) * V::load(total + c)).store(ue_ + t * vp + c); }
        }
        if (t0 > 0) { product::run(t0, tall, rows, weights_ + t0 * cp, 1, cp, block_rows_, vp, ue_, vp, put::add); }
        T* const no_rows = nullptr;
        diagonal_gradients<A, false, true>(weights_ + t0 * cp + t0, cp, dout + t0 * vp, static_cast<T const*>(no_rows), decay_ + t0 * vp, vp, rows, tall, no_rows, h + t0 * vp, T(1));
    }
}
// o holds what the chunk gave, for the gradients of decays.
template <class T, class A>
void recurrent_chunk<T, A>::value_backward(extent_t len, T const* after) {
    pull_from_end(len);
    decay_back(len, h, suffix_, nullptr, false);
    value_scores(len);
    mix_values_back(len);
    values_at_end(len);
    product::run(len, wide, n_.columns, ue_, vp, 1, x_turned, qp, dk, qp, put::write);
    T* const at_end = block_rows_;
    for (extent_t c = 0; c < tall; ++c) {
        V sum(0);
        for (extent_t r = 0; c < n_.columns && r < wide; r += lanes) { sum = fma(V::load(after + c * qp + r), V::load(x_turned + c * qp + r), sum); }
        at_end[c] = total_of(sum);
    }
    for (extent_t c = 0; c < tall; c += lanes) { // sums over r >= t of do o - u du, and of S X at the end
        V sum = V::load(at_end + c);
        for (extent_t t = len - 1; t >= 0; --t) {
            extent_t const at = t * vp + c;
            sum = sum + (V::load(dout + at) * V::load(o + at) - V::load(u + at) * V::load(h + at));
            sum.store(dg + at);
        }
    }
    decay_back(len, dout, prefix_, nullptr, true);
    product::run(len, wide, n_.columns, dout, vp, 1, state_turned, qp, dq, qp, put::write);
    product::run(n_.columns, wide, len, dout, 1, vp, q, qp, x_turned, qp, put::scale_add, reach::all, factor);
    product::run(len, wide, len, da_, cp, 1, k, qp, dq, qp, put::add, reach::lower);
    product::run(len, wide, len, da_, 1, cp, q, qp, dk, qp, put::add, reach::upper);
}

} // namespace heed
