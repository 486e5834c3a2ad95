// SPDX-License-Identifier: BSD-3-Clause
// The algebra of one chunk of the recurrent family, forward and backward, on packed rows: dense products of kernel/product_tile.hpp and little else.
//
// With E_ts = prod_{s < r <= t} a_r (1 without decays), S the state before the chunk, X the loss's gradient by the state after it:
//   A_ts = q_t (E_ts k_s), s <= t      B_ts = k_t (E_ts k_s), s < t        q~_t = E_t,first-1 q_t, k~ likewise     k^_s = E_last,s k_s
//   u = beta (v - k~ S - B u), by forward substitution (delta rule), or v   o = q~ S + A u                          S <- E S + k^T u
//   du = k^ X + A^T do;   h = beta (du - B^T h);   dA = do u^T;   dB = -h u^T;   X <- E X + q~^T do - k~^T h
// The gradient of a logarithm of a decay at r is the sum of k_s-, q_t-weighted pairs with s < r <= t: sums over t >= r of q dq + k dk (as the later token) - k dk
// (as the earlier one), plus sum_v S X after the chunk (derived as in arXiv:2312.06635, appendix, chunk by chunk so that nothing is summed over the sequence).
//
// Decays of value channels (no delta rule): o = (q S) e_t + sum_s A_ts E_ts u_s, E_ts a row of dv, and the same exchanged everywhere: o for q dq, u du for k dk.
//
// Numbers: sums of logarithms over the tokens between two, each made of terms of one sign, never differences of long sums nor ratios of exponentials; a decay of 0 is exact.
// Channel decays, of keys or values, go in blocks of 16 tokens: inside a block products from token to token, between blocks decays to a common token.
#pragma once

#include <heed/engine/workspace.hpp>
#include <heed/kernel/decay_block.hpp>
#include <heed/kernel/math.hpp>
#include <heed/kernel/pack.hpp>
#include <heed/kernel/product_tile.hpp>
#include <heed/policy/update/update.hpp>

namespace heed {

// Sizes of a call, as the chunk sees them.
struct chunk_sizes {
    extent_t tokens = 64; // of a chunk
    extent_t width = 0;   // d, of mapped keys
    extent_t columns = 0; // dv, and one more for the sum of ones
    decay_kind decays = decay_kind::none;
    bool corrects = false;
    bool weighs = false;    // values come multiplied by beta
    extent_t raw = 0;     // numbers of a row before a map of rows; 0: the map changes no width
    bool over_positions = false; // keys go through a softmax over all positions
};

template <class T, class A>
class recurrent_chunk {
    using V = vec<T, A>;
    using product = product_tile<T, A>;
    static constexpr int lanes = V::lanes;
    static constexpr extent_t block = decay_block_rows;

    static constexpr extent_t padded(extent_t n) { return (n + lanes - 1) / lanes * lanes; }
    // Whole lines, an odd number of them: rows of a power of two would share a few sets of the caches.
    static constexpr extent_t pitch(extent_t n) {
        constexpr extent_t line = extent_t(line_bytes / sizeof(T));
        extent_t const lines = (n + line - 1) / line;
        return (lines % 2 == 0 ? lines + 1 : lines) * line;
    }

    chunk_sizes n_;
    T *weights_, *da_, *db_; // [tokens][cp]
    T *between_, *running_;               // E_ts of head decays; its last row
    T *turned_;                           // keys, feature major [width][cp]
    T *decay_, *prefix_, *suffix_, *total_; // channel decays: a, products inside a block up to and after a token, of a block
    T *head_prefix_, *head_suffix_;       // [tokens]
    T *u_turned_, *h_turned_, *earlier_, *some_;
    T *ue_, *block_rows_;                 // value decays: u decayed to a later token, rows of a block

public:
    extent_t qp, vp, cp, rp, dp;     // row pitches; dp of rows of decays
    extent_t wide, tall, dwide;      // width and columns, in whole registers; how wide decays are
    T *q, *k, *u, *beta, *g;         // packed: scaled queries, keys, values, beta (a row of columns each), log2 decays ([tokens] or rows)
    T *qd, *kd, *ke, *factor;        // q~, k~, k^, E of the chunk (one a channel)
    T *below;                        // B, [tokens][cp]; elsewhere where it is kept
    T *state, *o;                    // [width][vp], [tokens][vp]
    T *state_turned, *x_turned;      // backward: S and X, [columns][qp]; S is the caller's where there is one for each chunk
    T *peak, *share;                 // softmax over positions: greatest of each channel, and one over the sum of its exponentials
    coming_rows coming;              // asked for in between products of steps and of backward
    T shared = T(0), dshared = T(0); // of a map that takes keys apart: what they share, its gradient,
    extent_t shared_from = -1;       // and the key that it is from
    T *raw, *draw;                   // [tokens][rp]: rows before a map of rows, and gradients by them
    T *x, *dout, *dq, *dk, *later, *h, *dbeta, *dg; // backward: X (orders that are not causal), do; gradients of q, k, (k as the later token), v, beta rows, decays (as g)

    recurrent_chunk(chunk_sizes const& n, bool backward, bool causal, arena& room) : n_(n) {
        qp = pitch(n.width), vp = pitch(n.columns), cp = pitch(n.tokens), rp = pitch(n.raw);
        wide = padded(n.width), tall = padded(n.columns);
        bool const value = n.decays == decay_kind::value;
        dp = value ? vp : qp, dwide = value ? tall : wide;
        extent_t const c = n.tokens, rows_q = c * qp, rows_v = c * vp, pairs = c * cp;
        bool const head = n.decays == decay_kind::head, channel = n.decays == decay_kind::channel, rows_of = channel || value;
        extent_t const rows_d = c * dp;
        auto const take = [&](extent_t count, bool wanted = true) { return wanted ? room.take<T>(count) : nullptr; };
        q = take(rows_q), k = take(rows_q), u = take(rows_v), o = take(rows_v), state = take(wide * vp), turned_ = take((backward && tall > wide ? tall : wide) * cp), weights_ = take(pairs);
        beta = take(rows_v, n.corrects || n.weighs), below = take(pairs, n.corrects);
        g = take(rows_of ? rows_d : c, n.decays != decay_kind::none), factor = take(value ? tall : wide, n.decays != decay_kind::none);
        between_ = take(pairs, !rows_of), running_ = take(cp, head), head_prefix_ = take(c, head), head_suffix_ = take(cp, head);
        decay_ = take(rows_d, rows_of), prefix_ = take(rows_d, rows_of), suffix_ = take(rows_d, rows_of), total_ = take((c / block + 1) * dp, rows_of);
        ue_ = take(rows_v, value), block_rows_ = take(block * vp, value);
        bool const decays = n.decays != decay_kind::none;
        qd = decays && !value ? take(rows_q) : q, ke = decays && !value ? take(rows_q) : k, kd = n.corrects && decays ? take(rows_q) : k;
        peak = take(wide, n.over_positions), share = take(wide, n.over_positions);
        raw = take(c * rp, n.raw > 0), draw = take(c * rp, n.raw > 0 && backward);
        x = take(wide * vp, backward && !causal), dout = take(rows_v, backward), dq = take(rows_q, backward), dk = take(rows_q, backward), h = take(rows_v, backward);
        da_ = take(pairs, backward), state_turned = take(turned_size(), backward && !causal), x_turned = take(turned_size(), backward), h_turned_ = take(tall * cp, backward && causal);
        u_turned_ = turned_; // keys are done with by then
        later = take(rows_q > rows_v ? rows_q : rows_v, backward && n.corrects), dbeta = take(rows_v, backward && (n.corrects || n.weighs)), db_ = take(pairs, backward && n.corrects);
        dg = take(rows_of ? rows_d : c, backward && decays);
        earlier_ = take(rows_q, backward && channel), some_ = take(block * qp, backward && channel);
    }

    // y *= x
    static void multiply(T const* x, T* y, extent_t rows, extent_t pitch_of, extent_t width) {
        for (extent_t r = 0; r < rows; ++r) {
            for (extent_t c = 0; c < width; c += lanes) { (V::load(x + r * pitch_of + c) * V::load(y + r * pitch_of + c)).store(y + r * pitch_of + c); }
        }
    }
    static void clear(T* p, extent_t rows, extent_t p_pitch, extent_t width);
    void clear_state(T* s) const { clear(s, wide, vp, tall); }
    extent_t turned_size() const { return tall * qp; }

    // From packed rows: decayed rows, scores. Without queries, what the state alone needs; again, for backward, B is there already and there are no decayed rows unless decays are of channels.
    void prepare(extent_t len, bool queries, bool again = false);
    // The delta rule's u from v, in place.
    void solve(extent_t len, T* residual = nullptr);
    // u again from what solve kept: beta times it.
    void resolve(extent_t len, T const* residual);
    void read(extent_t len);
    void read_state_only(extent_t len);
    void advance(extent_t len);

    // sum of the weights of row t, and of q~_t with a column of the state: a denominator
    T denominator(extent_t t, extent_t column) const;
    // A state by rows of keys, turned into rows of values, and back.
    void turn(T const* from, T* to) const { pack_transposed<A>(from, vp, extent_t(1), n_.width, n_.columns, to, qp, wide); }
    void turn_back(T const* from, T* to) const { pack_transposed<A>(from, qp, extent_t(1), n_.columns, n_.width, to, vp, tall); }

    // After prepare (with queries), with the state before the chunk turned and dout packed: all gradients; X of the chunk's end becomes that of its start. `after` is
    // the state after the chunk, turned (read where there are decays), `residual` what solve kept (delta rule).
    void backward(extent_t len, T const* after, T const* residual);

    // Orders that are not causal: all keys, then all queries; dout packed, the state turned. X becomes its sum over queries.
    void backward_of_queries(extent_t len);
    // Softmax over positions, its pieces: peaks of packed keys; keys in place of exponentials; the state of sums into one of means, and X back by that.
    void start_positions();
    void raise_peaks(extent_t len);
    void weigh_positions(extent_t len);
    void take_means(extent_t column);
    void means_back(extent_t column);
    void backward_of_keys(extent_t len);

private:
    HEED_INLINE static T total_of(V x) {
        T part[lanes], sum(0);
        x.store(part);
        for (int l = 0; l < lanes; ++l) { sum += part[l]; }
        return sum;
    }
    // f(offset, token) for every register of the rows of queries and keys
    template <class F>
    HEED_INLINE void each(extent_t len, F const& f) const {
        for (extent_t t = 0; t < len; ++t) {
            for (extent_t c = 0; c < wide; c += lanes) { f(t * qp + c, t); }
        }
    }
    HEED_INLINE static typename V::mask_type before(extent_t first, extent_t limit) {
        return mask_cast<V>(iota(first, std::type_identity<index_of<V>>{}) < index_of<V>(limit));
    }
    // rows t of a [tokens][cp]: times E_ts for s <= t - strict, 0 beyond
    template <bool Decay>
    void weigh_rows(T* a, extent_t len, extent_t strict) const {
        extent_t const end = padded(len);
        for (extent_t t = 0; t < len; ++t) {
            T* const row = a + t * cp;
            extent_t const kept = t + 1 - strict;
            for (extent_t s = 0; s < end; s += lanes) {
                if (s >= kept) {
                    V(0).store(row + s);
                    continue;
                }
                V w = V::load(row + s);
                if constexpr (Decay) { w = w * V::load(between_ + t * cp + s); }
                if (s + lanes > kept) { w = select(before(s, kept), w, V(0)); }
                w.store(row + s);
            }
        }
    }
    void weigh_no_decay(T* a, extent_t len, extent_t strict) const;
    void weigh(T* a, extent_t len, extent_t strict) const;

    // Head decays: E_ts row by row, the sums of logarithms carried along t.
    void head_tables(extent_t len, bool queries, bool rows_too);

    // Channel decays: the products inside a block after a token, and of the whole block; for pairs of tokens a, and the products up to a token.
    void channel_tables(extent_t len, bool pairs);
    // Keys of earlier blocks, decayed to the end of block i: multiplied by its total; its own by what is after them.
    void pull_keys(T* keys, extent_t t0, extent_t t1) const;
    void channel_scores(extent_t len, bool queries);
    // Of value decays; to[t] += sum_s A_ts E_ts u_s; ue = E_last,s u_s; da_ts = sum_c dout_t E_ts u_s; h[s] += sum_t A_ts E_ts dout_t; all gradients.
    void pull_values(extent_t t0, extent_t t1) const;
    void mix_values(extent_t len, T* to) const;
    void values_at_end(extent_t len) const;
    void value_scores(extent_t len);
    void mix_values_back(extent_t len);
    void value_backward(extent_t len, T const* after);
    // rows t0 ... of a: the scores with all keys up to them; `decayed` becomes rows times all decays of the chunk up to them
    void block_scores(T const* rows_in, T* decayed, T* a, extent_t t0, extent_t rows, extent_t len);
    template <class F>
    HEED_INLINE void each_of(extent_t t0, extent_t rows, F const& f) const {
        for (extent_t t = t0; t < t0 + rows; ++t) {
            for (extent_t c = 0; c < wide; c += lanes) { f(t * qp + c, c); }
        }
    }

    // h = k^ X, still without head decays: from X turned, a product of rows of values with keys along the lanes.
    void pull_from_end(extent_t len);
    void solve_back(extent_t len, T const* residual);
    // Gradients of decayed rows into those of the rows: q~ and k~ from the chunk's start, k^ to its end.
    void decay_back(extent_t len, T* rows, T const* inside, T const* per_token, bool from_start) const;
    // The last row of dg: what all decays of the chunk share, sum_v S X after it. dg[len - 1] holds it until decay_gradients.
    void end_of_decays(extent_t len, T const* after);
    void decay_gradients(extent_t len);
    // rows_in: the later tokens' rows; target: their gradients, added to; gradients of k as the earlier token are added to dk times sign
    void channel_gradients(extent_t len, T const* da, T const* rows_in, T* target, T sign);
};

template <class T, class A>
void recurrent_chunk<T, A>::prepare(extent_t len, bool queries, bool again) {
    if (n_.decays == decay_kind::channel || n_.decays == decay_kind::value) { channel_tables(len, queries || n_.corrects); }
    if (n_.decays == decay_kind::channel) {
        channel_scores(len, queries);
        return;
    }
    head_tables(len, queries, !again);
    if (!queries && !n_.corrects) { return; }
    pack_transposed<A>(k, qp, extent_t(1), len, n_.width, turned_, cp, padded(len));
    if (queries) {
        product::run(len, padded(len), n_.width, q, qp, 1, turned_, cp, weights_, cp, put::write, reach::columns);
        weigh(weights_, len, 0);
    }
    if (n_.corrects && !again) {
        product::run(len, padded(len), n_.width, k, qp, 1, turned_, cp, below, cp, put::write, reach::columns, nullptr, &coming);
        weigh(below, len, 1);
    }
}
template <class T, class A>
void recurrent_chunk<T, A>::solve(extent_t len, T* residual) {
    if (!n_.corrects) { return; }
    product::run(len, tall, n_.width, kd, qp, 1, state, vp, u, vp, put::subtract, reach::all, nullptr, &coming);
    for (extent_t i = 0; i < len; i += substitute_rows) {
        extent_t const rows = len - i < substitute_rows ? len - i : extent_t(substitute_rows);
        if (i > 0) { product::run(rows, tall, i, below + i * cp, cp, 1, u, vp, u + i * vp, vp, put::subtract, reach::all, nullptr, &coming); }
        substitute<A>(below + i * cp + i, cp, rows, beta + i * vp, vp, tall, u + i * vp, residual == nullptr ? nullptr : residual + i * vp);
    }
}
template <class T, class A>
void recurrent_chunk<T, A>::resolve(extent_t len, T const* residual) {
    for (extent_t t = 0; t < len; ++t) {
        for (extent_t c = 0; c < tall; c += lanes) { (V::load(beta + t * vp + c) * V::load(residual + t * vp + c)).store(u + t * vp + c); }
    }
}
template <class T, class A>
void recurrent_chunk<T, A>::advance(extent_t len) {
    if (n_.decays == decay_kind::value) {
        values_at_end(len);
        for (extent_t r = 0; r < n_.width; ++r) { multiply(factor, state + r * vp, 1, 0, tall); }
        product::run(n_.width, tall, len, k, 1, qp, ue_, vp, state, vp, put::add, reach::all, nullptr, &coming);
        return;
    }
    product::run(n_.width, tall, len, ke, 1, qp, u, vp, state, vp, n_.decays == decay_kind::none ? put::add : put::scale_add, reach::all, factor, &coming);
}
template <class T, class A>
void recurrent_chunk<T, A>::read(extent_t len) {
    product::run(len, tall, n_.width, qd, qp, 1, state, vp, o, vp, put::write);
    if (n_.decays == decay_kind::value) {
        decay_back(len, o, prefix_, nullptr, true);
        mix_values(len, o);
        return;
    }
    product::run(len, tall, len, weights_, cp, 1, u, vp, o, vp, put::add, reach::lower);
}
template <class T, class A>
void recurrent_chunk<T, A>::read_state_only(extent_t len) { product::run(len, tall, n_.width, q, qp, 1, state, vp, o, vp, put::write); }
template <class T, class A>
T recurrent_chunk<T, A>::denominator(extent_t t, extent_t column) const {
    V sum(0);
    for (extent_t c = 0; c <= t; c += lanes) { sum = sum + V::load(weights_ + t * cp + c); }
    for (extent_t c = 0; c < wide; c += lanes) { sum = fma(V::load(qd + t * qp + c), V::load(state_turned + column * qp + c), sum); }
    return total_of(sum);
}
template <class T, class A>
void recurrent_chunk<T, A>::pull_from_end(extent_t len) {
    if (n_.decays == decay_kind::channel) { pack_transposed<A>(ke, qp, extent_t(1), len, n_.width, turned_, cp, padded(len)); }
    product::run(n_.columns, padded(len), n_.width, x_turned, qp, 1, turned_, cp, h_turned_, cp, put::write, reach::all, nullptr, &coming);
    pack_transposed<A>(h_turned_, cp, extent_t(1), n_.columns, len, h, vp, tall);
}
template <class T, class A>
void recurrent_chunk<T, A>::backward(extent_t len, T const* after, T const* residual) {
    if (n_.decays == decay_kind::value) {
        value_backward(len, after);
        return;
    }
    bool const channel = n_.decays == decay_kind::channel, head = n_.decays == decay_kind::head;
    auto const pairs_of = [&](T const* left, T* to) HEED_INLINE_LAMBDA { product::run(len, padded(len), n_.columns, left, vp, 1, u_turned_, cp, to, cp, put::write, reach::columns, nullptr, &coming); };
    auto const rows_of = [&](T const* left, T const* right, T* to, put how, T const* by) HEED_INLINE_LAMBDA { product::run(len, wide, n_.columns, left, vp, 1, right, qp, to, qp, how, reach::all, by, &coming); };
    auto const mix = [&](T const* weights, T const* right, T* to, put how, bool later_ones) HEED_INLINE_LAMBDA {
        product::run(len, wide, len, weights, later_ones ? 1 : cp, later_ones ? cp : 1, right, qp, to, qp, how, later_ones ? reach::upper : reach::lower, nullptr, &coming);
    };
    auto const into_x = [&](T const* left, T const* right, put how) HEED_INLINE_LAMBDA { product::run(n_.columns, wide, len, left, 1, vp, right, qp, x_turned, qp, how, reach::all, factor, &coming); };
    put const decayed = head ? put::scale_add : put::add;

    if (n_.corrects) { resolve(len, residual); }
    pull_from_end(len);
    pack_transposed<A>(u, vp, extent_t(1), len, n_.columns, u_turned_, cp, padded(len));
    product::run(len, tall, len, weights_, 1, cp, dout, vp, h, vp, decayed, reach::upper, head_suffix_, &coming);
    if (n_.corrects) { solve_back(len, residual); }
    pairs_of(dout, da_);
    if (n_.corrects) { pairs_of(h, db_); }
    if (!channel) { // decays from the chunk's start: of do and -h, and by them of everything
        for (extent_t t = 0; head && t < len; ++t) { scale_in_place<A>(dout + t * vp, tall, head_prefix_[t]); }
        for (extent_t t = 0; n_.corrects && t < len; ++t) {
            V const by(head ? -head_prefix_[t] : T(-1));
            for (extent_t c = t * vp; c < t * vp + tall; c += lanes) { (V::load(h + c) * by).store(later + c); }
        }
    }
    rows_of(dout, state_turned, dq, put::write, nullptr);
    rows_of(u, x_turned, dk, put::write, nullptr);
    if (channel && n_.corrects) { rows_of(h, state_turned, later, put::write, nullptr); }
    if (!channel && n_.corrects) {
        rows_of(later, state_turned, dk, decayed, head_suffix_);
    } else {
        decay_back(len, dk, suffix_, head_suffix_, false);
    }
    if (channel) {
        decay_back(len, dq, prefix_, nullptr, true);
        if (n_.corrects) { decay_back(len, later, prefix_, nullptr, true); }
    }
    if (n_.decays != decay_kind::none) { end_of_decays(len, after); }
    into_x(dout, channel ? qd : q, n_.decays == decay_kind::none ? put::add : put::scale_columns);
    if (n_.corrects) { channel ? into_x(h, kd, put::subtract) : into_x(later, k, put::add); }
    if (channel) {
        weigh_no_decay(da_, len, 0);
        channel_gradients(len, da_, q, dq, T(1));
        if (n_.corrects) {
            weigh_no_decay(db_, len, 1);
            channel_gradients(len, db_, k, later, T(-1));
        }
    } else {
        weigh(da_, len, 0);
        mix(da_, k, dq, put::add, false);
        mix(da_, q, dk, put::add, true);
        if (n_.corrects) {
            weigh(db_, len, 1);
            mix(db_, k, dk, put::subtract, false);
            mix(db_, k, dk, put::subtract, true);
        }
    }
    if (n_.decays != decay_kind::none) { decay_gradients(len); }
    if (channel && n_.corrects) {
        each(len, [&](extent_t at, extent_t) { (V::load(dk + at) - V::load(later + at)).store(dk + at); });
    }
}
template <class T, class A>
void recurrent_chunk<T, A>::backward_of_queries(extent_t len) {
    product::run(len, wide, n_.columns, dout, vp, 1, state_turned, qp, dq, qp, put::write);
    product::run(n_.width, tall, len, q, 1, qp, dout, vp, x, vp, put::add);
}
template <class T, class A>
void recurrent_chunk<T, A>::backward_of_keys(extent_t len) {
    product::run(len, tall, n_.width, k, qp, 1, x, vp, h, vp, put::write);
    product::run(len, wide, n_.columns, u, vp, 1, x_turned, qp, dk, qp, put::write);
}
template <class T, class A>
void recurrent_chunk<T, A>::solve_back(extent_t len, T const* residual) {
    for (extent_t i = (len - 1) / substitute_rows * substitute_rows; i >= 0; i -= substitute_rows) {
        extent_t const rows = len - i < substitute_rows ? len - i : extent_t(substitute_rows), done = i + rows;
        if (done < len) { product::run(rows, tall, len - done, below + done * cp + i, 1, cp, h + done * vp, vp, h + i * vp, vp, put::subtract); }
        substitute_back<A>(below + i * cp + i, cp, rows, beta + i * vp, vp, tall, h + i * vp, residual + i * vp, dbeta + i * vp);
    }
}
template <class T, class A>
void recurrent_chunk<T, A>::weigh(T* a, extent_t len, extent_t strict) const {
    if (n_.decays == decay_kind::head) {
        weigh_rows<true>(a, len, strict);
    } else {
        weigh_rows<false>(a, len, strict);
    }
}
template <class T, class A>
void recurrent_chunk<T, A>::weigh_no_decay(T* a, extent_t len, extent_t strict) const { weigh_rows<false>(a, len, strict); }
template <class T, class A>
void recurrent_chunk<T, A>::clear(T* p, extent_t rows, extent_t p_pitch, extent_t width) {
    for (extent_t r = 0; r < rows; ++r) {
        for (extent_t c = 0; c < width; c += lanes) { V(0).store(p + r * p_pitch + c); }
    }
}
template <class T, class A>
void recurrent_chunk<T, A>::start_positions() {
    for (extent_t c = 0; c < wide; c += lanes) { V(-math::inf<V>()).store(peak + c); }
}
template <class T, class A>
void recurrent_chunk<T, A>::raise_peaks(extent_t len) {
    each(len, [&](extent_t at, extent_t t) { max(V::load(peak + at - t * qp), V::load(k + at)).store(peak + at - t * qp); });
}
template <class T, class A>
void recurrent_chunk<T, A>::weigh_positions(extent_t len) {
    each(len, [&](extent_t at, extent_t t) {
        extent_t const c = at - t * qp;
        V const w = exp(V::load(k + at) - V::load(peak + c));
        (c + lanes <= n_.width ? w : select(before(c, n_.width), w, V(0))).store(k + at);
    });
}
template <class T, class A>
void recurrent_chunk<T, A>::take_means(extent_t column) {
    for (extent_t r = 0; r < n_.width; ++r) {
        T* const row = state + r * vp;
        share[r] = row[column] == T(0) ? T(0) : T(1) / row[column]; // no key: the mean of nothing is 0
        for (extent_t c = 0; c < tall; c += lanes) { (V::load(row + c) * V(share[r])).store(row + c); }
    }
}
template <class T, class A>
void recurrent_chunk<T, A>::means_back(extent_t column) {
    for (extent_t r = 0; r < n_.width; ++r) {
        T *const row = x + r * vp, *const mean = state + r * vp;
        mean[column] = T(0), row[column] = T(0);
        V sum(0);
        for (extent_t c = 0; c < tall; c += lanes) {
            sum = fma(V::load(row + c), V::load(mean + c), sum);
            (V::load(row + c) * V(share[r])).store(row + c);
        }
        row[column] = -total_of(sum) * share[r];
    }
}

} // namespace heed
