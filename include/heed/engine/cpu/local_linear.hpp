// SPDX-License-Identifier: BSD-3-Clause
// Local regressions (mechanism/local_linear.hpp), forward: tiles of 64 queries against tiles of 64 keys, dense products of kernel/product_tile.hpp, weights relative to
// the largest of their row. What the tiles of both directions share is here; local_linear_backward.hpp has the gradients.
//
//   first sweep     largest score m, sum of weights, sum of weighted keys (regression) or, with r given, everything
//   conjugate gradients   S x = sum_j w_j z_j (z_j.x) + lambda x for all rows of the tile at once, one sweep a product; a row that has converged stands still
//   last sweep      sums of w_j (1 - z_j.rho) v_j and of their weights
//
// A tile of keys with a NaN or an infinity in it is multiplied row by row, each as far as it sees.
#pragma once

#include <heed/engine/cpu/parallel.hpp>
#include <heed/engine/workspace.hpp>
#include <heed/family/local_linear.hpp>
#include <heed/kernel/math.hpp>
#include <heed/kernel/pack.hpp>
#include <heed/kernel/product_tile.hpp>
#include <heed/kernel/row_ops.hpp>

#include <string_view>

namespace heed {

template <class E>
struct local_problem {
    tensor_view<E const> q, k, v; // (B, H, N, d), (B, G, M, d), (B, G, M, dv), H a multiple of G
    tensor_view<E> out;           // (B, H, N, dv)
};

template <class E, class A>
class local_tiles {
protected:
    using T = compute_t<E>;
    using V = vec<T, A>;
    using row = row_ops<T, A>;
    using product = product_tile<T, A>;
    using problem = local_problem<E>;
    using form = local_form<E>;
    static constexpr int lanes = V::lanes;
    static constexpr extent_t rows = 64, keys = 64;

    form m_;
    problem p_;
    extent_t dp_, vp_, b_ = 0, h_ = 0, g_ = 0, first_ = 0, count_ = 0, j0_ = 0, len_ = 0; // the tile of queries, that of keys
    bool finite_ = true;
    T *q_, *r_, *k_, *kt_, *v_, *s_, *t_, *o_, *o2_;       // rows; keys turned; weights, products with r; sums
    T *most_, *sum_, *along_, *ridge_, *qr_;               // a number a row: largest score (base 2), sum of weights, sum of weights times products, lambda, q.r
    T *x_, *rest_, *dir_, *image_, *norm_, *start_;        // of the system: solution, residual, direction, S direction; squared lengths

    local_tiles(form const& m, problem const& p, arena& room) : m_(m), p_(p), dp_(row::padded(p.q.extent(3))), vp_(row::padded(p.v.extent(3))) {
        auto const take = [&](extent_t n) { return room.take<T>(n); };
        q_ = take(rows * dp_), r_ = take(rows * dp_), k_ = take(keys * dp_), kt_ = take(dp_ * keys), v_ = take(keys * vp_), s_ = take(rows * keys), t_ = take(rows * keys), o_ = take(rows * vp_),
        o2_ = take(rows * vp_);
        for (T** to : {&most_, &sum_, &along_, &ridge_, &qr_, &norm_, &start_}) { *to = take(rows); }
        extent_t const n = m.solves() ? rows * dp_ : 0;
        x_ = m.solves() ? r_ : nullptr, rest_ = take(n), dir_ = take(n), image_ = take(n);
    }

    static T total(V x) {
        T part[lanes], sum(0);
        x.store(part);
        for (int l = 0; l < lanes; ++l) { sum += part[l]; }
        return sum;
    }
    static T dot(T const* x, T const* y, extent_t n) {
        V sum(0);
        for (extent_t e = 0; e < n; e += lanes) { sum = fma(V::load(x + e), V::load(y + e), sum); }
        return total(sum);
    }
    // Rows, zeros behind them. Returns whether all is finite.
    static bool read(tensor_view<E const> const& x, extent_t b, extent_t h, extent_t first, extent_t count, T* to, extent_t pitch) {
        pack_rows<A>(x.row(b, h, first), x.stride(2), x.stride(3), count, x.extent(3), to, pitch);
        V poison(0);
        for (extent_t t = 0; t < count; ++t) {
            for (extent_t e = x.extent(3); e < pitch; ++e) { to[t * pitch + e] = T(0); }
            for (extent_t e = 0; e < pitch; e += lanes) { poison = fma(V::load(to + t * pitch + e), V(0), poison); }
        }
        return all(poison == V(0));
    }
    static void clear(T* x, extent_t n) { row::clear(x, n); }

    extent_t key_count() const { return p_.k.length(b_); }
    // How many keys row i of the tile sees, of all and of the tile's.
    extent_t seen(extent_t i) const {
        extent_t const m = key_count(), last = first_ + i + 1 + m - p_.q.length(b_);
        return !m_.causal ? m : last < 0 ? 0 : last < m ? last : m;
    }
    extent_t seen_here(extent_t i) const {
        extent_t const n = seen(i) - j0_;
        return n < 0 ? 0 : n < len_ ? n : len_;
    }
    void start(extent_t b, extent_t h, extent_t first, extent_t count) {
        b_ = b, h_ = h, g_ = h / (p_.q.extent(1) / p_.k.extent(1)), first_ = first, count_ = count;
        read(p_.q, b, h, first, count, q_, dp_);
        if (!m_.solves()) { read(m_.r, b, h, first, count, r_, dp_); }
    }
    // f() for every tile of keys that some row sees; its rows and their turned copy are in place, values too if asked for
    template <class F>
    void sweep(bool values, F const& f) {
        extent_t const end = count_ == 0 ? 0 : seen(count_ - 1);
        for (j0_ = 0; j0_ < end; j0_ += keys) {
            len_ = end - j0_ < keys ? end - j0_ : keys;
            finite_ = read(p_.k, b_, g_, j0_, len_, k_, dp_);
            if (values) { finite_ &= read(p_.v, b_, g_, j0_, len_, v_, vp_); }
            pack_transposed<A>(k_, dp_, extent_t(1), len_, p_.k.extent(3), kt_, keys, row::padded(len_));
            f();
        }
    }
    // to = x k^T
    void times_keys(T const* x, T* to) const { product::run(count_, row::padded(len_), p_.k.extent(3), x, dp_, 1, kt_, keys, to, keys, put::write); }
    // to += w y, w a tile of pairs, y rows of keys
    void add_rows(T const* w, T const* y, extent_t pitch, T* to) const {
        if (finite_) {
            product::run(count_, pitch, len_, w, keys, 1, y, pitch, to, pitch, put::add);
            return;
        }
        for (extent_t i = 0; i < count_; ++i) { product::run(1, pitch, seen_here(i), w + i * keys, keys, 1, y, pitch, to + i * pitch, pitch, put::add); }
    }
    // f(i, offset, kept lanes) for registers of a tile of pairs
    template <class F>
    HEED_INLINE void pairs(F const& f) const {
        for (extent_t i = 0; i < count_; ++i) {
            extent_t const kept = seen_here(i);
            for (extent_t c = 0; c < row::padded(len_); c += lanes) { f(i, i * keys + c, mask_cast<V>(iota(c, std::type_identity<index_of<V>>{}) < index_of<V>(kept))); }
        }
    }
    // Scores in units of base 2, -inf where a row does not see; then, with the row's largest known, weights.
    void scores() {
        times_keys(q_, s_);
        V const by(m_.scale * T(math::log2e));
        pairs([&](extent_t, extent_t at, auto kept) HEED_INLINE_LAMBDA { select(kept, V::load(s_ + at) * by, V(-math::inf<V>())).store(s_ + at); });
    }
    void weights() {
        scores();
        pairs([&](extent_t i, extent_t at, auto) HEED_INLINE_LAMBDA { weight(V::load(s_ + at), most_[i]).store(s_ + at); });
    }
    static V weight(V s, T most) { return most == -math::inf<T>() ? V(0) : fast_exp2(s - V(most)); }
    // The largest scores grow; sums of weights and `sums` are brought to them.
    void raise(T* sums, extent_t pitch, T* others, extent_t other_pitch) {
        scores();
        for (extent_t i = 0; i < count_; ++i) {
            V top(-math::inf<V>());
            T part[lanes], most = most_[i];
            for (extent_t c = 0; c < row::padded(len_); c += lanes) { top = max(top, V::load(s_ + i * keys + c)); }
            top.store(part);
            for (int l = 0; l < lanes; ++l) { most = part[l] > most ? part[l] : most; }
            if (most > most_[i]) {
                T const by = most_[i] == -math::inf<T>() ? T(0) : exp2_of(most_[i] - most);
                most_[i] = most, sum_[i] *= by, along_[i] *= by;
                row::scale(sums + i * pitch, by, pitch);
                if (others != nullptr) { row::scale(others + i * other_pitch, by, other_pitch); }
            }
            V sum(0);
            for (extent_t c = 0; c < row::padded(len_); c += lanes) {
                V const w = weight(V::load(s_ + i * keys + c), most_[i]);
                w.store(s_ + i * keys + c);
                sum = sum + w;
            }
            sum_[i] += total(sum);
        }
    }
    static T exp2_of(T x) {
        T part[lanes];
        fast_exp2(V(x)).store(part);
        return part[0];
    }
    void start_sums() {
        for (extent_t i = 0; i < count_; ++i) { most_[i] = -math::inf<T>(), sum_[i] = along_[i] = T(0); }
    }
    // Largest scores, sums of weights, mu into rest_; lambda of each row beside its weights.
    void moments() {
        start_sums();
        clear(rest_, count_ * dp_);
        sweep(false, [&] {
            raise(rest_, dp_, nullptr, 0);
            add_rows(s_, k_, dp_, rest_);
        });
        T const far = sizeof(T) == 4 ? T(1e30) : T(1e200);
        for (extent_t i = 0; i < count_; ++i) {
            row::add(q_ + i * dp_, -sum_[i], rest_ + i * dp_, dp_);
            T const by = m_.relative || most_[i] == -math::inf<T>() ? T(1) : math::fast_exp2(-most_[i]);
            ridge_[i] = m_.lambda * by < far ? m_.lambda * by : far;
        }
    }
    // x_ = S^-1 rest_ for every row; rest_ is used up.
    void solve(T* x) {
        clear(x, count_ * dp_);
        for (extent_t i = 0; i < count_; ++i) {
            for (extent_t e = 0; e < dp_; e += lanes) { V::load(rest_ + i * dp_ + e).store(dir_ + i * dp_ + e); }
            start_[i] = norm_[i] = dot(rest_ + i * dp_, rest_ + i * dp_, dp_);
        }
        T const small = sizeof(T) == 4 ? T(0x1p-42) : T(0x1p-100); // squared
        for (extent_t step = 0, most = 2 * p_.q.extent(3) + 8; step < most; ++step) {
            bool open = false;
            for (extent_t i = 0; i < count_; ++i) { open = open || norm_[i] > small * start_[i]; }
            if (!open) { return; }
            image();
            for (extent_t i = 0; i < count_; ++i) {
                if (!(norm_[i] > small * start_[i])) { continue; }
                T *const d = dir_ + i * dp_, *const r = rest_ + i * dp_;
                T const curve = dot(d, image_ + i * dp_, dp_);
                if (!(curve > T(0))) { // nothing left that S sees, or a NaN
                    if (curve != curve) { row::scale(x + i * dp_, curve, dp_); }
                    norm_[i] = T(0);
                    continue;
                }
                T const by = norm_[i] / curve;
                row::add(d, by, x + i * dp_, dp_), row::add(image_ + i * dp_, -by, r, dp_);
                T const left = dot(r, r, dp_), on = left / norm_[i];
                for (extent_t e = 0; e < dp_; e += lanes) { fma(V(on), V::load(d + e), V::load(r + e)).store(d + e); }
                norm_[i] = left;
            }
        }
    }
    // image_ = S dir_
    void image() {
        clear(image_, count_ * dp_);
        for (extent_t i = 0; i < count_; ++i) { qr_[i] = dot(q_ + i * dp_, dir_ + i * dp_, dp_), along_[i] = T(0); }
        sweep(false, [&] {
            weights();
            times_keys(dir_, t_);
            weighted(t_, along_, [&](extent_t i, extent_t c) HEED_INLINE_LAMBDA { return V::load(s_ + c) * (V::load(t_ + c) - V(qr_[i])); });
            add_rows(t_, k_, dp_, image_);
        });
        for (extent_t i = 0; i < count_; ++i) { row::add(q_ + i * dp_, -along_[i], image_ + i * dp_, dp_), row::add(dir_ + i * dp_, ridge_[i], image_ + i * dp_, dp_); }
    }
    // t_ = 1 - z.x
    void heights(T const* x) {
        times_keys(x, t_);
        for (extent_t i = 0; i < count_; ++i) {
            for (extent_t c = i * keys; c < i * keys + row::padded(len_); c += lanes) { (V(T(1) + qr_[i]) - V::load(t_ + c)).store(t_ + c); }
        }
    }
    // to = f(a register's offset), where the weight is 0 exactly 0, whatever f says there; totals of rows are added to sums where given
    template <class F>
    HEED_INLINE void weighted(T* to, T* sums, F const& f) const {
        for (extent_t i = 0; i < count_; ++i) {
            V sum(0);
            for (extent_t c = i * keys; c < i * keys + row::padded(len_); c += lanes) {
                V const y = select(V::load(s_ + c) == V(0), V(0), f(i, c));
                y.store(to + c);
                sum = sum + y;
            }
            if (sums != nullptr) { sums[i] += total(sum); }
        }
    }
    void weigh_products(T* sums) {
        weighted(t_, sums, [&](extent_t, extent_t c) HEED_INLINE_LAMBDA { return V::load(s_ + c) * V::load(t_ + c); });
    }
    void products_with_solution(T const* x) {
        for (extent_t i = 0; i < count_; ++i) { qr_[i] = dot(q_ + i * dp_, x + i * dp_, dp_); }
    }
};

template <class E, class A>
class local_linear_forward : local_tiles<E, A> {
    using base = local_tiles<E, A>;
    using typename base::form;
    using typename base::problem;
    using typename base::row;
    using typename base::T;
    using typename base::V;

    local_linear_forward(form const& m, problem const& p, arena& room) : base(m, p, room) {}

public:
    static constexpr std::string_view name = "local regressions";
    static std::size_t slot_bytes(form const& m, problem const& p) {
        arena count(nullptr);
        local_linear_forward const one(m, p, count);
        return count.bytes();
    }
    static extent_t tiles(problem const& p) { return (p.q.extent(2) + base::rows - 1) / base::rows; }
    static extent_t items(problem const& p) { return p.q.extent(0) * p.q.extent(1) * tiles(p); }
    template <class X>
    static void run(form const& m, problem const& p, X& executor, int slots, std::byte* workspace) {
        std::byte* const at = aligned(workspace);
        std::size_t const bytes = slot_bytes(m, p);
        detail::for_each_item<A>(executor, slots, items(p), [&](extent_t item, int slot) {
            arena room(at + static_cast<std::size_t>(slot) * bytes);
            local_linear_forward one(m, p, room);
            extent_t const head = item / tiles(p), first = item % tiles(p) * base::rows, b = head / p.q.extent(1), left = p.q.length(b) - first;
            if (left <= 0) { return; }
            one.start(b, head % p.q.extent(1), first, left < base::rows ? left : base::rows);
            m.solves() ? one.regression() : one.given();
            unpack_rows<A>(one.o_, one.vp_, one.count_, p.v.extent(3), p.out.row(b, head % p.q.extent(1), first), p.out.stride(2), p.out.stride(3));
        });
    }

private:
    void regression() {
        this->moments();
        this->solve(this->x_);
        this->products_with_solution(this->x_);
        base::clear(this->o_, this->count_ * this->vp_);
        for (extent_t i = 0; i < this->count_; ++i) { this->along_[i] = T(0); }
        this->sweep(true, [&] {
            this->weights();
            this->heights(this->x_);
            this->weigh_products(this->along_);
            this->add_rows(this->t_, this->v_, this->vp_, this->o_);
        });
        for (extent_t i = 0; i < this->count_; ++i) { row::scale(this->o_ + i * this->vp_, this->sum_[i] == T(0) ? T(0) : T(1) / this->along_[i], this->vp_); }
    }
    void given() {
        this->start_sums();
        base::clear(this->o_, this->count_ * this->vp_), base::clear(this->o2_, this->count_ * this->vp_);
        this->sweep(true, [&] {
            this->raise(this->o_, this->vp_, this->o2_, this->vp_);
            this->times_keys(this->r_, this->t_);
            this->weigh_products(this->along_);
            this->add_rows(this->s_, this->v_, this->vp_, this->o_), this->add_rows(this->t_, this->v_, this->vp_, this->o2_);
        });
        for (extent_t i = 0; i < this->count_; ++i) {
            T const by = this->sum_[i] == T(0) ? T(0) : T(1) / this->sum_[i];
            row::scale(this->o_ + i * this->vp_, by * (T(1) + by * this->along_[i]), this->vp_);
            row::add(this->o2_ + i * this->vp_, -by, this->o_ + i * this->vp_, this->vp_);
        }
    }
};

} // namespace heed
