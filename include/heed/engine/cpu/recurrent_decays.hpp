// SPDX-License-Identifier: BSD-3-Clause
// The decays of a chunk: tables of E_ts for one decay a head; for one a key channel, decayed rows block by block of 16 tokens, and their gradients. Members
// of recurrent_chunk that recurrent_chunk.hpp declares; those of value channels are in recurrent_value_decays.hpp.
#pragma once

#include <heed/engine/cpu/recurrent_chunk.hpp>

namespace heed {

template <class T, class A>
void recurrent_chunk<T, A>::head_tables(extent_t len, bool queries, bool rows_too) {
    if (n_.decays != decay_kind::head) { return; }
    extent_t const end = padded(len);
    for (extent_t s = 0; s < end; s += lanes) { V(0).store(running_ + s); }
    T sum(0);
    for (extent_t t = 0; t < len; ++t) {
        sum += g[t];
        T part[lanes];
        fast_exp2(V(sum)).store(part);
        head_prefix_[t] = part[0];
        for (extent_t s = 0; s <= t; s += lanes) {
            V r = V::load(running_ + s);
            r = s + lanes <= t ? r + V(g[t]) : select(before(s, t), r + V(g[t]), V(0));
            r.store(running_ + s);
            fast_exp2(r).store(between_ + t * cp + s);
        }
    }
    for (extent_t s = 0; s < end; s += lanes) { fast_exp2(V::load(running_ + s)).store(head_suffix_ + s); }
    for (extent_t c = 0; c < wide; c += lanes) { V(head_prefix_[len - 1]).store(factor + c); }
    if (!rows_too) { return; }
    each(len, [&](extent_t at, extent_t t) {
        V const key = V::load(k + at), from_start(head_prefix_[t]);
        (key * V(head_suffix_[t])).store(ke + at);
        if (queries) { (V::load(q + at) * from_start).store(qd + at); }
        if (n_.corrects) { (key * from_start).store(kd + at); }
    });
}
template <class T, class A>
void recurrent_chunk<T, A>::channel_tables(extent_t len, bool pairs) {
    for (extent_t t0 = 0; t0 < len; t0 += block) {
        extent_t const t1 = t0 + block < len ? t0 + block : len;
        for (extent_t c = 0; c < dwide; c += lanes) {
            V sum(0);
            for (extent_t t = t0; t < t1; ++t) {
                V const log = V::load(g + t * dp + c);
                sum = sum + log;
                if (!pairs) { continue; }
                fast_exp2(log).store(decay_ + t * dp + c);
                fast_exp2(sum).store(prefix_ + t * dp + c);
            }
            fast_exp2(sum).store(total_ + t0 / block * dp + c);
            sum = V(0);
            for (extent_t t = t1 - 1; t >= t0; --t) {
                fast_exp2(sum).store(suffix_ + t * dp + c);
                sum = sum + V::load(g + t * dp + c);
            }
        }
    }
}
template <class T, class A>
void recurrent_chunk<T, A>::pull_keys(T* keys, extent_t t0, extent_t t1) const {
    T const* const total = total_ + t0 / block * qp;
    for (extent_t s = 0; s < t1; ++s) {
        for (extent_t c = 0; c < wide; c += lanes) {
            extent_t const at = s * qp + c;
            (s < t0 ? V::load(keys + at) * V::load(total + c) : V::load(k + at) * V::load(suffix_ + at)).store(keys + at);
        }
    }
}
template <class T, class A>
void recurrent_chunk<T, A>::channel_scores(extent_t len, bool queries) {
    for (extent_t c = 0; c < wide; c += lanes) { V(1).store(factor + c); }
    if (!queries && !n_.corrects) { // keys at the end, and nothing else
        each(len, [&](extent_t at, extent_t) { V::load(k + at).store(ke + at); });
        decay_back(len, ke, suffix_, nullptr, false);
        for (extent_t t0 = 0; t0 < len; t0 += block) { multiply(total_ + t0 / block * qp, factor, 1, 0, wide); }
        return;
    }
    for (extent_t t0 = 0; t0 < len; t0 += block) {
        extent_t const t1 = t0 + block < len ? t0 + block : len, rows = t1 - t0;
        if (t0 > 0) { pack_transposed<A>(ke, qp, extent_t(1), t0, n_.width, turned_, cp, t0); }
        if (queries) { block_scores(q, qd, weights_, t0, rows, len); }
        if (n_.corrects) {
            block_scores(k, kd, below, t0, rows, len);
            for (extent_t t = t0; t < t1; ++t) { below[t * cp + t] = T(0); }
        }
        pull_keys(ke, t0, t1);
        for (extent_t c = 0; c < wide; c += lanes) { (V::load(factor + c) * V::load(total_ + t0 / block * qp + c)).store(factor + c); }
    }
}
template <class T, class A>
void recurrent_chunk<T, A>::block_scores(T const* rows_in, T* decayed, T* a, extent_t t0, extent_t rows, extent_t len) {
    each_of(t0, rows, [&](extent_t at, extent_t) { (V::load(rows_in + at) * V::load(prefix_ + at)).store(decayed + at); });
    if (t0 > 0) { product::run(rows, t0, n_.width, decayed + t0 * qp, qp, 1, turned_, cp, a + t0 * cp, cp, put::write); }
    for (extent_t t = t0; t < t0 + rows; ++t) {
        for (extent_t s = t0; s < padded(len); s += lanes) { V(0).store(a + t * cp + s); }
    }
    diagonal_scores<A>(rows_in + t0 * qp, k + t0 * qp, decay_ + t0 * qp, qp, rows, wide, a + t0 * cp + t0, cp);
    each_of(t0, rows, [&](extent_t at, extent_t c) { (V::load(decayed + at) * V::load(factor + c)).store(decayed + at); });
}
template <class T, class A>
void recurrent_chunk<T, A>::decay_back(extent_t len, T* rows, T const* inside, T const* per_token, bool from_start) const {
    if (n_.decays == decay_kind::head) {
        each(len, [&](extent_t at, extent_t t) { (V::load(rows + at) * V(per_token[t])).store(rows + at); });
    } else if (n_.decays != decay_kind::none) {
        extent_t const blocks = (len + block - 1) / block;
        for (extent_t c = 0; c < dwide; c += lanes) {
            V outside(1);
            for (extent_t i = 0; i < blocks; ++i) {
                extent_t const at_block = from_start ? i : blocks - 1 - i, t0 = at_block * block, t1 = t0 + block < len ? t0 + block : len;
                for (extent_t t = t0; t < t1; ++t) { (V::load(rows + t * dp + c) * (V::load(inside + t * dp + c) * outside)).store(rows + t * dp + c); }
                outside = outside * V::load(total_ + at_block * dp + c);
            }
        }
    }
}
template <class T, class A>
void recurrent_chunk<T, A>::end_of_decays(extent_t len, T const* after) {
    if (n_.decays == decay_kind::channel) {
        for (extent_t c = 0; c < wide; c += lanes) {
            V sum(0);
            for (extent_t r = 0; r < n_.columns; ++r) { sum = fma(V::load(after + r * qp + c), V::load(x_turned + r * qp + c), sum); }
            sum.store(dg + (len - 1) * qp + c);
        }
        return;
    }
    V sum[4] = {V(0), V(0), V(0), V(0)}; // rows apart, for their sums not to wait for each other
    for (extent_t r = 0; r < n_.columns; ++r) {
        V& of = sum[r % 4];
        for (extent_t c = 0; c < wide; c += lanes) { of = fma(V::load(after + r * qp + c), V::load(x_turned + r * qp + c), of); }
    }
    dg[len - 1] = total_of((sum[0] + sum[1]) + (sum[2] + sum[3]));
}
template <class T, class A>
void recurrent_chunk<T, A>::decay_gradients(extent_t len) {
    if (n_.decays == decay_kind::channel) {
        for (extent_t c = 0; c < wide; c += lanes) {
            V sum = V::load(dg + (len - 1) * qp + c);
            for (extent_t t = len - 1; t >= 0; --t) {
                extent_t const at = t * qp + c;
                V by_key = V::load(dk + at);
                if (n_.corrects) { by_key = by_key + V::load(later + at); }
                sum = sum + (V::load(q + at) * V::load(dq + at) - V::load(k + at) * by_key);
                sum.store(dg + at);
            }
        }
    } else {
        T sum = dg[len - 1];
        T const sign = n_.corrects ? T(1) : T(-1);
        for (extent_t t = len - 1; t >= 0; --t) {
            V row(0);
            for (extent_t at = t * qp; at < t * qp + wide; at += lanes) { row = row + fma(V::load(q + at), V::load(dq + at), V::load(k + at) * V::load(dk + at) * V(sign)); }
            if (n_.corrects) { // there dk is the whole; by the key as the earlier token it is u du, which is beta dbeta
                for (extent_t at = t * vp; at < t * vp + tall; at += lanes) { row = fma(V::load(beta + at) * V(-2), V::load(dbeta + at), row); }
            }
            sum += total_of(row);
            dg[t] = sum;
        }
    }
}
template <class T, class A>
void recurrent_chunk<T, A>::channel_gradients(extent_t len, T const* da, T const* rows_in, T* target, T sign) {
    for (extent_t t0 = 0; t0 < len; t0 += block) {
        extent_t const t1 = t0 + block < len ? t0 + block : len, rows = t1 - t0;
        if (t0 > 0) {
            product::run(rows, wide, t0, da + t0 * cp, cp, 1, ke, qp, some_, qp, put::write);
            each_of(t0, rows, [&](extent_t at, extent_t) { fma(V::load(some_ + at - t0 * qp), V::load(prefix_ + at), V::load(target + at)).store(target + at); });
        }
        diagonal_gradients<A>(da + t0 * cp + t0, cp, rows_in + t0 * qp, k + t0 * qp, decay_ + t0 * qp, qp, rows, wide, target + t0 * qp, dk + t0 * qp, sign);
        pull_keys(ke, t0, t1); // ke is k^ again after the last block
    }
    clear(earlier_, len, qp, wide);
    for (extent_t t0 = (len - 1) / block * block; t0 >= 0; t0 -= block) {
        extent_t const t1 = t0 + block < len ? t0 + block : len, rows = t1 - t0;
        T const* const total = total_ + t0 / block * qp;
        each_of(t0, rows, [&](extent_t at, extent_t) {
            fma(V::load(earlier_ + at) * V::load(suffix_ + at), V(sign), V::load(dk + at)).store(dk + at);
            (V::load(rows_in + at) * V::load(prefix_ + at)).store(some_ + at - t0 * qp);
        });
        each_of(0, t0, [&](extent_t at, extent_t c) { (V::load(earlier_ + at) * V::load(total + c)).store(earlier_ + at); });
        if (t0 > 0) { product::run(t0, wide, rows, da + t0 * cp, 1, cp, some_, qp, earlier_, qp, put::add); }
    }
}

} // namespace heed
